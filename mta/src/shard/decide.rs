//! What follows from one outcome: pure, a table in code. Called where the reply was read, so that the verdict in the
//! ack log already holds the next due time.

use std::time::Duration;

use queue::{BounceClass, Outcome, OutcomeKind, UnixSecs};

/// Retry and expiry settings of one queue, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryRule {
    /// Before the second attempt.
    pub first: Duration,
    /// Longest interval.
    pub max: Duration,
    /// Given up after this age. RFC 5321 section 4.5.4.1: at least four to five days by default.
    pub max_age: Duration,
}

/// After an Unknown outcome nothing is tried sooner than this: the site may still be working on the message.
pub const UNKNOWN_RETRY: Duration = Duration::from_secs(30 * 60);
/// The second Unknown at one site is the last.
pub const UNKNOWNS_MAX: u8 = 2;

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

/// Decides what follows from `outcome`. `random` spreads retries over +-10 %.
#[must_use]
pub fn decide(outcome: Outcome, before: Before, rule: &RetryRule, now: UnixSecs, random: u32) -> Decision {
    let attempts = before.attempts.saturating_add(1);
    match outcome.kind {
        OutcomeKind::Delivered | OutcomeKind::Failed | OutcomeKind::Suppressed => {
            Decision { outcome, attempts, unknowns: before.unknowns, due: None }
        }
        OutcomeKind::Unknown => after_unknown(outcome, before, attempts, now),
        OutcomeKind::Deferred => after_deferral(outcome, before, attempts, rule, now, random),
    }
}

fn after_unknown(mut outcome: Outcome, before: Before, attempts: u16, now: UnixSecs) -> Decision {
    let unknowns = before.unknowns.saturating_add(1);
    if unknowns >= UNKNOWNS_MAX {
        outcome.kind = OutcomeKind::Failed;
        outcome.class = BounceClass::PossibleDuplicate;
        outcome.text = format!("no answer after the message was sent, twice; it may have been delivered ({})", outcome.text);
        return Decision { outcome, attempts, unknowns, due: None };
    }
    Decision { outcome, attempts, unknowns, due: Some(now.plus(UNKNOWN_RETRY)) }
}

fn after_deferral(
    mut outcome: Outcome,
    before: Before,
    attempts: u16,
    rule: &RetryRule,
    now: UnixSecs,
    random: u32,
) -> Decision {
    let due = now.plus(interval(rule, attempts, random));
    let give_up = before.received.plus(rule.max_age);
    let limit = before.not_after.map_or(give_up, |at| at.min(give_up));
    // The next attempt would come too late, or this one already did.
    if before.clock_trusted && due > limit {
        outcome.kind = OutcomeKind::Failed;
        outcome.class = BounceClass::MessageExpired;
        return Decision { outcome, attempts, unknowns: before.unknowns, due: None };
    }
    Decision { outcome, attempts, unknowns: before.unknowns, due: Some(due) }
}

/// The interval after attempt number `attempts` (1 is the first), doubled each time, spread by `random`.
#[must_use]
pub fn interval(rule: &RetryRule, attempts: u16, random: u32) -> Duration {
    let doublings = u32::from(attempts.saturating_sub(1)).min(16);
    let whole = rule.first.saturating_mul(1 << doublings).min(rule.max);
    // 90 % to 110 % in steps of 0.2 %.
    whole.mul_f64(0.9 + f64::from(random % 101) * 0.002)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> RetryRule {
        RetryRule {
            first: Duration::from_secs(1200),
            max: Duration::from_secs(14_400),
            max_age: Duration::from_secs(432_000),
        }
    }

    fn outcome(kind: OutcomeKind) -> Outcome {
        Outcome { kind, code: 450, enhanced: [4, 2, 1], text: "later".into(), class: BounceClass::TransientFailure }
    }

    fn before(attempts: u16, unknowns: u8) -> Before {
        Before { attempts, unknowns, received: UnixSecs(1000), not_after: None, clock_trusted: true }
    }

    #[test]
    fn a_deferral_doubles_up_to_the_longest_interval() {
        let seconds = |attempts| interval(&rule(), attempts, 50).as_secs();
        assert_eq!([seconds(1), seconds(2), seconds(3), seconds(9)], [1200, 2400, 4800, 14_400]);
        assert_eq!(interval(&rule(), 1, 0).as_secs(), 1080);
        assert_eq!(interval(&rule(), 1, 100).as_secs(), 1320);
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
        assert_eq!((first.due, first.unknowns), (Some(UnixSecs(5000 + 1800)), 1));
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
