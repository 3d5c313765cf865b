//! Keeps order when the ack log takes no entries: what follows from a verdict must not overtake it.
//!
//! A verdict that could not be appended stands before the note, the settlement and the report that follow from it.
//! Would they go on, the next sync of the ledger would call the note durable while the verdict is nowhere, and a report
//! could leave about an outcome that a crash then forgets.

use std::collections::VecDeque;

use queue::ack::AckEntry;

use super::effect::Effect;

/// Effects that wait for the ack log, in order.
#[derive(Debug, Default)]
pub struct HeldBack(VecDeque<Effect>);

impl HeldBack {
    /// Gives the effect back when it may be carried out now.
    pub fn pass(&mut self, effect: Effect) -> Option<Effect> {
        if self.0.is_empty() || !follows(&effect) {
            return Some(effect);
        }
        self.0.push_back(effect);
        None
    }

    /// The ack log did not take this entry, which [`HeldBack::pass`] had let through: it goes first.
    pub fn refused(&mut self, entry: AckEntry) {
        self.0.push_front(Effect::Ack(entry));
    }

    /// Everything that waits, to be carried out again in this order.
    pub fn take(&mut self) -> VecDeque<Effect> {
        std::mem::take(&mut self.0)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// True for what may follow from a verdict.
fn follows(effect: &Effect) -> bool {
    match effect {
        Effect::Ack(_)
        | Effect::Note(_)
        | Effect::Settle(..)
        | Effect::Return(..)
        | Effect::Load(_)
        | Effect::Report(_)
        | Effect::Retire(..) => true,
        Effect::Ask(_)
        | Effect::Hand(..)
        | Effect::Render(..)
        | Effect::Connect(_)
        | Effect::LeaseAsk(..)
        | Effect::LeaseGrant(..)
        | Effect::Wake(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use queue::{SpoolId, UnixSecs};

    use super::*;
    use crate::shard::events;

    #[test]
    fn what_follows_a_refused_verdict_waits_behind_it() {
        let mut held = HeldBack::default();
        let entry = |id| events::done(SpoolId(id), 0, UnixSecs(1));
        let Some(Effect::Ack(first)) = held.pass(Effect::Ack(entry(1))) else { panic!("nothing waits yet") };
        held.refused(first);
        assert!(held.pass(Effect::Note(None)).is_none());
        assert!(held.pass(Effect::Ack(entry(2))).is_none());
        assert!(held.pass(Effect::Wake(super::super::item::PathKey::none())).is_some());
        let again: Vec<Effect> = held.take().into();
        let ids = |effect: &Effect| match effect {
            Effect::Ack(entry) => entry.id.0,
            _ => 0,
        };
        assert_eq!(again.iter().map(ids).collect::<Vec<_>>(), [1, 0, 2]);
        assert!(held.is_empty());
    }
}
