//! Addresses and paths of the envelope: RFC 5321 section 4.1.2 and 4.1.3, RFC 6531 section 3.3.
//!
//! The local part keeps its bytes and its case; the domain becomes lower-case A-labels. A source route is read and
//! thrown away (RFC 5321 section 4.1.1.3). What is not an address here never reaches the spool.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::limits::{DOMAIN_MAX, LOCAL_PART_MAX};

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No brackets around the path, or no end to it.
    #[error("a path stands in angle brackets")]
    Brackets,
    /// A malformed source route.
    #[error("malformed source route")]
    Route,
    /// A malformed, empty or overlong local part.
    #[error("malformed local part")]
    Local,
    /// A malformed, empty or overlong domain or address literal.
    #[error("malformed domain")]
    Domain,
}

/// What stands between the brackets of MAIL FROM or RCPT TO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path<'a> {
    /// `<>`: the null reverse path.
    Null,
    /// `<postmaster>` without a domain, in any case (RFC 5321 section 4.5.1).
    Postmaster,
    /// An address with a domain.
    Mailbox(Mailbox<'a>),
}

/// An address with a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox<'a> {
    /// As given: case kept, quotes kept.
    pub local: &'a str,
    /// Lower-case A-labels, or an address literal with its brackets.
    pub domain: String,
    /// The domain is an address literal.
    pub literal: bool,
    /// Some byte of the text as given is outside ASCII (RFC 6531).
    pub non_ascii: bool,
}

impl Mailbox<'_> {
    /// `local@domain`.
    #[must_use]
    pub fn address(&self) -> String {
        let mut text = String::with_capacity(self.local.len() + 1 + self.domain.len());
        text.push_str(self.local);
        text.push('@');
        text.push_str(&self.domain);
        text
    }
}

/// Splits `<path> rest` and reads the path. `rest` starts behind the bracket.
pub fn path(text: &str) -> Result<(Path<'_>, &str), AddressError> {
    let inner = text.strip_prefix('<').ok_or(AddressError::Brackets)?;
    let end = closing_bracket(inner).ok_or(AddressError::Brackets)?;
    let (body, rest) = (&inner[..end], &inner[end + 1..]);
    if body.is_empty() {
        return Ok((Path::Null, rest));
    }
    let body = strip_route(body)?;
    if body.eq_ignore_ascii_case("postmaster") {
        return Ok((Path::Postmaster, rest));
    }
    Ok((Path::Mailbox(mailbox(body)?), rest))
}

/// Reads `local@domain` without brackets.
pub fn mailbox(text: &str) -> Result<Mailbox<'_>, AddressError> {
    let end = local_part_end(text).ok_or(AddressError::Local)?;
    let (local, rest) = text.split_at(end);
    if local.is_empty() || local.len() > LOCAL_PART_MAX {
        return Err(AddressError::Local);
    }
    let given = rest.strip_prefix('@').ok_or(AddressError::Domain)?;
    let literal = given.starts_with('[');
    let domain = if literal {
        literal_domain(given).ok_or(AddressError::Domain)?
    } else {
        domain_name(given).ok_or(AddressError::Domain)?
    };
    Ok(Mailbox { local, domain, literal, non_ascii: !text.is_ascii() })
}

/// Lower-case A-labels of a domain name, or none when it is no domain name (RFC 5321 section 4.1.2, RFC 5891).
#[must_use]
pub fn domain_name(text: &str) -> Option<String> {
    let ascii = if text.is_ascii() { text.to_ascii_lowercase() } else { idna::domain_to_ascii(text).ok()? };
    is_domain_name(&ascii).then_some(ascii)
}

fn is_domain_name(text: &str) -> bool {
    // An underscore is outside the grammar and found in the field.
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let edges = [bytes.first(), bytes.last()];
        bytes.len() <= 63
            && edges.iter().all(|edge| edge.is_some_and(|byte| *byte != b'-'))
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= DOMAIN_MAX && text.split('.').all(label)
}

/// An address literal with its brackets, RFC 5321 section 4.1.3, in lower case.
fn literal_domain(text: &str) -> Option<String> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let v6 = inner.get(..5).filter(|tag| tag.eq_ignore_ascii_case("ipv6:")).map(|_| &inner[5..]);
    match v6 {
        Some(address) => address.parse::<Ipv6Addr>().ok().map(|_| ())?,
        None => inner.parse::<Ipv4Addr>().ok().map(|_| ())?,
    }
    Some(text.to_ascii_lowercase())
}

/// Index of the `>` that ends a path: not one inside a quoted local part.
fn closing_bracket(text: &str) -> Option<usize> {
    let mut quoted = false;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => {
                bytes.next()?;
            }
            b'>' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Drops `@one,@two:` in front of an address.
fn strip_route(text: &str) -> Result<&str, AddressError> {
    if !text.starts_with('@') {
        return Ok(text);
    }
    let (route, address) = text.split_once(':').ok_or(AddressError::Route)?;
    for hop in route.split(',') {
        let name = hop.strip_prefix('@').ok_or(AddressError::Route)?;
        domain_name(name).ok_or(AddressError::Route)?;
    }
    Ok(address)
}

/// Where the local part ends: at the `@` behind a dot-string or a quoted string.
fn local_part_end(text: &str) -> Option<usize> {
    if text.starts_with('"') {
        return quoted_end(text);
    }
    let end = text.find('@')?;
    let atoms = &text[..end];
    atoms.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(is_atext)).then_some(end)
}

fn quoted_end(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some(at + 1),
            b'\\' => {
                let (_, escaped) = bytes.next()?;
                (b' '..=b'~').contains(&escaped).then_some(())?;
            }
            b' '..=b'~' | 0x80.. => {}
            _ => return None,
        }
    }
    None
}

/// RFC 5322 section 3.2.3 atext, and all of UTF-8 beyond ASCII (RFC 6531 section 3.3).
fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<String, AddressError> {
        path(text).map(|(path, rest)| {
            assert_eq!(rest, "");
            match path {
                Path::Null => "null".to_owned(),
                Path::Postmaster => "postmaster".to_owned(),
                Path::Mailbox(mailbox) => mailbox.address(),
            }
        })
    }

    #[test]
    fn r01_paths_that_are_taken() {
        for (text, expected) in [
            ("<>", "null"),
            ("<PostMaster>", "postmaster"),
            ("<Some.Body@Example.TEST>", "Some.Body@example.test"),
            ("<@hop.test,@hop2.test:a@b.test>", "a@b.test"),
            ("<\"a@b\"@c.test>", "\"a@b\"@c.test"),
            ("<\"a>\\\" b\"@c.test>", "\"a>\\\" b\"@c.test"),
            ("<a%b@c.test>", "a%b@c.test"),
            ("<a@[192.0.2.1]>", "a@[192.0.2.1]"),
            ("<a@[IPv6:2001:DB8::1]>", "a@[ipv6:2001:db8::1]"),
            ("<a@localhost>", "a@localhost"),
            ("<\u{fc}@b\u{fc}cher.test>", "\u{fc}@xn--bcher-kva.test"),
        ] {
            assert_eq!(one(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn r01_sizes_of_rfc_5321_section_4_5_3_1() {
        let local = "l".repeat(64);
        let domain = format!("{0}.{0}.{0}.{1}", "d".repeat(63), "e".repeat(63));
        assert_eq!(domain.len(), 255);
        let address = format!("{local}@{domain}");
        assert_eq!(one(&format!("<{address}>")), Ok(address));
        assert!(one(&format!("<{}@a.test>", "l".repeat(LOCAL_PART_MAX + 1))).is_err());
        assert!(one(&format!("<l@{domain}e>")).is_err());
    }

    #[test]
    fn r01_what_is_no_path() {
        for text in [
            "",
            "a@b.test",
            "<a@b.test",
            "<a>",
            "<@>",
            "<a@>",
            "<@b.test>",
            "<a..b@c.test>",
            "<.a@c.test>",
            "<a.@c.test>",
            "<a b@c.test>",
            "<a@b@c.test>",
            "<a@-b.test>",
            "<a@b-.test>",
            "<a@b..test>",
            "<a@b.test.>",
            "<a@[1.2.3]>",
            "<a@[IPv6:1.2.3.4]>",
            "<a@[::1]>",
            "<\"a@c.test>",
            "<\"a\"b@c.test>",
            "<@hop a@b.test>",
            "<hop.test:a@b.test>",
            "<@hop.test,b.test:a@b.test>",
            "<a@b_c!.test>",
            "<a@xn--.\u{fffd}>",
        ] {
            assert!(path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rest_behind_the_path() {
        assert_eq!(path("<a@b.test> SIZE=1").unwrap().1, " SIZE=1");
    }
}
