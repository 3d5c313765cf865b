//! The archive the kernel unpacks into its first root: cpio, format "newc".
//!
//! Header: the magic `070701` and 13 numbers of 8 hexadecimal digits, then the name with its zero, then the data, each
//! padded to 4 bytes (`Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel). Everything belongs
//! to root and carries one time, so that equal content gives equal bytes. Never compresses.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive being written.
#[derive(Debug)]
pub struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    inode: u32,
    time: u32,
}

impl Archive {
    /// An empty archive whose entries all carry `time`, in seconds since 1970.
    pub fn new(time: u32) -> Archive {
        Archive { bytes: Vec::new(), folders: BTreeSet::new(), inode: 1, time }
    }

    /// A folder, with its parents; a second time is no error.
    pub fn folder(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || !self.folders.insert(path.to_string()) {
            return;
        }
        self.parents(path);
        self.entry(path, DIRECTORY | 0o755, &[]);
    }

    /// A file with `mode` permissions, for instance `0o755`.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        let path = path.trim_matches('/');
        self.parents(path);
        self.entry(path, REGULAR | (mode & 0o7777), data);
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        let path = path.trim_matches('/');
        self.parents(path);
        self.entry(path, SYMLINK | 0o777, target.as_bytes());
    }

    /// The whole archive, padded to 512 bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.time = 0;
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        let size = data.len() as u32;
        let numbers = [
            self.inode,
            mode,
            0, // uid
            0, // gid
            links,
            self.time,
            size,
            0, // device of the file system, major and minor
            0,
            0, // device the entry stands for, major and minor
            0,
            name.len() as u32 + 1,
            0, // checksum, unused in this format
        ];
        self.bytes.extend_from_slice(b"070701");
        for number in numbers {
            self.bytes.extend_from_slice(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
        self.inode = self.inode.wrapping_add(1);
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, modes and data, read back by the format's own rules.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        while bytes.starts_with(b"070701") {
            let number = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + n * 8..14 + n * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap() as usize
            };
            let (mode, size, name) = (number(1), number(6), number(11));
            let data = (110 + name).next_multiple_of(4);
            let text = String::from_utf8(bytes[110..110 + name - 1].to_vec()).unwrap();
            entries.push((text, mode as u32, bytes[data..data + size].to_vec()));
            bytes = &bytes[(data + size).next_multiple_of(4)..];
        }
        entries
    }

    #[test]
    fn entries_come_back_with_their_parents_first() {
        let mut archive = Archive::new(1);
        archive.file("/etc/a/b.conf", 0o644, b"hello");
        archive.file("init", 0o755, b"x");
        archive.link("bin/sh", "/init");
        archive.folder("etc");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 512, 0);
        let entries = read(&bytes);
        let names: Vec<&str> = entries.iter().map(|e| e.0.as_str()).collect();
        assert_eq!(names, ["etc", "etc/a", "etc/a/b.conf", "init", "bin", "bin/sh", "TRAILER!!!"]);
        assert_eq!(entries[2], ("etc/a/b.conf".into(), 0o100_644, b"hello".to_vec()));
        assert_eq!(entries[5], ("bin/sh".into(), 0o120_777, b"/init".to_vec()));
    }

    #[test]
    fn equal_content_gives_equal_bytes() {
        let make = |time| {
            let mut archive = Archive::new(time);
            archive.file("a", 0o644, b"1");
            archive.finish()
        };
        assert_eq!(make(5), make(5));
        assert_ne!(make(5), make(6));
    }
}
