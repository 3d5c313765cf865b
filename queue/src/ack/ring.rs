//! The rings: where entries stand until they are on disk, beyond the death of the process.
//!
//! One file in tmpfs per shard, mapped shared by its single producer, the [`AckPort`]. Appending is two dozen stores
//! and no system call, no lock. The ledger thread reads the file (not the map) up to the published head and, when the
//! entries are durable, publishes that. After kill -9 whatever stands in the file with a valid checksum is replayed.
//! Pages are written once before the map is used: a full tmpfs is an error at the start, not a SIGBUS later.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapMut;

use super::entry::{AckEntry, AckKind, ENTRY};
use crate::UnixMillis;

/// Bytes before the first slot.
pub const RING_HEADER: usize = 4096;
/// Entries of a ring: 2 MiB, two seconds of a shard that decides 16 000 recipients a second.
pub const RING_ENTRIES: u32 = 65_536;
const MAGIC: &[u8; 8] = b"RPACKRNG";
const VERSION: u32 = 1;

/// Counts the entries of one port: an entry's number is the count with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AckSeq(pub u64);

/// Why an entry can't be taken: delivery must stop. Disk or we are to blame, never the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AckStop {
    /// The disk took the last entries not; it is tried again with every sync.
    #[error("the ack log can't be written")]
    Disk,
    /// The ring is full: the ledger thread is late.
    #[error("the ack ring is full: the disk is too slow")]
    Full,
}

/// Where rings are kept.
#[derive(Clone, Debug)]
pub enum Rings {
    /// A folder in tmpfs.
    Dir(PathBuf),
    /// Memory of this process, for tests and the simulator: outlives a process that is only simulated.
    Memory(MemoryRings),
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Rings {
    fn from(dir: &P) -> Self {
        Self::Dir(dir.as_ref().to_owned())
    }
}

type Bytes = Arc<Mutex<Vec<u8>>>;

/// Rings by file name.
#[derive(Clone, Debug, Default)]
pub struct MemoryRings(Arc<Mutex<BTreeMap<String, Bytes>>>);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryRings {
    /// What a power cut does to tmpfs.
    pub fn clear(&self) {
        lock(&self.0).clear();
    }

    /// A copy that further appends do not change.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        let copy = |(name, bytes): (&String, &Bytes)| (name.clone(), Arc::new(Mutex::new(lock(bytes).clone())));
        Self(Arc::new(Mutex::new(lock(&self.0).iter().map(copy).collect())))
    }

    /// Changes the bytes of each ring in turn, as a death in the midst of an append does.
    pub fn damage(&self, mut change: impl FnMut(&str, &mut [u8])) {
        for (name, bytes) in lock(&self.0).iter() {
            change(name, &mut lock(bytes));
        }
    }
}

/// The producer's sight of a ring.
#[derive(Debug)]
enum Slots {
    Mapped(MmapMut),
    Memory(Bytes),
}

/// The reader's sight of a ring.
#[derive(Debug)]
enum Source {
    File(File),
    Memory(Bytes),
}

impl Source {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(out, offset),
            Self::Memory(bytes) => {
                let bytes = lock(bytes);
                let part = bytes.get(offset as usize..offset as usize + out.len());
                out.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

/// What producer and ledger tell each other.
#[derive(Debug, Default)]
pub(super) struct Shared {
    head: AtomicU64,
    durable: AtomicU64,
    /// Of the log, not of the ring: the same for all ports.
    pub(super) health: Arc<Health>,
}

/// State of the log as ports see it.
#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) stopped: AtomicBool,
    pub(super) synced: AtomicU64,
}

/// Identity of a ring: whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingId {
    /// Of the spool.
    pub identity: u128,
    /// Of the process: rises with every start.
    pub epoch: u64,
    /// The shard.
    pub port: u16,
}

impl RingId {
    fn header(&self, entries: u32) -> [u8; 48] {
        let mut bytes = [0; 48];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&entries.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.identity.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[40..42].copy_from_slice(&self.port.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..44]);
        bytes[44..48].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Ties an entry's checksum to this ring.
    #[must_use]
    pub fn salt(&self) -> u32 {
        crc32c::crc32c(&self.header(0)[16..42])
    }

    /// Reads the header of a ring; with the number of its slots.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<(Self, u32)> {
        let head: &[u8; 48] = bytes.get(..48)?.try_into().ok()?;
        let entries = u32::from_le_bytes(head[12..16].try_into().ok()?);
        let id = Self {
            identity: u128::from_le_bytes(head[16..32].try_into().ok()?),
            epoch: u64::from_le_bytes(head[32..40].try_into().ok()?),
            port: u16::from_le_bytes(head[40..42].try_into().ok()?),
        };
        (id.header(entries) == *head && entries > 0).then_some((id, entries))
    }

    fn file(&self) -> String {
        format!("ring-{:016x}-{:04x}", self.epoch, self.port)
    }
}

/// The epoch in a ring's file name; `None` for other files.
#[must_use]
pub fn epoch_of_name(name: &str) -> Option<u64> {
    let (epoch, port) = name.strip_prefix("ring-")?.split_once('-')?;
    u16::from_str_radix(port, 16).ok()?;
    u64::from_str_radix(epoch, 16).ok()
}

/// Writes `entry` as number `head` (from 0) into the slots, which are `bytes` without the header.
pub fn write_slot(bytes: &mut [u8], salt: u32, head: u64, entry: &AckEntry) {
    let slots = (bytes.len() / ENTRY) as u64;
    let at = (head % slots) as usize * ENTRY;
    bytes[at..at + ENTRY].copy_from_slice(&entry.encode(head as u32, salt));
}

/// What stands in the slots of a ring.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RingContent {
    /// The valid entries, oldest first.
    pub entries: Vec<AckEntry>,
    /// Slots that hold something that is no entry. One is what kill -9 in the midst of an append leaves (nobody was
    /// told of that entry); more are damage.
    pub torn: usize,
}

/// Reads all slots of a ring.
#[must_use]
pub fn read_slots(bytes: &[u8], salt: u32) -> RingContent {
    let slots = (bytes.len() / ENTRY) as u32;
    let mut content = RingContent::default();
    let mut found = Vec::new();
    for (place, slot) in bytes.chunks_exact(ENTRY).enumerate() {
        match AckEntry::decode(slot, salt) {
            Some((entry, sequence)) if slots > 0 && sequence % slots == place as u32 => found.push((sequence, entry)),
            _ if slot.iter().all(|byte| *byte == 0) => {}
            _ => content.torn += 1,
        }
    }
    // Numbers of one ring lie close together, so they sort even where their 32 bits wrap.
    let origin = found.first().map_or(0, |(sequence, _)| sequence.wrapping_sub(1 << 31));
    found.sort_unstable_by_key(|(sequence, _)| sequence.wrapping_sub(origin));
    content.entries = found.into_iter().map(|(_, entry)| entry).collect();
    content
}

/// The producing end of one ring. One per shard; not to be shared.
#[derive(Debug)]
pub struct AckPort {
    slots: Slots,
    salt: u32,
    entries: u64,
    head: u64,
    shared: Arc<Shared>,
}

impl AckPort {
    /// Records an entry. When this returns, the entry survives the death of the process. No system call, no lock.
    ///
    /// While the disk takes nothing only intents are refused: what has come to pass is recorded as long as there is
    /// room.
    ///
    /// # Errors
    /// [`AckStop`]: nothing was recorded, and the message must not leave.
    pub fn append(&mut self, entry: &AckEntry) -> Result<AckSeq, AckStop> {
        if entry.kind == AckKind::Intent && self.shared.health.stopped.load(Ordering::Acquire) {
            return Err(AckStop::Disk);
        }
        if self.room() == 0 {
            return Err(AckStop::Full);
        }
        match &mut self.slots {
            Slots::Mapped(map) => write_slot(&mut map[RING_HEADER..], self.salt, self.head, entry),
            Slots::Memory(bytes) => write_slot(&mut lock(bytes)[RING_HEADER..], self.salt, self.head, entry),
        }
        self.head += 1;
        self.shared.head.store(self.head, Ordering::Release);
        Ok(AckSeq(self.head))
    }

    /// How many entries fit now. Take a message on only when its intents and its verdicts fit.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.entries - (self.head - self.shared.durable.load(Ordering::Acquire))
    }

    /// Entries up to this one survive a power cut.
    #[must_use]
    pub fn durable(&self) -> AckSeq {
        AckSeq(self.shared.durable.load(Ordering::Acquire))
    }

    /// The last entry recorded.
    #[must_use]
    pub fn last(&self) -> AckSeq {
        AckSeq(self.head)
    }

    /// Milliseconds since the last sync that succeeded began. Beyond 250 delivery should pause: a power cut would
    /// forget more than is promised.
    #[must_use]
    pub fn lag(&self, now: UnixMillis) -> u64 {
        now.0.saturating_sub(self.shared.health.synced.load(Ordering::Acquire))
    }
}

/// The ledger's end of one ring.
#[derive(Debug)]
pub(super) struct RingReader {
    pub(super) port: u16,
    source: Source,
    salt: u32,
    entries: u64,
    /// Entries before this one are durable.
    tail: u64,
    /// Entries before this one were read.
    read: u64,
    shared: Arc<Shared>,
}

impl RingReader {
    /// Adds up to `max` entries not yet read to `out`.
    pub(super) fn read(&mut self, max: usize, out: &mut Vec<AckEntry>) -> io::Result<()> {
        let head = self.shared.head.load(Ordering::Acquire);
        let mut left = (head - self.read).min(max as u64);
        let mut bytes = Vec::new();
        while left > 0 {
            let slot = self.read % self.entries;
            let count = left.min(self.entries - slot);
            bytes.resize(count as usize * ENTRY, 0);
            self.source.read_exact_at(&mut bytes, RING_HEADER as u64 + slot * ENTRY as u64)?;
            for slot in bytes.chunks_exact(ENTRY) {
                let (entry, _) = AckEntry::decode(slot, self.salt).ok_or(io::ErrorKind::InvalidData)?;
                out.push(entry);
            }
            self.read += count;
            left -= count;
        }
        Ok(())
    }

    /// True when everything recorded so far was read.
    pub(super) fn drained(&self) -> bool {
        self.shared.head.load(Ordering::Acquire) == self.read
    }

    /// What was read is durable.
    pub(super) fn commit(&mut self) -> AckSeq {
        self.tail = self.read;
        self.shared.durable.store(self.tail, Ordering::Release);
        AckSeq(self.tail)
    }

    /// What was read since the last commit must be read again.
    pub(super) fn rewind(&mut self) {
        self.read = self.tail;
    }
}

/// Makes a ring of `entries` slots, replacing one of the same name.
pub(super) fn create(
    rings: &Rings,
    id: RingId,
    entries: u32,
    health: &Arc<Health>,
) -> io::Result<(AckPort, RingReader)> {
    let (slots, source) = match rings {
        Rings::Dir(dir) => create_file(&dir.join(id.file()), id, entries)?,
        Rings::Memory(memory) => {
            let mut bytes = vec![0; RING_HEADER + entries as usize * ENTRY];
            bytes[..48].copy_from_slice(&id.header(entries));
            let bytes = Arc::new(Mutex::new(bytes));
            lock(&memory.0).insert(id.file(), Arc::clone(&bytes));
            (Slots::Memory(Arc::clone(&bytes)), Source::Memory(bytes))
        }
    };
    let shared = Arc::new(Shared { health: Arc::clone(health), ..Shared::default() });
    let (salt, entries) = (id.salt(), u64::from(entries));
    let reader = RingReader { port: id.port, source, salt, entries, tail: 0, read: 0, shared: Arc::clone(&shared) };
    Ok((AckPort { slots, salt, entries, head: 0, shared }, reader))
}

fn create_file(path: &Path, id: RingId, entries: u32) -> io::Result<(Slots, Source)> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let mut left = RING_HEADER + entries as usize * ENTRY;
    let zeros = vec![0; 256 * 1024];
    while left > 0 {
        let count = left.min(zeros.len());
        file.write_all(&zeros[..count])?;
        left -= count;
    }
    file.write_all_at(&id.header(entries), 0)?;
    let map = crate::sys::map_shared(&file)?;
    Ok((Slots::Mapped(map), Source::File(file)))
}

/// A ring found at a start.
#[derive(Debug)]
pub(super) struct FoundRing {
    pub(super) name: String,
    pub(super) epoch: u64,
    /// `None` when the header is not to be read.
    pub(super) content: Option<(RingId, RingContent)>,
    /// Nothing but zeros: the process ended while it made the ring.
    pub(super) blank: bool,
}

impl FoundRing {
    /// True when the header names another spool.
    pub(super) fn is_of_another(&self, identity: u128) -> bool {
        self.content.as_ref().is_some_and(|(id, _)| id.identity != identity)
    }
}

/// All rings; none when there is no such folder.
pub(super) fn find(rings: &Rings) -> io::Result<Vec<FoundRing>> {
    let mut found = Vec::new();
    match rings {
        Rings::Memory(memory) => {
            let memory = lock(&memory.0);
            found.extend(memory.iter().filter_map(|(name, bytes)| read_ring(name, &lock(bytes))));
        }
        Rings::Dir(dir) => {
            let list = match std::fs::read_dir(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
                list => list?,
            };
            for file in list {
                let file = file?;
                let name = file.file_name();
                let Some(name) = name.to_str().filter(|name| epoch_of_name(name).is_some()) else { continue };
                found.extend(read_ring(name, &std::fs::read(file.path())?));
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn read_ring(name: &str, bytes: &[u8]) -> Option<FoundRing> {
    let epoch = epoch_of_name(name)?;
    let content = RingId::read(bytes).and_then(|(id, entries)| {
        let slots = bytes.get(RING_HEADER..RING_HEADER + entries as usize * ENTRY)?;
        Some((id, read_slots(slots, id.salt())))
    });
    let blank = content.is_none() && bytes.iter().all(|byte| *byte == 0);
    Some(FoundRing { name: name.to_owned(), epoch, content, blank })
}

impl Rings {
    /// Makes the place for rings.
    pub(super) fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Dir(dir) => std::fs::create_dir_all(dir),
            Self::Memory(_) => Ok(()),
        }
    }

    /// Takes a ring away.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match self {
            Self::Dir(dir) => std::fs::remove_file(dir.join(name)),
            Self::Memory(memory) => {
                lock(&memory.0).remove(name);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SpoolId, UnixSecs};

    fn entry(id: u64) -> AckEntry {
        AckEntry {
            id: SpoolId(id),
            rcpt: 0,
            kind: AckKind::Intent,
            attempt: 1,
            unknowns: 0,
            code: 0,
            time: UnixSecs(1),
            due: UnixSecs(0),
        }
    }

    #[test]
    fn slots_wrap_and_old_entries_stay_readable_until_overwritten() {
        let mut slots = vec![0; 4 * ENTRY];
        for number in 0..6 {
            // The numbers wrap in the midst.
            write_slot(&mut slots, 9, u64::from(u32::MAX) - 3 + number, &entry(number));
        }
        let content = read_slots(&slots, 9);
        let ids: Vec<u64> = content.entries.iter().map(|entry| entry.id.0).collect();
        assert_eq!((ids.as_slice(), content.torn), ([2, 3, 4, 5].as_slice(), 0));
    }

    #[test]
    fn a_torn_slot_is_no_entry_wherever_the_tear_is() {
        let mut whole = vec![0; 4 * ENTRY];
        write_slot(&mut whole, 9, 0, &entry(77));
        let mut slots = vec![0; 4 * ENTRY];
        write_slot(&mut slots, 9, 4, &entry(u64::MAX));
        for tear in 1..ENTRY {
            let mut torn = slots.clone();
            torn[..tear].copy_from_slice(&whole[..tear]);
            let content = read_slots(&torn, 9);
            // A tear between equal bytes is none.
            let intact = torn[..ENTRY] == slots[..ENTRY] || torn[..ENTRY] == whole[..ENTRY];
            assert_eq!(content.entries.len(), usize::from(intact), "tear at {tear}");
            assert_eq!(content.torn, usize::from(!intact), "tear at {tear}");
        }
    }

    #[test]
    fn a_header_that_is_not_whole_names_no_ring() {
        let id = RingId { identity: 5, epoch: 6, port: 7 };
        let mut bytes = id.header(8).to_vec();
        assert_eq!(RingId::read(&bytes), Some((id, 8)));
        assert_eq!(epoch_of_name(&id.file()), Some(6));
        bytes[20] ^= 1;
        assert_eq!(RingId::read(&bytes), None);
        assert_eq!(RingId::read(&bytes[..10]), None);
        assert_eq!(epoch_of_name("ring-x-1"), None);
    }
}
