//! The egress sources as the core sees them: which pool has which, which are usable, whose turn it is.

use crate::dns::Route;

use super::policy::Policy;

/// Sources and pools of one shard.
pub struct Sources {
    pools: Vec<Vec<u16>>,
}

impl Sources {
    /// As configured.
    #[must_use]
    pub fn new(_policy: &Policy) -> Self {
        Self { pools: vec![vec![0]] }
    }

    /// The source whose turn it is, among those that are usable for the route and have room.
    pub fn choose(&mut self, pool: u16, _route: &Route, _lab: bool, room: impl Fn(u16) -> bool) -> Option<u16> {
        self.pools.get(usize::from(pool))?.iter().copied().find(|s| room(*s))
    }

    /// Sources of a pool that are usable for the route.
    #[must_use]
    pub fn usable(&self, pool: u16, _route: &Route, _lab: bool) -> Vec<u16> {
        self.pools.get(usize::from(pool)).cloned().unwrap_or_default()
    }

    /// A source became usable or not.
    pub fn set(&mut self, _index: u16, _usable: bool, _ehlo: &str) {}
}
