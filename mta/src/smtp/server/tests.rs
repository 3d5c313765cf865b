//! What no dialog can show: any bytes at all, cut in any way.

use std::sync::Arc;

use super::*;
use crate::smtp::codes::reply;
use crate::smtp::limits::{AUTH_LINE_MAX, COMMAND_LINE_MAX, HEADROOM};
use crate::smtp::sasl::{ScramVerifier, Verifier};
use queue::UnixMillis;

const NOW: Now = Now { unix: UnixMillis(1_800_000_000_000), mono_ms: 0 };

/// A small generator: the tests must repeat.
struct Seed(u64);

impl Seed {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }
}

/// Pieces that lead deep into the session, and pieces that lead nowhere.
const PIECES: [&[u8]; 45] = [
    b"EHLO c.test\r\n",
    b"HELO c.test\r\n",
    b"MAIL FROM:<a@b.test>\r\n",
    b"MAIL FROM:<> SIZE=100 BODY=BINARYMIME RET=HDRS\r\n",
    b"MAIL FROM:<\xc3\xbc@b.test> SMTPUTF8\r\n",
    b"MAIL FROM:<a@b.test> HOLDFOR=5 BY=100;R MT-PRIORITY=3\r\n",
    b"RCPT TO:<postmaster>\r\n",
    b"RCPT TO:<c@d.test> NOTIFY=NEVER ORCPT=rfc822;x\r\n",
    b"RCPT TO:<@x.test:\"a b\\\"\"@d.test>\r\n",
    b"DATA\r\n",
    b"A: b\r\n\r\ntext\r\n.\r\n",
    b"..\r\n.x\r\n.\r\n",
    b"\r\n.\r\n",
    b".\r\n",
    b".\n",
    b"\n.\r\n",
    b"\r.\r\n",
    b"BDAT 5\r\n",
    b"BDAT 5 LAST\r\n",
    b"BDAT 0 LAST\r\n",
    b"BDAT 99999999999999999999\r\n",
    b"BDAT\r\n",
    b"hello",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"VRFY x\r\n",
    b"HELP\r\n",
    b"QUIT\r\n",
    b"STARTTLS\r\n",
    b"AUTH PLAIN AGEAYg==\r\n",
    b"AUTH LOGIN\r\n",
    b"YQ==\r\n",
    b"AUTH SCRAM-SHA-256 biwsbj1hLHI9YWJj\r\n",
    b"Yz1iaXdzLHI9YWJjLHA9QUFBQQ==\r\n",
    b"*\r\n",
    b"XCLIENT ADDR=192.0.2.9 NAME=[UNAVAILABLE]\r\n",
    b"XCLIENT ADDR=x\r\n",
    b"\xff\xfe\0\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"MAIL FROM:<",
    b"RSET\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<postmaster>\r\n",
    b"MAIL FROM:<a@b.test>\r\nRCPT TO:<postmaster>\r\nDATA\r\n",
    b"MAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<postmaster>\r\nBDAT 4\r\n\nabc",
];

fn policy(seed: &mut Seed) -> Arc<ServerPolicy> {
    let roles = [ListenerRole::Mx, ListenerRole::Submission, ListenerRole::Relay];
    let network = |text: &str| text.parse().expect("a network");
    // One verifier for all seeds: deriving is slow.
    static VERIFIER: std::sync::OnceLock<Verifier> = std::sync::OnceLock::new();
    let verifier =
        VERIFIER.get_or_init(|| Verifier::Scram(ScramVerifier::derive("b", b"salt", 4096).expect("a verifier")));
    let credential = Arc::new(Credential {
        name: "a".to_owned(),
        verifier: verifier.clone(),
        from_domains: vec![DomainRule::Any],
        ..Credential::default()
    });
    let trusted = TrustedNetwork { network: network("192.0.2.0/24"), credential: Arc::clone(&credential) };
    Arc::new(ServerPolicy {
        role: roles[seed.below(3)],
        operator: Some("op@op.test".to_owned()),
        credentials: [("a".to_owned(), credential)].into(),
        trusted: if seed.below(4) != 0 { vec![trusted] } else { Vec::new() },
        xclient_peers: if seed.below(2) == 0 { vec![network("192.0.2.7")] } else { Vec::new() },
        tls: seed.below(2) == 0,
        lab_auth_in_clear: seed.below(2) == 0,
        size_max: [20, 1000][seed.below(2)],
        errors_max: [3, 1000, 1000, 1000][seed.below(4)],
        recipient_domains_max: [None, Some(1)][seed.below(2)],
        ..ServerPolicy::default()
    })
}

/// Feeds `input` cut as `cut` says; gives back all that was said and the contents that came out.
fn run(policy: &Arc<ServerPolicy>, input: &[u8], mut cut: impl FnMut() -> usize) -> (String, Vec<Vec<u8>>) {
    let peer = Peer::new("192.0.2.7:1".parse().expect("an address"), "192.0.2.1:25".parse().expect("an address"));
    let mut session = Session::new(Arc::clone(policy), peer, 1);
    let (mut out, mut contents, mut at) = (Vec::new(), Vec::new(), 0);
    session.greeting(&mut out);
    while at < input.len() {
        let end = input.len().min(at.saturating_add(cut().max(1)));
        let (used, step) = session.feed(&input[at..end], NOW, &mut OpenGate, &mut out);
        assert!(used <= end - at);
        at += used;
        let step = match step {
            Step::More => {
                assert_eq!(at, end, "all is taken when there is nothing to do");
                Step::More
            }
            Step::StartTls => {
                session.resume_tls(TlsFacts::default());
                Step::More
            }
            Step::Verify(question) => {
                let right = question.password.reveal() == "b" && question.name == "a";
                let answer = if right { AuthAnswer::Right } else { AuthAnswer::Wrong };
                session.resume_auth(answer, NOW, &mut OpenGate, &mut out)
            }
            Step::Received(mail) => {
                check(policy, &mail);
                contents.push(mail.content().to_vec());
                session.resume_received(Ok("ok".to_owned()), &mut out)
            }
            Step::Close => Step::Close,
        };
        if matches!(step, Step::Close) {
            break;
        }
    }
    (String::from_utf8(out).expect("ASCII"), contents)
}

/// What holds for every mail that comes out.
fn check(policy: &ServerPolicy, mail: &ReceivedMail) {
    assert!(!mail.recipients.is_empty());
    assert_eq!(mail.headroom, HEADROOM);
    assert!(mail.buffer.len() >= HEADROOM && mail.content().len() as u64 <= policy.size_max);
    assert_eq!(mail.auth.is_some(), policy.role.is_submission(), "nothing goes out without a credential");
    assert_eq!(mail.inbound.len(), if policy.role.is_submission() { 0 } else { mail.recipients.len() });
    let mut scan = crate::smtp::facts::Scan::default();
    scan.feed(mail.content());
    assert!(mail.facts.binary || !scan.has_bare(), "no bare CR or LF comes through");
    assert!(mail.facts.header_len as usize <= mail.content().len());
}

#[test]
fn any_bytes_in_any_pieces_say_the_same_and_break_nothing() {
    let mut mails = 0;
    for start in 0..4000u64 {
        let mut seed = Seed(start);
        let policy = policy(&mut seed);
        let mut input = b"EHLO c.test\r\n".to_vec();
        for _ in 0..seed.below(40) {
            // Every other piece is one of the last few, which get somewhere.
            let from = if seed.below(2) == 0 { PIECES.len() - 3 } else { 0 };
            let mut piece = PIECES[from + seed.below(PIECES.len() - from)].to_vec();
            if seed.below(8) == 0 {
                let place = seed.below(piece.len());
                piece[place] = seed.below(256) as u8;
            }
            input.extend_from_slice(&piece);
        }
        // STARTTLS with bytes behind it is refused when they come together and taken when they do not.
        let whole = run(&policy, &input, || 1);
        let mut cuts = Seed(start ^ 0x5eed);
        if !input.windows(8).any(|window| window.eq_ignore_ascii_case(b"STARTTLS")) {
            assert_eq!(run(&policy, &input, || usize::MAX), whole, "seed {start}: whole");
            assert_eq!(run(&policy, &input, || cuts.below(20)), whole, "seed {start}: pieces");
        }
        mails += whole.1.len();
        for line in whole.0.split_terminator("\r\n") {
            assert!(line.len() <= 510 && line.as_bytes().iter().take(3).all(u8::is_ascii_digit), "{line}");
        }
    }
    assert!(mails > 300, "only {mails} mails: the pieces lead nowhere");
}

#[test]
fn r08_lines_of_12288_octets_and_no_more() {
    let policy = Arc::new(ServerPolicy { lab_auth_in_clear: true, ..ServerPolicy::default() });
    for (length, expected) in [(AUTH_LINE_MAX, "501 5.5.2 "), (AUTH_LINE_MAX + 1, "500 5.5.6 ")] {
        let line = format!("EHLO c.test\r\nAUTH PLAIN\r\n{}\r\nNOOP\r\n", "A".repeat(length - 2));
        for step in [1000, usize::MAX] {
            let (said, _) = run(&policy, line.as_bytes(), || step);
            let last: Vec<_> = said.lines().rev().take(2).collect();
            assert!(last[1].starts_with(expected), "{length}: {}", last[1]);
            assert_eq!(last[0], "250 2.0.0 ok");
        }
    }
}

#[test]
fn endless_lines_are_not_kept() {
    let policy = Arc::new(ServerPolicy::default());
    let peer = Peer::new("192.0.2.7:1".parse().expect("an address"), "192.0.2.1:25".parse().expect("an address"));
    let mut session = Session::new(policy, peer, 1);
    let mut out = Vec::new();
    let mut fed = 0;
    let closed = (0..1000).any(|_| {
        fed += 1000;
        let (_, step) = session.feed(&[b'x'; 1000], NOW, &mut OpenGate, &mut out);
        assert!(session.kept() <= COMMAND_LINE_MAX);
        matches!(step, Step::Close)
    });
    assert!(closed && fed < 100_000);
    assert!(out.starts_with(b"421 4.7.0 "));
}

#[test]
fn replies_that_close_are_421_and_nothing_follows() {
    let policy = Arc::new(ServerPolicy::default());
    let peer = Peer::new("192.0.2.7:1".parse().expect("an address"), "192.0.2.1:25".parse().expect("an address"));
    let mut session = Session::new(policy, peer, 1);
    let mut out = Vec::new();
    session.close_with(&reply::SHUTTING_DOWN, &mut out);
    assert_eq!(out, b"421 4.3.2 shutting down\r\n");
    let (used, step) = session.feed(b"NOOP\r\n", NOW, &mut OpenGate, &mut out);
    assert!(used == 6 && matches!(step, Step::Close));
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
}
