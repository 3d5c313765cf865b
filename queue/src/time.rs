//! Wall-clock values as they are handed in by callers. Nothing in this crate reads a clock.

use std::fmt;
use std::time::Duration;

/// Seconds since 1970-01-01 UTC. 32 bits last until 2106 and halve the memory of a queued recipient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixSecs(pub u32);

/// Milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

impl UnixSecs {
    /// This time plus a delay, saturating at the end of the epoch.
    #[must_use]
    pub fn plus(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(u32::try_from(delay.as_secs()).unwrap_or(u32::MAX)))
    }

    /// Seconds from `earlier` to this time; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

impl UnixMillis {
    /// The whole seconds of this time.
    #[must_use]
    pub fn secs(self) -> UnixSecs {
        UnixSecs(u32::try_from(self.0 / 1000).unwrap_or(u32::MAX))
    }
}

impl fmt::Display for UnixSecs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
