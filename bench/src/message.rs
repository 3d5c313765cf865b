//! The message the injector sends: built once, cut at the place where the number of the message goes.
//!
//! The first header fields differ by message (`Message-ID`, `X-Bench-Id`), everything behind `X-Bench-Sum` is the same
//! bytes for all of them and is covered by that sum. A server that only prepends header fields leaves the covered part
//! untouched, so a sink can prove byte-exact transport without a channel to the injector.
//! Never parses mail; the sink only looks for the two fields by name.

use memchr::memmem;
use std::sync::Arc;

/// Field name of the number of a message.
pub const ID_FIELD: &[u8] = b"X-Bench-Id: ";
/// Field name of the sum over everything behind its own line.
pub const SUM_FIELD: &[u8] = b"X-Bench-Sum: ";

/// What every message of a run shares.
#[derive(Clone, Debug)]
pub struct Template {
    /// Bytes behind the `X-Bench-Sum` line, as stored (not dot-stuffed).
    pub plain: Arc<[u8]>,
    /// The same bytes ready for DATA: dot-stuffed, ending in `CRLF . CRLF`.
    pub stuffed: Arc<[u8]>,
    sum_line: String,
}

impl Template {
    /// Builds a message of `size` bytes in all (as far as the fixed fields allow). With `dots`, one body line in eight
    /// starts with a dot; with `eight_bit`, lines carry UTF-8. `date` is an RFC 5322 date, `from`/`to` bare addresses.
    pub fn new(size: usize, dots: bool, eight_bit: bool, date: &str, from: &str, to: &str) -> Self {
        let mut plain = format!(
            "Date: {date}\r\nFrom: Bench <{from}>\r\nTo: <{to}>\r\nSubject: load\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: {}\r\n\r\n",
            if eight_bit { "8bit" } else { "7bit" }
        )
        .into_bytes();
        let head = head_len();
        let mut line_no = 0u64;
        while plain.len() + head + 2 < size {
            let room = size - plain.len() - head - 2;
            plain.extend_from_slice(&body_line(line_no, dots, eight_bit, room));
            plain.extend_from_slice(b"\r\n");
            line_no += 1;
        }
        let sum_line = format!("X-Bench-Sum: {:016x}\r\n", sum(&plain));
        let stuffed = stuff(&plain);
        Self { plain: plain.into(), stuffed: stuffed.into(), sum_line }
    }

    /// The same message with more header fields in the covered part, each as written.
    pub fn with_fields(&self, fields: &[String]) -> Self {
        let mut plain = Vec::with_capacity(self.plain.len() + 256);
        for field in fields {
            plain.extend_from_slice(field.as_bytes());
            plain.extend_from_slice(b"\r\n");
        }
        plain.extend_from_slice(&self.plain);
        let sum_line = format!("X-Bench-Sum: {:016x}\r\n", sum(&plain));
        let stuffed = stuff(&plain);
        Self { plain: plain.into(), stuffed: stuffed.into(), sum_line }
    }

    /// Appends the fields that differ by message. Their length is the same for every id.
    pub fn write_head(&self, id: u64, out: &mut Vec<u8>) {
        let mut digits = [b'0'; 16];
        let mut rest = id;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        out.extend_from_slice(b"Message-ID: <");
        out.extend_from_slice(&digits);
        out.extend_from_slice(b"@bench.test>\r\n");
        out.extend_from_slice(ID_FIELD);
        out.extend_from_slice(&digits);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(self.sum_line.as_bytes());
    }

    /// Length of the message as stored, bytes.
    pub fn stored_len(&self) -> usize {
        head_len() + self.plain.len()
    }
}

/// Length of what `write_head` appends.
pub fn head_len() -> usize {
    "Message-ID: <@bench.test>\r\n".len() + 16 + ID_FIELD.len() + 16 + 2 + SUM_FIELD.len() + 16 + 2
}

fn body_line(line_no: u64, dots: bool, eight_bit: bool, room: usize) -> Vec<u8> {
    // Words drawn from the line number: the body compresses no better than ordinary text does.
    let mut line = Vec::with_capacity(78);
    if dots && line_no.is_multiple_of(8) {
        line.extend_from_slice(if line_no.is_multiple_of(16) { b".".as_slice() } else { b"..x " });
    }
    if eight_bit && line_no.is_multiple_of(4) {
        line.extend_from_slice("grüße ".as_bytes());
    }
    let mut state = line_no.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while line.len() < 74 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let letter = b'a' + (state >> 33).wrapping_rem(26) as u8;
        line.push(if (state >> 20).is_multiple_of(6) { b' ' } else { letter });
    }
    let cut = line.len().min(room.max(1));
    // A cut inside a UTF-8 sequence would make the last line invalid text.
    let cut = (0..=cut).rev().find(|&at| line.get(at).is_none_or(|b| b & 0xC0 != 0x80)).unwrap_or(cut);
    line.truncate(cut);
    line
}

/// Doubles leading dots and appends the end of data (RFC 5321 section 4.5.2).
fn stuff(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plain.len() + 64);
    let mut rest = plain;
    if rest.first() == Some(&b'.') {
        out.push(b'.');
    }
    while let Some(at) = memmem::find(rest, b"\r\n.") {
        let (done, left) = rest.split_at(at + 2);
        out.extend_from_slice(done);
        out.push(b'.');
        rest = left;
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(b".\r\n");
    out
}

/// A 64-bit sum over bytes: every word is folded in by multiplication. Finds damage, not attackers.
pub fn sum(bytes: &[u8]) -> u64 {
    const K: u64 = 0x9E37_79B9_7F4A_7C15;
    let fold = |h: u64, word: u64| (h ^ word).wrapping_mul(K).rotate_left(29);
    let mut words = bytes.chunks_exact(8);
    let mut h = (bytes.len() as u64).wrapping_mul(K);
    for word in &mut words {
        let mut raw = [0u8; 8];
        raw.copy_from_slice(word);
        h = fold(h, u64::from_le_bytes(raw));
    }
    let mut raw = [0u8; 8];
    for (to, from) in raw.iter_mut().zip(words.remainder()) {
        *to = *from;
    }
    fold(fold(h, u64::from_le_bytes(raw)), K)
}

/// The number in `X-Bench-Id`, if the first bytes of the message hold one.
pub fn find_id(message: &[u8]) -> Option<u64> {
    let digits = field(message, ID_FIELD)?;
    std::str::from_utf8(digits).ok()?.trim().parse().ok()
}

/// What a look at a whole message says about its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The covered part is byte for byte what was sent.
    Exact,
    /// The covered part differs.
    Damaged,
    /// No sum in the message: it is not ours.
    NoSum,
}

/// Compares the covered part of a message (complete, dots unstuffed) with its `X-Bench-Sum`.
pub fn check(message: &[u8]) -> Content {
    let Some(want) = field(message, SUM_FIELD) else { return Content::NoSum };
    let Some(want) = std::str::from_utf8(want).ok().and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        return Content::Damaged;
    };
    let Some(at) = memmem::find(message, SUM_FIELD) else { return Content::NoSum };
    let after = message.get(at..).unwrap_or_default();
    let Some(end) = memmem::find(after, b"\r\n") else { return Content::Damaged };
    if sum(after.get(end + 2..).unwrap_or_default()) == want {
        Content::Exact
    } else {
        Content::Damaged
    }
}

fn field<'m>(message: &'m [u8], name: &[u8]) -> Option<&'m [u8]> {
    let at = memmem::find(message, name)?;
    let value = message.get(at + name.len()..)?;
    value.get(..memchr::memchr(b'\r', value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(template: &Template, id: u64) -> Vec<u8> {
        let mut message = Vec::new();
        template.write_head(id, &mut message);
        message.extend_from_slice(&template.plain);
        message
    }

    #[test]
    fn size_is_what_was_asked_for() {
        for size in [1024, 4096, 100_000] {
            let template = Template::new(size, true, false, "Thu, 1 Jan 2026 00:00:00 +0000", "a@b.test", "c@d.test");
            let message = whole(&template, 7);
            assert_eq!(message.len(), template.stored_len());
            assert!(message.len().abs_diff(size) <= 2, "{} for {size}", message.len());
        }
    }

    #[test]
    fn sum_survives_prepending_and_finds_damage() {
        let template = Template::new(4096, true, true, "x", "a@b.test", "c@d.test");
        let mut message = b"Received: from somewhere\r\n".to_vec();
        message.extend_from_slice(&whole(&template, 123_456));
        assert_eq!(find_id(&message), Some(123_456));
        assert_eq!(check(&message), Content::Exact);
        let last = message.len() - 3;
        message[last] ^= 1;
        assert_eq!(check(&message), Content::Damaged);
        assert_eq!(check(b"Subject: x\r\n\r\n"), Content::NoSum);
    }

    #[test]
    fn r5321_4_5_2_leading_dots_are_doubled() {
        assert_eq!(stuff(b".a\r\n.b\r\nc.\r\n"), b"..a\r\n..b\r\nc.\r\n.\r\n");
    }

    #[test]
    fn body_has_dot_lines_when_asked() {
        let template = Template::new(4096, true, false, "x", "a@b.test", "c@d.test");
        assert!(memmem::find(&template.plain, b"\r\n.").is_some());
        assert!(template.stuffed.len() > template.plain.len() + 3);
    }
}
