//! Everything that outlives a simulated process: the spool's disk, the ack log's folder, the event log.
//!
//! The fault model:
//! - A write without sync is volatile. A power cut keeps any subset of its 512-byte sectors, in any order.
//! - A write with sync (or followed by one) is durable when it is complete. One under way at a cut is torn alike.
//! - A write may fail. Then none, some or all of its sectors may have arrived.
//! - A read may fail once and succeed the next time. Reads while a start surveys the disk do not fail.
//! - The disk may be full: no slot can be made and no room is left. It may be slow: writes take longer.
//! - Names of files come and go durably, with the call.
//! - The death of the process alone loses nothing that was written; of writes under way each arrives or does not.
//! - A crash may fall between any two of the operations of one call: [`Storage::trip_after`] takes a picture there.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use queue::ack::{LogStore, MemoryRings, MemoryStore};
use queue::disk::{Disk, Map, Room, Space};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::model::EventKey;

const SECTOR: usize = 512;

/// One segment file.
#[derive(Clone, Default)]
struct Slot {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Written, not synced: offset and length.
    dirty: Vec<(usize, usize)>,
}

impl Slot {
    fn write(&mut self, offset: usize, bytes: &[u8], sync: bool) {
        self.now[offset..offset + bytes.len()].copy_from_slice(bytes);
        if sync {
            self.durable[offset..offset + bytes.len()].copy_from_slice(bytes);
        } else {
            self.dirty.push((offset, bytes.len()));
        }
    }

    fn sync(&mut self) {
        for (offset, len) in std::mem::take(&mut self.dirty) {
            self.durable[offset..offset + len].copy_from_slice(&self.now[offset..offset + len]);
        }
    }

    fn cut_power(&mut self, random: &mut StdRng) {
        for (offset, len) in std::mem::take(&mut self.dirty) {
            let keep = random.random_range(0.0..1.0);
            for at in (offset..offset + len).step_by(SECTOR) {
                let end = (at + SECTOR).min(offset + len);
                if random.random_bool(keep) {
                    self.durable[at..end].copy_from_slice(&self.now[at..end]);
                }
            }
        }
        self.now.clone_from(&self.durable);
    }
}

/// What goes wrong with the disks now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Chance in 1000 that a write to the spool fails.
    pub write: u32,
    /// Chance in 1000 that a read of the spool fails.
    pub read: u32,
    /// The spool's file system is full.
    pub full: bool,
    /// The folder of the ack log fails every change.
    pub ack: bool,
    /// The event log can't be synced.
    pub events: bool,
}

/// The state; see [`Storage`].
#[derive(Clone)]
pub struct State {
    slots: BTreeMap<u32, Slot>,
    /// The ack log's folder.
    pub ack: MemoryStore,
    /// Rings: they outlive the process, but not a power cut.
    pub rings: MemoryRings,
    /// Events that are durable, in the order they became so.
    pub events: Vec<EventKey>,
    /// What goes wrong.
    pub faults: Faults,
    /// Pieces that recovery kept aside, with the reason.
    pub kept: Vec<String>,
    random: StdRng,
    capacity: u64,
    trip: Option<u32>,
    picture: Option<Box<State>>,
}

/// A handle to what outlives the process.
#[derive(Clone)]
pub struct Storage(Arc<Mutex<State>>);

impl Storage {
    /// An empty disk of `capacity` bytes.
    pub fn new(seed: u64, capacity: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            slots: BTreeMap::new(),
            ack: MemoryStore::default(),
            rings: MemoryRings::default(),
            events: Vec::new(),
            faults: Faults::default(),
            kept: Vec::new(),
            random: StdRng::seed_from_u64(seed ^ 0x5eed_d15c),
            capacity,
            trip: None,
            picture: None,
        })))
    }

    /// The state, for a look or a change.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a picture of everything after so many further changes: the crash falls there.
    pub fn trip_after(&self, operations: u32) {
        self.state().trip = Some(operations);
    }

    /// True when the picture was taken; goes back to it. What was done since then has not happened.
    pub fn go_back(&self) -> bool {
        let mut state = self.state();
        state.trip = None;
        match state.picture.take() {
            Some(picture) => {
                *state = *picture;
                state.trip = None;
                true
            }
            None => false,
        }
    }

    /// True when a trip was passed: the process is dead and does not know yet.
    pub fn tripped(&self) -> bool {
        self.state().picture.is_some()
    }

    /// The power goes and comes back.
    pub fn cut_power(&self) {
        let mut guard = self.state();
        let state = &mut *guard;
        for slot in state.slots.values_mut() {
            slot.cut_power(&mut state.random);
        }
        state.rings.clear();
        let random = &mut state.random;
        state.ack.cut_power(|| random.random());
    }

    /// A write of the writer ends: durable when `sync`.
    pub fn finish_write(&self, slot: u32, offset: u64, bytes: &[u8], sync: bool) -> Result<(), String> {
        self.write_at(slot, offset, bytes, sync).map_err(|error| error.to_string())
    }

    /// A write under way when the process dies, or the power: what of it arrives.
    pub fn abandon_write(&self, slot: u32, offset: u64, bytes: &[u8], power: bool) {
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(file) = state.slots.get_mut(&slot) else { return };
        match state.random.random_range(0..3) {
            0 => {}
            1 if power => tear(file, offset as usize, bytes, &mut state.random),
            _ => file.write(offset as usize, bytes, power),
        }
    }
}

/// Some sectors arrive, durably.
fn tear(file: &mut Slot, offset: usize, bytes: &[u8], random: &mut StdRng) {
    let keep = random.random_range(0.0..1.0);
    for (number, sector) in bytes.chunks(SECTOR).enumerate() {
        if random.random_bool(keep) {
            file.write(offset + number * SECTOR, sector, true);
        }
    }
}

impl State {
    /// One change is about to be made.
    fn count(&mut self) {
        match self.trip {
            Some(0) if self.picture.is_none() => {
                let picture = Self { rings: self.rings.snapshot(), ..self.clone() };
                self.picture = Some(Box::new(picture));
                self.trip = None;
            }
            Some(left) => self.trip = Some(left.saturating_sub(1)),
            None => {}
        }
    }

    fn fails(&mut self, chance: u32) -> bool {
        chance > 0 && self.random.random_range(0..1000) < chance
    }

    /// True when so many bytes more would fit.
    pub fn has_room(&self, bytes: u64) -> bool {
        !self.faults.full && self.used() + bytes <= self.capacity
    }

    fn used(&self) -> u64 {
        self.slots.values().map(|slot| slot.now.len() as u64).sum()
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl Disk for Storage {
    fn list(&self) -> io::Result<Vec<(u32, u64)>> {
        Ok(self.state().slots.iter().map(|(slot, file)| (*slot, file.now.len() as u64)).collect())
    }

    fn create(&self, slot: u32, len: u64, first: &[u8], _space: Space) -> io::Result<()> {
        let mut state = self.state();
        state.count();
        if state.faults.full || state.used() + len > state.capacity {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let mut bytes = vec![0; len as usize];
        bytes[..first.len()].copy_from_slice(first);
        state.slots.insert(slot, Slot { now: bytes.clone(), durable: bytes, dirty: Vec::new() });
        Ok(())
    }

    fn read_at(&self, slot: u32, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        let chance = state.faults.read;
        if state.fails(chance) {
            return Err(broken());
        }
        let file = state.slots.get(&slot).ok_or_else(missing)?;
        let part = file.now.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, slot: u32, offset: u64, bytes: &[u8], sync: bool) -> io::Result<()> {
        let mut guard = self.state();
        let state = &mut *guard;
        state.count();
        let chance = state.faults.write;
        let fails = state.fails(chance);
        let file = state.slots.get_mut(&slot).ok_or_else(missing)?;
        if !fails {
            file.write(offset as usize, bytes, sync);
            return Ok(());
        }
        match state.random.random_range(0..3) {
            0 => {}
            1 => tear(file, offset as usize, bytes, &mut state.random),
            _ => file.write(offset as usize, bytes, true),
        }
        Err(broken())
    }

    fn sync(&self, slot: u32) -> io::Result<()> {
        let mut state = self.state();
        state.count();
        state.slots.get_mut(&slot).ok_or_else(missing)?.sync();
        Ok(())
    }

    fn remove(&self, slot: u32) -> io::Result<()> {
        let mut state = self.state();
        state.count();
        state.slots.remove(&slot).map(|_| ()).ok_or_else(missing)
    }

    fn set_aside(&self, slot: u32, reason: &str) -> io::Result<String> {
        let mut state = self.state();
        state.slots.remove(&slot);
        state.kept.push(format!("slot {slot}: {reason}"));
        Ok("aside".to_owned())
    }

    fn keep_damaged(&self, slot: u32, offset: u64, _bytes: &[u8], reason: &str) -> io::Result<String> {
        self.state().kept.push(format!("slot {slot} at {offset}: {reason}"));
        Ok("kept".to_owned())
    }

    fn room(&self) -> io::Result<Room> {
        let state = self.state();
        let free = if state.faults.full { 0 } else { state.capacity.saturating_sub(state.used()) };
        Ok(Room { free, total: state.capacity })
    }

    fn map(&self, _slot: u32) -> Option<io::Result<Arc<Map>>> {
        None
    }

    fn forget_cache(&self, _slot: u32) -> io::Result<bool> {
        Ok(true)
    }

    fn direct(&self) -> Result<(), String> {
        Ok(())
    }

    fn file(&self, _slot: u32) -> Option<io::Result<Arc<std::fs::File>>> {
        None
    }
}

/// The ack log's folder.
#[derive(Clone)]
pub struct AckFolder(pub Storage);

impl AckFolder {
    fn change<T>(&self, work: impl FnOnce(&mut MemoryStore) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.0.state();
        state.count();
        if state.faults.ack {
            return Err(broken());
        }
        work(&mut state.ack)
    }
}

impl LogStore for AckFolder {
    fn list(&mut self) -> io::Result<Vec<String>> {
        self.0.state().ack.list()
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        self.0.state().ack.read(name)
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        self.change(|ack| ack.create(name, len))
    }

    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(|ack| ack.write(name, offset, bytes))
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.change(|ack| ack.sync(name))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.change(|ack| ack.rename(from, to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.change(|ack| ack.remove(name))
    }
}

/// The event log: lines wait in the process until they are synced.
pub struct EventFile {
    storage: Storage,
    waiting: Vec<EventKey>,
}

impl EventFile {
    /// The log on this storage.
    pub fn new(storage: Storage) -> Self {
        Self { storage, waiting: Vec::new() }
    }
}

impl mta::shard::ledger::EventSink for EventFile {
    fn append(&mut self, event: &mta::record::Event) -> Result<(), mta::record::log::LogFull> {
        self.waiting.push(EventKey::of(event));
        Ok(())
    }

    fn pending(&self) -> usize {
        self.waiting.len() * 500
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.storage.state();
        if self.waiting.is_empty() {
            return Ok(());
        }
        state.count();
        if state.faults.events {
            return Err(broken());
        }
        state.events.append(&mut self.waiting);
        Ok(())
    }
}
