//! What a session hands over: one received mail, before anyone has judged its content.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use queue::{BodyFlags, EnvRecipient, UnixMillis};

use super::policy::{Credential, InboundKind, ListenerRole};
use crate::smtp::extension::MailParams;

/// Facts of a finished TLS handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.3` and the like, for the Received field.
    pub version: &'static str,
    /// Cipher suite by its registered name.
    pub cipher: String,
    /// RFC 9266 `tls-exporter`: 32 bytes, only from TLS 1.3 (or 1.2 with extended master secret).
    pub exporter: Option<[u8; 32]>,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address and port, as told by PROXY or XCLIENT when those are in use.
    pub addr: SocketAddr,
    /// Ours.
    pub local: SocketAddr,
    /// Present inside TLS.
    pub tls: Option<TlsFacts>,
    /// Confirmed host name, when someone looked it up (or XCLIENT told).
    pub name: Option<String>,
}

impl Peer {
    /// A peer in clear.
    #[must_use]
    pub fn new(addr: SocketAddr, local: SocketAddr) -> Self {
        Self { addr, local, tls: None, name: None }
    }

    /// Its address; IPv4 in mapped form counts as IPv4.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.addr.ip().to_canonical()
    }
}

/// RFC 3848 and RFC 6531 section 3.7.3: the word behind `with` in Received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocol {
    /// EHLO rather than HELO.
    pub extended: bool,
    /// The transaction uses SMTPUTF8.
    pub utf8: bool,
    /// Inside TLS.
    pub tls: bool,
    /// After AUTH.
    pub authenticated: bool,
}

impl Protocol {
    /// The registered keyword.
    #[must_use]
    pub fn keyword(self) -> &'static str {
        match (self.extended || self.tls || self.authenticated, self.utf8, self.tls, self.authenticated) {
            (false, false, ..) => "SMTP",
            (_, true, false, false) => "UTF8SMTP",
            (_, true, true, false) => "UTF8SMTPS",
            (_, true, false, true) => "UTF8SMTPA",
            (_, true, true, true) => "UTF8SMTPSA",
            (true, false, false, false) => "ESMTP",
            (true, false, true, false) => "ESMTPS",
            (true, false, false, true) => "ESMTPA",
            (true, false, true, true) => "ESMTPSA",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyword())
    }
}

/// A mail whose last byte has arrived. Nothing of it is durable yet.
#[derive(Clone, Debug)]
pub struct ReceivedMail {
    /// Without brackets, domain in lower-case A-labels; empty is the null reverse path.
    pub reverse_path: String,
    /// At least one. On port 25 mail to [`InboundKind::Operator`] already carries the operator's address.
    pub recipients: Vec<EnvRecipient>,
    /// On port 25 what each recipient is for, in the same order; empty on submission.
    pub inbound: Vec<InboundKind>,
    /// What MAIL promised.
    pub params: MailParams,
    /// `headroom` bytes of nothing, then the content: CRLF line ends, not dot-stuffed, no bare CR or LF unless
    /// `facts.binary`.
    pub buffer: Vec<u8>,
    /// Where the content begins.
    pub headroom: usize,
    /// About the content.
    pub facts: BodyFlags,
    /// Who submitted it; none on port 25.
    pub auth: Option<Arc<Credential>>,
    /// The other end.
    pub peer: Peer,
    /// What it called itself.
    pub helo: Arc<str>,
    /// For Received and the envelope.
    pub protocol: Protocol,
    /// What the listener is for.
    pub role: ListenerRole,
    /// The session it came in on.
    pub session: u64,
    /// Count of this transaction in its session, from 1.
    pub transaction: u32,
    /// When its last byte was fed.
    pub received: UnixMillis,
}

impl ReceivedMail {
    /// The content.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        self.buffer.get(self.headroom..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r26_keywords() {
        let keyword = |bits: u8| {
            Protocol { extended: bits & 8 != 0, utf8: bits & 4 != 0, tls: bits & 2 != 0, authenticated: bits & 1 != 0 }
                .keyword()
        };
        assert_eq!(keyword(0), "SMTP");
        let extended: Vec<_> = (8..16).map(keyword).collect();
        assert_eq!(
            extended,
            ["ESMTP", "ESMTPA", "ESMTPS", "ESMTPSA", "UTF8SMTP", "UTF8SMTPA", "UTF8SMTPS", "UTF8SMTPSA"]
        );
    }
}
