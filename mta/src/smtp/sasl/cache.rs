//! Recent successes: a busy client that reconnects does not pay for a slow hash each time.
//!
//! Holds keyed hashes alone, for minutes. The key is random by process, the hash covers name, password and verifier:
//! a changed password misses, and nothing here gives a password away. Bounded; when full the oldest goes.

use std::collections::{HashMap, VecDeque};

use super::verifier::hmac_sha256;
use super::{Secret, Verifier};

/// What one (name, password, verifier) hashes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// `process_key` is random for the life of the process.
    #[must_use]
    pub fn new(process_key: &[u8; 32], name: &str, password: &Secret, verifier: &Verifier) -> Self {
        let mut text = Vec::with_capacity(name.len() + password.reveal().len() + 40);
        text.extend_from_slice(&(name.len() as u64).to_le_bytes());
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(&verifier.fingerprint());
        text.extend_from_slice(password.reveal().as_bytes());
        let key = Self(hmac_sha256(process_key, &text));
        text.fill(0);
        std::hint::black_box(&text);
        key
    }
}

/// Remembered successes with their end.
#[derive(Debug)]
pub struct RecentSuccesses {
    ends: HashMap<CacheKey, u64>,
    order: VecDeque<CacheKey>,
    capacity: usize,
    life_ms: u64,
}

impl RecentSuccesses {
    /// At most `capacity` entries, each for `life_ms`.
    #[must_use]
    pub fn new(capacity: usize, life_ms: u64) -> Self {
        Self { ends: HashMap::new(), order: VecDeque::new(), capacity, life_ms }
    }

    /// True when this login was right a while ago. `now_ms` is monotonic.
    #[must_use]
    pub fn holds(&self, key: &CacheKey, now_ms: u64) -> bool {
        self.ends.get(key).is_some_and(|end| now_ms < *end)
    }

    /// A login was right.
    pub fn remember(&mut self, key: CacheKey, now_ms: u64) {
        if self.capacity == 0 {
            return;
        }
        if self.ends.insert(key, now_ms.saturating_add(self.life_ms)).is_some() {
            return;
        }
        self.order.push_back(key);
        while self.order.len() > self.capacity {
            if let Some(oldest) = self.order.pop_front() {
                self.ends.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successes_are_remembered_for_a_while_and_no_more_than_fit() {
        let verifier = Verifier::Nobody;
        let key = |name: &str, password: &str| CacheKey::new(&[1; 32], name, &Secret::new(password), &verifier);
        let mut recent = RecentSuccesses::new(2, 100);
        recent.remember(key("a", "p"), 0);
        assert!(recent.holds(&key("a", "p"), 99));
        assert!(!recent.holds(&key("a", "p"), 100));
        assert!(!recent.holds(&key("a", "q"), 0) && !recent.holds(&key("ap", ""), 0));
        recent.remember(key("b", "p"), 0);
        recent.remember(key("c", "p"), 0);
        assert!(!recent.holds(&key("a", "p"), 0) && recent.holds(&key("c", "p"), 0));
        let other = CacheKey::new(&[1; 32], "c", &Secret::new("p"), &Verifier::Argon2("x".into()));
        assert!(!recent.holds(&other, 0));
    }
}
