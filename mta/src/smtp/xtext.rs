//! xtext: RFC 3461 section 4. Printable ASCII without `+` and `=`, other bytes as `+` and two upper-case hex digits.

/// True when `text` is well-formed xtext.
#[must_use]
pub fn is_xtext(text: &[u8]) -> bool {
    decode(text).is_some()
}

/// The bytes behind xtext, or none when it is malformed.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(hex(*bytes.next()?)? << 4 | hex(*bytes.next()?)?),
            b'=' => return None,
            b'!'..=b'~' => out.push(*byte),
            _ => return None,
        }
    }
    Some(out)
}

/// The xtext form of any bytes.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'+' | b'=' => out.push_str(&format!("+{byte:02X}")),
            b'!'..=b'~' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("+{byte:02X}")),
        }
    }
    out
}

/// Upper-case hex only, as the grammar says.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r17_xtext_round_trips() {
        for bytes in [&b"plain@a.test"[..], b"a+b=c d", b"\x00\xff", b""] {
            assert_eq!(decode(encode(bytes).as_bytes()).as_deref(), Some(bytes));
        }
        assert_eq!(decode(b"rfc822;a+2Bb@c"), Some(b"rfc822;a+b@c".to_vec()));
    }

    #[test]
    fn r17_malformed_xtext_is_refused() {
        for text in [&b"+"[..], b"+2", b"+2b", b"+GG", b"a=b", b"a b", b"\xc3\xbc"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
