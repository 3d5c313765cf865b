//! What the sink answers to whom: modes from the command line and rules from a TOML file.
//!
//! A rule file is a list of `[[rule]]`; the first that matches answers:
//! ```toml
//! [[rule]]
//! domain = "gmail.test"        # recipient domain (rcpt, data), sender domain (mail); "*" and "*.test" match more
//! on = "rcpt"                  # connect | helo | mail | rcpt | data
//! reply = "450 4.2.1 The user you are trying to contact is receiving mail too quickly"
//! probability = 0.1            # of those that match; default 1
//! ```
//! More conditions: `after = N` (not the first N matches), `until = N` (only the first N), `open_over = N` (the peer
//! address holds more than N connections), `greylist_seconds = S` (rcpt only: until S seconds after the first try).
//! More effects: `delay_ms`, `close = true` (close after the reply, or silently when there is no reply).

use crate::limits::GREYLIST_MAX;
use anyhow::{bail, Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where in a session a rule speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Instead of the greeting.
    Connect,
    /// HELO or EHLO.
    Helo,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// The final reply of a message.
    Data,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default = "any")]
    domain: String,
    on: Stage,
    reply: Option<String>,
    #[serde(default = "always")]
    probability: f64,
    #[serde(default)]
    after: u64,
    until: Option<u64>,
    open_over: Option<u64>,
    greylist_seconds: Option<f64>,
    #[serde(default)]
    delay_ms: u64,
    #[serde(default)]
    close: bool,
    #[serde(skip)]
    matched: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Rule>,
}

fn any() -> String {
    "*".to_owned()
}

fn always() -> f64 {
    1.0
}

/// What to do instead of accepting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Reply line without CRLF; `None` accepts (or closes silently).
    pub reply: Option<String>,
    /// Wait before the reply.
    pub delay: Duration,
    /// Close afterwards.
    pub close: bool,
}

/// What a rule may look at.
#[derive(Clone, Copy, Debug)]
pub struct Question<'q> {
    /// Where in the session.
    pub stage: Stage,
    /// The domain the stage is about, or empty.
    pub domain: &'q str,
    /// Connecting address.
    pub peer: IpAddr,
    /// Connections that address holds.
    pub open: u64,
    /// Reverse path and recipient, for greylisting.
    pub pair: (&'q str, &'q str),
    /// Now.
    pub now: Instant,
}

/// The rules with their counters.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    rng: StdRng,
    greylist: HashMap<(IpAddr, String, String), Instant>,
}

impl Rules {
    /// Reads the rule file, if any. Errors are the operator's.
    pub fn load(path: Option<&Path>, mode: &Mode, seed: u64) -> Result<Self> {
        let mut file = File::default();
        if let Some(path) = path {
            let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            file = toml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        }
        let whole = |reply: &str| Rule {
            domain: any(),
            on: Stage::Rcpt,
            reply: Some(reply.to_owned()),
            probability: 1.0,
            after: 0,
            until: None,
            open_over: None,
            greylist_seconds: None,
            delay_ms: 0,
            close: false,
            matched: 0,
        };
        match mode {
            Mode::Defer => file.rule.push(whole("450 4.2.1 try again later")),
            Mode::Refuse => file.rule.push(whole("550 5.1.1 no such user")),
            _ => {}
        }
        Ok(Self { rules: file.rule, rng: StdRng::seed_from_u64(seed), greylist: HashMap::new() })
    }

    /// Is there any rule at all? Lets the common case skip the work.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The verdict of the first rule that matches.
    pub fn ask(&mut self, question: &Question<'_>) -> Option<Verdict> {
        let Self { rules, rng, greylist } = self;
        for rule in rules.iter_mut() {
            if rule.on != question.stage || !domain_matches(&rule.domain, question.domain) {
                continue;
            }
            if rule.open_over.is_some_and(|most| question.open <= most) {
                continue;
            }
            if let Some(seconds) = rule.greylist_seconds {
                let key = (question.peer, question.pair.0.to_owned(), question.pair.1.to_owned());
                let known = greylist.len() >= GREYLIST_MAX && !greylist.contains_key(&key);
                let first = *greylist.entry(key).or_insert(question.now);
                if known || question.now.duration_since(first).as_secs_f64() >= seconds {
                    continue;
                }
            }
            rule.matched += 1;
            if rule.matched <= rule.after || rule.until.is_some_and(|until| rule.matched > until) {
                continue;
            }
            if rule.probability < 1.0 && rng.random::<f64>() >= rule.probability {
                continue;
            }
            return Some(Verdict {
                reply: rule.reply.clone(),
                delay: Duration::from_millis(rule.delay_ms),
                close: rule.close,
            });
        }
        None
    }
}

fn domain_matches(pattern: &str, domain: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => domain.len() > suffix.len() && domain.to_ascii_lowercase().ends_with(suffix),
        None => pattern.eq_ignore_ascii_case(domain),
    }
}

/// The whole sink's way, from `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Takes everything.
    Accept,
    /// 450 to every RCPT.
    Defer,
    /// 550 to every RCPT.
    Refuse,
    /// Waits before every batch of replies.
    Slow,
    /// Sends its greeting a byte at a time, and waits before every batch of replies.
    Tarpit,
    /// Closes each connection with 421 after this many messages.
    CloseAfter(u64),
    /// Every Nth message: closes after its last byte without a reply.
    DropAfterData(u64),
}

impl std::str::FromStr for Mode {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> Result<Self> {
        let number = |n: &str| n.parse::<u64>().context("a number of messages is wanted").map(|n| n.max(1));
        Ok(match text.split_once('=') {
            None => match text {
                "accept" => Mode::Accept,
                "defer" => Mode::Defer,
                "refuse" => Mode::Refuse,
                "slow" => Mode::Slow,
                "tarpit" => Mode::Tarpit,
                other => bail!("unknown mode {other}"),
            },
            Some(("close-after", n)) => Mode::CloseAfter(number(n)?),
            Some(("drop-after-data", n)) => Mode::DropAfterData(number(n)?),
            Some((other, _)) => bail!("unknown mode {other}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        let file: File = toml::from_str(text).unwrap();
        Rules { rules: file.rule, rng: StdRng::seed_from_u64(7), greylist: HashMap::new() }
    }

    fn question<'q>(domain: &'q str, now: Instant) -> Question<'q> {
        let pair = ("a@b.test", "c@d.test");
        Question { stage: Stage::Rcpt, domain, peer: IpAddr::from([127, 0, 0, 1]), open: 3, pair, now }
    }

    #[test]
    fn first_matching_rule_answers() {
        let mut rules = rules(
            "[[rule]]\ndomain=\"*.slow.test\"\non=\"rcpt\"\nreply=\"450 a\"\n\
             [[rule]]\non=\"rcpt\"\nreply=\"550 b\"\nafter=1",
        );
        let now = Instant::now();
        assert_eq!(rules.ask(&question("x.slow.test", now)).unwrap().reply.as_deref(), Some("450 a"));
        assert_eq!(rules.ask(&question("other.test", now)), None);
        assert_eq!(rules.ask(&question("other.test", now)).unwrap().reply.as_deref(), Some("550 b"));
    }

    #[test]
    fn greylisting_ends() {
        let mut rules = rules("[[rule]]\non=\"rcpt\"\nreply=\"451 later\"\ngreylist_seconds=10.0");
        let now = Instant::now();
        assert!(rules.ask(&question("d.test", now)).is_some());
        assert!(rules.ask(&question("d.test", now + Duration::from_secs(9))).is_some());
        assert!(rules.ask(&question("d.test", now + Duration::from_secs(10))).is_none());
    }

    #[test]
    fn probability_is_kept() {
        let mut rules = rules("[[rule]]\non=\"rcpt\"\nreply=\"451 x\"\nprobability=0.25");
        let now = Instant::now();
        let hits = (0..4000).filter(|_| rules.ask(&question("d.test", now)).is_some()).count();
        assert!((850..1150).contains(&hits), "{hits}");
    }

    #[test]
    fn modes_parse() {
        assert_eq!("close-after=3".parse::<Mode>().unwrap(), Mode::CloseAfter(3));
        assert!("sometimes".parse::<Mode>().is_err());
    }
}
