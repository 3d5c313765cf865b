//! Whether the wall clock may end anything. Time can lie: a machine that boots in 1970 or whose clock is set a
//! year ahead must not give up every message it holds.

use crate::UnixSecs;

/// A wall clock that moves this many seconds more or less than the steady clock has jumped.
pub const JUMP_MAX: u32 = 300;

/// What the clock is worth right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockState {
    /// Times are believed.
    Trusted,
    /// Not yet synchronised: nothing expires.
    #[default]
    Unsynced,
    /// It jumped by this many seconds: nothing expires until an operator (or a rule) has said that it is right.
    Jumped(i64),
}

impl ClockState {
    /// True when recipients may be given up because of the time.
    #[must_use]
    pub fn may_expire(self) -> bool {
        self == Self::Trusted
    }
}

/// Watches the wall clock against a steady one. One per process.
#[derive(Clone, Debug, Default)]
pub struct ClockGuard {
    last: Option<(UnixSecs, u64)>,
    synced: bool,
    jump: Option<i64>,
}

impl ClockGuard {
    /// Judges one reading: `wall` with `steady` seconds of a clock nobody sets, and whether the wall clock is
    /// synchronised.
    ///
    /// A jump that happens on the way from unsynchronised to synchronised is the correction one waits for, and none.
    pub fn observe(&mut self, wall: UnixSecs, steady: u64, synced: bool) -> ClockState {
        if let Some((last_wall, last_steady)) = self.last {
            let passed = steady.saturating_sub(last_steady);
            let by = i64::from(wall.0) - i64::from(last_wall.0) - i64::try_from(passed).unwrap_or(i64::MAX);
            if self.synced && by.unsigned_abs() > u64::from(JUMP_MAX) {
                self.jump = Some(self.jump.unwrap_or(0).saturating_add(by));
            }
        }
        self.last = Some((wall, steady));
        self.synced = synced;
        self.state()
    }

    /// The state as of the last reading.
    #[must_use]
    pub fn state(&self) -> ClockState {
        match self.jump {
            _ if !self.synced => ClockState::Unsynced,
            Some(by) => ClockState::Jumped(by),
            None => ClockState::Trusted,
        }
    }

    /// An operator says the clock is right as it is.
    pub fn accept_jump(&mut self) {
        self.jump = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_jump_of_a_synchronised_clock_beyond_five_minutes_counts() {
        // (wall, steady, synced) -> state
        let table = [
            (0, 10, false, ClockState::Unsynced),
            (1_700_000_000, 20, true, ClockState::Trusted),
            (1_700_000_300, 20, true, ClockState::Trusted),
            (1_700_000_000, 20, true, ClockState::Trusted),
            (1_700_003_600, 3_620, true, ClockState::Trusted),
            (1_700_004_000, 3_620, true, ClockState::Jumped(400)),
            (1_700_004_010, 3_630, true, ClockState::Jumped(400)),
            (1_700_003_610, 3_630, true, ClockState::Jumped(0)),
        ];
        let mut guard = ClockGuard::default();
        for (wall, steady, synced, want) in table {
            assert_eq!(guard.observe(UnixSecs(wall), steady, synced), want, "{wall} {steady}");
        }
        guard.accept_jump();
        assert!(guard.state().may_expire());
    }
}
