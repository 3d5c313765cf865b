//! A connection with or without TLS, and the adapter between rustls and our sockets.
//!
//! rustls does no input or output here: ciphertext is read into our buffer and fed, what it wants to send is collected
//! and written. Buffers are taken when needed and given back by [`Transport::shrink`]; an idle connection waits in
//! [`Transport::readable`] without any.

use std::io::{self, BufRead, Write};

use queue::Body;
use rustls::{Connection, HandshakeKind};

use super::client::take_verdict;
use super::{Client, Error, Info, Server};
use crate::net::Stream;

/// Ciphertext read at once: a whole record and its head.
const INPUT: usize = 17 * 1024;
/// Plaintext encrypted before it is written.
const CHUNK: usize = 64 * 1024;
/// What rustls may hold unsent; a chunk with its record heads must fit.
const LIMIT: usize = 2 * CHUNK;

/// A connection, plain or encrypted.
pub enum Transport {
    /// Bytes as they are.
    Plain(Stream),
    /// Through TLS.
    Tls(Box<TlsStream>),
}

/// TLS over a stream.
pub struct TlsStream {
    stream: Stream,
    connection: Connection,
    input: Vec<u8>,
    /// Bytes of `input` that rustls has taken.
    taken: usize,
    /// Ciphertext to be written.
    output: Vec<u8>,
    verified: Option<bool>,
    /// The peer broke TLS: nothing more can be read.
    broken: Option<rustls::Error>,
}

impl Transport {
    /// Shakes hands as the server. Of STARTTLS nothing may be left in the caller's buffers (RFC 3207 section 4.2).
    pub async fn accept(self, server: &Server) -> Result<Self, Error> {
        TlsStream::handshake(self.into_stream()?, Connection::Server(server.connection()?)).await
    }

    /// Shakes hands as the client, with `host`.
    pub async fn connect(self, client: &Client, host: &str) -> Result<Self, Error> {
        TlsStream::handshake(self.into_stream()?, Connection::Client(client.connection(host)?)).await
    }

    /// The stream below, for deadlines and addresses.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => &tls.stream,
        }
    }

    /// Reads what is there and appends it to `buf`, into its spare capacity (4 KiB are added when it has none). 0 is
    /// the end. As with [`Stream::read`], do not drop the future.
    pub async fn read(&mut self, buf: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Self::Plain(stream) => stream.read(buf).await,
            Self::Tls(tls) => tls.read(buf).await,
        }
    }

    /// Waits until [`Transport::read`] has something, or the end. May be dropped and called again.
    pub async fn readable(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.readable().await,
            Self::Tls(tls) => tls.readable().await,
        }
    }

    /// Writes all of `bytes` and gives the buffer back.
    pub async fn write_all(&mut self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(tls) => (tls.write(&[&bytes]).await, bytes),
        }
    }

    /// Writes a message straight from the memory it lies in; encryption is the only copy.
    pub async fn write_body(&mut self, body: Body) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_body(body).await,
            Self::Tls(tls) => tls.write(&[&body]).await,
        }
    }

    /// Writes `head` and then `body`, together where possible; gives the head's buffer back.
    pub async fn write_parts(&mut self, head: Vec<u8>, body: Body) -> (io::Result<()>, Vec<u8>) {
        match self {
            Self::Plain(stream) => stream.write_parts(head, body).await,
            Self::Tls(tls) => (tls.write(&[&head, &body]).await, head),
        }
    }

    /// What was agreed on; `None` in plain text.
    #[must_use]
    pub fn info(&self) -> Option<Info> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(tls.info()),
        }
    }

    /// RFC 5705 key material, 32 bytes; RFC 9266 uses it with [`super::CHANNEL_BINDING`]. `None` in plain text.
    #[must_use]
    pub fn exporter(&self, label: &[u8]) -> Option<[u8; 32]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.connection.export_keying_material([0; 32], label, Some(&[])).ok(),
        }
    }

    /// Says that no more bytes come, in TLS too.
    pub async fn close(&mut self) {
        if let Self::Tls(tls) = self {
            tls.connection.send_close_notify();
            // The peer may be gone; then nobody needs to be told.
            let _ = tls.flush().await;
        }
        self.stream().shutdown_write();
    }

    /// Gives buffers back while the connection idles.
    pub fn shrink(&mut self) {
        if let Self::Tls(tls) = self {
            if tls.taken >= tls.input.len() {
                tls.input = Vec::new();
                tls.taken = 0;
            }
            if tls.output.is_empty() {
                tls.output = Vec::new();
            }
        }
    }

    fn into_stream(self) -> Result<Stream, Error> {
        match self {
            Self::Plain(stream) => Ok(stream),
            Self::Tls(_) => Err(Error::Setting("TLS inside TLS".to_owned())),
        }
    }
}

impl TlsStream {
    async fn handshake(stream: Stream, mut connection: Connection) -> Result<Transport, Error> {
        connection.set_buffer_limit(Some(LIMIT));
        let (input, output) = (Vec::new(), Vec::new());
        let mut tls = Self { stream, connection, input, taken: 0, output, verified: None, broken: None };
        while tls.connection.is_handshaking() {
            tls.flush().await?;
            if !tls.connection.is_handshaking() {
                break;
            }
            if !tls.fill().await? {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            if let Err(error) = tls.process() {
                // RFC 8446 section 6.2: the peer is told why.
                let _ = tls.flush().await;
                return Err(error.into());
            }
        }
        tls.flush().await?;
        Ok(Transport::Tls(Box::new(tls)))
    }

    async fn read(&mut self, mut buf: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        loop {
            match self.decrypted(Some(&mut buf)) {
                Ok(Some(size)) => return (Ok(size), buf),
                Ok(None) => {}
                Err(error) => {
                    let _ = self.flush().await;
                    return (Err(error), buf);
                }
            }
            if let Err(error) = self.flush().await {
                return (Err(error), buf);
            }
            match self.fill().await {
                Ok(true) => {}
                // The peer ended TCP without ending TLS; SMTP has its own end of everything.
                Ok(false) => return (Ok(0), buf),
                Err(error) => return (Err(error), buf),
            }
        }
    }

    async fn readable(&mut self) -> io::Result<()> {
        loop {
            if self.decrypted(None)?.is_some() {
                return Ok(());
            }
            // The only await, and it may be dropped: everything else is done without waiting.
            self.stream.readable().await?;
            let mut bytes = [0; 4096];
            match self.stream.try_read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(size) => {
                    self.forget_taken();
                    self.input.extend_from_slice(bytes.get(..size).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Feeds rustls from `input` until it has plaintext, which is moved to `buf` when there is one. `None`: more
    /// ciphertext is needed. `Some(0)` with a buffer is the end.
    fn decrypted(&mut self, mut buf: Option<&mut Vec<u8>>) -> io::Result<Option<usize>> {
        loop {
            match (self.plaintext(buf.as_deref_mut()), self.taken < self.input.len()) {
                (Err(error), more) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(broken) = &self.broken {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, broken.clone()));
                    }
                    if !more {
                        return Ok(None);
                    }
                    self.broken = self.process().err();
                }
                (Err(error), _) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(0)),
                (result, _) => return result.map(Some),
            }
        }
    }

    fn plaintext(&mut self, buf: Option<&mut Vec<u8>>) -> io::Result<usize> {
        let mut reader = self.connection.reader();
        let chunk = reader.fill_buf()?;
        let Some(buf) = buf else { return Ok(chunk.len()) };
        if buf.len() == buf.capacity() {
            buf.reserve_exact(4096);
        }
        let size = chunk.len().min(buf.capacity() - buf.len());
        buf.extend_from_slice(chunk.get(..size).unwrap_or_default());
        reader.consume(size);
        Ok(size)
    }

    /// One step of rustls over `input`.
    fn process(&mut self) -> Result<(), rustls::Error> {
        while self.taken < self.input.len() {
            let mut rest = self.input.get(self.taken..).unwrap_or_default();
            match self.connection.read_tls(&mut rest) {
                Ok(size) => self.taken += size,
                // Its plaintext buffer is full; the caller empties it and comes again.
                Err(_) => break,
            }
            let state = self.connection.process_new_packets();
            if let Some(verdict) = take_verdict() {
                self.verified = Some(verdict);
            }
            self.collect();
            if state?.plaintext_bytes_to_read() > 0 {
                break;
            }
        }
        Ok(())
    }

    /// Reads ciphertext; false at the end.
    async fn fill(&mut self) -> io::Result<bool> {
        self.forget_taken();
        let mut input = std::mem::take(&mut self.input);
        if input.capacity() < INPUT {
            input.reserve_exact(INPUT - input.len());
        }
        let (result, input) = self.stream.read(input).await;
        self.input = input;
        Ok(result? > 0)
    }

    fn forget_taken(&mut self) {
        self.input.drain(..self.taken.min(self.input.len()));
        self.taken = 0;
    }

    /// Encrypts and writes, a chunk at a time.
    async fn write(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                let chunk = rest.get(..CHUNK.min(rest.len())).unwrap_or_default();
                let size = self.connection.writer().write(chunk)?;
                if size == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                rest = rest.get(size..).unwrap_or_default();
                self.collect();
                if self.output.len() >= CHUNK {
                    self.flush().await?;
                }
            }
        }
        self.flush().await
    }

    /// Takes what rustls wants to send: replies, alerts, tickets, key updates, data.
    fn collect(&mut self) {
        while self.connection.wants_write() {
            // Writing to a `Vec` does not fail.
            if self.connection.write_tls(&mut self.output).is_err() {
                break;
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.collect();
        if self.output.is_empty() {
            return Ok(());
        }
        let output = std::mem::take(&mut self.output);
        let (result, mut output) = self.stream.write_all(output).await;
        output.clear();
        self.output = output;
        result
    }

    fn info(&self) -> Info {
        let protocol = match self.connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLS",
        };
        let cipher = self.connection.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
        let name = match &self.connection {
            Connection::Server(server) => server.server_name().map(str::to_owned),
            Connection::Client(_) => None,
        };
        Info {
            protocol,
            // rustls names its TLS 1.3 suites TLS13_*, IANA TLS_*.
            cipher: cipher.unwrap_or_default().replace("TLS13_", "TLS_"),
            resumed: self.connection.handshake_kind() == Some(HandshakeKind::Resumed),
            verified: self.verified,
            name,
        }
    }
}
