//! The two records a queued message costs (40 bytes for the message, 28 for each recipient) and the lists that run
//! through them. Lists are circular and know their last entry only: four bytes per list, however many lists there are.

use super::slab::{Slab, Slot, NONE};
use crate::{Class, HoldReason, MoveReason};

/// One queued message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) id: u64,
    /// Opaque to the backlog: where the spool keeps it.
    pub(crate) place: (u32, u32),
    pub(crate) received: u32,
    /// `u32::MAX` when there is none.
    pub(crate) not_after: u32,
    pub(crate) tenant: u32,
    pub(crate) size: u32,
    /// Recipients not finished; 0 marks a free entry.
    pub(crate) open: u32,
    pub(crate) pool: u16,
    pub(crate) class: u8,
    pub(crate) priority: i8,
}

impl Message {
    pub(crate) fn class(&self) -> Class {
        Class::from_byte(self.class)
    }

    /// Which of the three due lists of its class: priority above zero, zero, below (RFC 6710 section 4.1).
    pub(crate) fn band(&self) -> usize {
        match self.priority {
            1.. => 0,
            0 => 1,
            _ => 2,
        }
    }
}

impl Slot for Message {
    fn is_free(&self) -> bool {
        self.open == 0
    }
    fn next_free(&self) -> u32 {
        self.received
    }
    fn set_free(&mut self, next: u32) {
        *self = Self { received: next, ..Self::default() };
    }
}

/// Where a recipient stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RcptState {
    /// Nothing here.
    #[default]
    Free = 0,
    /// Waits for its due time.
    Scheduled,
    /// Due, waits to be taken.
    Due,
    /// With the caller: ready queue or connection.
    Taken,
    /// Held until someone decides.
    Held,
    /// Past its time, waits to be told to the caller.
    Expired,
}

/// It was attempted since this process started.
pub(crate) const TRIED: u8 = 0x80;
/// The level of the wheel it hangs in.
pub(crate) const LEVEL: u8 = 0x03;

/// One queued recipient.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rcpt {
    pub(crate) next: u32,
    pub(crate) prev: u32,
    pub(crate) msg: u32,
    pub(crate) queue: u32,
    pub(crate) due: u32,
    pub(crate) rcpt: u16,
    pub(crate) attempts: u16,
    pub(crate) unknowns: u8,
    pub(crate) state: RcptState,
    /// `MoveReason`, or `HoldReason` while held.
    pub(crate) reason: u8,
    pub(crate) flags: u8,
}

const _: () = assert!(size_of::<Message>() == 40 && size_of::<Rcpt>() == 28);

impl Slot for Rcpt {
    fn is_free(&self) -> bool {
        self.state == RcptState::Free
    }
    fn next_free(&self) -> u32 {
        self.next
    }
    fn set_free(&mut self, next: u32) {
        *self = Self { next, ..Self::default() };
    }
}

/// Number of hold reasons, which are 1, 2, ...
pub(crate) const HOLD_REASONS: usize = 4;

/// The hold reason behind a byte.
pub(crate) fn hold_reason(byte: u8) -> HoldReason {
    match byte {
        2 => HoldReason::SpoolDamage,
        3 => HoldReason::AckLogDamage,
        4 => HoldReason::Clock,
        _ => HoldReason::Operator,
    }
}

/// The move reason behind a byte.
pub(crate) fn move_reason(byte: u8) -> MoveReason {
    use MoveReason as M;
    const ALL: [MoveReason; 15] = [
        M::Received,
        M::Recovered,
        M::Due,
        M::Retry,
        M::UnknownRetry,
        M::NoRoom,
        M::RouteDeferred,
        M::NoSource,
        M::Held,
        M::Released,
        M::FutureRelease,
        M::Shutdown,
        M::Throttled,
        M::Rebound,
        M::Dsn,
    ];
    ALL.get(usize::from(byte).wrapping_sub(1)).copied().unwrap_or(M::Received)
}

/// Appends `key` to the list that ends in `tail`.
pub(crate) fn push_back(rcpts: &mut Slab<Rcpt>, tail: &mut u32, key: u32) {
    push_front(rcpts, tail, key);
    *tail = key;
}

/// Puts `key` before the first entry of the list that ends in `tail`.
pub(crate) fn push_front(rcpts: &mut Slab<Rcpt>, tail: &mut u32, key: u32) {
    if *tail == NONE {
        link(rcpts, key, key);
        *tail = key;
        return;
    }
    let first = next(rcpts, *tail);
    link(rcpts, *tail, key);
    link(rcpts, key, first);
}

/// Takes `key` out of the list that ends in `tail`.
pub(crate) fn unlink(rcpts: &mut Slab<Rcpt>, tail: &mut u32, key: u32) {
    let Some((next, prev)) = rcpts.get_mut(key).map(|entry| (entry.next, entry.prev)) else { return };
    if next == key {
        *tail = NONE;
        return;
    }
    link(rcpts, prev, next);
    if *tail == key {
        *tail = prev;
    }
}

/// The first entry of the list that ends in `tail`.
pub(crate) fn first(rcpts: &Slab<Rcpt>, tail: u32) -> Option<u32> {
    if tail == NONE {
        None
    } else {
        Some(next(rcpts, tail))
    }
}

fn next(rcpts: &Slab<Rcpt>, key: u32) -> u32 {
    rcpts.live(key).map_or(NONE, |entry| entry.next)
}

fn link(rcpts: &mut Slab<Rcpt>, before: u32, after: u32) {
    if let Some(entry) = rcpts.get_mut(before) {
        entry.next = after;
    }
    if let Some(entry) = rcpts.get_mut(after) {
        entry.prev = before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(rcpts: &Slab<Rcpt>, tail: u32) -> Vec<u32> {
        let mut keys = Vec::new();
        let mut at = first(rcpts, tail);
        while let Some(key) = at {
            keys.push(key);
            at = (key != tail).then(|| next(rcpts, key));
        }
        keys
    }

    #[test]
    fn lists_keep_their_order_through_removals() {
        let mut rcpts = Slab::new();
        let mut tail = NONE;
        for _ in 0..5 {
            let key = rcpts.insert(Rcpt { state: RcptState::Due, ..Rcpt::default() }).unwrap();
            push_back(&mut rcpts, &mut tail, key);
        }
        assert_eq!(order(&rcpts, tail), [0, 1, 2, 3, 4]);
        unlink(&mut rcpts, &mut tail, 4);
        unlink(&mut rcpts, &mut tail, 0);
        assert_eq!(order(&rcpts, tail), [1, 2, 3]);
        push_front(&mut rcpts, &mut tail, 0);
        assert_eq!(order(&rcpts, tail), [0, 1, 2, 3]);
        for key in [1, 0, 3, 2] {
            unlink(&mut rcpts, &mut tail, key);
        }
        assert_eq!(tail, NONE);
    }

    #[test]
    fn every_move_reason_survives_its_byte() {
        for byte in 1..=15 {
            assert_eq!(move_reason(byte) as u8, byte);
        }
        for byte in 1..=HOLD_REASONS as u8 {
            assert_eq!(hold_reason(byte) as u8, byte);
        }
    }
}
