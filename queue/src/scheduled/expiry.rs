//! Who has had its time. Nothing ends while the clock is not to be trusted, and the give-up age ends no recipient that
//! was not attempted since this process started: after a week of darkness every message still gets its attempt.

use super::backlog::{Backlog, Taken};
use super::rcpt::{self, RcptState, TRIED};

impl Backlog {
    /// Hands out up to `max` recipients past their end, for the caller to fail and finish. Looks at `budget` further
    /// entries for some that nobody would look at otherwise (due in a suspended or stalled queue): call it about once a
    /// second. Returns how many were added to `out`.
    pub fn expired(&mut self, max: usize, budget: usize, out: &mut Vec<Taken>) -> usize {
        self.sweep_some(budget);
        let mut count = 0;
        while count < max {
            let Some(key) = rcpt::first(&self.rcpts, self.expired) else { break };
            self.detach(key);
            if self.has_ended(key) {
                out.extend(self.taken(key));
                count += 1;
            } else {
                // The clock lost its credit in between: back to its queue.
                self.by_state[RcptState::Taken as usize] -= 1;
                if let Some(queue) = self.rcpts.live(key).map(|entry| entry.queue) {
                    self.queue_mut(queue, |q| q.taken -= 1);
                }
                self.make_due(key, false);
            }
        }
        count
    }

    fn sweep_some(&mut self, budget: usize) {
        if !self.clock.may_expire() || self.rcpts.end() == 0 {
            return;
        }
        for _ in 0..budget.min(self.rcpts.end() as usize) {
            self.sweep = if self.sweep + 1 >= self.rcpts.end() { 0 } else { self.sweep + 1 };
            let key = self.sweep;
            if self.rcpts.live(key).is_some_and(|entry| entry.state == RcptState::Due) && self.has_ended(key) {
                self.detach(key);
                self.hang_expired(key);
            }
        }
    }

    /// True when the recipient is past its end and the clock may say so.
    pub(super) fn has_ended(&self, key: u32) -> bool {
        if !self.clock.may_expire() {
            return false;
        }
        let Some(entry) = self.rcpts.live(key) else { return false };
        let Some(message) = self.messages.live(entry.msg) else { return false };
        if self.now >= message.not_after {
            return true;
        }
        let max_age = self.queue_max_age.get(&entry.queue).copied().unwrap_or(self.max_age);
        entry.flags & TRIED != 0 && self.now.saturating_sub(message.received) >= max_age
    }

    /// Hangs a taken recipient into the list of those past their end.
    pub(super) fn hang_expired(&mut self, key: u32) {
        let Some(entry) = self.rcpts.get_mut(key) else { return };
        entry.state = RcptState::Expired;
        let queue = entry.queue;
        rcpt::push_back(&mut self.rcpts, &mut self.expired, key);
        self.by_state[RcptState::Taken as usize] -= 1;
        self.by_state[RcptState::Expired as usize] += 1;
        self.queue_mut(queue, |q| q.taken -= 1);
    }
}
