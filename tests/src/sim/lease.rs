//! A limit wider than a path: one owner lends connection slots, holders use them, letters between them are late, lost
//! and overtake each other. However that goes, the sum in use never exceeds the limit.

use std::time::{Duration, Instant};

use mta::shaping::lease::{LeaseGrant, LeaseHolder, LeaseMutants, LeaseOwner, LeaseRequest, WideLimit};
use mta::shaping::limiter::{Admit, Limiter};
use mta::shaping::Scope;
use rand::rngs::StdRng;
use rand::Rng;

/// A letter between owner and holder.
#[derive(Clone, Copy, Debug)]
pub enum LeaseLetter {
    /// To the owner.
    Ask(LeaseRequest),
    /// To this holder.
    Grant(usize, LeaseGrant),
}

/// Owner and holders of one limit.
pub struct Leases {
    owner: LeaseOwner,
    holders: Vec<LeaseHolder>,
    limit: u32,
}

impl Leases {
    /// So many holders of a limit of so many slots.
    pub fn new(holders: usize, limit: u32, mutants: LeaseMutants) -> Self {
        let wide = WideLimit { rate: None, slots: Some(limit) };
        let holder = |n| LeaseHolder::new(n as u16, Scope::Source, wide).with_mutants(mutants);
        Self { owner: LeaseOwner::new(wide).with_mutants(mutants), holders: (0..holders).map(holder).collect(), limit }
    }

    /// A moment in the life of a random holder: opens or closes connections, asks for more. Letters to be sent with
    /// their delays come back.
    pub fn step(&mut self, now: Instant, random: &mut StdRng) -> Option<(Duration, LeaseLetter)> {
        let number = random.random_range(0..self.holders.len());
        let holder = self.holders.get_mut(number)?;
        for _ in 0..random.random_range(0..4) {
            if random.random_bool(0.35) {
                if holder.in_use() > 0 {
                    holder.release();
                }
            } else if matches!(holder.check(now), Admit::Go) {
                holder.take(now);
            }
        }
        holder.want(random.random_range(0..6), 0);
        let request = holder.due(now)?;
        (!random.random_bool(0.1)).then(|| (delay(random), LeaseLetter::Ask(request)))
    }

    /// A letter arrives; an answer may follow.
    pub fn read(&mut self, letter: LeaseLetter, now: Instant, random: &mut StdRng) -> Option<(Duration, LeaseLetter)> {
        match letter {
            LeaseLetter::Ask(request) => {
                let grant = self.owner.on_request(request, now)?;
                let to = usize::from(request.holder);
                (!random.random_bool(0.1)).then(|| (delay(random), LeaseLetter::Grant(to, grant)))
            }
            LeaseLetter::Grant(to, grant) => {
                self.holders.get_mut(to)?.on_grant(grant, now);
                None
            }
        }
    }

    /// What is wrong, if anything is.
    pub fn broken(&self) -> Option<String> {
        let used: u32 = self.holders.iter().map(LeaseHolder::in_use).sum();
        (used > self.limit).then(|| format!("{used} slots of a wide limit of {} are in use", self.limit))
    }
}

fn delay(random: &mut StdRng) -> Duration {
    let most = if random.random_bool(0.1) { 3000 } else { 40 };
    Duration::from_millis(random.random_range(0..most))
}
