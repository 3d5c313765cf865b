//! What follows from one outcome: pure, a table in code. Called where the reply was read, so that the verdict in the
//! ack log already holds the next due time.

use queue::scheduled::retry::{NextAttempt, RetryCause, RetrySchedule};
use queue::scheduled::JUMP_MAX;
use queue::{BounceClass, Outcome, OutcomeKind, UnixSecs};

use super::core::Now;

/// The second Unknown at one site is the last.
pub const UNKNOWNS_MAX: u8 = 2;

/// True when wall clock and steady clock moved alike between two moments, within what counts as a jump.
#[must_use]
pub fn moved_together(before: Now, now: Now) -> bool {
    let steady = now.steady.saturating_duration_since(before.steady).as_secs();
    let wall = i64::from(now.wall.0) - i64::from(before.wall.0);
    wall.abs_diff(i64::try_from(steady).unwrap_or(i64::MAX)) <= u64::from(JUMP_MAX)
}

/// What is known of a recipient before the outcome.
#[derive(Debug, Clone, Copy)]
pub struct Before {
    /// Attempts made before this one.
    pub attempts: u16,
    /// Unknown outcomes before this one.
    pub unknowns: u8,
    /// When the message was accepted.
    pub received: UnixSecs,
    /// The sender's own limit.
    pub not_after: Option<UnixSecs>,
    /// False while the clock is not to be trusted: then nothing expires.
    pub clock_trusted: bool,
}

/// The decision for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What to record: a Deferred outcome of an expired message is recorded as Failed.
    pub outcome: Outcome,
    /// Attempts made, this one included.
    pub attempts: u16,
    /// Unknown outcomes, this one included.
    pub unknowns: u8,
    /// When it is tried again; `None` when the outcome is final.
    pub due: Option<UnixSecs>,
}

/// Decides what follows from `outcome`. `random` spreads retries; one number for a whole
/// transaction keeps its recipients together.
#[must_use]
pub fn decide(outcome: Outcome, before: Before, rule: &RetrySchedule, now: UnixSecs, random: u32) -> Decision {
    let attempts = before.attempts.saturating_add(1);
    match outcome.kind {
        OutcomeKind::Delivered | OutcomeKind::Failed | OutcomeKind::Suppressed => {
            Decision { outcome, attempts, unknowns: before.unknowns, due: None }
        }
        OutcomeKind::Unknown => after_unknown(outcome, before, attempts, rule, now, random),
        OutcomeKind::Deferred => after_deferral(outcome, before, attempts, rule, now, random),
    }
}

fn after_unknown(
    mut outcome: Outcome,
    before: Before,
    attempts: u16,
    rule: &RetrySchedule,
    now: UnixSecs,
    random: u32,
) -> Decision {
    let unknowns = before.unknowns.saturating_add(1);
    let next = rule.next(now, before.received, attempts, RetryCause::Unknown, random);
    match next {
        NextAttempt::At(due) if unknowns < UNKNOWNS_MAX => Decision { outcome, attempts, unknowns, due: Some(due) },
        // The age ends nobody by a clock that may be wrong.
        NextAttempt::GiveUp if unknowns < UNKNOWNS_MAX && !before.clock_trusted => {
            Decision { outcome, attempts, unknowns, due: Some(now.plus(rule.unknown)) }
        }
        _ => {
            outcome.kind = OutcomeKind::Failed;
            outcome.class = BounceClass::PossibleDuplicate;
            outcome.text =
                format!("no answer after the message was sent; it may have been delivered ({})", outcome.text);
            Decision { outcome, attempts, unknowns, due: None }
        }
    }
}

fn after_deferral(
    mut outcome: Outcome,
    before: Before,
    attempts: u16,
    rule: &RetrySchedule,
    now: UnixSecs,
    random: u32,
) -> Decision {
    let cause = if outcome.text.to_ascii_lowercase().contains("greylist") {
        RetryCause::Greylisted
    } else {
        RetryCause::Deferred
    };
    let due = match rule.next(now, before.received, attempts, cause, random) {
        NextAttempt::At(due) => due,
        // Nothing expires while the clock is not trusted: the longest interval then.
        NextAttempt::GiveUp if !before.clock_trusted => now.plus(rule.max),
        NextAttempt::GiveUp => UnixSecs(u32::MAX),
    };
    if before.clock_trusted && (due == UnixSecs(u32::MAX) || before.not_after.is_some_and(|at| due > at)) {
        outcome.kind = OutcomeKind::Failed;
        outcome.class = BounceClass::MessageExpired;
        return Decision { outcome, attempts, unknowns: before.unknowns, due: None };
    }
    Decision { outcome, attempts, unknowns: before.unknowns, due: Some(due) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> RetrySchedule {
        RetrySchedule::default()
    }

    fn outcome(kind: OutcomeKind) -> Outcome {
        Outcome { kind, code: 450, enhanced: [4, 2, 1], text: "later".into(), class: BounceClass::TransientFailure }
    }

    fn before(attempts: u16, unknowns: u8) -> Before {
        Before { attempts, unknowns, received: UnixSecs(1000), not_after: None, clock_trusted: true }
    }

    #[test]
    fn r02_a_deferral_past_the_age_limit_fails_as_expired() {
        let late = UnixSecs(1000 + 432_000);
        let decision = decide(outcome(OutcomeKind::Deferred), before(40, 0), &rule(), late, 0);
        assert_eq!((decision.outcome.kind, decision.due), (OutcomeKind::Failed, None));
        assert_eq!(decision.outcome.class, BounceClass::MessageExpired);
    }

    #[test]
    fn nothing_expires_while_the_clock_is_not_trusted() {
        let late = UnixSecs(1000 + 500_000);
        let unsure = Before { clock_trusted: false, ..before(40, 0) };
        assert!(decide(outcome(OutcomeKind::Deferred), unsure, &rule(), late, 0).due.is_some());
    }

    #[test]
    fn r03_an_unknown_waits_half_an_hour_and_the_second_is_the_last() {
        let first = decide(outcome(OutcomeKind::Unknown), before(0, 0), &rule(), UnixSecs(5000), 0);
        assert!(first.due.is_some_and(|due| due >= UnixSecs(5000 + 1800)));
        assert_eq!(first.unknowns, 1);
        let second = decide(outcome(OutcomeKind::Unknown), before(1, 1), &rule(), UnixSecs(9000), 0);
        assert_eq!((second.outcome.kind, second.outcome.class), (OutcomeKind::Failed, BounceClass::PossibleDuplicate));
    }

    #[test]
    fn the_senders_own_limit_counts_before_the_general_one() {
        let hurry = Before { not_after: Some(UnixSecs(2000)), ..before(0, 0) };
        let decision = decide(outcome(OutcomeKind::Deferred), hurry, &rule(), UnixSecs(1500), 0);
        assert_eq!(decision.outcome.kind, OutcomeKind::Failed);
    }
}
