//! Which routes are known, and for how long. Pure: time comes in as an argument.
//!
//! Positive answers live for their TTL, negative ones for the SOA minimum (RFC 2308 section 5, R-34), both
//! clamped; failures live for seconds. When a fresh answer can't be had, the last good one is used for a while
//! longer (RFC 8767), marked stale. The cache never grows past its bound: the entry used longest ago goes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::route::{Route, RouteError};

/// Shortest life of any answer, so that a TTL of 0 does not mean one look-up per message.
pub const TTL_MIN: Duration = Duration::from_secs(30);
/// Longest life of a positive answer.
pub const TTL_MAX: Duration = Duration::from_secs(86_400);
/// Longest life of a negative answer, RFC 2308 section 5 ("one to three hours").
pub const NEGATIVE_MAX: Duration = Duration::from_secs(3 * 3600);
/// Life of a negative answer that came without an SOA record, which RFC 2308 section 5 would not cache at all.
pub const NEGATIVE_UNKNOWN: Duration = Duration::from_secs(30);
/// Life of a failure: long enough to stop a storm, far shorter than the 5 minutes of RFC 2308 section 7.
pub const FAILURE: Duration = Duration::from_secs(15);
/// How long past its life a route still serves when nothing newer is to be had (RFC 8767 section 5 allows days).
pub const STALE_MAX: Duration = Duration::from_secs(3600);
/// A stale route is asked for again after this time, RFC 8767 section 4.
pub const STALE_RETRY: Duration = Duration::from_secs(30);

/// The answer for one key.
pub type Answer = Result<Arc<Route>, RouteError>;

#[derive(Clone, Debug)]
struct Entry {
    answer: Answer,
    expires: Instant,
    /// The last good route and until when it may serve stale.
    last_good: Option<(Arc<Route>, Instant)>,
    used: u64,
}

/// Known routes by domain.
#[derive(Debug)]
pub struct Cache {
    entries: HashMap<String, Entry>,
    by_use: BTreeMap<u64, String>,
    uses: u64,
    bound: usize,
}

impl Cache {
    /// An empty cache for at most `bound` domains.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self { entries: HashMap::new(), by_use: BTreeMap::new(), uses: 0, bound: bound.max(1) }
    }

    /// The answer for a domain, while it lives.
    pub fn get(&mut self, domain: &str, now: Instant) -> Option<Answer> {
        let entry = self.entries.get_mut(domain)?;
        if now >= entry.expires {
            return None;
        }
        self.uses += 1;
        if let Some(key) = self.by_use.remove(&entry.used) {
            self.by_use.insert(self.uses, key);
        }
        entry.used = self.uses;
        Some(entry.answer.clone())
    }

    /// Keeps a new answer and gives back the one to use: the same, or the last good one in place of a failure.
    ///
    /// `life` is the TTL of a route, or how long a permanent error holds (`None`: no SOA record came with it).
    pub fn put(&mut self, domain: &str, answer: Answer, life: Option<Duration>, now: Instant) -> Answer {
        let old = self.entries.get(domain).and_then(|entry| entry.last_good.clone());
        let (answer, expires, last_good) = match answer {
            Ok(route) => {
                let life = life.unwrap_or(TTL_MIN).clamp(TTL_MIN, TTL_MAX);
                let route = Arc::new(Route { expires: now + life, ..Route::clone(&route) });
                (Ok(route.clone()), now + life, Some((route, now + life + STALE_MAX)))
            }
            Err(error) if !error.is_temporary() => {
                let life = life.unwrap_or(NEGATIVE_UNKNOWN).clamp(TTL_MIN, NEGATIVE_MAX);
                (Err(error), now + life, None)
            }
            Err(error) => match old.filter(|(_, until)| now < *until) {
                Some((good, until)) => {
                    let expires = (now + STALE_RETRY).min(until);
                    let stale = Arc::new(Route { expires, stale: true, ..Route::clone(&good) });
                    (Ok(stale), expires, Some((good, until)))
                }
                None => (Err(error), now + FAILURE, None),
            },
        };
        self.insert(domain, Entry { answer: answer.clone(), expires, last_good, used: 0 });
        answer
    }

    /// Forgets one domain (an operator knows better), or all.
    pub fn forget(&mut self, domain: Option<&str>) {
        match domain {
            Some(domain) => {
                if let Some(entry) = self.entries.remove(domain) {
                    self.by_use.remove(&entry.used);
                }
            }
            None => {
                self.entries.clear();
                self.by_use.clear();
            }
        }
    }

    /// How many domains are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn insert(&mut self, domain: &str, mut entry: Entry) {
        self.forget(Some(domain));
        while self.entries.len() >= self.bound {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.entries.remove(&oldest);
        }
        self.uses += 1;
        entry.used = self.uses;
        self.by_use.insert(self.uses, domain.to_owned());
        self.entries.insert(domain.to_owned(), entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::site::SiteName;

    fn route(now: Instant) -> Answer {
        Ok(Arc::new(Route {
            site: SiteName::from_text("a"),
            hosts: vec![],
            provider: None,
            expires: now,
            stale: false,
        }))
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn failure() -> Answer {
        Err(RouteError::dns("timeout".into(), secs(60)))
    }

    #[test]
    fn r34_ttl_is_honoured_within_its_clamp() {
        let t = Instant::now();
        let mut cache = Cache::new(10);
        for (ttl, life) in [(0, 30), (300, 300), (10_000_000, 86_400)] {
            let put = cache.put("a", route(t), Some(secs(ttl)), t).unwrap();
            assert_eq!(put.expires, t + secs(life));
            assert!(cache.get("a", t + secs(life) - Duration::from_millis(1)).is_some());
            assert!(cache.get("a", t + secs(life)).is_none());
        }
    }

    #[test]
    fn r34_negative_answers_live_by_the_soa_minimum() {
        let t = Instant::now();
        let mut cache = Cache::new(10);
        let no = || Err(RouteError::no_domain("a"));
        let _ = cache.put("a", no(), Some(secs(900)), t);
        assert!(cache.get("a", t + secs(899)).is_some());
        assert!(cache.get("a", t + secs(900)).is_none());
        let _ = cache.put("a", no(), Some(secs(1_000_000)), t);
        assert!(cache.get("a", t + NEGATIVE_MAX).is_none());
        let _ = cache.put("a", no(), None, t);
        assert!(cache.get("a", t + NEGATIVE_UNKNOWN).is_none());
    }

    #[test]
    fn r34_a_stale_route_serves_while_the_dns_fails() {
        let t = Instant::now();
        let mut cache = Cache::new(10);
        let _ = cache.put("a", route(t), Some(secs(60)), t);
        let later = t + secs(61);
        let served = cache.put("a", failure(), None, later).unwrap();
        assert!(served.stale);
        assert!(cache.get("a", later + STALE_RETRY).is_none(), "asked again soon");
        let still = cache.put("a", failure(), None, t + secs(60) + STALE_MAX - secs(1)).unwrap();
        assert!(still.stale);
        assert!(cache.put("a", failure(), None, t + secs(60) + STALE_MAX).is_err(), "but not for ever");
    }

    #[test]
    fn a_permanent_answer_ends_the_last_good_one() {
        let t = Instant::now();
        let mut cache = Cache::new(10);
        let _ = cache.put("a", route(t), Some(secs(60)), t);
        let _ = cache.put("a", Err(RouteError::null_mx("a")), Some(secs(60)), t + secs(61));
        assert!(cache.put("a", failure(), None, t + secs(122)).is_err());
    }

    #[test]
    fn failures_live_for_seconds() {
        let t = Instant::now();
        let mut cache = Cache::new(10);
        let _ = cache.put("a", failure(), None, t);
        assert!(cache.get("a", t + FAILURE - secs(1)).is_some());
        assert!(cache.get("a", t + FAILURE).is_none());
    }

    #[test]
    fn bounded_and_the_longest_unused_goes() {
        let t = Instant::now();
        let mut cache = Cache::new(2);
        let _ = cache.put("a", route(t), Some(secs(60)), t);
        let _ = cache.put("b", route(t), Some(secs(60)), t);
        assert!(cache.get("a", t).is_some());
        let _ = cache.put("c", route(t), Some(secs(60)), t);
        assert_eq!(cache.len(), 2);
        assert!(cache.get("b", t).is_none());
        assert!(cache.get("a", t).is_some());
        assert_eq!(cache.by_use.len(), cache.entries.len());
    }
}
