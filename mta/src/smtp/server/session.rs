//! The session itself: lines, modes, the allowance of errors. What a command does is in the files beside this one.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use queue::UnixMillis;

use super::content::Chunk;
use super::login::{AuthQuestion, Login, PendingLogin};
use super::mail::{Peer, Protocol, ReceivedMail, TlsFacts};
use super::policy::{Credential, ServerPolicy};
use super::transaction::Transaction;
use crate::config::Network;
use crate::smtp::codes::{reply, Reply};
use crate::smtp::command::{self, Command};
use crate::smtp::limits::{AUTH_LINE_MAX, COMMAND_LINE_MAX, LINE_FLOOD};

/// The time of one call, read by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Wall clock: for what is promised to people.
    pub unix: UnixMillis,
    /// Monotonic milliseconds: for what is counted.
    pub mono_ms: u64,
}

/// What only the shard knows and answers at once. The error is the reply to give.
pub trait Gate {
    /// A transaction begins: quota, memory, disk, null MX of the sender's domain (RFC 7505: give
    /// [`reply::NULL_MX_SENDER`]). `domain` is empty for the null reverse path; `size` is 0 when not announced.
    fn mail(&mut self, who: &Asking<'_>, domain: &str, size: u64) -> Result<(), Reply> {
        let _ = (who, domain, size);
        Ok(())
    }

    /// A recipient was found acceptable: quota.
    fn recipient(&mut self, who: &Asking<'_>) -> Result<(), Reply> {
        let _ = who;
        Ok(())
    }

    /// AUTH begins, or its user name became known: back-off.
    fn login(&mut self, who: &Asking<'_>, name: Option<&str>) -> Result<(), Reply> {
        let _ = (who, name);
        Ok(())
    }

    /// A login was right or wrong.
    fn login_result(&mut self, who: &Asking<'_>, name: &str, right: bool) {
        let _ = (who, name, right);
    }
}

/// Who a [`Gate`] is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The peer's address.
    pub peer: IpAddr,
    /// As whom it sends; none on port 25 and before AUTH.
    pub credential: Option<&'a Arc<Credential>>,
    /// The time of the call.
    pub now: Now,
}

/// A gate that is always open: tests and the dialog player.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenGate;

impl Gate for OpenGate {}

/// What the caller does next.
#[derive(Debug)]
pub enum Step {
    /// Write `out`, read more.
    More,
    /// Write `out`, do the handshake, call [`Session::resume_tls`].
    StartTls,
    /// Have the question answered off this core, call [`Session::resume_auth`].
    Verify(Box<AuthQuestion>),
    /// Make it durable, call [`Session::resume_received`].
    Received(Box<ReceivedMail>),
    /// Write `out`, close.
    Close,
}

/// What the next byte belongs to.
pub(super) enum Mode {
    Command,
    Login(Login),
    Data,
    Bdat(Chunk),
    /// A step waits for its answer; no byte is taken.
    Paused(Option<PendingLogin>),
    Closed,
}

/// The values of one call, handed down.
pub(super) struct Context<'a> {
    pub now: Now,
    pub gate: &'a mut dyn Gate,
    pub out: &'a mut Vec<u8>,
}

/// One SMTP session as the server sees it.
pub struct Session {
    pub(super) policy: Arc<ServerPolicy>,
    pub(super) peer: Peer,
    pub(super) id: u64,
    pub(super) mode: Mode,
    /// A line whose end has not come yet.
    line: Vec<u8>,
    /// Bytes of an overlong line thrown away so far.
    overlong: usize,
    pub(super) helo: Option<Arc<str>>,
    pub(super) extended: bool,
    pub(super) credential: Option<Arc<Credential>>,
    pub(super) logged_in: bool,
    /// Count of AUTH exchanges, so that no two nonces are equal.
    pub(super) logins: u32,
    pub(super) may_xclient: bool,
    pub(super) transaction: Option<Box<Transaction>>,
    pub(super) transactions: u32,
    pub(super) domains: HashSet<String>,
    errors: u32,
}

impl Session {
    /// A session that has said nothing yet. `id` is unique for the life of the process.
    #[must_use]
    pub fn new(policy: Arc<ServerPolicy>, peer: Peer, id: u64) -> Self {
        let may_xclient = Network::any(&policy.xclient_peers, peer.ip());
        let mut session = Self {
            policy,
            peer,
            id,
            mode: Mode::Command,
            line: Vec::new(),
            overlong: 0,
            helo: None,
            extended: false,
            credential: None,
            logged_in: false,
            logins: 0,
            may_xclient,
            transaction: None,
            transactions: 0,
            domains: HashSet::new(),
            errors: 0,
        };
        session.forget();
        session
    }

    /// RFC 5321 section 3.1: the server speaks first.
    pub fn greeting(&mut self, out: &mut Vec<u8>) {
        let text = format!("{} ESMTP Ringpost", self.policy.hostname);
        Reply::plain(220, "").with_text(text).write(out);
    }

    /// Takes bytes of the peer. Returns how many were used and what to do next; with [`Step::More`] all were used.
    pub fn feed(&mut self, input: &[u8], now: Now, gate: &mut dyn Gate, out: &mut Vec<u8>) -> (usize, Step) {
        let mut used = 0;
        let mut context = Context { now, gate, out };
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
            let (taken, step) = match self.mode {
                Mode::Command | Mode::Login(_) => self.feed_line(rest, &mut context),
                Mode::Data => self.feed_data(rest, &mut context),
                Mode::Bdat(_) => self.feed_chunk(rest, &mut context),
                Mode::Paused(_) => return (used, Step::More),
                Mode::Closed => return (input.len(), Step::Close),
            };
            used += taken;
            match step {
                Step::More => {}
                Step::StartTls if used < input.len() => {
                    // RFC 3207 section 5, and the injection it did not foresee: what follows came in clear.
                    self.close_with(&reply::TLS_INJECTION, context.out);
                    return (input.len(), Step::Close);
                }
                Step::StartTls => {
                    reply::TLS_GO.write(context.out);
                    return (used, Step::StartTls);
                }
                step => return (used, step),
            }
        }
        (used, Step::More)
    }

    /// The handshake is done. RFC 3207 section 4.2: everything known of the client is forgotten.
    pub fn resume_tls(&mut self, tls: TlsFacts) {
        self.peer.tls = Some(tls);
        self.mode = Mode::Command;
        self.forget();
    }

    /// The mail of [`Step::Received`] is durable (the text behind `250 2.0.0`), or refused.
    pub fn resume_received(&mut self, verdict: Result<String, Reply>, out: &mut Vec<u8>) -> Step {
        self.go_on();
        self.settle(verdict, out)
    }

    /// Takes further input before the verdict on a mail is known. The caller keeps the order: what `feed` says from
    /// here on is written behind what [`Session::settle`] says about that mail.
    pub fn go_on(&mut self) {
        self.mode = Mode::Command;
    }

    /// The verdict on a mail, as a reply.
    pub fn settle(&mut self, verdict: Result<String, Reply>, out: &mut Vec<u8>) -> Step {
        match verdict {
            Ok(text) => {
                reply::OK.with_text(text).write(out);
                Step::More
            }
            Err(refusal) => {
                refusal.write(out);
                self.after(refusal.code)
            }
        }
    }

    /// Ends the session with a reply: a deadline ran out, or the process stops.
    pub fn close_with(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        reply.write(out);
        self.mode = Mode::Closed;
        self.transaction = None;
    }

    /// True while content arrives: the reader may use a large buffer, and the shorter deadline holds.
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        matches!(self.mode, Mode::Data | Mode::Bdat(_))
    }

    /// True while nothing of the peer is kept here: no transaction, no half line.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.mode, Mode::Command) && self.transaction.is_none() && self.line.is_empty()
    }

    /// Bytes of an unfinished line that are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.line.len()
    }

    /// The other end, as now known.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What it decides by.
    #[must_use]
    pub fn policy(&self) -> Arc<ServerPolicy> {
        Arc::clone(&self.policy)
    }

    /// As whom the peer sends.
    #[must_use]
    pub fn credential(&self) -> Option<&Arc<Credential>> {
        self.credential.as_ref()
    }

    /// Number of the session.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn asking(&self, now: Now) -> Asking<'_> {
        Asking { peer: self.peer.ip(), credential: self.credential.as_ref(), now }
    }

    pub(super) fn protocol(&self, utf8: bool) -> Protocol {
        Protocol { extended: self.extended, utf8, tls: self.peer.tls.is_some(), authenticated: self.logged_in }
    }

    /// Back to the state behind the greeting.
    pub(super) fn forget(&mut self) {
        self.helo = None;
        self.extended = false;
        self.transaction = None;
        self.logged_in = false;
        self.credential = None;
        if self.policy.role.is_submission() {
            self.credential = self.policy.trusted_as(self.peer.ip()).cloned();
        }
    }

    /// Collects one line and acts on it.
    fn feed_line(&mut self, rest: &[u8], context: &mut Context<'_>) -> (usize, Step) {
        let most = match self.mode {
            Mode::Login(_) => AUTH_LINE_MAX,
            _ => COMMAND_LINE_MAX,
        };
        let Some(end) = memchr::memchr(b'\n', rest) else {
            return (rest.len(), self.keep(rest, most, context.out));
        };
        let (piece, taken) = (&rest[..=end], end + 1);
        if self.overlong > 0 || self.line.len() + piece.len() > most {
            self.overlong = 0;
            self.line = Vec::new();
            let refusal = self.too_long();
            return (taken, self.refuse(refusal, context.out));
        }
        if self.line.is_empty() {
            return (taken, self.act(piece, context));
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(piece);
        let step = self.act(&line, context);
        // A password may have been in it.
        line.fill(0);
        (taken, step)
    }

    /// Keeps the beginning of a line; of one that is too long only its length.
    fn keep(&mut self, piece: &[u8], most: usize, out: &mut Vec<u8>) -> Step {
        if self.overlong == 0 && self.line.len() + piece.len() <= most {
            self.line.extend_from_slice(piece);
            return Step::More;
        }
        self.overlong += self.line.len() + piece.len();
        self.line = Vec::new();
        if self.overlong > LINE_FLOOD {
            self.close_with(&reply::TOO_MANY_ERRORS, out);
            return Step::Close;
        }
        Step::More
    }

    fn too_long(&mut self) -> Reply {
        match std::mem::replace(&mut self.mode, Mode::Command) {
            Mode::Login(_) => reply::AUTH_LINE,
            _ => reply::LINE_TOO_LONG,
        }
    }

    fn act(&mut self, line: &[u8], context: &mut Context<'_>) -> Step {
        let Some(line) = line.strip_suffix(b"\r\n") else {
            self.mode = Mode::Command;
            return self.refuse(reply::LINE_END, context.out);
        };
        let answer = match std::mem::replace(&mut self.mode, Mode::Command) {
            Mode::Login(login) => self.login_line(login, line, context),
            _ => command::parse(line).and_then(|command| self.command(command, context)),
        };
        match answer {
            Ok(step) => step,
            Err(refusal) => self.refuse(refusal, context.out),
        }
    }

    /// Every error is a refused command and counts against the allowance.
    fn command(&mut self, command: Command<'_>, context: &mut Context<'_>) -> Result<Step, Reply> {
        let answer = match command {
            Command::Ehlo(name) => return self.ehlo(name, context),
            Command::Helo(name) => return self.helo(name, context),
            Command::Mail(argument) => return self.mail(argument, context),
            Command::Rcpt(argument) => return self.rcpt(argument, context),
            Command::Data => return self.data(context),
            Command::Bdat(argument) => return self.bdat(argument, context),
            Command::Auth(argument) => return self.auth(argument, context),
            Command::StartTls => return self.starttls(),
            Command::Xclient(argument) => return self.xclient(argument, context),
            Command::Quit => {
                self.close_with(&reply::BYE, context.out);
                return Ok(Step::Close);
            }
            Command::Rset => {
                self.transaction = None;
                reply::OK
            }
            Command::Noop => reply::OK,
            Command::Vrfy => reply::VRFY,
            Command::Help => reply::HELP,
            Command::Expn => return Err(reply::NOT_HERE),
            Command::Unknown => return Err(reply::UNKNOWN),
        };
        answer.write(context.out);
        Ok(Step::More)
    }

    /// RFC 3207 section 4.
    fn starttls(&mut self) -> Result<Step, Reply> {
        if self.peer.tls.is_some() {
            return Err(reply::SEQUENCE);
        }
        if self.transaction.is_some() {
            return Err(reply::NESTED);
        }
        if !self.policy.tls {
            return Err(reply::TLS_NOT_NOW);
        }
        self.mode = Mode::Paused(None);
        Ok(Step::StartTls)
    }

    /// Gives a reply that counts as an error of the peer; too many end the session.
    pub(super) fn refuse(&mut self, refusal: Reply, out: &mut Vec<u8>) -> Step {
        self.errors += 1;
        if self.errors > self.policy.errors_max {
            self.close_with(&reply::TOO_MANY_ERRORS, out);
            return Step::Close;
        }
        refusal.write(out);
        self.after(refusal.code)
    }

    /// 421 ends a session by its own meaning, RFC 5321 section 3.8.
    fn after(&mut self, code: u16) -> Step {
        if code == 421 {
            self.mode = Mode::Closed;
            self.transaction = None;
            return Step::Close;
        }
        Step::More
    }
}
