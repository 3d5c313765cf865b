//! The spool id: our key of a message. Never "message id", which is the header Message-ID.

use std::fmt;
use std::str::FromStr;

/// Key of one message for its whole life. Handed out in rising order, so it sorts by acceptance; survives
/// compaction; names no shard, segment or place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpoolId(pub u64);

/// Crockford's base 32: no letter that a person reading a log aloud could mistake.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 13 digits of 5 bits hold 64 bits.
const DIGITS: usize = 13;

impl fmt::Display for SpoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; DIGITS];
        for (place, digit) in text.iter_mut().enumerate() {
            let shift = 5 * (DIGITS - 1 - place);
            *digit = ALPHABET[((self.0 >> shift) & 31) as usize];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// Why a text is not a spool id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a spool id is 13 digits of 0-9 a-z without i, l, o, u")]
pub struct BadSpoolId;

impl FromStr for SpoolId {
    type Err = BadSpoolId;

    fn from_str(text: &str) -> Result<Self, BadSpoolId> {
        if text.len() != DIGITS {
            return Err(BadSpoolId);
        }
        let mut value: u128 = 0;
        for byte in text.bytes() {
            let lower = byte.to_ascii_lowercase();
            let digit = ALPHABET.iter().position(|c| *c == lower).ok_or(BadSpoolId)?;
            value = (value << 5) | digit as u128;
        }
        u64::try_from(value).map(SpoolId).map_err(|_| BadSpoolId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_sorts() {
        for id in [0, 1, 31, 32, u64::MAX / 3, u64::MAX] {
            assert_eq!(SpoolId(id).to_string().parse(), Ok(SpoolId(id)));
        }
        assert!(SpoolId(99).to_string() < SpoolId(100).to_string());
    }

    #[test]
    fn texts_that_are_no_spool_id_are_refused() {
        for text in ["", "0", "zzzzzzzzzzzzz", "000000000000i", "00000000000000"] {
            assert_eq!(text.parse::<SpoolId>(), Err(BadSpoolId), "{text}");
        }
    }
}
