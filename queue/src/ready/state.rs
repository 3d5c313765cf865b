//! Whether a path may send: Ready, Throttled until a time, or Suspended until someone decides.

use crate::UnixSecs;

/// What made a path wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ThrottleReason {
    /// A rate or connection limit of ours.
    Limit,
    /// The site asked us to slow down.
    Site,
    /// The site can't be reached.
    Unreachable,
    /// A breaker opened: too many refusals.
    Breaker,
    /// The ack log can't be written: nothing may leave.
    AckLog,
}

/// State of one path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ReadyState {
    /// Recipients may leave.
    #[default]
    Ready,
    /// Nothing leaves until then.
    Throttled {
        /// The first second at which it is Ready again.
        until: UnixSecs,
        /// What made it wait.
        reason: ThrottleReason,
    },
    /// Nothing leaves until an operator (or the rule's end) resumes it.
    Suspended,
}

/// A move that makes no sense: a bug of the caller's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a path that is {from:?} can't become {to:?}")]
pub struct IllegalMove {
    /// The state it is in, and stays in.
    pub from: ReadyState,
    /// The state asked for.
    pub to: ReadyState,
}

impl ReadyState {
    /// The state after `to` was asked for. Throttling twice keeps the later end. A suspended path can only be resumed:
    /// a reply that comes in late must not turn a suspension into a short wait.
    ///
    /// # Errors
    /// [`IllegalMove`] for Suspended to Throttled.
    pub fn moved(&self, to: Self) -> Result<Self, IllegalMove> {
        match (self, to) {
            (Self::Throttled { until, reason }, Self::Throttled { until: later, reason: new }) => {
                Ok(if later >= *until {
                    Self::Throttled { until: later, reason: new }
                } else {
                    Self::Throttled { until: *until, reason: *reason }
                })
            }
            (Self::Suspended, to @ Self::Throttled { .. }) => Err(IllegalMove { from: self.clone(), to }),
            (_, to) => Ok(to),
        }
    }

    /// The state as of `now`: a throttle whose time has come is over.
    #[must_use]
    pub fn at(&self, now: UnixSecs) -> Self {
        match self {
            Self::Throttled { until, .. } if *until <= now => Self::Ready,
            state => state.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttled(until: u32, reason: ThrottleReason) -> ReadyState {
        ReadyState::Throttled { until: UnixSecs(until), reason }
    }

    #[test]
    fn moves_are_those_of_the_table() {
        use ReadyState::{Ready, Suspended};
        use ThrottleReason::{Limit, Site};
        let table = [
            (Ready, Ready, Some(Ready)),
            (Ready, throttled(5, Limit), Some(throttled(5, Limit))),
            (Ready, Suspended, Some(Suspended)),
            (throttled(5, Limit), Ready, Some(Ready)),
            (throttled(5, Limit), throttled(9, Site), Some(throttled(9, Site))),
            (throttled(5, Limit), throttled(4, Site), Some(throttled(5, Limit))),
            (throttled(5, Limit), Suspended, Some(Suspended)),
            (Suspended, Ready, Some(Ready)),
            (Suspended, Suspended, Some(Suspended)),
            (Suspended, throttled(5, Limit), None),
        ];
        for (from, to, want) in table {
            assert_eq!(from.moved(to.clone()).ok(), want, "{from:?} -> {to:?}");
        }
    }

    #[test]
    fn a_throttle_ends_at_its_time() {
        let state = throttled(5, ThrottleReason::Site);
        assert_eq!(state.at(UnixSecs(4)), state);
        assert_eq!(state.at(UnixSecs(5)), ReadyState::Ready);
        assert_eq!(ReadyState::Suspended.at(UnixSecs(5)), ReadyState::Suspended);
    }
}
