//! The shaping of one path (egress source, site): limits and caution together. Pure.
//!
//! The owner of the ready queue asks before each connection and each message, and tells what came of it. Wider
//! limits (provider, source, tenant) come in as further limiters, so that all are taken or none.

use std::time::Instant;

use super::caution::{Allowed, Caution, Change};
use super::limiter::{admit_all, Admit, Gcra, Limiter, Slots, LOOK_AGAIN};
use super::reaction::{Reaction, Reactions};
use super::rule::{Limits, Rate, Rule, Scope, What};

/// Shapes one path.
#[derive(Clone, Debug)]
pub struct PathShaper {
    limits: Limits,
    open: Slots,
    connection_rate: Option<Gcra>,
    message_rate: Option<Gcra>,
    caution: Caution,
    reactions: Reactions,
    /// The rate a reaction asks for, while it does.
    reduced: Option<(Rate, Gcra)>,
    /// The row of a reaction that began since it was last asked for.
    began: Option<&'static Reaction>,
}

impl PathShaper {
    /// Shapes by these limits; nothing is open yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            open: Slots::new(Scope::Site, limits.connections),
            connection_rate: limits.connection_rate.map(|rate| Gcra::connections(Scope::Site, rate)),
            message_rate: limits.message_rate.map(|rate| Gcra::messages(Scope::Site, rate)),
            caution: Caution::new(limits.connections),
            reactions: Reactions::default(),
            reduced: None,
            began: None,
        }
    }

    /// May one more connection be opened? On go it counts as open until [`PathShaper::closed`].
    pub fn admit_connection(&mut self, wider: &mut [&mut dyn Limiter], now: Instant) -> Admit {
        if let Some(wait) = self.held(now) {
            return wait;
        }
        let mut all: Vec<&mut dyn Limiter> = Vec::with_capacity(2 + wider.len());
        all.push(&mut self.open);
        if let Some(rate) = &mut self.connection_rate {
            all.push(rate);
        }
        for one in wider {
            all.push(&mut **one);
        }
        admit_all(&mut all, now)
    }

    /// May one more message go over an open connection?
    pub fn admit_message(&mut self, wider: &mut [&mut dyn Limiter], now: Instant) -> Admit {
        if let Allowed::Nothing { until } = self.allowed(now) {
            return wait(until, What::Caution);
        }
        if let Some(until) = self.reactions.paused(now) {
            return wait(until, What::Reaction);
        }
        self.reduce(now);
        let mut all: Vec<&mut dyn Limiter> = Vec::with_capacity(2 + wider.len());
        if let Some((_, rate)) = &mut self.reduced {
            all.push(rate);
        }
        if let Some(rate) = &mut self.message_rate {
            all.push(rate);
        }
        for one in wider {
            all.push(&mut **one);
        }
        admit_all(&mut all, now)
    }

    /// A connection that was admitted is gone (or was never made).
    pub fn closed(&mut self) {
        self.open.release();
    }

    /// A reply of the site, of any step. Gives a change worth an event.
    pub fn observe_reply(&mut self, code: u16, enhanced: [u16; 3], text: &str, now: Instant) -> Option<Change> {
        if !self.limits.careful {
            return None;
        }
        if code >= 400 {
            self.began = self.reactions.observe(self.limits.provider, text, now).or(self.began);
        }
        self.caution.observe_reply(code, enhanced, text, now)
    }

    /// The reaction to a reply that began since this was last asked; for the event.
    pub fn began(&mut self) -> Option<&'static Reaction> {
        self.began.take()
    }

    /// A message was delivered.
    pub fn observe_delivery(&mut self, now: Instant) -> Option<Change> {
        self.caution.observe_delivery(now)
    }

    /// An operator says the trouble is over.
    pub fn clear_caution(&mut self) -> Option<Change> {
        self.reactions.clear();
        self.caution.clear()
    }

    /// Other limits from now on. Open connections stay.
    pub fn set_limits(&mut self, limits: Limits) {
        let (mut open, mut caution, reactions) = (self.open, self.caution.clone(), self.reactions.clone());
        open.set_most(limits.connections);
        caution.set_full(limits.connections);
        *self = Self { open, caution, reactions, ..Self::new(limits) };
    }

    /// The limits that hold.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many connections are open.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.used()
    }

    /// How many connections may be open at `now`, caution included. Above it, idle ones should be closed.
    #[must_use]
    pub fn most_open(&self, now: Instant) -> u32 {
        if self.reactions.paused(now).is_some() {
            return 0;
        }
        let most = self.reactions.connections(now).unwrap_or(u32::MAX).min(self.limits.connections);
        match self.caution.allowed(now) {
            Allowed::Full => most,
            Allowed::AtMost(n) => n.min(most),
            Allowed::Nothing { .. } => 0,
        }
    }

    /// The site's reply that made us careful; empty otherwise.
    #[must_use]
    pub fn quote(&self) -> &str {
        self.caution.quote()
    }

    fn allowed(&mut self, now: Instant) -> Allowed {
        self.caution.advance(now);
        self.caution.allowed(now)
    }

    fn held(&mut self, now: Instant) -> Option<Admit> {
        if let Some(until) = self.reactions.paused(now) {
            return Some(wait(until, What::Reaction));
        }
        match self.allowed(now) {
            Allowed::Nothing { until } => return Some(wait(until, What::Caution)),
            Allowed::AtMost(most) if self.open.used() >= most => return Some(wait(now + LOOK_AGAIN, What::Caution)),
            Allowed::Full | Allowed::AtMost(_) => {}
        }
        let most = self.reactions.connections(now)?;
        (self.open.used() >= most).then(|| wait(now + LOOK_AGAIN, What::Reaction))
    }

    /// Takes up, changes or drops the rate that reactions ask for.
    fn reduce(&mut self, now: Instant) {
        let rate = self.reactions.rate(now);
        if rate != self.reduced.map(|(rate, _)| rate) {
            self.reduced = rate.map(|rate| (rate, Gcra::new(Scope::Site, rate, What::Reaction)));
        }
    }
}

fn wait(until: Instant, what: What) -> Admit {
    Admit::Wait { until, rule: Rule { scope: Scope::Site, what } }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::caution::STOP;
    use super::super::rule::Rate;
    use super::*;

    #[test]
    fn d05_built_in_caution_holds_and_says_why() {
        let t = Instant::now();
        let mut path = PathShaper::new(Limits::builtin());
        let mut opened = 0;
        let mut rules = Vec::new();
        for ms in 0..20_000 {
            match path.admit_connection(&mut [], t + Duration::from_millis(ms)) {
                Admit::Go => opened += 1,
                Admit::Wait { rule, until } => {
                    assert!(until > t + Duration::from_millis(ms));
                    rules.push(rule.what);
                }
            }
        }
        assert_eq!(opened, 10);
        assert!(rules.contains(&What::ConnectionRate(Rate::per_minute(100))));
        assert_eq!(rules.last(), Some(&What::Connections(10)));
        let sent = (0..1000).filter(|ms| path.admit_message(&mut [], t + Duration::from_millis(*ms)).is_go()).count();
        assert!((190..=200).contains(&sent), "a burst of 100, then 100 per second: {sent}");
    }

    #[test]
    fn a_complaint_stops_connections_and_messages_and_one_comes_back() {
        let t = Instant::now();
        let mut path = PathShaper::new(Limits::builtin());
        assert!(path.admit_connection(&mut [], t).is_go());
        assert!(path.observe_reply(421, [4, 7, 0], "slow down", t).is_some());
        for admit in [path.admit_connection(&mut [], t), path.admit_message(&mut [], t)] {
            let Admit::Wait { until, rule } = admit else { panic!() };
            assert_eq!((until, rule.what), (t + STOP, What::Caution));
        }
        assert_eq!(path.most_open(t), 0);
        assert_eq!(path.quote(), "slow down");
        path.closed();
        assert!(path.admit_connection(&mut [], t + STOP).is_go());
        assert!(path.admit_message(&mut [], t + STOP).is_go());
        assert!(!path.admit_connection(&mut [], t + STOP + Duration::from_secs(5)).is_go(), "one, not two");
    }

    #[test]
    fn lab_routes_know_no_limit_but_connections() {
        let t = Instant::now();
        let mut path = PathShaper::new(Limits::lab().with_connections(3));
        assert_eq!((0..10).filter(|_| path.admit_connection(&mut [], t).is_go()).count(), 3);
        assert_eq!((0..10_000).filter(|_| path.admit_message(&mut [], t).is_go()).count(), 10_000);
        assert_eq!(path.observe_reply(421, [4, 7, 0], "x", t), None);
        assert!(path.admit_message(&mut [], t).is_go());
    }

    #[test]
    fn wider_limits_are_taken_together_or_not_at_all() {
        let t = Instant::now();
        let mut path = PathShaper::new(Limits::lab());
        let mut provider = Slots::new(Scope::Provider, 1);
        assert!(path.admit_connection(&mut [&mut provider], t).is_go());
        let Admit::Wait { rule, .. } = path.admit_connection(&mut [&mut provider], t) else { panic!() };
        assert_eq!(rule.scope, Scope::Provider);
        assert_eq!(path.open(), 1);
    }

    #[test]
    fn d08_a_reply_of_a_known_provider_slows_its_path() {
        let t = Instant::now();
        let mut path = PathShaper::new(Limits::for_provider(Some("yahoo")));
        path.observe_reply(553, [5, 7, 1], "5.7.1 [BL21] Connections will not be accepted", t);
        assert!(path.began().is_some_and(|row| row.lasts == Duration::from_secs(7200)));
        let Admit::Wait { until, rule } = path.admit_message(&mut [], t) else { panic!() };
        assert_eq!((until, rule.what), (t + Duration::from_secs(7200), What::Reaction));
        assert_eq!(path.most_open(t), 0);
        let mut path = PathShaper::new(Limits::for_provider(Some("yahoo")));
        path.observe_reply(450, [4, 4, 0], "[TS03] slower", t);
        let sent = (0..600).filter(|s| path.admit_message(&mut [], t + Duration::from_secs(*s)).is_go()).count();
        assert_eq!(sent, 100, "ten a minute");
        let after = t + Duration::from_secs(1800);
        assert!((0..50).all(|_| path.admit_message(&mut [], after).is_go()), "and it ends");
    }

    #[test]
    fn new_limits_keep_open_connections() {
        let t = Instant::now();
        let mut path = PathShaper::new(Limits::lab());
        assert!(path.admit_connection(&mut [], t).is_go());
        path.set_limits(Limits::builtin().with_connections(1));
        assert_eq!(path.open(), 1);
        assert!(!path.admit_connection(&mut [], t + Duration::from_secs(60)).is_go());
    }
}
