//! The backlog: what it holds, and how recipients come in, are held, come back and leave.

use std::collections::{BTreeMap, BTreeSet};

use super::clock::ClockState;
use super::names::{Queues, CLASSES};
use super::rcpt::{self, Message, Rcpt, RcptState, HOLD_REASONS, TRIED};
use super::slab::{Slab, NONE};
use super::wheel::Wheel;
use crate::hold::HoldRules;
use crate::{Class, HoldReason, MoveReason, SpoolId, UnixSecs};

/// Names one queued message until its last recipient is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MsgKey(pub(crate) u32);
/// Names one queued recipient until it is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RcptKey(pub(crate) u32);
/// Names one scheduled queue while it has recipients, taken ones included; afterwards the key may name another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey(pub(crate) u32);

/// What the backlog keeps of a message.
#[derive(Clone, Copy, Debug)]
pub struct NewMessage {
    /// Key of the message.
    pub id: SpoolId,
    /// Opaque: where the spool keeps it.
    pub place: (u32, u32),
    /// When it was accepted.
    pub received: UnixSecs,
    /// Given up at, by the client's wish or the stream's time to live.
    pub not_after: Option<UnixSecs>,
    /// Class of its stream.
    pub class: Class,
    /// RFC 6710 priority, -9 to 9.
    pub priority: i8,
    /// Opaque: number of the egress pool.
    pub pool: u16,
    /// Opaque: number of the tenant.
    pub tenant: u32,
    /// Bytes of the stored message.
    pub size: u32,
}

/// One recipient of a new message.
#[derive(Clone, Copy, Debug)]
pub struct NewRecipient<'a> {
    /// Its number in the envelope.
    pub rcpt: u16,
    /// Text form of the queue name.
    pub queue: &'a str,
    /// Attempts made before.
    pub attempts: u16,
    /// Unknown outcomes among them.
    pub unknowns: u8,
    /// When it may be attempted.
    pub due: UnixSecs,
    /// Held from the start, for this reason.
    pub hold: Option<HoldReason>,
}

/// Why a message could not be queued. Its spool record is durable all the same: it comes back at the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertRefused {
    /// It has no recipient; nothing was queued.
    #[error("a message without recipients is not queued")]
    NoRecipients,
    /// All keys are out; what fitted was queued.
    #[error("the backlog is full")]
    Full,
}

/// A recipient in the caller's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Names it in `put_back`, `finish`, `hold`.
    pub rcpt: RcptKey,
    /// Its message.
    pub msg: MsgKey,
    /// Its queue.
    pub queue: QueueKey,
    /// Key of its message in the spool.
    pub id: SpoolId,
    /// Opaque place in the spool.
    pub place: (u32, u32),
    /// Its number in the envelope.
    pub index: u16,
    /// Attempts made before.
    pub attempts: u16,
    /// Unknown outcomes among them.
    pub unknowns: u8,
    /// Class of the message.
    pub class: Class,
    /// Priority of the message.
    pub priority: i8,
    /// Opaque number of the egress pool.
    pub pool: u16,
    /// Opaque number of the tenant.
    pub tenant: u32,
    /// Bytes of the stored message.
    pub size: u32,
    /// When the message was accepted.
    pub received: UnixSecs,
    /// Given up at.
    pub not_after: Option<UnixSecs>,
}

/// The last recipient of a message was finished: it may be retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Key of the message.
    pub id: SpoolId,
    /// Where the spool keeps it.
    pub place: (u32, u32),
}

/// All queued messages and recipients of one shard.
#[derive(Debug)]
pub struct Backlog {
    pub(super) messages: Slab<Message>,
    pub(super) rcpts: Slab<Rcpt>,
    pub(super) queues: Queues,
    pub(super) wheel: Wheel,
    /// Last queues of the rings of queues with due recipients, by class.
    pub(super) active: [u32; CLASSES],
    /// The same of suspended queues.
    pub(super) parked: [u32; CLASSES],
    pub(super) stalls: BTreeSet<(u32, u32)>,
    pub(super) held: [u32; HOLD_REASONS],
    pub(super) expired: u32,
    pub(super) sweep: u32,
    pub(super) now: u32,
    pub(super) clock: ClockState,
    pub(super) max_age: u32,
    pub(super) queue_max_age: BTreeMap<u32, u32>,
    pub(super) rules: HoldRules,
    /// Counts the calls of `set_rules`: which rules a queue was judged by.
    pub(super) rules_epoch: u32,
    pub(super) by_state: [u32; 6],
    pub(super) due_by_class: [u32; CLASSES],
}

impl Backlog {
    /// An empty backlog. Recipients older than `max_age` seconds that were tried since the start are given up.
    #[must_use]
    pub fn new(now: UnixSecs, max_age: u32) -> Self {
        Self {
            messages: Slab::new(),
            rcpts: Slab::new(),
            queues: Queues::new(),
            wheel: Wheel::new(now.0),
            active: [NONE; CLASSES],
            parked: [NONE; CLASSES],
            stalls: BTreeSet::new(),
            held: [NONE; HOLD_REASONS],
            expired: NONE,
            sweep: 0,
            now: now.0,
            clock: ClockState::Unsynced,
            max_age,
            queue_max_age: BTreeMap::new(),
            rules: HoldRules::default(),
            rules_epoch: 0,
            by_state: [0; 6],
            due_by_class: [0; CLASSES],
        }
    }

    /// Queues a message. A recipient whose due time has come is due at once.
    ///
    /// # Errors
    /// [`InsertRefused`]; with `Full`, the recipients that fitted stay queued.
    pub fn insert<'a>(
        &mut self,
        new: &NewMessage,
        recipients: impl IntoIterator<Item = NewRecipient<'a>>,
        reason: MoveReason,
    ) -> Result<MsgKey, InsertRefused> {
        let mut recipients = recipients.into_iter().peekable();
        if recipients.peek().is_none() {
            return Err(InsertRefused::NoRecipients);
        }
        let msg = self.messages.insert(record(new)).ok_or(InsertRefused::Full)?;
        let mut count = 0;
        let mut full = false;
        for recipient in recipients {
            if self.insert_rcpt(msg, &recipient, reason).is_none() {
                full = true;
                break;
            }
            count += 1;
        }
        if count == 0 {
            self.messages.remove(msg);
        } else if let Some(message) = self.messages.get_mut(msg) {
            message.open = count;
        }
        if full {
            Err(InsertRefused::Full)
        } else {
            Ok(MsgKey(msg))
        }
    }

    fn insert_rcpt(&mut self, msg: u32, new: &NewRecipient<'_>, reason: MoveReason) -> Option<()> {
        let queue = self.queues.acquire(new.queue)?;
        let key = self.rcpts.insert(Rcpt {
            msg,
            queue,
            due: new.due.0,
            rcpt: new.rcpt,
            attempts: new.attempts,
            unknowns: new.unknowns,
            state: RcptState::Taken,
            reason: reason as u8,
            ..Rcpt::default()
        });
        let Some(key) = key else {
            self.release_queue(queue);
            return None;
        };
        self.by_state[RcptState::Taken as usize] += 1;
        self.queue_mut(queue, |q| q.taken += 1);
        match new.hold {
            Some(reason) => self.hang_held(key, reason),
            None => self.place(key, false),
        }
        Some(())
    }

    /// Gives a taken (or held, or expired) recipient back: due at `due`, with its counts as they are now.
    ///
    /// With the reasons `NoRoom`, `Throttled` and `Shutdown` and a due time that has come, it goes before those that
    /// wait. Recipients of one message travel together again when they are put back with the same due time. False when
    /// the recipient is not with the caller.
    pub fn put_back(&mut self, rcpt: RcptKey, due: UnixSecs, attempts: u16, unknowns: u8, reason: MoveReason) -> bool {
        if !self.state_is(rcpt, &[RcptState::Taken, RcptState::Held, RcptState::Expired]) {
            return false;
        }
        self.detach(rcpt.0);
        if let Some(entry) = self.rcpts.get_mut(rcpt.0) {
            if attempts > entry.attempts {
                entry.flags |= TRIED;
            }
            entry.due = due.0;
            entry.attempts = attempts;
            entry.unknowns = unknowns;
            entry.reason = reason as u8;
        }
        self.place(rcpt.0, matches!(reason, MoveReason::NoRoom | MoveReason::Throttled | MoveReason::Shutdown));
        true
    }

    /// Gives back, without an attempt, what had been taken and waits in a ready queue: first come, first again.
    /// Returns how many were the caller's to give.
    pub fn drain_ready_back(&mut self, rcpts: &[RcptKey], due: UnixSecs, reason: MoveReason) -> usize {
        let mut count = 0;
        for rcpt in rcpts.iter().rev() {
            let Some((attempts, unknowns)) = self.rcpts.live(rcpt.0).map(|e| (e.attempts, e.unknowns)) else {
                continue;
            };
            count += usize::from(self.put_back(*rcpt, due, attempts, unknowns, reason));
        }
        count
    }

    /// The recipient is decided and done: forgets it, from any state. `Some` when it was the last of its message.
    pub fn finish(&mut self, rcpt: RcptKey) -> Option<Finished> {
        let (msg, queue) = self.rcpts.live(rcpt.0).map(|entry| (entry.msg, entry.queue))?;
        self.detach(rcpt.0);
        self.by_state[RcptState::Taken as usize] -= 1;
        self.queue_mut(queue, |q| q.taken -= 1);
        self.rcpts.remove(rcpt.0);
        self.release_queue(queue);
        let message = self.messages.get_mut(msg)?;
        if message.open > 1 {
            message.open -= 1;
            return None;
        }
        let finished = Finished { id: SpoolId(message.id), place: message.place };
        self.messages.remove(msg);
        Some(finished)
    }

    /// Holds a recipient until [`Backlog::release`]. False when there is none.
    pub fn hold(&mut self, rcpt: RcptKey, reason: HoldReason) -> bool {
        if self.rcpts.live(rcpt.0).is_none() {
            return false;
        }
        self.detach(rcpt.0);
        self.hang_held(rcpt.0, reason);
        true
    }

    /// Ends the hold of one recipient: due now. False when it is not held.
    pub fn release(&mut self, rcpt: RcptKey) -> bool {
        if !self.state_is(rcpt, &[RcptState::Held]) {
            return false;
        }
        self.detach(rcpt.0);
        let now = self.now;
        if let Some(entry) = self.rcpts.get_mut(rcpt.0) {
            entry.due = now;
            entry.reason = MoveReason::Released as u8;
        }
        self.place(rcpt.0, false);
        true
    }

    /// Hands out up to `max` recipients held for `reason`, longest held first, for the caller to release (`put_back`)
    /// or to bounce (`finish`). Returns how many.
    pub fn take_held(&mut self, reason: HoldReason, max: usize, out: &mut Vec<Taken>) -> usize {
        let mut count = 0;
        while count < max {
            let Some(key) = rcpt::first(&self.rcpts, self.held[reason as usize - 1]) else { break };
            self.detach(key);
            out.extend(self.taken(key));
            count += 1;
        }
        count
    }

    /// Hands out, from any state, those recipients of a message that `wanted` names by their number in the envelope.
    /// Looks at every recipient: for the few whose consequences a start must repeat, not for the mail path.
    pub fn take_recipients(&mut self, msg: MsgKey, wanted: impl Fn(u16) -> bool, out: &mut Vec<Taken>) -> usize {
        let keys = self.recipients_of(msg);
        let mut count = 0;
        for key in keys {
            if self.rcpts.live(key.0).is_some_and(|entry| wanted(entry.rcpt)) {
                self.detach(key.0);
                out.extend(self.taken(key.0));
                count += 1;
            }
        }
        count
    }

    /// The spool moved the message.
    pub fn set_place(&mut self, msg: MsgKey, place: (u32, u32)) -> bool {
        self.messages.get_mut(msg.0).map(|message| message.place = place).is_some()
    }

    /// The spool moved these messages; `moved` is sorted by id. One pass over all messages. Returns how many were here.
    pub fn set_places(&mut self, moved: &[(SpoolId, (u32, u32))]) -> usize {
        let mut count = 0;
        for key in 0..self.messages.end() {
            if let Some(message) = self.messages.get_mut(key) {
                if let Ok(at) = moved.binary_search_by_key(&message.id, |entry| entry.0 .0) {
                    message.place = moved[at].1;
                    count += 1;
                }
            }
        }
        count
    }

    /// Gives a taken recipient another queue name (it stays taken). False when it is not with the caller.
    pub fn rebind(&mut self, rcpt: RcptKey, queue: &str) -> bool {
        if !self.state_is(rcpt, &[RcptState::Taken]) {
            return false;
        }
        let Some(to) = self.queues.acquire(queue) else { return false };
        let Some(entry) = self.rcpts.get_mut(rcpt.0) else { return false };
        let from = std::mem::replace(&mut entry.queue, to);
        self.queue_mut(to, |q| q.taken += 1);
        self.queue_mut(from, |q| q.taken -= 1);
        self.release_queue(from);
        true
    }

    /// Gives a queue its own give-up age in seconds, or the common one again. Lasts while the queue has recipients.
    pub fn set_max_age(&mut self, queue: QueueKey, max_age: Option<u32>) {
        match max_age {
            Some(age) if self.queues.slab.live(queue.0).is_some() => {
                self.queue_max_age.insert(queue.0, age);
            }
            _ => {
                self.queue_max_age.remove(&queue.0);
            }
        }
    }

    /// Hangs a taken recipient in by its due time.
    pub(super) fn place(&mut self, key: u32, front: bool) {
        let Some(entry) = self.rcpts.get_mut(key) else { return };
        let (msg, queue, due) = (entry.msg, entry.queue, entry.due);
        self.by_state[RcptState::Taken as usize] -= 1;
        self.queue_mut(queue, |q| q.taken -= 1);
        if due <= self.now {
            self.make_due(key, front);
            return;
        }
        // A message that ends before its next attempt must be looked at when it ends.
        let not_after = self.messages.get(msg).map_or(u32::MAX, |message| message.not_after);
        // While the end can't be told, it must not bring the recipient back every second either.
        if not_after > self.now || self.clock.may_expire() {
            if let Some(entry) = self.rcpts.get_mut(key) {
                entry.due = due.min(not_after);
            }
        }
        self.wheel.insert(&mut self.rcpts, key);
        self.by_state[RcptState::Scheduled as usize] += 1;
    }

    fn hang_held(&mut self, key: u32, reason: HoldReason) {
        let Some(entry) = self.rcpts.get_mut(key) else { return };
        entry.state = RcptState::Held;
        entry.reason = reason as u8;
        let queue = entry.queue;
        rcpt::push_back(&mut self.rcpts, &mut self.held[reason as usize - 1], key);
        self.by_state[RcptState::Taken as usize] -= 1;
        self.by_state[RcptState::Held as usize] += 1;
        self.queue_mut(queue, |q| {
            q.taken -= 1;
            q.held += 1;
        });
    }

    /// Takes a recipient out of whatever it hangs in: it is `Taken` afterwards.
    pub(super) fn detach(&mut self, key: u32) {
        let Some(entry) = self.rcpts.live(key) else { return };
        let (state, queue, msg, reason) = (entry.state, entry.queue, entry.msg, entry.reason);
        match state {
            RcptState::Scheduled => self.wheel.remove(&mut self.rcpts, key),
            RcptState::Due => {
                let (class, band) = self.messages.get(msg).map_or((0, 0), |m| (m.class() as usize, m.band()));
                if let Some(queue) = self.queues.slab.get_mut(queue) {
                    rcpt::unlink(&mut self.rcpts, &mut queue.tails[class][band], key);
                    queue.due[class] -= 1;
                    self.due_by_class[class] -= 1;
                }
            }
            RcptState::Held => {
                rcpt::unlink(&mut self.rcpts, &mut self.held[rcpt::hold_reason(reason) as usize - 1], key);
                self.queue_mut(queue, |q| q.held -= 1);
            }
            RcptState::Expired => rcpt::unlink(&mut self.rcpts, &mut self.expired, key),
            RcptState::Taken | RcptState::Free => return,
        }
        self.by_state[state as usize] -= 1;
        self.by_state[RcptState::Taken as usize] += 1;
        self.queue_mut(queue, |q| q.taken += 1);
        if let Some(entry) = self.rcpts.get_mut(key) {
            entry.state = RcptState::Taken;
        }
    }

    /// What the caller learns of a recipient it takes.
    pub(super) fn taken(&self, key: u32) -> Option<Taken> {
        let entry = self.rcpts.live(key)?;
        let message = self.messages.live(entry.msg)?;
        Some(Taken {
            rcpt: RcptKey(key),
            msg: MsgKey(entry.msg),
            queue: QueueKey(entry.queue),
            id: SpoolId(message.id),
            place: message.place,
            index: entry.rcpt,
            attempts: entry.attempts,
            unknowns: entry.unknowns,
            class: message.class(),
            priority: message.priority,
            pool: message.pool,
            tenant: message.tenant,
            size: message.size,
            received: UnixSecs(message.received),
            not_after: (message.not_after != u32::MAX).then_some(UnixSecs(message.not_after)),
        })
    }

    fn state_is(&self, rcpt: RcptKey, states: &[RcptState]) -> bool {
        self.rcpts.live(rcpt.0).is_some_and(|entry| states.contains(&entry.state))
    }

    pub(super) fn queue_mut(&mut self, key: u32, change: impl FnOnce(&mut super::names::Queue)) {
        if let Some(queue) = self.queues.slab.get_mut(key) {
            change(queue);
        }
    }

    pub(super) fn release_queue(&mut self, key: u32) {
        let Some(queue) = self.queues.slab.get_mut(key) else { return };
        if queue.refs > 1 {
            queue.refs -= 1;
            return;
        }
        let stall = (queue.stalled_until, key);
        self.stalls.remove(&stall);
        self.queue_max_age.remove(&key);
        self.queues.remove(key);
    }
}

fn record(new: &NewMessage) -> Message {
    Message {
        id: new.id.0,
        place: new.place,
        received: new.received.0,
        not_after: new.not_after.map_or(u32::MAX, |at| at.0),
        tenant: new.tenant,
        size: new.size,
        // Not free while its recipients come in.
        open: u32::MAX,
        pool: new.pool,
        class: new.class as u8,
        priority: new.priority,
    }
}
