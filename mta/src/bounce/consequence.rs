//! What an attempt leads to for the sender: a report, an event, or silence (RFC 3461 section 5.2).
//!
//! Pure. Never a report to the null reverse path and never about a report (RFC 5321 section 6.1); what would go to our
//! own return path becomes an event, because we are the ones who read that mail.

use queue::{Envelope, MessageKind, Outcome, OutcomeKind};

/// What a report says about a recipient, RFC 3464 section 2.3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Action {
    /// Given up.
    Failed = 1,
    /// Still trying.
    Delayed = 2,
    /// Handed to a host that will not report (RFC 3461 section 5.2.2).
    Relayed = 3,
    /// In the mailbox.
    Delivered = 4,
}

impl Action {
    /// The word of RFC 3464 section 2.3.3.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Relayed => "relayed",
            Self::Delivered => "delivered",
        }
    }
}

/// What one attempt came to for one recipient, with what matters for reports.
#[derive(Clone, Copy, Debug)]
pub struct Tried<'a> {
    /// Index into the envelope's recipients.
    pub recipient: usize,
    /// What it came to.
    pub outcome: &'a Outcome,
    /// The peer that took it offered DSN and was told what the sender wants: it reports from here on.
    pub peer_reports: bool,
    /// Deferred for so long that the sender shall hear of it, and has not yet.
    pub delay_due: bool,
}

/// One recipient of a report: index into the slice of [`Tried`], and what is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Index into the outcomes handed in.
    pub tried: usize,
    /// What is said.
    pub action: Action,
}

/// What follows for the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// Nothing.
    None,
    /// One report about these recipients goes to the reverse path.
    Message {
        /// About whom, in the order handed in.
        said: Vec<Said>,
    },
    /// The reverse path is our own: these become events.
    Event {
        /// About whom, in the order handed in.
        said: Vec<Said>,
    },
}

/// Decides for one attempt of one message. `own_return_domains` are the domains whose mail we read ourselves, in lower
/// case.
#[must_use]
pub fn consequence(envelope: &Envelope, tried: &[Tried<'_>], own_return_domains: &[String]) -> Consequence {
    if envelope.reverse_path.is_empty() || envelope.kind == MessageKind::Dsn {
        return Consequence::None;
    }
    let said: Vec<Said> = tried
        .iter()
        .enumerate()
        .filter_map(|(place, one)| Some(Said { tried: place, action: action(envelope, one)? }))
        .collect();
    if said.is_empty() {
        return Consequence::None;
    }
    let domain = envelope.reverse_path.rsplit_once('@').map_or("", |(_, domain)| domain);
    if own_return_domains.iter().any(|own| own.eq_ignore_ascii_case(domain)) {
        return Consequence::Event { said };
    }
    Consequence::Message { said }
}

/// RFC 3461 section 5.2: what NOTIFY asks to be told.
fn action(envelope: &Envelope, tried: &Tried<'_>) -> Option<Action> {
    let notify = envelope.recipients.get(tried.recipient)?.notify;
    match tried.outcome.kind {
        OutcomeKind::Failed | OutcomeKind::Suppressed => notify.failure().then_some(Action::Failed),
        OutcomeKind::Delivered => (notify.success() && !tried.peer_reports).then_some(Action::Relayed),
        OutcomeKind::Deferred | OutcomeKind::Unknown => (tried.delay_due && notify.delay()).then_some(Action::Delayed),
    }
}

#[cfg(test)]
mod tests {
    use queue::{BounceClass, EnvRecipient, Notify};

    use super::*;

    fn outcome(kind: OutcomeKind) -> Outcome {
        Outcome { kind, code: 550, enhanced: [5, 1, 1], text: String::new(), class: BounceClass::InvalidRecipient }
    }

    fn run(reverse_path: &str, notify: u8, kind: OutcomeKind, peer_reports: bool, delay_due: bool) -> Consequence {
        let envelope = Envelope {
            reverse_path: reverse_path.to_owned(),
            recipients: vec![EnvRecipient { notify: Notify(notify), ..EnvRecipient::default() }],
            ..Envelope::default()
        };
        let outcome = outcome(kind);
        let tried = Tried { recipient: 0, outcome: &outcome, peer_reports, delay_due };
        consequence(&envelope, &[tried], &["bounce.test".to_owned()])
    }

    fn one(action: Action) -> Consequence {
        Consequence::Message { said: vec![Said { tried: 0, action }] }
    }

    #[test]
    fn r17_notify_decides() {
        use OutcomeKind as K;
        assert_eq!(run("s@a.test", 0, K::Failed, false, false), one(Action::Failed));
        assert_eq!(run("s@a.test", 0, K::Suppressed, false, false), one(Action::Failed));
        assert_eq!(run("s@a.test", Notify::NEVER, K::Failed, false, false), Consequence::None);
        assert_eq!(run("s@a.test", Notify::SUCCESS, K::Failed, false, false), Consequence::None);
        assert_eq!(run("s@a.test", 0, K::Delivered, false, false), Consequence::None);
        assert_eq!(run("s@a.test", Notify::SUCCESS, K::Delivered, false, false), one(Action::Relayed));
        assert_eq!(run("s@a.test", Notify::SUCCESS, K::Delivered, true, false), Consequence::None);
        assert_eq!(run("s@a.test", Notify::DELAY, K::Deferred, false, true), one(Action::Delayed));
        assert_eq!(run("s@a.test", Notify::DELAY, K::Deferred, false, false), Consequence::None);
        assert_eq!(run("s@a.test", 0, K::Deferred, false, true), Consequence::None);
    }

    #[test]
    fn r18_never_to_the_null_sender_nor_about_a_report() {
        assert_eq!(run("", 0, OutcomeKind::Failed, false, false), Consequence::None);
        let envelope = Envelope { kind: MessageKind::Dsn, reverse_path: "a@b".to_owned(), ..Envelope::default() };
        assert_eq!(consequence(&envelope, &[], &[]), Consequence::None);
    }

    #[test]
    fn our_own_return_path_gets_an_event() {
        let said = vec![Said { tried: 0, action: Action::Failed }];
        assert_eq!(run("v-1@Bounce.Test", 0, OutcomeKind::Failed, false, false), Consequence::Event { said });
    }
}
