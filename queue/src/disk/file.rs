//! The real disk: a directory of segment files, opened with O_DIRECT where the file system has it.
//!
//! A segment is made under the name `new-NNNN` and renamed when it is whole and durable, so a half-made one is told
//! by its name. O_DIRECT keeps the page cache empty; where it is missing (tmpfs, some overlays) the same calls go
//! through the cache with fdatasync.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{fallocate, posix_fadvise, FallocateFlags, PosixFadviseAdvice};

use super::{aligned, Disk, Map, Room, Space};
use crate::limits::{BATCH_MAX, BLOCK};

/// A directory of segment files.
pub struct FileDisk {
    dir: PathBuf,
    direct: Result<(), String>,
    files: Mutex<HashMap<u32, Arc<File>>>,
}

const DAMAGED: &str = "damaged";

impl FileDisk {
    /// Opens the directory, making it when missing, and finds out whether O_DIRECT works there.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let direct = probe_direct(dir);
        Ok(Self { dir: dir.to_owned(), direct, files: Mutex::new(HashMap::new()) })
    }

    fn path(&self, slot: u32) -> PathBuf {
        self.dir.join(format!("seg-{slot:04}"))
    }

    fn open_slot(&self, slot: u32) -> io::Result<Arc<File>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&slot) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(options(self.direct.is_ok()).open(self.path(slot))?);
        files.insert(slot, Arc::clone(&file));
        Ok(file)
    }

    fn close_slot(&self, slot: u32) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn fill(&self, path: &Path, len: u64, first: &[u8], space: Space) -> io::Result<()> {
        let file = options(self.direct.is_ok()).create_new(true).open(path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, len as i64) {
            Ok(()) => {}
            // A file system without it (some overlays): the zeros below reserve the space.
            Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS) if space == Space::Written => {}
            Err(error) => return Err(error.into()),
        }
        if space == Space::Written {
            let zeros = aligned(BATCH_MAX.min(len as usize));
            let mut at = 0;
            while at < len {
                let part = zeros.len().min((len - at) as usize);
                file.write_all_at(&zeros[..part], at)?;
                at += part as u64;
            }
        }
        let mut head = aligned(BLOCK * first.len().div_ceil(BLOCK));
        head[..first.len()].copy_from_slice(first);
        file.write_all_at(&head, 0)?;
        file.sync_all()
    }

    /// A name in `damaged/` that is not taken yet.
    fn damaged_path(&self, stem: &str) -> io::Result<PathBuf> {
        let dir = self.dir.join(DAMAGED);
        fs::create_dir_all(&dir)?;
        for count in 0..10_000 {
            let path = dir.join(format!("{stem}.{count}"));
            if !path.exists() {
                return Ok(path);
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "damaged/ holds 10000 copies of this place"))
    }
}

fn options(direct: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = libc::O_CLOEXEC | if direct { libc::O_DIRECT } else { 0 };
    options.read(true).write(true).mode(0o600).custom_flags(flags);
    options
}

/// Writes one block through O_DIRECT and reads it back.
fn probe_direct(dir: &Path) -> Result<(), String> {
    let path = dir.join("new-probe");
    let tried = || -> io::Result<()> {
        let file = options(true).create(true).truncate(true).open(&path)?;
        let mut block = aligned(BLOCK);
        block.fill(0x5a);
        file.write_all_at(&block, 0)?;
        let mut back = aligned(BLOCK);
        file.read_exact_at(&mut back, 0)?;
        if back[..] != block[..] {
            return Err(io::Error::other("what was written is not what is read"));
        }
        Ok(())
    };
    let result = tried();
    // A probe left behind is removed by the next listing.
    let _ = fs::remove_file(&path);
    result
        .map_err(|error| format!("O_DIRECT does not work in {} ({error}); put the spool on ext4 or xfs", dir.display()))
}

fn fit_for_direct(bytes: &[u8]) -> bool {
    (bytes.as_ptr() as usize).is_multiple_of(BLOCK)
}

impl Disk for FileDisk {
    fn list(&self) -> io::Result<Vec<(u32, u64)>> {
        let mut slots = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("new-") {
                fs::remove_file(entry.path())?;
            } else if let Some(slot) = name.strip_prefix("seg-").and_then(|digits| digits.parse().ok()) {
                slots.push((slot, entry.metadata()?.len()));
            }
        }
        slots.sort_unstable();
        Ok(slots)
    }

    fn create(&self, slot: u32, len: u64, first: &[u8], space: Space) -> io::Result<()> {
        let made = self.dir.join(format!("new-{slot:04}"));
        let result = self.fill(&made, len, first, space).and_then(|()| fs::rename(&made, self.path(slot)));
        if let Err(error) = result {
            // Not being able to remove the rest changes nothing: the next start does it.
            let _ = fs::remove_file(&made);
            return Err(error);
        }
        self.sync_dir()
    }

    fn read_at(&self, slot: u32, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let file = self.open_slot(slot)?;
        if self.direct.is_ok() && !fit_for_direct(out) {
            let mut bounce = aligned(out.len());
            file.read_exact_at(&mut bounce, offset)?;
            out.copy_from_slice(&bounce);
            return Ok(());
        }
        file.read_exact_at(out, offset)
    }

    fn write_at(&self, slot: u32, offset: u64, bytes: &[u8], sync: bool) -> io::Result<()> {
        let file = self.open_slot(slot)?;
        if self.direct.is_ok() && !fit_for_direct(bytes) {
            let mut bounce = aligned(bytes.len());
            bounce.copy_from_slice(bytes);
            file.write_all_at(&bounce, offset)?;
        } else {
            file.write_all_at(bytes, offset)?;
        }
        if sync {
            file.sync_data()?;
        }
        Ok(())
    }

    fn sync(&self, slot: u32) -> io::Result<()> {
        self.open_slot(slot)?.sync_data()
    }

    fn remove(&self, slot: u32) -> io::Result<()> {
        self.close_slot(slot);
        fs::remove_file(self.path(slot))?;
        self.sync_dir()
    }

    fn set_aside(&self, slot: u32, reason: &str) -> io::Result<String> {
        self.close_slot(slot);
        let path = self.damaged_path(&format!("seg-{slot:04}"))?;
        fs::rename(self.path(slot), &path)?;
        let mut why = path.clone().into_os_string();
        why.push(".why");
        fs::write(why, format!("slot {slot}, the whole file: {reason}\n"))?;
        self.sync_dir()?;
        Ok(path.display().to_string())
    }

    fn keep_damaged(&self, slot: u32, offset: u64, bytes: &[u8], reason: &str) -> io::Result<String> {
        let stem = format!("seg-{slot:04}-at-{offset}");
        let first = self.dir.join(DAMAGED).join(format!("{stem}.0"));
        // Found again at a later start: one copy is enough.
        if fs::read(&first).is_ok_and(|known| known == bytes) {
            return Ok(first.display().to_string());
        }
        let path = self.damaged_path(&stem)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        let mut why = path.clone().into_os_string();
        why.push(".why");
        fs::write(why, format!("slot {slot}, offset {offset}, {} bytes: {reason}\n", bytes.len()))?;
        Ok(path.display().to_string())
    }

    fn room(&self) -> io::Result<Room> {
        let stat = nix::sys::statvfs::statvfs(&self.dir)?;
        let unit = stat.fragment_size();
        Ok(Room { free: stat.blocks_available() * unit, total: stat.blocks() * unit })
    }

    fn map(&self, slot: u32) -> Option<io::Result<Arc<Map>>> {
        let mapped = self.open_slot(slot).and_then(|file| crate::sys::FileMap::new(&file));
        Some(mapped.map(|map| Arc::new(Map(map))))
    }

    fn forget_cache(&self, slot: u32) -> io::Result<bool> {
        let file = self.open_slot(slot)?;
        posix_fadvise(&*file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        Ok(crate::sys::FileMap::new(&file)?.resident_pages()? == 0)
    }

    fn direct(&self) -> Result<(), String> {
        self.direct.clone()
    }

    fn file(&self, slot: u32) -> Option<io::Result<Arc<File>>> {
        Some(self.open_slot(slot))
    }
}
