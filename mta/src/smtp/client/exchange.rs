//! One transaction under way: which command comes next, what each reply means for whom. Pure.
//!
//! With PIPELINING a group goes out before the first reply is read; with CHUNKING too, and a message that need not be
//! held, the group is the whole transaction. The rule about what a lost connection means (`Unknown` or `Deferred`) is
//! [`Exchange::abandon`].

use std::collections::VecDeque;

use queue::{BounceClass, Outcome, OutcomeKind, UnixSecs};

use super::capabilities::{PeerLimits, Unfit};
use super::content::{Content, Emitted, Form, PIECE_MAX};
use super::transaction::Transaction;
use super::{Action, Classify, Finished, Stage, Wait};
use crate::smtp::reply::{Reply, ReplyClass};

/// A reply that is owed to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Reset,
    Mail,
    /// By position in the transaction's recipients.
    Rcpt(usize),
    Data,
    Content,
    /// RFC 2920 section 3.1: the answer to a lone dot when DATA was taken without recipients.
    LoneDot,
}

/// What is to be said next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begin,
    Reset,
    Mail,
    Rcpt(usize),
    GroupEnd,
    /// All recipients are answered.
    Judge,
    /// DATA is answered.
    DataSent,
    /// The intent is wanted.
    Ask,
    /// The message leaves.
    Emit,
    /// The last byte has left.
    Final,
    Over,
}

/// One transaction under way.
pub(super) struct Exchange {
    transaction: Transaction,
    results: Vec<Option<Outcome>>,
    admitted: Vec<usize>,
    accepted: Vec<usize>,
    /// Named, and too many for this transaction: neither tried nor named again.
    surplus: Vec<usize>,
    owed: VecDeque<Expect>,
    step: Step,
    content: Option<Content>,
    /// MAIL to the last byte in one group.
    one_flight: bool,
    reset_first: bool,
    now: UnixSecs,
    classify: Classify,
    mail_refused: bool,
    answered: bool,
    last_sent: bool,
    data_go: bool,
    content_answered: bool,
    /// The site showed how many recipients it takes.
    pub(super) learned_rcpt_max: Option<u32>,
    /// The session must say RSET before the next MAIL.
    pub(super) needs_reset: bool,
    /// The connection cannot be used any more: an unfinished DATA hangs on it.
    pub(super) spoiled: bool,
}

impl Exchange {
    pub(super) fn new(
        transaction: Transaction,
        limits: &PeerLimits,
        reset_first: bool,
        now: UnixSecs,
        classify: Classify,
    ) -> Self {
        let size = transaction.size();
        let one_flight = limits.pipelining && limits.chunking && !transaction.hold_last && size <= PIECE_MAX as u64;
        let mut exchange = Self {
            results: vec![None; transaction.recipients.len()],
            admitted: limits.admitted(&transaction),
            accepted: Vec::new(),
            surplus: Vec::new(),
            owed: VecDeque::new(),
            step: Step::Begin,
            content: None,
            one_flight,
            reset_first,
            now,
            classify,
            mail_refused: false,
            answered: false,
            last_sent: false,
            data_go: false,
            content_answered: false,
            learned_rcpt_max: None,
            needs_reset: reset_first,
            spoiled: false,
            transaction,
        };
        if exchange.admitted.is_empty() {
            exchange.step = Step::Over;
        } else if let Err(unfit) = exchange.transaction.check(limits, now) {
            exchange.refuse_all(unfit);
        }
        exchange
    }

    pub(super) fn transaction(&self) -> &Transaction {
        &self.transaction
    }

    pub(super) fn into_finished(self) -> Finished {
        let results = self.results.into_iter().enumerate();
        Finished {
            transaction: self.transaction,
            results: results.filter_map(|(position, outcome)| Some((position, outcome?))).collect(),
            answered: self.content_answered,
        }
    }

    /// What the session does next; `None` when the transaction is over.
    pub(super) fn next(&mut self, limits: &PeerLimits, out: &mut Vec<u8>) -> Option<Action> {
        loop {
            if let Some(wait) = self.must_read(limits) {
                return Some(Action::Read(wait));
            }
            match self.step {
                Step::Begin if self.one_flight => return Some(Action::Intent(self.admitted.clone())),
                Step::Begin => self.step = Step::Reset,
                Step::Reset => {
                    if self.reset_first {
                        self.say(out, b"RSET\r\n", Expect::Reset);
                    }
                    self.needs_reset = false;
                    self.step = Step::Mail;
                }
                Step::Mail => {
                    self.transaction.mail(limits, self.now, out);
                    self.say(out, b"", Expect::Mail);
                    self.step = Step::Rcpt(0);
                }
                Step::Rcpt(number) => self.say_rcpt(number, limits, out),
                Step::GroupEnd => self.end_group(limits, out),
                Step::Judge if self.accepted.is_empty() => self.step = Step::Over,
                Step::Judge if limits.chunking => self.step = Step::Ask,
                Step::Judge => {
                    self.say(out, b"DATA\r\n", Expect::Data);
                    self.step = Step::DataSent;
                }
                Step::DataSent if !self.data_go => self.step = Step::Over,
                Step::DataSent if self.accepted.is_empty() => {
                    self.say(out, b".\r\n", Expect::LoneDot);
                    self.step = Step::Final;
                }
                Step::DataSent => self.step = Step::Ask,
                Step::Ask => return Some(Action::Intent(self.accepted.clone())),
                Step::Emit => match self.emit(limits, out) {
                    Some(action) => return Some(action),
                    None => self.step = Step::Final,
                },
                Step::Final => self.step = Step::Over,
                Step::Over => return None,
            }
        }
    }

    /// The intent is recorded: the last byte may leave.
    pub(super) fn permit(&mut self) {
        self.step = if self.one_flight { Step::Reset } else { Step::Emit };
    }

    /// The intent could not be recorded: nothing more of this message leaves.
    pub(super) fn withhold(&mut self, why: &str) {
        let outcome = local(OutcomeKind::Deferred, [4, 3, 0], why, BounceClass::TransientFailure);
        self.resolve_open(&outcome);
        // Behind a 354 there is no way back but to close.
        self.spoiled = self.data_go;
        self.needs_reset = true;
        self.step = Step::Over;
    }

    /// A reply came. False when none was owed.
    pub(super) fn reply(&mut self, reply: &Reply) -> bool {
        let Some(expect) = self.owed.pop_front() else { return false };
        match expect {
            Expect::Reset => {}
            Expect::LoneDot => self.needs_reset = false,
            Expect::Mail => {
                self.answered = true;
                if !reply.is_completed() {
                    self.mail_refused = true;
                    let outcome = self.outcome(reply, Stage::Mail);
                    self.resolve_open(&outcome);
                    self.over_unless_owed();
                }
            }
            Expect::Rcpt(position) => self.rcpt_reply(position, reply),
            Expect::Data => {
                self.data_go = reply.class() == ReplyClass::Intermediate;
                if !self.data_go {
                    let outcome = self.outcome(reply, Stage::Data);
                    self.resolve_open(&outcome);
                    self.needs_reset = true;
                }
            }
            Expect::Content => {
                let outcome = self.outcome(reply, Stage::Content);
                // Only who was named and taken: the reply is about nobody else.
                for position in self.accepted.clone() {
                    self.resolve(position, outcome.clone());
                }
                self.content_answered = true;
                // RFC 3030 section 2: after a refused chunk the transaction is undefined until RSET.
                self.needs_reset = !reply.is_completed();
            }
        }
        true
    }

    /// The connection is gone, or of no use. A message whose last byte has left, to a peer that had begun to answer the
    /// transaction, may have been delivered; anything else was not.
    pub(super) fn abandon(&mut self, why: &str, class: BounceClass, write_failed: bool) {
        let unknown = self.last_sent && self.answered && !write_failed;
        let outcome = if unknown {
            let text = format!("{why}, after the whole message was sent and before it was answered");
            local(OutcomeKind::Unknown, [4, 4, 2], &text, BounceClass::PossibleDuplicate)
        } else {
            local(OutcomeKind::Deferred, [4, 4, 2], why, class)
        };
        self.resolve_open(&outcome);
        self.step = Step::Over;
    }

    /// What is at the front of the replies owed, as a stage.
    pub(super) fn stage(&self) -> Stage {
        match self.owed.front() {
            Some(Expect::Rcpt(_)) => Stage::Rcpt,
            Some(Expect::Data) => Stage::Data,
            Some(Expect::Content | Expect::LoneDot) => Stage::Content,
            Some(Expect::Reset | Expect::Mail) => Stage::Mail,
            None if self.content.is_some() => Stage::Content,
            None => Stage::Mail,
        }
    }

    /// Something must be read before the next step.
    fn must_read(&self, limits: &PeerLimits) -> Option<Wait> {
        let in_group = matches!(self.step, Step::Reset | Step::Mail | Step::Rcpt(_) | Step::GroupEnd);
        // Emitting never stops for replies; in one flight they are all still owed.
        if limits.pipelining && in_group || matches!(self.step, Step::Emit | Step::Over) {
            return None;
        }
        self.owed.front().map(|expect| match expect {
            Expect::Reset => Wait::Reset,
            Expect::Mail => Wait::Mail,
            Expect::Rcpt(_) => Wait::Rcpt,
            Expect::Data => Wait::Data,
            Expect::Content | Expect::LoneDot => Wait::Content,
        })
    }

    fn say(&mut self, out: &mut Vec<u8>, command: &[u8], expect: Expect) {
        out.extend_from_slice(command);
        self.owed.push_back(expect);
    }

    fn say_rcpt(&mut self, number: usize, limits: &PeerLimits, out: &mut Vec<u8>) {
        let position = self.admitted.get(number).copied();
        let Some((position, recipient)) = position.and_then(|p| Some((p, self.transaction.recipients.get(p)?))) else {
            self.step = Step::GroupEnd;
            return;
        };
        recipient.rcpt(limits, out);
        self.owed.push_back(Expect::Rcpt(position));
        self.step = Step::Rcpt(number + 1);
    }

    fn end_group(&mut self, limits: &PeerLimits, out: &mut Vec<u8>) {
        if self.one_flight {
            self.step = Step::Emit;
        } else if limits.pipelining && !limits.chunking {
            // RFC 2920 section 3.1: DATA may end a group.
            self.say(out, b"DATA\r\n", Expect::Data);
            self.step = Step::DataSent;
        } else {
            self.step = Step::Judge;
        }
    }

    /// The next part of the message; `None` when its last byte is in `out`.
    fn emit(&mut self, limits: &PeerLimits, out: &mut Vec<u8>) -> Option<Action> {
        let form = if limits.chunking { Form::Chunk } else { Form::Dotted };
        let Transaction { prefix, body, flags, .. } = &self.transaction;
        let content =
            self.content.get_or_insert_with(|| Content::new(form, prefix.clone(), body.clone(), flags.dot_line));
        match content.emit(out) {
            Emitted::More => Some(Action::Flush),
            Emitted::Piece(piece) => Some(Action::Write(piece)),
            Emitted::Last => {
                self.last_sent = true;
                self.owed.push_back(Expect::Content);
                None
            }
        }
    }

    fn rcpt_reply(&mut self, position: usize, reply: &Reply) {
        self.answered = true;
        if self.mail_refused {
            return;
        }
        if reply.is_completed() {
            self.accepted.push(position);
            return;
        }
        self.needs_reset = true;
        if too_many(reply) && !self.accepted.is_empty() {
            // Not tried, rather than deferred: the next transaction takes them at once.
            self.learned_rcpt_max = u32::try_from(self.accepted.len()).ok();
            self.surplus.push(position);
            return;
        }
        let mut outcome = self.outcome(reply, Stage::Rcpt);
        if reply.code == 552 {
            // RFC 5321 section 4.5.3.1.10: 552 here was once meant for too many recipients; read as 452.
            outcome.kind = OutcomeKind::Deferred;
        }
        self.resolve(position, outcome);
    }

    /// RFC 5321 section 3.8: after 421 the peer closes; what it has not answered it has not taken.
    pub(super) fn closing(&mut self, reply: &Reply) {
        let outcome = self.outcome(reply, self.stage());
        self.resolve_open(&outcome);
        self.step = Step::Over;
    }

    fn over_unless_owed(&mut self) {
        if self.owed.is_empty() {
            self.step = Step::Over;
        }
    }

    fn refuse_all(&mut self, unfit: Unfit) {
        let (enhanced, text, class) = match unfit {
            Unfit::TooLarge { limit } => (
                [5, 3, 4],
                format!("the message has {} bytes, the site takes {limit}", self.transaction.size()),
                BounceClass::SizeLimit,
            ),
            Unfit::EightBit => ([5, 6, 3], "the site takes only 7-bit text".to_owned(), BounceClass::ProtocolErrors),
            Unfit::Binary => ([5, 6, 3], "the site takes no binary messages".to_owned(), BounceClass::ProtocolErrors),
            Unfit::Utf8 => {
                ([5, 6, 7], "the site takes no internationalised addresses".to_owned(), BounceClass::ProtocolErrors)
            }
            Unfit::TooLate => (
                [5, 4, 7],
                "the site does not promise delivery in the time left".to_owned(),
                BounceClass::MessageExpired,
            ),
            Unfit::BadAddress => {
                ([5, 1, 3], "an address of this message cannot be sent".to_owned(), BounceClass::ProtocolErrors)
            }
        };
        self.admitted = (0..self.results.len()).collect();
        self.resolve_open(&local(OutcomeKind::Failed, enhanced, &text, class));
        self.step = Step::Over;
    }

    fn resolve(&mut self, position: usize, outcome: Outcome) {
        if let Some(slot @ None) = self.results.get_mut(position) {
            *slot = Some(outcome);
        }
    }

    /// All that were named to the site, or would have been, and have no outcome yet.
    fn resolve_open(&mut self, outcome: &Outcome) {
        for position in std::mem::take(&mut self.admitted) {
            if !self.surplus.contains(&position) {
                self.resolve(position, outcome.clone());
            }
            self.admitted.push(position);
        }
    }

    fn outcome(&self, reply: &Reply, stage: Stage) -> Outcome {
        let kind = match reply.class() {
            ReplyClass::Completed if stage == Stage::Content => OutcomeKind::Delivered,
            ReplyClass::Permanent => OutcomeKind::Failed,
            // A 2yz or 3yz that has no meaning here says nothing final.
            _ => OutcomeKind::Deferred,
        };
        let text = reply.words();
        let class = match (kind, reply.class()) {
            (OutcomeKind::Delivered, _) => BounceClass::None,
            (_, ReplyClass::Completed | ReplyClass::Intermediate) => BounceClass::ProtocolErrors,
            _ => (self.classify)(reply.code, reply.enhanced, &text, stage),
        };
        Outcome { kind, code: reply.code, enhanced: reply.enhanced, text, class }
    }
}

/// RFC 5321 section 4.5.3.1.10: the site wants the rest in another transaction.
fn too_many(reply: &Reply) -> bool {
    if reply.code != 452 && reply.code != 552 {
        return false;
    }
    match reply.enhanced {
        [0, 0, 0] => reply.text().to_ascii_lowercase().contains("too many"),
        [_, 5, 3] => true,
        _ => false,
    }
}

/// An outcome without a reply, in our own words.
fn local(kind: OutcomeKind, enhanced: [u16; 3], text: &str, class: BounceClass) -> Outcome {
    Outcome { kind, code: 0, enhanced, text: text.to_owned(), class }
}
