//! What goes into an image: kernel, initramfs, programs, configuration; and the short way to boot it.
//!
//! [`direct`] yields kernel and initramfs for an emulator that loads them itself; [`crate::disk`] makes the bootable
//! disk. Equal inputs give equal bytes: one time for all, entries sorted by name, identifiers derived from content.

use crate::boot::{CONF, MODULES};
use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::modules::ModuleTree;
use anyhow::{bail, Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The time every file carries when none is given (2024-01-01).
pub const DEFAULT_TIME: u32 = 1_704_067_200;
/// Where the authorities' certificates are on the machine that composes and, without the slash, in the image. TLS to
/// hosts that prove who they are needs them.
pub const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Folders that the first process mounts on.
pub const MOUNT_POINTS: [&str; 8] = ["dev", "proc", "sys", "run", "tmp", "data", "etc", "bin"];

/// What to compose.
#[derive(Debug, Clone)]
pub struct Spec {
    /// An unpacked kernel ([`Kernel::find`]).
    pub kernel: PathBuf,
    /// The static `sysimage` that becomes process 1.
    pub init: PathBuf,
    /// Static programs, placed in `/bin` under their own names.
    pub programs: Vec<PathBuf>,
    /// Files and where they go, for instance the authorities' certificates.
    pub files: Vec<(PathBuf, String)>,
    /// A folder whose content is laid over `/`.
    pub tree: Option<PathBuf>,
    /// Text of `/etc/ringpost/boot.conf`; none keeps the one of `tree`.
    pub conf: Option<String>,
    /// Drivers wanted; those they need come along.
    pub drivers: Vec<String>,
    /// Seconds since 1970 that every file carries.
    pub time: u32,
}

/// One file of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path without a leading slash.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// Content.
    pub data: Vec<u8>,
}

/// Where a direct boot finds its two files.
#[derive(Debug, Clone)]
pub struct Direct {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The kernel's release.
    pub release: String,
}

/// Write `kernel` and `initramfs` into `out`; everything is in the initramfs, there is no root disk.
pub fn direct(spec: &Spec, out: &Path) -> Result<Direct> {
    let kernel = Kernel::find(&spec.kernel)?;
    fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    let made = Direct { kernel: out.join("kernel"), initramfs: out.join("initramfs"), release: kernel.release.clone() };
    fs::copy(&kernel.image, &made.kernel).with_context(|| format!("copy {}", kernel.image.display()))?;
    let mut archive = early(spec, &kernel)?;
    for entry in content(spec)? {
        archive.file(&entry.path, entry.mode, &entry.data);
    }
    fs::write(&made.initramfs, archive.finish()).with_context(|| format!("write {}", made.initramfs.display()))?;
    Ok(made)
}

/// The initramfs without the programs: process 1 and the drivers.
pub fn early(spec: &Spec, kernel: &Kernel) -> Result<Archive> {
    let mut archive = Archive::new(spec.time);
    for folder in MOUNT_POINTS {
        archive.folder(folder);
    }
    archive.file("init", 0o755, &static_program(&spec.init)?);
    let wanted: Vec<&str> = spec.drivers.iter().map(String::as_str).collect();
    let mut order = String::new();
    for (name, path) in ModuleTree::read(&kernel.modules)?.load_order(&wanted)? {
        let place = format!("lib/modules/{name}.ko");
        let module = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        archive.file(&place, 0o644, &module);
        order.push_str(&format!("/{place}\n"));
    }
    archive.file(MODULES, 0o644, order.as_bytes());
    Ok(archive)
}

/// Programs, tree and configuration, sorted by path, each path once; the last one given wins.
pub fn content(spec: &Spec) -> Result<Vec<Entry>> {
    let mut entries = std::collections::BTreeMap::new();
    let mut add = |entry: Entry| entries.insert(entry.path.clone(), entry);
    if let Some(tree) = &spec.tree {
        for entry in read_tree(tree)? {
            add(entry);
        }
    }
    for (from, to) in &spec.files {
        let data = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        add(Entry { path: to.trim_matches('/').to_string(), mode: 0o644, data });
    }
    for program in &spec.programs {
        let name = program.file_name().with_context(|| format!("{} is no file", program.display()))?;
        let path = format!("bin/{}", name.to_string_lossy());
        add(Entry { path, mode: 0o755, data: static_program(program)? });
    }
    if let Some(conf) = &spec.conf {
        crate::boot::conf::BootConf::parse(conf)?;
        let path = CONF.trim_start_matches('/').to_string();
        add(Entry { path, mode: 0o644, data: conf.clone().into_bytes() });
    }
    Ok(entries.into_values().collect())
}

/// Every regular file below `tree`. Links and devices are refused: the image holds neither.
fn read_tree(tree: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut open = vec![tree.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            if meta.is_dir() {
                open.push(path);
                continue;
            }
            if !meta.is_file() {
                bail!("{} is neither file nor folder", path.display());
            }
            let short = path.strip_prefix(tree)?.to_string_lossy().into_owned();
            let mode = if meta.permissions().mode() & 0o111 != 0 { 0o755 } else { 0o644 };
            entries.push(Entry { path: short, mode, data: fs::read(&path)? });
        }
    }
    Ok(entries)
}

/// A program's bytes; refused when it wants a loader that is not in the image.
pub fn static_program(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    match wants_loader(&bytes) {
        Some(false) => Ok(bytes),
        Some(true) => bail!(
            "{} is linked dynamically and the image has no loader; build it with \
             RUSTFLAGS='-C target-feature=+crt-static' --target x86_64-unknown-linux-gnu",
            path.display()
        ),
        None => bail!("{} is not a program for x86_64", path.display()),
    }
}

/// Whether a 64-bit ELF file has a PT_INTERP header; none when it is no such file.
fn wants_loader(elf: &[u8]) -> Option<bool> {
    const INTERPRETER: u32 = 3;
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let size = usize::from(u16::from_le_bytes(elf.get(54..56)?.try_into().ok()?));
    let count = usize::from(u16::from_le_bytes(elf.get(56..58)?.try_into().ok()?));
    for number in 0..count {
        let at = table.checked_add(number.checked_mul(size)?)?;
        let kind = elf.get(at..at.checked_add(4)?)?;
        if u32::from_le_bytes(kind.try_into().ok()?) == INTERPRETER {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_programs_are_told_from_static_ones() {
        let mut elf = vec![0u8; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 1;
        assert_eq!(wants_loader(&elf), Some(false));
        elf[64] = 3;
        assert_eq!(wants_loader(&elf), Some(true));
        assert_eq!(wants_loader(&elf[..60]), None);
        assert_eq!(wants_loader(b"#!/bin/sh"), None);
        elf[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(wants_loader(&elf), None);
    }

    #[test]
    fn content_is_sorted_and_the_given_conf_wins() {
        let tree = std::env::temp_dir().join(format!("sysimage-tree-{}", std::process::id()));
        fs::create_dir_all(tree.join("etc/ringpost")).unwrap();
        fs::write(tree.join("etc/ringpost/boot.conf"), "data = none\n").unwrap();
        fs::write(tree.join("etc/a"), "1").unwrap();
        let mut spec = Spec {
            kernel: PathBuf::new(),
            init: PathBuf::new(),
            programs: Vec::new(),
            files: vec![(tree.join("etc/a"), "/etc/b".into())],
            tree: Some(tree.clone()),
            conf: Some("hostname = x\n".into()),
            drivers: Vec::new(),
            time: 1,
        };
        let entries = content(&spec).unwrap();
        spec.conf = Some("walk = 1\n".into());
        let bad = content(&spec);
        fs::remove_dir_all(&tree).unwrap();
        let paths: Vec<_> = entries.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, ["etc/a", "etc/b", "etc/ringpost/boot.conf"]);
        assert_eq!(entries[2].data, b"hostname = x\n");
        assert!(bad.unwrap_err().to_string().contains("unknown key walk"));
    }
}
