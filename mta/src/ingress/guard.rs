//! Back-off after failed logins, and rates by address and by credential. A pure value: time comes in, verdicts out.
//!
//! Bounded: when the table is full, what has rested longest is forgotten, which favours the peer. Each shard has its
//! own; a limit that must hold over all shards is divided by their number (`GuardLimits::shards`).

use std::collections::hash_map::RandomState;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;

/// Limits of a [`Guard`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardLimits {
    /// Most things remembered at once.
    pub entries: usize,
    /// Failed logins of an address that cost nothing; each further one doubles the wait.
    pub address_failures: u32,
    /// The same for a user name. Larger: a stranger must not lock a customer out cheaply.
    pub name_failures: u32,
    /// First wait behind the free failures, in milliseconds.
    pub wait_ms: u64,
    /// Longest wait for an address, in milliseconds.
    pub address_wait_max_ms: u64,
    /// Longest wait for a name, in milliseconds.
    pub name_wait_max_ms: u64,
    /// Failures are forgotten after this long without one, in milliseconds.
    pub forget_ms: u64,
    /// Transactions a minute from one address on port 25.
    pub mails_per_minute: u32,
    /// Shards that share each credential's quota.
    pub shards: u32,
}

impl Default for GuardLimits {
    fn default() -> Self {
        Self {
            entries: 65_536,
            address_failures: 5,
            name_failures: 50,
            wait_ms: 1000,
            address_wait_max_ms: 15 * 60_000,
            name_wait_max_ms: 60_000,
            forget_ms: 60 * 60_000,
            mails_per_minute: 600,
            shards: 1,
        }
    }
}

/// What is remembered about something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// Failed logins of an address (IPv6: its /64).
    Address(u128),
    /// Failed logins of a name, hashed.
    Name(u64),
    /// Transactions of an address.
    Mails(u128),
    /// Recipients of a credential, hashed.
    Recipients(u64),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Failures, or tokens left in thousandths.
    amount: u64,
    /// Of the last change.
    at_ms: u64,
    /// Refused until then.
    until_ms: u64,
}

/// Back-off and rates of one shard.
#[derive(Debug)]
pub struct Guard {
    limits: GuardLimits,
    table: HashMap<Key, Entry>,
    /// Names are kept as keyed hashes: bounded memory for names of any length.
    hasher: RandomState,
}

impl Guard {
    /// An empty one.
    #[must_use]
    pub fn new(limits: GuardLimits) -> Self {
        Self { limits, table: HashMap::new(), hasher: RandomState::new() }
    }

    /// True when this address (and this name, once known) may try to log in now.
    #[must_use]
    pub fn may_log_in(&self, address: IpAddr, name: Option<&str>, now_ms: u64) -> bool {
        let free = |key: Key| self.table.get(&key).is_none_or(|entry| now_ms >= entry.until_ms);
        free(Key::Address(block(address))) && name.is_none_or(|name| free(Key::Name(self.hash(name))))
    }

    /// A login was right or wrong. A right one clears its address and name. An empty name is not counted.
    pub fn log_in(&mut self, address: IpAddr, name: &str, right: bool, now_ms: u64) {
        let GuardLimits { address_failures, name_failures, address_wait_max_ms, name_wait_max_ms, .. } = self.limits;
        let keys = [
            (Key::Address(block(address)), address_failures, address_wait_max_ms),
            (Key::Name(self.hash(name)), name_failures, name_wait_max_ms),
        ];
        let counted = if name.is_empty() { 1 } else { keys.len() };
        for (key, free, longest) in keys.into_iter().take(counted) {
            if right {
                self.table.remove(&key);
            } else {
                self.fail(key, free, longest, now_ms);
            }
        }
    }

    fn fail(&mut self, key: Key, free: u32, longest: u64, now_ms: u64) {
        let (wait, forget) = (self.limits.wait_ms, self.limits.forget_ms);
        let entry = self.entry(key, Entry { amount: 0, at_ms: now_ms, until_ms: 0 }, now_ms);
        if now_ms.saturating_sub(entry.at_ms) > forget {
            entry.amount = 0;
        }
        entry.amount += 1;
        entry.at_ms = now_ms;
        if let Some(over) = entry.amount.checked_sub(u64::from(free)).filter(|over| *over > 0) {
            let doublings = u32::try_from(over - 1).unwrap_or(u32::MAX).min(40);
            entry.until_ms = now_ms.saturating_add(wait.saturating_mul(1 << doublings).min(longest));
        }
    }

    /// A transaction on port 25 from this address; false when it comes too often.
    pub fn mail(&mut self, address: IpAddr, now_ms: u64) -> bool {
        let rate = self.limits.mails_per_minute;
        self.take(Key::Mails(block(address)), rate, now_ms)
    }

    /// A recipient of this credential; false when its quota is used up for now.
    pub fn recipient(&mut self, credential: &str, per_minute: u32, now_ms: u64) -> bool {
        let rate = per_minute.div_ceil(self.limits.shards.max(1));
        self.take(Key::Recipients(self.hash(credential)), rate, now_ms)
    }

    /// A bucket that holds a minute's worth and fills evenly.
    fn take(&mut self, key: Key, per_minute: u32, now_ms: u64) -> bool {
        let full = u64::from(per_minute) * 1000;
        let entry = self.entry(key, Entry { amount: full, at_ms: now_ms, until_ms: 0 }, now_ms);
        let earned = now_ms.saturating_sub(entry.at_ms).saturating_mul(u64::from(per_minute)) / 60;
        if earned > 0 {
            entry.amount = entry.amount.saturating_add(earned).min(full);
            entry.at_ms = now_ms;
        }
        match entry.amount.checked_sub(1000) {
            Some(left) => {
                entry.amount = left;
                true
            }
            None => false,
        }
    }

    fn entry(&mut self, key: Key, fresh: Entry, now_ms: u64) -> &mut Entry {
        if self.table.len() >= self.limits.entries && !self.table.contains_key(&key) {
            self.make_room(now_ms);
        }
        self.table.entry(key).or_insert(fresh)
    }

    /// Drops what has rested longest: half of the table, so that this costs little over many calls.
    fn make_room(&mut self, now_ms: u64) {
        let mut ages: Vec<u64> = self.table.values().map(|entry| entry.at_ms.max(entry.until_ms)).collect();
        let middle = ages.len() / 2;
        let (_, median, _) = ages.select_nth_unstable(middle);
        let median = *median;
        self.table.retain(|_, entry| entry.at_ms.max(entry.until_ms) > median.min(now_ms));
        if self.table.len() >= self.limits.entries {
            self.table.clear();
        }
    }

    /// Things remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn hash(&self, name: &str) -> u64 {
        self.hasher.hash_one(name)
    }
}

/// IPv4 by address, IPv6 by the /64 that one site holds.
fn block(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn r08_failures_beyond_the_free_ones_wait_longer_each_time() {
        let mut guard = Guard::new(GuardLimits::default());
        let peer = ip("192.0.2.1");
        for _ in 0..5 {
            assert!(guard.may_log_in(peer, None, 0));
            guard.log_in(peer, "a", false, 0);
        }
        assert!(guard.may_log_in(peer, None, 0));
        let mut now = 0;
        for wait in [1000, 2000, 4000, 8000] {
            guard.log_in(peer, "a", false, now);
            assert!(!guard.may_log_in(peer, None, now + wait - 1), "{wait}");
            assert!(guard.may_log_in(peer, None, now + wait), "{wait}");
            now += wait;
        }
        for _ in 0..100 {
            guard.log_in(peer, "a", false, now);
        }
        assert!(guard.may_log_in(peer, None, now + 15 * 60_000), "never longer than the longest");
        assert!(guard.may_log_in(ip("192.0.2.2"), None, now), "another address is free");
        guard.log_in(peer, "a", true, now);
        assert!(guard.may_log_in(peer, Some("a"), now), "a right one clears");
    }

    #[test]
    fn r08_a_name_attacked_from_everywhere_waits_a_minute_at_most() {
        let mut guard = Guard::new(GuardLimits::default());
        for number in 0..100u32 {
            guard.log_in(IpAddr::from(number.to_be_bytes()), "victim", false, 0);
        }
        let owner = ip("203.0.113.1");
        assert!(!guard.may_log_in(owner, Some("victim"), 0));
        assert!(guard.may_log_in(owner, Some("victim"), 60_000));
        assert!(guard.may_log_in(owner, Some("other"), 0));
    }

    #[test]
    fn ipv6_counts_by_its_64() {
        let mut guard = Guard::new(GuardLimits::default());
        for number in 0..10u16 {
            guard.log_in(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, number]), "", false, 0);
        }
        assert!(!guard.may_log_in(ip("2001:db8:0:1::ffff"), None, 0));
        assert!(guard.may_log_in(ip("2001:db8:0:2::1"), None, 0));
    }

    #[test]
    fn buckets_fill_evenly_and_hold_a_minute() {
        let mut guard = Guard::new(GuardLimits { shards: 2, ..GuardLimits::default() });
        let taken = |guard: &mut Guard, now| (0..1000).take_while(|_| guard.recipient("c", 120, now)).count();
        assert_eq!(taken(&mut guard, 0), 60, "its share of two shards");
        assert_eq!(taken(&mut guard, 999), 0);
        assert_eq!(taken(&mut guard, 1000), 1);
        assert_eq!(taken(&mut guard, 11_000), 10);
        assert_eq!(taken(&mut guard, 10_000_000), 60);
        assert!(guard.recipient("other", 1, 0) && !guard.recipient("none", 0, 0));
    }

    #[test]
    fn table_is_bounded_and_forgets_the_oldest() {
        let mut guard = Guard::new(GuardLimits { entries: 100, ..GuardLimits::default() });
        for number in 0..10_000u32 {
            guard.log_in(IpAddr::from(number.to_be_bytes()), "", false, u64::from(number));
            assert!(guard.len() <= 100);
        }
        for number in 0..1000u32 {
            guard.log_in(IpAddr::from(number.to_be_bytes()), "", false, 7);
            assert!(guard.len() <= 100, "also when all are equally old");
        }
    }
}
