//! What the ack log asks of a disk: a folder of files. The real one is [`DirStore`]; the simulator brings its own.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A folder of files. Names come, go and change durably with each call; bytes are durable after `sync`.
pub trait LogStore {
    /// The names of all files.
    ///
    /// # Errors
    /// What the disk said; so for all others.
    fn list(&mut self) -> io::Result<Vec<String>>;
    /// All bytes of a file.
    #[allow(missing_docs, clippy::missing_errors_doc)]
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>>;
    /// Makes a file of `len` zero bytes whose space is reserved: writing within it can't fail for want of room.
    #[allow(clippy::missing_errors_doc)]
    fn create(&mut self, name: &str, len: u64) -> io::Result<()>;
    /// Writes within a file.
    #[allow(clippy::missing_errors_doc)]
    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Returns when all bytes of a file are durable.
    #[allow(clippy::missing_errors_doc)]
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Gives a file another name, replacing one that has it.
    #[allow(clippy::missing_errors_doc)]
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Takes a file away.
    #[allow(clippy::missing_errors_doc)]
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Gives a small file a new content, all or nothing.
    ///
    /// # Errors
    /// What the disk said; the old content stands.
    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}.new");
        self.create(&temporary, bytes.len() as u64)?;
        self.write(&temporary, 0, bytes)?;
        self.sync(&temporary)?;
        self.rename(&temporary, name)
    }
}

/// A folder of the file system.
#[derive(Debug)]
pub struct DirStore {
    path: PathBuf,
    dir: File,
    open: BTreeMap<String, File>,
}

impl DirStore {
    /// Opens a folder, making it when it is missing.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self { path: path.to_owned(), dir: File::open(path)?, open: BTreeMap::new() })
    }

    fn file(&mut self, name: &str) -> io::Result<&File> {
        if !self.open.contains_key(name) {
            let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
            self.open.insert(name.to_owned(), file);
        }
        self.open.get(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl LogStore for DirStore {
    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for file in fs::read_dir(&self.path)? {
            let file = file?;
            if file.file_type()?.is_file() {
                names.extend(file.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path.join(name))
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        self.open.remove(name);
        let path = self.path.join(name);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        // Not fallocate: written blocks are the only reservation that holds on every file system, and they spare each
        // sync the change of an unwritten extent.
        let zeros = vec![0; 256 * 1024];
        let mut left = len;
        while left > 0 {
            let count = left.min(zeros.len() as u64) as usize;
            file.write_all(&zeros[..count])?;
            left -= count as u64;
        }
        file.sync_all()?;
        self.dir.sync_all()?;
        self.open.insert(name.to_owned(), file);
        Ok(())
    }

    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all_at(bytes, offset)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.open.remove(to);
        self.open.remove(from);
        fs::rename(self.path.join(from), self.path.join(to))?;
        self.dir.sync_all()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open.remove(name);
        fs::remove_file(self.path.join(name))?;
        self.dir.sync_all()
    }
}
