//! DATA and BDAT: the bytes of a message on their way into one buffer.
//!
//! The buffer begins with [`HEADROOM`] free bytes. Content that is refused (too big, bare CR or LF) is still read to
//! its true end, so that none of it is ever taken for a command.

use super::mail::ReceivedMail;
use super::session::{Context, Mode, Session, Step};
use super::transaction::Transaction;
use crate::smtp::codes::{reply, Reply};
use crate::smtp::command;
use crate::smtp::dot::Decoder;
use crate::smtp::extension::BodyKind;
use crate::smtp::facts::Scan;
use crate::smtp::limits::{BODY_FIRST, BODY_ON_TRUST, HEADROOM};

/// Content while it arrives.
pub(super) struct Content {
    buffer: Vec<u8>,
    scan: Scan,
    decoder: Decoder,
    /// More than `size_max` came, or was announced by a chunk.
    too_large: bool,
    /// The failure was told: only RSET helps.
    told: bool,
    binary: bool,
    size_max: u64,
}

/// A BDAT chunk under way.
pub(super) struct Chunk {
    left: u64,
    size: u64,
    last: bool,
    /// RFC 3030 section 2: a refused chunk is read all the same.
    refusal: Option<Reply>,
}

impl Content {
    fn new(transaction: &Transaction, announced: u64, size_max: u64) -> Self {
        let known = announced.max(transaction.params.size).min(BODY_ON_TRUST as u64) as usize;
        let mut buffer = Vec::with_capacity(HEADROOM + known.max(BODY_FIRST));
        buffer.resize(HEADROOM, 0);
        Self {
            buffer,
            scan: Scan::default(),
            decoder: Decoder::default(),
            too_large: false,
            told: false,
            binary: transaction.params.body == BodyKind::Binary,
            size_max,
        }
    }

    /// Takes wire bytes of DATA; returns how many, and whether the end was among them.
    fn decode(&mut self, input: &[u8]) -> (usize, bool) {
        let start = self.buffer.len();
        let decoded = self.decoder.decode(input, &mut self.buffer);
        self.inspect(start);
        (decoded.used, decoded.ended)
    }

    /// Takes bytes of a chunk as they are.
    fn append(&mut self, input: &[u8]) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(input);
        self.inspect(start);
    }

    /// Looks at what was added from `start` on; keeps nothing of content that will be refused.
    fn inspect(&mut self, start: usize) {
        self.scan.feed(self.buffer.get(start..).unwrap_or_default());
        self.too_large |= self.scan.total() > self.size_max;
        if self.refusal(false).is_some() {
            // The memory goes at once; what follows needs no more room than one read.
            self.buffer = Vec::new();
        }
    }

    /// Why it is refused, as far as is known; `ended` when nothing follows. One order of reasons, so that the reply
    /// does not depend on how the bytes arrived.
    fn refusal(&self, ended: bool) -> Option<Reply> {
        let bare = if ended { self.scan.has_bare() } else { self.scan.has_bare_inside() };
        if bare && !self.binary {
            return Some(reply::BARE_LINE_END);
        }
        self.too_large.then_some(reply::TOO_BIG)
    }
}

impl Session {
    /// RFC 5321 section 4.1.1.4.
    pub(super) fn data(&mut self, context: &mut Context<'_>) -> Result<Step, Reply> {
        let size_max = self.size_max();
        let Some(transaction) = self.transaction.as_deref_mut() else {
            return Err(reply::MAIL_FIRST);
        };
        if transaction.content.is_some() {
            return Err(reply::BDAT_UNDER_WAY);
        }
        if transaction.params.body == BodyKind::Binary {
            return Err(reply::BINARY_NEEDS_BDAT);
        }
        if transaction.recipients.is_empty() {
            return Err(reply::NO_RECIPIENT);
        }
        transaction.content = Some(Content::new(transaction, 0, size_max));
        self.mode = Mode::Data;
        reply::GO_AHEAD.write(context.out);
        Ok(Step::More)
    }

    /// Bytes behind 354.
    pub(super) fn feed_data(&mut self, rest: &[u8], context: &mut Context<'_>) -> (usize, Step) {
        let content = self.transaction.as_deref_mut().and_then(|transaction| transaction.content.as_mut());
        let Some(content) = content else {
            self.mode = Mode::Command;
            return (0, Step::More);
        };
        let (used, ended) = content.decode(rest);
        let step = if ended { self.complete(context) } else { Step::More };
        (used, step)
    }

    /// RFC 3030 section 2.
    pub(super) fn bdat(&mut self, argument: &str, context: &mut Context<'_>) -> Result<Step, Reply> {
        // Without a size nobody can tell where the chunk ends and commands begin.
        let Some((size, last)) = command::chunk(argument) else {
            self.close_with(&reply::BAD_BDAT, context.out);
            return Ok(Step::Close);
        };
        let refusal = self.open_chunk(size).err();
        self.mode = Mode::Bdat(Chunk { left: size, size, last, refusal });
        if size == 0 {
            return Ok(self.end_chunk(context));
        }
        Ok(Step::More)
    }

    fn open_chunk(&mut self, size: u64) -> Result<(), Reply> {
        let size_max = self.size_max();
        let transaction = self.transaction.as_deref_mut().ok_or(reply::MAIL_FIRST)?;
        if transaction.recipients.is_empty() {
            return Err(reply::NO_RECIPIENT);
        }
        let mut content = match transaction.content.take() {
            Some(content) => content,
            None => Content::new(transaction, size, size_max),
        };
        let told = content.told;
        content.too_large |= content.scan.total().saturating_add(size) > size_max;
        if content.refusal(false).is_none() {
            content.buffer.reserve(size.min(BODY_ON_TRUST as u64) as usize);
        }
        transaction.content = Some(content);
        if told {
            return Err(reply::BDAT_FAILED);
        }
        Ok(())
    }

    /// Bytes of a chunk.
    pub(super) fn feed_chunk(&mut self, rest: &[u8], context: &mut Context<'_>) -> (usize, Step) {
        let Mode::Bdat(chunk) = &mut self.mode else {
            return (0, Step::More);
        };
        let taken = usize::try_from(chunk.left).unwrap_or(usize::MAX).min(rest.len());
        chunk.left -= taken as u64;
        let done = chunk.left == 0;
        if chunk.refusal.is_none() {
            let content = self.transaction.as_deref_mut().and_then(|transaction| transaction.content.as_mut());
            if let Some(content) = content {
                content.append(&rest[..taken]);
            }
        }
        let step = if done { self.end_chunk(context) } else { Step::More };
        (taken, step)
    }

    fn end_chunk(&mut self, context: &mut Context<'_>) -> Step {
        let Mode::Bdat(chunk) = std::mem::replace(&mut self.mode, Mode::Command) else {
            return Step::More;
        };
        if let Some(refusal) = chunk.refusal {
            if chunk.last {
                self.transaction = None;
            }
            return self.refuse(refusal, context.out);
        }
        if chunk.last {
            return self.complete(context);
        }
        let content = self.transaction.as_deref_mut().and_then(|transaction| transaction.content.as_mut());
        if let Some(content) = content {
            if let Some(failed) = content.refusal(false) {
                content.told = true;
                return self.refuse(failed, context.out);
            }
        }
        let text = format!("{} octets received", chunk.size);
        reply::OK.with_text(text).write(context.out);
        Step::More
    }

    /// The last byte is here: hand the mail over, or refuse it. Either way the transaction is over.
    fn complete(&mut self, context: &mut Context<'_>) -> Step {
        self.mode = Mode::Command;
        let Some(transaction) = self.transaction.take() else {
            return Step::More;
        };
        let Transaction { reverse_path, params, recipients, inbound, non_ascii, content } = *transaction;
        let (Some(content), Some(helo)) = (content, self.helo.clone()) else {
            return self.refuse(reply::SEQUENCE, context.out);
        };
        if let Some(refusal) = content.refusal(true) {
            return self.refuse(refusal, context.out);
        }
        let mut facts = content.scan.flags();
        facts.binary = content.binary;
        let header = content.buffer.get(HEADROOM..HEADROOM + facts.header_len as usize).unwrap_or_default();
        // Asked for is not needed: what is all ASCII can go to any peer.
        facts.smtputf8 = params.smtputf8 && (non_ascii || !header.is_ascii());
        let mail = ReceivedMail {
            reverse_path,
            recipients,
            inbound,
            protocol: self.protocol(params.smtputf8),
            params,
            buffer: content.buffer,
            headroom: HEADROOM,
            facts,
            auth: self.credential.clone(),
            peer: self.peer.clone(),
            helo,
            role: self.policy.role,
            session: self.id,
            transaction: self.transactions,
            received: context.now.unix,
        };
        self.mode = Mode::Paused(None);
        Step::Received(Box::new(mail))
    }
}
