//! The wall clock as the process sees it: true time plus what somebody did to it.

use queue::UnixMillis;

/// The true time at which every run begins, in milliseconds since 1970.
pub const BEGIN: u64 = 1_790_000_000_000;

/// A clock that may be wrong.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Milliseconds it is ahead of the truth.
    pub ahead: i64,
    /// Something keeps it right, or so it says.
    pub synced: bool,
}

impl Clock {
    /// A right clock.
    pub fn right() -> Self {
        Self { ahead: 0, synced: true }
    }

    /// What it shows `now` milliseconds after the beginning.
    pub fn wall(&self, now: u64) -> UnixMillis {
        UnixMillis((BEGIN + now).saturating_add_signed(self.ahead))
    }
}
