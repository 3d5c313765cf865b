//! Holds and suspensions: what an operator or a fault has stopped.
//!
//! A [`HoldRule`] suspends every scheduled queue it matches, until it ends or is taken away. Rules are few, so they are
//! a list; their durable form is a small text file that a person can read.

use std::io;

use crate::ack::LogStore;
use crate::{QueueName, UnixSecs};

/// Most rules at once.
pub const RULES_MAX: usize = 1000;
/// Longest text in a rule, in bytes.
pub const RULE_TEXT_MAX: usize = 1024;

/// One suspension. Fields of the scope that are `None` match everything; a rule without scope stops all mail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HoldRule {
    /// Number of the rule, given by [`HoldRules::add`].
    pub id: u32,
    /// Only this tenant.
    pub tenant: Option<String>,
    /// Only this campaign.
    pub campaign: Option<String>,
    /// Only this recipient domain.
    pub domain: Option<String>,
    /// Who set it.
    pub owner: String,
    /// Why, in the owner's words.
    pub reason: String,
    /// Since when.
    pub created: UnixSecs,
    /// Until when; `None` is until it is taken away.
    pub expires: Option<UnixSecs>,
}

impl HoldRule {
    /// True when queues of this name are suspended by this rule.
    #[must_use]
    pub fn matches(&self, name: &QueueName) -> bool {
        let fits = |want: &Option<String>, is: &str| want.as_deref().is_none_or(|want| want.eq_ignore_ascii_case(is));
        fits(&self.tenant, &name.tenant) && fits(&self.campaign, &name.campaign) && fits(&self.domain, &name.domain)
    }
}

/// Why a rule was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleRefused {
    /// [`RULES_MAX`] is reached.
    #[error("there are {RULES_MAX} hold rules already")]
    TooMany,
    /// A text is longer than [`RULE_TEXT_MAX`].
    #[error("a text of a hold rule may have {RULE_TEXT_MAX} bytes")]
    TooLong,
}

/// Why the text form could not be read. Whoever edited the file is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("hold rules, line {line}: {what}")]
pub struct BadRules {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

/// All rules in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HoldRules {
    rules: Vec<HoldRule>,
    next_id: u32,
    version: u32,
}

/// First line of the text form.
const HEAD: &str = "ringpost-holds 1";

impl HoldRules {
    /// Rises with every change.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// True when nothing is suspended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules, oldest first.
    #[must_use]
    pub fn list(&self) -> &[HoldRule] {
        &self.rules
    }

    /// The first rule that suspends queues of this name.
    #[must_use]
    pub fn matching(&self, name: &QueueName) -> Option<&HoldRule> {
        self.rules.iter().find(|rule| rule.matches(name))
    }

    /// Adds a rule and returns its number.
    ///
    /// # Errors
    /// [`RuleRefused`] at a bound.
    pub fn add(&mut self, mut rule: HoldRule) -> Result<u32, RuleRefused> {
        if self.rules.len() >= RULES_MAX {
            return Err(RuleRefused::TooMany);
        }
        let texts = [rule.tenant.as_deref(), rule.campaign.as_deref(), rule.domain.as_deref()];
        let longest =
            texts.into_iter().flatten().chain([rule.owner.as_str(), rule.reason.as_str()]).map(str::len).max();
        if longest > Some(RULE_TEXT_MAX) {
            return Err(RuleRefused::TooLong);
        }
        self.next_id = self.next_id.wrapping_add(1).max(1);
        rule.id = self.next_id;
        self.rules.push(rule);
        self.version = self.version.wrapping_add(1);
        Ok(self.next_id)
    }

    /// Takes a rule away.
    pub fn remove(&mut self, id: u32) -> Option<HoldRule> {
        let at = self.rules.iter().position(|rule| rule.id == id)?;
        self.version = self.version.wrapping_add(1);
        Some(self.rules.remove(at))
    }

    /// Takes away what has ended by `now`. Call only while the clock is trusted. Returns what ended.
    pub fn expire(&mut self, now: UnixSecs) -> Vec<HoldRule> {
        let (ended, rules) = self.rules.drain(..).partition(|rule| rule.expires.is_some_and(|at| at <= now));
        self.rules = rules;
        let ended: Vec<HoldRule> = ended;
        if !ended.is_empty() {
            self.version = self.version.wrapping_add(1);
        }
        ended
    }

    /// The durable form: one line per rule, fields parted by tabs, in each `%`, tab, CR and LF as `%xx`; `-` for none.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEAD}\nnext\t{}\n", self.next_id);
        for rule in &self.rules {
            let scope = [&rule.tenant, &rule.campaign, &rule.domain];
            let scope: Vec<String> = scope
                .iter()
                .map(|part| part.as_deref().map_or("-".to_owned(), |part| format!("={}", escape(part))))
                .collect();
            let expires = rule.expires.map_or("-".to_owned(), |at| at.to_string());
            let (owner, reason) = (escape(&rule.owner), escape(&rule.reason));
            let created = rule.created;
            text.push_str(&format!(
                "rule\t{}\t{}\t{created}\t{expires}\t{owner}\t{reason}\n",
                rule.id,
                scope.join("\t")
            ));
        }
        text
    }

    /// Makes the rules durable in file `name`, all or nothing.
    ///
    /// # Errors
    /// What the disk said; the old file stands.
    pub fn save(&self, store: &mut impl LogStore, name: &str) -> io::Result<()> {
        store.replace(name, self.to_text().as_bytes())
    }

    /// Reads the rules back; none when there is no such file.
    ///
    /// # Errors
    /// What the disk said, or [`BadRules`] as `InvalidData`: an unreadable suspension must not become a delivery.
    pub fn load(store: &mut impl LogStore, name: &str) -> io::Result<Self> {
        let bytes = match store.read(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            bytes => bytes?,
        };
        let text = String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Self::from_text(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Reads the durable form.
    ///
    /// # Errors
    /// [`BadRules`] names the line.
    pub fn from_text(text: &str) -> Result<Self, BadRules> {
        let mut rules = Self { version: 1, ..Self::default() };
        for (number, line) in text.lines().enumerate() {
            let bad = |what| BadRules { line: number + 1, what };
            if number == 0 {
                if line != HEAD {
                    return Err(bad("not a file of hold rules that this release reads"));
                }
                continue;
            }
            let fields: Vec<&str> = line.split('\t').collect();
            match fields.as_slice() {
                ["next", next] => rules.next_id = next.parse().map_err(|_| bad("not a number"))?,
                ["rule", rest @ ..] if rules.rules.len() < RULES_MAX => {
                    rules.rules.push(rule_from(rest).ok_or_else(|| bad("not a rule"))?);
                }
                ["rule", ..] => return Err(bad("too many rules")),
                [""] => {}
                _ => return Err(bad("unknown line")),
            }
        }
        Ok(rules)
    }
}

fn rule_from(fields: &[&str]) -> Option<HoldRule> {
    let [id, tenant, campaign, domain, created, expires, owner, reason] = fields else { return None };
    let part = |text: &str| match text {
        "-" => Some(None),
        text => Some(Some(unescape(text.strip_prefix('=')?)?)),
    };
    Some(HoldRule {
        id: id.parse().ok()?,
        tenant: part(tenant)?,
        campaign: part(campaign)?,
        domain: part(domain)?,
        created: UnixSecs(created.parse().ok()?),
        expires: if *expires == "-" { None } else { Some(UnixSecs(expires.parse().ok()?)) },
        owner: unescape(owner)?,
        reason: unescape(reason)?,
    })
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '%' | '\t' | '\r' | '\n' => out.push_str(&format!("%{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        out.push(char::from(u8::from_str_radix(part.get(..2)?, 16).ok()?));
        out.push_str(part.get(2..)?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(tenant: &str, domain: &str) -> HoldRule {
        let part = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        HoldRule { tenant: part(tenant), domain: part(domain), owner: "anna".into(), ..HoldRule::default() }
    }

    #[test]
    fn a_rule_matches_by_every_part_it_names() {
        let table = [
            ("", "", "c:t@a.test", true),
            ("t", "", "c:t@a.test", true),
            ("u", "", "c:t@a.test", false),
            ("t", "A.test", "c:t@a.test", true),
            ("t", "b.test", "c:t@a.test", false),
            ("", "a.test", "a.test!hub.test", true),
        ];
        for (tenant, domain, name, want) in table {
            assert_eq!(rule(tenant, domain).matches(&QueueName::parse(name)), want, "{tenant} {domain} {name}");
        }
    }

    #[test]
    fn the_text_form_brings_back_every_rule() {
        let mut rules = HoldRules::default();
        let odd = HoldRule {
            reason: "100 %\tof\nthem, ü".into(),
            expires: Some(UnixSecs(99)),
            campaign: Some("-".into()),
            ..rule("t", "")
        };
        rules.add(odd).unwrap();
        let second = rules.add(rule("", "")).unwrap();
        let read = HoldRules::from_text(&rules.to_text()).unwrap();
        assert_eq!(read.list(), rules.list());
        let mut read = read;
        assert!(read.add(rule("x", "")).unwrap() > second, "numbers are not used again");
        assert!(HoldRules::from_text("something").is_err());
        assert_eq!(HoldRules::from_text(&format!("{HEAD}\nrule\tx\n")).unwrap_err().line, 2);
        assert_eq!(unescape("%zz"), None);
        assert_eq!(unescape("%"), None);
    }

    #[test]
    fn a_failed_save_leaves_the_old_rules() {
        let mut store = crate::ack::MemoryStore::default();
        assert_eq!(HoldRules::load(&mut store, "holds").unwrap(), HoldRules::default());
        let mut rules = HoldRules::default();
        rules.add(rule("t", "")).unwrap();
        rules.save(&mut store, "holds").unwrap();
        let old = rules.list().to_vec();
        rules.add(rule("u", "")).unwrap();
        for fuse in 0..4 {
            let mut store = store.clone();
            store.fuse = Some(fuse);
            assert!(rules.save(&mut store, "holds").is_err());
            store.cut_power(|| false);
            assert_eq!(HoldRules::load(&mut store, "holds").unwrap().list(), old);
        }
        store.damage("holds", |bytes| bytes[0] = b'x');
        assert!(HoldRules::load(&mut store, "holds").is_err());
    }

    #[test]
    fn rules_end_at_their_time_and_at_their_bound() {
        let mut rules = HoldRules::default();
        for _ in 0..RULES_MAX {
            rules.add(HoldRule { expires: Some(UnixSecs(10)), ..rule("t", "") }).unwrap();
        }
        assert_eq!(rules.add(rule("t", "")), Err(RuleRefused::TooMany));
        let version = rules.version();
        assert_eq!(rules.expire(UnixSecs(9)).len(), 0);
        assert_eq!(rules.version(), version);
        assert_eq!(rules.expire(UnixSecs(10)).len(), RULES_MAX);
        assert!(rules.is_empty() && rules.version() != version);
    }
}
