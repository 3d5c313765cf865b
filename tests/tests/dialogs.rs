//! Plays the dialogs of `tests/dialogs/<role>/*.smtp` against the server session, without a socket.
//!
//! A dialog is plain text that anyone can add. The folder names the listener's role (`mx`, `submission`,
//! `submissions`, `relay`). Every dialog is played three times: all bytes at once (as a pipelining client would), a
//! line at a time, a byte at a time; what the server says must not depend on it.
//!
//! | line | meaning |
//! | --- | --- |
//! | `# text` | comment; `# R-nn` names the duty it proves |
//! | `= key value` | changes the policy or the peer before the start, see `Scene::set` |
//! | `C: text` | the client sends the line and CRLF |
//! | `C\: text` | the client sends these bytes as they are: `\r \n \t \0 \\ \xHH` |
//! | `C*N: text` | the client sends the line N times |
//! | `S: text` | the server says this line; `*` stands for anything |
//! | `S+: 250` | the server says a whole reply with this code, of any number of lines |
//! | `T:` | the handshake behind STARTTLS takes place |
//! | `M: text` | behind its reply: a mail was handed over, in the words of `summary`; `*` as above |
//! | `V: 451 4.3.1 text` | the next mail handed over is refused so |
//! | `X:` | the server closes |

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mta::smtp::codes::{reply, Enhanced, Reply};
use mta::smtp::sasl::{ScramVerifier, Verifier};
use mta::smtp::server::{
    Asking, Credential, DomainRule, Gate, InboundKind, InboundRule, ListenerRole, LocalRule, Now, Peer, ReceivedMail,
    ServerPolicy, Session, Step, TlsFacts, TrustedNetwork,
};
use queue::{UnixMillis, UnixSecs};

/// 2027-01-15T08:00:00Z.
const NOW: Now = Now { unix: UnixMillis(1_800_000_000_000), mono_ms: 1000 };

/// One line of a dialog that is not a comment.
#[derive(Clone, Debug)]
enum Line {
    Send(Vec<u8>),
    Expect(String),
    ExpectReply(String),
    Mail(String),
    Verdict(Reply),
    Handshake,
    Closed,
}

/// A dialog with what it asks of policy and peer.
struct Dialog {
    file: PathBuf,
    settings: Vec<(usize, String, String)>,
    lines: Vec<(usize, Line)>,
}

/// How the client's bytes are cut.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    Whole,
    Lines,
    Bytes,
}

#[test]
fn dialogs_play_as_written_however_bytes_arrive() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/dialogs"));
    let mut failures = Vec::new();
    let mut played = 0;
    for (role, folder) in [
        (ListenerRole::Mx, "mx"),
        (ListenerRole::Submission, "submission"),
        (ListenerRole::SubmissionTls, "submissions"),
        (ListenerRole::Relay, "relay"),
    ] {
        let mut files: Vec<_> = fs::read_dir(root.join(folder))
            .unwrap_or_else(|error| panic!("tests/dialogs/{folder}: {error}"))
            .map(|entry| entry.expect("a readable folder").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "smtp"))
            .collect();
        files.sort();
        for file in files {
            let dialog = Dialog::read(&file).unwrap_or_else(|error| panic!("{error}"));
            played += 1;
            for cut in [Cut::Whole, Cut::Lines, Cut::Bytes] {
                failures.extend(dialog.play(role, cut).err());
            }
        }
    }
    println!("{played} dialogs, each cut three ways");
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert!(played >= 60, "only {played} dialogs found");
}

/// The player must notice what is wrong, or its silence proves nothing.
#[test]
fn player_reports_file_and_line_of_a_mismatch() {
    for (text, line) in [
        ("S: 220 *\nC: NOOP\nS: 251 *\n", ":3:"),
        ("S: 220 *\nC: QUIT\nS: 221 *\n", ":end:"),
        ("S: 220 *\nC: NOOP\n", ":end:"),
        ("S: 220 *\nC: NOOP\nS: 250 *\nS: 250 *\n", ":4:"),
        ("S: 220 *\nX:\n", ":2:"),
    ] {
        let dialog = Dialog::parse(Path::new("bad.smtp"), text).unwrap();
        for cut in [Cut::Whole, Cut::Lines, Cut::Bytes] {
            let failure = dialog.play(ListenerRole::Mx, cut).expect_err(text);
            assert!(failure.contains(&format!("bad.smtp{line}")), "{failure}");
        }
    }
    assert!(Dialog::parse(Path::new("bad.smtp"), "NOOP\n").is_err());
}

impl Dialog {
    fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Self::parse(file, &text)
    }

    fn parse(file: &Path, text: &str) -> Result<Self, String> {
        let mut dialog = Self { file: file.to_owned(), settings: Vec::new(), lines: Vec::new() };
        for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
            let bad = || format!("{}:{number}: not a line of a dialog: {line}", file.display());
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(setting) = line.strip_prefix("= ") {
                let (key, value) = setting.split_once(' ').unwrap_or((setting, ""));
                dialog.settings.push((number, key.to_owned(), value.to_owned()));
                continue;
            }
            let (mark, rest) = line.split_once(':').ok_or_else(bad)?;
            let rest = rest.strip_prefix(' ').unwrap_or(rest);
            let crlf = |text: &str| [text.as_bytes(), b"\r\n"].concat();
            let parsed = match mark {
                "C" => Line::Send(crlf(rest)),
                "C\\" => Line::Send(unescape(rest).ok_or_else(bad)?),
                "S" => Line::Expect(rest.to_owned()),
                "S+" => Line::ExpectReply(rest.to_owned()),
                "M" => Line::Mail(rest.to_owned()),
                "V" => Line::Verdict(refusal(rest).ok_or_else(bad)?),
                "T" => Line::Handshake,
                "X" => Line::Closed,
                _ => {
                    let times = mark.strip_prefix("C*").and_then(|times| times.parse().ok()).ok_or_else(bad)?;
                    Line::Send(crlf(rest).repeat(times))
                }
            };
            dialog.lines.push((number, parsed));
        }
        Ok(dialog)
    }

    fn play(&self, role: ListenerRole, cut: Cut) -> Result<(), String> {
        let mut scene = Scene::new(role);
        for (number, key, value) in &self.settings {
            scene.set(key, value).ok_or_else(|| format!("{}:{number}: unknown setting", self.file.display()))?;
        }
        if scene.only.is_some_and(|only| only != cut) {
            return Ok(());
        }
        let mut player = scene.start();
        let mut pending = Vec::new();
        let mut expected = Vec::new();
        for (number, line) in &self.lines {
            match line {
                Line::Send(bytes) if cut == Cut::Whole => pending.extend_from_slice(bytes),
                Line::Send(bytes) => player.send(bytes, cut),
                Line::Verdict(refusal) => player.verdicts.push_back(refusal.clone()),
                Line::Handshake => {
                    player.send(&std::mem::take(&mut pending), cut);
                    player.handshake();
                    expected.push((*number, line));
                }
                _ => expected.push((*number, line)),
            }
        }
        player.send(&pending, cut);
        let seen = player.seen.into_iter().collect();
        self.compare(&expected, seen)
            .map_err(|(place, what)| format!("{}:{place}: {what} ({cut:?})", self.file.display()))
    }

    fn compare(&self, expected: &[(usize, &Line)], mut seen: VecDeque<String>) -> Result<(), (String, String)> {
        let mails = expected.iter().any(|(_, line)| matches!(line, Line::Mail(_)));
        if !mails {
            seen.retain(|event| !event.starts_with("M: "));
        }
        let mut in_reply = false;
        for event in &seen {
            enhanced(event, &mut in_reply).map_err(|what| ("any".to_owned(), what))?;
        }
        for (number, line) in expected {
            let fits = |pattern: String, event: &str| {
                glob(pattern.as_bytes(), event.as_bytes())
                    .then_some(())
                    .ok_or_else(|| (number.to_string(), format!("expected\n  {pattern}\ngot\n  {event}")))
            };
            let mut next = || seen.pop_front().unwrap_or_else(|| "nothing more".to_owned());
            match line {
                Line::Expect(text) => fits(format!("S: {text}"), &next())?,
                Line::Mail(text) => fits(format!("M: {text}"), &next())?,
                Line::Handshake => fits("T:".to_owned(), &next())?,
                Line::Closed => fits("X:".to_owned(), &next())?,
                Line::ExpectReply(code) => loop {
                    let event = next();
                    fits(format!("S: {code}*"), &event)?;
                    if event.as_bytes().get(6) != Some(&b'-') {
                        break;
                    }
                },
                Line::Send(_) | Line::Verdict(_) => {}
            }
        }
        match seen.pop_front() {
            None => Ok(()),
            Some(event) => Err(("end".to_owned(), format!("the dialog does not expect\n  {event}"))),
        }
    }
}

/// outside of greetings and answers to EHLO and HELO every reply has an enhanced code of its own class.
fn enhanced(event: &str, in_reply: &mut bool) -> Result<(), String> {
    let Some(line) = event.strip_prefix("S: ") else {
        return Ok(());
    };
    let (code, rest) = line.split_at_checked(3).ok_or(format!("no reply: {line}"))?;
    let text = rest.get(1..).unwrap_or_default();
    let introduced = *in_reply || text.starts_with("mx.ringpost.test");
    *in_reply = introduced && rest.starts_with('-');
    let class = format!("{}.", &code[..1]);
    if introduced || class == "3." || text.starts_with(&class) {
        return Ok(());
    }
    Err(format!("R-19: no enhanced code of its class: {line}"))
}

/// Where and as what a dialog takes place.
struct Scene {
    policy: ServerPolicy,
    peer: Peer,
    only: Option<Cut>,
    ready: bool,
}

impl Scene {
    fn new(role: ListenerRole) -> Self {
        let peer = Peer::new("192.0.2.7:4321".parse().unwrap(), "198.51.100.1:25".parse().unwrap());
        let mut scene = Self { policy: policy(role), peer, only: None, ready: false };
        if role == ListenerRole::SubmissionTls {
            scene.peer.tls = Some(tls());
        }
        scene
    }

    /// The settings a dialog may have.
    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        let policy = &mut self.policy;
        match key {
            // Only this cut makes sense: `whole`, `lines`, `bytes`.
            "cut" => {
                self.only = Some(match value {
                    "whole" => Cut::Whole,
                    "lines" => Cut::Lines,
                    "bytes" => Cut::Bytes,
                    _ => return None,
                });
            }
            // The greeting, EHLO and what MAIL needs are behind us; the dialog starts at MAIL.
            "ready" => self.ready = true,
            "peer" => self.peer.addr = format!("{value}:4321").parse().ok()?,
            "tls" => self.peer.tls = Some(tls()),
            "no-tls" => policy.tls = false,
            "lab" => policy.lab_auth_in_clear = true,
            "no-operator" => policy.operator = None,
            "literals" => policy.relay_to_literals = true,
            "size" => policy.size_max = value.parse().ok()?,
            "recipients" => policy.recipients_max = value.parse().ok()?,
            "transactions" => policy.transactions_max = value.parse().ok()?,
            "domains" => policy.recipient_domains_max = Some(value.parse().ok()?),
            "errors" => policy.errors_max = value.parse().ok()?,
            "xclient" => policy.xclient_peers.push(value.parse().ok()?),
            _ => return None,
        }
        Some(())
    }

    fn start(self) -> Player {
        let submission = self.policy.role.is_submission();
        let session = Session::new(Arc::new(self.policy), self.peer, 7);
        let mut player =
            Player { session, closed: false, starting_tls: false, seen: VecDeque::new(), verdicts: VecDeque::new() };
        let mut out = Vec::new();
        player.session.greeting(&mut out);
        player.note(&out);
        if self.ready {
            player.send(b"EHLO client.test\r\n", Cut::Whole);
            if submission && player.session.credential().is_none() {
                if player.session.peer().tls.is_none() {
                    player.send(b"STARTTLS\r\n", Cut::Whole);
                    player.handshake();
                    player.send(b"EHLO client.test\r\n", Cut::Whole);
                }
                // alice, "secret".
                player.send(b"AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n", Cut::Whole);
                assert!(player.session.credential().is_some(), "alice is in");
            }
            player.seen.clear();
        }
        player
    }
}

fn tls() -> TlsFacts {
    TlsFacts { version: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256".to_owned(), exporter: Some([7; 32]) }
}

/// The world all dialogs share.
fn policy(role: ListenerRole) -> ServerPolicy {
    let inbound = |kind, domain: &str, local| InboundRule { kind, domain: domain.to_owned(), local };
    let credential = |name: &str, domains: &[&str]| Credential {
        name: name.to_owned(),
        verifier: Verifier::Scram(ScramVerifier::derive("secret", b"0123456789abcdef", 4096).unwrap()),
        tenant: format!("tenant of {name}"),
        from_domains: domains.iter().map(|domain| DomainRule::parse(domain)).collect(),
        ..Credential::default()
    };
    let alice = credential("alice", &["client.test", "*.client.test", "xn--bcher-kva.test", "nullmx.test"]);
    let mut bob = credential("bob", &["client.test"]);
    bob.networks = vec!["203.0.113.0/24".parse().unwrap()];
    let mut carol = credential("carol", &["client.test"]);
    carol.expires = Some(UnixSecs(1_800_000_000));
    let mut dave = credential("dave", &["client.test"]);
    (dave.size_max, dave.recipients_max) = (Some(1000), Some(2));
    let trusted = Arc::new(credential("trusted", &["trusted.test"]));
    ServerPolicy {
        role,
        hostname: "mx.ringpost.test".to_owned(),
        domains: vec!["own.test".to_owned()],
        operator: Some("op@operator.test".to_owned()),
        inbound: vec![
            inbound(InboundKind::ReturnPath, "rp.own.test", LocalRule::Prefix("b+".to_owned())),
            inbound(InboundKind::Feedback, "own.test", LocalRule::Exact("fbl".to_owned())),
            inbound(InboundKind::Unsubscribe, "rp.own.test", LocalRule::Prefix("u+".to_owned())),
            inbound(InboundKind::Report, "own.test", LocalRule::Exact("reports".to_owned())),
        ],
        credentials: [alice, bob, carol, dave].map(|one| (one.name.clone(), Arc::new(one))).into(),
        trusted: vec![TrustedNetwork { network: "10.1.0.0/16".parse().unwrap(), credential: trusted }],
        tls: true,
        process_key: [3; 32],
        ..ServerPolicy::default()
    }
}

/// What the shard would know: one domain has a null MX, one sender finds the disk full.
struct Shard;

impl Gate for Shard {
    fn mail(&mut self, _: &Asking<'_>, domain: &str, _: u64) -> Result<(), Reply> {
        match domain {
            "nullmx.test" => Err(reply::NULL_MX_SENDER),
            "full.client.test" => Err(reply::NO_ROOM),
            _ => Ok(()),
        }
    }
}

/// Drives a session and writes down what happens.
struct Player {
    session: Session,
    closed: bool,
    starting_tls: bool,
    seen: VecDeque<String>,
    verdicts: VecDeque<Reply>,
}

impl Player {
    fn send(&mut self, bytes: &[u8], cut: Cut) {
        let step = if cut == Cut::Bytes { 1 } else { bytes.len().max(1) };
        for piece in bytes.chunks(step) {
            self.feed(piece);
        }
    }

    fn feed(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() && !self.closed {
            assert!(!self.starting_tls, "a dialog says T: behind STARTTLS before it goes on");
            let mut out = Vec::new();
            let (used, step) = self.session.feed(piece, NOW, &mut Shard, &mut out);
            assert!(used > 0 || !matches!(step, Step::More), "the session does not move");
            self.note(&out);
            self.act(step);
            piece = &piece[used..];
        }
    }

    fn act(&mut self, step: Step) {
        let mut out = Vec::new();
        let mut handed_over = None;
        let step = match step {
            Step::More => Step::More,
            Step::Close => Step::Close,
            Step::StartTls => {
                self.starting_tls = true;
                Step::More
            }
            Step::Verify(question) => self.session.resume_auth(question.answer(), NOW, &mut Shard, &mut out),
            Step::Received(mail) => {
                let verdict = self.verdicts.pop_front().map_or(Ok("queued".to_owned()), Err);
                handed_over = Some(summary(&mail));
                self.session.resume_received(verdict, &mut out)
            }
        };
        self.note(&out);
        self.seen.extend(handed_over);
        if matches!(step, Step::Close) && !self.closed {
            self.closed = true;
            self.seen.push_back("X:".to_owned());
        }
    }

    fn handshake(&mut self) {
        if self.starting_tls {
            self.session.resume_tls(tls());
            self.seen.push_back("T:".to_owned());
        }
        self.starting_tls = false;
    }

    fn note(&mut self, out: &[u8]) {
        let text = String::from_utf8(out.to_vec()).expect("replies are ASCII");
        assert!(text.is_empty() || text.ends_with("\r\n"), "whole lines only: {text:?}");
        for line in text.split_terminator("\r\n") {
            assert!(line.len() <= 510 && line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
            self.seen.push_back(format!("S: {line}"));
        }
    }
}

/// `from=<..> to=<..>,<..> with=ESMTP [as=name] [for=Kind,..] [params] facts content="escaped"`.
fn summary(mail: &ReceivedMail) -> String {
    let to: Vec<_> = mail
        .recipients
        .iter()
        .map(|one| {
            let notify = if one.notify.is_default() { String::new() } else { format!("!{}", one.notify.0) };
            let orcpt = if one.orcpt.is_empty() { String::new() } else { format!("?{}", one.orcpt) };
            format!("<{}>{notify}{orcpt}", one.address)
        })
        .collect();
    let mut text = format!("M: from=<{}> to={} with={}", mail.reverse_path, to.join(","), mail.protocol);
    let mut add = |part: String| {
        text.push(' ');
        text.push_str(&part);
    };
    if let Some(credential) = &mail.auth {
        add(format!("as={}", credential.name));
    }
    if !mail.inbound.is_empty() {
        add(format!("for={:?}", mail.inbound));
    }
    let params = &mail.params;
    if !params.envid.is_empty() {
        add(format!("envid={}", params.envid));
    }
    if params.ret != queue::DsnRet::Unset {
        add(format!("ret={:?}", params.ret));
    }
    if let Some(time) = params.not_before {
        add(format!("not-before={time}"));
    }
    if let Some(by) = params.by {
        add(format!("by={};{}{}", by.at, if by.notify { 'N' } else { 'R' }, if by.trace { "T" } else { "" }));
    }
    if params.priority != 0 {
        add(format!("priority={}", params.priority));
    }
    for (fact, name) in [
        (mail.facts.dot_line, "dot"),
        (mail.facts.eight_bit, "8bit"),
        (mail.facts.binary, "binary"),
        (mail.facts.smtputf8, "utf8"),
    ] {
        if fact {
            add(name.to_owned());
        }
    }
    add(format!("header={} longest={}", mail.facts.header_len, mail.facts.longest_line));
    add(format!("content=\"{}\"", mail.content().escape_ascii()));
    text
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        Some((byte, rest)) => text.split_first().is_some_and(|(first, text)| first == byte && glob(rest, text)),
    }
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next()? {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(out)
}

/// `451 4.3.1 text`.
fn refusal(text: &str) -> Option<Reply> {
    let (code, rest) = text.split_once(' ')?;
    let (enhanced, words) = rest.split_once(' ')?;
    let mut parts = enhanced.split('.');
    let mut part = || parts.next()?.parse::<u16>().ok();
    let enhanced = Enhanced(u8::try_from(part()?).ok()?, part()?, part()?);
    Some(Reply { code: code.parse().ok()?, enhanced: Some(enhanced), text: words.to_owned().into() })
}
