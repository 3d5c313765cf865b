//! The timer wheel: four levels of 256 slots cover every second of 32 bits, insertion and removal touch one slot.
//!
//! An entry hangs at the level of the highest byte in which its time differs from the hand. When the hand enters
//! that byte's value, the slot is spread over the levels below it. So an entry moves at most three times, keeps its
//! order among entries of the same second, and its level never changes unseen. Work is bounded by a budget: a slot
//! with a million entries is emptied over many calls, and the hand waits for it.

use super::rcpt::{first, push_back, unlink, Rcpt, RcptState, LEVEL};
use super::slab::{Slab, NONE};

const LEVELS: usize = 4;
const SLOTS: usize = 256;

/// What [`Wheel::step`] came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// This entry is due; it hangs nowhere now.
    Due(u32),
    /// An entry came one level down, or the hand moved.
    Moved,
    /// The hand stands at the time asked for and nothing is due.
    Done,
}

/// Entries by due time.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// Last entry of each slot's list.
    tails: Box<[[u32; SLOTS]; LEVELS]>,
    occupied: [[u64; SLOTS / 64]; LEVELS],
    /// Everything due at or before this second has left, but for what hangs in the slots of this very second.
    hand: u32,
}

impl Wheel {
    pub(crate) fn new(now: u32) -> Self {
        Self { tails: Box::new([[NONE; SLOTS]; LEVELS]), occupied: [[0; SLOTS / 64]; LEVELS], hand: now }
    }

    /// The second the hand stands at.
    pub(crate) fn hand(&self) -> u32 {
        self.hand
    }

    /// Hangs `key` in by its `due`; a time not after the hand counts as the next second.
    pub(crate) fn insert(&mut self, rcpts: &mut Slab<Rcpt>, key: u32) {
        let Some(entry) = rcpts.get_mut(key) else { return };
        let due = entry.due.max(self.hand.saturating_add(1));
        entry.due = due;
        self.hang(rcpts, key, due);
    }

    fn hang(&mut self, rcpts: &mut Slab<Rcpt>, key: u32, due: u32) {
        let level = (31 - ((due ^ self.hand) | 1).leading_zeros()) as usize / 8;
        let slot = slot_at(due, level);
        if let Some(entry) = rcpts.get_mut(key) {
            entry.flags = (entry.flags & !LEVEL) | level as u8;
            entry.state = RcptState::Scheduled;
        }
        push_back(rcpts, &mut self.tails[level][slot], key);
        self.occupied[level][slot / 64] |= 1 << (slot % 64);
    }

    /// Takes `key` out.
    pub(crate) fn remove(&mut self, rcpts: &mut Slab<Rcpt>, key: u32) {
        let Some(entry) = rcpts.get_mut(key) else { return };
        let (level, due) = (usize::from(entry.flags & LEVEL), entry.due);
        self.take_out(rcpts, level, slot_at(due, level), key);
    }

    fn take_out(&mut self, rcpts: &mut Slab<Rcpt>, level: usize, slot: usize, key: u32) {
        let tail = &mut self.tails[level][slot];
        unlink(rcpts, tail, key);
        if *tail == NONE {
            self.occupied[level][slot / 64] &= !(1 << (slot % 64));
        }
    }

    /// One piece of work on the way to `now`.
    pub(crate) fn step(&mut self, rcpts: &mut Slab<Rcpt>, now: u32) -> Step {
        for level in (0..LEVELS).rev() {
            let slot = slot_at(self.hand, level);
            let Some(key) = first(rcpts, self.tails[level][slot]) else { continue };
            self.take_out(rcpts, level, slot, key);
            let due = rcpts.live(key).map_or(0, |entry| entry.due);
            if due <= self.hand {
                return Step::Due(key);
            }
            self.hang(rcpts, key, due);
            return Step::Moved;
        }
        if self.hand >= now {
            return Step::Done;
        }
        self.hand = self.next_stop().min(now);
        Step::Moved
    }

    /// The next second at which something may have to be done.
    fn next_stop(&self) -> u32 {
        for level in 0..LEVELS {
            let from = slot_at(self.hand, level) + 1;
            if let Some(slot) = next_bit(&self.occupied[level], from) {
                let shift = 8 * level as u32;
                let above = u64::from(self.hand) >> (shift + 8) << (shift + 8);
                return (above | (slot as u64) << shift) as u32;
            }
        }
        u32::MAX
    }

    /// Forgets all slots and puts the hand at `now`, after the clock went back: the caller hangs all entries in anew.
    pub(crate) fn reset(&mut self, now: u32) {
        *self = Self::new(now);
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + LEVELS * SLOTS * 4
    }
}

fn slot_at(time: u32, level: usize) -> usize {
    (time >> (8 * level)) as usize & (SLOTS - 1)
}

fn next_bit(words: &[u64; SLOTS / 64], from: usize) -> Option<usize> {
    (from / 64..words.len()).find_map(|word| {
        let mask = if word == from / 64 { !0u64 << (from % 64) } else { !0 };
        let bits = words[word] & mask;
        (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{rngs::StdRng, Rng, SeedableRng};

    fn run(wheel: &mut Wheel, rcpts: &mut Slab<Rcpt>, now: u32) -> Vec<u32> {
        let mut due = Vec::new();
        loop {
            match wheel.step(rcpts, now) {
                Step::Due(key) => due.push(key),
                Step::Moved => {}
                Step::Done => return due,
            }
        }
    }

    fn add(wheel: &mut Wheel, rcpts: &mut Slab<Rcpt>, due: u32) -> u32 {
        let key = rcpts.insert(Rcpt { state: RcptState::Taken, due, ..Rcpt::default() }).unwrap();
        wheel.insert(rcpts, key);
        key
    }

    #[test]
    fn entries_leave_in_their_second_whatever_the_distance() {
        for start in [0u32, 255, 256, 65_535, 1_700_000_000] {
            for distance in [1u32, 2, 255, 256, 257, 65_535, 65_536, 65_537, 1 << 24, (1 << 24) + 77, 2_000_000_000] {
                let (mut wheel, mut rcpts) = (Wheel::new(start), Slab::new());
                let key = add(&mut wheel, &mut rcpts, start + distance);
                assert_eq!(run(&mut wheel, &mut rcpts, start + distance - 1), [0u32; 0], "{start} {distance}");
                assert_eq!(run(&mut wheel, &mut rcpts, start + distance), [key], "{start} {distance}");
            }
        }
    }

    #[test]
    fn the_end_of_time_is_reached_without_a_walk_over_every_second() {
        let (mut wheel, mut rcpts) = (Wheel::new(1_700_000_000), Slab::new());
        let key = add(&mut wheel, &mut rcpts, u32::MAX);
        let mut steps = 0;
        while wheel.step(&mut rcpts, u32::MAX) != Step::Due(key) {
            steps += 1;
        }
        assert!(steps < 10, "{steps}");
        assert_eq!(run(&mut wheel, &mut rcpts, u32::MAX), [0u32; 0]);
    }

    #[test]
    fn agrees_with_a_sorted_list_under_random_work() {
        for seed in 0..40 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut now = random.random_range(0..2_000_000_000u32);
            let (mut wheel, mut rcpts) = (Wheel::new(now), Slab::new());
            let mut model: Vec<(u32, u32)> = Vec::new();
            for _ in 0..400 {
                match random.random_range(0..10) {
                    0..=5 => {
                        let reach = 1u32 << random.random_range(1..28);
                        let due = now + random.random_range(1..=reach);
                        let key = add(&mut wheel, &mut rcpts, due);
                        model.push((due, key));
                    }
                    6 if !model.is_empty() => {
                        let (_, key) = model.remove(random.random_range(0..model.len()));
                        wheel.remove(&mut rcpts, key);
                        rcpts.remove(key);
                    }
                    _ => {
                        let reach = 1u32 << random.random_range(1..20);
                        now += random.random_range(0..reach);
                        let mut left = run(&mut wheel, &mut rcpts, now);
                        let mut want: Vec<u32> = model.iter().filter(|e| e.0 <= now).map(|e| e.1).collect();
                        for key in &left {
                            rcpts.remove(*key);
                        }
                        model.retain(|e| e.0 > now);
                        left.sort_unstable();
                        want.sort_unstable();
                        assert_eq!(left, want, "seed {seed}");
                    }
                }
            }
        }
    }
}
