//! The xtext encoding of RFC 3461 section 4, for ENVID and ORCPT.

/// Decodes xtext; `None` when it is not xtext.
#[must_use]
pub fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => {
                let (high, low) = (bytes.next()?, bytes.next()?);
                out.push(hex(high)? << 4 | hex(low)?);
            }
            b'=' => return None,
            33..=126 => out.push(byte),
            _ => return None,
        }
    }
    String::from_utf8(out).ok()
}

/// RFC 3461 section 4 wants upper case; lower case is read as well.
fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// Encodes as xtext.
#[must_use]
pub fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'+' | b'=' => {
                let _ = write!(out, "+{byte:02X}");
            }
            33..=126 => out.push(byte as char),
            _ => {
                let _ = write!(out, "+{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r17_xtext_round_trips() {
        for text in ["", "plain", "a+b=c d", "grüße"] {
            assert_eq!(decode(&encode(text)).as_deref(), Some(text));
        }
        for bad in ["+", "+4", "+zz", "a=b", "a b", "+FF"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
