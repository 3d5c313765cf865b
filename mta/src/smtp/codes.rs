//! Replies: code, enhanced code (RFC 2034, RFC 3463, RFC 5248) and bland words, as named values.
//!
//! Text on the wire says what the client can act on and nothing about our inside; the exact reason is for the log.

use std::borrow::Cow;
use std::fmt;

use super::limits::REPLY_LINE_MAX;

/// The `x.y.z` of RFC 3463. The class digit equals the first digit of the reply code (RFC 2034 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enhanced(pub u8, pub u16, pub u16);

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// One reply of ours. Several lines of text are separated by `\n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// RFC 5321 reply code.
    pub code: u16,
    /// Absent only in greetings and replies to EHLO and HELO, and in 3xx replies.
    pub enhanced: Option<Enhanced>,
    /// What a person may read.
    pub text: Cow<'static, str>,
}

impl Reply {
    /// A reply with an enhanced code whose class is that of `code`.
    #[must_use]
    pub const fn new(code: u16, subject: u16, detail: u16, text: &'static str) -> Self {
        Self { code, enhanced: Some(Enhanced((code / 100) as u8, subject, detail)), text: Cow::Borrowed(text) }
    }

    /// A reply without an enhanced code: greetings, EHLO, 3xx.
    #[must_use]
    pub const fn plain(code: u16, text: &'static str) -> Self {
        Self { code, enhanced: None, text: Cow::Borrowed(text) }
    }

    /// The same codes with other words.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.text = text.into();
        self
    }

    /// True for 4xx and 5xx.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.code >= 400
    }

    /// Appends the wire form. Bytes that could end a line or leave ASCII become `?`; lines are cut at 512 octets.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            let start = out.len();
            push_number(out, self.code);
            out.push(if lines.peek().is_some() { b'-' } else { b' ' });
            if let Some(Enhanced(class, subject, detail)) = self.enhanced {
                out.push(b'0' + class % 10);
                out.push(b'.');
                push_number(out, subject);
                out.push(b'.');
                push_number(out, detail);
                out.push(b' ');
            }
            let room = REPLY_LINE_MAX - 2 - (out.len() - start);
            let cut = &line.as_bytes()[..line.len().min(room)];
            out.extend(cut.iter().map(|byte| if matches!(byte, b' '..=b'~') { *byte } else { b'?' }));
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.enhanced {
            Some(enhanced) => write!(f, "{} {} {}", self.code, enhanced, self.text),
            None => write!(f, "{} {}", self.code, self.text),
        }
    }
}

fn push_number(out: &mut Vec<u8>, number: u16) {
    let mut digits = [0u8; 5];
    let mut rest = number;
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 || first == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

/// Named replies. Each says which RFC asked for it.
pub mod reply {
    use super::Reply;

    /// RFC 5321 section 4.1.1.10.
    pub const BYE: Reply = Reply::new(221, 0, 0, "bye");
    /// RFC 5321 section 4.1.1.9 and 4.1.1.5.
    pub const OK: Reply = Reply::new(250, 0, 0, "ok");
    /// RFC 3463 section 3.2: other or undefined address status, positive.
    pub const SENDER_OK: Reply = Reply::new(250, 1, 0, "sender ok");
    /// RFC 3463 X.1.5: destination address valid.
    pub const RECIPIENT_OK: Reply = Reply::new(250, 1, 5, "recipient ok");
    /// RFC 5321 section 4.1.1.4.
    pub const GO_AHEAD: Reply = Reply::plain(354, "end data with <CRLF>.<CRLF>");
    /// RFC 5321 section 3.5.3: nothing is told about addresses (also RFC 5321 section 7.3).
    pub const VRFY: Reply = Reply::new(252, 0, 0, "send mail and see");
    /// RFC 5321 section 4.1.1.8.
    pub const HELP: Reply = Reply::new(
        214,
        0,
        0,
        "EHLO HELO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP STARTTLS AUTH\nsee RFC 5321, RFC 6409 and RFC 3030",
    );
    /// RFC 3207 section 4.
    pub const TLS_GO: Reply = Reply::new(220, 0, 0, "go ahead");
    /// RFC 3207 section 4: not for now.
    pub const TLS_NOT_NOW: Reply = Reply::new(454, 7, 0, "TLS is not available for now");
    /// RFC 3207 section 5: what follows STARTTLS in clear could be an attacker's.
    pub const TLS_INJECTION: Reply = Reply::new(554, 5, 1, "nothing may follow STARTTLS before the handshake");
    /// RFC 5321 section 4.2.4: unknown command.
    pub const UNKNOWN: Reply = Reply::new(500, 5, 1, "command not recognized");
    /// RFC 5321 section 4.2.4: known, but not here.
    pub const NOT_HERE: Reply = Reply::new(502, 5, 1, "command not implemented here");
    /// RFC 5321 section 4.5.3.1.9.
    pub const LINE_TOO_LONG: Reply = Reply::new(500, 5, 2, "line too long");
    /// RFC 5321 section 2.3.8: a line ends with CRLF and nothing else.
    pub const LINE_END: Reply = Reply::new(500, 5, 2, "a line ends with CRLF");
    /// Bytes that are neither ASCII nor UTF-8, or control characters.
    pub const BAD_BYTES: Reply = Reply::new(500, 5, 2, "the line holds bytes that no command may hold");
    /// RFC 5321 section 4.1.4.
    pub const SEQUENCE: Reply = Reply::new(503, 5, 1, "bad sequence of commands");
    /// RFC 5321 section 4.1.4.
    pub const HELO_FIRST: Reply = Reply::new(503, 5, 1, "say EHLO or HELO first");
    /// RFC 5321 section 4.1.4.
    pub const MAIL_FIRST: Reply = Reply::new(503, 5, 1, "MAIL first");
    /// RFC 5321 section 4.1.4.
    pub const NESTED: Reply = Reply::new(503, 5, 1, "a transaction is under way; RSET ends it");
    /// RFC 5321 section 4.1.1.4.
    pub const NO_RECIPIENT: Reply = Reply::new(554, 5, 1, "no valid recipients");
    /// RFC 3030 section 3: binary content comes in chunks.
    pub const BINARY_NEEDS_BDAT: Reply = Reply::new(503, 5, 1, "BINARYMIME needs BDAT");
    /// RFC 3030 section 2: DATA and BDAT exclude each other.
    pub const BDAT_UNDER_WAY: Reply = Reply::new(503, 5, 1, "BDAT is under way; only BDAT, RSET, NOOP and QUIT now");
    /// RFC 3030 section 2: after a failed chunk only RSET helps.
    pub const BDAT_FAILED: Reply = Reply::new(503, 5, 1, "an earlier chunk failed; RSET first");
    /// RFC 5321 section 4.2.4.
    pub const NO_ARGUMENT: Reply = Reply::new(501, 5, 4, "this command takes no argument");
    /// RFC 5321 section 4.1.1.1.
    pub const BAD_HELO: Reply = Reply::new(501, 5, 4, "a domain or address literal is expected");
    /// RFC 5321 section 4.1.1.2.
    pub const BAD_MAIL: Reply = Reply::new(501, 5, 2, "syntax: MAIL FROM:<address>");
    /// RFC 5321 section 4.1.1.3.
    pub const BAD_RCPT: Reply = Reply::new(501, 5, 2, "syntax: RCPT TO:<address>");
    /// RFC 3463 X.1.7.
    pub const BAD_SENDER: Reply = Reply::new(501, 1, 7, "bad sender address syntax");
    /// RFC 3463 X.1.3.
    pub const BAD_RECIPIENT: Reply = Reply::new(501, 1, 3, "bad recipient address syntax");
    /// RFC 3030 section 2.
    pub const BAD_BDAT: Reply = Reply::new(501, 5, 4, "syntax: BDAT size [LAST]");
    /// RFC 5321 section 4.1.1.11.
    pub const UNKNOWN_PARAMETER: Reply = Reply::new(555, 5, 4, "parameter not recognized");
    /// RFC 5321 section 4.1.1.11.
    pub const BAD_PARAMETER: Reply = Reply::new(501, 5, 4, "bad parameter value");
    /// RFC 5321 section 4.1.2: a parameter given twice.
    pub const REPEATED_PARAMETER: Reply = Reply::new(501, 5, 4, "parameter given twice");
    /// RFC 6531 section 3.5.
    pub const NEEDS_SMTPUTF8: Reply = Reply::new(553, 6, 7, "a non-ASCII address needs SMTPUTF8");
    /// RFC 1870 section 6.1.
    pub const TOO_BIG: Reply = Reply::new(552, 3, 4, "message too big");
    /// RFC 1870 section 6.1: no room for now.
    pub const NO_ROOM: Reply = Reply::new(452, 3, 1, "no room for now");
    /// RFC 5321 section 4.5.3.1.10.
    pub const TOO_MANY_RECIPIENTS: Reply = Reply::new(452, 5, 3, "too many recipients");
    /// RFC 9422 section 4.3.
    pub const TOO_MANY_DOMAINS: Reply = Reply::new(452, 5, 3, "too many recipient domains in this session");
    /// RFC 9422 section 4.1.
    pub const TOO_MANY_MAILS: Reply = Reply::new(452, 5, 3, "too many transactions in this session");
    /// RFC 5321 section 2.3.8: the defence against smuggling.
    pub const BARE_LINE_END: Reply = Reply::new(550, 6, 0, "bare CR or LF in the message; lines end with CRLF");
    /// RFC 6409 section 4.3.
    pub const AUTH_REQUIRED: Reply = Reply::new(530, 7, 0, "authentication required");
    /// RFC 6409 section 6.1.
    pub const SENDER_NOT_YOURS: Reply = Reply::new(550, 7, 1, "you may not send from this address");
    /// Not an open relay.
    pub const RELAY_DENIED: Reply = Reply::new(550, 7, 1, "relaying denied");
    /// RFC 3463 X.1.2: we do not relay to addresses of hosts.
    pub const NO_LITERALS: Reply = Reply::new(550, 1, 2, "address literals are not relayed");
    /// No operator address is configured yet.
    pub const NO_OPERATOR: Reply = Reply::new(451, 3, 5, "the postmaster mailbox is not set up yet");
    /// RFC 7505 section 4.2.
    pub const NULL_MX_SENDER: Reply = Reply::new(550, 7, 27, "the sender's domain takes no mail (null MX)");
    /// RFC 4954 section 6.
    pub const AUTH_OK: Reply = Reply::new(235, 7, 0, "authentication succeeded");
    /// RFC 4954 section 6.
    pub const AUTH_FAILED: Reply = Reply::new(535, 7, 8, "authentication credentials invalid");
    /// RFC 4954 section 6: tried too often, or no answer for now.
    pub const AUTH_NOT_NOW: Reply = Reply::new(454, 7, 0, "temporary authentication failure");
    /// RFC 4954 section 4.
    pub const AUTH_MECHANISM: Reply = Reply::new(504, 5, 4, "mechanism not supported");
    /// RFC 4954 section 6.
    pub const AUTH_NEEDS_TLS: Reply = Reply::new(538, 7, 11, "encryption required for this mechanism");
    /// RFC 4954 section 4: the client gave up.
    pub const AUTH_CANCELLED: Reply = Reply::new(501, 7, 0, "authentication cancelled");
    /// RFC 4954 section 4: no base64, or a response where none is allowed.
    pub const AUTH_SYNTAX: Reply = Reply::new(501, 5, 2, "cannot decode the response");
    /// RFC 4954 section 4: longer than 12288 octets.
    pub const AUTH_LINE: Reply = Reply::new(500, 5, 6, "authentication exchange line is too long");
    /// RFC 4954 section 4.
    pub const AUTH_TWICE: Reply = Reply::new(503, 5, 1, "already authenticated");
    /// Refused or unknown commands beyond the allowance.
    pub const TOO_MANY_ERRORS: Reply = Reply::new(421, 7, 0, "too many errors");
    /// RFC 5321 section 3.8.
    pub const SHUTTING_DOWN: Reply = Reply::new(421, 3, 2, "shutting down");
    /// RFC 5321 section 4.5.3.2.7.
    pub const TIMED_OUT: Reply = Reply::new(421, 4, 2, "timed out waiting for you");
    /// More sessions than we take.
    pub const TOO_MANY_SESSIONS: Reply = Reply::new(421, 7, 0, "too many connections");
    /// More than the credential's quota.
    pub const QUOTA: Reply = Reply::new(450, 7, 1, "sending quota used up for now");
    /// XCLIENT from a peer that is not listed.
    pub const XCLIENT_DENIED: Reply = Reply::new(550, 7, 0, "insufficient authorization");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn r19_class_of_enhanced_code_is_class_of_reply() {
        assert_eq!(wire(&reply::TOO_BIG), "552 5.3.4 message too big\r\n");
        assert_eq!(wire(&reply::NULL_MX_SENDER), "550 5.7.27 the sender's domain takes no mail (null MX)\r\n");
        assert_eq!(wire(&Reply::new(250, 0, 0, "")), "250 2.0.0 \r\n");
    }

    #[test]
    fn several_lines_carry_the_codes_on_each() {
        assert_eq!(wire(&Reply::new(214, 0, 0, "a\nb")), "214-2.0.0 a\r\n214 2.0.0 b\r\n");
    }

    #[test]
    fn text_can_neither_end_a_line_nor_exceed_it() {
        let reply = reply::OK.with_text(format!("a\rb\u{fc}{}", "x".repeat(600)));
        let wire = wire(&reply);
        assert!(wire.starts_with("250 2.0.0 a?b??x"));
        assert_eq!(wire.len(), REPLY_LINE_MAX);
        assert_eq!(wire.matches("\r\n").count(), 1);
    }
}
