//! Domain names in the one form used inside: lower-case A-labels without a final dot (RFC 5890, UTS 46).
//!
//! Comparing two domains means comparing two of these strings. An address literal is not a domain; see
//! [`literal`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest domain in octets without the final dot, RFC 1035 section 2.3.4.
pub const DOMAIN_MAX: usize = 253;
/// Longest label in octets, RFC 1035 section 2.3.4.
pub const LABEL_MAX: usize = 63;

/// Why some text is not a domain mail can be sent to. The sender is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there, or two dots in a row.
    #[error("the domain has an empty label")]
    Empty,
    /// Longer than the DNS can carry.
    #[error("the domain or one of its labels is too long")]
    TooLong,
    /// A character or a label that IDNA or the DNS forbids.
    #[error("the domain has a label that is not allowed")]
    Invalid,
}

/// The A-label form of a domain: R-16, RFC 5891 section 4 by way of UTS 46 (non-transitional).
///
/// Takes U-labels, A-labels and mixtures of both, in any case, with or without the final dot; all forms of one
/// name give the same string.
pub fn to_ascii(domain: &str) -> Result<String, NameError> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    if domain.is_empty() {
        return Err(NameError::Empty);
    }
    // Far longer input can't become a legal name; it is refused before IDNA spends time on it.
    if domain.len() > 4 * DOMAIN_MAX {
        return Err(NameError::TooLong);
    }
    let ascii = idna::domain_to_ascii_cow(domain.as_bytes(), idna::AsciiDenyList::URL)
        .map_err(|_| NameError::Invalid)?
        .into_owned();
    check_labels(&ascii)?;
    Ok(ascii)
}

fn check_labels(ascii: &str) -> Result<(), NameError> {
    if ascii.len() > DOMAIN_MAX {
        return Err(NameError::TooLong);
    }
    for label in ascii.split('.') {
        if label.is_empty() {
            return Err(NameError::Empty);
        }
        if label.len() > LABEL_MAX {
            return Err(NameError::TooLong);
        }
        // The underscore is no host name character (RFC 952), but domains with one exist and take mail.
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !label.bytes().all(allowed) || label.starts_with('-') || label.ends_with('-') {
            return Err(NameError::Invalid);
        }
    }
    Ok(())
}

/// The address of an address literal, RFC 5321 section 4.1.3: `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
#[must_use]
pub fn literal(domain: &str) -> Option<IpAddr> {
    let inner = domain.strip_prefix('[')?.strip_suffix(']')?;
    let tag = inner.get(..5).filter(|t| t.eq_ignore_ascii_case("IPv6:"));
    match tag {
        Some(tag) => inner.get(tag.len()..)?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r16_all_forms_of_one_name_are_one_string() {
        for form in ["bücher.example", "BÜCHER.Example.", "xn--bcher-kva.example", "XN--BCHER-KVA.EXAMPLE"] {
            assert_eq!(to_ascii(form).as_deref(), Ok("xn--bcher-kva.example"), "{form}");
        }
    }

    #[test]
    fn r16_invalid_labels_are_refused() {
        assert_eq!(to_ascii(""), Err(NameError::Empty));
        assert_eq!(to_ascii("."), Err(NameError::Empty));
        assert_eq!(to_ascii("a..b"), Err(NameError::Empty));
        assert_eq!(to_ascii("-a.example"), Err(NameError::Invalid));
        assert_eq!(to_ascii("a b.example"), Err(NameError::Invalid));
        assert_eq!(to_ascii("xn--a.example"), Err(NameError::Invalid), "not punycode of anything");
        assert_eq!(to_ascii(&format!("{}.example", "a".repeat(64))), Err(NameError::TooLong));
        assert!(to_ascii(&"a.".repeat(200)).is_err());
        assert!(to_ascii(&"x".repeat(100_000)).is_err());
        assert_eq!(to_ascii("_dmarc.a_b.example").as_deref(), Ok("_dmarc.a_b.example"));
    }

    #[test]
    fn address_literals_are_read() {
        assert_eq!(literal("[192.0.2.1]"), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(literal("[ipv6:2001:db8::1]"), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(literal("[2001:db8::1]"), None, "RFC 5321 asks for the tag");
        assert_eq!(literal("[300.1.1.1]"), None);
        assert_eq!(literal("192.0.2.1"), None);
    }
}
