//! Which MX hosts are worth a try now: failures count, fade, and a dead host is probed instead of forgotten. Pure.
//!
//! A host (name or address, as the caller keys it) that failed to take a connection several times is skipped;
//! after a pause one attempt may go there as a probe. One success clears it. Old failures lose half of their weight
//! every [`HALF_LIFE`]. Health never removes the last choice: when all hosts are skipped, [`Health::pick`] still
//! gives the one whose probe is due first.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A failure counts half after this time.
pub const HALF_LIFE: Duration = Duration::from_secs(600);
/// With this many (decayed) failures a host is skipped.
pub const DEAD_AT: f32 = 2.5;
/// First pause before a dead host is probed; doubles up to [`PROBE_MAX`].
pub const PROBE_FIRST: Duration = Duration::from_secs(60);
/// Longest pause between probes.
pub const PROBE_MAX: Duration = Duration::from_secs(1800);
/// Most hosts remembered; the longest untouched is forgotten first.
pub const HOSTS_MAX: usize = 4096;

/// What one connection attempt came to, as far as the host's health goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It greeted us with 220 (whatever it said later).
    Alive,
    /// No connection, no greeting, or a 4xx greeting (R-02: the next host is tried).
    Dead,
    /// RFC 7504 section 3: greeted with 521, takes no mail at all. Skipped for [`PROBE_MAX`] at once.
    NoMail,
}

/// How a host stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Try it in its turn.
    Healthy,
    /// Dead, but a probe is due: one attempt may go there.
    Probe,
    /// Dead: skip it until then.
    Skip {
        /// When a probe is due.
        until: Instant,
    },
}

#[derive(Clone, Copy, Debug)]
struct Record {
    weight: f32,
    touched: Instant,
    /// Set while dead.
    probe_at: Option<Instant>,
    pause: Duration,
}

/// The health of hosts keyed by whatever names one for the caller.
#[derive(Clone, Debug)]
pub struct Health<K> {
    hosts: HashMap<K, Record>,
}

impl<K> Default for Health<K> {
    fn default() -> Self {
        Self { hosts: HashMap::new() }
    }
}

impl<K: Eq + Hash + Clone> Health<K> {
    /// Takes in what an attempt came to.
    pub fn observe(&mut self, host: &K, sign: Sign, now: Instant) {
        if sign == Sign::Alive {
            self.hosts.remove(host);
            return;
        }
        self.make_room(host);
        let record = self.hosts.entry(host.clone()).or_insert(Record {
            weight: 0.0,
            touched: now,
            probe_at: None,
            pause: PROBE_FIRST,
        });
        record.weight = decayed(record, now) + 1.0;
        record.touched = now;
        if sign == Sign::NoMail {
            record.weight = record.weight.max(DEAD_AT);
            record.pause = PROBE_MAX;
        }
        // A dead host stays dead until it answers: a failed probe is new evidence, however much has faded.
        if record.weight >= DEAD_AT || record.probe_at.is_some() {
            if record.probe_at.is_some() {
                record.pause = (record.pause * 2).min(PROBE_MAX);
            }
            record.probe_at = Some(now + record.pause);
        }
    }

    /// How a host stands. A due probe is claimed by [`Health::claim`].
    #[must_use]
    pub fn standing(&self, host: &K, now: Instant) -> Standing {
        match self.hosts.get(host).and_then(|record| record.probe_at) {
            None => Standing::Healthy,
            Some(at) if now >= at => Standing::Probe,
            Some(until) => Standing::Skip { until },
        }
    }

    /// Takes the probe: until its result is known no second one starts (or the next one falls due).
    pub fn claim(&mut self, host: &K, now: Instant) {
        if let Some(record) = self.hosts.get_mut(host) {
            if record.probe_at.is_some_and(|at| now >= at) {
                record.probe_at = Some(now + record.pause);
            }
        }
    }

    /// Puts candidates in the order to try: healthy ones and due probes as they stand, skipped ones left out; when
    /// all are skipped, the one whose probe is due first.
    #[must_use]
    pub fn pick<'a>(&self, candidates: &'a [K], now: Instant) -> Vec<&'a K> {
        let open: Vec<&K> =
            candidates.iter().filter(|host| !matches!(self.standing(host, now), Standing::Skip { .. })).collect();
        if !open.is_empty() {
            return open;
        }
        let due = |host: &&K| self.hosts.get(*host).and_then(|record| record.probe_at);
        candidates.iter().min_by_key(due).into_iter().collect()
    }

    fn make_room(&mut self, host: &K) {
        if self.hosts.len() < HOSTS_MAX || self.hosts.contains_key(host) {
            return;
        }
        let oldest = self.hosts.iter().min_by_key(|(_, record)| record.touched).map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.hosts.remove(&key);
        }
    }
}

fn decayed(record: &Record, now: Instant) -> f32 {
    let halves = now.saturating_duration_since(record.touched).as_secs_f32() / HALF_LIFE.as_secs_f32();
    record.weight * 0.5_f32.powf(halves)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn d13_a_dead_host_is_skipped_and_probed() {
        let t = Instant::now();
        let mut health = Health::default();
        for i in 0..3 {
            health.observe(&"a", Sign::Dead, t + secs(i));
        }
        assert!(matches!(health.standing(&"a", t + secs(3)), Standing::Skip { .. }));
        assert_eq!(health.pick(&["a", "b"], t + secs(3)), [&"b"]);
        let due = t + secs(2) + PROBE_FIRST;
        assert_eq!(health.standing(&"a", due), Standing::Probe);
        health.claim(&"a", due);
        assert!(matches!(health.standing(&"a", due), Standing::Skip { .. }), "one probe at a time");
        health.observe(&"a", Sign::Alive, due + secs(1));
        assert_eq!(health.standing(&"a", due + secs(1)), Standing::Healthy);
    }

    #[test]
    fn d13_probes_come_less_often_and_never_stop() {
        let mut now = Instant::now();
        let mut health = Health::default();
        for _ in 0..3 {
            health.observe(&"a", Sign::Dead, now);
        }
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let Standing::Skip { until } = health.standing(&"a", now) else { panic!() };
            pauses.push(until - now);
            now = until;
            health.claim(&"a", now);
            health.observe(&"a", Sign::Dead, now);
        }
        assert!(pauses.windows(2).all(|w| w[0] <= w[1]));
        assert_eq!(pauses.last(), Some(&PROBE_MAX));
    }

    #[test]
    fn d13_old_failures_fade() {
        let t = Instant::now();
        let mut health = Health::default();
        for i in 0..20 {
            health.observe(&"a", Sign::Dead, t + HALF_LIFE * i);
        }
        assert_eq!(
            health.standing(&"a", t + HALF_LIFE * 20),
            Standing::Healthy,
            "one failure in ten minutes is weather"
        );
    }

    #[test]
    fn the_last_choice_is_never_taken_away() {
        let t = Instant::now();
        let mut health = Health::default();
        for i in 0..3 {
            health.observe(&"b", Sign::Dead, t + secs(i));
            health.observe(&"a", Sign::Dead, t + secs(i + 10));
        }
        assert_eq!(health.pick(&["a", "b"], t + secs(13)), [&"b"], "its probe is due first");
    }

    #[test]
    fn r20_a_521_greeting_is_not_asked_again_soon() {
        let t = Instant::now();
        let mut health = Health::default();
        health.observe(&"a", Sign::NoMail, t);
        assert_eq!(health.standing(&"a", t), Standing::Skip { until: t + PROBE_MAX });
    }

    #[test]
    fn memory_is_bounded() {
        let t = Instant::now();
        let mut health = Health::default();
        for i in 0..HOSTS_MAX as u64 + 100 {
            health.observe(&i, Sign::Dead, t + secs(i));
        }
        assert_eq!(health.hosts.len(), HOSTS_MAX);
        assert!(!health.hosts.contains_key(&0));
    }
}
