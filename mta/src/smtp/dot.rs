//! Dot decoding of DATA: RFC 5321 section 4.5.2.
//!
//! Only CRLF "." CRLF ends the data. A dot at the start of a line that goes on is removed, whatever follows. Nothing
//! here judges the content; bare CR and LF pass through and are seen by [`super::facts`].

use memchr::memmem;

/// Where the decoder stands between two bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Behind a CRLF, or at the very start.
    #[default]
    LineStart,
    /// Inside a line.
    Inside,
    /// Behind a CR inside a line.
    Cr,
    /// Behind a dot that began a line; the dot is not stored.
    Dot,
    /// Behind such a dot and a CR; neither is stored yet.
    DotCr,
}

/// Takes wire bytes in pieces of any size and appends content.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder {
    place: Place,
}

/// What one piece came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the piece that were used; the rest are commands again.
    pub used: usize,
    /// The end of data was among them.
    pub ended: bool,
}

impl Decoder {
    /// Decodes `input` into `out` up to the end of data or of the input.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Decoded {
        let mut at = 0;
        while let Some(byte) = input.get(at).copied() {
            match (self.place, byte) {
                (Place::LineStart, b'.') => {
                    self.place = Place::Dot;
                    at += 1;
                }
                (Place::Dot, b'\r') => {
                    self.place = Place::DotCr;
                    at += 1;
                }
                (Place::DotCr, b'\n') => {
                    self.place = Place::LineStart;
                    return Decoded { used: at + 1, ended: true };
                }
                (Place::DotCr, _) => {
                    // The CR was content after all; this byte is looked at again behind it.
                    out.push(b'\r');
                    self.place = Place::Cr;
                }
                (Place::Cr, b'\n') => {
                    out.push(b'\n');
                    self.place = Place::LineStart;
                    at += 1;
                }
                _ => at += self.span(&input[at..], out),
            }
        }
        Decoded { used: at, ended: false }
    }

    /// Copies up to the next dot that begins a line. Returns the bytes used, at least one.
    fn span(&mut self, rest: &[u8], out: &mut Vec<u8>) -> usize {
        if let Some(found) = memmem::find(rest, b"\r\n.") {
            out.extend_from_slice(&rest[..found + 2]);
            self.place = Place::Dot;
            return found + 3;
        }
        out.extend_from_slice(rest);
        self.place = match rest {
            [.., b'\r', b'\n'] => Place::LineStart,
            [.., b'\r'] => Place::Cr,
            _ => Place::Inside,
        };
        rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes in pieces of `step` bytes; returns content and what was left behind the end.
    fn run(wire: &[u8], step: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut decoder = Decoder::default();
        let mut out = Vec::new();
        let mut at = 0;
        while at < wire.len() {
            let piece = &wire[at..wire.len().min(at + step)];
            let decoded = decoder.decode(piece, &mut out);
            at += decoded.used;
            if decoded.ended {
                return Some((out, wire[at..].to_vec()));
            }
            assert_eq!(decoded.used, piece.len());
        }
        None
    }

    #[test]
    fn r01_dots_are_unstuffed_exactly() {
        for (wire, content, rest) in [
            (&b".\r\n"[..], &b""[..], &b""[..]),
            (b"\r\n.\r\nQUIT", b"\r\n", b"QUIT"),
            (b"a\r\n..\r\n.\r\n", b"a\r\n.\r\n", b""),
            (b"..a\r\n.b\r\n...c\r\n.\r\n", b".a\r\nb\r\n..c\r\n", b""),
            (b".\rx\r\n.\r\n", b"\rx\r\n", b""),
            (b".\r\r\n.\r\n", b"\r\r\n", b""),
            (b"a\r\r\n.\r\n", b"a\r\r\n", b""),
            (b".\r.\r\n.\r\n", b"\r.\r\n", b""),
        ] {
            for step in 1..=wire.len() {
                assert_eq!(run(wire, step), Some((content.to_vec(), rest.to_vec())), "{wire:?} {step}");
            }
        }
    }

    #[test]
    fn r01_nothing_but_crlf_dot_crlf_ends_data() {
        for wire in [
            &b"a\n.\n"[..],
            b"a\r\n.\n",
            b"a\n.\r\n",
            b"a\r.\r",
            b"a\r\n.\r",
            b"a\r.\r\n",
            b"a\r\n.\0\r\n",
            b"a\n\n.\r\n",
            b"a\r\n.\r\r\n",
            b".\n",
            b"\n.\r\n",
            b"a\r\n\x00.\r\n",
            b"a\r\n .\r\n",
        ] {
            for step in 1..=wire.len() {
                assert_eq!(run(wire, step), None, "{wire:?} {step}");
            }
        }
    }
}
