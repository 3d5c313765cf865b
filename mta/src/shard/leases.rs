//! Limits wider than one path, shared by all shards: each has one owning shard, the same for everybody, which lends
//! slots to the others for a second at a time. Here are both sides of one shard; letters between them are effects.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use super::effect::Effect;
use super::item::ShardId;
use crate::shaping::lease::{LeaseGrant, LeaseHolder, LeaseMutants, LeaseOwner, LeaseRequest, WideLimit};
use crate::shaping::{Limits, Scope};

/// Names a limit: all sites of one provider, from one egress source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WideKey {
    /// Index of the egress source.
    pub source: u16,
    /// The provider.
    pub provider: &'static str,
}

/// What a holder asks of an owner.
#[derive(Debug, Clone, Copy)]
pub struct LeaseAsk {
    /// Which limit.
    pub key: WideKey,
    /// How wide it is.
    pub limit: WideLimit,
    /// The request.
    pub request: LeaseRequest,
}

/// The limits that this shard uses, and those it owns.
pub struct Leases {
    shard: ShardId,
    shards: ShardId,
    holders: BTreeMap<WideKey, (WideLimit, LeaseHolder)>,
    owners: BTreeMap<WideKey, LeaseOwner>,
    /// Slots that paths would use, since the wants were last forgotten.
    wants: BTreeMap<WideKey, u32>,
    mutants: LeaseMutants,
}

impl Leases {
    /// For shard number `shard` of `shards`.
    #[must_use]
    pub fn new(shard: ShardId, shards: ShardId) -> Self {
        Self {
            shard,
            shards: shards.max(1),
            holders: BTreeMap::new(),
            owners: BTreeMap::new(),
            wants: BTreeMap::new(),
            mutants: LeaseMutants::default(),
        }
    }

    /// Takes protections away; see [`LeaseMutants`].
    #[doc(hidden)]
    pub fn set_mutants(&mut self, mutants: LeaseMutants) {
        self.mutants = mutants;
    }

    /// The limit that a path is under, if any.
    #[must_use]
    pub fn key_of(source: u16, provider: Option<&'static str>, limits: &Limits) -> Option<(WideKey, WideLimit)> {
        let slots = limits.provider_connections?;
        Some((WideKey { source, provider: provider? }, WideLimit { rate: None, slots: Some(slots) }))
    }

    /// Our share of a limit.
    pub fn holder(&mut self, key: WideKey, limit: WideLimit) -> &mut LeaseHolder {
        let (shard, mutants) = (self.shard, self.mutants);
        let new = || (limit, LeaseHolder::new(shard, Scope::Provider, limit).with_mutants(mutants));
        &mut self.holders.entry(key).or_insert_with(new).1
    }

    /// A look at all paths begins: each says what it would use.
    pub fn forget_wants(&mut self) {
        self.wants.clear();
    }

    /// A path would use so many slots more.
    pub fn want(&mut self, key: WideKey, slots: u32) {
        let wants = self.wants.entry(key).or_default();
        *wants = wants.saturating_add(slots);
    }

    /// Gives a connection's slot back.
    pub fn release(&mut self, key: WideKey) {
        if let Some((_, holder)) = self.holders.get_mut(&key) {
            holder.release();
        }
    }

    /// Asks owners for what is wanted. What we own ourselves is answered at once; true when something was granted so.
    pub fn ask(&mut self, now: Instant, effects: &mut std::collections::VecDeque<Effect>) -> bool {
        let mut due = Vec::new();
        for (key, (limit, holder)) in &mut self.holders {
            holder.want(self.wants.get(key).copied().unwrap_or(0), 0);
            due.extend(holder.due(now).map(|request| LeaseAsk { key: *key, limit: *limit, request }));
        }
        let mut granted = false;
        for ask in due {
            let owner = self.owner_of(&ask.key);
            if owner != self.shard {
                effects.push_back(Effect::LeaseAsk(owner, ask));
            } else if let Some(grant) = self.answer(&ask, now) {
                self.granted(&ask.key, grant, now);
                granted = true;
            }
        }
        granted
    }

    /// Answers a holder, as the owner.
    pub fn answer(&mut self, ask: &LeaseAsk, now: Instant) -> Option<LeaseGrant> {
        let mutants = self.mutants;
        let new = || LeaseOwner::new(ask.limit).with_mutants(mutants);
        self.owners.entry(ask.key).or_insert_with(new).on_request(ask.request, now)
    }

    /// Takes a grant in.
    pub fn granted(&mut self, key: &WideKey, grant: LeaseGrant, now: Instant) {
        if let Some((_, holder)) = self.holders.get_mut(key) {
            holder.on_grant(grant, now);
        }
    }

    /// The shard that owns a limit: the same answer on every shard.
    fn owner_of(&self, key: &WideKey) -> ShardId {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        (hasher.finish() % u64::from(self.shards)) as ShardId
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shaping::Limiter;

    #[test]
    fn two_shards_never_hold_more_than_the_limit_together() {
        let now = Instant::now();
        let key = WideKey { source: 0, provider: "google" };
        let limit = WideLimit { rate: None, slots: Some(5) };
        let mut shards = [Leases::new(0, 2), Leases::new(1, 2)];
        let mut held = 0;
        for round in 0..20 {
            let now = now + std::time::Duration::from_millis(200 * round);
            for at in 0..2 {
                shards[at].holder(key, limit);
                shards[at].forget_wants();
                shards[at].want(key, 10);
                let mut effects = std::collections::VecDeque::new();
                shards[at].ask(now, &mut effects);
                for effect in effects {
                    let Effect::LeaseAsk(owner, ask) = effect else { panic!("only requests") };
                    if let Some(grant) = shards[usize::from(owner)].answer(&ask, now) {
                        shards[at].granted(&ask.key, grant, now);
                    }
                }
                let holder = shards[at].holder(key, limit);
                if holder.check(now).is_go() {
                    holder.take(now);
                    held += 1;
                }
            }
            assert!(held <= 5, "round {round}");
        }
        assert_eq!(held, 5);
    }
}
