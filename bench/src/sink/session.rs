//! The receiving side of SMTP as the sink speaks it: bytes in, replies out, no socket and no clock in sight.
//!
//! Lenient where leniency costs nothing (a bench sink is no gate), strict in framing: a message ends only at
//! `CRLF . CRLF` or with the last chunk. Replies gather in `out` until the input is used up, so pipelined commands
//! are answered in one write and in order (RFC 2920 section 3.2).

use super::rules::{Question, Stage, Verdict};
use super::world::{BadTls, World};
use crate::limits::{COMMAND_LINE_MAX, SINK_CHUNK_MAX, SINK_RECIPIENTS_MAX};
use memchr::memmem;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What the driver of a session has to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write `out`, then read more.
    NeedMore,
    /// A message is complete: decide, call `end_message`, go on.
    Message,
    /// Write `out`, then start the TLS handshake; the input behind is dropped (RFC 3207 section 4.2).
    StartTls,
    /// Write `out`, wait, go on.
    Wait(Duration),
    /// Write `out`, then close.
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Command,
    /// Inside DATA; `fresh` at the start of a line.
    Data {
        fresh: bool,
    },
    Chunk {
        left: u64,
        last: bool,
        /// The chunk belongs to no transaction and is thrown away (RFC 3030 section 2).
        stray: bool,
    },
}

/// One session.
#[derive(Debug)]
pub struct Session {
    state: State,
    /// Who connected.
    pub peer: SocketAddr,
    /// Number of the connection.
    pub connection: u64,
    /// TLS version and suite, empty without TLS.
    pub tls: String,
    /// Name given in EHLO or HELO.
    pub helo: String,
    /// Reverse path of the open transaction.
    pub from: Vec<u8>,
    /// Accepted recipients of the open transaction, each followed by a line feed.
    pub recipients: Vec<u8>,
    /// How many they are.
    pub recipient_count: usize,
    /// The message so far, up to `World::keep` bytes, dots unstuffed.
    pub message: Vec<u8>,
    /// Its size so far.
    pub size: u64,
    /// By BDAT?
    pub chunked: bool,
    /// Transactions begun on this connection.
    pub transaction: u64,
    /// Messages accepted on this connection.
    pub messages: u64,
    /// Wall clock at MAIL, microseconds since 1970, filled in by the driver's clock.
    pub mail_us: u64,
    in_transaction: bool,
}

impl Session {
    /// A session before its greeting.
    pub fn new(peer: SocketAddr, connection: u64) -> Self {
        Self {
            state: State::Command,
            peer,
            connection,
            tls: String::new(),
            helo: String::new(),
            from: Vec::new(),
            recipients: Vec::new(),
            recipient_count: 0,
            message: Vec::new(),
            size: 0,
            chunked: false,
            transaction: 0,
            messages: 0,
            mail_us: 0,
            in_transaction: false,
        }
    }

    /// The greeting, or what a rule says instead.
    pub fn greet(&mut self, out: &mut Vec<u8>, world: &World, now: Instant) -> Step {
        if let Some(verdict) = self.ask(world, Stage::Connect, "", "", now) {
            return obey(&verdict, out, world).unwrap_or(Step::NeedMore);
        }
        reply(out, &format!("220 {} ESMTP", world.options.name));
        Step::NeedMore
    }

    /// Takes bytes; returns how many were used and what to do next.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>, world: &World, now: Instant, us: u64) -> (usize, Step) {
        let mut used = 0;
        let mut commands = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            if rest.is_empty() {
                return (used, Step::NeedMore);
            }
            let (taken, step) = match self.state {
                State::Command => {
                    commands += 1;
                    if commands == 2 {
                        world.stats.borrow_mut().pipelined += 1;
                    }
                    self.feed_command(rest, out, world, now, us)
                }
                State::Data { fresh } => self.feed_data(rest, fresh, world.keep),
                State::Chunk { left, last, stray } => self.feed_chunk(rest, (left, last, stray), out, world),
            };
            used += taken;
            match step {
                Some(step) => return (used, step),
                None if taken == 0 => return (used, Step::NeedMore),
                None => {}
            }
        }
    }

    /// Ends the transaction of a complete message with the final reply.
    pub fn end_message(&mut self, accepted: bool) {
        if accepted {
            self.messages += 1;
        }
        self.reset();
    }

    /// Asks the rules about one stage.
    pub fn ask(&self, world: &World, stage: Stage, domain: &str, recipient: &str, now: Instant) -> Option<Verdict> {
        let mut rules = world.rules.borrow_mut();
        if rules.is_empty() {
            return None;
        }
        let peer = self.peer.ip();
        let open = world.open_by_peer.borrow().get(&peer).copied().unwrap_or(0);
        let from = String::from_utf8_lossy(&self.from);
        rules.ask(&Question { stage, domain, peer, open, pair: (&from, recipient), now })
    }

    fn reset(&mut self) {
        self.state = State::Command;
        self.in_transaction = false;
        self.from.clear();
        self.recipients.clear();
        self.recipient_count = 0;
        self.message.clear();
        self.size = 0;
        self.chunked = false;
    }

    fn keep(&mut self, bytes: &[u8], most: usize) {
        self.size += bytes.len() as u64;
        let room = most.saturating_sub(self.message.len()).min(bytes.len());
        self.message.extend_from_slice(bytes.get(..room).unwrap_or_default());
    }

    /// Looks for the end of data (RFC 5321 section 4.5.2), removing the dots that were doubled.
    fn feed_data(&mut self, rest: &[u8], fresh: bool, most: usize) -> (usize, Option<Step>) {
        if fresh {
            return match rest {
                [b'.', b'\r', b'\n', ..] => (3, Some(Step::Message)),
                [b'.'] | [b'.', b'\r'] => (0, None),
                [b'.', ..] => {
                    self.state = State::Data { fresh: false };
                    (1, None)
                }
                _ => {
                    self.state = State::Data { fresh: false };
                    // Nothing used, but the state moved on: look again at once.
                    self.feed_data(rest, false, most)
                }
            };
        }
        match memmem::find(rest, b"\r\n.") {
            Some(at) => {
                self.keep(rest.get(..at + 2).unwrap_or_default(), most);
                self.state = State::Data { fresh: true };
                (at + 2, None)
            }
            None => {
                // The last two bytes may be the beginning of the end.
                let sure = rest.len().saturating_sub(2);
                self.keep(rest.get(..sure).unwrap_or_default(), most);
                (sure, None)
            }
        }
    }

    fn feed_chunk(
        &mut self,
        rest: &[u8],
        (left, last, stray): (u64, bool, bool),
        out: &mut Vec<u8>,
        world: &World,
    ) -> (usize, Option<Step>) {
        let take = left.min(rest.len() as u64) as usize;
        if !stray {
            self.keep(rest.get(..take).unwrap_or_default(), world.keep);
        }
        let left = left - take as u64;
        self.state = State::Chunk { left, last, stray };
        if left > 0 {
            return (take, None);
        }
        self.state = State::Command;
        if stray {
            refuse(out, world, "503 5.5.1 no transaction");
        } else if last {
            return (take, Some(Step::Message));
        } else {
            reply(out, "250 2.0.0 go on");
        }
        (take, None)
    }

    fn feed_command(
        &mut self,
        rest: &[u8],
        out: &mut Vec<u8>,
        world: &World,
        now: Instant,
        us: u64,
    ) -> (usize, Option<Step>) {
        let Some(end) = memchr::memchr(b'\n', rest) else {
            if rest.len() > COMMAND_LINE_MAX {
                refuse(out, world, "500 5.5.2 line too long");
                return (rest.len(), Some(Step::Close));
            }
            return (0, None);
        };
        let line = rest.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let step = self.command(line, out, world, now, us);
        if step.is_none() && matches!(self.state, State::Chunk { left: 0, .. }) {
            // BDAT 0 has no bytes that would bring it to its end.
            let State::Chunk { left, last, stray } = self.state else { return (end + 1, None) };
            return (end + 1, self.feed_chunk(&[], (left, last, stray), out, world).1);
        }
        (end + 1, step)
    }

    fn command(&mut self, line: &[u8], out: &mut Vec<u8>, world: &World, now: Instant, us: u64) -> Option<Step> {
        let verb = line.get(..4).unwrap_or(line);
        let is = |word: &[u8; 4]| verb.eq_ignore_ascii_case(word);
        if is(b"MAIL") {
            return self.mail(line, out, world, now, us);
        } else if is(b"RCPT") {
            return self.rcpt(line, out, world, now);
        } else if is(b"BDAT") {
            return self.bdat(line, out, world);
        } else if is(b"DATA") {
            if self.recipient_count == 0 {
                refuse(out, world, "503 5.5.1 no valid recipients");
            } else {
                self.state = State::Data { fresh: true };
                reply(out, "354 go on");
            }
        } else if is(b"EHLO") || is(b"HELO") {
            return self.hello(line, is(b"EHLO"), out, world, now);
        } else if is(b"RSET") {
            self.reset();
            reply(out, "250 2.0.0 ok");
        } else if is(b"NOOP") {
            reply(out, "250 2.0.0 ok");
        } else if is(b"QUIT") {
            reply(out, "221 2.0.0 bye");
            return Some(Step::Close);
        } else if line.eq_ignore_ascii_case(b"STARTTLS") {
            return self.start_tls(out, world);
        } else if is(b"VRFY") {
            reply(out, "252 2.0.0 send it and see");
        } else {
            refuse(out, world, "502 5.5.1 not here");
        }
        None
    }

    fn hello(&mut self, line: &[u8], extended: bool, out: &mut Vec<u8>, world: &World, now: Instant) -> Option<Step> {
        self.reset();
        self.helo = String::from_utf8_lossy(line.get(5..).unwrap_or_default()).trim().to_owned();
        if let Some(verdict) = self.ask(world, Stage::Helo, "", "", now) {
            return obey(&verdict, out, world);
        }
        match extended {
            true => {
                let [plain, encrypted] = &world.ehlo;
                out.extend_from_slice(if self.tls.is_empty() { plain } else { encrypted });
            }
            false => reply(out, &format!("250 {}", world.options.name)),
        }
        None
    }

    fn start_tls(&mut self, out: &mut Vec<u8>, world: &World) -> Option<Step> {
        if world.tls.is_none() || !self.tls.is_empty() {
            refuse(out, world, "502 5.5.1 not here");
            return None;
        }
        match world.bad_tls {
            BadTls::Refuse => {
                refuse(out, world, "454 4.7.0 TLS not available");
                return None;
            }
            BadTls::Close => {
                reply(out, "220 2.0.0 go on");
                return Some(Step::Close);
            }
            BadTls::Garbage => {
                reply(out, "220 2.0.0 go on");
                out.extend_from_slice(b"this is not a handshake\r\n");
                return Some(Step::Close);
            }
            BadTls::No | BadTls::Expired => {}
        }
        reply(out, "220 2.0.0 go on");
        // RFC 3207 section 4.2: everything learned before the handshake is forgotten.
        self.reset();
        self.helo.clear();
        Some(Step::StartTls)
    }

    fn mail(&mut self, line: &[u8], out: &mut Vec<u8>, world: &World, now: Instant, us: u64) -> Option<Step> {
        if self.in_transaction {
            refuse(out, world, "503 5.5.1 nested MAIL");
            return None;
        }
        let Some(path) = path(line) else {
            refuse(out, world, "501 5.5.4 MAIL FROM:<address> is wanted");
            return None;
        };
        if world.limits.mail.is_some_and(|most| self.transaction >= most) {
            refuse(out, world, "421 4.5.3 MAILMAX reached");
            world.stats.borrow_mut().closed_on_purpose += 1;
            return Some(Step::Close);
        }
        if !world.rules.borrow().is_empty() {
            let domain = String::from_utf8_lossy(domain(path)).into_owned();
            if let Some(verdict) = self.ask(world, Stage::Mail, &domain, "", now) {
                return obey(&verdict, out, world);
            }
        }
        self.reset();
        self.in_transaction = true;
        self.transaction += 1;
        self.mail_us = us;
        self.from.extend_from_slice(path);
        world.stats.borrow_mut().transactions += 1;
        reply(out, "250 2.1.0 ok");
        None
    }

    fn rcpt(&mut self, line: &[u8], out: &mut Vec<u8>, world: &World, now: Instant) -> Option<Step> {
        let Some(path) = path(line) else {
            refuse(out, world, "501 5.5.4 RCPT TO:<address> is wanted");
            return None;
        };
        if !self.in_transaction {
            refuse(out, world, "503 5.5.1 MAIL first");
            return None;
        }
        let most = world.limits.rcpt.unwrap_or(SINK_RECIPIENTS_MAX as u64);
        if self.recipient_count as u64 >= most {
            refuse(out, world, "452 4.5.3 too many recipients");
            return None;
        }
        if !world.rules.borrow().is_empty() {
            let domain = String::from_utf8_lossy(domain(path)).into_owned();
            let recipient = String::from_utf8_lossy(path).into_owned();
            if let Some(verdict) = self.ask(world, Stage::Rcpt, &domain, &recipient, now) {
                return obey(&verdict, out, world);
            }
        }
        self.recipients.extend_from_slice(path);
        self.recipients.push(b'\n');
        self.recipient_count += 1;
        reply(out, "250 2.1.5 ok");
        None
    }

    /// RFC 3030 section 2.
    fn bdat(&mut self, line: &[u8], out: &mut Vec<u8>, world: &World) -> Option<Step> {
        let mut words = line.get(4..).unwrap_or_default().split(|&b| b == b' ').filter(|word| !word.is_empty());
        let size = words.next().and_then(|word| std::str::from_utf8(word).ok()?.parse::<u64>().ok());
        let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case(b"LAST"));
        let Some(left) = size.filter(|size| *size <= SINK_CHUNK_MAX) else {
            refuse(out, world, "501 5.5.4 BDAT size [LAST] is wanted");
            return Some(Step::Close);
        };
        self.chunked = true;
        self.state = State::Chunk { left, last, stray: self.recipient_count == 0 };
        None
    }
}

/// The address between the angle brackets of MAIL or RCPT.
fn path(line: &[u8]) -> Option<&[u8]> {
    let open = memchr::memchr(b'<', line)?;
    let close = memchr::memrchr(b'>', line)?;
    line.get(open + 1..close)
}

/// What follows the last `@`.
pub fn domain(path: &[u8]) -> &[u8] {
    memchr::memrchr(b'@', path).and_then(|at| path.get(at + 1..)).unwrap_or_default()
}

/// Appends a reply line.
pub fn reply(out: &mut Vec<u8>, line: &str) {
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a negative reply and counts it.
pub fn refuse(out: &mut Vec<u8>, world: &World, line: &str) {
    let mut stats = world.stats.borrow_mut();
    match line.as_bytes().first() {
        Some(b'4') => stats.replies_4xx += 1,
        Some(b'5') => stats.replies_5xx += 1,
        _ => {}
    }
    reply(out, line);
}

/// Does what a rule says: the reply, then a wait or the end.
pub fn obey(verdict: &Verdict, out: &mut Vec<u8>, world: &World) -> Option<Step> {
    if let Some(line) = &verdict.reply {
        refuse(out, world, line);
    }
    if verdict.close {
        world.stats.borrow_mut().closed_on_purpose += 1;
        return Some(Step::Close);
    }
    (!verdict.delay.is_zero()).then_some(Step::Wait(verdict.delay))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: super::super::Options,
    }

    fn world(arguments: &[&str]) -> World {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut line = vec!["sink"];
        line.extend_from_slice(arguments);
        World::new(&Line::parse_from(line).options).unwrap()
    }

    /// Feeds in pieces of `piece` bytes as a socket would; returns replies and the messages seen.
    fn talk(world: &World, input: &[u8], piece: usize) -> (String, Vec<Vec<u8>>) {
        let mut session = Session::new("127.0.0.1:9".parse().unwrap(), 1);
        let (mut out, mut messages, mut buffer) = (Vec::new(), Vec::new(), Vec::new());
        'pieces: for bytes in input.chunks(piece) {
            buffer.extend_from_slice(bytes);
            loop {
                let (used, step) = session.feed(&buffer, &mut out, world, Instant::now(), 0);
                buffer.drain(..used);
                match step {
                    Step::Message => {
                        messages.push(session.message.clone());
                        session.end_message(true);
                        out.extend_from_slice(b"250 taken\r\n");
                    }
                    Step::NeedMore => break,
                    Step::Close => break 'pieces,
                    other => panic!("{other:?}"),
                }
            }
        }
        (String::from_utf8(out).unwrap(), messages)
    }

    const OPENING: &str = "EHLO a.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n";

    #[test]
    fn r5321_4_5_2_dots_are_unstuffed_at_every_cut() {
        let world = world(&["--verify", "--no-tls"]);
        let input = format!("{OPENING}DATA\r\n..a\r\n..\r\nb.\r\n.\r\nQUIT\r\n");
        for piece in 1..input.len() {
            let (replies, messages) = talk(&world, input.as_bytes(), piece);
            assert_eq!(messages, vec![b".a\r\n.\r\nb.\r\n".to_vec()], "piece {piece}");
            assert!(replies.ends_with("354 go on\r\n250 taken\r\n221 2.0.0 bye\r\n"), "{replies}");
        }
    }

    #[test]
    fn r3030_chunks_are_bytes() {
        let world = world(&["--verify"]);
        let input = format!("{OPENING}BDAT 7\r\n.\r\n.\r\nxBDAT 0\r\nBDAT 3 LAST\r\nyz\nMAIL FROM:<>\r\n");
        for piece in [1, 2, 3, 5, 17, 1000] {
            let (replies, messages) = talk(&world, input.as_bytes(), piece);
            assert_eq!(messages, vec![b".\r\n.\r\nxyz\n".to_vec()], "piece {piece}");
            assert!(replies.ends_with("go on\r\n250 2.0.0 go on\r\n250 taken\r\n250 2.1.0 ok\r\n"), "{replies}");
        }
    }

    #[test]
    fn r3030_stray_chunk_is_read_and_refused() {
        let world = world(&[]);
        let (replies, messages) = talk(&world, b"EHLO a\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n", 1000);
        assert!(messages.is_empty());
        assert!(replies.ends_with("503 5.5.1 no transaction\r\n250 2.0.0 ok\r\n"), "{replies}");
    }

    #[test]
    fn modes_and_limits() {
        let defer = world(&["--mode", "defer"]);
        assert!(talk(&defer, OPENING.as_bytes(), 1000).0.ends_with("450 4.2.1 try again later\r\n"));
        assert_eq!(defer.stats.borrow().replies_4xx, 1);
        let limits = world(&["--limits", "MAILMAX=1 RCPTMAX=1"]);
        let input = format!("{OPENING}RCPT TO:<e@d.test>\r\nRSET\r\nMAIL FROM:<>\r\n");
        let (replies, _) = talk(&limits, input.as_bytes(), 1000);
        assert!(replies.contains("LIMITS MAILMAX=1 RCPTMAX=1\r\n"), "{replies}");
        assert!(replies.contains("452 4.5.3"), "{replies}");
        assert!(replies.ends_with("421 4.5.3 MAILMAX reached\r\n"), "{replies}");
    }
}
