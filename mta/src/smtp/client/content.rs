//! The message on its way out: BDAT as it is, or DATA with dots stuffed on the fly. Pure.
//!
//! Small messages are copied behind their commands, so that one write carries all. Of large ones only the seams are
//! copied; the rest leaves as slices of the memory it lies in, at most [`PIECE_MAX`] at a time, so that every piece has
//! its own deadline (RFC 5321 section 4.5.3.2.5).

use memchr::memmem;
use queue::Body;

/// Messages up to this size are copied.
pub(super) const COPY_MAX: usize = 32 * 1024;
/// Most bytes written under one deadline.
pub(super) const PIECE_MAX: usize = 256 * 1024;
/// Shorter pieces of a large message are copied: a write costs more than the copy.
const SEAM_MAX: usize = 8 * 1024;

/// How the message is put into bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// RFC 3030: one chunk, the last; no stuffing, no dot.
    Chunk,
    /// RFC 5321 section 4.5.2: stuffed, ended by a line with a dot.
    Dotted,
}

/// What [`Content::emit`] came to.
#[derive(Debug)]
pub(super) enum Emitted {
    /// `out` is long enough to be written; more follows.
    More,
    /// Write `out`, then this, then call again.
    Piece(Body),
    /// The last byte is in `out`.
    Last,
}

/// Gives out a message piece by piece.
#[derive(Debug)]
pub(super) struct Content {
    form: Form,
    prefix: Vec<u8>,
    body: Body,
    /// Some line of the body may start with a dot.
    stuff: bool,
    /// The next byte of the body is a dot at the start of a line: another one goes before it.
    owe_dot: bool,
    /// Bytes of the body given out.
    at: usize,
    begun: bool,
}

impl Content {
    pub(super) fn new(form: Form, prefix: Vec<u8>, body: Body, dot_line: bool) -> Self {
        let stuff = form == Form::Dotted && dot_line;
        let owe_dot = stuff && body.first() == Some(&b'.');
        Self { form, prefix, body, stuff, owe_dot, at: 0, begun: false }
    }

    /// Appends the next bytes to `out`. Not called again after `Last`.
    pub(super) fn emit(&mut self, out: &mut Vec<u8>) -> Emitted {
        let small = self.prefix.len() + self.body.len() <= COPY_MAX;
        if !self.begun {
            self.begun = true;
            self.begin(out);
        }
        while self.at < self.body.len() {
            if self.owe_dot {
                out.push(b'.');
            }
            let range = self.at..self.piece_end();
            self.at = range.end;
            if range.len() > SEAM_MAX && !small {
                return Emitted::Piece(self.body.slice(range));
            }
            out.extend_from_slice(self.body.get(range).unwrap_or_default());
            if out.len() > 2 * COPY_MAX {
                return Emitted::More;
            }
        }
        self.end(out);
        Emitted::Last
    }

    /// The command of a chunk, and the prefix.
    fn begin(&mut self, out: &mut Vec<u8>) {
        let prefix = std::mem::take(&mut self.prefix);
        match self.form {
            Form::Chunk => {
                let size = prefix.len() + self.body.len();
                out.extend_from_slice(format!("BDAT {size} LAST\r\n").as_bytes());
                out.extend_from_slice(&prefix);
            }
            Form::Dotted => {
                let whole = Body::from(prefix);
                let mut stuffed = Self::new(Form::Dotted, Vec::new(), whole, true);
                while stuffed.at < stuffed.body.len() {
                    if stuffed.owe_dot {
                        out.push(b'.');
                    }
                    let range = stuffed.at..stuffed.piece_end();
                    stuffed.at = range.end;
                    out.extend_from_slice(stuffed.body.get(range).unwrap_or_default());
                }
            }
        }
    }

    /// Where the piece from `at` ends: before the next line that starts with a dot, or at the size limit.
    fn piece_end(&mut self) -> usize {
        let limit = self.body.len().min(self.at + PIECE_MAX);
        self.owe_dot = false;
        if !self.stuff {
            return limit;
        }
        // From one byte back, because the line end may lie there; to one byte further, because the dot may.
        let from = self.at.saturating_sub(1);
        let window = self.body.get(from..self.body.len().min(limit + 1)).unwrap_or_default();
        match memmem::find(window, b"\r\n.") {
            Some(found) => {
                self.owe_dot = true;
                from + found + 2
            }
            None => limit,
        }
    }

    /// RFC 5321 section 4.1.1.4: the dot stands on a line of its own.
    fn end(&mut self, out: &mut Vec<u8>) {
        if self.form == Form::Dotted {
            let ended = if self.body.is_empty() {
                out.is_empty() || out.ends_with(b"\r\n")
            } else {
                self.body.ends_with(b"\r\n")
            };
            out.extend_from_slice(if ended { b".\r\n" } else { b"\r\n.\r\n" });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(form: Form, prefix: &[u8], body: &[u8], dot_line: bool) -> (Vec<u8>, usize) {
        let mut content = Content::new(form, prefix.to_vec(), Body::from(body.to_vec()), dot_line);
        let (mut wire, mut writes) = (Vec::new(), 0);
        loop {
            let mut out = Vec::new();
            let emitted = content.emit(&mut out);
            wire.append(&mut out);
            writes += 1;
            match emitted {
                Emitted::More => {}
                Emitted::Piece(piece) => {
                    assert!(piece.len() <= PIECE_MAX);
                    wire.extend_from_slice(&piece);
                }
                Emitted::Last => return (wire, writes),
            }
        }
    }

    /// The plain way: line by line.
    fn stuffed(message: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        for (n, byte) in message.iter().enumerate() {
            if *byte == b'.' && (n == 0 || message[..n].ends_with(b"\r\n")) {
                wire.push(b'.');
            }
            wire.push(*byte);
        }
        wire.extend_from_slice(if message.is_empty() || message.ends_with(b"\r\n") { b".\r\n" } else { b"\r\n.\r\n" });
        wire
    }

    #[test]
    fn r13_a_chunk_is_exact_and_untouched() {
        let (wire, writes) = all(Form::Chunk, b"A: b\r\n", b".x\r\n.\r\n", true);
        assert_eq!((wire.as_slice(), writes), (&b"BDAT 13 LAST\r\nA: b\r\n.x\r\n.\r\n"[..], 1));
        let body = vec![b'x'; 3 * PIECE_MAX + 7];
        let (wire, _) = all(Form::Chunk, b"", &body, false);
        let head = format!("BDAT {} LAST\r\n", body.len());
        assert!(wire.starts_with(head.as_bytes()) && wire.len() == head.len() + body.len());
    }

    #[test]
    fn r02_dots_are_stuffed_wherever_a_line_starts() {
        for body in ["", ".", "..", "x", ".\r\n", "a\r\n.b\r\n..\r\n.\r\n", "\r\n.", "a.b\r\nc.\r\n", "\n.\r\n"] {
            let (wire, _) = all(Form::Dotted, b"", body.as_bytes(), true);
            assert_eq!(wire, stuffed(body.as_bytes()), "{body:?}");
            let both = [b"P: q\r\n", body.as_bytes()].concat();
            assert_eq!(all(Form::Dotted, b"P: q\r\n", body.as_bytes(), true).0, stuffed(&both), "{body:?}");
        }
    }

    #[test]
    fn large_messages_are_stuffed_without_being_copied() {
        let mut body = Vec::new();
        while body.len() < 5 * PIECE_MAX / 2 {
            let line = body.len() % 977;
            body.extend(std::iter::repeat_n(b'x', 9 * line));
            body.extend_from_slice(if line % 3 == 0 { b"\r\n." } else { b"\r\n" });
        }
        assert_eq!(all(Form::Dotted, b"P: q\r\n", &body, true).0, stuffed(&[b"P: q\r\n", body.as_slice()].concat()));
        // A line end and its dot on both sides of the size limit.
        for shift in 0..4 {
            let mut body = vec![b'x'; PIECE_MAX - shift];
            body.extend_from_slice(b"\r\n.y\r\n");
            assert_eq!(all(Form::Dotted, b"", &body, true).0, stuffed(&body), "{shift}");
        }
        let body = [vec![b'x'; 2 * PIECE_MAX], b"\r\n".to_vec()].concat();
        assert_eq!(all(Form::Dotted, b"", &body, false).1, 3);
    }
}
