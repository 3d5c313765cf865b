//! Who is due, and whose turn it is: the wheel fills the due lists, queues with due recipients take turns, critical
//! mail goes first.

use super::backlog::{Backlog, QueueKey, RcptKey, Taken};
use super::clock::ClockState;
use super::names::{Queues, BANDS, CLASSES, STALLED, STALLED_ANY, SUSPENDED};
use super::rcpt::{self, RcptState, TRIED};
use super::slab::NONE;
use super::wheel::Step;
use crate::hold::HoldRules;
use crate::{Class, MoveReason, QueueName, UnixSecs};

/// A set of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes(u8);

impl Classes {
    /// Every class.
    pub const ALL: Self = Self(0b111);
    /// Critical mail alone.
    pub const CRITICAL: Self = Self(0b001);
    /// All but bulk: what still moves when room is short.
    pub const NOT_BULK: Self = Self(0b011);

    /// True when `class` is in the set.
    #[must_use]
    pub fn has(self, class: Class) -> bool {
        self.0 & (1 << class as u8) != 0
    }
}

/// What [`Backlog::advance`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advanced {
    /// Recipients that became due (or reached their end).
    pub due: usize,
    /// The budget ended the work: call again soon.
    pub more: bool,
    /// The clock went back behind the wheel, by this many seconds: all waiting recipients were hung in anew, in one
    /// pass.
    pub went_back: u32,
}

/// The wheel's hand may be ahead of the clock by this many seconds before everything is hung in anew.
const BACK_MAX: u32 = 60;
/// Shortest wait after an Unknown outcome, in seconds.
const UNKNOWN_WAIT_S: u32 = 30 * 60;

impl Backlog {
    /// Time passes: recipients whose time has come become due. At most `budget` entries of the wheel are touched, so
    /// that a million equal due times stop nobody.
    pub fn advance(&mut self, now: UnixSecs, clock: ClockState, budget: usize) -> Advanced {
        let mut done = Advanced::default();
        self.now = now.0;
        self.clock = clock;
        if self.wheel.hand() > now.0.saturating_add(BACK_MAX) {
            done.went_back = self.wheel.hand() - now.0;
            self.rehang();
        }
        self.wake_stalled();
        for _ in 0..budget {
            match self.wheel.step(&mut self.rcpts, now.0) {
                Step::Due(key) => {
                    self.by_state[RcptState::Scheduled as usize] -= 1;
                    self.fire(key);
                    done.due += 1;
                }
                Step::Moved => {}
                Step::Done => return done,
            }
        }
        done.more = true;
        done
    }

    fn fire(&mut self, key: u32) {
        let Some(entry) = self.rcpts.get_mut(key) else { return };
        entry.state = RcptState::Taken;
        let waited = matches!(rcpt::move_reason(entry.reason), MoveReason::FutureRelease);
        if waited {
            entry.reason = MoveReason::Due as u8;
        }
        if self.waits_for_unknown(key) {
            // It came for its end, which the clock may not bring now; its wait is not over.
            if let Some(entry) = self.rcpts.get_mut(key) {
                entry.due = self.now.saturating_add(UNKNOWN_WAIT_S);
            }
            self.wheel.insert(&mut self.rcpts, key);
            self.by_state[RcptState::Scheduled as usize] += 1;
        } else if self.has_ended(key) {
            self.by_state[RcptState::Taken as usize] += 1;
            if let Some(queue) = self.rcpts.live(key).map(|entry| entry.queue) {
                self.queue_mut(queue, |q| q.taken += 1);
            }
            self.hang_expired(key);
        } else {
            self.make_due(key, false);
        }
    }

    /// True when a recipient fires at the end of its message and not at its own time, while nothing may end and an
    /// unknown outcome forbids an early attempt.
    fn waits_for_unknown(&self, key: u32) -> bool {
        let Some(entry) = self.rcpts.live(key) else { return false };
        let not_after = self.messages.live(entry.msg).map_or(u32::MAX, |message| message.not_after);
        !self.clock.may_expire()
            && entry.unknowns > 0
            && entry.due >= not_after
            && entry.due <= not_after.saturating_add(BACK_MAX)
    }

    /// Hangs a recipient that hangs nowhere and is counted nowhere into its due list.
    pub(super) fn make_due(&mut self, key: u32, front: bool) {
        let Some(entry) = self.rcpts.get_mut(key) else { return };
        entry.state = RcptState::Due;
        let (msg, key_of_queue) = (entry.msg, entry.queue);
        let (class, band) = self.messages.get(msg).map_or((0, 0), |m| (m.class() as usize, m.band()));
        let Some(queue) = self.queues.slab.get_mut(key_of_queue) else { return };
        let tail = &mut queue.tails[class][band];
        if front {
            rcpt::push_front(&mut self.rcpts, tail, key);
        } else {
            rcpt::push_back(&mut self.rcpts, tail, key);
        }
        queue.due[class] += 1;
        self.by_state[RcptState::Due as usize] += 1;
        self.due_by_class[class] += 1;
        self.ring_in(key_of_queue, class);
    }

    /// Links a queue into the ring of active queues of a class, unless it is linked, parked or left alone.
    fn ring_in(&mut self, key: u32, class: usize) {
        let Some(queue) = self.queues.slab.get_mut(key) else { return };
        if queue.ringed & (1 << class) != 0 || queue.flags & (STALLED << class) != 0 {
            return;
        }
        queue.ringed |= 1 << class;
        queue.refs += 1;
        ring_push(&mut self.queues, &mut self.active[class], class, key);
    }

    /// The queue whose turn it is: the first in its class's ring, critical before transactional before bulk. It goes to
    /// the end of the ring. Suspended and stalled queues are passed over. `None` when nothing of these classes is due.
    pub fn next_active(&mut self, classes: Classes) -> Option<(QueueKey, Class)> {
        [Class::Critical, Class::Transactional, Class::Bulk]
            .into_iter()
            .filter(|class| classes.has(*class))
            .find_map(|class| self.next_in(class as usize).map(|key| (QueueKey(key), class)))
    }

    fn next_in(&mut self, class: usize) -> Option<u32> {
        while self.active[class] != NONE {
            let key = ring_pop(&mut self.queues, &mut self.active[class], class);
            self.judge_queue(key);
            let Some(queue) = self.queues.slab.get_mut(key) else { continue };
            if queue.due[class] == 0 || queue.flags & (STALLED << class) != 0 {
                queue.ringed &= !(1 << class);
                self.release_queue(key);
            } else if queue.flags & SUSPENDED != 0 {
                ring_push(&mut self.queues, &mut self.parked[class], class, key);
            } else {
                ring_push(&mut self.queues, &mut self.active[class], class, key);
                return Some(key);
            }
        }
        None
    }

    /// Takes up to `max` due recipients of one class out of a queue, by priority, oldest first. Recipients of one
    /// message that became due together come together. Those past their end are not handed out but await
    /// [`Backlog::expired`]. Returns how many were added to `out`.
    pub fn take(&mut self, queue: QueueKey, class: Class, max: usize, out: &mut Vec<Taken>) -> usize {
        let mut count = 0;
        for band in 0..BANDS {
            while count < max {
                let tail = self.queues.slab.live(queue.0).map_or(NONE, |q| q.tails[class as usize][band]);
                let Some(key) = rcpt::first(&self.rcpts, tail) else { break };
                self.detach(key);
                if self.has_ended(key) {
                    self.hang_expired(key);
                } else {
                    out.extend(self.taken(key));
                    count += 1;
                }
            }
        }
        count
    }

    /// Passes over a queue, for one class or for all, until `until` (its route is being looked up, its ready queue has
    /// no room for the class, ...) or [`Backlog::wake`]. Stalls of several classes end together, at the earliest time.
    pub fn stall(&mut self, queue: QueueKey, class: Option<Class>, until: UnixSecs) {
        let Some(entry) = self.queues.slab.get_mut(queue.0) else { return };
        let already = entry.flags & STALLED_ANY != 0;
        let before = entry.stalled_until;
        let until = if already { before.min(until.0) } else { until.0 };
        entry.stalled_until = until;
        entry.flags |= class.map_or(STALLED_ANY, |class| STALLED << class as u8);
        self.stalls.remove(&(before, queue.0));
        self.stalls.insert((until, queue.0));
    }

    /// Ends a stall.
    pub fn wake(&mut self, queue: QueueKey) {
        let Some(entry) = self.queues.slab.get_mut(queue.0) else { return };
        if entry.flags & STALLED_ANY == 0 {
            return;
        }
        entry.flags &= !STALLED_ANY;
        let (until, due) = (std::mem::take(&mut entry.stalled_until), entry.due);
        self.stalls.remove(&(until, queue.0));
        for (class, count) in due.into_iter().enumerate() {
            if count > 0 {
                self.ring_in(queue.0, class);
            }
        }
    }

    fn wake_stalled(&mut self) {
        while let Some(&(until, key)) = self.stalls.first() {
            if until > self.now {
                break;
            }
            self.stalls.remove(&(until, key));
            self.wake(QueueKey(key));
        }
    }

    /// Puts new hold rules in force. Queues are judged when their turn comes; parked ones get a turn now.
    pub fn set_rules(&mut self, rules: HoldRules) {
        self.rules = rules;
        self.rules_epoch = self.rules_epoch.wrapping_add(1);
        for class in 0..CLASSES {
            ring_append(&mut self.queues, &mut self.active[class], &mut self.parked[class], class);
        }
    }

    /// The hold rules in force.
    #[must_use]
    pub fn rules(&self) -> &HoldRules {
        &self.rules
    }

    /// Brings a queue's suspension up to date with the rules.
    fn judge_queue(&mut self, key: u32) {
        let version = self.rules_epoch;
        if self.queues.slab.live(key).is_none_or(|queue| queue.rules_seen == version) {
            return;
        }
        let suspended = !self.rules.is_empty()
            && self.queues.name(key).is_some_and(|name| self.rules.matching(&QueueName::parse(name)).is_some());
        self.queue_mut(key, |queue| {
            queue.rules_seen = version;
            queue.flags = if suspended { queue.flags | SUSPENDED } else { queue.flags & !SUSPENDED };
        });
    }

    /// After the clock went back: every waiting recipient hangs anew. Due times stay what they are.
    fn rehang(&mut self) {
        self.wheel.reset(self.now);
        for key in 0..self.rcpts.end() {
            if self.rcpts.live(key).is_some_and(|entry| entry.state == RcptState::Scheduled) {
                self.wheel.insert(&mut self.rcpts, key);
            }
        }
    }

    /// Marks that a recipient was attempted though it is not put back yet (its message may now reach its give-up age).
    pub fn note_attempt(&mut self, rcpt: RcptKey) {
        if let Some(entry) = self.rcpts.get_mut(rcpt.0) {
            entry.flags |= TRIED;
        }
    }
}

fn ring_next(queues: &Queues, key: u32, class: usize) -> u32 {
    queues.slab.live(key).map_or(NONE, |queue| queue.ring[class])
}

fn ring_link(queues: &mut Queues, from: u32, class: usize, to: u32) {
    if let Some(queue) = queues.slab.get_mut(from) {
        queue.ring[class] = to;
    }
}

fn ring_push(queues: &mut Queues, tail: &mut u32, class: usize, key: u32) {
    if *tail == NONE {
        ring_link(queues, key, class, key);
    } else {
        let first = ring_next(queues, *tail, class);
        ring_link(queues, key, class, first);
        ring_link(queues, *tail, class, key);
    }
    *tail = key;
}

fn ring_pop(queues: &mut Queues, tail: &mut u32, class: usize) -> u32 {
    let first = ring_next(queues, *tail, class);
    if first == *tail {
        *tail = NONE;
    } else {
        let second = ring_next(queues, first, class);
        ring_link(queues, *tail, class, second);
    }
    first
}

/// Appends the ring that ends in `other` to the one that ends in `tail`.
fn ring_append(queues: &mut Queues, tail: &mut u32, other: &mut u32, class: usize) {
    if *other == NONE {
        return;
    }
    if *tail != NONE {
        let (first, other_first) = (ring_next(queues, *tail, class), ring_next(queues, *other, class));
        ring_link(queues, *tail, class, other_first);
        ring_link(queues, *other, class, first);
    }
    *tail = std::mem::replace(other, NONE);
}
