//! What a disk with a volatile write cache holds, and what is left of it when the power goes.
//!
//! A write is visible to reads at once and durable only after a flush, or at once when it is forced unit access.
//! [`Volatile::cut`] decides by a seed what became of every other write: lost, kept, or torn at 512 bytes.
//! Because each write's fate is its own, a later write may survive an earlier one: that is reordering. Never survives:
//! nothing a flush covered is ever taken back, unless the disk was told to lie.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Bytes that are written whole or not at all.
pub const SECTOR: usize = 512;
/// Bytes of writes that may wait for a flush; a real cache is finite too, so the oldest become durable beyond it.
pub const CACHE: usize = 64 << 20;

/// How far the disk keeps its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Honesty {
    /// Flush and forced unit access make durable.
    Honest,
    /// Both are acknowledged and ignored, as bad disks do: a test that can't tell is no test.
    Lies,
}

/// A request that leaves the disk or is not whole sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfRange;

#[derive(Debug, Clone)]
struct Write {
    offset: usize,
    data: Vec<u8>,
    /// Set while the write is not answered yet; a flush covers answered writes only.
    open: Option<Ticket>,
}

/// Names a write that is taken and not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// The disk.
#[derive(Debug, Clone)]
pub struct Volatile {
    /// What reads see.
    current: Vec<u8>,
    /// What a cut certainly leaves.
    durable: Vec<u8>,
    /// Writes since the last flush, oldest first.
    pending: Vec<Write>,
    pending_bytes: usize,
    honesty: Honesty,
    next: u64,
}

/// What a cut did, for the report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CutReport {
    /// Writes that were volatile when the power went.
    pub volatile: usize,
    /// Of those, kept whole.
    pub kept: usize,
    /// Of those, kept in part.
    pub torn: usize,
    /// Of those, lost.
    pub lost: usize,
}

impl Volatile {
    /// A disk holding `image`, all of it durable.
    pub fn new(image: Vec<u8>, honesty: Honesty) -> Volatile {
        Volatile { durable: image.clone(), current: image, pending: Vec::new(), pending_bytes: 0, honesty, next: 0 }
    }

    /// Bytes of the disk.
    pub fn len(&self) -> usize {
        self.current.len()
    }

    /// True for a disk of no bytes.
    pub fn is_empty(&self) -> bool {
        self.current.is_empty()
    }

    /// Writes that a cut may take.
    pub fn volatile_writes(&self) -> usize {
        self.pending.len()
    }

    /// The bytes a reader sees.
    pub fn read(&self, offset: u64, length: usize) -> Result<&[u8], OutOfRange> {
        let start = usize::try_from(offset).map_err(|_| OutOfRange)?;
        let end = start.checked_add(length).ok_or(OutOfRange)?;
        self.current.get(start..end).ok_or(OutOfRange)
    }

    /// Write whole sectors and answer at once; `fua` makes this write durable by itself.
    pub fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), OutOfRange> {
        let ticket = self.take(offset, data)?;
        self.answered(ticket, fua);
        Ok(())
    }

    /// Take whole sectors: reads see them, and a cut may keep them, but no flush covers them before
    /// [`Volatile::answered`].
    pub fn take(&mut self, offset: u64, data: &[u8]) -> Result<Ticket, OutOfRange> {
        let start = usize::try_from(offset).map_err(|_| OutOfRange)?;
        if !start.is_multiple_of(SECTOR) || !data.len().is_multiple_of(SECTOR) {
            return Err(OutOfRange);
        }
        let end = start.checked_add(data.len()).ok_or(OutOfRange)?;
        self.current.get_mut(start..end).ok_or(OutOfRange)?.copy_from_slice(data);
        self.next += 1;
        let ticket = Ticket(self.next);
        self.pending_bytes += data.len();
        self.pending.push(Write { offset: start, data: data.to_vec(), open: Some(ticket) });
        Ok(ticket)
    }

    /// A write is being answered; `fua` makes it durable first. After a cut the ticket names nothing.
    pub fn answered(&mut self, ticket: Ticket, fua: bool) {
        let Some(at) = self.pending.iter().rposition(|w| w.open == Some(ticket)) else { return };
        self.pending[at].open = None;
        if fua && self.honesty == Honesty::Honest {
            let write = self.pending.remove(at);
            let later = self.pending.split_off(at);
            self.forget(write.offset, write.offset + write.data.len());
            self.persist(&write);
            self.pending.extend(later);
            self.pending_bytes = self.pending.iter().map(|w| w.data.len()).sum();
        }
        self.write_back();
    }

    /// Everything answered so far is durable afterwards.
    pub fn flush(&mut self) {
        if self.honesty == Honesty::Lies {
            return;
        }
        for write in std::mem::take(&mut self.pending) {
            if write.open.is_some() {
                self.pending.push(write);
            } else {
                // What is kept here is older: it must not come back over this one.
                self.forget(write.offset, write.offset + write.data.len());
                self.persist(&write);
            }
        }
        self.pending_bytes = self.pending.iter().map(|w| w.data.len()).sum();
    }

    fn persist(&mut self, write: &Write) {
        self.durable[write.offset..write.offset + write.data.len()].copy_from_slice(&write.data);
    }

    /// Cut the power: decide by `seed` what became of the volatile writes, and keep only what is left.
    pub fn cut(&mut self, seed: u64) -> CutReport {
        let mut random = StdRng::seed_from_u64(seed);
        let mut report = CutReport { volatile: self.pending.len(), ..CutReport::default() };
        // One cache lost nearly everything, another had nearly all of it written back: both happen.
        let survival = [0.1, 0.5, 0.9][random.random_range(0..3)];
        for write in self.pending.drain(..) {
            let sectors = write.data.len() / SECTOR;
            let torn = sectors > 1 && random.random_bool(0.2);
            let mut kept = 0;
            for sector in 0..sectors {
                let keep = if torn { random.random_bool(0.5) } else { false };
                if keep {
                    kept += 1;
                    let at = sector * SECTOR;
                    let place = write.offset + at;
                    self.durable[place..place + SECTOR].copy_from_slice(&write.data[at..at + SECTOR]);
                }
            }
            if !torn && random.random_bool(survival) {
                kept = sectors;
                self.durable[write.offset..write.offset + write.data.len()].copy_from_slice(&write.data);
            }
            match kept {
                0 => report.lost += 1,
                n if n == sectors => report.kept += 1,
                _ => report.torn += 1,
            }
        }
        self.pending_bytes = 0;
        self.current.copy_from_slice(&self.durable);
        report
    }

    /// The image as it would be served again.
    pub fn image(&self) -> &[u8] {
        &self.current
    }

    /// A forced write supersedes what was cached for its sectors; an older version must not come back over it.
    fn forget(&mut self, start: usize, end: usize) {
        let old = std::mem::take(&mut self.pending);
        for write in old {
            let (from, to) = (write.offset, write.offset + write.data.len());
            if to <= start || from >= end {
                self.pending.push(write);
                continue;
            }
            if from < start {
                let data = write.data[..start - from].to_vec();
                self.pending.push(Write { offset: from, data, open: write.open });
            }
            if to > end {
                let data = write.data[end - from..].to_vec();
                self.pending.push(Write { offset: end, data, open: write.open });
            }
        }
        self.pending_bytes = self.pending.iter().map(|w| w.data.len()).sum();
    }

    /// Bound the cache: the older half goes to the platter, as a disk would.
    fn write_back(&mut self) {
        if self.pending_bytes <= CACHE {
            return;
        }
        let half = self.pending.len() / 2 + 1;
        let newer = self.pending.split_off(half.min(self.pending.len()));
        for write in std::mem::replace(&mut self.pending, newer) {
            self.pending_bytes -= write.data.len();
            self.persist(&write);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(honesty: Honesty) -> Volatile {
        Volatile::new(vec![0; 64 * SECTOR], honesty)
    }

    fn block(byte: u8, sectors: usize) -> Vec<u8> {
        vec![byte; sectors * SECTOR]
    }

    #[test]
    fn flushed_bytes_survive_every_seed() {
        for seed in 0..200 {
            let mut disk = disk(Honesty::Honest);
            disk.write(0, &block(1, 8), false).unwrap();
            disk.flush();
            disk.write(8 * SECTOR as u64, &block(2, 8), true).unwrap();
            disk.write(16 * SECTOR as u64, &block(3, 8), false).unwrap();
            disk.cut(seed);
            assert_eq!(disk.read(0, 8 * SECTOR).unwrap(), block(1, 8));
            assert_eq!(disk.read(8 * SECTOR as u64, 8 * SECTOR).unwrap(), block(2, 8));
        }
    }

    #[test]
    fn unflushed_bytes_are_seen_until_the_cut_and_then_lost_kept_or_torn() {
        let mut total = CutReport::default();
        for seed in 0..200 {
            let mut disk = disk(Honesty::Honest);
            disk.write(0, &block(1, 8), false).unwrap();
            assert_eq!(disk.read(0, SECTOR).unwrap(), block(1, 1));
            let report = disk.cut(seed);
            let left = disk.image()[..8 * SECTOR].chunks(SECTOR).filter(|s| s[0] == 1).count();
            assert_eq!(report.volatile, 1);
            assert_eq!((report.kept, report.lost), (usize::from(left == 8), usize::from(left == 0)));
            total.kept += report.kept;
            total.lost += report.lost;
            total.torn += report.torn;
        }
        assert!(total.kept > 20 && total.lost > 20 && total.torn > 10, "{total:?}");
    }

    #[test]
    fn a_later_write_may_survive_an_earlier_one() {
        let reordered = (0..200).any(|seed| {
            let mut disk = disk(Honesty::Honest);
            disk.write(0, &block(1, 1), false).unwrap();
            disk.write(SECTOR as u64, &block(2, 1), false).unwrap();
            disk.cut(seed);
            disk.image()[0] == 0 && disk.image()[SECTOR] == 2
        });
        assert!(reordered);
    }

    #[test]
    fn the_same_seed_leaves_the_same_image() {
        let run = |seed| {
            let mut disk = disk(Honesty::Honest);
            for n in 0..32u8 {
                disk.write(u64::from(n) * SECTOR as u64, &block(n + 1, 2), false).unwrap();
            }
            disk.cut(seed);
            disk.image().to_vec()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn a_forced_write_is_never_undone_by_an_older_cached_one() {
        for seed in 0..200 {
            let mut disk = disk(Honesty::Honest);
            disk.write(0, &block(1, 4), false).unwrap();
            disk.write(SECTOR as u64, &block(2, 2), true).unwrap();
            disk.cut(seed);
            assert_eq!(disk.image()[SECTOR..3 * SECTOR], block(2, 2)[..]);
        }
    }

    #[test]
    fn a_flush_covers_answered_writes_only() {
        let lost = (0..50).any(|seed| {
            let mut disk = disk(Honesty::Honest);
            disk.take(0, &block(1, 1)).unwrap();
            disk.flush();
            disk.cut(seed);
            disk.image()[0] == 0
        });
        assert!(lost);
        for seed in 0..50 {
            let mut disk = disk(Honesty::Honest);
            let ticket = disk.take(0, &block(1, 1)).unwrap();
            disk.answered(ticket, false);
            disk.flush();
            disk.cut(seed);
            disk.answered(ticket, true);
            assert_eq!(disk.image()[0], 1);
        }
    }

    #[test]
    fn an_older_open_write_never_comes_back_over_a_flushed_one() {
        for seed in 0..100 {
            let mut disk = disk(Honesty::Honest);
            disk.take(0, &block(1, 2)).unwrap();
            disk.write(0, &block(2, 1), false).unwrap();
            disk.flush();
            disk.cut(seed);
            assert_eq!(disk.image()[0], 2);
        }
    }

    #[test]
    fn a_lying_disk_loses_what_it_flushed() {
        let lost = (0..50).any(|seed| {
            let mut disk = disk(Honesty::Lies);
            disk.write(0, &block(1, 1), true).unwrap();
            disk.flush();
            disk.cut(seed);
            disk.image()[0] == 0
        });
        assert!(lost);
    }

    #[test]
    fn requests_beyond_the_disk_or_inside_a_sector_are_refused() {
        let mut disk = disk(Honesty::Honest);
        assert_eq!(disk.write(64 * SECTOR as u64, &block(1, 1), false), Err(OutOfRange));
        assert_eq!(disk.write(63 * SECTOR as u64, &block(1, 2), false), Err(OutOfRange));
        assert_eq!(disk.write(u64::MAX - 511, &block(1, 1), false), Err(OutOfRange));
        assert_eq!(disk.write(1, &block(1, 1), false), Err(OutOfRange));
        assert!(disk.read(u64::MAX, 1).is_err() && disk.read(0, 65 * SECTOR).is_err());
        assert_eq!(disk.volatile_writes(), 0);
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut disk = Volatile::new(vec![0; CACHE + (8 << 20)], Honesty::Honest);
        let chunk = vec![1u8; 1 << 20];
        for n in 0..(CACHE >> 20) + 8 {
            disk.write((n << 20) as u64, &chunk, false).unwrap();
        }
        assert!(disk.pending_bytes <= CACHE && disk.volatile_writes() > 0);
        disk.cut(1);
        assert_eq!(disk.image()[0], 1);
    }
}
