//! Whole connections over loopback, on both drivers, with an acceptor that keeps mail in memory.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine;

use super::*;
use crate::net::tests::{on_both, pair};
use crate::net::{self, Listener, Stream};
use crate::smtp::codes::reply;
use crate::smtp::sasl::{RecentSuccesses, ScramVerifier, Verifier};
use crate::smtp::server::{Credential, DomainRule, ListenerRole, TrustedNetwork};
use crate::tls::{self_signed, Client, Server, Transport, Trust, CHANNEL_BINDING};

/// Keeps what it is given.
struct Memory {
    mails: RefCell<Vec<ReceivedMail>>,
    guard: RefCell<Guard>,
    recent: RefCell<RecentSuccesses>,
    verified: Cell<u32>,
    waiting: Cell<u32>,
    together: Cell<u32>,
    closing: Cell<bool>,
    full: Cell<bool>,
}

impl Memory {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            mails: RefCell::default(),
            guard: RefCell::new(Guard::new(GuardLimits { address_failures: 2, ..GuardLimits::default() })),
            recent: RefCell::new(RecentSuccesses::new(16, 60_000)),
            verified: Cell::new(0),
            waiting: Cell::new(0),
            together: Cell::new(0),
            closing: Cell::new(false),
            full: Cell::new(false),
        })
    }
}

impl Acceptor for Memory {
    async fn finish_and_commit(&self, mail: Box<ReceivedMail>) -> Result<String, Reply> {
        self.waiting.set(self.waiting.get() + 1);
        self.together.set(self.together.get().max(self.waiting.get()));
        // The later one is done first: replies must not follow the disk.
        net::sleep(Duration::from_millis(40 / u64::from(self.waiting.get()))).await;
        self.waiting.set(self.waiting.get() - 1);
        let from = mail.reverse_path.clone();
        if from.starts_with("full@") {
            return Err(reply::NO_ROOM);
        }
        self.mails.borrow_mut().push(*mail);
        Ok(format!("kept {from}"))
    }

    async fn verify(&self, question: Box<AuthQuestion>) -> AuthAnswer {
        let key = question.cache_key(&[1; 32]);
        if self.recent.borrow().holds(&key, 0) {
            return AuthAnswer::Right;
        }
        self.verified.set(self.verified.get() + 1);
        let answer = question.answer();
        if answer == AuthAnswer::Right {
            self.recent.borrow_mut().remember(key, 0);
        }
        answer
    }

    fn refuses_now(&self, class: Class, _: u64) -> Option<Reply> {
        (self.full.get() && class == Class::Transactional).then_some(reply::NO_ROOM)
    }

    fn has_null_mx(&self, domain: &str) -> bool {
        domain == "nullmx.test"
    }

    fn guard(&self) -> &RefCell<Guard> {
        &self.guard
    }

    fn now(&self) -> Now {
        Now { unix: queue::UnixMillis(1_800_000_000_000), mono_ms: 1 }
    }

    fn is_closing(&self) -> bool {
        self.closing.get()
    }
}

fn policy(role: ListenerRole) -> ServerPolicy {
    let credential = |name: &str, domain: &str| Credential {
        name: name.to_owned(),
        verifier: Verifier::Scram(ScramVerifier::derive("secret", b"salt", 4096).expect("a verifier")),
        from_domains: vec![DomainRule::parse(domain)],
        ..Credential::default()
    };
    ServerPolicy {
        role,
        hostname: "mx.test".to_owned(),
        operator: Some("op@op.test".to_owned()),
        credentials: [("alice".to_owned(), Arc::new(credential("alice", "client.test")))].into(),
        trusted: vec![TrustedNetwork {
            network: "10.0.0.0/8".parse().expect("a network"),
            credential: Arc::new(credential("lab", "*")),
        }],
        process_key: [3; 32],
        ..ServerPolicy::default()
    }
}

fn trusting_loopback() -> ServerPolicy {
    let mut policy = policy(ListenerRole::Relay);
    policy.trusted[0].network = "127.0.0.0/8".parse().expect("a network");
    policy
}

fn certificate() -> Server {
    let (chain, key) = self_signed(&["mx.test".to_owned()]).expect("a certificate");
    Server::new(chain.as_bytes(), key.as_bytes()).expect("usable")
}

/// A client of the wire, and the task that serves it.
struct Wire {
    transport: Transport,
    served: tokio::task::JoinHandle<End>,
}

impl Wire {
    async fn open(policy: ServerPolicy, tls: Option<Server>, memory: &Rc<Memory>) -> Self {
        let (near, far) = pair().await;
        let (door, memory) = (Door::new(policy, tls), Rc::clone(memory));
        let served = net::spawn_local(async move { serve(far, &door, &*memory, 7).await });
        Self { transport: Transport::Plain(near), served }
    }

    async fn say(&mut self, text: &str) {
        self.transport.write_all(text.as_bytes().to_vec()).await.0.expect("written");
    }

    /// Reads until the text so far ends a reply of each of these codes.
    async fn hear(&mut self, codes: &[&str]) -> String {
        let mut text = Vec::new();
        loop {
            let (result, back) = self.transport.read(text).await;
            text = back;
            let end = result.expect("read") == 0;
            let said = String::from_utf8(text.clone()).expect("text");
            let finals: Vec<_> = said
                .split_terminator("\r\n")
                .filter(|line| line.get(3..4) == Some(" "))
                .map(|line| &line[..3])
                .collect();
            if said.ends_with("\r\n") && finals.len() >= codes.len() || end {
                assert_eq!(finals, codes, "{said}");
                return said;
            }
        }
    }

    async fn ask(&mut self, line: &str, code: &str) -> String {
        self.say(&format!("{line}\r\n")).await;
        self.hear(&[code]).await
    }

    async fn start_tls(mut self, host: &str) -> Self {
        self.ask("STARTTLS", "220").await;
        self.shake_hands(host).await
    }

    async fn shake_hands(self, host: &str) -> Self {
        let client = Client::new(&Trust::Anyone).expect("a client");
        let transport = self.transport.connect(&client, host).await.expect("a handshake");
        Self { transport, served: self.served }
    }

    async fn end(self) -> End {
        drop(self.transport);
        self.served.await.expect("no panic")
    }
}

#[test]
fn r01_plain_relay_over_helo() {
    on_both(|| async {
        let memory = Memory::new();
        let mut wire = Wire::open(trusting_loopback(), None, &memory).await;
        wire.hear(&["220"]).await;
        wire.ask("HELO client.test", "250").await;
        for _ in 0..3 {
            wire.ask("MAIL FROM:<a@b.test>", "250").await;
            wire.ask("RCPT TO:<c@d.test>", "250").await;
            wire.ask("DATA", "354").await;
            let said = wire.ask("A: b\r\n\r\n..dot\r\n.", "250").await;
            assert_eq!(said, "250 2.0.0 kept a@b.test\r\n");
        }
        wire.ask("QUIT", "221").await;
        assert_eq!(wire.end().await, End::Closed);
        let mails = memory.mails.borrow();
        assert_eq!(mails.len(), 3);
        assert_eq!(mails[0].content(), b"A: b\r\n\r\n.dot\r\n");
        assert_eq!(mails[0].headroom, crate::smtp::limits::HEADROOM);
        assert_eq!(mails[0].peer.ip().to_string(), "127.0.0.1");
    });
}

#[test]
fn r12_r13_a_group_with_large_chunks_is_answered_in_order() {
    on_both(|| async {
        let memory = Memory::new();
        let mut wire = Wire::open(trusting_loopback(), None, &memory).await;
        wire.hear(&["220"]).await;
        wire.ask("EHLO client.test", "250").await;
        let line = format!("{}\r\n", "x".repeat(98));
        let body = line.repeat(3000);
        let mut group = String::new();
        for _ in 0..2 {
            group += "MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n";
            group += &format!("BDAT {}\r\n{body}BDAT 0 LAST\r\n", body.len());
        }
        group += "QUIT\r\n";
        wire.say(&group).await;
        wire.hear(&["250", "250", "250", "250", "250", "250", "250", "250", "221"]).await;
        assert_eq!(wire.end().await, End::Closed);
        let mails = memory.mails.borrow();
        assert_eq!(mails.len(), 2);
        assert!(mails.iter().all(|mail| mail.content() == body.as_bytes()));
    });
}

#[test]
fn r12_mails_of_one_group_wait_together_and_are_answered_in_order() {
    on_both(|| async {
        let memory = Memory::new();
        let mut wire = Wire::open(trusting_loopback(), None, &memory).await;
        wire.hear(&["220"]).await;
        wire.ask("EHLO client.test", "250").await;
        // Six short ones with a wrong command among them; the fourth is refused by the disk.
        let one = |name: &str| format!("MAIL FROM:<{name}@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 6 LAST\r\nA: b\r\n");
        let group: Vec<String> = ["one", "two", "three", "full", "five", "six"].map(one).into();
        wire.say(&format!("{}WRONG\r\n{}QUIT\r\n", group[..3].concat(), group[3..].concat())).await;
        let ok = ["250", "250", "250"];
        let codes = [ok, ok, ok].concat();
        let rest = [&["500"], &["250", "250", "452"][..], &ok, &ok, &["221"]].concat();
        let said = wire.hear(&[codes, rest].concat()).await;
        assert_eq!(wire.end().await, End::Closed);
        assert!(memory.together.get() >= 5, "{} at once", memory.together.get());
        let names: Vec<_> =
            said.split_terminator("\r\n").filter_map(|line| line.strip_prefix("250 2.0.0 kept ")).collect();
        assert_eq!(names, ["one@b.test", "two@b.test", "three@b.test", "five@b.test", "six@b.test"]);
    });
}

/// What a client computes from RFC 5802 section 3.
fn scram_final(first_bare: &str, server_first: &str, exporter: &[u8; 32]) -> String {
    let field = |name: &str| server_first.split(',').find_map(|part| part.strip_prefix(name)).expect("a field");
    let channel = [b"p=tls-exporter,,".as_slice(), exporter].concat();
    let without = format!("c={},r={}", BASE64.encode(channel), field("r="));
    let signed = format!("{first_bare},{server_first},{without}");
    let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    let mut salted = [0; 32];
    let salt = BASE64.decode(field("s=")).expect("base64");
    let rounds = field("i=").parse().expect("a number");
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, b"secret", &mut salted);
    let client_key = sign(&salted, b"Client Key");
    let stored = digest::digest(&digest::SHA256, client_key.as_ref());
    let signature = sign(stored.as_ref(), signed.as_bytes());
    let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
    format!("{without},p={}", BASE64.encode(proof))
}

#[test]
fn r07_r09_starttls_then_scram_plus_bound_to_the_channel() {
    on_both(|| async {
        let memory = Memory::new();
        let mut wire = Wire::open(policy(ListenerRole::Submission), Some(certificate()), &memory).await;
        wire.hear(&["220"]).await;
        let said = wire.ask("EHLO client.test", "250").await;
        assert!(said.contains("STARTTLS") && !said.contains("AUTH"), "{said}");
        let mut wire = wire.start_tls("mx.test").await;
        let said = wire.ask("EHLO client.test", "250").await;
        assert!(!said.contains("STARTTLS") && said.contains("AUTH SCRAM-SHA-256-PLUS "), "{said}");
        let bare = "n=alice,r=fyko+d2lbbFgONRv9qkxdawL";
        let first = BASE64.encode(format!("p=tls-exporter,,{bare}"));
        let said = wire.ask(&format!("AUTH SCRAM-SHA-256-PLUS {first}"), "334").await;
        let challenge = BASE64.decode(said.trim_end().strip_prefix("334 ").expect("a challenge")).expect("base64");
        let server_first = String::from_utf8(challenge).expect("text");
        let exporter = wire.transport.exporter(CHANNEL_BINDING).expect("inside TLS");
        let response = BASE64.encode(scram_final(bare, &server_first, &exporter));
        let said = wire.ask(&response, "334").await;
        let verifier = BASE64.decode(said.trim_end().strip_prefix("334 ").expect("the proof")).expect("base64");
        assert!(verifier.starts_with(b"v="), "the server proves itself");
        wire.ask("", "235").await;
        wire.ask("MAIL FROM:<a@client.test>", "250").await;
        wire.ask("RCPT TO:<c@d.test>", "250").await;
        wire.ask("DATA", "354").await;
        wire.ask("A: b\r\n.", "250").await;
        wire.ask("QUIT", "221").await;
        assert_eq!(wire.end().await, End::Closed);
        let mails = memory.mails.borrow();
        assert_eq!(mails[0].protocol.keyword(), "ESMTPSA");
        assert_eq!(mails[0].peer.tls.as_ref().map(|tls| tls.version), Some("TLSv1.3"));
        assert_eq!(memory.verified.get(), 0, "no password was seen");
    });
}

#[test]
fn r06_r08_implicit_tls_plain_and_recent_successes() {
    on_both(|| async {
        let memory = Memory::new();
        let tls = certificate();
        for round in 0..3 {
            let wire = Wire::open(policy(ListenerRole::SubmissionTls), Some(tls.clone()), &memory).await;
            let mut wire = wire.shake_hands("mx.test").await;
            wire.hear(&["220"]).await;
            wire.ask("EHLO client.test", "250").await;
            wire.ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235").await;
            wire.ask("MAIL FROM:<a@client.test>", "250").await;
            assert_eq!(wire.end().await, End::Gone);
            assert_eq!(memory.verified.get(), 1, "round {round} pays once");
        }
    });
}

#[test]
fn r08_failed_logins_are_slowed_down() {
    on_both(|| async {
        let memory = Memory::new();
        let wire = Wire::open(policy(ListenerRole::Submission), Some(certificate()), &memory).await;
        let mut wire = wire;
        wire.hear(&["220"]).await;
        let mut wire = wire.start_tls("mx.test").await;
        wire.ask("EHLO client.test", "250").await;
        for _ in 0..3 {
            wire.ask("AUTH PLAIN AGFsaWNlAHdyb25n", "535").await;
        }
        wire.ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "454").await;
        drop(wire);
    });
}

#[test]
fn r07_bytes_behind_starttls_end_the_connection() {
    on_both(|| async {
        let memory = Memory::new();
        let mut wire = Wire::open(policy(ListenerRole::Submission), Some(certificate()), &memory).await;
        wire.hear(&["220"]).await;
        wire.say("EHLO client.test\r\nSTARTTLS\r\nMAIL FROM:<evil@client.test>\r\n").await;
        wire.hear(&["250", "554"]).await;
        assert_eq!(wire.end().await, End::Closed);
    });
}

#[test]
fn r45_proxy_header_before_a_handshake() {
    on_both(|| async {
        let memory = Memory::new();
        let mut policy = policy(ListenerRole::SubmissionTls);
        policy.proxy_peers = vec!["127.0.0.1".parse().expect("a network")];
        let mut wire = Wire::open(policy, Some(certificate()), &memory).await;
        wire.say("PROXY TCP4 10.1.2.3 198.51.100.1 4000 465\r\n").await;
        let mut wire = wire.shake_hands("mx.test").await;
        wire.hear(&["220"]).await;
        wire.ask("EHLO client.test", "250").await;
        // 10/8 is trusted here: the told address counts.
        wire.ask("MAIL FROM:<a@any.test>", "250").await;
        wire.ask("QUIT", "221").await;
        assert_eq!(wire.end().await, End::Closed);
    });
}

#[test]
fn r45_malformed_or_missing_proxy_header_closes() {
    on_both(|| async {
        let memory = Memory::new();
        for text in
            ["EHLO client.test\r\n", "PROXY TCP4 1.2.3.4\r\n     ", "\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c           "]
        {
            let mut policy = policy(ListenerRole::Mx);
            policy.proxy_peers = vec!["127.0.0.1".parse().expect("a network")];
            let mut wire = Wire::open(policy, None, &memory).await;
            wire.say(text).await;
            assert_eq!(wire.served.await.expect("no panic"), End::Proxy, "{text:?}");
        }
        let mut wire = Wire::open(policy(ListenerRole::Mx), None, &memory).await;
        wire.hear(&["220"]).await;
        // From anybody else it is no command.
        wire.ask("PROXY TCP4 10.1.2.3 198.51.100.1 4000 25", "500").await;
        assert_eq!(wire.end().await, End::Gone);
    });
}

#[test]
fn half_a_message_is_no_message() {
    on_both(|| async {
        let memory = Memory::new();
        let mut wire = Wire::open(trusting_loopback(), None, &memory).await;
        wire.hear(&["220"]).await;
        wire.say("EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nA: b\r\n\r\nhalf").await;
        wire.hear(&["250", "250", "250", "354"]).await;
        assert_eq!(wire.end().await, End::Gone);
        assert!(memory.mails.borrow().is_empty());
    });
}

#[test]
fn r11_r20_what_the_shard_knows_is_said_at_mail() {
    on_both(|| async {
        let memory = Memory::new();
        let mut wire = Wire::open(trusting_loopback(), None, &memory).await;
        wire.hear(&["220"]).await;
        wire.ask("EHLO c.test", "250").await;
        wire.ask("MAIL FROM:<a@nullmx.test>", "550").await;
        memory.full.set(true);
        let said = wire.ask("MAIL FROM:<a@b.test>", "452").await;
        assert!(said.starts_with("452 4.3.1 "), "{said}");
        memory.full.set(false);
        wire.ask("MAIL FROM:<a@b.test>", "250").await;
        memory.closing.set(true);
        wire.say("NOOP\r\n").await;
        wire.hear(&["250", "421"]).await;
        assert_eq!(wire.end().await, End::Closed);
    });
}

#[test]
fn listener_turns_away_what_is_too_much() {
    on_both(|| async {
        let memory = Memory::new();
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind(any, net::ListenOptions::default()).expect("a port");
        let address = listener.local_addr().expect("an address");
        let sessions = Sessions::new(1, 10, 2);
        let door = Arc::new(Door::new(policy(ListenerRole::Mx), None));
        let task = net::spawn_local(listen(listener, door, Rc::clone(&memory), Rc::clone(&sessions)));
        let connect = || async move {
            let stream = Stream::connect(None, address, Duration::from_secs(1)).await.expect("connected");
            let (result, buf) = stream.read(Vec::with_capacity(512)).await;
            result.expect("read");
            (stream, String::from_utf8(buf).expect("text"))
        };
        let (first, said) = connect().await;
        assert!(said.starts_with("220 "), "{said}");
        let (_second, said) = connect().await;
        assert!(said.starts_with("220 "), "{said}");
        let (_third, said) = connect().await;
        assert!(said.starts_with("421 4.7.0 "), "{said}");
        assert_eq!((sessions.open(), sessions.refused()), (2, 1));
        drop(first);
        while sessions.open() > 1 {
            net::sleep(Duration::from_millis(5)).await;
        }
        let (_fourth, said) = connect().await;
        assert!(said.starts_with("220 "), "{said}");
        task.abort();
    });
}
