//! The egress sources as the core sees them: which pool has which, which may send, whose turn it is.

use std::sync::Arc;

use crate::dns::Route;
use crate::egress::pool::Member;
use crate::egress::{Families, Pool, SourceTable};

/// Sources and pools of one shard.
pub struct Sources {
    pools: Vec<Pool>,
    table: Arc<SourceTable>,
}

impl Sources {
    /// As configured; none may send until a table says so.
    #[must_use]
    pub fn new(pools: &[(String, Vec<Member>)]) -> Self {
        let pools = pools.iter().map(|(name, members)| Pool::new(name, members.clone())).collect();
        Self { pools, table: Arc::default() }
    }

    /// The source whose turn it is, among those that may send, reach the route and have room.
    pub fn choose(&mut self, pool: u16, route: &Route, mut room: impl FnMut(u16) -> bool) -> Option<u16> {
        let table = &self.table;
        let able = |index: usize| table.usable(index) && u16::try_from(index).is_ok_and(&mut room);
        let pool = self.pools.get_mut(usize::from(pool))?;
        let source = pool.pick(route.provider.unwrap_or_default(), Families::of(route), able)?;
        u16::try_from(source).ok()
    }

    /// Sources of a pool that may send and reach the route.
    #[must_use]
    pub fn usable(&self, pool: u16, route: &Route) -> Vec<u16> {
        let families = Families::of(route);
        let members = self.pools.get(usize::from(pool)).map_or(&[][..], Pool::members);
        let able = |m: &&Member| m.weight > 0 && families.reach(m.address) && self.table.usable(m.source);
        members.iter().filter(able).filter_map(|m| u16::try_from(m.source).ok()).collect()
    }

    /// The table changed.
    pub fn set_table(&mut self, table: Arc<SourceTable>) {
        self.table = table;
    }

    /// The table in use.
    #[must_use]
    pub fn table(&self) -> &Arc<SourceTable> {
        &self.table
    }
}
