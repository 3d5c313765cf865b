//! One connection from its first byte to its last: socket, TLS and deadlines around the pure session.
//!
//! Replies to everything that came in one read leave in one write. While a session idles it holds a small buffer
//! only. A read under way is never dropped; a peer that is silent for too long is shut down by the socket's deadline.

use std::future::{poll_fn, Future};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use queue::Class;

use super::guard::Guard;
use super::proxy::{self, Parsed};
use super::{Acceptor, Door};
use crate::net::Stream;
use crate::smtp::codes::{reply, Reply};
use crate::smtp::server::{Asking, Gate, ListenerRole, Network, Peer, ServerPolicy, Session, Step, TlsFacts};
use crate::tls::{Transport, CHANNEL_BINDING};

/// Buffer of an idle session, in bytes.
const IDLE_BUFFER: usize = 2048;
/// Buffer inside a transaction: most messages fit.
const MAIL_BUFFER: usize = 16 * 1024;
/// Buffer while content fills the one before.
const BULK_BUFFER: usize = 64 * 1024;
/// RFC 5321 section 4.5.3.2.7: a server waits at least 5 minutes for a command.
const COMMAND_SECONDS: u32 = 300;
/// RFC 5321 section 4.5.3.2.5: 3 minutes for a block of data.
const DATA_SECONDS: u32 = 180;
/// For a handshake or a PROXY header.
const HANDSHAKE_SECONDS: u32 = 30;

/// Mails of one connection that wait for the disk at once.
const WAITING_MAX: usize = 64;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The session ended it: QUIT, or a refusal that closes.
    Closed,
    /// The peer went away.
    Gone,
    /// The peer was silent for too long.
    TimedOut,
    /// The TLS handshake failed.
    Handshake,
    /// No PROXY header, or a malformed one, where one must be.
    Proxy,
}

/// Serves one connection until it ends. `id` is unique for the life of the process.
pub async fn serve<A: Acceptor>(stream: Stream, door: &Door, acceptor: &A, id: u64) -> End {
    let policy = door.policy.load_full();
    let mut peer = match stream.local_addr() {
        Ok(local) => Peer::new(stream.peer_addr(), local),
        Err(_) => return End::Gone,
    };
    stream.set_deadline(Some(HANDSHAKE_SECONDS));
    if Network::any(&policy.proxy_peers, peer.ip()) {
        match read_proxy(&stream).await {
            Ok(Some((source, target))) => (peer.addr, peer.local) = (source, target),
            Ok(None) => {}
            Err(end) => return end,
        }
    }
    let mut transport = Transport::Plain(stream);
    if policy.role == ListenerRole::SubmissionTls {
        transport = match shake_hands(transport, door).await {
            Ok(transport) => transport,
            Err(end) => return end,
        };
        peer.tls = facts(&transport);
    }
    Connection { session: Session::new(policy, peer, id), transport, door, acceptor, out: Vec::new() }.run().await
}

struct Connection<'a, A> {
    session: Session,
    transport: Transport,
    door: &'a Door,
    acceptor: &'a A,
    out: Vec<u8>,
}

type Commit<'a> = Pin<Box<dyn Future<Output = Result<String, Reply>> + 'a>>;

/// A mail on its way to the disk.
struct Waiting<'a> {
    /// What is said before its verdict.
    before: Vec<u8>,
    commit: Commit<'a>,
    verdict: Option<Result<String, Reply>>,
}

/// What follows when a read has been dealt with.
enum Next {
    Read,
    End(End),
}

impl<A: Acceptor> Connection<'_, A> {
    async fn run(mut self) -> End {
        self.session.greeting(&mut self.out);
        let end = self.turns().await;
        if end == End::Closed {
            self.transport.close().await;
        }
        end
    }

    /// Write, read, act, and again.
    async fn turns(&mut self) -> End {
        let mut input = Vec::new();
        let mut filled = false;
        loop {
            if let Err(end) = self.flush().await {
                return end;
            }
            input = self.buffer(input, filled);
            let wait = if self.session.is_receiving() { DATA_SECONDS } else { COMMAND_SECONDS };
            self.transport.stream().set_deadline(Some(wait));
            let (result, bytes) = self.transport.read(input).await;
            input = bytes;
            match result {
                Ok(0) => return self.gone(),
                Ok(_) => filled = input.len() == input.capacity(),
                Err(_) => return self.gone(),
            }
            // Our own work (disk, password) is not the peer's silence.
            self.transport.stream().set_deadline(None);
            match self.act(&input).await {
                Next::Read => input.clear(),
                Next::End(end) => return end,
            }
            if self.acceptor.is_closing() && !self.session.is_receiving() {
                self.session.close_with(&reply::SHUTTING_DOWN, &mut self.out);
                return self.flush().await.err().unwrap_or(End::Closed);
            }
        }
    }

    /// A buffer as large as the moment asks for; the old one when it fits.
    fn buffer(&mut self, old: Vec<u8>, filled: bool) -> Vec<u8> {
        let size = match (self.session.is_idle(), self.session.is_receiving() && filled) {
            (true, _) => IDLE_BUFFER,
            (false, false) => MAIL_BUFFER,
            (false, true) => BULK_BUFFER,
        };
        let grown = size == MAIL_BUFFER && old.capacity() == BULK_BUFFER;
        if old.capacity() == size || grown {
            return old;
        }
        if size == IDLE_BUFFER {
            self.transport.shrink();
            self.out = Vec::new();
        }
        Vec::with_capacity(size)
    }

    /// Feeds what was read, and carries out every step it leads to. Mails with more input behind them wait for the
    /// disk together: a client that pipelines whole transactions pays for one batch, not for one after the other.
    async fn act(&mut self, input: &[u8]) -> Next {
        let mut waiting = Vec::new();
        let mut at = 0;
        while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) {
            let (used, step) = self.feed(rest);
            at += used;
            let step = match step {
                Step::More => continue,
                Step::Received(mail) if at == input.len() && waiting.is_empty() => {
                    let verdict = self.acceptor.finish_and_commit(mail).await;
                    self.session.resume_received(verdict, &mut self.out)
                }
                Step::Received(mail) => {
                    self.session.go_on();
                    let commit: Commit<'_> = Box::pin(self.acceptor.finish_and_commit(mail));
                    waiting.push(Waiting { before: std::mem::take(&mut self.out), commit, verdict: None });
                    if waiting.len() < WAITING_MAX {
                        continue;
                    }
                    self.settle(std::mem::take(&mut waiting)).await
                }
                step => match self.settle(std::mem::take(&mut waiting)).await {
                    Step::More => match self.answer(step).await {
                        Ok(step) => step,
                        Err(end) => return Next::End(end),
                    },
                    closed => closed,
                },
            };
            if matches!(step, Step::Close) {
                return Next::End(self.flush().await.err().unwrap_or(End::Closed));
            }
        }
        match self.settle(waiting).await {
            Step::Close => Next::End(self.flush().await.err().unwrap_or(End::Closed)),
            _ => Next::Read,
        }
    }

    /// Carries out a step that nothing may overtake.
    async fn answer(&mut self, step: Step) -> Result<Step, End> {
        match step {
            Step::Verify(question) => {
                let answer = self.acceptor.verify(question).await;
                let mut gate = ShardGate { acceptor: self.acceptor };
                Ok(self.session.resume_auth(answer, self.acceptor.now(), &mut gate, &mut self.out))
            }
            Step::StartTls => self.start_tls().await.map(|()| Step::More),
            step => Ok(step),
        }
    }

    /// Waits for all of these, and puts their replies where they belong (RFC 2920 section 3.2: in order).
    async fn settle(&mut self, mut waiting: Vec<Waiting<'_>>) -> Step {
        if waiting.is_empty() {
            return Step::More;
        }
        let behind = std::mem::take(&mut self.out);
        poll_fn(|cx| {
            let mut all = Poll::Ready(());
            for one in waiting.iter_mut().filter(|one| one.verdict.is_none()) {
                match one.commit.as_mut().poll(cx) {
                    Poll::Ready(verdict) => one.verdict = Some(verdict),
                    Poll::Pending => all = Poll::Pending,
                }
            }
            all
        })
        .await;
        for one in waiting {
            self.out.extend_from_slice(&one.before);
            let verdict = one.verdict.unwrap_or(Err(reply::NO_ROOM));
            if let Step::Close = self.session.settle(verdict, &mut self.out) {
                return Step::Close;
            }
        }
        self.out.extend_from_slice(&behind);
        Step::More
    }

    fn feed(&mut self, input: &[u8]) -> (usize, Step) {
        let mut gate = ShardGate { acceptor: self.acceptor };
        self.session.feed(input, self.acceptor.now(), &mut gate, &mut self.out)
    }

    async fn start_tls(&mut self) -> Result<(), End> {
        self.flush().await?;
        self.transport.stream().set_deadline(Some(HANDSHAKE_SECONDS));
        let plain = Transport::Plain(self.transport.stream().clone());
        self.transport = shake_hands(plain, self.door).await?;
        self.session.resume_tls(facts(&self.transport).unwrap_or_default());
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.transport.stream().set_deadline(Some(COMMAND_SECONDS));
        let (result, mut out) = self.transport.write_all(std::mem::take(&mut self.out)).await;
        out.clear();
        self.out = out;
        result.map_err(|_| self.gone())
    }

    fn gone(&self) -> End {
        if self.transport.stream().timed_out() {
            End::TimedOut
        } else {
            End::Gone
        }
    }
}

async fn shake_hands(plain: Transport, door: &Door) -> Result<Transport, End> {
    let server = door.tls.as_ref().ok_or(End::Handshake)?;
    plain.accept(server).await.map_err(|_| End::Handshake)
}

fn facts(transport: &Transport) -> Option<TlsFacts> {
    let info = transport.info()?;
    // RFC 9266 section 3: in TLS 1.2 the binding is only safe with the extended master secret, so 1.3 alone.
    let exporter = transport.exporter(CHANNEL_BINDING).filter(|_| info.protocol == "TLSv1.3");
    Some(TlsFacts { version: info.protocol, cipher: info.cipher, exporter })
}

/// Reads the header and not a byte more. None: the connection speaks for itself.
async fn read_proxy(stream: &Stream) -> Result<Option<(SocketAddr, SocketAddr)>, End> {
    let mut bytes = Vec::new();
    loop {
        let more = match proxy::parse(&bytes) {
            Parsed::Need(more) => more,
            Parsed::Done(header) => return Ok(header.addresses),
            Parsed::Malformed => {
                stream.shutdown();
                return Err(End::Proxy);
            }
        };
        stream.readable().await.map_err(|_| End::Gone)?;
        let have = bytes.len();
        bytes.resize(have + more, 0);
        let got = match stream.try_read(bytes.get_mut(have..).unwrap_or_default()) {
            Ok(0) => return Err(End::Proxy),
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(_) => return Err(End::Gone),
        };
        bytes.truncate(have + got);
    }
}

/// What the shard knows, as the session asks for it.
struct ShardGate<'a, A> {
    acceptor: &'a A,
}

impl<A: Acceptor> ShardGate<'_, A> {
    fn guard<R>(&self, ask: impl FnOnce(&mut Guard) -> R) -> R {
        ask(&mut self.acceptor.guard().borrow_mut())
    }
}

impl<A: Acceptor> Gate for ShardGate<'_, A> {
    fn mail(&mut self, who: &Asking<'_>, domain: &str, size: u64) -> Result<(), Reply> {
        // Mail to our own addresses (bounces, complaints) is the last to be turned away.
        let class = who.credential.map_or(Class::Critical, |credential| credential.class());
        if let Some(refusal) = self.acceptor.refuses_now(class, size) {
            return Err(refusal);
        }
        if !domain.is_empty() && self.acceptor.has_null_mx(domain) {
            return Err(reply::NULL_MX_SENDER);
        }
        if who.credential.is_none() && !self.guard(|guard| guard.mail(who.peer, who.now.mono_ms)) {
            return Err(reply::QUOTA);
        }
        Ok(())
    }

    fn recipient(&mut self, who: &Asking<'_>) -> Result<(), Reply> {
        let limited = who.credential.and_then(|one| Some((one.name.as_str(), one.recipients_per_minute?)));
        let Some((name, per_minute)) = limited else {
            return Ok(());
        };
        let free = self.guard(|guard| guard.recipient(name, per_minute, who.now.mono_ms));
        free.then_some(()).ok_or(reply::QUOTA)
    }

    fn login(&mut self, who: &Asking<'_>, name: Option<&str>) -> Result<(), Reply> {
        let free = self.guard(|guard| guard.may_log_in(who.peer, name, who.now.mono_ms));
        free.then_some(()).ok_or(reply::AUTH_NOT_NOW)
    }

    fn login_result(&mut self, who: &Asking<'_>, name: &str, right: bool) {
        self.guard(|guard| guard.log_in(who.peer, name, right, who.now.mono_ms));
    }
}

/// True when sessions of this peer are not counted by address: many clients stand behind it, or it is trusted.
pub(super) fn is_exempt(policy: &Arc<ServerPolicy>, peer: SocketAddr) -> bool {
    let ip = peer.ip().to_canonical();
    Network::any(&policy.proxy_peers, ip)
        || Network::any(&policy.xclient_peers, ip)
        || (policy.role.is_submission() && policy.trusted_as(ip).is_some())
}
