//! What is known about the TLS of each exchanger: whether it works, and whether it is broken. Pure, with a text form.
//!
//! Broken TLS is not tried again for three days, so that every message does not pay for a handshake that fails. But an
//! exchanger whose TLS has worked for a month does not get plain text because it fails once: that is what an attacker
//! on the way would arrange, so its mail waits. Host names are given in lower case.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use queue::UnixSecs;

/// How long broken TLS is not tried again.
const BROKEN_FOR: u32 = 3 * DAY;
/// A history at least this long, and not older than this, is not given up for plain text.
const TRUSTED_FOR: u32 = 30 * DAY;
const DAY: u32 = 24 * 3600;
/// Most exchangers remembered; the ones not seen for longest are forgotten first.
const HOSTS_MAX: usize = 100_000;
const HEADER: &str = "ringpost tls memory 1";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// When TLS first worked; 0 never.
    first: u32,
    /// When TLS last worked; 0 never.
    last: u32,
    /// When the handshake last failed; 0 when it has worked since.
    broken: u32,
}

/// What is known about the TLS of exchangers, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    hosts: HashMap<String, Entry>,
    changed: bool,
}

impl Memory {
    /// The handshake failed lately: do not ask for TLS.
    #[must_use]
    pub fn is_broken(&self, host: &str, now: UnixSecs) -> bool {
        let entry = self.hosts.get(host).copied().unwrap_or_default();
        entry.broken != 0 && now.0.saturating_sub(entry.broken) < BROKEN_FOR && !trusted(entry, now)
    }

    /// Mail may go without TLS when the handshake fails.
    #[must_use]
    pub fn may_go_plain(&self, host: &str, now: UnixSecs) -> bool {
        !self.hosts.get(host).is_some_and(|entry| trusted(*entry, now))
    }

    /// A handshake was done.
    pub fn worked(&mut self, host: &str, now: UnixSecs) {
        let entry = self.entry(host);
        if entry.first == 0 || now.0.saturating_sub(entry.last) > TRUSTED_FOR {
            entry.first = now.0;
        }
        // An hour's grain: a busy site does not make the file dirty all the time.
        let news = entry.broken != 0 || now.0.saturating_sub(entry.last) >= 3600;
        entry.last = now.0;
        entry.broken = 0;
        self.changed |= news;
        self.forget_oldest();
    }

    /// A handshake failed.
    pub fn broken(&mut self, host: &str, now: UnixSecs) {
        self.entry(host).broken = now.0.max(1);
        self.changed = true;
        self.forget_oldest();
    }

    /// There is something to save; asking resets it.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The text form: a header line, then `host first last broken`, sorted by host.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut hosts: Vec<_> = self.hosts.iter().collect();
        hosts.sort_by_key(|(host, _)| host.as_str());
        let mut text = format!("{HEADER}\n");
        for (host, Entry { first, last, broken }) in hosts {
            let _ = writeln!(text, "{host} {first} {last} {broken}");
        }
        text
    }

    /// Reads the text form; lines that make no sense are passed over, for it is only a memory.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let mut memory = Self::default();
        for line in text.lines().skip(1).take(HOSTS_MAX) {
            let mut words = line.split_whitespace();
            let (Some(host), Some(first), Some(last), Some(broken)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            if let (Ok(first), Ok(last), Ok(broken)) = (first.parse(), last.parse(), broken.parse()) {
                memory.hosts.insert(host.to_owned(), Entry { first, last, broken });
            }
        }
        memory
    }

    /// Reads the file; an absent one is an empty memory.
    pub fn load(path: &Path) -> io::Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self::from_text(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes the file, whole or not at all. Blocks: not on a shard.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let draft = path.with_extension("new");
        std::fs::write(&draft, self.to_text())?;
        std::fs::rename(&draft, path)
    }

    fn entry(&mut self, host: &str) -> &mut Entry {
        self.hosts.entry(host.to_ascii_lowercase()).or_default()
    }

    /// Cuts a tenth away at the bound, so that the cost is paid seldom.
    fn forget_oldest(&mut self) {
        if self.hosts.len() <= HOSTS_MAX {
            return;
        }
        let mut seen: Vec<u32> = self.hosts.values().map(|entry| entry.last.max(entry.broken)).collect();
        let (_, limit, _) = seen.select_nth_unstable(HOSTS_MAX / 10);
        let limit = *limit;
        self.hosts.retain(|_, entry| entry.last.max(entry.broken) > limit);
    }
}

/// TLS has worked for long, and until lately.
fn trusted(entry: Entry, now: UnixSecs) -> bool {
    entry.first != 0
        && entry.last.saturating_sub(entry.first) >= TRUSTED_FOR
        && now.0.saturating_sub(entry.last) <= TRUSTED_FOR
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u32 = 1_000_000;

    #[test]
    fn broken_tls_is_left_alone_for_three_days() {
        let mut memory = Memory::default();
        assert!(!memory.is_broken("mx.test", UnixSecs(START)));
        memory.broken("MX.test", UnixSecs(START));
        assert!(memory.is_broken("mx.test", UnixSecs(START + BROKEN_FOR - 1)));
        assert!(!memory.is_broken("mx.test", UnixSecs(START + BROKEN_FOR)));
        memory.worked("mx.test", UnixSecs(START + 10));
        assert!(!memory.is_broken("mx.test", UnixSecs(START + 10)));
    }

    #[test]
    fn a_month_of_working_tls_is_not_given_up() {
        let mut memory = Memory::default();
        memory.worked("mx.test", UnixSecs(START));
        assert!(memory.may_go_plain("mx.test", UnixSecs(START)));
        memory.worked("mx.test", UnixSecs(START + 29 * DAY));
        assert!(memory.may_go_plain("mx.test", UnixSecs(START + 29 * DAY)));
        memory.worked("mx.test", UnixSecs(START + 31 * DAY));
        let now = UnixSecs(START + 32 * DAY);
        assert!(!memory.may_go_plain("mx.test", now));
        memory.broken("mx.test", now);
        assert!(!memory.is_broken("mx.test", now), "it is still asked for TLS");
        assert!(memory.may_go_plain("mx.test", UnixSecs(START + 70 * DAY)), "too long ago");
    }

    #[test]
    fn text_form_round_trips_and_survives_nonsense() {
        let mut memory = Memory::default();
        memory.worked("b.test", UnixSecs(START));
        memory.broken("a.test", UnixSecs(START));
        assert!(memory.take_changed() && !memory.take_changed());
        let text = memory.to_text();
        assert_eq!(text, "ringpost tls memory 1\na.test 0 0 1000000\nb.test 1000000 1000000 0\n");
        assert_eq!(Memory::from_text(&text), memory);
        let odd = Memory::from_text(&(text + "\nhalf\nx y z w\n\u{1} 1 1 -1\n"));
        assert_eq!(odd, memory);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut memory = Memory::default();
        for n in 0..=HOSTS_MAX as u32 {
            memory.worked(&format!("mx{n}.test"), UnixSecs(START + n));
        }
        assert!(memory.hosts.len() <= HOSTS_MAX && memory.hosts.len() > HOSTS_MAX / 2);
        assert!(memory.hosts.contains_key(&format!("mx{HOSTS_MAX}.test")));
        assert!(!memory.hosts.contains_key("mx0.test"));
    }
}
