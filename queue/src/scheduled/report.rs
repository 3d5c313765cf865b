//! What the backlog can tell: totals, one queue, one recipient. For status pages, limits and explanations.

use super::backlog::{Backlog, MsgKey, QueueKey, RcptKey};
use super::names::{STALLED_ANY, SUSPENDED};
use super::rcpt::{self, RcptState};
use crate::{Class, HoldReason, MoveReason, SpoolId, UnixSecs};

/// Counts over the whole backlog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Queued messages.
    pub messages: usize,
    /// Queued recipients; the sum of the states below.
    pub recipients: usize,
    /// Distinct queue names.
    pub queues: usize,
    /// Waiting for their due time.
    pub scheduled: usize,
    /// Due, waiting to be taken.
    pub due: usize,
    /// Due by class: critical, transactional, bulk.
    pub due_by_class: [usize; 3],
    /// With the caller.
    pub taken: usize,
    /// Held.
    pub held: usize,
    /// Past their end, not yet told.
    pub expired: usize,
    /// Bytes of memory held.
    pub bytes: usize,
}

/// One scheduled queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// Text form of its name.
    pub name: String,
    /// Due recipients by class: critical, transactional, bulk.
    pub due: [usize; 3],
    /// With the caller.
    pub taken: usize,
    /// Held.
    pub held: usize,
    /// Waiting for their due time (and the few past their end).
    pub waiting: usize,
    /// A hold rule stops it (as of its last turn).
    pub suspended: bool,
    /// Passed over until.
    pub stalled_until: Option<UnixSecs>,
}

/// Why a recipient has not left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RcptInfo {
    /// Its number in the envelope.
    pub index: u16,
    /// Its message.
    pub id: SpoolId,
    /// Its queue.
    pub queue: QueueKey,
    /// Where it stands.
    pub state: RcptState,
    /// When it is (or was) due.
    pub due: UnixSecs,
    /// Attempts made.
    pub attempts: u16,
    /// Unknown outcomes among them.
    pub unknowns: u8,
    /// Why it was put where it is; `Held` while held.
    pub reason: MoveReason,
    /// Why it is held.
    pub hold: Option<HoldReason>,
}

impl Backlog {
    /// Counts over everything, in constant time.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let state = |state: RcptState| self.by_state[state as usize] as usize;
        Totals {
            messages: self.messages.len(),
            recipients: self.rcpts.len(),
            queues: self.queues.slab.len(),
            scheduled: state(RcptState::Scheduled),
            due: state(RcptState::Due),
            due_by_class: self.due_by_class.map(|count| count as usize),
            taken: state(RcptState::Taken),
            held: state(RcptState::Held),
            expired: state(RcptState::Expired),
            bytes: self.messages.bytes() + self.rcpts.bytes() + self.queues.bytes() + self.wheel.bytes(),
        }
    }

    /// The text form of a queue's name.
    #[must_use]
    pub fn queue_name(&self, queue: QueueKey) -> Option<&str> {
        self.queues.name(queue.0)
    }

    /// The queue of this name, when it has recipients.
    #[must_use]
    pub fn queue_key(&self, name: &str) -> Option<QueueKey> {
        self.queues.find(name).map(QueueKey)
    }

    /// One queue.
    #[must_use]
    pub fn queue_info(&self, key: QueueKey) -> Option<QueueInfo> {
        let queue = self.queues.slab.live(key.0)?;
        let due: u32 = queue.due.iter().sum();
        let others = due + queue.taken + queue.held + queue.ringed.count_ones();
        Some(QueueInfo {
            name: self.queues.name(key.0)?.to_owned(),
            due: queue.due.map(|count| count as usize),
            taken: queue.taken as usize,
            held: queue.held as usize,
            waiting: queue.refs.saturating_sub(others) as usize,
            suspended: queue.flags & SUSPENDED != 0,
            stalled_until: (queue.flags & STALLED_ANY != 0).then_some(UnixSecs(queue.stalled_until)),
        })
    }

    /// All queues with recipients.
    pub fn queues(&self) -> impl Iterator<Item = QueueKey> + '_ {
        self.queues.slab.iter().map(|(key, _)| QueueKey(key))
    }

    /// The queued message with this id. Looks at every message: for a person asking, not for the mail path.
    #[must_use]
    pub fn find(&self, id: SpoolId) -> Option<MsgKey> {
        self.messages.iter().find(|(_, message)| message.id == id.0).map(|(key, _)| MsgKey(key))
    }

    /// The open recipients of a message. Looks at every recipient, as [`Backlog::find`] does at messages.
    #[must_use]
    pub fn recipients_of(&self, msg: MsgKey) -> Vec<RcptKey> {
        self.rcpts.iter().filter(|(_, entry)| entry.msg == msg.0).map(|(key, _)| RcptKey(key)).collect()
    }

    /// Recipients not finished of a message.
    #[must_use]
    pub fn open_of(&self, msg: MsgKey) -> u32 {
        self.messages.live(msg.0).map_or(0, |message| message.open)
    }

    /// Where one recipient stands and why.
    #[must_use]
    pub fn explain(&self, rcpt: RcptKey) -> Option<RcptInfo> {
        let entry = self.rcpts.live(rcpt.0)?;
        let held = entry.state == RcptState::Held;
        Some(RcptInfo {
            index: entry.rcpt,
            id: SpoolId(self.messages.live(entry.msg)?.id),
            queue: QueueKey(entry.queue),
            state: entry.state,
            due: UnixSecs(entry.due),
            attempts: entry.attempts,
            unknowns: entry.unknowns,
            reason: if held { MoveReason::Held } else { rcpt::move_reason(entry.reason) },
            hold: held.then(|| rcpt::hold_reason(entry.reason)),
        })
    }

    /// Due recipients of one class in one queue.
    #[must_use]
    pub fn due_in(&self, queue: QueueKey, class: Class) -> usize {
        self.queues.slab.live(queue.0).map_or(0, |queue| queue.due[class as usize] as usize)
    }
}
