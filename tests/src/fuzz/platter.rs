//! A disk in memory, for spools that are damaged and opened again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use queue::disk::{Disk, Map, Room, Space};

const BLOCK: u64 = queue::limits::BLOCK as u64;

/// What is on it.
#[derive(Clone, Default)]
pub(super) struct Content {
    pub slots: BTreeMap<u32, Vec<u8>>,
    /// Blocks (slot, number) that can't be read.
    pub unreadable: BTreeSet<(u32, u64)>,
    /// Slots set aside by recovery.
    pub aside: Vec<u32>,
}

/// The disk.
#[derive(Default)]
pub(super) struct Platter(Mutex<Content>);

impl Platter {
    pub(super) fn new(content: Content) -> Arc<Self> {
        Arc::new(Self(Mutex::new(content)))
    }

    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for Platter {
    fn list(&self) -> io::Result<Vec<(u32, u64)>> {
        Ok(self.content().slots.iter().map(|(slot, bytes)| (*slot, bytes.len() as u64)).collect())
    }

    fn create(&self, slot: u32, len: u64, first: &[u8], _: Space) -> io::Result<()> {
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        bytes.get_mut(..first.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(first);
        self.content().slots.insert(slot, bytes);
        Ok(())
    }

    fn read_at(&self, slot: u32, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = self.content();
        let blocks = offset / BLOCK..(offset + out.len() as u64).div_ceil(BLOCK);
        if content.unreadable.iter().any(|(bad, block)| *bad == slot && blocks.contains(block)) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let bytes = content.slots.get(&slot).ok_or_else(missing)?;
        let part = bytes.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, slot: u32, offset: u64, bytes: &[u8], _: bool) -> io::Result<()> {
        let mut content = self.content();
        let all = content.slots.get_mut(&slot).ok_or_else(missing)?;
        let part = all.get_mut(offset as usize..offset as usize + bytes.len());
        part.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, slot: u32) -> io::Result<()> {
        self.content().slots.remove(&slot).map(drop).ok_or_else(missing)
    }

    fn set_aside(&self, slot: u32, _: &str) -> io::Result<String> {
        let mut content = self.content();
        content.slots.remove(&slot);
        content.aside.push(slot);
        Ok("aside".to_owned())
    }

    fn keep_damaged(&self, _: u32, _: u64, _: &[u8], _: &str) -> io::Result<String> {
        Ok("kept".to_owned())
    }

    fn room(&self) -> io::Result<Room> {
        Ok(Room { free: 1 << 40, total: 1 << 40 })
    }

    fn map(&self, _: u32) -> Option<io::Result<Arc<Map>>> {
        None
    }

    fn forget_cache(&self, _: u32) -> io::Result<bool> {
        Ok(true)
    }

    fn direct(&self) -> Result<(), String> {
        Err("memory has no O_DIRECT".to_owned())
    }

    fn file(&self, _: u32) -> Option<io::Result<Arc<std::fs::File>>> {
        None
    }
}
