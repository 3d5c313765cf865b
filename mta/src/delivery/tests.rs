//! Connections to small sites on loopback, on both drivers.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use queue::OutcomeKind::{self, Deferred, Delivered, Failed, Unknown};
use queue::{Body, BodyFlags, BounceClass, SpoolId, UnixSecs};

use super::*;
use crate::net::tests::on_both;
use crate::net::{sleep, spawn_local, ListenOptions, Listener};
use crate::tls::Transport;

/// How a test site behaves.
#[derive(Clone, Default)]
struct Manners {
    greeting: &'static str,
    extensions: Vec<&'static str>,
    tls: Option<tls::Server>,
    /// Closes without a word once this many messages were taken.
    closes_after: Option<usize>,
    /// Takes the message and closes instead of answering.
    swallows: bool,
    /// Answers STARTTLS and then talks nonsense.
    broken_tls: bool,
    /// Closes after this much silence.
    patience: Option<Duration>,
}

/// A small site: what it was sent.
#[derive(Default)]
struct Site {
    messages: RefCell<Vec<Vec<u8>>>,
    connections: Cell<usize>,
    encrypted: Cell<usize>,
}

struct Dialog {
    transport: Option<Transport>,
    buf: Vec<u8>,
}

impl Dialog {
    async fn say(&mut self, text: &str) {
        if let Some(transport) = &mut self.transport {
            let _ = transport.write_all(format!("{text}\r\n").into_bytes()).await;
        }
    }

    async fn more(&mut self) -> Option<()> {
        let mut buf = std::mem::take(&mut self.buf);
        buf.reserve(8192);
        let (result, buf) = self.transport.as_mut()?.read(buf).await;
        self.buf = buf;
        matches!(result, Ok(size) if size > 0).then_some(())
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buf.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.buf.drain(..end + 2).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.more().await?;
        }
    }

    async fn chunk(&mut self, size: usize) -> Option<Vec<u8>> {
        while self.buf.len() < size {
            self.more().await?;
        }
        Some(self.buf.drain(..size).collect())
    }

    async fn dotted(&mut self) -> Option<Vec<u8>> {
        let mut message = Vec::new();
        loop {
            let line = self.line().await?;
            match line.strip_prefix('.') {
                Some("") => return Some(message),
                Some(rest) => message.extend_from_slice(rest.as_bytes()),
                None => message.extend_from_slice(line.as_bytes()),
            }
            message.extend_from_slice(b"\r\n");
        }
    }
}

async fn dialog(site: Rc<Site>, manners: Manners, transport: Transport) -> Option<()> {
    let mut me = Dialog { transport: Some(transport), buf: Vec::new() };
    me.say(manners.greeting).await;
    let mut taken = 0;
    loop {
        let line = match manners.patience {
            Some(patience) => tokio::time::timeout(patience, me.line()).await.ok()??,
            None => me.line().await?,
        };
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        let size = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        match (verb.as_str(), size) {
            ("EHLO", _) => {
                let mut reply = "250-site.test".to_owned();
                for extension in &manners.extensions {
                    reply.push_str(&format!("\r\n250-{extension}"));
                }
                me.say(&(reply + "\r\n250 HELP")).await;
            }
            ("STARTTLS", _) => {
                me.say("220 go").await;
                if manners.broken_tls {
                    // After the client's first handshake bytes: before them it would look like an injection.
                    me.more().await?;
                    me.say("what?").await;
                    return None;
                }
                let plain = me.transport.take()?;
                me.transport = Some(plain.accept(manners.tls.as_ref()?).await.ok()?);
                site.encrypted.set(site.encrypted.get() + 1);
            }
            ("MAIL", _) if manners.closes_after == Some(taken) => return None,
            ("BDAT", Some(size)) => {
                let chunk = me.chunk(size).await?;
                site.messages.borrow_mut().push(chunk);
                taken += 1;
                if manners.swallows {
                    return None;
                }
                me.say("250 2.0.0 taken").await;
            }
            ("DATA", _) => {
                me.say("354 go").await;
                let message = me.dotted().await?;
                site.messages.borrow_mut().push(message);
                taken += 1;
                me.say("250 2.0.0 taken").await;
            }
            ("RCPT", _) if line.contains("nobody") => me.say("550 5.1.1 who?").await,
            ("QUIT", _) => {
                me.say("221 bye").await;
                return None;
            }
            _ => me.say("250 ok").await,
        }
    }
}

/// Listens on 127.0.0.`last`; the port is chosen when 0.
fn site(last: u8, port: u16, manners: Manners) -> (Rc<Site>, u16) {
    let address = SocketAddr::from(([127, 0, 0, last], port));
    let listener = Listener::bind(address, ListenOptions::default()).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let site = Rc::new(Site::default());
    let result = Rc::clone(&site);
    spawn_local(async move {
        while let Ok(stream) = listener.accept().await {
            site.connections.set(site.connections.get() + 1);
            spawn_local(dialog(Rc::clone(&site), manners.clone(), Transport::Plain(stream)));
        }
    });
    (result, port)
}

fn friendly() -> Manners {
    Manners { greeting: "220 site.test ESMTP", extensions: vec!["PIPELINING", "CHUNKING"], ..Manners::default() }
}

/// A shard without queues.
#[derive(Default)]
struct Desk {
    work: RefCell<VecDeque<Transaction>>,
    waker: RefCell<Option<Waker>>,
    /// No more work will come.
    done: Cell<bool>,
    refuse_intent: Cell<bool>,
    intents: RefCell<Vec<(SpoolId, Vec<usize>)>>,
    results: RefCell<Vec<(usize, Outcome)>>,
    connected: RefCell<Option<Connected>>,
    failure: RefCell<Option<ConnectFailure>>,
    closed: RefCell<Option<Closed>>,
}

impl Desk {
    fn with(work: Vec<Transaction>) -> Rc<Self> {
        let desk = Self { work: RefCell::new(work.into()), ..Self::default() };
        desk.done.set(true);
        Rc::new(desk)
    }

    fn add(&self, transaction: Transaction) {
        self.work.borrow_mut().push_back(transaction);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn kinds(&self) -> Vec<OutcomeKind> {
        self.results.borrow().iter().map(|(_, outcome)| outcome.kind).collect()
    }

    fn closed(&self) -> Closed {
        self.closed.borrow().clone().expect("closed")
    }
}

impl Feed for Desk {
    fn next<'a>(&'a self, _: ConnId, _: &'a PeerLimits) -> LocalFuture<'a, Option<Transaction>> {
        Box::pin(poll_fn(move |cx| {
            if let Some(transaction) = self.work.borrow_mut().pop_front() {
                return Poll::Ready(Some(transaction));
            }
            if self.done.get() {
                return Poll::Ready(None);
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        }))
    }
    fn intent(&self, _: ConnId, transaction: &Transaction, positions: &[usize]) -> Result<(), Stopped> {
        self.intents.borrow_mut().push((transaction.id, positions.to_vec()));
        if self.refuse_intent.get() {
            return Err(Stopped("the ack log is full".into()));
        }
        Ok(())
    }
    fn finished(&self, _: ConnId, transaction: Transaction, results: Vec<(usize, Outcome)>) {
        assert!(!transaction.recipients.is_empty());
        self.results.borrow_mut().extend(results);
    }
    fn connected(&self, _: ConnId, connected: &Connected) {
        *self.connected.borrow_mut() = Some(connected.clone());
    }
    fn connect_failed(&self, _: ConnId, failure: &ConnectFailure) {
        *self.failure.borrow_mut() = Some(failure.clone());
    }
    fn closed(&self, _: ConnId, closed: &Closed) {
        *self.closed.borrow_mut() = Some(closed.clone());
    }
    fn now(&self) -> UnixSecs {
        UnixSecs(1_000_000)
    }
}

fn message(id: u64, recipients: &[&str], text: &str) -> Transaction {
    let recipients = recipients.iter().enumerate();
    Transaction {
        id: SpoolId(id),
        reverse_path: "s@a.test".into(),
        recipients: recipients
            .map(|(index, to)| TxRecipient { index: index as u16, address: (*to).into(), ..Default::default() })
            .collect(),
        body: Body::from(text.as_bytes().to_vec()),
        flags: BodyFlags { dot_line: text.contains("\r\n."), ..BodyFlags::default() },
        ..Transaction::default()
    }
}

fn job(port: u16, hosts: &[u8]) -> ConnectJob {
    let host = |last: &u8| Host {
        port,
        name: format!("mx{last}.test"),
        addresses: vec![IpAddr::V4(Ipv4Addr::new(127, 0, 0, *last))],
    };
    ConnectJob {
        conn: ConnId(1),
        source: Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 99))),
        ehlo: "out.test".into(),
        site: "site.test".into(),
        hosts: hosts.iter().map(host).collect(),
        tls: TlsMode::Opportunistic,
        implicit_tls: false,
        client_tls: Arc::new(tls::Client::new(&tls::Trust::Anyone).expect("a client")),
        tls_memory: Arc::default(),
        auth: None,
        messages_max: None,
        rcpt_max: None,
        timeouts: Timeouts { connect: 1, ..Timeouts::default() },
        classify: Rc::new(|_, _, _, _| BounceClass::PolicyRelated),
    }
}

fn tls_server() -> tls::Server {
    let (chain, key) = tls::self_signed(&["mx2.test".to_owned()]).expect("a certificate");
    tls::Server::new(chain.as_bytes(), key.as_bytes()).expect("usable")
}

#[test]
fn one_connection_carries_many_messages() {
    on_both(|| async {
        let (site, port) = site(2, 0, friendly());
        let large = "0123456789abcd\r\n".repeat(40_000);
        let desk = Desk::with(vec![
            message(1, &["a@b.test", "nobody@b.test"], "one\r\n"),
            message(2, &["a@b.test"], &large),
            message(3, &["a@b.test"], "three\r\n"),
        ]);
        connection::run(job(port, &[2]), desk.clone()).await;
        assert_eq!(desk.kinds(), [Delivered, Failed, Delivered, Delivered]);
        assert_eq!(site.connections.get(), 1);
        let messages = site.messages.borrow();
        assert!(messages[0] == b"one\r\n" && messages[1] == large.as_bytes() && messages[2] == b"three\r\n");
        assert_eq!((desk.closed().messages, desk.closed().how), (3, End::Quit));
        assert_eq!(desk.intents.borrow()[0], (SpoolId(1), vec![0, 1]));
        let connected = desk.connected.borrow().clone().expect("connected");
        assert_eq!((connected.host.as_str(), connected.greeting.as_str()), ("mx2.test", "site.test ESMTP"));
        assert_eq!(connected.local.expect("local").ip().to_string(), "127.0.0.99");
    });
}

#[test]
fn large_messages_go_encrypted_and_stuffed() {
    on_both(|| async {
        let manners = Manners { extensions: vec!["PIPELINING", "STARTTLS"], tls: Some(tls_server()), ..friendly() };
        let (site, port) = site(2, 0, manners);
        let large = "A: b\r\n\r\n".to_owned() + &".dot\r\n0123456789\r\n..\r\n".repeat(30_000);
        let desk = Desk::with(vec![message(1, &["a@b.test"], &large), message(2, &["a@b.test"], "A: b\r\n")]);
        let job = job(port, &[2]);
        let memory = Arc::clone(&job.tls_memory);
        connection::run(job, desk.clone()).await;
        assert_eq!(desk.kinds(), [Delivered, Delivered]);
        assert!(site.messages.borrow()[0] == large.as_bytes());
        assert_eq!(site.encrypted.get(), 1);
        let connected = desk.connected.borrow().clone().expect("connected");
        assert_eq!(connected.tls.expect("encrypted").verified, Some(false));
        assert!(memory.lock().expect("memory").to_text().contains("mx2.test 1000000 1000000 0"));
    });
}

#[test]
fn r02_hosts_are_walked_until_one_takes_mail() {
    on_both(|| async {
        let (_, port) = site(3, 0, Manners { greeting: "421 4.3.2 busy", ..friendly() });
        let (good, _) = site(4, port, friendly());
        let desk = Desk::with(vec![message(1, &["a@b.test"], "x\r\n")]);
        // 127.0.0.2 refuses the connection.
        connection::run(job(port, &[2, 3, 4]), desk.clone()).await;
        assert_eq!(desk.kinds(), [Delivered]);
        assert_eq!(good.messages.borrow().len(), 1);
        assert_eq!(desk.connected.borrow().as_ref().expect("connected").host, "mx4.test");
    });
}

#[test]
fn r20_no_host_takes_mail() {
    on_both(|| async {
        let (_, port) = site(3, 0, Manners { greeting: "421 4.3.2 busy", ..friendly() });
        site(4, port, Manners { greeting: "521 5.3.2 no mail here", ..friendly() });
        let desk = Desk::with(vec![message(1, &["a@b.test"], "x\r\n")]);
        connection::run(job(port, &[2, 3, 4]), desk.clone()).await;
        let failure = desk.failure.borrow().clone().expect("failed");
        assert_eq!(failure.tries.len(), 3);
        assert_eq!((failure.outcome.kind, failure.outcome.code), (Deferred, 421), "one of them may take it later");
        assert_eq!(desk.work.borrow().len(), 1, "nothing was taken");
        let desk = Desk::with(vec![]);
        connection::run(job(port, &[4]), desk.clone()).await;
        let failure = desk.failure.borrow().clone().expect("failed");
        assert_eq!((failure.outcome.kind, failure.outcome.code), (Failed, 521));
        let desk = Desk::with(vec![]);
        connection::run(job(port, &[]), desk.clone()).await;
        assert_eq!(desk.failure.borrow().clone().expect("failed").outcome.kind, Deferred);
    });
}

#[test]
fn a_source_address_that_is_not_ours_is_the_operators_fault() {
    on_both(|| async {
        let desk = Desk::with(vec![]);
        let job = ConnectJob { source: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))), ..job(25, &[2]) };
        connection::run(job, desk.clone()).await;
        let outcome = desk.failure.borrow().clone().expect("failed").outcome;
        assert_eq!((outcome.kind, outcome.class), (Deferred, BounceClass::RoutingErrors));
        assert!(outcome.text.contains("cannot send from 192.0.2.1"), "{}", outcome.text);
    });
}

#[test]
fn broken_tls_is_left_out_once_and_remembered() {
    on_both(|| async {
        let manners =
            Manners { extensions: vec!["PIPELINING", "CHUNKING", "STARTTLS"], broken_tls: true, ..friendly() };
        let (site, port) = site(2, 0, manners);
        let first = job(port, &[2]);
        let desk = Desk::with(vec![message(1, &["a@b.test"], "x\r\n")]);
        connection::run(first.clone(), desk.clone()).await;
        assert_eq!((desk.kinds(), site.connections.get()), (vec![Delivered], 2));
        assert!(desk.connected.borrow().as_ref().expect("connected").downgraded);
        let desk = Desk::with(vec![message(2, &["a@b.test"], "x\r\n")]);
        connection::run(first.clone(), desk.clone()).await;
        assert_eq!((desk.kinds(), site.connections.get()), (vec![Delivered], 3), "not asked for again");
        let desk = Desk::with(vec![message(3, &["a@b.test"], "x\r\n")]);
        connection::run(ConnectJob { tls: TlsMode::Required, ..first }, desk.clone()).await;
        let outcome = desk.failure.borrow().clone().expect("failed").outcome;
        assert!(outcome.kind == Deferred && outcome.text.contains("TLS is required"), "{}", outcome.text);
    });
}

#[test]
fn an_idle_connection_is_used_again_and_notices_the_end() {
    on_both(|| async {
        let manners = Manners {
            extensions: vec!["PIPELINING", "CHUNKING", "STARTTLS"],
            tls: Some(tls_server()),
            patience: Some(Duration::from_millis(200)),
            ..friendly()
        };
        let (site, port) = site(2, 0, manners);
        let desk = Rc::new(Desk::default());
        let task = spawn_local(connection::run(job(port, &[2]), desk.clone()));
        for id in 1..=3 {
            sleep(Duration::from_millis(60)).await;
            desk.add(message(id, &["a@b.test"], "x\r\n"));
        }
        let begin = std::time::Instant::now();
        tokio::time::timeout(Duration::from_secs(5), task).await.expect("it noticed").expect("no panic");
        assert!(begin.elapsed() < Duration::from_secs(2));
        assert_eq!((site.connections.get(), desk.kinds().len()), (1, 3));
        assert_eq!(desk.closed().how, End::Lost(Stage::Idle, Loss::Closed));
        assert!(desk.closed().unexplained());
    });
}

#[test]
fn a_silent_close_costs_no_message_and_is_reported() {
    on_both(|| async {
        let (site, port) = site(2, 0, Manners { closes_after: Some(2), ..friendly() });
        let desk = Desk::with((1..=4).map(|id| message(id, &["a@b.test"], "x\r\n")).collect());
        connection::run(job(port, &[2]), desk.clone()).await;
        assert_eq!(desk.kinds(), [Delivered, Delivered, Deferred], "no answer to MAIL: not an unknown");
        assert!(desk.closed().unexplained());
        assert_eq!((desk.closed().messages, site.messages.borrow().len()), (2, 2));
        let desk = Desk::with((1..=4).map(|id| message(id, &["a@b.test"], "x\r\n")).collect());
        connection::run(ConnectJob { messages_max: Some(2), ..job(port, &[2]) }, desk.clone()).await;
        assert_eq!((desk.kinds(), desk.closed().how), (vec![Delivered, Delivered], End::Quit));
    });
}

#[test]
fn r03_a_swallowed_message_is_unknown() {
    on_both(|| async {
        let (_, port) = site(2, 0, Manners { swallows: true, ..friendly() });
        let mut held = message(1, &["a@b.test", "nobody@b.test"], "x\r\n");
        held.hold_last = true;
        let desk = Desk::with(vec![held]);
        connection::run(job(port, &[2]), desk.clone()).await;
        assert_eq!(desk.kinds(), [Unknown, Failed]);
        assert_eq!(desk.intents.borrow()[0].1, [0]);
    });
}

#[test]
fn without_an_intent_nothing_leaves() {
    on_both(|| async {
        let (site, port) = site(2, 0, friendly());
        let desk = Desk::with(vec![message(1, &["a@b.test"], "x\r\n"), message(2, &["a@b.test"], "x\r\n")]);
        desk.refuse_intent.set(true);
        connection::run(job(port, &[2]), desk.clone()).await;
        assert_eq!((desk.kinds(), site.messages.borrow().len()), (vec![Deferred], 0));
        assert_eq!(desk.work.borrow().len(), 1, "the second was not taken");
    });
}

#[test]
fn a_silent_site_is_given_up() {
    on_both(|| async {
        let address = SocketAddr::from(([127, 0, 0, 2], 0));
        let listener = std::net::TcpListener::bind(address).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let desk = Desk::with(vec![]);
        let timeouts = Timeouts { greeting: 1, ..Timeouts::default() };
        connection::run(ConnectJob { timeouts, ..job(port, &[2]) }, desk.clone()).await;
        let failure = desk.failure.borrow().clone().expect("failed");
        assert_eq!(failure.tries[0].stage, Stage::Greeting);
        assert!(failure.outcome.text.contains("in time"), "{}", failure.outcome.text);
    });
}
