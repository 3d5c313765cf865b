//! When a recipient is tried again. Pure: the age, the counts and a random number come in, a due time or the end comes
//! out.

use std::time::Duration;

use crate::UnixSecs;

/// Delays between attempts and the age at which one gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySchedule {
    /// After the first attempt, when the reply looks like greylisting (4xx before a greylister knows us).
    pub greylist: Duration,
    /// After the first deferral; doubles with every further one.
    pub base: Duration,
    /// The longest delay between attempts.
    pub max: Duration,
    /// Age at which a recipient is given up.
    pub max_age: Duration,
    /// The shortest delay after an Unknown outcome: the site may still be at work on what it has.
    pub unknown: Duration,
    /// Share of the delay, in percent, that the random number adds or takes away.
    pub jitter: u8,
}

impl Default for RetrySchedule {
    /// RFC 5321 section 4.5.4.1: at least 30 minutes between attempts on the long run, giving up after 4 to 5 days,
    /// and two attempts in the first hour.
    fn default() -> Self {
        Self {
            greylist: Duration::from_secs(10 * 60),
            base: Duration::from_secs(20 * 60),
            max: Duration::from_secs(4 * 3600),
            max_age: Duration::from_secs(5 * 86_400),
            unknown: Duration::from_secs(30 * 60),
            jitter: 10,
        }
    }
}

/// What happened in the attempt that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryCause {
    /// A deferral like any other.
    Deferred,
    /// A deferral whose reply speaks of greylisting, or that came to the first attempt at RCPT.
    Greylisted,
    /// No answer after the last byte.
    Unknown,
    /// The reply names a delay, or a shaping rule does.
    After(Duration),
}

/// When to try again, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextAttempt {
    /// Due at this time.
    At(UnixSecs),
    /// The give-up age is reached.
    GiveUp,
}

/// The greylisting delay varies between half and one and a half of its value: 5 to 15 minutes by default.
const GREYLIST_JITTER: u32 = 50;

impl RetrySchedule {
    /// The schedule of a queue whose operator set only some of the values.
    #[must_use]
    pub fn with(self, change: RetryOverride) -> Self {
        Self {
            base: change.base.unwrap_or(self.base),
            max: change.max.unwrap_or(self.max),
            max_age: change.max_age.unwrap_or(self.max_age),
            ..self
        }
    }

    /// What follows attempt number `attempts` (the one that is over, from 1) of a message accepted at `received`.
    ///
    /// `random` spreads recipients that failed together; give one number for all recipients of a transaction, so that
    /// they stay together. No wait reaches beyond the give-up age: the end is told when it comes, not hours later.
    #[must_use]
    pub fn next(
        &self,
        now: UnixSecs,
        received: UnixSecs,
        attempts: u16,
        cause: RetryCause,
        random: u32,
    ) -> NextAttempt {
        let max_age = secs(self.max_age);
        let age = now.since(received);
        if age >= max_age {
            return NextAttempt::GiveUp;
        }
        let doublings = u32::from(attempts.saturating_sub(1)).min(31);
        let step = (u64::from(secs(self.base)) << doublings).min(u64::from(secs(self.max)));
        let step = u32::try_from(step).unwrap_or(u32::MAX);
        let jitter = u32::from(self.jitter.min(50));
        let delay = match cause {
            RetryCause::Greylisted if attempts <= 1 => spread(secs(self.greylist), GREYLIST_JITTER, random),
            RetryCause::Deferred | RetryCause::Greylisted => spread(step, jitter, random),
            // Jitter only adds here: the delay is a promise.
            RetryCause::Unknown => {
                let least = secs(self.unknown).max(step);
                least.saturating_add(spread(least, jitter, random).abs_diff(least))
            }
            RetryCause::After(delay) => {
                let delay = secs(delay).max(1).min(max_age);
                delay.saturating_add(spread(delay, jitter, random).abs_diff(delay))
            }
        };
        let end = received.0.saturating_add(max_age);
        let due = now.0.saturating_add(delay.max(1));
        NextAttempt::At(UnixSecs(match cause {
            RetryCause::Unknown => due,
            _ => due.min(end.max(now.0.saturating_add(1))),
        }))
    }
}

/// The values an operator may set for a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOverride {
    /// See [`RetrySchedule::base`].
    pub base: Option<Duration>,
    /// See [`RetrySchedule::max`].
    pub max: Option<Duration>,
    /// See [`RetrySchedule::max_age`].
    pub max_age: Option<Duration>,
}

fn secs(delay: Duration) -> u32 {
    u32::try_from(delay.as_secs()).unwrap_or(u32::MAX)
}

/// `delay` give or take `percent` of it.
fn spread(delay: u32, percent: u32, random: u32) -> u32 {
    let reach = u64::from(delay) * u64::from(percent) / 100;
    let offset = (u64::from(random) * (2 * reach + 1)) >> 32;
    u32::try_from((u64::from(delay) + offset).saturating_sub(reach)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixSecs = UnixSecs(1_700_000_000);
    const MIDDLE: u32 = 1 << 31;

    fn delay(age: u32, attempts: u16, cause: RetryCause, random: u32) -> Option<u32> {
        let now = UnixSecs(START.0 + age);
        match RetrySchedule::default().next(now, START, attempts, cause, random) {
            NextAttempt::At(due) => Some(due.0 - now.0),
            NextAttempt::GiveUp => None,
        }
    }

    #[test]
    fn delays_double_from_twenty_minutes_to_four_hours() {
        let table = [(1, 1200), (2, 2400), (3, 4800), (4, 9600), (5, 14_400), (6, 14_400), (60_000, 14_400)];
        for (attempts, want) in table {
            assert_eq!(delay(0, attempts, RetryCause::Deferred, MIDDLE), Some(want), "attempt {attempts}");
        }
    }

    #[test]
    fn jitter_stays_within_its_share() {
        for random in [0, 1, MIDDLE, u32::MAX - 1, u32::MAX] {
            let plain = delay(0, 1, RetryCause::Deferred, random).unwrap();
            assert!((1080..=1320).contains(&plain), "{plain}");
            let grey = delay(0, 1, RetryCause::Greylisted, random).unwrap();
            assert!((300..=900).contains(&grey), "{grey}");
            let unknown = delay(0, 1, RetryCause::Unknown, random).unwrap();
            assert!((1800..=1980).contains(&unknown), "{unknown}");
            let asked = delay(0, 1, RetryCause::After(Duration::from_secs(600)), random).unwrap();
            assert!((600..=660).contains(&asked), "{asked}");
        }
        assert_ne!(delay(0, 1, RetryCause::Deferred, 0), delay(0, 1, RetryCause::Deferred, u32::MAX));
    }

    #[test]
    fn only_the_first_attempt_counts_as_greylisted() {
        assert_eq!(delay(0, 2, RetryCause::Greylisted, MIDDLE), Some(2400));
    }

    #[test]
    fn no_wait_reaches_beyond_the_give_up_age() {
        let max_age = 5 * 86_400;
        assert_eq!(delay(max_age - 100, 30, RetryCause::Deferred, MIDDLE), Some(100));
        assert_eq!(delay(max_age - 1, 30, RetryCause::Deferred, MIDDLE), Some(1));
        assert_eq!(delay(max_age, 30, RetryCause::Deferred, MIDDLE), None);
        assert!(delay(max_age - 100, 2, RetryCause::Unknown, 0) >= Some(1800), "Unknown keeps its distance");
    }

    #[test]
    fn an_override_changes_what_it_names() {
        let change = RetryOverride { base: Some(Duration::from_secs(60)), ..RetryOverride::default() };
        let schedule = RetrySchedule::default().with(change);
        assert_eq!(
            schedule.next(START, START, 1, RetryCause::Deferred, MIDDLE),
            NextAttempt::At(UnixSecs(START.0 + 60))
        );
        assert_eq!(schedule.max, RetrySchedule::default().max);
    }

    #[test]
    fn times_at_the_edge_of_the_epoch_do_not_overflow() {
        let schedule =
            RetrySchedule { max_age: Duration::MAX, base: Duration::MAX, max: Duration::MAX, ..Default::default() };
        let end = UnixSecs(u32::MAX - 1);
        for cause in [RetryCause::Deferred, RetryCause::Unknown, RetryCause::After(Duration::MAX)] {
            assert_eq!(schedule.next(end, UnixSecs(0), u16::MAX, cause, u32::MAX), NextAttempt::At(UnixSecs(u32::MAX)));
        }
    }
}
