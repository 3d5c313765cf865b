//! When a program that ended is started again: at once after a long life, later and later after short ones.
//!
//! Pure: how long it ran goes in, how long to wait comes out.

use std::time::Duration;

/// A life this long clears the record.
pub const STEADY: Duration = Duration::from_secs(60);
/// The first wait after a short life.
pub const FIRST: Duration = Duration::from_millis(250);
/// The longest wait.
pub const LONGEST: Duration = Duration::from_secs(30);

/// One program's record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    short_lives: u32,
}

impl Backoff {
    /// The program ended after `lived`: how long to wait before the next start.
    pub fn ended(&mut self, lived: Duration) -> Duration {
        if lived >= STEADY {
            self.short_lives = 0;
        }
        let factor = 1u32 << self.short_lives.min(16);
        self.short_lives = self.short_lives.saturating_add(1);
        FIRST.saturating_mul(factor).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_lives_wait_longer_and_a_long_life_clears_them() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..9).map(|_| backoff.ended(Duration::from_secs(1)).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        assert_eq!(backoff.ended(STEADY), FIRST);
        assert_eq!(backoff.ended(Duration::ZERO), FIRST * 2);
        let mut long = Backoff { short_lives: u32::MAX };
        assert_eq!(long.ended(Duration::ZERO), LONGEST);
    }
}
