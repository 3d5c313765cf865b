//! The segments in use, as memory knows them: which records live, and how they are read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::commit::RecordRef;
use super::superblock::Heat;
use crate::disk::Map;
use crate::id::SpoolId;
use crate::limits::RECORD_ALIGN;

/// How far a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Takes batches.
    Active = 0,
    /// Ended without a footer.
    Ended = 1,
    /// Complete, with footer and trailer.
    Sealed = 2,
}

/// The records of a segment: 16 bytes each.
#[derive(Debug, Default)]
pub struct Live {
    /// Offset and length of each record in units of 16 bytes, by rising offset.
    places: Vec<(u32, u32)>,
    /// One bit per record: retired.
    gone: Vec<u64>,
    /// Spool ids; in order once `sorted`.
    ids: Vec<u64>,
    sorted: bool,
    range: Option<(u64, u64)>,
    count: usize,
    bytes: u64,
}

impl Live {
    /// Adds a living record. Records come by rising offset.
    pub fn add(&mut self, id: u64, offset16: u32, len16: u32) {
        let index = self.places.len();
        self.places.push((offset16, len16));
        if index.is_multiple_of(64) {
            self.gone.push(0);
        }
        self.ids.push(id);
        self.sorted = false;
        self.range = Some(self.range.map_or((id, id), |(low, high)| (low.min(id), high.max(id))));
        self.count += 1;
        self.bytes += u64::from(len16) * RECORD_ALIGN as u64;
    }

    /// Takes a record out of the living; false when it was not among them.
    pub fn retire(&mut self, offset16: u32) -> bool {
        let Ok(index) = self.places.binary_search_by_key(&offset16, |place| place.0) else { return false };
        let bit = 1u64 << (index % 64);
        let Some(word) = self.gone.get_mut(index / 64).filter(|word| **word & bit == 0) else { return false };
        *word |= bit;
        self.count -= 1;
        self.bytes -= u64::from(self.places[index].1) * RECORD_ALIGN as u64;
        true
    }

    /// Offset and length in bytes of every living record.
    #[must_use]
    pub fn living(&self) -> Vec<(u64, u64)> {
        let unit = RECORD_ALIGN as u64;
        let live = |index: usize| self.gone.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) == 0);
        self.places
            .iter()
            .enumerate()
            .filter(|(index, _)| live(*index))
            .map(|(_, place)| (u64::from(place.0) * unit, u64::from(place.1) * unit))
            .collect()
    }

    /// Living records.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of living records.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn sort(&mut self) {
        self.ids.sort_unstable();
        self.ids.shrink_to_fit();
        self.places.shrink_to_fit();
        self.sorted = true;
    }

    fn may_hold(&self, id: u64) -> bool {
        self.range.is_some_and(|(low, high)| (low..=high).contains(&id))
            && (!self.sorted || self.ids.binary_search(&id).is_ok())
    }
}

/// The map of a segment.
pub(super) enum MapState {
    /// Nobody asked for it.
    NotYet,
    /// Made; readers hold it too.
    Mapped(Arc<Map>),
    /// The segment is being recycled: it is not mapped any more.
    Closed,
}

/// A segment in use.
pub struct Segment {
    /// Logical number.
    pub number: u32,
    /// The file.
    pub slot: u32,
    /// Epoch of this use.
    pub epoch: u64,
    /// Generation of its newest superblock.
    pub generation: u64,
    /// New mail or compacted.
    pub heat: Heat,
    /// When this use began, milliseconds since 1970.
    pub created: u64,
    /// Length of the file.
    pub bytes: u64,
    phase: AtomicU8,
    /// Its records are known; false until recovery has read them.
    known: AtomicBool,
    /// Not to be recycled or compacted: damage was found in it.
    pub(super) kept: AtomicBool,
    /// A record of it could not be copied: compaction leaves it alone.
    pub(super) uncopied: AtomicBool,
    /// Rounds in which its pages were still in memory when it was to be recycled.
    pub(super) tries: AtomicU32,
    live: Mutex<Live>,
    pub(super) map: Mutex<MapState>,
}

/// What a new [`Segment`] is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentFacts {
    pub number: u32,
    pub slot: u32,
    pub epoch: u64,
    pub generation: u64,
    pub heat: Heat,
    pub created: u64,
    pub bytes: u64,
}

impl Segment {
    pub(super) fn new(facts: SegmentFacts, phase: Phase, known: bool) -> Self {
        Self {
            number: facts.number,
            slot: facts.slot,
            epoch: facts.epoch,
            generation: facts.generation,
            heat: facts.heat,
            created: facts.created,
            bytes: facts.bytes,
            phase: AtomicU8::new(phase as u8),
            known: AtomicBool::new(known),
            kept: AtomicBool::new(false),
            uncopied: AtomicBool::new(false),
            tries: AtomicU32::new(0),
            live: Mutex::new(Live::default()),
            map: Mutex::new(MapState::NotYet),
        }
    }

    /// How far it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Active,
            1 => Phase::Ended,
            _ => Phase::Sealed,
        }
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        if phase != Phase::Active {
            self.live().sort();
        }
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub(super) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    pub(super) fn set_known(&self, live: Live) {
        *self.live() = live;
        self.live().sort();
        self.known.store(true, Ordering::Release);
    }

    /// May compaction copy what lives in it?
    pub(super) fn can_be_copied(&self) -> bool {
        let left_alone = self.kept.load(Ordering::Acquire) || self.uncopied.load(Ordering::Acquire);
        self.phase() != Phase::Active && self.is_known() && !left_alone
    }

    /// No living record, and none will come: its file can be used again.
    pub(super) fn is_spent(&self) -> bool {
        self.phase() != Phase::Active
            && self.is_known()
            && !self.kept.load(Ordering::Acquire)
            && self.live().count() == 0
    }

    /// Drops the map for good; false while a reader still holds it.
    pub(super) fn unmap(&self) -> bool {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*map, MapState::Mapped(map) if Arc::strong_count(map) > 1) {
            return false;
        }
        *map = MapState::Closed;
        true
    }
}

/// All segments in use, and where compaction has moved records.
#[derive(Default)]
pub(super) struct Table {
    segments: RwLock<HashMap<u32, Arc<Segment>>>,
    moved: RwLock<HashMap<(SpoolId, RecordRef), RecordRef>>,
}

impl Table {
    pub(super) fn get(&self, number: u32) -> Option<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    pub(super) fn insert(&self, segment: Segment) -> Arc<Segment> {
        let segment = Arc::new(segment);
        self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(segment.number, Arc::clone(&segment));
        segment
    }

    pub(super) fn remove(&self, number: u32) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    pub(super) fn all(&self) -> Vec<Arc<Segment>> {
        let mut all: Vec<_> = self.segments.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        all.sort_by_key(|segment| segment.number);
        all
    }

    /// Where a record is now.
    pub(super) fn resolve(&self, id: SpoolId, at: RecordRef) -> RecordRef {
        let moved = self.moved.read().unwrap_or_else(PoisonError::into_inner);
        let mut place = at;
        // Moved twice means two entries; each leads to a later segment, so this ends.
        while let Some(next) = moved.get(&(id, place)).filter(|next| **next != place) {
            place = *next;
        }
        place
    }

    pub(super) fn note_moves(&self, moves: &[(SpoolId, RecordRef, RecordRef)]) {
        let mut moved = self.moved.write().unwrap_or_else(PoisonError::into_inner);
        moved.extend(moves.iter().map(|(id, from, to)| ((*id, *from), *to)));
    }

    /// Forgets the way from `at` on; gives the end of it.
    pub(super) fn forget_moves(&self, id: SpoolId, at: RecordRef) -> RecordRef {
        if self.moved.read().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return at;
        }
        let mut moved = self.moved.write().unwrap_or_else(PoisonError::into_inner);
        let mut place = at;
        while let Some(next) = moved.remove(&(id, place)) {
            place = next;
        }
        place
    }

    pub(super) fn may_hold(&self, id: SpoolId) -> bool {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let holds = |segment: &Arc<Segment>| !segment.is_known() || segment.live().may_hold(id.0);
        segments.values().any(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retiring_counts_once() {
        let mut live = Live::default();
        for index in 0..200u32 {
            live.add(u64::from(index) + 7, 100 + 3 * index, 3);
        }
        assert_eq!((live.count(), live.bytes()), (200, 200 * 48));
        assert!(live.retire(100 + 3 * 64));
        assert!(!live.retire(100 + 3 * 64), "twice");
        assert!(!live.retire(101), "no record starts there");
        assert_eq!((live.count(), live.bytes(), live.living().len()), (199, 199 * 48, 199));
        live.sort();
        assert!(live.may_hold(7) && live.may_hold(206) && !live.may_hold(207) && !live.may_hold(6));
    }

    #[test]
    fn a_record_moved_twice_is_found() {
        let table = Table::default();
        let places: Vec<_> = (0..3).map(|segment| RecordRef { segment, offset16: 512 }).collect();
        table.note_moves(&[(SpoolId(1), places[0], places[1])]);
        table.note_moves(&[(SpoolId(1), places[1], places[2])]);
        assert_eq!(table.resolve(SpoolId(1), places[0]), places[2]);
        assert_eq!(table.resolve(SpoolId(2), places[0]), places[0]);
        assert_eq!(table.forget_moves(SpoolId(1), places[0]), places[2]);
        assert_eq!(table.resolve(SpoolId(1), places[0]), places[0]);
    }
}
