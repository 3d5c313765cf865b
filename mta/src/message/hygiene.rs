//! Hygiene at acceptance: what a provider would refuse is refused here, while the client still listens.
//!
//! Each refusal names the field or line and who would refuse it. Nothing is repaired that would hide a defect of the
//! client, except a missing Date and Message-ID on submission (RFC 6409 sections 8.2, 8.3). Received fields of others
//! are counted, never altered.

use super::address;
use super::facts::{self, Facts};
use super::header::{Header, Name, ScanError};

/// Most hops: RFC 5321 section 6.3 wants at least 100.
pub const HOPS_MAX: usize = 100;
/// Longest line without its CRLF, RFC 5322 section 2.1.1.
pub const LINE_MAX: u32 = 998;

/// How a message came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Authenticated submission (RFC 6409) or HTTP injection: defects are refused, Date and Message-ID added.
    Submission,
    /// From a host of ours that may relay: defects are refused, nothing is added.
    Relay,
    /// For our own addresses (reports, postmaster): only loops and broken line ends are refused.
    Inbound,
}

/// Why a message is not accepted; the reply is `code enhanced text`, the text bland enough for the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} {}.{}.{} {text}", .enhanced[0], .enhanced[1], .enhanced[2])]
pub struct Refusal {
    /// SMTP reply code.
    pub code: u16,
    /// RFC 3463 enhanced code.
    pub enhanced: [u16; 3],
    /// One line of ASCII.
    pub text: String,
}

impl Refusal {
    /// A refusal for the form of the message: RFC 3463 gives X.6.0 for defects of content.
    #[must_use]
    pub fn content(text: String) -> Self {
        Self { code: 550, enhanced: [5, 6, 0], text }
    }

    /// A refusal for what the credential may not do.
    #[must_use]
    pub fn policy(text: String) -> Self {
        Self { code: 550, enhanced: [5, 7, 1], text }
    }
}

/// Fields that may stand once, RFC 5322 section 3.6, with who is known to refuse a second one.
const SINGLETONS: [(Name, &str, &str); 11] = [
    (Name::From, "From", "Gmail, Yahoo and Microsoft refuse this"),
    (Name::Date, "Date", "Gmail refuses this"),
    (Name::MessageId, "Message-ID", "Gmail refuses this"),
    (Name::Subject, "Subject", "Gmail refuses this"),
    (Name::To, "To", "Gmail refuses this"),
    (Name::Cc, "Cc", "Gmail refuses this"),
    (Name::Sender, "Sender", "Gmail refuses this"),
    (Name::ReplyTo, "Reply-To", "Gmail refuses this"),
    (Name::Bcc, "Bcc", "RFC 5322 3.6 allows one"),
    (Name::InReplyTo, "In-Reply-To", "Gmail refuses this"),
    (Name::References, "References", "Gmail refuses this"),
];

/// The refusal for a header that can't be read.
#[must_use]
pub fn unreadable(error: ScanError) -> Refusal {
    Refusal::content(match error {
        ScanError::NotAField(line) => {
            format!("line {line} of the header is not a header field (RFC 5322 2.2); Gmail and Microsoft refuse this")
        }
        ScanError::TooMany => "too many header fields".to_owned(),
        ScanError::TooLong => "the header is too long; Gmail refuses this".to_owned(),
    })
}

/// Checks a scanned message. `binary` is the client's BODY=BINARYMIME, where lines have no meaning (RFC 3030).
///
/// # Errors
/// The first defect found, loops first.
pub fn check(message: &[u8], header: &Header, facts: &Facts, binary: bool, role: Role) -> Result<(), Refusal> {
    let hops = header.hops();
    if hops > HOPS_MAX {
        return Err(Refusal {
            code: 554,
            enhanced: [5, 4, 6],
            text: format!("{hops} Received fields: the message loops"),
        });
    }
    // RFC 3030 section 3 frees the body from lines, not the header.
    if facts.bare && (!binary || facts::scan(message.get(..header.len).unwrap_or_default()).bare) {
        return Err(Refusal::content("a CR or LF stands alone; lines end with CRLF (RFC 5322 2.3)".to_owned()));
    }
    if role == Role::Inbound {
        return Ok(());
    }
    if facts.longest_line > LINE_MAX && !binary {
        // Only a refusal needs the number, so only now is it looked for.
        let found = if facts.longest_at == 0 { facts::scan(message) } else { *facts };
        return Err(Refusal::content(format!(
            "line {} has {} octets, {LINE_MAX} are allowed (RFC 5322 2.1.1); Gmail and Microsoft refuse this",
            found.longest_at, found.longest_line
        )));
    }
    singletons(header)?;
    authors(message, header)
}

fn singletons(header: &Header) -> Result<(), Refusal> {
    for (name, text, who) in SINGLETONS {
        let count = header.count(name);
        if count > 1 {
            return Err(Refusal::content(format!("{count} {text} fields, one is allowed; {who}")));
        }
    }
    Ok(())
}

/// Exactly one From field with exactly one address: several authors leave no one domain to align with (RFC 9989).
fn authors(message: &[u8], header: &Header) -> Result<(), Refusal> {
    let Some(from) = header.first(Name::From) else {
        return Err(Refusal::content(
            "the From field is missing (RFC 5322 3.6); Gmail, Yahoo and Microsoft refuse this".to_owned(),
        ));
    };
    match address::list(&from.text(message), 3).len() {
        1 => Ok(()),
        0 => Err(Refusal::content("the From field has no address; Gmail, Yahoo and Microsoft refuse this".to_owned())),
        _ => Err(Refusal::content(
            "the From field has several addresses (a name with a comma needs quotes); Gmail refuses this".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{facts, header};
    use super::*;

    fn refused(text: &str, role: Role) -> String {
        let header = header::scan(text.as_bytes()).unwrap();
        match check(text.as_bytes(), &header, &facts::scan(text.as_bytes()), false, role) {
            Ok(()) => String::new(),
            Err(refusal) => refusal.to_string(),
        }
    }

    #[test]
    fn r04_singleton_fields_are_not_duplicated() {
        for (_, name, _) in SINGLETONS {
            let text = format!("{name}: a@b.test\r\n{}: a@b.test\r\nFrom: a@b.test\r\n\r\n", name.to_lowercase());
            let reply = refused(&text, Role::Submission);
            let count = if name == "From" { 3 } else { 2 };
            assert!(reply.starts_with(&format!("550 5.6.0 {count} {name} fields")), "{reply}");
            assert_eq!(refused(&text, Role::Inbound), "");
        }
    }

    #[test]
    fn r04_exactly_one_from_with_one_address() {
        assert!(refused("To: a@b.test\r\n\r\n", Role::Relay).contains("From field is missing"));
        assert!(refused("From:\r\n\r\n", Role::Relay).contains("no address"));
        assert!(refused("From: a@b.test, c@d.test\r\n\r\n", Role::Relay).contains("several addresses"));
        assert_eq!(refused("From: \"a, b\" <a@b.test>\r\n\r\n", Role::Relay), "");
    }

    #[test]
    fn r04_lines_are_at_most_998() {
        let fits = format!("From: a@b.test\r\n\r\n{}\r\n", "x".repeat(998));
        assert_eq!(refused(&fits, Role::Submission), "");
        let long = format!("From: a@b.test\r\n\r\nok\r\n{}\r\n", "x".repeat(999));
        assert!(refused(&long, Role::Submission).starts_with("550 5.6.0 line 4 has 999 octets"));
        let flags = queue::BodyFlags { longest_line: 999, ..queue::BodyFlags::default() };
        let told = check(
            long.as_bytes(),
            &header::scan(long.as_bytes()).unwrap(),
            &Facts::of_flags(&flags, false),
            false,
            Role::Relay,
        );
        assert!(told.unwrap_err().text.starts_with("line 4 has 999 octets"));
    }

    #[test]
    fn r01_more_than_100_hops_is_a_loop() {
        let hops = |n: usize| format!("{}From: a@b.test\r\n\r\n", "Received: x\r\n".repeat(n));
        assert_eq!(refused(&hops(100), Role::Inbound), "");
        assert!(refused(&hops(101), Role::Inbound).starts_with("554 5.4.6 101 Received"));
    }

    #[test]
    fn r04_bare_line_ends_are_refused() {
        assert!(refused("From: a@b.test\r\n\r\na\nb\r\n", Role::Inbound).contains("stands alone"));
    }
}
