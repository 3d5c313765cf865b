//! Limits wider than one path (source, tenant, provider, netblock): kept by one owner, lent for a second. Pure.
//!
//! One shard owns such a limit. The others ask it for a share: connection slots and message tokens. The sum never
//! exceeds the limit, whatever happens to messages and clocks on the way, because of two rules:
//!
//! - **Tokens** leave the owner's bucket when they are granted. A lost grant is lost; nothing is granted twice.
//!   A share is used within [`LEASE`] by the holder's clock, or not at all.
//! - **Slots** are counted by conversation, not by clock. A request says how many slots the holder keeps and
//!   carries a rising number; the holder takes only the grant that answers its latest request. So when the owner
//!   reads a request, no earlier grant can be taken any more, and what the request says (plus what is granted in
//!   answer) is all the holder can have. An unheard request leaves the owner believing too much, never too little.
//!
//! A holder whose clock steps back treats its lease as over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::limiter::{Admit, Limiter};
use super::rule::{Rate, Rule, Scope, What};

/// A share may be used this long after it was asked for.
pub const LEASE: Duration = Duration::from_secs(1);
/// A holder asks at most this often.
pub const ASK_EVERY: Duration = Duration::from_millis(100);
/// A holder unheard for this long no longer counts when shares are cut (its slots stay counted).
const ACTIVE: Duration = Duration::from_secs(2);
/// Most holders one owner keeps; there are as many as shards.
pub const HOLDERS_MAX: usize = 1024;

/// The limit an owner keeps. What is `None` is not limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WideLimit {
    /// Messages, or new connections.
    pub rate: Option<Rate>,
    /// Connections at once.
    pub slots: Option<u32>,
}

/// Switches that take a protection away, so that a test can show that it would notice.
#[derive(Clone, Copy, Debug, Default)]
#[doc(hidden)]
pub struct LeaseMutants {
    /// The owner believes that it has one slot more than the limit.
    pub off_by_one: bool,
    /// The holder takes grants that answer earlier requests.
    pub take_late_grants: bool,
    /// The owner lets slots of a silent holder go when the lease is over, as if clocks could tell.
    pub reclaim_by_clock: bool,
}

/// What a holder asks its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Which holder (its shard).
    pub holder: u16,
    /// Rises with every request of this holder.
    pub number: u64,
    /// Slots the holder keeps from before, those in use among them.
    pub keeps: u32,
    /// Slots it would like on top.
    pub want_slots: u32,
    /// Tokens it would like.
    pub want_tokens: u32,
}

/// What the owner answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    /// The request it answers.
    pub number: u64,
    /// All slots the holder has now.
    pub slots: u32,
    /// Tokens to use while the lease lasts.
    pub tokens: u32,
}

#[derive(Clone, Copy, Debug)]
struct Lent {
    number: u64,
    slots: u32,
    heard: Instant,
}

/// The owner's side of one limit.
#[derive(Clone, Debug)]
pub struct LeaseOwner {
    limit: WideLimit,
    lent: HashMap<u16, Lent>,
    /// Tokens in the bucket, as time: how long it took to earn them.
    earned: Duration,
    last: Option<Instant>,
    mutants: LeaseMutants,
}

impl LeaseOwner {
    /// An owner that has lent nothing; its bucket holds one second's burst.
    #[must_use]
    pub fn new(limit: WideLimit) -> Self {
        let earned = limit.rate.map_or(Duration::ZERO, |rate| rate.interval() * rate.burst());
        Self { limit, lent: HashMap::new(), earned, last: None, mutants: LeaseMutants::default() }
    }

    #[doc(hidden)]
    #[must_use]
    pub fn with_mutants(mut self, mutants: LeaseMutants) -> Self {
        self.mutants = mutants;
        self
    }

    /// Answers a request. `None` for a request overtaken by a later one, or from one holder too many.
    pub fn on_request(&mut self, request: LeaseRequest, now: Instant) -> Option<LeaseGrant> {
        match self.lent.get(&request.holder) {
            Some(lent) if request.number <= lent.number => return None,
            None if self.lent.len() >= HOLDERS_MAX => return None,
            _ => {}
        }
        self.earn(now);
        if self.mutants.reclaim_by_clock {
            self.lent.retain(|_, lent| now.saturating_duration_since(lent.heard) < LEASE);
        }
        let others: u32 = self.lent.iter().filter(|(id, _)| **id != request.holder).map(|(_, lent)| lent.slots).sum();
        let sharing = 1 + self
            .lent
            .iter()
            .filter(|(id, lent)| **id != request.holder && now.saturating_duration_since(lent.heard) < ACTIVE)
            .count();
        let sharing = u32::try_from(sharing).unwrap_or(u32::MAX);
        let more = match self.limit.slots {
            None => request.want_slots,
            Some(limit) => {
                let limit = limit + u32::from(self.mutants.off_by_one);
                let free = limit.saturating_sub(others.saturating_add(request.keeps));
                request.want_slots.min(share(free, sharing))
            }
        };
        let slots = request.keeps.saturating_add(more);
        self.lent.insert(request.holder, Lent { number: request.number, slots, heard: now });
        let tokens = self.spend(request.want_tokens, sharing);
        Some(LeaseGrant { number: request.number, slots, tokens })
    }

    /// Slots lent, as far as the owner knows: never fewer than the holders have.
    #[must_use]
    pub fn lent_slots(&self) -> u32 {
        self.lent.values().map(|lent| lent.slots).sum()
    }

    /// Another limit from now on. What is lent above it comes back as holders give it up.
    pub fn set_limit(&mut self, limit: WideLimit) {
        self.limit = limit;
        if let Some(rate) = limit.rate {
            self.earned = self.earned.min(rate.interval() * rate.burst());
        }
    }

    /// Lets the bucket fill, up to one burst. A clock that steps back earns nothing.
    fn earn(&mut self, now: Instant) {
        let Some(rate) = self.limit.rate else { return };
        let passed = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last = Some(now);
        self.earned = self.earned.saturating_add(passed).min(rate.interval() * rate.burst());
    }

    fn spend(&mut self, want: u32, sharing: u32) -> u32 {
        let Some(rate) = self.limit.rate else { return want };
        let interval = rate.interval().as_nanos().max(1);
        let have = u32::try_from(self.earned.as_nanos() / interval).unwrap_or(u32::MAX);
        let tokens = want.min(share(have, sharing));
        self.earned = self.earned.saturating_sub(rate.interval() * tokens);
        tokens
    }
}

/// A fair share: an equal part, rounded up, so that the last one is not left lying.
fn share(free: u32, sharing: u32) -> u32 {
    free.div_ceil(sharing.max(1)).min(free)
}

/// A holder's side of one limit.
#[derive(Clone, Debug)]
pub struct LeaseHolder {
    holder: u16,
    scope: Scope,
    limit: WideLimit,
    number: u64,
    slots: u32,
    in_use: u32,
    tokens: u32,
    /// When the latest request was sent; its grant counts from there, so that a slow one is shorter.
    asked: Option<Instant>,
    /// When the share at hand is over.
    ends: Option<Instant>,
    /// Latest time seen.
    seen: Option<Instant>,
    wants: (u32, u32),
    mutants: LeaseMutants,
}

impl LeaseHolder {
    /// A holder with nothing.
    #[must_use]
    pub fn new(holder: u16, scope: Scope, limit: WideLimit) -> Self {
        Self {
            holder,
            scope,
            limit,
            number: 0,
            slots: 0,
            in_use: 0,
            tokens: 0,
            asked: None,
            ends: None,
            seen: None,
            wants: (0, 0),
            mutants: LeaseMutants::default(),
        }
    }

    #[doc(hidden)]
    #[must_use]
    pub fn with_mutants(mut self, mutants: LeaseMutants) -> Self {
        self.mutants = mutants;
        self
    }

    /// Says how much would be used in the next second; the next request asks for it.
    pub fn want(&mut self, slots: u32, tokens: u32) {
        self.wants = (slots, tokens);
    }

    /// The request to send now, if one is due: something is wanted that is not at hand, or something idle is to be
    /// given back. Called on every tick.
    pub fn due(&mut self, now: Instant) -> Option<LeaseRequest> {
        self.notice(now);
        if self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < ASK_EVERY) {
            return None;
        }
        let over = self.ends.is_none();
        let (want_slots, want_tokens) = self.wants;
        let idle = self.slots.saturating_sub(self.in_use);
        let slots_short = want_slots > 0 && (over || idle == 0);
        let tokens_short = want_tokens > 0 && (over || self.tokens == 0);
        let to_give_back = over && idle > 0;
        if !(slots_short || tokens_short || to_give_back) {
            return None;
        }
        // From here on what is not kept is not ours, whether or not the request arrives.
        self.slots = self.in_use.saturating_add(idle.min(want_slots));
        self.number += 1;
        self.asked = Some(now);
        Some(LeaseRequest {
            holder: self.holder,
            number: self.number,
            keeps: self.slots,
            want_slots: want_slots.saturating_sub(idle),
            want_tokens,
        })
    }

    /// Takes in a grant. One that answers an earlier request is dropped: the owner counts without it by now.
    pub fn on_grant(&mut self, grant: LeaseGrant, now: Instant) {
        self.notice(now);
        if grant.number != self.number && !self.mutants.take_late_grants {
            return;
        }
        self.slots = grant.slots.max(self.in_use);
        let ends = self.asked.map(|asked| asked + LEASE);
        self.ends = ends.filter(|ends| now < *ends);
        self.tokens = if self.ends.is_some() { grant.tokens } else { 0 };
    }

    /// Gives a slot back; it stays at hand until the lease is over.
    pub fn release(&mut self) {
        self.in_use = self.in_use.saturating_sub(1);
    }

    /// Takes one token, or says when to ask again.
    pub fn admit_token(&mut self, now: Instant) -> Admit {
        self.notice(now);
        if self.limit.rate.is_none() {
            return Admit::Go;
        }
        if self.ends.is_some() && self.tokens > 0 {
            self.tokens -= 1;
            return Admit::Go;
        }
        self.wait(now)
    }

    /// Slots in use.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    fn wait(&self, now: Instant) -> Admit {
        let what = match (self.limit.rate, self.limit.slots) {
            (Some(rate), None) => What::MessageRate(rate),
            (None, Some(slots)) => What::Connections(slots),
            _ => What::Lease,
        };
        Admit::Wait { until: now + ASK_EVERY, rule: Rule { scope: self.scope, what } }
    }

    /// Ends the lease when its time is over or the clock stepped back.
    fn notice(&mut self, now: Instant) {
        let back = self.seen.is_some_and(|seen| now < seen);
        if back || self.ends.is_some_and(|ends| now >= ends) {
            self.ends = None;
            self.tokens = 0;
        }
        if back {
            self.asked = None;
        }
        self.seen = Some(now);
    }
}

/// As a limiter a holder is its slots.
impl Limiter for LeaseHolder {
    fn check(&self, now: Instant) -> Admit {
        let live = self.ends.is_some_and(|ends| now < ends) && self.seen.is_none_or(|seen| now >= seen);
        if self.limit.slots.is_none() || live && self.in_use < self.slots {
            Admit::Go
        } else {
            self.wait(now)
        }
    }

    fn take(&mut self, _now: Instant) {
        self.in_use = self.in_use.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const SLOTS: u32 = 7;
    const PER_SECOND: u32 = 40;

    fn limit() -> WideLimit {
        WideLimit { rate: Some(Rate::per_second(PER_SECOND)), slots: Some(SLOTS) }
    }

    enum Mail {
        Request(LeaseRequest),
        Grant(usize, LeaseGrant),
    }

    /// What one seeded run came to.
    struct Run {
        most_slots: u32,
        /// Tokens used beyond what the owner's clock can have earned, at worst.
        tokens_over: i64,
        used: u64,
        opened: u64,
    }

    /// Plays an owner and some holders for 20 s of true time: messages are lost, late and out of order; every
    /// holder's clock runs apart and steps.
    fn play(seed: u64, mutants: LeaseMutants) -> Run {
        let mut rng = StdRng::seed_from_u64(seed);
        let base = Instant::now() + Duration::from_secs(1_000_000);
        let holders = rng.random_range(1..6_usize);
        let (loss, step) = (rng.random_range(0.0..0.4), rng.random_range(0.0..0.01));
        let mut owner = LeaseOwner::new(limit()).with_mutants(mutants);
        let mut all: Vec<LeaseHolder> =
            (0..holders).map(|i| LeaseHolder::new(i as u16, Scope::Provider, limit()).with_mutants(mutants)).collect();
        let mut offsets = vec![0_i64; holders];
        let mut mail: Vec<(u64, Mail)> = Vec::new();
        let mut run = Run { most_slots: 0, tokens_over: i64::MIN, used: 0, opened: 0 };
        let at = |ms: u64, offset: i64| {
            let ms = ms as i64 + offset;
            if ms >= 0 {
                base + Duration::from_millis(ms as u64)
            } else {
                base - Duration::from_millis((-ms) as u64)
            }
        };
        for ms in 0..20_000_u64 {
            for i in 0..holders {
                if rng.random_bool(step / 10.0) {
                    offsets[i] += rng.random_range(-5000..5000);
                }
                let now = at(ms, offsets[i]);
                let holder = &mut all[i];
                if rng.random_bool(0.005) {
                    let quiet = rng.random_bool(0.5);
                    let wants = (rng.random_range(0..4), rng.random_range(0..60));
                    holder.want(if quiet { 0 } else { wants.0 }, if quiet { 0 } else { wants.1 });
                }
                if let Some(request) = holder.due(now) {
                    if !rng.random_bool(loss) {
                        mail.push((ms + late(&mut rng), Mail::Request(request)));
                    }
                }
                if rng.random_bool(0.2) && admit_one(holder, now) {
                    run.opened += 1;
                }
                if rng.random_bool(0.001) {
                    holder.release();
                }
                if rng.random_bool(0.5) && holder.admit_token(now).is_go() {
                    run.used += 1;
                }
            }
            let mut later = Vec::new();
            for (due, one) in mail.drain(..) {
                match one {
                    one if due > ms => later.push((due, one)),
                    Mail::Request(request) => {
                        if let Some(grant) = owner.on_request(request, at(ms, 0)) {
                            if !rng.random_bool(loss) {
                                later.push((ms + 1 + late(&mut rng), Mail::Grant(usize::from(request.holder), grant)));
                            }
                        }
                    }
                    Mail::Grant(holder, grant) => all[holder].on_grant(grant, at(ms, offsets[holder])),
                }
            }
            mail = later;
            run.most_slots = run.most_slots.max(all.iter().map(LeaseHolder::in_use).sum());
            let earned = u64::from(PER_SECOND) + ms * u64::from(PER_SECOND) / 1000;
            run.tokens_over = run.tokens_over.max(run.used as i64 - earned as i64);
        }
        run
    }

    fn late(rng: &mut StdRng) -> u64 {
        if rng.random_bool(0.1) {
            rng.random_range(0..3000)
        } else {
            rng.random_range(0..3)
        }
    }

    fn admit_one(holder: &mut LeaseHolder, now: Instant) -> bool {
        let go = holder.check(now).is_go();
        if go {
            holder.take(now);
        }
        go
    }

    #[test]
    fn the_sum_never_exceeds_the_limit_whatever_is_lost_or_late() {
        let (mut used, mut opened) = (0, 0);
        for seed in 0..60 {
            let run = play(seed, LeaseMutants::default());
            assert!(run.most_slots <= SLOTS, "seed {seed}: {} slots", run.most_slots);
            assert!(run.tokens_over <= 0, "seed {seed}: {} tokens over", run.tokens_over);
            used += run.used;
            opened += run.opened;
        }
        assert!(used > 60 * 200, "the limit is also used: {used}");
        assert!(opened > 60 * 20, "and slots go round: {opened}");
    }

    #[test]
    fn mutants_are_noticed() {
        let kinds = [
            LeaseMutants { off_by_one: true, ..Default::default() },
            LeaseMutants { take_late_grants: true, ..Default::default() },
            LeaseMutants { reclaim_by_clock: true, ..Default::default() },
        ];
        for mutants in kinds {
            let noticed = (0..60).any(|seed| play(seed, mutants).most_slots > SLOTS);
            assert!(noticed, "{mutants:?}");
        }
    }

    #[test]
    fn shares_are_fair_and_the_last_slot_is_not_left_lying() {
        let now = Instant::now();
        let mut owner = LeaseOwner::new(WideLimit { rate: None, slots: Some(5) });
        let ask = |holder, number, keeps| LeaseRequest { holder, number, keeps, want_slots: 5, want_tokens: 0 };
        assert_eq!(owner.on_request(ask(0, 1, 0), now).map(|g| g.slots), Some(5), "alone: all");
        assert_eq!(owner.on_request(ask(1, 1, 0), now).map(|g| g.slots), Some(0));
        assert_eq!(owner.on_request(ask(0, 2, 2), now).map(|g| g.slots), Some(4));
        assert_eq!(owner.on_request(ask(1, 2, 0), now).map(|g| g.slots), Some(1));
        assert_eq!(owner.on_request(ask(1, 2, 0), now), None, "a repeat is not answered");
        assert_eq!(owner.lent_slots(), 5);
    }

    #[test]
    fn a_lease_ends_after_its_second_and_idle_slots_go_back() {
        let t = Instant::now();
        let mut owner = LeaseOwner::new(limit());
        let mut holder = LeaseHolder::new(0, Scope::Tenant, limit());
        assert_eq!(holder.due(t), None, "nothing is wanted");
        holder.want(3, 10);
        let request = holder.due(t).unwrap();
        let grant = owner.on_request(request, t).unwrap();
        holder.on_grant(grant, t);
        assert!(admit_one(&mut holder, t));
        assert!(holder.admit_token(t).is_go());
        let over = t + LEASE;
        let Admit::Wait { until, rule } = holder.admit_token(over) else { panic!() };
        assert!(until > over);
        assert_eq!(rule.scope, Scope::Tenant);
        holder.want(0, 0);
        let back = holder.due(over).unwrap();
        assert_eq!((back.keeps, back.want_slots), (1, 0), "the slot in use is kept");
        owner.on_request(back, over);
        assert_eq!(owner.lent_slots(), 1);
    }
}
