//! The whole server session under command scripts with damage in them.
//!
//! Each script is played twice: a byte at a time, where every reply can be laid at the door of one command, and in
//! pieces of any size. Both must say the same.

use std::sync::Arc;

use mta::smtp::server::{AuthAnswer, Now, OpenGate, ReceivedMail, Session, Step};
use queue::UnixMillis;

use super::site::{self, Scene};
use super::source::Source;
use super::{must, Verdict};

const NOW: Now = Now { unix: UnixMillis(1_800_000_000_000), mono_ms: 1000 };
const TOO_BIG: &str = "552 5.3.4 message too big\r\n";
const BARE: &str = "550 5.6.0 bare CR or LF in the message; lines end with CRLF\r\n";
/// Longest line a session may write: RFC 5321 section 4.5.3.1.5; a challenge may be as long as RFC 4954 lets it be.
const LINE_MAX: usize = 512;
const CHALLENGE_MAX: usize = 12_288;

pub(super) fn run(source: &mut Source<'_>) -> Verdict {
    let scene = site::scene(source);
    let refuse = source.byte();
    let mut script = script(source);
    if source.one_in(3) {
        source.damage(&mut script, 6);
    }
    if std::env::var_os("FUZZ_TRACE").is_some() {
        eprintln!("{:?} {}", scene.policy.role, script.escape_ascii());
    }
    let mut slow = Play::new(&scene, refuse);
    slow.bytes(&script)?;
    let mut quick = Play::new(&scene, refuse);
    quick.pieces(source, &script, &slow.handshakes)?;
    // Of two defects in one message the one that is seen first is told, and that depends on the pieces.
    let same = |out: &[u8]| String::from_utf8_lossy(out).replace(TOO_BIG, BARE);
    must(same(&quick.out) == same(&slow.out), || {
        format!("replies depend on how bytes arrive:\n{}\n---\n{}", slow.out.escape_ascii(), quick.out.escape_ascii())
    })?;
    must(quick.mails == slow.mails, || "mail depends on how bytes arrive".to_owned())
}

/// One session and what is known about it from outside.
struct Play {
    session: Session,
    scene: Scene,
    out: Vec<u8>,
    mails: Vec<(Vec<String>, Vec<u8>)>,
    closed: bool,
    refuse: u8,
    /// Offsets in the script behind which a handshake took place.
    handshakes: Vec<usize>,
    tracked: Tracked,
}

/// What the commands and replies so far add up to.
#[derive(Default)]
struct Tracked {
    greeted: bool,
    mail: bool,
    recipients: usize,
    content: Vec<u8>,
    chunked: bool,
}

impl Play {
    fn new(scene: &Scene, refuse: u8) -> Self {
        let mut session = Session::new(Arc::clone(&scene.policy), scene.peer.clone(), 7);
        let mut out = Vec::new();
        session.greeting(&mut out);
        Self {
            session,
            scene: scene.clone(),
            out,
            mails: Vec::new(),
            closed: false,
            refuse,
            handshakes: Vec::new(),
            tracked: Tracked::default(),
        }
    }

    /// Plays a byte at a time and holds every reply against the command before it.
    fn bytes(&mut self, script: &[u8]) -> Verdict {
        let mut line = Vec::new();
        for (at, byte) in script.iter().enumerate() {
            if self.closed {
                return Ok(());
            }
            let receiving = self.session.is_receiving();
            let before = self.out.len();
            let mails = self.mails.len();
            let started_tls = self.feed(std::slice::from_ref(byte))? == Fed::StartTls;
            if started_tls {
                self.handshakes.push(at + 1);
            }
            let said = replies(&self.out[before..])?;
            if receiving {
                self.tracked.content.push(*byte);
                self.content_replies(&said, mails)?;
                continue;
            }
            line.push(*byte);
            if *byte != b'\n' {
                must(said.is_empty() || self.closed, || "a reply inside a command line".to_owned())?;
                continue;
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            self.line_replies(&text, &said)?;
            if started_tls {
                self.tracked = Tracked::default();
            }
        }
        Ok(())
    }

    /// One command, one reply; but a chunk is answered at its end.
    fn line_replies(&mut self, line: &str, said: &[u16]) -> Verdict {
        let command = line.split([' ', '\t']).next().unwrap_or_default().to_ascii_uppercase();
        let receiving = self.session.is_receiving();
        if receiving && said.is_empty() {
            self.tracked.chunked = true;
            return must(command == "BDAT", || format!("no reply to {line:?}"));
        }
        must(said.len() == 1, || format!("{} replies to {line:?}", said.len()))?;
        let code = said[0];
        let state = &mut self.tracked;
        let fine = code < 300;
        match (command.as_str(), fine) {
            ("EHLO" | "HELO", true) => (state.greeted, state.mail, state.recipients) = (true, false, 0),
            ("MAIL", true) => {
                must(state.greeted && !state.mail, || format!("{code} to {line:?} out of order"))?;
                let submits = !self.scene.policy.role.is_submission() || self.session.credential().is_some();
                must(submits, || "MAIL taken without a credential".to_owned())?;
                (state.mail, state.recipients) = (true, 0);
            }
            ("RCPT", true) => {
                must(state.mail, || format!("{code} to {line:?} without MAIL"))?;
                state.recipients += 1;
            }
            ("RSET", true) => (state.mail, state.recipients) = (false, 0),
            ("XCLIENT", true) => *state = Tracked::default(),
            ("DATA", _) if code == 354 => {
                must(state.mail && state.recipients > 0, || "354 without a recipient".to_owned())?;
                must(receiving, || "354 and no content awaited".to_owned())?;
                state.chunked = false;
                state.content.clear();
            }
            ("BDAT", true) => {
                must(state.mail && state.recipients > 0, || "a chunk taken without a recipient".to_owned())?;
            }
            _ => {}
        }
        must(code != 354 || command == "DATA", || format!("354 to {line:?}"))?;
        must(code != 235 || self.session.credential().is_some(), || "235 and no credential".to_owned())?;
        if command == "BDAT" && !receiving {
            // Whether it was the last chunk, and taken, shows in what the session keeps.
            self.tracked.mail &= !self.session.is_idle();
        }
        Ok(())
    }

    /// Content is answered once, when it is over, and what is handed over is what came.
    fn content_replies(&mut self, said: &[u16], mails: usize) -> Verdict {
        if self.session.is_receiving() {
            return must(said.is_empty(), || "a reply inside content".to_owned());
        }
        must(said.len() == 1, || format!("{} replies to content", said.len()))?;
        if self.tracked.chunked {
            self.tracked.content.clear();
            self.tracked.mail &= !self.session.is_idle();
            return Ok(());
        }
        let sent = std::mem::take(&mut self.tracked.content);
        (self.tracked.mail, self.tracked.recipients) = (false, 0);
        if let Some((_, content)) = self.mails.get(mails) {
            let wanted = unstuff(&sent);
            must(content == &wanted, || format!("sent {} got {}", sent.escape_ascii(), content.escape_ascii()))?;
        }
        Ok(())
    }

    /// Plays in pieces, cut where the handshakes were.
    fn pieces(&mut self, source: &mut Source<'_>, script: &[u8], handshakes: &[usize]) -> Verdict {
        let mut start = 0;
        for end in handshakes.iter().copied().chain([script.len()]) {
            for piece in source.pieces(&script[start..end]) {
                if self.closed {
                    return Ok(());
                }
                self.feed(piece)?;
            }
            start = end;
        }
        Ok(())
    }

    fn feed(&mut self, mut piece: &[u8]) -> Result<Fed, String> {
        let mut fed = Fed::More;
        while !piece.is_empty() && !self.closed {
            let (used, step) = self.session.feed(piece, NOW, &mut OpenGate, &mut self.out);
            must(used <= piece.len(), || "more used than there was".to_owned())?;
            must(used == piece.len() || !matches!(step, Step::More), || "bytes left over".to_owned())?;
            piece = &piece[used..];
            if matches!(step, Step::StartTls) {
                fed = Fed::StartTls;
            }
            self.act(step)?;
        }
        Ok(fed)
    }

    fn act(&mut self, step: Step) -> Verdict {
        let next = match step {
            Step::More => return Ok(()),
            Step::Close => Step::Close,
            Step::StartTls => {
                must(self.session.peer().tls.is_none(), || "TLS inside TLS".to_owned())?;
                self.session.resume_tls(site::tls());
                Step::More
            }
            Step::Verify(question) => {
                let right = question.name == "alice" && question.password.reveal() == "secret";
                let answer = match (right, question.name.len() % 7) {
                    (true, _) => AuthAnswer::Right,
                    (false, 3) => AuthAnswer::Unavailable,
                    _ => AuthAnswer::Wrong,
                };
                self.session.resume_auth(answer, NOW, &mut OpenGate, &mut self.out)
            }
            Step::Received(mail) => {
                self.mail(&mail)?;
                let verdict = match self.refuse {
                    0..=200 => Ok(format!("queued as {}", self.mails.len())),
                    201..=230 => Err(mta::smtp::codes::reply::NO_ROOM),
                    _ => Err(mta::smtp::codes::reply::TOO_MANY_ERRORS),
                };
                self.session.resume_received(verdict, &mut self.out)
            }
        };
        self.closed |= matches!(next, Step::Close);
        Ok(())
    }

    /// What is handed over must be fit to be stored and sent on.
    fn mail(&mut self, mail: &ReceivedMail) -> Verdict {
        let policy = &self.scene.policy;
        let content = mail.content();
        must(!mail.recipients.is_empty(), || "a mail without recipients".to_owned())?;
        must(mail.recipients.len() <= policy.recipients_max as usize, || "too many recipients".to_owned())?;
        must(content.len() as u64 <= policy.size_max, || "too large".to_owned())?;
        must(mail.auth.is_some() == policy.role.is_submission(), || "whose mail is it?".to_owned())?;
        let texts = mail.recipients.iter().flat_map(|one| [&one.address, &one.orcpt]);
        for text in texts.chain([&mail.reverse_path, &mail.params.envid]) {
            let safe = text.len() <= queue::limits::ADDRESS_MAX && !text.chars().any(char::is_control);
            must(safe, || format!("{text:?} can't be sent"))?;
        }
        for (index, one) in mail.recipients.iter().enumerate() {
            must(one.address.contains('@'), || format!("no domain in {:?}", one.address))?;
            if !policy.role.is_submission() {
                must(mail.inbound.len() == mail.recipients.len(), || "kinds and recipients differ".to_owned())?;
                let own = [".own.test", "@own.test", "op@operator.test"].iter().any(|end| one.address.ends_with(end));
                must(own, || format!("relayed for a stranger: {} ({:?})", one.address, mail.inbound[index]))?;
            }
        }
        let facts = site::facts(content);
        let told = mail.facts;
        let bare = mta::message::facts::scan(content).bare;
        must(!bare || told.binary, || format!("a bare CR or LF got through: {}", content.escape_ascii()))?;
        if !told.binary {
            let same = (told.dot_line, told.eight_bit, told.longest_line, told.header_len)
                == (facts.dot_line, facts.eight_bit, facts.longest_line, facts.header_len);
            must(same, || format!("facts {told:?}, counted {facts:?} of {}", content.escape_ascii()))?;
        }
        let recipients = mail.recipients.iter().map(|one| one.address.clone()).collect();
        self.mails.push((recipients, content.to_vec()));
        Ok(())
    }
}

#[derive(PartialEq)]
enum Fed {
    More,
    StartTls,
}

/// The codes of whole replies; an error when something is not one.
fn replies(out: &[u8]) -> Result<Vec<u16>, String> {
    let text = std::str::from_utf8(out).map_err(|_| "a reply is not ASCII".to_owned())?;
    must(text.is_empty() || text.ends_with("\r\n"), || format!("half a reply: {text:?}"))?;
    let (mut codes, mut open): (Vec<u16>, Option<u16>) = (Vec::new(), None);
    for line in text.split_terminator("\r\n") {
        let code = line.get(..3).and_then(|code| code.parse::<u16>().ok()).filter(|code| (200..560).contains(code));
        let code = code.ok_or_else(|| format!("no code: {line:?}"))?;
        let most = if code == 334 { CHALLENGE_MAX } else { LINE_MAX };
        must(line.len() + 2 <= most, || format!("a line of {} bytes", line.len() + 2))?;
        must(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), || format!("odd bytes in {line:?}"))?;
        must(open.is_none_or(|open| open == code), || format!("another code inside a reply: {line:?}"))?;
        let class = line.as_bytes().get(4).copied();
        if code >= 400 {
            must(class == line.bytes().next(), || format!("no enhanced code of its class: {line:?}"))?;
        }
        match line.as_bytes().get(3) {
            Some(b'-') => open = Some(code),
            Some(b' ') => {
                open = None;
                codes.push(code);
            }
            _ => return Err(format!("no separator: {line:?}")),
        }
    }
    must(open.is_none(), || format!("a reply without its last line: {text:?}"))?;
    Ok(codes)
}

/// RFC 5321 section 4.5.2, the slow way: lines by CRLF, the last is a dot, one leading dot goes.
fn unstuff(sent: &[u8]) -> Vec<u8> {
    let text = sent.strip_suffix(b".\r\n").unwrap_or(sent);
    let mut out = Vec::new();
    let mut start = true;
    for (at, byte) in text.iter().enumerate() {
        if !(start && *byte == b'.') {
            out.push(*byte);
        }
        start = *byte == b'\n' && at > 0 && text[at - 1] == b'\r';
    }
    out
}

/// A session as a client would speak it, more or less.
fn script(source: &mut Source<'_>) -> Vec<u8> {
    let mut script = Vec::new();
    if !source.one_in(8) {
        script.extend_from_slice(b"EHLO client.test\r\n");
    }
    if source.flip() {
        script.extend_from_slice(b"STARTTLS\r\nEHLO client.test\r\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n");
    }
    for _ in 0..64 {
        if source.is_empty() {
            break;
        }
        match source.byte() % 8 {
            0 => transaction(source, &mut script),
            1 => chunks(source, &mut script),
            _ => command(source, &mut script),
        }
    }
    script
}

const COMMANDS: &[&[u8]] = &[
    b"EHLO client.test",
    b"HELO client.test",
    b"EHLO [192.0.2.1]",
    b"EHLO",
    b"MAIL FROM:<a@client.test>",
    b"MAIL FROM:<>",
    b"MAIL FROM:<a@b.client.test> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=a+2Bb",
    b"MAIL FROM:<a@client.test> BODY=BINARYMIME SMTPUTF8",
    b"MAIL FROM:<\xc3\xbc@client.test> SMTPUTF8 BODY=8BITMIME",
    b"MAIL FROM:<a@client.test> HOLDFOR=60 MT-PRIORITY=3 BY=120;R",
    b"MAIL FROM:<a@client.test> HOLDUNTIL=2027-02-01T00:00:00Z BY=-1;NT AUTH=<>",
    b"MAIL FROM:<a@client.test> SIZE=99999999999999999999",
    b"RCPT TO:<r@elsewhere.test>",
    b"RCPT TO:<postmaster>",
    b"RCPT TO:<Abuse@own.test>",
    b"RCPT TO:<b+1@rp.own.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;r+40x.test",
    b"RCPT TO:<@x.test,@y.test:fbl@own.test>",
    b"RCPT TO:<\"a b\\\"\"@own.test>",
    b"RCPT TO:<u+\xc3\xbc@rp.own.test>",
    b"RCPT TO:<r@[192.0.2.9]>",
    b"RCPT TO:<r@b\xc3\xbccher.test> NOTIFY=NEVER,SUCCESS",
    b"DATA",
    b"BDAT 3\r\nabc",
    b"BDAT 0 LAST",
    b"BDAT 5 LAST\r\nab\r\n.",
    b"BDAT 99999999999",
    b"RSET",
    b"NOOP x",
    b"VRFY a",
    b"EXPN a",
    b"HELP",
    b"STARTTLS",
    b"AUTH LOGIN",
    b"YWxpY2U=",
    b"c2VjcmV0",
    b"AUTH PLAIN AGFsaWNlAHNlY3JldA==",
    b"AUTH PLAIN =",
    b"AUTH SCRAM-SHA-256 biwsbj1hbGljZSxyPWFiY2RlZmc=",
    b"AUTH SCRAM-SHA-256-PLUS cD10bHMtZXhwb3J0ZXIsLG49YWxpY2Uscj1hYmNkZWZn",
    b"AUTH SCRAM-SHA-256 eSwsbj1hbGljZSxyPWFiY2RlZmc=",
    b"Yz1iaXdzLHI9YWJjLHA9eA==",
    b"*",
    b"XCLIENT ADDR=10.1.2.3 PORT=99 NAME=[UNAVAILABLE]",
    b"XCLIENT ADDR=IPV6:2001:db8::1 LOGIN=x",
    b"XCLIENT DESTADDR=1 HELO=x",
    b"QUIT",
    b"",
];

fn command(source: &mut Source<'_>, script: &mut Vec<u8>) {
    let mut line = source.pick(COMMANDS).to_vec();
    match source.byte() % 12 {
        0 => source.damage(&mut line, 3),
        1 => line.extend(source.spicy(40)),
        2 => line.extend(std::iter::repeat_n(b'x', source.below(5000))),
        3 => line = source.raw(20),
        _ => {}
    }
    script.extend_from_slice(&line);
    let end: &[u8] = match source.byte() % 24 {
        0 => b"\n",
        1 => b"\r",
        2 => b"\r\r\n",
        3 => b"",
        _ => b"\r\n",
    };
    script.extend_from_slice(end);
}

fn transaction(source: &mut Source<'_>, script: &mut Vec<u8>) {
    script.extend_from_slice(b"MAIL FROM:<a@client.test>\r\nRCPT TO:<abuse@own.test>\r\nDATA\r\n");
    content(source, script);
    if !source.one_in(6) {
        script.extend_from_slice(b"\r\n.\r\n");
    }
}

fn content(source: &mut Source<'_>, script: &mut Vec<u8>) {
    const PIECES: &[&[u8]] = &[
        b"Subject: x\r\n",
        b"\r\n",
        b"text\r\n",
        b".\r\n",
        b"..\r\n",
        b".x\r\n",
        b"\xc3\xbc\r\n",
        b"\n.\n",
        b"\r.\r",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r",
        b".",
        b"line",
    ];
    // Bare line ends spoil a message: in most there are none.
    let clean = !source.one_in(3);
    for _ in 0..source.below(12) {
        let piece = if clean { PIECES[source.below(7)] } else { source.pick(PIECES) };
        script.extend_from_slice(piece);
    }
}

fn chunks(source: &mut Source<'_>, script: &mut Vec<u8>) {
    script.extend_from_slice(b"MAIL FROM:<a@client.test> BODY=BINARYMIME\r\nRCPT TO:<abuse@own.test>\r\n");
    let count = 1 + source.below(4);
    for number in 1..=count {
        let mut chunk = Vec::new();
        content(source, &mut chunk);
        let last = if number == count && !source.one_in(6) { " LAST" } else { "" };
        let said = if source.one_in(12) { source.below(200) } else { chunk.len() };
        script.extend_from_slice(format!("BDAT {said}{last}\r\n").as_bytes());
        script.extend_from_slice(&chunk);
    }
}
