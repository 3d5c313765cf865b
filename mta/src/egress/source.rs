//! One egress source: may it send now, and under which name? Pure: look-ups and addresses come in as facts.
//!
//! ```text
//! Unchecked --confirmed--> Confirmed --mismatch, or unknown for too long--> Parked --confirmed--> Confirmed
//! ```
//! Beside that an address can vanish from the machine; then nothing else matters until it is back, and its name is
//! checked again. Checks come at start, hourly, and at once after a reply that doubts the name.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::dns::{Confirmation, Mismatch};

/// A confirmed name is checked again after this time.
pub const CHECK_EVERY: Duration = Duration::from_secs(3600);
/// A parked source is checked again after this time.
pub const CHECK_PARKED: Duration = Duration::from_secs(300);
/// When the DNS gave no answer the check is repeated after this time.
pub const CHECK_UNKNOWN: Duration = Duration::from_secs(60);
/// Time from a reply that doubts the name to the check, at most.
pub const CHECK_DOUBTED: Duration = Duration::from_secs(60);
/// Two checks are at least this far apart, however many replies doubt the name.
pub const CHECK_APART: Duration = Duration::from_secs(30);
/// A confirmed name outlives failing look-ups for this long: receivers have it cached, too.
pub const GRACE: Duration = Duration::from_secs(6 * 3600);

/// A local address mail may leave from, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressSource {
    /// Its name in pools and logs.
    pub name: String,
    /// The local address that sockets are bound to.
    pub address: IpAddr,
    /// Lab only: the EHLO name is taken as given and nothing is checked.
    pub assumed_name: Option<String>,
    /// Share within its pools.
    pub weight: u32,
}

/// Why a source may not send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parked {
    /// Its name has not been checked yet.
    Unchecked,
    /// Address and name do not agree. The operator or the hoster is to blame.
    Mismatch(Mismatch),
    /// The DNS gave no answer, for longer than [`GRACE`] or from the start.
    Unknown(String),
    /// The address is not on the machine.
    Unplumbed,
}

/// How a source stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// May send under this name.
    Usable {
        /// The EHLO name.
        ehlo: String,
        /// True when nobody checked it: a lab.
        assumed: bool,
    },
    /// May not send.
    Parked(Parked),
}

/// What changed; worth an event, and an alarm when it says parked.
pub type Change = Standing;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Unchecked,
    Confirmed { name: String, at: Instant },
    Wrong(Mismatch),
    Unknown(String),
}

/// The state of one source.
#[derive(Clone, Debug)]
pub struct SourceState {
    source: EgressSource,
    plumbed: bool,
    name: Name,
    check_at: Instant,
    check_parked: Duration,
    checked: Option<Instant>,
    checking: bool,
}

impl SourceState {
    /// A source at start: to be checked at once.
    #[must_use]
    pub fn new(source: EgressSource, plumbed: bool, now: Instant) -> Self {
        Self {
            source,
            plumbed,
            name: Name::Unchecked,
            check_at: now,
            check_parked: CHECK_PARKED,
            checked: None,
            checking: false,
        }
    }

    /// While its name is wrong it is checked again after this time.
    #[must_use]
    pub fn checked_again_after(mut self, time: Duration) -> Self {
        self.check_parked = time;
        self
    }

    /// How it stands at `now`.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        if !self.plumbed {
            return Standing::Parked(Parked::Unplumbed);
        }
        if let Some(name) = &self.source.assumed_name {
            return Standing::Usable { ehlo: name.clone(), assumed: true };
        }
        match &self.name {
            Name::Confirmed { name, at } if now.saturating_duration_since(*at) < GRACE => {
                Standing::Usable { ehlo: name.clone(), assumed: false }
            }
            Name::Confirmed { .. } => Standing::Parked(Parked::Unknown("not confirmed for hours".into())),
            Name::Unchecked => Standing::Parked(Parked::Unchecked),
            Name::Wrong(why) => Standing::Parked(Parked::Mismatch(why.clone())),
            Name::Unknown(text) => Standing::Parked(Parked::Unknown(text.clone())),
        }
    }

    /// The source as configured.
    #[must_use]
    pub fn source(&self) -> &EgressSource {
        &self.source
    }

    /// When its name is to be checked; `None` while a check runs, and where there is nothing to check.
    #[must_use]
    pub fn next_check(&self) -> Option<Instant> {
        (!self.checking && self.plumbed && self.source.assumed_name.is_none()).then_some(self.check_at)
    }

    /// Claims the check that is due: true means look the name up and hand the result to `on_confirmation`.
    pub fn start_check(&mut self, now: Instant) -> bool {
        let due = self.next_check().is_some_and(|at| now >= at);
        self.checking |= due;
        due
    }

    /// Takes in what the look-up came to.
    pub fn on_confirmation(&mut self, confirmation: Confirmation, now: Instant) -> Option<Change> {
        let before = self.standing(now);
        self.checking = false;
        self.checked = Some(now);
        let (name, again) = match (confirmation, &self.name) {
            (Confirmation::Confirmed { name }, _) => (Name::Confirmed { name, at: now }, CHECK_EVERY),
            (Confirmation::Mismatch { why }, _) => (Name::Wrong(why), self.check_parked),
            // A failing look-up proves nothing against a name that was confirmed; `standing` minds the grace.
            (Confirmation::Unknown { .. }, Name::Confirmed { .. }) => (self.name.clone(), CHECK_UNKNOWN),
            // Nor does it clear one that was wrong.
            (Confirmation::Unknown { .. }, Name::Wrong(_)) => (self.name.clone(), CHECK_UNKNOWN),
            (Confirmation::Unknown { text }, _) => (Name::Unknown(text), CHECK_UNKNOWN),
        };
        self.name = name;
        self.check_at = now + again;
        self.changed(before, now)
    }

    /// A receiver's reply. X.7.25 (RFC 7372 section 3.3) and Gmail's 4.7.23 doubt the name: it is checked within
    /// [`CHECK_DOUBTED`]. True when a check was brought forward.
    pub fn on_reply(&mut self, enhanced: [u16; 3], now: Instant) -> bool {
        if !doubts_name(enhanced) {
            return false;
        }
        let soonest = self.checked.map_or(now, |checked| (checked + CHECK_APART).max(now));
        let sooner = soonest.min(now + CHECK_DOUBTED) < self.check_at;
        self.check_at = self.check_at.min(soonest).min(now + CHECK_DOUBTED);
        sooner
    }

    /// The address came to the machine, or went.
    pub fn on_plumbed(&mut self, plumbed: bool, now: Instant) -> Option<Change> {
        if plumbed == self.plumbed {
            return None;
        }
        let before = self.standing(now);
        self.plumbed = plumbed;
        if plumbed {
            self.check_at = now;
        }
        self.changed(before, now)
    }

    fn changed(&self, before: Standing, now: Instant) -> Option<Change> {
        let after = self.standing(now);
        (after != before).then_some(after)
    }
}

/// True for the enhanced codes that say "no PTR record, or it does not match".
#[must_use]
pub fn doubts_name(enhanced: [u16; 3]) -> bool {
    matches!(enhanced, [4 | 5, 7, 23 | 25])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(assumed: Option<&str>) -> EgressSource {
        EgressSource {
            name: "s1".into(),
            address: "192.0.2.1".parse().unwrap(),
            assumed_name: assumed.map(str::to_owned),
            weight: 1,
        }
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn yes() -> Confirmation {
        Confirmation::Confirmed { name: "m1.test".into() }
    }

    fn no() -> Confirmation {
        Confirmation::Mismatch { why: Mismatch::NoPtr { address: "192.0.2.1".parse().unwrap() } }
    }

    fn unknown() -> Confirmation {
        Confirmation::Unknown { text: "timeout".into() }
    }

    fn confirmed(t: Instant) -> SourceState {
        let mut state = SourceState::new(source(None), true, t);
        assert!(state.start_check(t));
        assert!(matches!(state.on_confirmation(yes(), t), Some(Standing::Usable { .. })));
        state
    }

    #[test]
    fn d02_a_source_sends_only_under_its_confirmed_name() {
        let t = Instant::now();
        let mut state = SourceState::new(source(None), true, t);
        assert_eq!(state.standing(t), Standing::Parked(Parked::Unchecked));
        assert!(state.start_check(t));
        assert!(!state.start_check(t), "one check at a time");
        state.on_confirmation(yes(), t);
        assert_eq!(state.standing(t), Standing::Usable { ehlo: "m1.test".into(), assumed: false });
        assert_eq!(state.next_check(), Some(t + CHECK_EVERY));
    }

    #[test]
    fn d02_a_mismatch_parks_and_a_later_check_brings_it_back() {
        let t = Instant::now();
        let mut state = confirmed(t);
        let later = t + CHECK_EVERY;
        assert!(state.start_check(later));
        assert!(matches!(state.on_confirmation(no(), later), Some(Standing::Parked(Parked::Mismatch(_)))));
        assert_eq!(state.on_confirmation(unknown(), later + secs(9)), None, "no answer does not clear it");
        assert!(matches!(state.on_confirmation(yes(), later + CHECK_PARKED), Some(Standing::Usable { .. })));
    }

    #[test]
    fn d02_a_doubting_reply_brings_the_check_within_a_minute() {
        let t = Instant::now();
        let mut state = confirmed(t);
        for enhanced in [[4, 7, 23], [5, 7, 25]] {
            let now = t + secs(100);
            let mut state = state.clone();
            assert!(state.on_reply(enhanced, now));
            assert!(state.next_check().is_some_and(|at| at <= now + CHECK_DOUBTED));
        }
        assert!(!state.on_reply([4, 7, 28], t + secs(100)));
        assert!(state.on_reply([4, 7, 23], t + secs(1)));
        assert_eq!(state.next_check(), Some(t + CHECK_APART), "a storm of replies is no storm of look-ups");
        assert!(!state.on_reply([4, 7, 23], t + secs(2)));
    }

    #[test]
    fn a_confirmed_name_outlives_failing_look_ups_for_hours_not_for_ever() {
        let t = Instant::now();
        let mut state = confirmed(t);
        let mut now = t;
        while now < t + GRACE {
            assert!(matches!(state.standing(now), Standing::Usable { .. }));
            assert_eq!(state.on_confirmation(unknown(), now), None);
            now += secs(600);
        }
        assert!(matches!(state.standing(t + GRACE), Standing::Parked(Parked::Unknown(_))));
    }

    #[test]
    fn d01_a_vanished_address_leaves_at_once_and_comes_back() {
        let t = Instant::now();
        let mut state = confirmed(t);
        assert_eq!(state.on_plumbed(false, t + secs(1)), Some(Standing::Parked(Parked::Unplumbed)));
        assert_eq!(state.next_check(), None);
        assert!(matches!(state.on_plumbed(true, t + secs(2)), Some(Standing::Usable { .. })));
        assert_eq!(state.next_check(), Some(t + secs(2)), "and its name is checked again");
    }

    #[test]
    fn a_lab_assumes_names_and_says_so() {
        let t = Instant::now();
        let mut state = SourceState::new(source(Some("lab.test")), true, t);
        assert_eq!(state.standing(t), Standing::Usable { ehlo: "lab.test".into(), assumed: true });
        assert!(!state.start_check(t));
        state.on_plumbed(false, t);
        assert_eq!(state.standing(t), Standing::Parked(Parked::Unplumbed), "even a lab can't bind what is not there");
    }
}
