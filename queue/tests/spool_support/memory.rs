//! A disk in memory that can be copied at any moment, damaged, and told to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use queue::disk::{Disk, Map, Room, Space};

#[derive(Clone, Default)]
pub struct Platter {
    pub slots: BTreeMap<u32, Vec<u8>>,
    /// Blocks (slot, offset / 4096) that can't be read.
    pub unreadable: BTreeSet<(u32, u64)>,
    pub kept: Vec<(u32, u64, usize, String)>,
    pub set_aside: Vec<(u32, String)>,
    /// From this many more writes on, every write to batches fails, though the bytes arrive.
    pub fail_after: Option<u32>,
    /// How many writes fail then.
    pub failures: u32,
    /// Superblock writes fail too.
    pub fail_superblocks: bool,
    /// Creating a segment fails.
    pub full: bool,
    /// Offsets of writes, with their slot and whether the write was reported as failed.
    pub log: Vec<(u32, u64, bool)>,
}

/// Cloning it gives the same disk; [`MemoryDisk::snapshot`] gives a copy.
#[derive(Clone, Default)]
pub struct MemoryDisk(pub Arc<Mutex<Platter>>);

impl MemoryDisk {
    pub fn snapshot(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().unwrap().clone())))
    }

    pub fn with<R>(&self, work: impl FnOnce(&mut Platter) -> R) -> R {
        work(&mut self.0.lock().unwrap())
    }

    pub fn flip(&self, slot: u32, offset: u64) {
        self.with(|platter| platter.slots.get_mut(&slot).unwrap()[offset as usize] ^= 0x40);
    }
}

fn missing() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl Disk for MemoryDisk {
    fn list(&self) -> io::Result<Vec<(u32, u64)>> {
        Ok(self.with(|platter| platter.slots.iter().map(|(slot, bytes)| (*slot, bytes.len() as u64)).collect()))
    }

    fn create(&self, slot: u32, len: u64, first: &[u8], _space: Space) -> io::Result<()> {
        self.with(|platter| {
            if platter.full {
                return Err(io::Error::from_raw_os_error(28));
            }
            let mut bytes = vec![0; len as usize];
            bytes[..first.len()].copy_from_slice(first);
            platter.slots.insert(slot, bytes);
            Ok(())
        })
    }

    fn read_at(&self, slot: u32, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|platter| {
            let first = offset / 4096;
            let last = (offset + out.len() as u64).div_ceil(4096);
            if (first..last).any(|block| platter.unreadable.contains(&(slot, block))) {
                return Err(io::Error::from_raw_os_error(5));
            }
            let bytes = platter.slots.get(&slot).ok_or_else(missing)?;
            let part = bytes.get(offset as usize..offset as usize + out.len());
            out.copy_from_slice(part.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
            Ok(())
        })
    }

    fn write_at(&self, slot: u32, offset: u64, bytes: &[u8], _sync: bool) -> io::Result<()> {
        self.with(|platter| {
            let all = platter.slots.get_mut(&slot).ok_or_else(missing)?;
            all[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
            let counts = offset >= 8192 || platter.fail_superblocks;
            let fails = match platter.fail_after.as_mut() {
                Some(0) if counts && platter.failures > 0 => {
                    platter.failures -= 1;
                    true
                }
                Some(left) if counts => {
                    *left = left.saturating_sub(1);
                    false
                }
                _ => false,
            };
            platter.log.push((slot, offset, fails));
            if fails {
                Err(io::Error::from_raw_os_error(5))
            } else {
                Ok(())
            }
        })
    }

    fn sync(&self, _slot: u32) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, slot: u32) -> io::Result<()> {
        self.with(|platter| platter.slots.remove(&slot).map(|_| ()).ok_or_else(missing))
    }

    fn set_aside(&self, slot: u32, reason: &str) -> io::Result<String> {
        self.with(|platter| {
            platter.slots.remove(&slot);
            platter.set_aside.push((slot, reason.to_owned()));
        });
        Ok("aside".into())
    }

    fn keep_damaged(&self, slot: u32, offset: u64, bytes: &[u8], reason: &str) -> io::Result<String> {
        self.with(|platter| platter.kept.push((slot, offset, bytes.len(), reason.to_owned())));
        Ok("kept".into())
    }

    fn room(&self) -> io::Result<Room> {
        let free = if self.with(|platter| platter.full) { 0 } else { 1 << 40 };
        Ok(Room { free, total: 1 << 40 })
    }

    fn map(&self, _slot: u32) -> Option<io::Result<Arc<Map>>> {
        None
    }

    fn forget_cache(&self, _slot: u32) -> io::Result<bool> {
        Ok(true)
    }

    fn direct(&self) -> Result<(), String> {
        Err("memory has no O_DIRECT".into())
    }

    fn file(&self, _slot: u32) -> Option<io::Result<Arc<std::fs::File>>> {
        None
    }
}
