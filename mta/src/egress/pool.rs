//! Which source is next: smooth weighted round robin, the same every time (D-10). Pure.
//!
//! Each pick every source that could go gains its weight, the richest goes and pays what all gained together. So
//! weights 5, 1, 1 give a a b a c a a and not a a a a a b c. A source that can't go now (parked, at a limit for
//! this provider, wrong family) neither gains nor goes: it does not come back with a debt to make up, and one in
//! trouble at one provider still serves the others, because the turns are kept per key.

use std::collections::HashMap;
use std::net::IpAddr;

/// Most keys (providers) turns are kept for; others share one.
pub const KEYS_MAX: usize = 64;

/// Which address families the hosts of a route have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// Some host has an IPv4 address.
    pub v4: bool,
    /// Some host has an IPv6 address.
    pub v6: bool,
}

impl Families {
    /// Of a route.
    #[must_use]
    pub fn of(route: &crate::dns::Route) -> Self {
        Self { v4: route.has_family(false), v6: route.has_family(true) }
    }

    /// True when a source at `address` can reach one of the hosts.
    #[must_use]
    pub fn reach(self, address: IpAddr) -> bool {
        if address.is_ipv6() {
            self.v6
        } else {
            self.v4
        }
    }
}

/// One source in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Index into the table of sources.
    pub source: usize,
    /// Its address, for the family.
    pub address: IpAddr,
    /// Its share; 0 never goes.
    pub weight: u32,
}

/// A pool of sources and whose turn it is.
#[derive(Clone, Debug)]
pub struct Pool {
    name: String,
    members: Vec<Member>,
    turns: HashMap<String, Vec<i64>>,
}

impl Pool {
    /// A pool; members keep their order.
    #[must_use]
    pub fn new(name: &str, members: Vec<Member>) -> Self {
        Self { name: name.to_owned(), members, turns: HashMap::new() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its members.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The next source for a route with these families. `key` is what turns are kept by (the provider, or empty);
    /// `able` says whether a source (by index into the table) may take more now. `None` when none may.
    pub fn pick(&mut self, key: &str, families: Families, mut able: impl FnMut(usize) -> bool) -> Option<usize> {
        let key = if self.turns.len() < KEYS_MAX || self.turns.contains_key(key) { key } else { "" };
        if !self.turns.contains_key(key) {
            self.turns.insert(key.to_owned(), vec![0; self.members.len()]);
        }
        let turns = self.turns.get_mut(key)?;
        let mut total = 0_i64;
        let mut best: Option<(i64, usize)> = None;
        for (at, (member, turn)) in self.members.iter().zip(turns.iter_mut()).enumerate() {
            if member.weight == 0 || !families.reach(member.address) || !able(member.source) {
                continue;
            }
            let weight = i64::from(member.weight);
            *turn += weight;
            total += weight;
            // The first of equals goes: the order is the configuration's.
            if best.is_none_or(|(most, _)| *turn > most) {
                best = Some((*turn, at));
            }
        }
        let (_, at) = best?;
        if let Some(turn) = turns.get_mut(at) {
            *turn -= total;
        }
        self.members.get(at).map(|member| member.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Families = Families { v4: true, v6: true };

    fn pool(weights: &[u32]) -> Pool {
        let member = |(source, weight): (usize, &u32)| Member {
            source,
            address: format!("192.0.2.{source}").parse().unwrap(),
            weight: *weight,
        };
        Pool::new("default", weights.iter().enumerate().map(member).collect())
    }

    #[test]
    fn d10_smooth_and_the_same_every_time() {
        let run = || {
            let mut pool = pool(&[5, 1, 1]);
            (0..7).filter_map(|_| pool.pick("", BOTH, |_| true)).collect::<Vec<_>>()
        };
        assert_eq!(run(), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(run(), run());
    }

    #[test]
    fn d10_shares_are_exact_over_a_round() {
        let weights = [3, 7, 1, 9];
        let mut pool = pool(&weights);
        let mut counts = [0_u32; 4];
        for _ in 0..20 * 50 {
            counts[pool.pick("", BOTH, |_| true).unwrap()] += 1;
        }
        assert_eq!(counts, weights.map(|w| w * 50));
    }

    #[test]
    fn d10_one_at_its_limit_is_passed_over_without_a_debt() {
        let mut pool = pool(&[1, 1]);
        for _ in 0..100 {
            assert_eq!(pool.pick("google", BOTH, |source| source != 0), Some(1));
        }
        let after: Vec<_> = (0..6).filter_map(|_| pool.pick("google", BOTH, |_| true)).collect();
        assert_eq!(after.iter().filter(|s| **s == 0).count(), 3, "no burst to catch up: {after:?}");
        assert_eq!(pool.pick("yahoo", BOTH, |_| true), Some(0), "elsewhere it was never passed over");
        assert_eq!(pool.pick("google", BOTH, |_| false), None);
    }

    #[test]
    fn the_family_must_fit_the_hosts() {
        let members = vec![
            Member { source: 4, address: "192.0.2.1".parse().unwrap(), weight: 1 },
            Member { source: 6, address: "2001:db8::1".parse().unwrap(), weight: 1 },
        ];
        let mut pool = Pool::new("p", members);
        for _ in 0..3 {
            assert_eq!(pool.pick("", Families { v4: true, v6: false }, |_| true), Some(4));
            assert_eq!(pool.pick("", Families { v4: false, v6: true }, |_| true), Some(6));
        }
        assert_eq!(pool.pick("", Families { v4: false, v6: false }, |_| true), None);
    }

    #[test]
    fn turns_are_bounded() {
        let mut pool = pool(&[1]);
        for i in 0..1000 {
            assert_eq!(pool.pick(&format!("k{i}"), BOTH, |_| true), Some(0));
        }
        assert!(pool.turns.len() <= KEYS_MAX + 1);
    }
}
