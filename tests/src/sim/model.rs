//! The ledger of truth: what every message was promised, and what became of it. It knows only what a client, a peer
//! and a reader of the event log could know, and says when a promise is broken.

use std::collections::{BTreeMap, BTreeSet};

use mta::bounce::consequence::Action;
use mta::record::event::Kind;
use mta::record::Event;
use queue::{BounceClass, Notify, OutcomeKind, SpoolId, UnixSecs};

/// A verdict is durable at most so many milliseconds after it was read.
pub const SYNC_PROMISE_MS: u64 = 250;
/// After an unknown outcome nothing is tried for so long.
pub const UNKNOWN_WAIT_S: u32 = 30 * 60;
/// So many unknown outcomes, and no more attempts.
pub const UNKNOWNS_MAX: usize = 2;

/// What identifies an event, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventKey {
    /// What happened.
    pub kind: Kind,
    /// The message.
    pub id: SpoolId,
    /// The recipient.
    pub rcpt: u16,
    /// The attempt.
    pub attempt: u32,
    /// What a failure means.
    pub class: BounceClass,
}

impl EventKey {
    /// Of a record.
    pub fn of(event: &Event) -> Self {
        let rcpt = u16::try_from(event.recipient_index).unwrap_or(u16::MAX);
        Self { kind: event.kind, id: event.id, rcpt, attempt: event.attempt, class: event.bounce_class }
    }

    /// True when nothing is tried after it.
    pub fn is_final(&self) -> bool {
        matches!(self.kind, Kind::Delivery | Kind::Bounce | Kind::Expiration | Kind::AdminBounce)
    }
}

/// What the client knows of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It never heard: both ends are right.
    None,
    /// 250.
    Accepted,
    /// 4xx.
    Refused,
    /// 4xx while no segment could be written: it may come back.
    RefusedUnrecorded,
}

/// How an attempt ended, seen from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Read(OutcomeKind, u64),
    NoReply,
    /// A power cut took the memory of it.
    Forgotten,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    /// When the last byte left.
    at: u64,
    wall: UnixSecs,
    end: End,
}

/// A recipient.
#[derive(Clone, Debug, Default)]
pub struct Rcpt {
    /// What the sender wants to hear.
    pub notify: Notify,
    attempts: Vec<Attempt>,
    /// Times a peer took it.
    pub taken: u32,
    /// "Done" was written.
    pub done: bool,
    reports: Vec<Action>,
}

impl Rcpt {
    /// A recipient about whom the sender wants to hear this.
    pub fn new(notify: Notify) -> Self {
        Self { notify, ..Self::default() }
    }
}

/// A message.
#[derive(Clone, Debug)]
pub struct Message {
    /// Number of the submission; tells the body. Reports have none.
    pub number: Option<u32>,
    /// Null reverse path, or a report: nothing is ever reported about it.
    pub silent: bool,
    /// What the client heard.
    pub answer: Answer,
    /// A report: which message and recipients it is about.
    pub about: Option<(SpoolId, Vec<(u16, Action)>)>,
    /// In which life of the process, by the count of crashes.
    pub life: u32,
    /// Its recipients.
    pub rcpts: Vec<Rcpt>,
}

/// All messages, and the first promise that was broken.
#[derive(Debug, Default)]
pub struct Model {
    messages: BTreeMap<u64, Message>,
    /// The first broken promise.
    pub broken: Option<String>,
    /// Crashes so far.
    pub crashes: u32,
    /// Starts so far.
    pub lives: u32,
    /// Unknown outcomes so far.
    pub unknowns: u64,
    /// Repeated deliveries that are allowed.
    pub duplicates: u64,
}

impl Model {
    /// Notes a broken promise; the first counts.
    pub fn breaks(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// A message is handed to the spool.
    pub fn submitted(&mut self, id: SpoolId, message: Message) {
        let message = Message { life: self.lives, ..message };
        if self.messages.insert(id.0, message).is_some() {
            self.breaks(format!("spool id {id} was given twice"));
        }
    }

    /// The client hears the answer.
    pub fn answered(&mut self, id: SpoolId, answer: Answer) {
        if let Some(message) = self.messages.get_mut(&id.0) {
            message.answer = answer;
        }
    }

    /// The message of an id.
    pub fn message(&self, id: SpoolId) -> Option<&Message> {
        self.messages.get(&id.0)
    }

    fn rcpt(&mut self, id: SpoolId, index: u16) -> Option<&mut Rcpt> {
        self.messages.get_mut(&id.0)?.rcpts.get_mut(usize::from(index))
    }

    /// How many messages were answered 250.
    pub fn accepted(&self) -> usize {
        self.messages.values().filter(|m| m.answer == Answer::Accepted).count()
    }

    /// A start tells these messages.
    pub fn recovered(&mut self, told: &BTreeSet<u64>) {
        for (id, message) in &self.messages {
            let open = message.rcpts.iter().any(|r| !r.done);
            // What came in since the start is not recovery's to tell.
            let earlier = message.life < self.lives;
            if message.answer == Answer::Accepted && earlier && open && !told.contains(id) {
                self.broken.get_or_insert(format!("{} was answered 250 and is lost", SpoolId(*id)));
            }
        }
        for id in told {
            let unheard = self.messages.get_mut(id).filter(|m| m.answer == Answer::None);
            if let Some((about, recipients)) = unheard.and_then(|m| m.about.clone()) {
                // It was on its way to the disk when the process died, and arrived.
                self.answered(SpoolId(*id), Answer::Accepted);
                recipients.iter().for_each(|(index, action)| self.reported(about, *index, *action));
            }
            match self.messages.get(id).map(|m| m.answer) {
                None => self.breaks(format!("{} was never submitted and is told", SpoolId(*id))),
                Some(Answer::Refused) => self.breaks(format!("{} was refused with 4xx and is back", SpoolId(*id))),
                _ => {}
            }
        }
    }

    /// The last byte of an attempt is about to leave.
    pub fn last_byte(&mut self, id: SpoolId, index: u16, now: u64, wall: UnixSecs) {
        match self.messages.get(&id.0).map(|m| m.answer) {
            None => return self.breaks(format!("{id} was never submitted and is sent")),
            Some(Answer::Refused) => return self.breaks(format!("{id} was refused with 4xx and is sent")),
            _ => {}
        }
        let Some(rcpt) = self.rcpt(id, index) else {
            return self.breaks(format!("{id} has no recipient {index}"));
        };
        let mut wrong = None;
        let mut unknowns = 0;
        for before in &rcpt.attempts {
            match before.end {
                End::Open => wrong = Some("while another attempt is under way".to_owned()),
                End::Read(kind, at) if kind.is_final() => wrong = Some(format!("again: {kind:?} was read at {at} ms")),
                End::NoReply => {
                    unknowns += 1;
                    // By the wall clock or in truth: nobody can wait by a clock that was set back.
                    let truly = u32::try_from((now - before.at) / 1000).unwrap_or(u32::MAX);
                    let waited = wall.since(before.wall).max(truly);
                    if waited + 1 < UNKNOWN_WAIT_S {
                        wrong = Some(format!("{waited} s after an attempt without answer"));
                    }
                }
                End::Read(..) | End::Forgotten => {}
            }
        }
        if unknowns >= UNKNOWNS_MAX {
            wrong = Some(format!("after {unknowns} attempts without answer"));
        }
        let again = rcpt.taken > 0;
        rcpt.attempts.push(Attempt { at: now, wall, end: End::Open });
        self.duplicates += u64::from(again);
        if let Some(wrong) = wrong {
            self.breaks(format!("{id} recipient {index} is sent {wrong}"));
        }
    }

    /// A peer took the message for a recipient.
    pub fn taken(&mut self, id: SpoolId, index: u16) {
        if let Some(rcpt) = self.rcpt(id, index) {
            rcpt.taken += 1;
        }
    }

    /// We read the outcome of the attempt under way, or gave up reading (Unknown).
    pub fn read(&mut self, id: SpoolId, index: u16, kind: OutcomeKind, now: u64) {
        self.unknowns += u64::from(kind == OutcomeKind::Unknown);
        let Some(rcpt) = self.rcpt(id, index) else { return };
        let end = if kind == OutcomeKind::Unknown { End::NoReply } else { End::Read(kind, now) };
        match rcpt.attempts.last_mut() {
            Some(last) if last.end == End::Open => last.end = end,
            // Refused before the last byte: the reply is final all the same.
            _ if kind.is_final() => rcpt.attempts.push(Attempt { at: now, wall: UnixSecs(0), end }),
            _ => {}
        }
    }

    /// The process dies. With a power cut, what was read after `horizon` may be forgotten.
    pub fn crashed(&mut self, power_horizon: Option<u64>) {
        self.crashes += 1;
        for attempt in self.messages.values_mut().flat_map(|m| &mut m.rcpts).flat_map(|r| &mut r.attempts) {
            let read = match attempt.end {
                End::Read(_, at) => at,
                _ => attempt.at,
            };
            if power_horizon.is_some_and(|horizon| read >= horizon) {
                attempt.end = End::Forgotten;
            } else if attempt.end == End::Open {
                attempt.end = End::NoReply;
                self.unknowns += 1;
            }
        }
    }

    /// A report about a recipient is durable.
    pub fn reported(&mut self, id: SpoolId, index: u16, action: Action) {
        let Some(message) = self.messages.get_mut(&id.0) else { return };
        let silent = message.silent;
        let Some(rcpt) = message.rcpts.get_mut(usize::from(index)) else { return };
        rcpt.reports.push(action);
        let asked = match action {
            Action::Failed => rcpt.notify.failure(),
            Action::Delayed => rcpt.notify.delay(),
            Action::Relayed | Action::Delivered => rcpt.notify.success(),
        };
        if silent || !asked {
            self.breaks(format!("{id} recipient {index}: a report nobody asked for: {action:?}"));
        }
    }

    /// "Done" is written for a recipient; `events` are durable.
    pub fn done(&mut self, id: SpoolId, index: u16, events: &BTreeMap<(u64, u16), EventKey>) {
        let crashes = self.crashes;
        let Some(message) = self.messages.get_mut(&id.0) else {
            return self.breaks(format!("{id} was never submitted and is done"));
        };
        let silent = message.silent;
        let Some(rcpt) = message.rcpts.get_mut(usize::from(index)) else { return };
        rcpt.done = true;
        let event = events.get(&(id.0, index));
        let failed = event.is_some_and(|e| e.kind != Kind::Delivery);
        let reports = rcpt.reports.iter().filter(|action| **action == Action::Failed).count();
        let wrong = if event.is_none() {
            Some("without a durable event of its end".to_owned())
        } else if failed && rcpt.notify.failure() && !silent && reports == 0 {
            Some("without the report of its failure".to_owned())
        } else if !failed && reports > 0 {
            Some("as delivered, and was reported as failed".to_owned())
        } else if reports > 1 && crashes == 0 {
            Some(format!("with {reports} reports of its failure"))
        } else {
            None
        };
        if let Some(wrong) = wrong {
            self.breaks(format!("{id} recipient {index} is done {wrong}"));
        }
    }

    /// At the end of all days: every recipient of every accepted message has come to exactly one end.
    pub fn judge(&mut self, events: &[EventKey]) {
        let mut ends: BTreeMap<(u64, u16), BTreeSet<bool>> = BTreeMap::new();
        for event in events.iter().filter(|event| event.is_final()) {
            ends.entry((event.id.0, event.rcpt)).or_default().insert(event.kind == Kind::Delivery);
        }
        let mut broken = None;
        for (id, message) in &self.messages {
            for (index, rcpt) in (0u16..).zip(&message.rcpts) {
                let none = BTreeSet::new();
                let end = ends.get(&(*id, index)).unwrap_or(&none);
                let delivered = end.contains(&true);
                let read = |wanted| rcpt.attempts.iter().any(|a| matches!(a.end, End::Read(kind, _) if kind == wanted));
                let wrong = if message.answer == Answer::Accepted && end.is_empty() {
                    "never came to an end"
                } else if end.len() > 1 {
                    "was delivered and bounced"
                } else if delivered && rcpt.taken == 0 {
                    "was called delivered and no peer has it"
                } else if !delivered && !end.is_empty() && read(OutcomeKind::Delivered) {
                    "bounced after a peer said 250"
                } else if message.answer == Answer::Accepted && !rcpt.done {
                    "ended and was never done"
                } else if rcpt.done && !delivered && rcpt.notify.failure() && !message.silent && rcpt.reports.is_empty()
                {
                    "bounced without a report"
                } else {
                    continue;
                };
                broken.get_or_insert(format!("{} recipient {index} {wrong}", SpoolId(*id)));
            }
        }
        if let Some(broken) = broken {
            self.breaks(broken);
        }
    }

    /// True when every recipient of every accepted message is done.
    pub fn all_done(&self) -> bool {
        let open = |m: &Message| m.answer == Answer::Accepted && m.rcpts.iter().any(|r| !r.done);
        !self.messages.values().any(open)
    }
}
