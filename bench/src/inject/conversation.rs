//! One connection of the injector: greeting, extensions, and one message at a time.
//!
//! What ended a message is told by a closed enum. A connection that breaks after the last byte of a message left and
//! before its reply came leaves it `Unknown`: nobody can say whether the server took it.

use super::plan::Plan;
use crate::limits::REPLY_LINE_MAX;
use crate::stream::Stream;
use anyhow::{bail, Context, Result};
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// How one message ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// 250 for this many recipients.
    Accepted(usize),
    /// 4xx, with the text.
    Deferred(u16, String),
    /// 5xx, with the text.
    Refused(u16, String),
    /// The last byte left, no final reply came.
    Unknown(String),
    /// The connection broke before the last byte left.
    Unsent(String),
}

impl Ending {
    fn by_code(reply: Reply) -> Self {
        match reply.code {
            400..=499 => Ending::Deferred(reply.code, reply.text),
            _ => Ending::Refused(reply.code, reply.text),
        }
    }

    /// May the connection be used for another message?
    pub fn keeps_connection(&self) -> bool {
        match self {
            Ending::Accepted(_) => true,
            Ending::Deferred(code, _) | Ending::Refused(code, _) => *code != 421,
            Ending::Unknown(_) | Ending::Unsent(_) => false,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Reply {
    code: u16,
    text: String,
}

impl Reply {
    fn good(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

/// A greeted connection.
#[derive(Debug)]
pub struct Conversation {
    stream: Stream,
    plan: Arc<Plan>,
    input: Vec<u8>,
    taken: usize,
    out: Vec<u8>,
    pipelining: bool,
    chunking: bool,
    /// Messages tried on this connection.
    pub used: u64,
}

impl Conversation {
    /// Connects, greets, starts TLS and authenticates as planned. Errors name the step.
    pub async fn open(plan: Arc<Plan>) -> Result<Self> {
        let socket = TcpStream::connect(plan.to).await.context("connecting")?;
        socket.set_nodelay(true)?;
        let stream = match &plan.tls {
            Some(_) if !plan.starttls => handshake(&plan, socket).await?,
            _ => Stream::Plain(socket),
        };
        let mut me = Self {
            stream,
            input: Vec::with_capacity(4096),
            taken: 0,
            out: Vec::with_capacity(8192),
            pipelining: false,
            chunking: false,
            used: 0,
            plan,
        };
        let greeting = me.reply().await.context("greeting")?;
        if !greeting.good() {
            bail!("greeting: {} {}", greeting.code, greeting.text);
        }
        me.hello().await?;
        if me.plan.starttls {
            let answer = me.ask(b"STARTTLS\r\n").await.context("STARTTLS")?;
            if !answer.good() {
                bail!("STARTTLS: {} {}", answer.code, answer.text);
            }
            me = me.encrypt().await?;
            me.hello().await?;
        }
        if let Some(response) = &me.plan.auth {
            let command = format!("AUTH PLAIN {response}\r\n");
            let answer = me.ask(command.as_bytes()).await.context("AUTH")?;
            if !answer.good() {
                bail!("AUTH: {} {}", answer.code, answer.text);
            }
        }
        Ok(me)
    }

    async fn encrypt(self) -> Result<Self> {
        let Stream::Plain(socket) = self.stream else { bail!("already encrypted") };
        let stream = handshake(&self.plan, socket).await?;
        Ok(Self { stream, input: Vec::with_capacity(4096), taken: 0, ..self })
    }

    async fn hello(&mut self) -> Result<()> {
        let verb = if self.plan.helo_only { "HELO" } else { "EHLO" };
        let command = format!("{verb} {}\r\n", self.plan.helo);
        self.stream.write_both(command.as_bytes(), b"").await?;
        let mut offers = Vec::new();
        let reply = self.reply_lines(&mut |line| offers.push(line.to_ascii_uppercase())).await.context("EHLO")?;
        if !reply.good() {
            bail!("{verb}: {} {}", reply.code, reply.text);
        }
        let offers = |word: &str| offers.iter().any(|line| line.split(' ').next() == Some(word));
        self.pipelining = self.plan.pipelining && offers("PIPELINING");
        self.chunking = self.plan.bdat && offers("CHUNKING");
        Ok(())
    }

    /// Sends message `id` and says how it ended. Cancel-unsafe: on a timeout drop the connection.
    pub async fn send(&mut self, id: u64) -> Ending {
        self.used += 1;
        let mut last_byte_left = false;
        let ended = match (self.pipelining, self.chunking) {
            (true, true) => self.send_chunk(id, &mut last_byte_left).await,
            (true, false) => self.send_pipelined(id, &mut last_byte_left).await,
            (false, _) => self.send_in_steps(id, &mut last_byte_left).await,
        };
        let ending = match ended {
            Ok(ending) => ending,
            Err(error) if last_byte_left => return Ending::Unknown(format!("{error:#}")),
            Err(error) => return Ending::Unsent(format!("{error:#}")),
        };
        let failed = !matches!(ending, Ending::Accepted(_));
        if failed && ending.keeps_connection() && !self.ask(b"RSET\r\n").await.is_ok_and(|reply| reply.good()) {
            self.used = u64::MAX;
        }
        ending
    }

    /// Everything in one write (RFC 2920 and RFC 3030 section 4.2: MAIL, RCPT and BDAT may be grouped).
    async fn send_chunk(&mut self, id: u64, last_byte_left: &mut bool) -> Result<Ending> {
        let plan = self.plan.clone();
        self.write_envelope(id);
        self.write_bdat(id);
        // From here on bytes of the last chunk may have left even if the write fails half way, but a server takes a
        // message only when it is whole.
        self.stream.write_both(&self.out, &plan.template.plain).await?;
        *last_byte_left = true;
        let envelope = self.envelope_replies().await?;
        let last = self.reply().await?;
        Ok(envelope.ending(last))
    }

    async fn send_pipelined(&mut self, id: u64, last_byte_left: &mut bool) -> Result<Ending> {
        let plan = self.plan.clone();
        self.write_envelope(id);
        self.out.extend_from_slice(b"DATA\r\n");
        self.stream.write_both(&self.out, b"").await?;
        let envelope = self.envelope_replies().await?;
        let go = self.reply().await?;
        if go.code != 354 {
            return Ok(envelope.ending(go));
        }
        if envelope.accepted == 0 {
            // RFC 2920 section 3.1: a 354 without any valid recipient is answered with an empty message.
            let answer = self.ask(b".\r\n").await?;
            return Ok(envelope.ending(Reply { code: answer.code.max(400), ..answer }));
        }
        self.out.clear();
        plan.template.write_head(id, &mut self.out);
        self.stream.write_both(&self.out, &plan.template.stuffed).await?;
        *last_byte_left = true;
        let last = self.reply().await?;
        Ok(envelope.ending(last))
    }

    async fn send_in_steps(&mut self, id: u64, last_byte_left: &mut bool) -> Result<Ending> {
        let plan = self.plan.clone();
        let mut envelope = Envelope::default();
        self.out.clear();
        plan.write_mail(id, &mut self.out);
        let mail = self.ask_out().await?;
        if !mail.good() {
            return Ok(Ending::by_code(mail));
        }
        for index in 0..plan.rcpts {
            self.out.clear();
            plan.write_rcpt(id, index, &mut self.out);
            let reply = self.ask_out().await?;
            envelope.count(reply);
        }
        if envelope.accepted == 0 {
            return Ok(envelope.ending(Reply { code: 554, text: String::new() }));
        }
        self.out.clear();
        if self.chunking {
            self.write_bdat(id);
            self.stream.write_both(&self.out, &plan.template.plain).await?;
        } else {
            let go = self.ask(b"DATA\r\n").await?;
            if go.code != 354 {
                return Ok(Ending::by_code(go));
            }
            self.out.clear();
            plan.template.write_head(id, &mut self.out);
            self.stream.write_both(&self.out, &plan.template.stuffed).await?;
        }
        *last_byte_left = true;
        let last = self.reply().await?;
        Ok(envelope.ending(last))
    }

    fn write_envelope(&mut self, id: u64) {
        self.out.clear();
        self.plan.write_mail(id, &mut self.out);
        for index in 0..self.plan.rcpts {
            self.plan.write_rcpt(id, index, &mut self.out);
        }
    }

    fn write_bdat(&mut self, id: u64) {
        self.out.extend_from_slice(b"BDAT ");
        super::plan::push_number(self.plan.template.stored_len() as u64, &mut self.out);
        self.out.extend_from_slice(b" LAST\r\n");
        self.plan.template.write_head(id, &mut self.out);
    }

    async fn envelope_replies(&mut self) -> Result<Envelope> {
        let mut envelope = Envelope { mail: self.reply().await?, ..Envelope::default() };
        for _ in 0..self.plan.rcpts {
            let reply = self.reply().await?;
            envelope.count(reply);
        }
        Ok(envelope)
    }

    /// Says goodbye; nobody waits for the answer longer than it takes.
    pub async fn quit(mut self) {
        let _ = self.ask(b"QUIT\r\n").await;
    }

    async fn ask(&mut self, command: &[u8]) -> Result<Reply> {
        self.stream.write_both(command, b"").await?;
        self.reply().await
    }

    async fn ask_out(&mut self) -> Result<Reply> {
        self.stream.write_both(&self.out, b"").await?;
        self.reply().await
    }

    async fn reply(&mut self) -> Result<Reply> {
        self.reply_lines(&mut |_| ()).await
    }

    /// Reads one reply (RFC 5321 section 4.2); `each` sees the text of every line.
    async fn reply_lines(&mut self, each: &mut dyn FnMut(&str)) -> Result<Reply> {
        loop {
            let rest = self.input.get(self.taken..).unwrap_or_default();
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.fill().await?;
                continue;
            };
            let line = rest.get(..end).unwrap_or_default();
            self.taken += end + 1;
            let code = line.get(..3).and_then(|code| std::str::from_utf8(code).ok()?.parse::<u16>().ok());
            let Some(code) = code else { bail!("not a reply: {}", String::from_utf8_lossy(line)) };
            let text = String::from_utf8_lossy(line.get(4..).unwrap_or_default());
            let text = text.trim_end();
            each(text);
            if line.get(3) != Some(&b'-') {
                let text = if code >= 400 { text.to_owned() } else { String::new() };
                return Ok(Reply { code, text });
            }
        }
    }

    async fn fill(&mut self) -> Result<()> {
        if self.taken == self.input.len() {
            self.input.clear();
            self.taken = 0;
        } else if self.taken > REPLY_LINE_MAX {
            self.input.drain(..self.taken);
            self.taken = 0;
        }
        if self.input.len() - self.taken > REPLY_LINE_MAX {
            bail!("reply line too long");
        }
        self.input.reserve(4096);
        if self.stream.read_buf(&mut self.input).await? == 0 {
            bail!("connection closed by the server");
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Envelope {
    mail: Reply,
    accepted: usize,
    refusal: Option<Reply>,
}

impl Envelope {
    fn count(&mut self, reply: Reply) {
        if reply.good() {
            self.accepted += 1;
        } else {
            self.refusal = Some(reply);
        }
    }

    fn ending(self, last: Reply) -> Ending {
        if self.mail.code >= 400 {
            return Ending::by_code(self.mail);
        }
        match self.refusal {
            Some(refusal) if self.accepted == 0 => Ending::by_code(refusal),
            _ if last.good() => Ending::Accepted(self.accepted),
            _ => Ending::by_code(last),
        }
    }
}

async fn handshake(plan: &Plan, socket: TcpStream) -> Result<Stream> {
    let config = plan.tls.clone().context("no TLS settings")?;
    let name = rustls::pki_types::ServerName::try_from(plan.server_name.clone()).context("TLS server name")?;
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, socket).await.context("TLS handshake")?;
    Ok(Stream::Client(Box::new(stream)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(code: u16) -> Reply {
        Reply { code, text: String::new() }
    }

    #[test]
    fn ending_names_the_first_who_refused() {
        let mut envelope = Envelope { mail: reply(250), ..Envelope::default() };
        envelope.count(reply(451));
        assert_eq!(envelope.ending(reply(503)), Ending::Deferred(451, String::new()));
        let mut envelope = Envelope { mail: reply(250), ..Envelope::default() };
        envelope.count(reply(550));
        envelope.count(reply(250));
        assert_eq!(envelope.ending(reply(250)), Ending::Accepted(1));
        let envelope = Envelope { mail: reply(421), ..Envelope::default() };
        assert!(!envelope.ending(reply(503)).keeps_connection());
    }
}
