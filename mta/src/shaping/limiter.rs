//! May one more go now? If not: when, and by which rule. Pure; a clock that steps back gives nothing away.

use std::time::{Duration, Instant};

use super::rule::{Rate, Rule, Scope, What};

/// The answer of a limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Go; what was asked for is taken.
    Go,
    /// Not before then, because of this rule. For rules that wait for an event (a connection that closes) `until`
    /// is when to look again at the latest.
    Wait {
        /// Ask again then.
        until: Instant,
        /// The rule that holds.
        rule: Rule,
    },
}

impl Admit {
    /// True for [`Admit::Go`].
    #[must_use]
    pub fn is_go(self) -> bool {
        self == Self::Go
    }
}

/// When to look again at a limit that waits for an event.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Something that admits one unit at a time.
pub trait Limiter {
    /// Whether one more may go. Takes nothing.
    fn check(&self, now: Instant) -> Admit;
    /// Takes one. Only after `check` said go at the same `now`.
    fn take(&mut self, now: Instant);
}

/// Takes one from every limiter, or from none: then the answer names the rule that holds longest.
pub fn admit_all(limiters: &mut [&mut dyn Limiter], now: Instant) -> Admit {
    let mut answer = Admit::Go;
    for limiter in limiters.iter() {
        if let wait @ Admit::Wait { until, .. } = limiter.check(now) {
            let longest = match answer {
                Admit::Go => true,
                Admit::Wait { until: other, .. } => until > other,
            };
            if longest {
                answer = wait;
            }
        }
    }
    if answer.is_go() {
        for limiter in limiters.iter_mut() {
            limiter.take(now);
        }
    }
    answer
}

/// A rate, by the generic cell rate algorithm: exact, two words of state, no timer.
///
/// Over any time `t` at most `burst + t / interval` are admitted.
#[derive(Clone, Copy, Debug)]
pub struct Gcra {
    rule: Rule,
    interval: Duration,
    tolerance: Duration,
    /// When the bucket would be full again; `None` while it is.
    full_at: Option<Instant>,
}

impl Gcra {
    /// A limiter that starts with its burst to give.
    #[must_use]
    pub fn new(scope: Scope, rate: Rate, what: What) -> Self {
        let interval = rate.interval();
        Self { rule: Rule { scope, what }, interval, tolerance: interval * (rate.burst() - 1), full_at: None }
    }

    /// A limiter of messages.
    #[must_use]
    pub fn messages(scope: Scope, rate: Rate) -> Self {
        Self::new(scope, rate, What::MessageRate(rate))
    }

    /// A limiter of new connections.
    #[must_use]
    pub fn connections(scope: Scope, rate: Rate) -> Self {
        Self::new(scope, rate, What::ConnectionRate(rate))
    }
}

impl Limiter for Gcra {
    fn check(&self, now: Instant) -> Admit {
        match self.full_at.and_then(|full| full.checked_sub(self.tolerance)) {
            Some(until) if until > now => Admit::Wait { until, rule: self.rule },
            _ => Admit::Go,
        }
    }

    fn take(&mut self, now: Instant) {
        let from = self.full_at.map_or(now, |full| full.max(now));
        self.full_at = Some(from + self.interval);
    }
}

/// So many at once.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    scope: Scope,
    most: u32,
    used: u32,
}

impl Slots {
    /// `most` free slots.
    #[must_use]
    pub fn new(scope: Scope, most: u32) -> Self {
        Self { scope, most, used: 0 }
    }

    /// Gives one back.
    pub fn release(&mut self) {
        self.used = self.used.saturating_sub(1);
    }

    /// How many are taken.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Changes how many there are; those taken stay taken.
    pub fn set_most(&mut self, most: u32) {
        self.most = most;
    }
}

impl Limiter for Slots {
    fn check(&self, now: Instant) -> Admit {
        if self.used < self.most {
            Admit::Go
        } else {
            let rule = Rule { scope: self.scope, what: What::Connections(self.most) };
            Admit::Wait { until: now + LOOK_AGAIN, rule }
        }
    }

    fn take(&mut self, _now: Instant) {
        self.used = self.used.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(limiter: &mut impl Limiter, now: Instant) -> bool {
        let mut all: [&mut dyn Limiter; 1] = [limiter];
        admit_all(&mut all, now).is_go()
    }

    #[test]
    fn d05_a_rate_holds_over_every_window() {
        let start = Instant::now();
        let mut limiter = Gcra::messages(Scope::Site, Rate::per_second(10));
        let mut sent = Vec::new();
        for ms in 0..10_000_u64 {
            let now = start + Duration::from_millis(ms);
            if go(&mut limiter, now) {
                sent.push(ms);
            }
        }
        assert_eq!(sent.len(), 10 + 99, "the burst, then one every 100 ms");
        for (i, from) in sent.iter().enumerate() {
            let in_second = sent[i..].iter().take_while(|ms| **ms < from + 1000).count();
            assert!(in_second <= 20, "burst and rate together");
        }
    }

    #[test]
    fn the_wait_names_its_rule_and_ends_when_it_says() {
        let now = Instant::now();
        let mut limiter = Gcra::connections(Scope::Site, Rate::per_minute(100));
        assert!(go(&mut limiter, now));
        let Admit::Wait { until, rule } = limiter.check(now) else { panic!("burst is one") };
        assert_eq!(rule.to_string(), "site: 100/min new connections");
        assert_eq!(until, now + Duration::from_millis(600));
        assert!(!go(&mut limiter, until - Duration::from_nanos(1)));
        assert!(go(&mut limiter, until));
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing_away() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut limiter = Gcra::messages(Scope::Site, Rate::per_second(1));
        assert!(go(&mut limiter, start));
        assert!(!go(&mut limiter, start - Duration::from_secs(50)));
        assert!(go(&mut limiter, start + Duration::from_secs(1)));
    }

    #[test]
    fn all_or_none_and_the_longest_rule_is_named() {
        let now = Instant::now();
        let mut slots = Slots::new(Scope::Provider, 1);
        let mut quick = Gcra::messages(Scope::Site, Rate::per_second(1));
        let mut slow = Gcra::messages(Scope::Tenant, Rate::per_minute(1));
        slow.take(now);
        quick.take(now);
        let Admit::Wait { rule, .. } = admit_all(&mut [&mut slots, &mut quick, &mut slow], now) else { panic!() };
        assert_eq!(rule.scope, Scope::Tenant);
        assert_eq!(slots.used(), 0);
        let later = now + Duration::from_secs(60);
        assert!(admit_all(&mut [&mut slots, &mut quick, &mut slow], later).is_go());
        assert_eq!(slots.used(), 1);
        let Admit::Wait { rule, .. } = slots.check(later) else { panic!() };
        assert_eq!(rule.what, What::Connections(1));
        slots.release();
        assert!(slots.check(later).is_go());
    }
}
