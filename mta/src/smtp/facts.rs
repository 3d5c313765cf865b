//! Facts about content, taken while it arrives so that nobody scans it again.
//!
//! Fed with stored bytes (unstuffed), in pieces of any size.

use memchr::memchr2;
use queue::BodyFlags;

/// What is known so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    dot_line: bool,
    eight_bit: bool,
    bare: bool,
    header_len: Option<u64>,
    longest: u64,
    /// Bytes of the line under way, without a CR that may end it.
    line: u64,
    /// Bytes seen.
    total: u64,
    /// The last byte was a CR that no LF has followed yet.
    cr: bool,
}

impl Scan {
    /// Looks at the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if !self.eight_bit && !bytes.is_ascii() {
            self.eight_bit = true;
        }
        let mut at = 0;
        while at < bytes.len() {
            if self.cr {
                self.cr = false;
                if bytes[at] == b'\n' {
                    self.end_line(at as u64 + 1);
                    at += 1;
                } else {
                    self.bare = true;
                    self.line += 1;
                }
                continue;
            }
            let rest = &bytes[at..];
            if self.line == 0 && rest[0] == b'.' {
                self.dot_line = true;
            }
            let Some(found) = memchr2(b'\r', b'\n', rest) else {
                self.line += rest.len() as u64;
                break;
            };
            self.line += found as u64;
            if rest[found] == b'\r' {
                self.cr = true;
            } else {
                self.bare = true;
                self.line += 1;
            }
            at += found + 1;
        }
        self.total += bytes.len() as u64;
    }

    /// `used` counts from the start of the piece to behind the LF.
    fn end_line(&mut self, used: u64) {
        if self.line == 0 && self.header_len.is_none() {
            self.header_len = Some(self.total + used);
        }
        self.longest = self.longest.max(self.line);
        self.line = 0;
    }

    /// A CR without LF or a LF without CR was seen; asked when all bytes are in.
    #[must_use]
    pub fn has_bare(&self) -> bool {
        self.bare || self.cr
    }

    /// As [`Self::has_bare`], while bytes still come: a CR at the very end may yet get its LF.
    #[must_use]
    pub fn has_bare_inside(&self) -> bool {
        self.bare
    }

    /// Bytes seen.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The facts, once all bytes are in. Content without an empty line is all header.
    #[must_use]
    pub fn flags(&self) -> BodyFlags {
        let longest = self.longest.max(self.line);
        let header = self.header_len.unwrap_or(self.total);
        BodyFlags {
            dot_line: self.dot_line,
            eight_bit: self.eight_bit,
            longest_line: u32::try_from(longest).unwrap_or(u32::MAX),
            header_len: u32::try_from(header).unwrap_or(u32::MAX),
            ..BodyFlags::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(bytes: &[u8], step: usize) -> Scan {
        let mut scan = Scan::default();
        for piece in bytes.chunks(step) {
            scan.feed(piece);
        }
        scan
    }

    #[test]
    fn facts_do_not_depend_on_how_bytes_arrive() {
        let text = b"A: b\r\nCc: longer\r\n\r\n.dot\r\nbody \xfc\r\n";
        for step in 1..=text.len() {
            let scan = scan(text, step);
            let flags = scan.flags();
            assert!(flags.dot_line && flags.eight_bit && !scan.has_bare(), "{step}");
            assert_eq!((flags.header_len, flags.longest_line), (20, 10), "{step}");
        }
    }

    #[test]
    fn header_alone_and_body_alone() {
        assert_eq!(scan(b"A: b\r\n", 3).flags().header_len, 6);
        assert_eq!(scan(b"\r\nbody\r\n", 1).flags().header_len, 2);
        assert_eq!(scan(b"", 1).flags(), BodyFlags::default());
        assert!(!scan(b"a.b\r\nc.\r\n", 2).flags().dot_line);
    }

    #[test]
    fn r01_bare_cr_and_lf_are_seen() {
        for text in [&b"a\n"[..], b"\n", b"a\rb\r\n", b"a\r\r\n", b"a\r", b"a\r\n\n", b"\r", b"a\n\r\n", b"a\r\n.\n"] {
            for step in 1..=text.len() {
                assert!(scan(text, step).has_bare(), "{text:?} {step}");
            }
        }
        assert!(!scan(b"a\r\n\r\nb\r\n", 1).has_bare());
    }
}
