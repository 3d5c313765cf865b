//! The session of one connection: greeting, hello, TLS, login, then transactions. Pure.

use std::rc::Rc;

use base64::prelude::{Engine, BASE64_STANDARD};
use queue::{BounceClass, UnixSecs};

use super::capabilities::PeerLimits;
use super::exchange::Exchange;
use super::transaction::Transaction;
use super::{Action, Config, Credentials, End, Loss, Stage, TlsMode, Wait};
use crate::smtp::reply::{Reply, ReplyReader};

/// Where the session stands outside of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The greeting is awaited.
    Greeting,
    SayEhlo,
    EhloSent,
    /// RFC 5321 section 3.2: a server that refuses EHLO gets HELO.
    SayHelo,
    HeloSent,
    SayStartTls,
    StartTlsSent,
    Handshake,
    SayAuth,
    AuthSent(Login),
    Open,
    SayQuit,
    QuitSent,
}

/// Which answer of a login is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Login {
    User,
    Password,
    Verdict,
}

/// One connection to a site.
pub struct Session {
    config: Config,
    reader: ReplyReader,
    phase: Phase,
    limits: Rc<PeerLimits>,
    encrypted: bool,
    logged_in: bool,
    exchange: Option<Exchange>,
    needs_reset: bool,
    begun: u32,
    greeting: String,
    end: Option<End>,
    /// What a login says next.
    answer: Vec<u8>,
}

impl Session {
    /// A session on a fresh connection, before the greeting.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            reader: ReplyReader::default(),
            phase: Phase::Greeting,
            limits: Rc::default(),
            encrypted: false,
            logged_in: false,
            exchange: None,
            needs_reset: false,
            begun: 0,
            greeting: String::new(),
            end: None,
            answer: Vec::new(),
        }
    }

    /// What to do next. Appends to `out` what is to be written before it.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Action {
        if let Some(mut exchange) = self.exchange.take() {
            match exchange.next(&self.limits, out) {
                Some(action) => {
                    self.exchange = Some(exchange);
                    return action;
                }
                None => return self.finish(exchange),
            }
        }
        if let Some(end) = &self.end {
            return Action::Close(end.clone());
        }
        match self.phase {
            Phase::Greeting => Action::Read(Wait::Greeting),
            Phase::SayEhlo => self.say(out, format!("EHLO {}\r\n", self.config.ehlo), Phase::EhloSent),
            Phase::SayHelo => self.say(out, format!("HELO {}\r\n", self.config.ehlo), Phase::HeloSent),
            Phase::EhloSent | Phase::HeloSent => Action::Read(Wait::Hello),
            Phase::SayStartTls => self.say(out, "STARTTLS\r\n".to_owned(), Phase::StartTlsSent),
            Phase::StartTlsSent => Action::Read(Wait::StartTls),
            Phase::Handshake => Action::StartTls,
            Phase::SayAuth => self.say_auth(out),
            Phase::AuthSent(_) => {
                out.append(&mut self.answer);
                Action::Read(Wait::Auth)
            }
            Phase::Open => Action::Ready,
            Phase::SayQuit => self.say(out, "QUIT\r\n".to_owned(), Phase::QuitSent),
            Phase::QuitSent => Action::Read(Wait::Quit),
        }
    }

    /// Bytes from the peer.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while self.end.is_none() {
            match self.reader.read(&mut bytes) {
                Ok(Some(reply)) => self.reply(&reply),
                Ok(None) => break,
                Err(bad) => self.fail(End::Protocol(bad.to_string())),
            }
            // RFC 3207 section 4.2 and its errata: nothing may follow the answer until the handshake is done.
            if self.phase == Phase::Handshake && !bytes.is_empty() {
                self.fail(End::Injection);
            }
        }
    }

    /// The connection is gone. Call [`Session::next`] on: it gives the outcomes, then the end.
    pub fn closed(&mut self, loss: Loss) {
        if self.end.is_some() {
            return;
        }
        if self.phase == Phase::QuitSent {
            // RFC 5321 section 4.1.1.10 wants an answer to QUIT; nothing hangs on it.
            self.end = Some(End::Quit);
            return;
        }
        let write_failed = matches!(loss, Loss::Write(_));
        let stage = self.stage();
        if let Some(exchange) = &mut self.exchange {
            exchange.abandon(&loss.to_string(), BounceClass::BadConnection, write_failed);
        }
        self.end = Some(End::Lost(stage, loss));
    }

    /// The handshake is done: all that was learned before is forgotten, RFC 3207 section 4.2.
    pub fn encrypted(&mut self) {
        self.encrypted = true;
        self.limits = Rc::default();
        self.phase = Phase::SayEhlo;
    }

    /// The connection was encrypted before its first byte (RFC 8314): nothing is to be asked for.
    pub fn encrypted_from_start(&mut self) {
        self.encrypted = true;
    }

    /// Starts a transaction; only after [`Action::Ready`]. A message that does not fit this site ends at once.
    pub fn begin(&mut self, transaction: Transaction, now: UnixSecs) {
        let classify = self.config.classify.clone();
        let exchange = Exchange::new(transaction, &self.limits, self.needs_reset, now, classify);
        self.exchange = Some(exchange);
        self.begun += 1;
    }

    /// The transaction under way, for recording its intent.
    #[must_use]
    pub fn transaction(&self) -> Option<&Transaction> {
        self.exchange.as_ref().map(Exchange::transaction)
    }

    /// The intent is recorded; the message may leave.
    pub fn permit(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            exchange.permit();
        }
    }

    /// The intent could not be recorded; the message does not leave, and no other will on this connection.
    pub fn withhold(&mut self, why: &str) {
        if let Some(exchange) = &mut self.exchange {
            exchange.withhold(why);
        }
        if self.exchange.as_ref().is_some_and(|exchange| exchange.spoiled) {
            self.end = Some(End::Stopped);
        }
    }

    /// The site takes another message on this connection (RFC 9422 MAILMAX).
    #[must_use]
    pub fn takes_more(&self) -> bool {
        self.limits.mail_max.is_none_or(|most| self.begun < most)
    }

    /// Ends the session in good order; only after [`Action::Ready`].
    pub fn quit(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::SayQuit;
        }
    }

    /// What the site offers and allows, as of its latest EHLO reply.
    #[must_use]
    pub fn limits(&self) -> &Rc<PeerLimits> {
        &self.limits
    }

    /// First line of the greeting, for logs.
    #[must_use]
    pub fn greeting(&self) -> &str {
        &self.greeting
    }

    /// Gives memory back while the connection idles.
    pub fn shrink(&mut self) {
        self.reader.shrink();
        self.answer = Vec::new();
    }

    fn say(&mut self, out: &mut Vec<u8>, command: String, then: Phase) -> Action {
        out.extend_from_slice(command.as_bytes());
        self.phase = then;
        Action::Read(match then {
            Phase::StartTlsSent => Wait::StartTls,
            Phase::QuitSent => Wait::Quit,
            _ => Wait::Hello,
        })
    }

    fn finish(&mut self, exchange: Exchange) -> Action {
        self.needs_reset = exchange.needs_reset;
        if let Some(learned) = exchange.learned_rcpt_max {
            Rc::make_mut(&mut self.limits).rcpt_max = Some(learned);
        }
        Action::Finished(Box::new(exchange.into_finished()))
    }

    fn stage(&self) -> Stage {
        match (self.phase, &self.exchange) {
            (_, Some(exchange)) => exchange.stage(),
            (Phase::Greeting, _) => Stage::Greeting,
            (Phase::SayEhlo | Phase::EhloSent | Phase::SayHelo | Phase::HeloSent, _) => Stage::Hello,
            (Phase::SayStartTls | Phase::StartTlsSent | Phase::Handshake, _) => Stage::StartTls,
            (Phase::SayAuth | Phase::AuthSent(_), _) => Stage::Auth,
            (Phase::Open | Phase::SayQuit | Phase::QuitSent, _) => Stage::Idle,
        }
    }

    /// The dialog makes no sense any more.
    fn fail(&mut self, end: End) {
        if let Some(exchange) = &mut self.exchange {
            exchange.abandon(&end.to_string(), BounceClass::ProtocolErrors, false);
        }
        self.end = Some(end);
    }

    fn reply(&mut self, reply: &Reply) {
        if let Some(exchange) = &mut self.exchange {
            if !exchange.reply(reply) && reply.code != 421 {
                self.fail(End::Protocol(format!("a reply that nobody asked for: {reply}")));
                return;
            }
            if reply.code == 421 {
                exchange.closing(reply);
                self.end = Some(End::PeerClosing(reply.clone()));
            }
            return;
        }
        match self.phase {
            Phase::Greeting => self.on_greeting(reply),
            Phase::EhloSent | Phase::HeloSent => self.on_hello(reply),
            Phase::StartTlsSent => self.on_start_tls(reply),
            Phase::AuthSent(login) => self.on_auth(login, reply),
            Phase::QuitSent => self.end = Some(End::Quit),
            _ if reply.code == 421 => self.end = Some(End::PeerClosing(reply.clone())),
            _ => self.fail(End::Protocol(format!("a reply that nobody asked for: {reply}"))),
        }
    }

    fn on_greeting(&mut self, reply: &Reply) {
        if reply.is_completed() {
            self.greeting = reply.lines.first().cloned().unwrap_or_default();
            self.phase = Phase::SayEhlo;
        } else {
            // 521 (RFC 7504), 554, 421 and the like: what it means for the host is the caller's to say.
            self.end = Some(End::Refused(Stage::Greeting, reply.clone()));
        }
    }

    fn on_hello(&mut self, reply: &Reply) {
        let ehlo = self.phase == Phase::EhloSent;
        if !reply.is_completed() {
            if ehlo && reply.code / 100 == 5 && !self.encrypted {
                self.phase = Phase::SayHelo;
            } else {
                self.end = Some(End::Refused(Stage::Hello, reply.clone()));
            }
            return;
        }
        let mut limits = if ehlo {
            PeerLimits::from_ehlo(reply, self.encrypted)
        } else {
            let name = reply.lines.first().and_then(|line| line.split_whitespace().next());
            PeerLimits { name: name.unwrap_or_default().to_owned(), ..PeerLimits::default() }
        };
        if let Some(known) = self.config.rcpt_max {
            limits.rcpt_max = Some(limits.rcpt_max.map_or(known, |said| said.min(known)));
        }
        self.limits = Rc::new(limits);
        self.after_hello();
    }

    fn after_hello(&mut self) {
        let wants_tls = !self.encrypted && self.config.tls != TlsMode::Off;
        if wants_tls && self.limits.starttls {
            self.phase = Phase::SayStartTls;
        } else if wants_tls && self.config.tls == TlsMode::Required {
            self.end = Some(End::NoTls);
        } else if self.config.auth.is_some() && !self.logged_in {
            self.phase = Phase::SayAuth;
        } else {
            self.phase = Phase::Open;
        }
    }

    fn on_start_tls(&mut self, reply: &Reply) {
        if reply.is_completed() {
            self.phase = Phase::Handshake;
        } else if reply.code == 421 {
            self.end = Some(End::PeerClosing(reply.clone()));
        } else if self.config.tls == TlsMode::Required {
            self.end = Some(End::Refused(Stage::StartTls, reply.clone()));
        } else {
            // RFC 3207 section 4, 454: opportunistic means that mail goes on without.
            Rc::make_mut(&mut self.limits).starttls = false;
            self.after_hello();
        }
    }

    fn say_auth(&mut self, out: &mut Vec<u8>) -> Action {
        let Some(Credentials { user, password, without_tls }) = &self.config.auth else {
            self.phase = Phase::Open;
            return Action::Ready;
        };
        let offers = |name: &str| self.limits.auth.iter().any(|offered| offered == name);
        if !self.encrypted && !without_tls {
            self.end = Some(End::NoAuth);
            return Action::Close(End::NoAuth);
        }
        if offers("PLAIN") {
            // RFC 4616, with the initial response of RFC 4954 section 4.
            let response = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
            out.extend_from_slice(format!("AUTH PLAIN {response}\r\n").as_bytes());
            self.phase = Phase::AuthSent(Login::Verdict);
        } else if offers("LOGIN") {
            out.extend_from_slice(b"AUTH LOGIN\r\n");
            self.phase = Phase::AuthSent(Login::User);
        } else {
            self.end = Some(End::NoAuth);
            return Action::Close(End::NoAuth);
        }
        Action::Read(Wait::Auth)
    }

    fn on_auth(&mut self, login: Login, reply: &Reply) {
        let credentials = self.config.auth.as_ref();
        let (answer, then) = match (login, reply.code) {
            (Login::User, 334) => (credentials.map(|c| c.user.clone()), Login::Password),
            (Login::Password, 334) => (credentials.map(|c| c.password.clone()), Login::Verdict),
            (Login::Verdict, 200..=299) => {
                self.logged_in = true;
                // RFC 9422 section 4.1: the limits may be others for who is logged in.
                self.phase = if self.limits.limits { Phase::SayEhlo } else { Phase::Open };
                return;
            }
            _ => {
                self.end = Some(End::Refused(Stage::Auth, reply.clone()));
                return;
            }
        };
        let answer = BASE64_STANDARD.encode(answer.unwrap_or_default());
        self.answer = format!("{answer}\r\n").into_bytes();
        self.phase = Phase::AuthSent(then);
    }
}
