//! The client session against a site that says anything.
//!
//! One half of the cases has a site that keeps the protocol and answers as it likes: there the harness knows what
//! became of every recipient, and the session must say the same. The other half has bytes.

use std::collections::VecDeque;
use std::rc::Rc;

use mta::smtp::client::{
    Action, Config, Credentials, DeliverBy, End, Finished, Loss, Session, Stage, TlsMode, Transaction, TxRecipient,
};
use queue::{Body, BodyFlags, BounceClass, DsnRet, Notify, OutcomeKind, UnixSecs};

use super::source::Source;
use super::{must, Verdict};

const NOW: UnixSecs = UnixSecs(1_800_000_000);
/// Calls of `next` between two reads that no transaction of this size needs.
const STEPS_MAX: usize = 400;
const TURNS_MAX: usize = 4000;

pub(super) fn run(source: &mut Source<'_>) -> Verdict {
    let config = Config {
        ehlo: "out.test".into(),
        tls: [TlsMode::Off, TlsMode::Opportunistic, TlsMode::Required][source.below(3)],
        auth: source.one_in(4).then(|| Credentials {
            user: "u".into(),
            password: "p".into(),
            without_tls: source.flip(),
        }),
        rcpt_max: source.one_in(4).then(|| source.u32() % 4),
        classify: Rc::new(|code, enhanced, text, _: Stage| mta::bounce::classify::classify(code, enhanced, text)),
    };
    let honest = source.flip();
    let mut play = Play::new(config, honest);
    play.run(source)
}

struct Play {
    session: Session,
    site: Site,
    honest: bool,
    /// Transactions handed in whose end has not been told.
    open: bool,
    permitted: bool,
    wire: Vec<u8>,
    said_two: bool,
    withheld: bool,
}

impl Play {
    fn new(config: Config, honest: bool) -> Self {
        Self {
            session: Session::new(config),
            site: Site::default(),
            honest,
            open: false,
            permitted: false,
            wire: Vec::new(),
            said_two: false,
            withheld: false,
        }
    }

    fn run(&mut self, source: &mut Source<'_>) -> Verdict {
        let mut begun = 0;
        if self.honest {
            self.site.replies.push_back(greeting(source));
        }
        for _ in 0..TURNS_MAX {
            match self.pump(source, &mut begun)? {
                Turn::Read => self.answer(source)?,
                Turn::Over(end) => {
                    must(!self.open, || format!("over ({end:?}) with a transaction open"))?;
                    // Asked again, it says the same.
                    let again = self.session.next(&mut self.wire);
                    return must(matches!(again, Action::Close(_)), || format!("{again:?} behind the end"));
                }
            }
        }
        Err("the session does not come to an end".to_owned())
    }

    fn pump(&mut self, source: &mut Source<'_>, begun: &mut u32) -> Result<Turn, String> {
        for _ in 0..STEPS_MAX {
            match self.session.next(&mut self.wire) {
                Action::Read(_) => {
                    self.hear(source)?;
                    return Ok(Turn::Read);
                }
                Action::Flush => {
                    must(!self.wire.is_empty(), || "nothing to flush".to_owned())?;
                    self.hear(source)?;
                }
                Action::Write(piece) => {
                    self.wire.extend_from_slice(&piece);
                    self.hear(source)?;
                }
                Action::StartTls => {
                    self.hear(source)?;
                    self.session.encrypted();
                    self.site.tls = true;
                }
                Action::Intent(positions) => {
                    let count = self.session.transaction().map_or(0, |transaction| transaction.recipients.len());
                    must(positions.iter().all(|p| *p < count), || "an intent for nobody".to_owned())?;
                    if source.one_in(16) {
                        self.withheld = true;
                        self.session.withhold("the ack log is full");
                    } else {
                        self.permitted = true;
                        self.session.permit();
                    }
                }
                Action::Finished(finished) => {
                    must(self.open, || "an end without a beginning".to_owned())?;
                    self.open = false;
                    self.finished(&finished)?;
                }
                Action::Ready => {
                    must(!self.open, || "ready inside a transaction".to_owned())?;
                    self.hear(source)?;
                    if *begun >= 4 || !self.session.takes_more() || source.one_in(8) || source.is_empty() {
                        self.session.quit();
                        continue;
                    }
                    *begun += 1;
                    let transaction = transaction(source);
                    self.site.begin(&transaction);
                    (self.open, self.permitted, self.said_two, self.withheld) = (true, false, false, false);
                    self.session.begin(transaction, NOW);
                }
                Action::Close(end) => return Ok(Turn::Over(end)),
            }
        }
        Err("the session spins".to_owned())
    }

    /// Hands what was said to the site.
    fn hear(&mut self, source: &mut Source<'_>) -> Verdict {
        let said = std::mem::take(&mut self.wire);
        if std::env::var_os("FUZZ_TRACE").is_some() {
            eprintln!("C: {}", said.escape_ascii());
        }
        if !self.honest {
            return Ok(());
        }
        self.site.hear(&said, source)
    }

    /// The site speaks, or goes away.
    fn answer(&mut self, source: &mut Source<'_>) -> Verdict {
        if source.is_empty() || source.one_in(40) {
            self.session.closed(match source.byte() % 3 {
                0 => Loss::Closed,
                1 => Loss::TimedOut,
                _ => Loss::Write("broken pipe".into()),
            });
            return Ok(());
        }
        if !self.honest {
            let said = noise(source);
            self.said_two |= said.contains(&b'2');
            self.session.feed(&said);
            return Ok(());
        }
        let Some(reply) = self.site.replies.pop_front() else {
            if self.site.state == Hearing::Closed {
                self.session.closed(Loss::Closed);
                return Ok(());
            }
            return Err("the session waits for a reply that nobody owes".to_owned());
        };
        let mut bytes = reply.text;
        if source.one_in(4) {
            // Several at once: what is owed, not more.
            while let Some(more) = self.site.replies.pop_front() {
                self.site.told(reply.about);
                bytes.extend_from_slice(&more.text);
                self.site.told(more.about);
            }
        }
        self.site.told(reply.about);
        if std::env::var_os("FUZZ_TRACE").is_some() {
            eprintln!("S: {}", bytes.escape_ascii());
        }
        for piece in source.pieces(&bytes) {
            self.session.feed(piece);
        }
        Ok(())
    }

    fn finished(&mut self, finished: &Finished) -> Verdict {
        let count = finished.transaction.recipients.len();
        let mut seen = vec![None; count];
        for (position, outcome) in &finished.results {
            let slot = seen.get_mut(*position).ok_or("an outcome for nobody")?;
            must(slot.is_none(), || format!("two outcomes for {position}"))?;
            *slot = Some(outcome.kind);
            must(outcome.text.len() <= 2 * queue::limits::REPLY_TEXT_MAX, || "an endless text".to_owned())?;
            let code = outcome.code;
            match outcome.kind {
                OutcomeKind::Delivered => {
                    must((200..300).contains(&code), || format!("delivered by {code}"))?;
                    must(self.permitted, || "delivered without an intent".to_owned())?;
                    must(self.honest || self.said_two, || "delivered and no 2xx was said".to_owned())?;
                }
                OutcomeKind::Failed => must(code == 0 || code >= 500, || format!("failed by {code}"))?,
                OutcomeKind::Unknown => must(self.permitted, || "unknown without an intent".to_owned())?,
                OutcomeKind::Deferred => must(outcome.class != BounceClass::None, || "deferred, no class".to_owned())?,
                OutcomeKind::Suppressed => return Err("a session does not suppress".to_owned()),
            }
        }
        must(seen.first().is_some_and(Option::is_some), || "nothing about the first recipient".to_owned())?;
        let missing = seen.iter().filter(|kind| kind.is_none()).count();
        let limits = self.session.limits();
        let limited = limits.rcpt_max.is_some() || limits.rcpt_domain_max.is_some();
        must(missing == 0 || limited, || format!("{missing} recipients forgotten"))?;
        if self.honest {
            self.site.judge(finished, &seen)?;
        }
        Ok(())
    }
}

enum Turn {
    Read,
    Over(End),
}

/// What a reply of the site is about.
#[derive(Clone, Copy, Debug, PartialEq)]
enum About {
    Other,
    /// RCPT number n of the transaction, and whether it was taken.
    Recipient(usize, bool),
    /// The message, and whether it was taken.
    Content(bool),
}

struct Owed {
    text: Vec<u8>,
    about: About,
}

/// A site that keeps the protocol.
#[derive(Default)]
struct Site {
    replies: VecDeque<Owed>,
    heard: Vec<u8>,
    tls: bool,
    state: Hearing,
    /// Addresses of the transaction under way, by its own numbers.
    addresses: Vec<String>,
    wanted: Vec<u8>,
    named: usize,
    taken: usize,
    mail: bool,
    content: Vec<u8>,
    /// What the session has been told: recipients, message.
    told_recipients: Vec<(usize, bool)>,
    told_content: Option<bool>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Hearing {
    #[default]
    Commands,
    Data,
    Chunk(usize),
    Closed,
}

impl Site {
    fn begin(&mut self, transaction: &Transaction) {
        self.addresses = transaction.recipients.iter().map(|one| one.address.clone()).collect();
        self.wanted = [&transaction.prefix[..], &transaction.body[..]].concat();
        (self.named, self.taken, self.mail, self.content) = (0, 0, false, Vec::new());
        (self.told_recipients, self.told_content) = (Vec::new(), None);
    }

    fn told(&mut self, about: About) {
        match about {
            About::Other => {}
            About::Recipient(number, taken) => self.told_recipients.push((number, taken)),
            About::Content(taken) => self.told_content = Some(taken),
        }
    }

    fn say(&mut self, code: u16, text: &str, about: About) {
        self.replies.push_back(Owed { text: format!("{code} {text}\r\n").into_bytes(), about });
        if code == 421 {
            // RFC 5321 section 3.8: it closes, and says nothing more.
            self.state = Hearing::Closed;
        }
    }

    fn hear(&mut self, said: &[u8], source: &mut Source<'_>) -> Verdict {
        self.heard.extend_from_slice(said);
        loop {
            match self.state {
                Hearing::Closed => return Ok(()),
                Hearing::Commands => {
                    let Some(end) = self.heard.windows(2).position(|two| two == b"\r\n") else { return Ok(()) };
                    let line: Vec<u8> = self.heard.drain(..end + 2).collect();
                    let line = String::from_utf8_lossy(&line[..end]).into_owned();
                    must(!line.contains(['\r', '\n']), || format!("a line end inside {line:?}"))?;
                    self.command(&line, source)?;
                }
                Hearing::Chunk(size) => {
                    if self.heard.len() < size {
                        return Ok(());
                    }
                    self.content = self.heard.drain(..size).collect();
                    self.state = Hearing::Commands;
                    let fits = self.mail && self.taken > 0;
                    self.content_heard(fits, source)?;
                }
                Hearing::Data => {
                    let end = match self.heard.starts_with(b".\r\n") {
                        true => Some(0),
                        false => self.heard.windows(5).position(|five| five == b"\r\n.\r\n").map(|at| at + 2),
                    };
                    let Some(end) = end else { return Ok(()) };
                    let stuffed: Vec<u8> = self.heard.drain(..end).collect();
                    self.heard.drain(..3);
                    self.content = unstuff(&stuffed);
                    self.state = Hearing::Commands;
                    if self.taken == 0 {
                        must(stuffed.is_empty(), || "content without recipients".to_owned())?;
                        self.say(554, "5.5.1 nobody", About::Other);
                        continue;
                    }
                    self.content_heard(true, source)?;
                }
            }
        }
    }

    fn content_heard(&mut self, fits: bool, source: &mut Source<'_>) -> Verdict {
        if !fits {
            self.say(503, "5.5.1 no recipients", About::Content(false));
        } else {
            // RFC 5321 section 4.1.1.4: content of DATA ends with a line end whatever the message has.
            let mut wanted = self.wanted.clone();
            if !self.content.ends_with(b"\r\n") || self.content.len() == wanted.len() {
                must(self.content == wanted, || self.differs())?;
            } else {
                wanted.extend_from_slice(b"\r\n");
                must(self.content == wanted, || self.differs())?;
            }
            let code = code(source, 250);
            self.say(code, words(source, code), About::Content(code / 100 == 2));
        }
        (self.mail, self.taken) = (false, 0);
        Ok(())
    }

    fn differs(&self) -> String {
        format!("meant {} sent {}", self.wanted.escape_ascii(), self.content.escape_ascii())
    }

    fn command(&mut self, line: &str, source: &mut Source<'_>) -> Verdict {
        must(line.len() <= 2048, || format!("a command of {} bytes", line.len()))?;
        let verb = line.split([' ', ':']).next().unwrap_or_default();
        match verb {
            "EHLO" => {
                (self.mail, self.taken) = (false, 0);
                let reply = ehlo(source, self.tls);
                if reply.starts_with(b"421") {
                    self.state = Hearing::Closed;
                }
                self.replies.push_back(Owed { text: reply, about: About::Other });
            }
            "HELO" => {
                let code = code(source, 250);
                self.say(code, "site.test", About::Other);
            }
            "STARTTLS" => {
                let code = code(source, 220);
                self.say(if code / 100 == 2 { 220 } else { code }, "go", About::Other);
            }
            "AUTH" => {
                let go = if line.ends_with("LOGIN") { 334 } else { 235 };
                let code = code(source, go);
                self.say(code, "", About::Other);
            }
            "MAIL" => {
                must(!self.mail, || "MAIL inside a transaction".to_owned())?;
                let code = code(source, 250);
                self.mail = code / 100 == 2;
                self.taken = 0;
                self.say(code, words(source, code), About::Other);
            }
            "RCPT" => self.recipient(line, source)?,
            "DATA" => {
                let go = if self.taken > 0 || self.mail && source.one_in(4) { 354 } else { 503 };
                let code = if go == 354 { code(source, 354) } else { 503 };
                // A transaction with a refused DATA stays open until RSET.
                if code == 354 {
                    self.state = Hearing::Data;
                }
                self.say(code, words(source, code), About::Other);
            }
            "BDAT" => {
                let size = line.split(' ').nth(1).and_then(|size| size.parse().ok());
                self.state = Hearing::Chunk(size.ok_or_else(|| format!("no size: {line}"))?);
            }
            "RSET" => {
                (self.mail, self.taken) = (false, 0);
                let code = code(source, 250);
                self.say(code, "", About::Other);
            }
            "QUIT" => {
                self.say(221, "bye", About::Other);
                self.state = Hearing::Closed;
            }
            // The answers of a login.
            _ if verb.ends_with("==") || verb.ends_with('=') || verb.is_empty() || verb.len() < 12 => {
                let usual = if source.flip() { 334 } else { 235 };
                let code = code(source, usual);
                self.say(code, "", About::Other);
            }
            _ => return Err(format!("no command: {line:?}")),
        }
        Ok(())
    }

    fn recipient(&mut self, line: &str, source: &mut Source<'_>) -> Verdict {
        let address = line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(address, _)| address);
        let address = address.ok_or_else(|| format!("no address: {line:?}"))?;
        // Recipients are named in their order, each once.
        let found = self.addresses.iter().skip(self.named).position(|known| known == address);
        let number = self.named + found.ok_or_else(|| format!("a recipient nobody gave: {address}"))?;
        self.named = number + 1;
        let code = if self.mail { code(source, 250) } else { 503 };
        let taken = code / 100 == 2;
        self.taken += usize::from(taken);
        self.say(code, words(source, code), About::Recipient(number, taken));
        Ok(())
    }

    /// Delivered is who was taken, in a message that was taken, and was told so; nobody else.
    fn judge(&self, finished: &Finished, seen: &[Option<OutcomeKind>]) -> Verdict {
        for (number, kind) in seen.iter().enumerate() {
            let taken = self.told_recipients.contains(&(number, true));
            let delivered = taken && self.told_content == Some(true);
            let said = *kind == Some(OutcomeKind::Delivered);
            must(delivered == said, || {
                format!("recipient {number}: the site took it: {delivered}, the session says {kind:?}; {finished:?}")
            })?;
        }
        Ok(())
    }
}

/// The usual code, or another.
fn code(source: &mut Source<'_>, usual: u16) -> u16 {
    const OTHERS: &[u16] = &[421, 450, 451, 452, 454, 500, 503, 521, 530, 535, 550, 552, 554, 556, 354, 251, 199 + 1];
    if source.one_in(6) {
        OTHERS[source.below(OTHERS.len())]
    } else {
        usual
    }
}

fn words(source: &mut Source<'_>, code: u16) -> &'static str {
    let texts: &[&str] = match code / 100 {
        4 => &["4.7.0 slow down", "4.5.3 too many recipients", "Too many recipients", "4.2.2 full", "", "9.9 x"],
        5 => &["5.1.1 no such user", "5.7.1 spam", "5.5.3 too many", "no", "5.999999999.1 x"],
        _ => &["2.0.0 ok", "ok", "", "2.6.0 queued as x"],
    };
    texts[source.below(texts.len())]
}

fn greeting(source: &mut Source<'_>) -> Owed {
    let code = code(source, 220);
    let code = if code == 354 { 554 } else { code };
    Owed { text: format!("{code}-site.test\r\n{code} hello\r\n").into_bytes(), about: About::Other }
}

fn ehlo(source: &mut Source<'_>, tls: bool) -> Vec<u8> {
    let code = code(source, 250);
    if code != 250 {
        return format!("{code} no\r\n").into_bytes();
    }
    let mut lines = vec!["site.test".to_owned()];
    let bits = u32::from(source.byte()) | u32::from(source.byte()) << 8;
    let offers = [
        "PIPELINING",
        "CHUNKING",
        "8BITMIME",
        "SMTPUTF8",
        "DSN",
        "BINARYMIME",
        "SIZE 100000",
        "SIZE 10",
        "AUTH PLAIN LOGIN",
        "AUTH LOGIN",
        "DELIVERBY 100",
        "LIMITS RCPTMAX=2",
        "LIMITS MAILMAX=2 RCPTDOMAINMAX=1 X=Y",
        "ENHANCEDSTATUSCODES",
    ];
    for (bit, offer) in offers.iter().enumerate() {
        // Rare ones are left out more often than not.
        if bits & 1 << bit != 0 && (bit < 6 || source.one_in(3)) {
            lines.push((*offer).to_owned());
        }
    }
    if !tls && source.one_in(3) {
        lines.push("STARTTLS".to_owned());
    }
    if source.one_in(8) {
        lines.push(source.text(30).replace(['\r', '\n'], ""));
    }
    let last = lines.len() - 1;
    let mark = |at: usize| if at == last { ' ' } else { '-' };
    lines.iter().enumerate().flat_map(|(at, line)| format!("250{}{line}\r\n", mark(at)).into_bytes()).collect()
}

/// Replies and what is none.
fn noise(source: &mut Source<'_>) -> Vec<u8> {
    const SAID: &[&[u8]] = &[
        b"220 site.test\r\n",
        b"250-site.test\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 DSN\r\n",
        b"250-site.test\r\n250-STARTTLS\r\n250 LIMITS RCPTMAX=1\r\n",
        b"250 site.test\r\n",
        b"250 2.0.0 ok\r\n",
        b"354 go\r\n",
        b"451 4.3.0 later\r\n",
        b"550-5.1.1 no\r\n550 5.1.1 never\r\n",
        b"421 4.3.2 bye\r\n",
        b"250\r\n",
        b"250-\r\n",
        b"25",
        b"999 x\r\n",
        b"\r\n",
    ];
    let mut said = source.pick(SAID).to_vec();
    match source.byte() % 10 {
        0 => source.damage(&mut said, 3),
        1 => said = source.spicy(60),
        2 => said = said.repeat(source.below(300)),
        3 => said.extend(std::iter::repeat_n(b'x', source.below(20_000))),
        _ => {}
    }
    said
}

fn transaction(source: &mut Source<'_>) -> Transaction {
    let mut body: Vec<u8> = b"Received: x\r\n\r\n".to_vec();
    for _ in 0..source.below(8) {
        body.extend_from_slice(source.pick(&[&b".\r\n"[..], b"..a\r\n", b"text\r\n", b"\r\n", b"\xc3\xbc\r\n", b".x"]));
    }
    if source.one_in(16) {
        let line = b"a long line of a large message that goes in pieces\r\n.\r\n".repeat(source.range(1..9000));
        body.extend_from_slice(&line);
    }
    let lines = body.split(|byte| *byte == b'\n');
    let flags = BodyFlags {
        dot_line: lines.clone().any(|line| line.first() == Some(&b'.')),
        eight_bit: !body.is_ascii(),
        binary: source.one_in(12),
        smtputf8: source.one_in(12),
        longest_line: lines.map(|line| line.len() as u32).max().unwrap_or(0),
        header_len: 15,
    };
    let count = 1 + source.below(6);
    let recipients: Vec<_> = (0..count)
        .map(|number| TxRecipient {
            index: number as u16,
            address: match source.byte() % 16 {
                0 => format!("{}@b.test", source.text(12).replace(['<', '>'], "")),
                1 => format!("\u{fc}{number}@b.test"),
                other => format!("r{number}@d{}.test", other % 3),
            },
            orcpt: if source.one_in(6) { "rfc822;x".into() } else { String::new() },
            notify: Notify(source.byte() % 16),
        })
        .collect();
    Transaction {
        reverse_path: if source.flip() { "s@a.test".into() } else { String::new() },
        recipients,
        prefix: if source.flip() { b"DKIM-Signature: x\r\n\t.y\r\n".to_vec() } else { Vec::new() },
        body: Body::from(body),
        flags,
        envid: if source.one_in(6) { "e".into() } else { String::new() },
        ret: [DsnRet::Unset, DsnRet::Full, DsnRet::Hdrs][source.below(3)],
        deliver_by: source
            .one_in(8)
            .then(|| DeliverBy { until: UnixSecs(NOW.0.wrapping_add(source.u32() % 500)), notify: source.flip() }),
        hold_last: source.flip(),
        ..Transaction::default()
    }
}

fn unstuff(sent: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(sent.len());
    let mut start = true;
    for (at, byte) in sent.iter().enumerate() {
        if !(start && *byte == b'.') {
            out.push(*byte);
        }
        start = *byte == b'\n' && at > 0 && sent[at - 1] == b'\r';
    }
    out
}
