//! What the spool's threads and its callers share.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;

use super::commit::{Prepared, RecordRef};
use super::port::Ticket;
use super::segment::{Phase, Segment, SegmentFacts, Table};
use super::settings::{Settings, WriterKind};
use super::superblock::{CutOff, Heat, State, Superblock};
use super::writer::{Spare, WriterCounts};
use crate::disk::{Disk, Room, Space};
use crate::envelope::Class;
use crate::error::Refusal;
use crate::id::SpoolId;
use crate::time::UnixMillis;

/// Commits that may wait for the writer.
pub(super) const WAITING_MAX: usize = 8192;
/// Bytes of bodies that may wait for the writer.
pub(super) const WAITING_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Called with (spool id, old place, new place) of records that compaction copied, durable at the new place. The old
/// segment is recycled only after this returned Ok.
pub type MovedHook = Arc<dyn Fn(&[(SpoolId, RecordRef, RecordRef)]) -> io::Result<()> + Send + Sync>;

/// Wakes a thread that said it sleeps.
pub(super) struct Waker {
    sleeping: AtomicBool,
    bell: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Waker {
    fn new() -> Self {
        Self { sleeping: AtomicBool::new(false), bell: OnceLock::new() }
    }

    /// How to wake the sleeper; set once, before it first sleeps.
    pub(super) fn set_bell(&self, bell: Box<dyn Fn() + Send + Sync>) {
        // A second driver never starts in one spool.
        let _ = self.bell.set(bell);
    }

    pub(super) fn wake(&self) {
        if self.sleeping.load(Ordering::SeqCst) && self.sleeping.swap(false, Ordering::SeqCst) {
            if let Some(bell) = self.bell.get() {
                bell();
            }
        }
    }

    /// The sleeper says so, then looks once more whether there is work before it really sleeps.
    pub(super) fn set_sleeping(&self, sleeping: bool) {
        self.sleeping.store(sleeping, Ordering::SeqCst);
    }
}

pub(super) struct Shared {
    pub settings: Settings,
    pub disk: Arc<dyn Disk>,
    pub identity: u128,
    pub queue: ArrayQueue<Prepared<Ticket>>,
    pub waiting_bytes: AtomicUsize,
    pub waker: Waker,
    pub closing: AtomicBool,
    pub next_id: AtomicU64,
    pub table: Table,
    pub recycled: AtomicU64,
    pub compacted: AtomicU64,
    pub hook: OnceLock<MovedHook>,
    pub writer: Mutex<(Option<WriterKind>, Vec<String>)>,
    next_number: AtomicU32,
    next_slot: AtomicU32,
    epochs: AtomicU64,
    spares: Mutex<VecDeque<Spare>>,
    recycled_numbers: Mutex<Vec<u32>>,
    spoiled: Mutex<Vec<u32>>,
    cut_offs: Mutex<Vec<CutOff>>,
    free: AtomicU64,
    total: AtomicU64,
    counts: Mutex<WriterCounts>,
    trouble: Mutex<String>,
    nudge: (Mutex<bool>, Condvar),
    started: UnixMillis,
    steady: SteadyClock,
}

/// Where numbering goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counters {
    pub next_id: u64,
    pub next_number: u32,
    pub next_slot: u32,
}

/// Milliseconds that never go back: of the machine, or of a simulator that moves them.
#[derive(Clone, Debug)]
pub enum SteadyClock {
    /// Since this moment.
    Machine(Instant),
    /// As told.
    Told(Arc<AtomicU64>),
}

impl SteadyClock {
    fn elapsed_ms(&self) -> u64 {
        match self {
            Self::Machine(start) => start.elapsed().as_millis() as u64,
            Self::Told(now) => now.load(Ordering::Relaxed),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        settings: Settings,
        disk: Arc<dyn Disk>,
        identity: u128,
        from: Counters,
        cut_offs: Vec<CutOff>,
        now: UnixMillis,
        steady: SteadyClock,
    ) -> Self {
        Self {
            identity,
            disk,
            queue: ArrayQueue::new(WAITING_MAX),
            waiting_bytes: AtomicUsize::new(0),
            waker: Waker::new(),
            closing: AtomicBool::new(false),
            next_id: AtomicU64::new(from.next_id),
            table: Table::default(),
            recycled: AtomicU64::new(0),
            compacted: AtomicU64::new(0),
            hook: OnceLock::new(),
            writer: Mutex::new((None, Vec::new())),
            next_number: AtomicU32::new(from.next_number),
            next_slot: AtomicU32::new(from.next_slot),
            epochs: AtomicU64::new(settings.epoch_seed),
            spares: Mutex::new(VecDeque::new()),
            recycled_numbers: Mutex::new(Vec::new()),
            spoiled: Mutex::new(Vec::new()),
            cut_offs: Mutex::new(cut_offs),
            free: AtomicU64::new(0),
            total: AtomicU64::new(0),
            counts: Mutex::new(WriterCounts::default()),
            trouble: Mutex::new(String::new()),
            nudge: (Mutex::new(false), Condvar::new()),
            started: now,
            steady,
            settings,
        }
    }

    /// Wall-clock time: the time at opening, moved on by the steady clock.
    pub(super) fn now(&self) -> u64 {
        self.started.0 + self.steady_ms()
    }

    /// Milliseconds since opening, never going back.
    pub(super) fn steady_ms(&self) -> u64 {
        self.steady.elapsed_ms()
    }

    /// The next epoch: 64 bits that nobody outside can foresee, because the seed is random at every start
    /// (the mixing is that of SplitMix64).
    fn next_epoch(&self) -> u64 {
        let mut z = self.epochs.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The coming use of a slot whose newest superblock has this generation.
    pub(super) fn spare_of(&self, slot: u32, generation: u64, space: Space) -> Spare {
        Spare {
            slot,
            number: self.next_number.fetch_add(1, Ordering::Relaxed),
            epoch: self.next_epoch(),
            generation,
            id_floor: self.next_id.load(Ordering::Relaxed),
            created: self.now(),
            space,
        }
    }

    fn spare_block(&self, generation: u64) -> Superblock {
        Superblock {
            identity: self.identity,
            generation,
            epoch: self.next_epoch(),
            number: 0,
            state: State::Spare,
            heat: Heat::Hot,
            created: self.now(),
            id_floor: self.next_id.load(Ordering::Relaxed),
            segment_bytes: self.settings.segment_bytes,
            cut_offs: lock(&self.cut_offs).clone(),
        }
    }

    /// Makes a new segment file, with both superblocks.
    pub(super) fn create_spare(&self, space: Space) -> io::Result<Spare> {
        let slot = self.next_slot.fetch_add(1, Ordering::Relaxed);
        let mut blocks = self.spare_block(0).encode().to_vec();
        blocks.extend_from_slice(&self.spare_block(1).encode());
        self.disk.create(slot, self.settings.segment_bytes, &blocks, space)?;
        Ok(self.spare_of(slot, 1, space))
    }

    /// Writes superblocks that say "spare" over those of a segment without life, so that nothing in it comes back,
    /// whichever copy is lost.
    pub(super) fn write_spare(&self, slot: u32, generation: u64) -> io::Result<Spare> {
        for step in 1..=2 {
            let block = self.spare_block(generation + step);
            self.disk.write_at(slot, block.place(), &block.encode(), true)?;
        }
        Ok(self.spare_of(slot, generation + 2, Space::Written))
    }

    pub(super) fn put_spare(&self, spare: Spare) {
        lock(&self.spares).push_back(spare);
        self.waker.wake();
    }

    /// A spare for a writer that needs one now: ready-made, or merely allocated when the room allows.
    pub(super) fn take_spare(&self, heat: Heat) -> Result<Spare, Refusal> {
        let ready = {
            let mut spares = lock(&self.spares);
            // The last one is for new mail; compaction has the time to make its own.
            if heat == Heat::Hot || spares.len() > 1 {
                spares.pop_front()
            } else {
                None
            }
        };
        self.nudge();
        if let Some(spare) = ready {
            let id_floor = self.next_id.load(Ordering::Relaxed);
            return Ok(Spare { created: self.now(), id_floor, ..spare });
        }
        let room = self.look_at_room();
        let needed = self.settings.segment_bytes + self.reserve_of(room) / 2;
        if room.free < needed {
            return Err(Refusal::Full { free: room.free, needed });
        }
        let space = if heat == Heat::Hot { Space::Allocated } else { Space::Written };
        self.create_spare(space).map_err(|error| {
            self.report(&format!("no new segment: {error}"));
            Refusal::WriteFailed(error.to_string())
        })
    }

    pub(super) fn spares(&self) -> usize {
        lock(&self.spares).len()
    }

    /// Asks the file system how much room is left, and remembers the answer.
    pub(super) fn look_at_room(&self) -> Room {
        match self.disk.room() {
            Ok(room) => {
                self.free.store(room.free, Ordering::Relaxed);
                self.total.store(room.total, Ordering::Relaxed);
            }
            Err(error) => self.report(&format!("room on the spool disk unknown: {error}")),
        }
        self.room()
    }

    pub(super) fn room(&self) -> Room {
        Room { free: self.free.load(Ordering::Relaxed), total: self.total.load(Ordering::Relaxed) }
    }

    pub(super) fn reserve_of(&self, room: Room) -> u64 {
        let part = room.total / 100 * u64::from(self.settings.reserve_percent);
        self.settings.reserve_bytes.max(part)
    }

    /// Whether mail of this class may come in: bulk stops while half of the reserve is still untouched.
    pub(super) fn admits(&self, class: Class) -> Result<(), Refusal> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(Refusal::Closing);
        }
        let room = self.room();
        let reserve = self.reserve_of(room);
        let needed = if class == Class::Bulk { reserve + reserve / 2 } else { reserve };
        let free = room.free + self.spares() as u64 * self.settings.segment_bytes;
        if free < needed {
            return Err(Refusal::Full { free, needed });
        }
        Ok(())
    }

    /// Takes a message out of the living, wherever compaction has it by now.
    pub(super) fn retire(&self, id: SpoolId, at: RecordRef) {
        let place = self.table.forget_moves(id, at);
        if self.retire_at(place) {
            return;
        }
        // It may have been moved between the two looks.
        let moved = self.table.forget_moves(id, at);
        if moved != at {
            self.retire_at(moved);
        }
    }

    /// Takes the record at exactly this place out of the living; false when it was not among them.
    pub(super) fn retire_at(&self, place: RecordRef) -> bool {
        let Some(segment) = self.table.get(place.segment) else { return false };
        let was_live = segment.live().retire(place.offset16);
        if segment.is_spent() {
            self.nudge();
        }
        was_live
    }

    /// A segment was opened by a writer.
    pub(super) fn note_opened(&self, spare: Spare, generation: u64, heat: Heat) -> Arc<Segment> {
        let facts = SegmentFacts {
            number: spare.number,
            slot: spare.slot,
            epoch: spare.epoch,
            generation,
            heat,
            created: spare.created,
            bytes: self.settings.segment_bytes,
        };
        self.table.insert(Segment::new(facts, Phase::Active, true))
    }

    /// A segment ended, with a footer or without.
    pub(super) fn note_ended(&self, number: u32, cut: Option<CutOff>) {
        lock(&self.cut_offs).extend(cut);
        if let Some(segment) = self.table.get(number) {
            segment.set_phase(if cut.is_some() { Phase::Ended } else { Phase::Sealed });
        }
        self.nudge();
    }

    /// A segment was durably recycled: its cut-off is needed no more.
    pub(super) fn note_recycled(&self, number: u32) {
        self.table.remove(number);
        lock(&self.cut_offs).retain(|cut| cut.number != number);
        lock(&self.recycled_numbers).push(number);
        self.recycled.fetch_add(1, Ordering::Relaxed);
    }

    /// A segment that had ended got its footer after all.
    pub(super) fn note_sealed_late(&self, number: u32) {
        if let Some(segment) = self.table.get(number) {
            segment.set_phase(Phase::Sealed);
        }
        lock(&self.cut_offs).retain(|cut| cut.number != number);
        lock(&self.recycled_numbers).push(number);
    }

    /// Numbers recycled since the last call, for the writer to forget.
    pub(super) fn take_recycled(&self) -> Vec<u32> {
        std::mem::take(&mut *lock(&self.recycled_numbers))
    }

    /// A file whose superblock could not be written: it holds no message and is not to be used again.
    pub(super) fn note_spoiled(&self, slot: u32) {
        self.report(&format!("seg-{slot:04} can't be opened for writing"));
        lock(&self.spoiled).push(slot);
        self.nudge();
    }

    /// Files to be removed.
    pub(super) fn take_spoiled(&self) -> Vec<u32> {
        std::mem::take(&mut *lock(&self.spoiled))
    }

    pub(super) fn set_counts(&self, counts: WriterCounts) {
        *lock(&self.counts) = counts;
    }

    pub(super) fn counts(&self) -> WriterCounts {
        *lock(&self.counts)
    }

    /// Something went wrong where no caller waits: an operator should know.
    pub(super) fn report(&self, what: &str) {
        tracing::warn!(spool = %self.settings.dir.display(), "{what}");
        what.clone_into(&mut lock(&self.trouble));
    }

    pub(super) fn trouble(&self) -> String {
        lock(&self.trouble).clone()
    }

    /// Wakes the maintenance thread.
    pub(super) fn nudge(&self) {
        *lock(&self.nudge.0) = true;
        self.nudge.1.notify_one();
    }

    /// Waits for a nudge or the time to look again.
    pub(super) fn wait_for_nudge(&self, at_most: Duration) {
        let nudged = lock(&self.nudge.0);
        let waited = self.nudge.1.wait_timeout_while(nudged, at_most, |nudged| !*nudged);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}
