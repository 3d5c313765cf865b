//! What certain replies of certain providers ask for: a pause, fewer connections, a lower rate, for a time (D-08).
//! Pure.
//!
//! The table is the field's shaping files in our words (features 4.1). A reply is matched by provider and by a part
//! of its text; some count only when they come several times within an hour. Effects end by themselves, and the
//! strictest of those that hold counts. General complaints (421, 451, 4.7.x) are [`super::caution`]'s.

use std::time::{Duration, Instant};

use super::rule::Rate;

/// What a reply asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing is sent.
    Pause,
    /// At most so many messages.
    Rate(Rate),
    /// At most so many connections.
    Connections(u32),
    /// Both.
    RateAndConnections(Rate, u32),
}

/// One row: which reply, how often, what follows.
#[derive(Clone, Copy, Debug)]
pub struct Reaction {
    provider: Option<&'static str>,
    part: &'static str,
    within_hour: u8,
    /// What follows.
    pub effect: Effect,
    /// For how long.
    pub lasts: Duration,
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes * 60)
}

const fn on(provider: &'static str, part: &'static str, effect: Effect, lasts_minutes: u64) -> Reaction {
    Reaction { provider: Some(provider), part, within_hour: 1, effect, lasts: minutes(lasts_minutes) }
}

const fn anywhere(part: &'static str) -> Reaction {
    let effect = Effect::RateAndConnections(Rate::per_minute(1), 1);
    Reaction { provider: None, part, within_hour: 1, effect, lasts: minutes(90) }
}

impl Reaction {
    const fn times(mut self, within_hour: u8) -> Self {
        self.within_hour = within_hour;
        self
    }
}

const ONE_A_MINUTE: Effect = Effect::Rate(Rate::per_minute(1));
const TEN_A_MINUTE: Effect = Effect::Rate(Rate::per_minute(10));

/// Rows of a provider come before those for all; the first that fits counts. Parts are in lower case.
pub const REACTIONS: &[Reaction] = &[
    on("google", "has detected that this message", Effect::Pause, 60).times(5),
    on("google", "unusual rate", TEN_A_MINUTE, 30).times(2),
    on("yahoo", "[ts04]", Effect::Pause, 120),
    on("yahoo", "[tss04]", Effect::Pause, 120),
    on("yahoo", "[tss05]", Effect::Pause, 240),
    on("yahoo", "[ts02]", ONE_A_MINUTE, 30),
    on("yahoo", "[ts03]", TEN_A_MINUTE, 30),
    on("yahoo", "[ipts04]", Effect::Pause, 120),
    on("yahoo", "[ipts05]", Effect::Pause, 240),
    on("yahoo", "5.7.1 [bl", Effect::Pause, 120),
    on("yahoo", "max message per connection", TEN_A_MINUTE, 60),
    on("outlook", "block list", Effect::Pause, 120),
    on("outlook", "access denied", Effect::Pause, 60),
    on("outlook", "server busy", ONE_A_MINUTE, 30),
    on("outlook", "rate limited", Effect::Pause, 30),
    on("outlook", "max connections", Effect::Connections(1), 60),
    on("office365", "block list", Effect::Pause, 120),
    on("office365", "access denied", Effect::Pause, 60),
    on("office365", "server busy", ONE_A_MINUTE, 15),
    on("office365", "ib007", Effect::Connections(1), 60),
    on("apple", "spamhaus", Effect::Pause, 240),
    on("apple", "try again later", Effect::Pause, 15),
    on("apple", "[bs02]", Effect::Pause, 15),
    on("apple", "[hcm1]", Effect::Pause, 15),
    on("comcast", "rl000010", Effect::Pause, 5),
    on("orange", "trop de connexions", Effect::Connections(1), 60),
    on("orange", "service refuse", Effect::Pause, 60),
    on("qq", "frequency limited", Effect::Pause, 60),
    anywhere("temporarily deferred"),
    anywhere("permanently deferred"),
    anywhere("rate limited due to ip reputation"),
    anywhere("server busy"),
];

/// The row for a reply of a provider's host.
#[must_use]
pub fn find(provider: Option<&str>, text: &str) -> Option<(usize, &'static Reaction)> {
    let text = text.to_ascii_lowercase();
    REACTIONS
        .iter()
        .enumerate()
        .find(|(_, row)| (row.provider.is_none() || row.provider == provider) && text.contains(row.part))
}

/// The effects that hold for one path.
#[derive(Clone, Debug, Default)]
pub struct Reactions {
    /// Rows seen lately, with how often and since when.
    seen: Vec<(usize, u8, Instant)>,
    /// At most one per row.
    active: Vec<(usize, Instant)>,
}

impl Reactions {
    /// Takes in a reply. Gives the row whose effect begins (or begins anew), for the event.
    pub fn observe(&mut self, provider: Option<&str>, text: &str, now: Instant) -> Option<&'static Reaction> {
        let (row, reaction) = find(provider, text)?;
        if !self.enough(row, reaction.within_hour, now) {
            return None;
        }
        let was_active = self.active.iter().any(|(active, until)| *active == row && now < *until);
        self.active.retain(|(active, until)| *active != row && now < *until);
        self.active.push((row, now + reaction.lasts));
        (!was_active).then_some(reaction)
    }

    /// Until when nothing may be sent.
    #[must_use]
    pub fn paused(&self, now: Instant) -> Option<Instant> {
        self.holding(now).filter(|(effect, _)| *effect == Effect::Pause).map(|(_, until)| until).max()
    }

    /// The fewest connections that an effect allows.
    #[must_use]
    pub fn connections(&self, now: Instant) -> Option<u32> {
        self.holding(now)
            .filter_map(|(effect, _)| match effect {
                Effect::Connections(most) | Effect::RateAndConnections(_, most) => Some(most),
                Effect::Pause | Effect::Rate(_) => None,
            })
            .min()
    }

    /// The lowest rate that an effect allows.
    #[must_use]
    pub fn rate(&self, now: Instant) -> Option<Rate> {
        self.holding(now)
            .filter_map(|(effect, _)| match effect {
                Effect::Rate(rate) | Effect::RateAndConnections(rate, _) => Some(rate),
                Effect::Pause | Effect::Connections(_) => None,
            })
            .max_by_key(|rate| rate.interval())
    }

    /// An operator says the trouble is over.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn holding(&self, now: Instant) -> impl Iterator<Item = (Effect, Instant)> + '_ {
        let effect = |(row, until): &(usize, Instant)| REACTIONS.get(*row).map(|reaction| (reaction.effect, *until));
        self.active.iter().filter(move |(_, until)| now < *until).filter_map(effect)
    }

    /// Counts one more; true when the row's number within an hour is reached.
    fn enough(&mut self, row: usize, needed: u8, now: Instant) -> bool {
        self.seen.retain(|(_, _, since)| now.saturating_duration_since(*since) < minutes(60));
        match self.seen.iter_mut().find(|(seen, ..)| *seen == row) {
            Some((_, count, _)) => {
                *count = count.saturating_add(1);
                *count >= needed
            }
            None => {
                self.seen.push((row, 1, now));
                needed <= 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d08_a_providers_reply_has_its_effect_and_ends() {
        let t = Instant::now();
        let mut reactions = Reactions::default();
        let text = "421 4.7.0 [TSS05] Messages temporarily deferred";
        let row = reactions.observe(Some("yahoo"), text, t).unwrap();
        assert_eq!((row.effect, row.lasts), (Effect::Pause, minutes(240)), "the provider's row before the general one");
        assert!(reactions.observe(Some("yahoo"), text, t).is_none(), "no second event while it holds");
        assert_eq!(reactions.paused(t), Some(t + minutes(240)));
        assert_eq!(reactions.paused(t + minutes(240)), None);
    }

    #[test]
    fn d08_some_replies_count_only_when_they_come_often() {
        let t = Instant::now();
        let mut reactions = Reactions::default();
        let text = "5.7.1 Our system has detected that this message is likely unsolicited";
        for i in 0..4 {
            assert!(reactions.observe(Some("google"), text, t + minutes(i)).is_none());
        }
        assert!(reactions.observe(Some("google"), text, t + minutes(5)).is_some());
        let mut slow = Reactions::default();
        for i in 0..20 {
            assert!(slow.observe(Some("google"), text, t + minutes(i * 20)).is_none(), "three an hour are not five");
        }
    }

    #[test]
    fn the_strictest_effect_counts() {
        let t = Instant::now();
        let mut reactions = Reactions::default();
        reactions.observe(Some("yahoo"), "[TS03] x", t);
        assert_eq!(reactions.rate(t), Some(Rate::per_minute(10)));
        reactions.observe(Some("yahoo"), "[TS02] x", t);
        assert_eq!(reactions.rate(t), Some(Rate::per_minute(1)));
        assert_eq!(reactions.connections(t), None);
        reactions.observe(Some("yahoo"), "server busy", t);
        assert_eq!(reactions.connections(t), Some(1));
        reactions.clear();
        assert_eq!(reactions.rate(t), None);
    }

    #[test]
    fn rows_name_known_providers_and_lower_case_parts() {
        for (at, row) in REACTIONS.iter().enumerate() {
            assert_eq!(row.part, row.part.to_ascii_lowercase());
            if let Some(provider) = row.provider {
                assert!(super::super::rule::PROVIDERS.iter().any(|known| known.name == provider), "{provider}");
            }
            let (found, _) = find(row.provider, row.part).unwrap();
            assert_eq!(found, at, "{} is hidden by an earlier row", row.part);
        }
        assert!(find(None, "250 2.0.0 OK").is_none());
    }

    #[test]
    fn memory_is_bounded_by_the_table() {
        let t = Instant::now();
        let mut reactions = Reactions::default();
        for i in 0..1000_u64 {
            for row in REACTIONS {
                reactions.observe(row.provider, row.part, t + Duration::from_secs(i));
            }
        }
        assert!(reactions.active.len() <= REACTIONS.len() && reactions.seen.len() <= REACTIONS.len());
    }
}
