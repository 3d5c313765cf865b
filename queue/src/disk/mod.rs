//! What the spool asks of a disk, and the one real disk that carries it out.
//!
//! Recovery, maintenance and the slow half of the writer speak to [`Disk`] only, so that a simulated disk that tears,
//! reorders, fills up and fails can stand in for a real one. All operations block.

mod file;

use std::io;
use std::sync::Arc;

pub use file::FileDisk;

use crate::body::BodyOwner;
use crate::limits::{BATCH_MAX, BLOCK};

/// How the space of a new segment file is made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Zeros are written and flushed: a later write touches data only.
    Written,
    /// Blocks are reserved and no more: quick, but every first write to them changes metadata too.
    Allocated,
}

/// Room on the file system that holds the spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes that an ordinary process may still use.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// A directory of numbered segment files of fixed length. Offsets and lengths of reads and writes are multiples of
/// [`BLOCK`].
pub trait Disk: Send + Sync {
    /// All slots with their length in bytes. Leftovers of an interrupted creation are removed, never listed.
    fn list(&self) -> io::Result<Vec<(u32, u64)>>;
    /// Makes a slot of `len` bytes that starts with `first`; durable, with its directory entry, when this returns.
    /// Either the whole slot is there afterwards, also after a crash, or none of it.
    fn create(&self, slot: u32, len: u64, first: &[u8], space: Space) -> io::Result<()>;
    /// Fills `out` from `offset`.
    fn read_at(&self, slot: u32, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`; with `sync` they are durable when this returns.
    fn write_at(&self, slot: u32, offset: u64, bytes: &[u8], sync: bool) -> io::Result<()>;
    /// Makes everything written to the slot durable.
    fn sync(&self, slot: u32) -> io::Result<()>;
    /// Removes the slot for good.
    fn remove(&self, slot: u32) -> io::Result<()>;
    /// Takes the slot out of use but keeps its bytes for a person to look at.
    fn set_aside(&self, slot: u32, reason: &str) -> io::Result<String>;
    /// Keeps `bytes` found at `offset` of a slot for a person to look at, with the reason. Returns the place.
    fn keep_damaged(&self, slot: u32, offset: u64, bytes: &[u8], reason: &str) -> io::Result<String>;
    /// Room left.
    fn room(&self) -> io::Result<Room>;
    /// The slot mapped for reading, when this disk can map.
    fn map(&self, slot: u32) -> Option<io::Result<Arc<Map>>>;
    /// Drops what the kernel keeps of the slot in memory. True when nothing is left there.
    fn forget_cache(&self, slot: u32) -> io::Result<bool>;
    /// Whether writes go past the page cache; in words why not, and what to do about it.
    fn direct(&self) -> Result<(), String>;
    /// The open file of the slot, for the ring.
    fn file(&self, slot: u32) -> Option<io::Result<Arc<std::fs::File>>>;
}

/// A whole segment mapped for reading. Never made of a file that is still written.
pub struct Map(crate::sys::FileMap);

impl Map {
    /// Brings the pages of a range into memory, so that reading them later does not wait for the disk.
    pub fn populate(&self, offset: usize, len: usize) -> io::Result<()> {
        self.0.populate(offset, len)
    }
}

impl BodyOwner for Map {
    fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// One aligned buffer of the writer: as large as a batch may be, and fit for O_DIRECT.
pub struct Buffer {
    /// Its place among the buffers registered with the ring.
    pub index: u16,
    bytes: rkyv::util::AlignedVec<BLOCK>,
}

impl Buffer {
    /// `count` buffers of [`BATCH_MAX`] bytes.
    #[must_use]
    pub fn pool(count: u16) -> Vec<Self> {
        (0..count).map(|index| Self { index, bytes: aligned(BATCH_MAX) }).collect()
    }

    /// All of its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All of its bytes, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// `len` zero bytes at an address fit for O_DIRECT.
#[must_use]
pub fn aligned(len: usize) -> rkyv::util::AlignedVec<BLOCK> {
    let mut bytes = rkyv::util::AlignedVec::with_capacity(len);
    bytes.resize(len, 0);
    bytes
}
