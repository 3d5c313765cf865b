//! Which shard owns a path: the one with the fewest paths when the path is first named, for as long as the process
//! lives. Shared by all shards; each remembers what it has asked.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::item::{PathKey, ShardId};

/// The table of owners.
#[derive(Debug)]
pub struct Placement {
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    owners: HashMap<PathKey, ShardId>,
    load: Vec<usize>,
}

impl Placement {
    /// For this many shards, at least one.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self { table: Mutex::new(Table { owners: HashMap::new(), load: vec![0; shards.max(1)] }) }
    }

    /// The owner of a path. The lock is taken once per path and shard: callers remember the answer.
    #[must_use]
    pub fn owner(&self, key: &PathKey) -> ShardId {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(owner) = table.owners.get(key) {
            return *owner;
        }
        let least = table.load.iter().enumerate().min_by_key(|(_, load)| **load).map_or(0, |(shard, _)| shard);
        table.load[least] += 1;
        let owner = ShardId::try_from(least).unwrap_or(0);
        table.owners.insert(key.clone(), owner);
        owner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_spread_over_shards_and_stay() {
        let placement = Placement::new(2);
        let key = |n: u16| PathKey { source: n, site: crate::dns::SiteName::from_text("a.test") };
        let owners: Vec<_> = (0..4).map(|n| placement.owner(&key(n))).collect();
        assert_eq!(owners, [0, 1, 0, 1]);
        assert_eq!(placement.owner(&key(1)), 1);
    }
}
