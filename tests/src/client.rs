//! A small blocking SMTP client whose dialogs a test writes out.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use base64::prelude::{Engine, BASE64_STANDARD};

use crate::wire::Wire;

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its code.
    pub code: u16,
    /// The words of each line.
    pub lines: Vec<String>,
}

impl Reply {
    /// All words.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// The spool id in "queued as".
    #[must_use]
    pub fn queued_as(&self) -> String {
        self.text().split("queued as ").nth(1).unwrap_or_default().trim().to_owned()
    }

    /// True when a line is or begins with this EHLO keyword.
    #[must_use]
    pub fn offers(&self, keyword: &str) -> bool {
        self.lines.iter().any(|line| line.split(' ').next() == Some(keyword))
    }

    /// Fails the test unless the code is this.
    #[track_caller]
    pub fn expect(self, code: u16) -> Self {
        assert_eq!(self.code, code, "{}", self.text());
        self
    }
}

/// A connection to a server.
pub struct Client {
    wire: Wire,
}

impl Client {
    /// Connects and reads the greeting.
    pub fn open(address: SocketAddr) -> io::Result<(Self, Reply)> {
        Self::on(TcpStream::connect_timeout(&address, Duration::from_secs(10))?)
    }

    /// Connects from an address of this machine.
    pub fn open_from(source: IpAddr, address: SocketAddr) -> io::Result<(Self, Reply)> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        socket.connect(&address.into())?;
        Self::on(socket.into())
    }

    fn on(socket: TcpStream) -> io::Result<(Self, Reply)> {
        let mut client = Self { wire: Wire::new(socket)? };
        let greeting = client.read()?;
        Ok((client, greeting))
    }

    /// Connects and says nothing, reads nothing.
    pub fn silent(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { wire: Wire::new(TcpStream::connect_timeout(&address, Duration::from_secs(10))?)? })
    }

    /// Connects, greets and says EHLO.
    #[track_caller]
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        let (mut client, greeting) = Self::open(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        greeting.expect(220);
        client.say("EHLO client.sender.test").expect(250);
        client
    }

    /// Connects with TLS from the first byte, greets and says EHLO.
    #[track_caller]
    #[must_use]
    pub fn connect_tls(address: SocketAddr) -> Self {
        let mut client = Self::silent(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        client.wire.tls_client().expect("a TLS handshake");
        client.read().expect("a greeting").expect(220);
        client.say("EHLO client.sender.test").expect(250);
        client
    }

    /// Connects, upgrades by STARTTLS and says EHLO again.
    #[track_caller]
    #[must_use]
    pub fn connect_starttls(address: SocketAddr) -> Self {
        let mut client = Self::connect(address);
        client.say("STARTTLS").expect(220);
        client.wire.tls_client().expect("a TLS handshake");
        client.say("EHLO client.sender.test").expect(250);
        client
    }

    /// Reads one reply.
    pub fn read(&mut self) -> io::Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let line = self.wire.line()?;
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let code = line.get(..3).and_then(|c| c.parse().ok()).ok_or_else(|| io::Error::other(line.clone()))?;
            lines.push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, lines });
            }
        }
    }

    /// Writes bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.send(bytes)
    }

    /// One command and its reply. Errors: the server is gone.
    pub fn try_say(&mut self, command: &str) -> io::Result<Reply> {
        self.wire.send(format!("{command}\r\n").as_bytes())?;
        self.read()
    }

    /// One command and its reply.
    #[track_caller]
    pub fn say(&mut self, command: &str) -> Reply {
        self.try_say(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// A message by DATA; `content` has CRLF lines and is not dot-stuffed. Gives the final reply, or the first that
    /// refuses; refused recipients alone do not end it.
    pub fn send_message(&mut self, from: &str, to: &[&str], content: &[u8]) -> io::Result<Reply> {
        self.send_with(&format!("<{from}>"), &to.iter().map(|to| format!("<{to}>")).collect::<Vec<_>>(), content)
    }

    /// As [`Client::send_message`], with parameters: `<a@b> BODY=8BITMIME`.
    pub fn send_with(&mut self, from: &str, to: &[String], content: &[u8]) -> io::Result<Reply> {
        let reply = self.try_say(&format!("MAIL FROM:{from}"))?;
        if reply.code != 250 {
            return Ok(reply);
        }
        let mut refused = None;
        let mut taken = 0;
        for to in to {
            let reply = self.try_say(&format!("RCPT TO:{to}"))?;
            if reply.code == 250 {
                taken += 1;
            } else {
                refused = Some(reply);
            }
        }
        if let (0, Some(reply)) = (taken, refused) {
            self.try_say("RSET")?;
            return Ok(reply);
        }
        let reply = self.try_say("DATA")?;
        if reply.code != 354 {
            return Ok(reply);
        }
        let mut stuffed = Vec::with_capacity(content.len() + 64);
        for line in content.split_inclusive(|b| *b == b'\n') {
            if line.starts_with(b".") {
                stuffed.push(b'.');
            }
            stuffed.extend_from_slice(line);
        }
        stuffed.extend_from_slice(b".\r\n");
        self.wire.send(&stuffed)?;
        self.read()
    }

    /// A message that must be taken; gives the spool id.
    #[track_caller]
    pub fn deliver(&mut self, from: &str, to: &[&str], content: &[u8]) -> String {
        let reply = self.send_message(from, to, content).unwrap_or_else(|error| panic!("sending: {error}"));
        reply.expect(250).queued_as()
    }

    /// A message by BDAT in these chunks.
    pub fn send_chunks(&mut self, from: &str, to: &[&str], chunks: &[&[u8]]) -> io::Result<Reply> {
        let mut reply = self.try_say(&format!("MAIL FROM:{from}"))?;
        for to in to {
            reply = self.try_say(&format!("RCPT TO:<{to}>"))?;
        }
        for (at, chunk) in chunks.iter().enumerate() {
            if reply.code != 250 {
                return Ok(reply);
            }
            let last = if at + 1 == chunks.len() { " LAST" } else { "" };
            self.wire.send(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes())?;
            self.wire.send(chunk)?;
            reply = self.read()?;
        }
        Ok(reply)
    }

    /// AUTH PLAIN with an initial response.
    pub fn auth_plain(&mut self, user: &str, password: &str) -> Reply {
        let token = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
        self.say(&format!("AUTH PLAIN {token}"))
    }

    /// AUTH LOGIN.
    pub fn auth_login(&mut self, user: &str, password: &str) -> Reply {
        let reply = self.say("AUTH LOGIN");
        if reply.code != 334 {
            return reply;
        }
        let reply = self.say(&BASE64_STANDARD.encode(user));
        if reply.code != 334 {
            return reply;
        }
        self.say(&BASE64_STANDARD.encode(password))
    }

    /// True when the server has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        self.wire.line().is_err()
    }
}

/// A message with a usual header and this body (CRLF lines).
#[must_use]
pub fn message(subject: &str, body: &str) -> Vec<u8> {
    format!("From: <a@sender.test>\r\nTo: <b@inbox.test>\r\nSubject: {subject}\r\n\r\n{body}\r\n").into_bytes()
}
