//! DKIM canonical forms (RFC 6376 section 3.4) and the hash of a body.
//!
//! The body is read once: clean runs go to the digest as they are, only lines with white space to reduce take the
//! slow way. Never allocates more than a small window.

use aws_lc_rs::digest::{digest, Context, SHA256};

/// Bytes looked at together; the check on each compiles to vector instructions.
const WINDOW: usize = 64;

/// SHA-256 of a body in relaxed form, RFC 6376 section 3.4.4.
#[must_use]
pub fn hash_relaxed(body: &[u8]) -> [u8; 32] {
    let body = without_trailing_blank(body);
    if body.is_empty() {
        return finish(Context::new(&SHA256));
    }
    let mut sink = Reducer { context: Context::new(&SHA256), window: Vec::with_capacity(2 * WINDOW), blank: false };
    let mut clean_from = 0;
    let mut at = 0;
    while at < body.len() {
        let end = (at + WINDOW).min(body.len());
        if !sink.blank && is_clean(&body[at..(end + 1).min(body.len())]) {
            at = end;
            continue;
        }
        sink.context.update(&body[clean_from..at]);
        sink.reduce(&body[at..end], body.get(end) == Some(&b'\n'));
        at = end;
        clean_from = end;
    }
    sink.context.update(&body[clean_from..]);
    sink.finish_blank(false);
    if !body.ends_with(b"\r\n") {
        sink.context.update(b"\r\n");
    }
    finish(sink.context)
}

/// SHA-256 of a body in simple form, RFC 6376 section 3.4.3.
#[must_use]
pub fn hash_simple(body: &[u8]) -> [u8; 32] {
    let mut end = body.len();
    while end >= 2 && body[..end].ends_with(b"\r\n") {
        end -= 2;
    }
    let mut context = Context::new(&SHA256);
    context.update(&body[..end]);
    // An empty body is one CRLF in this form.
    context.update(b"\r\n");
    finish(context)
}

fn finish(context: Context) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// SHA-256 of a few bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// The body up to and with the CRLF of its last line that is not blank: lines of white space are empty once relaxed.
fn without_trailing_blank(body: &[u8]) -> &[u8] {
    let mut end = body.len();
    loop {
        let mut blank_from = end;
        // One line end belongs to the line before it.
        if body[..blank_from].ends_with(b"\r\n") {
            blank_from -= 2;
        }
        let line_end = blank_from;
        while blank_from > 0 && matches!(body[blank_from - 1], b' ' | b'\t') {
            blank_from -= 1;
        }
        let whole_line = blank_from == 0 || body[..blank_from].ends_with(b"\r\n");
        let progress = blank_from < end && (blank_from < line_end || line_end < end);
        if !(whole_line && progress) {
            return &body[..end];
        }
        end = blank_from;
    }
}

/// True when nothing in the window (the last byte is looked at only as a follower) changes in relaxed form.
fn is_clean(window: &[u8]) -> bool {
    let mut dirty = window.first() == Some(&b'\t') && window.len() == 1;
    for pair in window.windows(2) {
        let blank_then = (pair[0] == b' ') & ((pair[1] == b' ') | (pair[1] == b'\r') | (pair[1] == b'\t'));
        dirty |= blank_then | (pair[0] == b'\t');
    }
    // At the very end of a body there is no follower: a blank there is trailing white space.
    dirty |= window.len() <= WINDOW && window.last().is_some_and(|b| matches!(b, b' ' | b'\t'));
    !dirty
}

/// Reduces white space byte by byte, holding back a blank until it is known not to end a line.
struct Reducer {
    context: Context,
    window: Vec<u8>,
    blank: bool,
}

impl Reducer {
    fn reduce(&mut self, bytes: &[u8], newline_follows: bool) {
        self.window.clear();
        for (place, byte) in bytes.iter().enumerate() {
            match byte {
                b' ' | b'\t' => self.blank = true,
                _ => {
                    let follower = bytes.get(place + 1);
                    let line_end =
                        *byte == b'\r' && (follower == Some(&b'\n') || (follower.is_none() && newline_follows));
                    if self.blank && !line_end {
                        self.window.push(b' ');
                    }
                    self.blank = false;
                    self.window.push(*byte);
                }
            }
        }
        self.context.update(&self.window);
    }

    /// A blank still held back at the end of the body is trailing white space.
    fn finish_blank(&mut self, keep: bool) {
        if self.blank && keep {
            self.context.update(b" ");
        }
        self.blank = false;
    }
}

/// Appends one header field in relaxed form, RFC 6376 section 3.4.2: `name:value CRLF`.
pub fn push_relaxed_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend(name.iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let mut blank = false;
    for byte in value.trim_ascii() {
        match byte {
            b' ' | b'\t' => blank = true,
            // Unfolding: the line end goes, the white space after it stays and is reduced.
            b'\r' | b'\n' => {}
            _ => {
                if blank {
                    out.push(b' ');
                    blank = false;
                }
                out.push(*byte);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The relaxed form the plain way, straight from the text of the standard.
    fn relaxed_plainly(body: &[u8]) -> Vec<u8> {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let mut rest = body;
        while !rest.is_empty() {
            let at = rest.windows(2).position(|w| w == b"\r\n");
            let (line, next) = at.map_or((rest, &rest[rest.len()..]), |at| (&rest[..at], &rest[at + 2..]));
            let mut out: Vec<u8> = Vec::new();
            for b in line {
                let b = if *b == b'\t' { b' ' } else { *b };
                if !(b == b' ' && out.last() == Some(&b' ')) {
                    out.push(b);
                }
            }
            if out.last() == Some(&b' ') {
                out.pop();
            }
            lines.push(out);
            rest = next;
        }
        while lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        lines.iter().flat_map(|l| [l.as_slice(), b"\r\n"].concat()).collect()
    }

    #[test]
    fn r27_relaxed_body_hash_equals_the_plain_form() {
        let fixed: [&[u8]; 14] = [
            b"",
            b"\r\n",
            b"\r\n\r\n",
            b" \r\n\t\r\n",
            b"a",
            b"a\r\n",
            b"a \r\n",
            b" a  b\t\r\n\r\n",
            b"a\t",
            b"a ",
            b"\ta\r\n",
            b"x\r\n \r\ny\r\n  ",
            b"a \rb\r\n",
            b" ",
        ];
        for body in fixed {
            assert_eq!(hash_relaxed(body), sha256(&relaxed_plainly(body)), "{body:?}");
        }
    }

    #[test]
    fn r27_relaxed_body_hash_holds_for_many_random_bodies() {
        let mut state = 88_172_645_463_325_252u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let pieces: [&[u8]; 9] =
            [b" ", b"\t", b"\r\n", b"a", b"word", b"  ", b"\r", b" \r\n", b"abcdefghijklmnopqrstuvwxyz0123456789"];
        for _ in 0..20_000 {
            let mut body = Vec::new();
            for _ in 0..next() % 40 {
                body.extend_from_slice(pieces[(next() % pieces.len() as u64) as usize]);
            }
            assert_eq!(hash_relaxed(&body), sha256(&relaxed_plainly(&body)), "{:?}", String::from_utf8_lossy(&body));
        }
    }

    #[test]
    fn r27_rfc6376_section_3_4_5_examples() {
        // The header and body of RFC 6376 section 3.4.5.
        let body = b" C \r\nD \t E\r\n\r\n\r\n";
        assert_eq!(hash_relaxed(body), sha256(b" C\r\nD E\r\n"));
        assert_eq!(hash_simple(body), sha256(b" C \r\nD \t E\r\n"));
        assert_eq!(hash_simple(b""), sha256(b"\r\n"));
        assert_eq!(hash_relaxed(b""), sha256(b""));
        let mut out = Vec::new();
        push_relaxed_field(&mut out, b"A", b" X\r\n");
        push_relaxed_field(&mut out, b"B ".trim_ascii(), b" Y\t\r\n\tZ  \r\n");
        assert_eq!(out, b"a:X\r\nb:Y Z\r\n");
    }
}
