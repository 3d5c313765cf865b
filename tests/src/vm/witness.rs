//! The witness of a power cut: what a guest acknowledged, and what it still has after the next boot.
//!
//! Lines of the console it understands; all others are left alone:
//!
//! | line | meaning |
//! | --- | --- |
//! | `ack X` | X is durable, says the program |
//! | `have N ...` | on this boot the things 0 to N-1 were found |
//! | `got X` | on this boot the thing X was found |
//! | `scanned` | on this boot all that was found has been said |
//! | `free X` | X may go from now on: it need not be found any more |
//! | `bad X` | on this boot something was found that can't be right |
//!
//! Pure. X is a word of letters, digits, `-`, `_` and `.`; any other word was mixed with something else. A line cut off
//! in the middle was never said: the last line counts only with its end.

use std::collections::BTreeSet;

/// What one boot said about the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Open,
    /// Everything acknowledged is there.
    Kept {
        /// Acknowledged things checked.
        checked: usize,
    },
    /// Acknowledged things are missing, or wrong things are there.
    Lost {
        /// How many.
        missing: usize,
        /// Found, but not right.
        bad: usize,
    },
}

/// Acknowledgements over all boots, and what the present boot found.
#[derive(Debug, Default)]
pub struct Witness {
    acked: BTreeSet<String>,
    found: BTreeSet<String>,
    bad: usize,
    scanned: bool,
    heard: usize,
}

impl Witness {
    /// A machine was started: what it will find is not known yet.
    pub fn boot(&mut self) {
        self.found.clear();
        self.bad = 0;
        self.scanned = false;
    }

    /// Take one line; true when it was an acknowledgement.
    pub fn line(&mut self, line: &str) -> bool {
        let mut words = line.split_whitespace();
        let clean = |word: &&str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        match (words.next(), words.next().filter(clean)) {
            (Some("ack"), Some(what)) => {
                self.acked.insert(what.to_string());
                self.heard += 1;
                return true;
            }
            (Some("free"), Some(what)) => {
                self.acked.remove(what);
            }
            (Some("got"), Some(what)) => {
                self.found.insert(what.to_string());
            }
            (Some("have"), Some(count)) => {
                let count: u64 = count.parse().unwrap_or(0);
                self.found.extend((0..count).map(|n| n.to_string()));
                self.scanned = true;
            }
            (Some("bad"), Some(_)) => self.bad += 1,
            (Some("scanned"), None) => self.scanned = true,
            _ => {}
        }
        false
    }

    /// What this boot says about everything acknowledged before it. Asked when `scanned` and before new ones come.
    pub fn verdict(&self) -> Verdict {
        if !self.scanned {
            return Verdict::Open;
        }
        match (self.acked.difference(&self.found).count(), self.bad) {
            (0, 0) => Verdict::Kept { checked: self.acked.len() },
            (missing, bad) => Verdict::Lost { missing, bad },
        }
    }

    /// What was acknowledged and is not found, in order.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        self.acked.difference(&self.found).map(String::as_str)
    }

    /// Forget what was lost, so that it is counted once.
    pub fn accept_loss(&mut self) {
        self.acked = self.acked.intersection(&self.found).cloned().collect();
    }

    /// Acknowledgements heard since the beginning.
    pub fn heard(&self) -> usize {
        self.heard
    }

    /// Acknowledged and still to be found.
    pub fn acked(&self) -> usize {
        self.acked.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_promise_and_a_broken_one() {
        let mut witness = Witness::default();
        witness.boot();
        assert_eq!(witness.verdict(), Verdict::Open);
        witness.line("have 0 beyond 0");
        assert_eq!(witness.verdict(), Verdict::Kept { checked: 0 });
        assert!(witness.line("ack 0") && witness.line("ack 1") && !witness.line("ready"));
        witness.boot();
        assert_eq!(witness.verdict(), Verdict::Open);
        witness.line("have 3 beyond 0");
        assert_eq!(witness.verdict(), Verdict::Kept { checked: 2 });
        witness.boot();
        witness.line("have 1 beyond 1");
        assert_eq!(witness.verdict(), Verdict::Lost { missing: 1, bad: 0 });
        witness.accept_loss();
        assert_eq!(witness.verdict(), Verdict::Kept { checked: 1 });
    }

    #[test]
    fn named_things_count_after_the_scan_is_over() {
        let mut witness = Witness::default();
        witness.line("ack 01H-a");
        witness.boot();
        witness.line("got 01H-a");
        assert_eq!(witness.verdict(), Verdict::Open);
        witness.line("scanned");
        assert_eq!(witness.verdict(), Verdict::Kept { checked: 1 });
        assert!(!witness.line("ack 01H-z[   12.3] kernel"));
        witness.line("bad 01H-b");
        assert_eq!(witness.verdict(), Verdict::Lost { missing: 0, bad: 1 });
        witness.line("ack 01H-c");
        witness.boot();
        witness.line("got 01H-a");
        witness.line("scanned");
        assert_eq!(witness.verdict(), Verdict::Lost { missing: 1, bad: 0 });
        witness.line("free 01H-c");
        assert_eq!(witness.verdict(), Verdict::Kept { checked: 1 });
    }
}
