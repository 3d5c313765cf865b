//! How a path behaves after its site complained: normal -> stopped -> careful -> normal (D-07, D-09). Pure.
//!
//! After a 421, a 451 or any 4.7.x reply nothing is opened for ten minutes, then one connection. When that goes
//! well connections are added one at a time; on a new complaint the ten minutes start again. The way back is part
//! of the machine: no path stays slow for ever.

use std::time::{Duration, Instant};

/// Nothing is opened for this long after a complaint.
pub const STOP: Duration = Duration::from_secs(600);
/// After a delivery in this time one more connection is allowed.
pub const RAISE: Duration = Duration::from_secs(60);
/// Careful for this long without a complaint, and the path is normal again, used or not.
pub const FORGIVEN: Duration = Duration::from_secs(3600);
/// Longest part of the site's reply that is kept as the reason.
pub const QUOTE_MAX: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Normal,
    Stopped { until: Instant },
    Careful { allowed: u32, since: Instant, raise_at: Instant, delivered: bool },
}

/// What may be open now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// As many as the limits say.
    Full,
    /// At most so many at once.
    AtMost(u32),
    /// Nothing, until then.
    Nothing {
        /// When one connection may be opened.
        until: Instant,
    },
}

/// A change worth an event; the quoted reply is in [`Caution::quote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The site complained: stopped.
    Stopped {
        /// When one connection may be opened.
        until: Instant,
    },
    /// So many connections may be open now.
    Raised(u32),
    /// Back to normal.
    Normal,
}

/// The state of one path.
#[derive(Clone, Debug)]
pub struct Caution {
    phase: Phase,
    full: u32,
    quote: String,
}

/// True when a reply is a complaint about how much or from whom we send, rather than about one recipient.
#[must_use]
pub fn is_complaint(code: u16, enhanced: [u16; 3]) -> bool {
    matches!(code, 421 | 451) || (400..500).contains(&code) && enhanced[0] == 4 && enhanced[1] == 7
}

impl Caution {
    /// Normal, for a path with `full` connections at most.
    #[must_use]
    pub fn new(full: u32) -> Self {
        Self { phase: Phase::Normal, full: full.max(1), quote: String::new() }
    }

    /// Takes in a reply of the site.
    pub fn observe_reply(&mut self, code: u16, enhanced: [u16; 3], text: &str, now: Instant) -> Option<Change> {
        if !is_complaint(code, enhanced) {
            return None;
        }
        // Replies that were under way when the path stopped say nothing new.
        if matches!(self.phase, Phase::Stopped { until } if now < until) {
            return None;
        }
        let until = now + STOP;
        self.phase = Phase::Stopped { until };
        self.quote = text.chars().take(QUOTE_MAX).collect();
        Some(Change::Stopped { until })
    }

    /// Takes in a delivery.
    pub fn observe_delivery(&mut self, now: Instant) -> Option<Change> {
        self.advance(now);
        match &mut self.phase {
            Phase::Careful { delivered, .. } => *delivered = true,
            // A delivery on a connection from before the stop proves nothing.
            Phase::Normal | Phase::Stopped { .. } => return None,
        }
        self.advance(now)
    }

    /// Lets time pass; gives the change, if any. Called whenever something is asked.
    pub fn advance(&mut self, now: Instant) -> Option<Change> {
        match self.phase {
            Phase::Normal => None,
            Phase::Stopped { until } if now < until => None,
            Phase::Stopped { .. } => {
                self.phase = Phase::Careful { allowed: 1, since: now, raise_at: now + RAISE, delivered: false };
                Some(Change::Raised(1))
            }
            Phase::Careful { since, .. } if now >= since + FORGIVEN => self.normal(),
            Phase::Careful { allowed, since, raise_at, delivered: true } if now >= raise_at => {
                if allowed + 1 >= self.full {
                    return self.normal();
                }
                let allowed = allowed + 1;
                self.phase = Phase::Careful { allowed, since, raise_at: now + RAISE, delivered: false };
                Some(Change::Raised(allowed))
            }
            Phase::Careful { .. } => None,
        }
    }

    /// What may be open at `now`.
    #[must_use]
    pub fn allowed(&self, now: Instant) -> Allowed {
        match self.phase {
            Phase::Normal => Allowed::Full,
            Phase::Stopped { until } if now < until => Allowed::Nothing { until },
            Phase::Stopped { .. } => Allowed::AtMost(1),
            Phase::Careful { allowed, .. } => Allowed::AtMost(allowed),
        }
    }

    /// The reply that is to blame; empty while normal.
    #[must_use]
    pub fn quote(&self) -> &str {
        &self.quote
    }

    /// The limit on connections is another one now.
    pub fn set_full(&mut self, full: u32) {
        self.full = full.max(1);
    }

    /// An operator says the trouble is over.
    pub fn clear(&mut self) -> Option<Change> {
        if self.phase == Phase::Normal {
            return None;
        }
        self.normal()
    }

    fn normal(&mut self) -> Option<Change> {
        self.phase = Phase::Normal;
        self.quote.clear();
        Some(Change::Normal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn complained(now: Instant) -> Caution {
        let mut caution = Caution::new(4);
        let change = caution.observe_reply(421, [4, 7, 28], "4.7.28 unusual rate", now);
        assert_eq!(change, Some(Change::Stopped { until: now + STOP }));
        caution
    }

    #[test]
    fn d09_ten_minutes_then_one_then_one_more_at_a_time() {
        let t = Instant::now();
        let mut caution = complained(t);
        assert_eq!(caution.quote(), "4.7.28 unusual rate");
        assert_eq!(caution.allowed(t + STOP - secs(1)), Allowed::Nothing { until: t + STOP });
        let mut now = t + STOP;
        assert_eq!(caution.allowed(now), Allowed::AtMost(1));
        assert_eq!(caution.advance(now), Some(Change::Raised(1)));
        let mut seen = Vec::new();
        for _ in 0..10 {
            now += RAISE;
            seen.extend(caution.observe_delivery(now));
        }
        assert_eq!(seen, [Change::Raised(2), Change::Raised(3), Change::Normal]);
        assert_eq!(caution.allowed(now), Allowed::Full);
        assert_eq!(caution.quote(), "");
    }

    #[test]
    fn d09_a_new_complaint_starts_again() {
        let t = Instant::now();
        let mut caution = complained(t);
        caution.advance(t + STOP);
        let again = caution.observe_reply(451, [0, 0, 0], "later", t + STOP + secs(5));
        assert_eq!(again, Some(Change::Stopped { until: t + STOP + secs(5) + STOP }));
    }

    #[test]
    fn replies_under_way_do_not_prolong_the_stop() {
        let t = Instant::now();
        let mut caution = complained(t);
        assert_eq!(caution.observe_reply(421, [4, 7, 0], "x", t + secs(300)), None);
        assert_eq!(caution.observe_delivery(t + secs(301)), None);
        assert_eq!(caution.allowed(t + secs(302)), Allowed::Nothing { until: t + STOP });
    }

    #[test]
    fn d07_no_connection_is_added_without_a_delivery_but_time_forgives() {
        let t = Instant::now();
        let mut caution = complained(t);
        caution.advance(t + STOP);
        assert_eq!(caution.advance(t + STOP + RAISE * 5), None);
        assert_eq!(caution.allowed(t + STOP + RAISE * 5), Allowed::AtMost(1));
        assert_eq!(caution.advance(t + STOP + FORGIVEN), Some(Change::Normal));
    }

    #[test]
    fn only_complaints_count() {
        for (code, enhanced, expected) in [
            (421, [0, 0, 0], true),
            (451, [4, 3, 0], true),
            (450, [4, 7, 1], true),
            (454, [4, 7, 0], true),
            (450, [4, 2, 1], false),
            (452, [4, 2, 2], false),
            (550, [5, 7, 1], false),
            (250, [2, 0, 0], false),
        ] {
            assert_eq!(is_complaint(code, enhanced), expected, "{code} {enhanced:?}");
        }
    }

    #[test]
    fn an_operator_can_clear_it() {
        let t = Instant::now();
        let mut caution = complained(t);
        assert_eq!(caution.clear(), Some(Change::Normal));
        assert_eq!(caution.clear(), None);
        assert_eq!(caution.allowed(t), Allowed::Full);
    }
}
