//! The books of a crash run, recipient by recipient, and their comparison.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An Unknown is tried again after half an hour; sooner than this a second delivery is a mistake.
const UNKNOWN_WAIT: Duration = Duration::from_secs(1790);

/// What a client knows of a message it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It read 250.
    Accepted,
    /// It read another reply.
    Refused,
    /// The connection went before the reply: the third state.
    Nothing,
}

/// What the spool says of a recipient that is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// To be tried.
    Open,
    /// Tried, no answer read: waits half an hour.
    Unknown,
    /// Held for an operator.
    Held,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    delivered: Vec<Instant>,
    bounced: u32,
    deferred: u32,
}

#[derive(Default)]
struct Books {
    /// By recipient: the message's reverse path, and what its client was told.
    sent: HashMap<String, (String, Told)>,
    seen: HashMap<String, Seen>,
    /// Reports that arrived, by the reverse path they went to.
    reports: HashMap<String, Vec<String>>,
    last: Option<Instant>,
}

/// The books, shared by all clients and the receiving server.
#[derive(Default)]
pub struct Ledger(Mutex<Books>);

/// What the comparison came to. Lists name recipients.
#[derive(Debug, Default)]
pub struct Figures {
    /// Recipients whose client read 250.
    pub accepted: usize,
    /// Recipients whose client was told nothing.
    pub not_told: usize,
    /// Of those, how many were taken all the same.
    pub not_told_but_taken: usize,
    /// Recipients refused.
    pub refused: usize,
    /// Of the accepted: delivered.
    pub delivered: usize,
    /// Of the accepted: refused by the receiving server for good.
    pub bounced: usize,
    /// Of the accepted: still queued, and not delivered.
    pub queued: usize,
    /// Of the queued and the delivered: Unknown.
    pub unknown: usize,
    /// Deferrals answered.
    pub deferrals: u32,
    /// Reports that arrived.
    pub reports: usize,
    /// Reports that came twice under one Message-ID.
    pub reports_twice: Vec<String>,
    /// Accepted, and nowhere.
    pub lost: Vec<String>,
    /// Delivered twice.
    pub twice: Vec<String>,
    /// Delivered, and to be tried again.
    pub again: Vec<String>,
    /// Refused at the door, and delivered or kept.
    pub ghosts: Vec<String>,
    /// Bounced, and nobody was told.
    pub unreported: Vec<String>,
    /// Held for an operator.
    pub held: Vec<String>,
}

impl Figures {
    /// True when nothing is lost, doubled, held or kept from its sender.
    #[must_use]
    pub fn agree(&self) -> bool {
        let faults = [&self.lost, &self.twice, &self.again, &self.ghosts, &self.unreported, &self.held];
        let none = faults.into_iter().chain([&self.reports_twice]).all(Vec::is_empty);
        none && self.accepted == self.delivered + self.bounced + self.queued
    }
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client sent a message, and what came of it.
    pub fn sent(&self, from: &str, recipients: &[String], told: Told) {
        let mut books = self.books();
        for recipient in recipients {
            books.sent.insert(recipient.clone(), (from.to_owned(), told));
        }
    }

    /// The receiving server takes a message for a recipient.
    pub fn delivered(&self, recipient: &str) {
        let mut books = self.books();
        let now = Instant::now();
        books.seen.entry(recipient.to_owned()).or_default().delivered.push(now);
        books.last = Some(now);
    }

    /// The receiving server refuses a recipient for good.
    pub fn bounced(&self, recipient: &str) {
        let mut books = self.books();
        books.seen.entry(recipient.to_owned()).or_default().bounced += 1;
        books.last = Some(Instant::now());
    }

    /// The receiving server defers a recipient; says how often it did before.
    pub fn deferred(&self, recipient: &str) -> u32 {
        let mut books = self.books();
        let seen = books.seen.entry(recipient.to_owned()).or_default();
        seen.deferred += 1;
        let before = seen.deferred - 1;
        books.last = Some(Instant::now());
        before
    }

    /// How often a recipient was deferred.
    #[must_use]
    pub fn deferrals(&self, recipient: &str) -> u32 {
        self.books().seen.get(recipient).map_or(0, |seen| seen.deferred)
    }

    /// A report arrived.
    pub fn reported(&self, to: &str, message_id: &str) {
        let mut books = self.books();
        books.reports.entry(to.to_owned()).or_default().push(message_id.to_owned());
        books.last = Some(Instant::now());
    }

    /// How long the receiving server has seen nothing.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.books().last.map_or(Duration::MAX, |at| at.elapsed())
    }

    /// Recipients accepted so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.books().sent.values().filter(|(_, told)| *told == Told::Accepted).count()
    }

    /// Compares. `queued` has every recipient of the spool that is not done, those of reports too.
    #[must_use]
    pub fn compare(&self, queued: &HashMap<String, Kept>) -> Figures {
        let books = self.books();
        let mut figures = Figures { reports: books.reports.values().map(Vec::len).sum(), ..Figures::default() };
        for (recipient, (from, told)) in &books.sent {
            let seen = books.seen.get(recipient).cloned().unwrap_or_default();
            let kept = queued.get(recipient).copied();
            one(&mut figures, recipient, *told, &seen, kept);
            let waits = queued.contains_key(from);
            if seen.bounced > 0 && kept.is_none() && !waits && !books.reports.contains_key(from) {
                figures.unreported.push(recipient.clone());
            }
        }
        for (to, ids) in &books.reports {
            let mut once: Vec<&String> = ids.iter().collect();
            once.sort_unstable();
            once.dedup();
            if once.len() < ids.len() {
                figures.reports_twice.push(to.clone());
            }
        }
        figures
    }
}

/// The books of one recipient.
fn one(figures: &mut Figures, recipient: &str, told: Told, seen: &Seen, kept: Option<Kept>) {
    let name = || recipient.to_owned();
    let delivered = !seen.delivered.is_empty();
    let taken = delivered || seen.bounced > 0 || kept.is_some();
    figures.deferrals += seen.deferred;
    match told {
        Told::Accepted => {
            figures.accepted += 1;
            match (delivered, seen.bounced > 0 && kept.is_none(), kept) {
                (true, ..) => figures.delivered += 1,
                (_, true, _) => figures.bounced += 1,
                (.., Some(_)) => figures.queued += 1,
                _ => figures.lost.push(name()),
            }
        }
        Told::Nothing => {
            figures.not_told += 1;
            figures.not_told_but_taken += usize::from(taken);
        }
        Told::Refused => {
            figures.refused += 1;
            if taken {
                figures.ghosts.push(name());
            }
        }
    }
    if seen.delivered.windows(2).any(|pair| pair[1].duration_since(pair[0]) < UNKNOWN_WAIT) {
        figures.twice.push(name());
    }
    match kept {
        Some(Kept::Open) if delivered => figures.again.push(name()),
        Some(Kept::Unknown) => figures.unknown += 1,
        Some(Kept::Held) => figures.held.push(name()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(told: Told, deliveries: u32, bounced: bool, kept: Option<Kept>) -> Figures {
        let ledger = Ledger::default();
        ledger.sent("s@a.test", &["r@b.test".to_owned()], told);
        for _ in 0..deliveries {
            ledger.delivered("r@b.test");
        }
        if bounced {
            ledger.bounced("r@b.test");
        }
        ledger.compare(&kept.map(|kept| ("r@b.test".to_owned(), kept)).into_iter().collect())
    }

    #[test]
    fn every_way_the_books_can_disagree_is_seen() {
        assert!(figures(Told::Accepted, 1, false, None).agree());
        assert!(figures(Told::Accepted, 1, false, Some(Kept::Unknown)).agree());
        assert!(figures(Told::Accepted, 0, false, Some(Kept::Open)).agree());
        assert!(figures(Told::Nothing, 0, false, None).agree());
        assert!(figures(Told::Nothing, 1, false, None).agree());
        assert!(!figures(Told::Accepted, 0, false, None).agree(), "lost");
        assert!(!figures(Told::Accepted, 2, false, None).agree(), "twice");
        assert!(!figures(Told::Nothing, 2, false, None).agree(), "twice");
        assert!(!figures(Told::Accepted, 1, false, Some(Kept::Open)).agree(), "to be sent again");
        assert!(!figures(Told::Refused, 1, false, None).agree(), "a ghost");
        assert!(!figures(Told::Accepted, 0, true, None).agree(), "nobody was told");
        assert!(!figures(Told::Accepted, 0, false, Some(Kept::Held)).agree(), "held without damage");
    }

    #[test]
    fn a_bounce_with_its_report_is_fine() {
        let ledger = Ledger::default();
        ledger.sent("s@a.test", &["r@b.test".to_owned()], Told::Accepted);
        ledger.bounced("r@b.test");
        assert!(ledger.compare(&HashMap::from([("s@a.test".to_owned(), Kept::Open)])).agree());
        ledger.reported("s@a.test", "<1@x>");
        let figures = ledger.compare(&HashMap::new());
        assert!(figures.agree() && figures.bounced == 1, "{figures:?}");
        ledger.reported("s@a.test", "<1@x>");
        assert!(!ledger.compare(&HashMap::new()).agree(), "the same report twice");
    }
}
