//! A site that keeps the protocol and answers as it likes, and knows what it took.

use std::collections::VecDeque;

use mta::smtp::client::{Finished, Transaction};
use queue::OutcomeKind;

use super::source::Source;
use super::{must, Verdict};

/// What a reply of the site is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum About {
    Other,
    /// RCPT number n of the transaction, and whether it was taken.
    Recipient(usize, bool),
    /// The message, and whether it was taken.
    Content(bool),
}

pub(super) struct Owed {
    pub text: Vec<u8>,
    pub about: About,
}

/// A site that keeps the protocol.
#[derive(Default)]
pub(super) struct Site {
    pub replies: VecDeque<Owed>,
    heard: Vec<u8>,
    pub tls: bool,
    pub state: Hearing,
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
pub(super) enum Hearing {
    #[default]
    Commands,
    Data,
    Chunk(usize),
    Closed,
}

impl Site {
    pub(super) fn begin(&mut self, transaction: &Transaction) {
        self.addresses = transaction.recipients.iter().map(|one| one.address.clone()).collect();
        self.wanted = [&transaction.prefix[..], &transaction.body[..]].concat();
        (self.named, self.taken, self.mail, self.content) = (0, 0, false, Vec::new());
        (self.told_recipients, self.told_content) = (Vec::new(), None);
    }

    pub(super) fn told(&mut self, about: About) {
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

    pub(super) fn hear(&mut self, said: &[u8], source: &mut Source<'_>) -> Verdict {
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
    pub(super) fn judge(&self, finished: &Finished, seen: &[Option<OutcomeKind>]) -> Verdict {
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

pub(super) fn greeting(source: &mut Source<'_>) -> Owed {
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
