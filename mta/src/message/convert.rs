//! Conversion of 8-bit and binary content for a site that takes 7 bits only (RFC 6152 section 3, RFC 3030 section 3).
//!
//! Walks the MIME tree (RFC 2046) on the raw bytes: leaf parts get quoted-printable or base64, containers are
//! relabelled, everything else is copied. Done before signing. A header that is not ASCII can't be converted: that
//! needs SMTPUTF8 on the way. Pure and bounded in depth.

use base64::engine::general_purpose::STANDARD;
use base64::Engine;

use super::facts;
use super::header::{self, Header, Name};
use super::hygiene::LINE_MAX;

/// Deepest nesting of parts that is followed.
const DEPTH_MAX: usize = 32;

/// Why a message can't be made 7-bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A header of the message or of a part is not ASCII.
    #[error("a header is not ASCII and the next hop does not offer SMTPUTF8")]
    Header,
    /// The MIME structure can't be read, or is nested too deep.
    #[error("the MIME structure can't be converted to 7 bits")]
    Structure,
    /// A part says it is encoded and yet holds 8-bit bytes.
    #[error("a part claims an encoding that its bytes contradict")]
    Encoding,
}

/// The message with every byte below 128 and no line above 998 octets.
///
/// # Errors
/// When that can't be done without changing what the message says.
pub fn to_seven_bit(message: &[u8]) -> Result<Vec<u8>, ConvertError> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 2);
    entity(message, 0, TEXT, &mut out)?;
    // Headers and what stands between parts are copied: defects in them can't be encoded away.
    let facts = facts::scan(&out);
    if facts.bare || facts.nul || facts.longest_line > LINE_MAX {
        return Err(ConvertError::Structure);
    }
    Ok(out)
}

/// What a part without Content-Type is, RFC 2045 section 5.2; and in a digest, RFC 2046 section 5.1.5.
const TEXT: &str = "text/plain";
const MESSAGE: &str = "message/rfc822";

/// One message or part: header, then what its type says, or `untyped_as` without one.
fn entity(bytes: &[u8], depth: usize, untyped_as: &str, out: &mut Vec<u8>) -> Result<(), ConvertError> {
    if depth > DEPTH_MAX {
        return Err(ConvertError::Structure);
    }
    let header = header::scan(bytes).map_err(|_| ConvertError::Structure)?;
    let body = bytes.get(header.len..).unwrap_or_default();
    if !bytes[..header.len].is_ascii() {
        return Err(ConvertError::Header);
    }
    let kind = header.first(Name::ContentType).map(|f| f.text(bytes));
    let encoding = header.first(Name::TransferEncoding).map(|f| f.text(bytes).to_ascii_lowercase()).unwrap_or_default();
    let media = media_type(kind.as_deref().unwrap_or(untyped_as));
    let encoded = matches!(encoding.as_str(), "base64" | "quoted-printable");
    if media.starts_with("multipart/") {
        let boundary = parameter(kind.as_deref().unwrap_or_default(), "boundary").ok_or(ConvertError::Structure)?;
        push_header(bytes, &header, Some("7bit"), false, out);
        let parts_as = if media == "multipart/digest" { MESSAGE } else { TEXT };
        return multipart(body, boundary.as_bytes(), depth, parts_as, out);
    }
    if matches!(media.as_str(), "message/rfc822" | "message/global") && !encoded {
        push_header(bytes, &header, Some("7bit"), false, out);
        return entity(body, depth + 1, TEXT, out);
    }
    let facts = facts::scan(body);
    let fits = !facts.eight_bit && !facts.bare && !facts.nul && facts.longest_line <= LINE_MAX;
    if fits {
        let relabel = (!encoded && !encoding.is_empty()).then_some("7bit");
        push_header(bytes, &header, relabel, false, out);
        out.extend_from_slice(body);
        return Ok(());
    }
    if encoded {
        return Err(ConvertError::Encoding);
    }
    let top = depth == 0;
    if media.starts_with("text/") && !facts.bare && !facts.nul {
        push_header(bytes, &header, Some("quoted-printable"), top, out);
        if kind.is_none() {
            untyped(body, out);
        }
        end_header(out);
        push_quoted_printable(out, body);
    } else {
        push_header(bytes, &header, Some("base64"), top, out);
        end_header(out);
        push_base64(out, body);
    }
    Ok(())
}

/// Copies the fields, with a new Content-Transfer-Encoding in place of the old one when given. `open` leaves the
/// header without its closing line and adds a missing MIME-Version.
fn push_header(bytes: &[u8], header: &Header, encoding: Option<&str>, open: bool, out: &mut Vec<u8>) {
    let converted = matches!(encoding, Some("quoted-printable" | "base64"));
    let had_encoding = header.first(Name::TransferEncoding).is_some();
    for field in &header.fields {
        if field.name == Name::TransferEncoding && encoding.is_some() {
            continue;
        }
        out.extend_from_slice(field.bytes(bytes));
    }
    if open && header.first(Name::MimeVersion).is_none() {
        out.extend_from_slice(b"MIME-Version: 1.0\r\n");
    }
    if let Some(encoding) = encoding.filter(|_| converted || had_encoding) {
        out.extend_from_slice(b"Content-Transfer-Encoding: ");
        out.extend_from_slice(encoding.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !converted && header.len > header.fields_len {
        end_header(out);
    }
}

fn end_header(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// 8-bit text of no declared type: say what it most likely is, or that nobody knows (RFC 1428 section 3).
fn untyped(body: &[u8], out: &mut Vec<u8>) {
    let charset = if std::str::from_utf8(body).is_ok() { "utf-8" } else { "unknown-8bit" };
    out.extend_from_slice(b"Content-Type: text/plain; charset=");
    out.extend_from_slice(charset.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Parts between delimiter lines, RFC 2046 section 5.1.1; the CRLF before a delimiter belongs to it.
fn multipart(
    body: &[u8],
    boundary: &[u8],
    depth: usize,
    parts_as: &str,
    out: &mut Vec<u8>,
) -> Result<(), ConvertError> {
    let mut part_start: Option<usize> = None;
    let mut parts = false;
    let mut copied = 0;
    let mut at = 0;
    while at < body.len() {
        let line_end = memchr::memchr(b'\n', &body[at..]).map_or(body.len(), |place| at + place + 1);
        let Some(closing) = delimiter(&body[at..line_end], boundary) else {
            at = line_end;
            continue;
        };
        match part_start {
            Some(start) => {
                let end = at.saturating_sub(2).max(start);
                entity(&body[start..end], depth + 1, parts_as, out)?;
                // What stands between the part and the delimiter is its CRLF.
                push_ascii(out, &body[end..line_end]);
            }
            None => push_ascii(out, &body[copied..line_end]),
        }
        copied = line_end;
        part_start = (!closing).then_some(line_end);
        parts |= !closing;
        at = line_end;
        if closing {
            break;
        }
    }
    // Without any part readers show the body as text, in whatever encoding it claims.
    if !parts {
        return Err(ConvertError::Structure);
    }
    match part_start {
        // A multipart that was cut off: its last part goes to the end.
        Some(start) if start < body.len() => entity(&body[start..], depth + 1, parts_as, out),
        _ => {
            push_ascii(out, &body[copied..]);
            Ok(())
        }
    }
}

/// `Some(true)` for the closing delimiter line, `Some(false)` for one between parts.
fn delimiter(line: &[u8], boundary: &[u8]) -> Option<bool> {
    let rest = line.strip_prefix(b"--")?.strip_prefix(boundary)?;
    let rest = rest.trim_ascii_end();
    if rest.is_empty() {
        return Some(false);
    }
    (rest == b"--").then_some(true)
}

/// Preamble, delimiters and epilogue: nobody reads them, so 8-bit bytes become question marks.
fn push_ascii(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes.iter().map(|b| if b.is_ascii() { *b } else { b'?' }));
}

/// `type/subtype` in lower case.
fn media_type(value: &str) -> String {
    let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind.contains('/') {
        kind
    } else {
        "text/plain".to_owned()
    }
}

/// The value of one parameter, quotes undone (RFC 2045 section 5.1).
fn parameter(value: &str, name: &str) -> Option<String> {
    let mut rest = value.split_once(';')?.1;
    loop {
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (text, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted),
            None => {
                let end = after.find([';', ' ', '\t']).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return (!text.is_empty()).then_some(text);
        }
        rest = next.split_once(';')?.1;
    }
}

fn quoted_string(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut escaped = false;
    for (place, c) in text.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return (out, &text[place + 1..]),
            _ => {
                out.push(c);
                escaped = false;
            }
        }
    }
    (out, "")
}

/// Quoted-printable, RFC 2045 section 6.7: lines of at most 76, CRLF kept, leading dots written so that nothing on
/// the way needs to stuff them.
pub fn push_quoted_printable(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut column = 0;
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        if byte == b'\r' && text.get(at + 1) == Some(&b'\n') {
            out.extend_from_slice(b"\r\n");
            column = 0;
            at += 2;
            continue;
        }
        let line_ends = at + 1 == text.len() || text[at + 1..].starts_with(b"\r\n");
        let plain = match byte {
            b' ' | b'\t' => !line_ends,
            b'.' => column > 0,
            b'=' => false,
            _ => (33..=126).contains(&byte),
        };
        let width = if plain { 1 } else { 3 };
        if column + width > 75 {
            out.extend_from_slice(b"=\r\n");
            column = 0;
            // The same byte again, now at the start of a line, where a dot is written differently.
            continue;
        }
        if plain {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'=', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        column += width;
        at += 1;
    }
}

/// Base64 in lines of 76, RFC 2045 section 6.8.
pub fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.chunks(57) {
        out.extend_from_slice(STANDARD.encode(chunk).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(text: &str) -> Result<String, ConvertError> {
        to_seven_bit(text.as_bytes()).map(|bytes| {
            assert!(bytes.is_ascii());
            String::from_utf8(bytes).unwrap()
        })
    }

    #[test]
    fn r14_single_part_text_becomes_quoted_printable() {
        let text = "From: a@b\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
                    Content-Transfer-Encoding: 8bit\r\n\r\nGrüße = \r\n.dot\r\n";
        assert_eq!(
            convert(text).unwrap(),
            "From: a@b\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe =3D=20\r\n=2Edot\r\n"
        );
        let untyped = convert("From: a@b\r\n\r\nü\r\n").unwrap();
        assert_eq!(
            untyped,
            "From: a@b\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\r\n=C3=BC\r\n"
        );
    }

    #[test]
    fn r14_a_part_of_a_digest_is_a_message() {
        let text = "Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nSubject: in\r\n\r\nü\r\n--b--\r\n";
        let out = convert(text).unwrap();
        assert!(out.contains("--b\r\n\r\nSubject: in\r\n"), "{out}");
        assert!(out.contains("Content-Transfer-Encoding: quoted-printable\r\n") && out.contains("=C3=BC"), "{out}");
    }

    #[test]
    fn a_multipart_without_parts_is_not_converted() {
        for body in ["ü\r\n", "--b--\r\nü\r\n", "text\r\n"] {
            let text = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{body}");
            assert_eq!(convert(&text), Err(ConvertError::Structure), "{body}");
        }
    }

    #[test]
    fn r14_parts_are_converted_one_by_one() {
        let text = "From: a@b\r\nContent-Type: multipart/mixed; x=1;\r\n\tboundary=\"b=1\"\r\n\
            Content-Transfer-Encoding: 8bit\r\n\r\npreämble\r\n--b=1\r\nContent-Type: text/plain\r\n\r\nascii\r\n\
            --b=1\r\nContent-Type: application/x; name=\"--b=1\"\r\nContent-Transfer-Encoding: binary\r\n\r\nä\0\n\
            \r\n--b=1\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\nö\r\n--b=1--\r\nepilögue\r\n";
        let out = convert(text).unwrap();
        assert!(out.contains("Content-Transfer-Encoding: 7bit\r\n\r\npre??mble\r\n--b=1\r\n"), "{out}");
        assert!(out.contains("\r\n\r\nascii\r\n--b=1\r\n"), "{out}");
        assert!(out.contains("Content-Transfer-Encoding: base64\r\n\r\nw6QACg==\r\n\r\n--b=1\r\n"), "{out}");
        assert!(out.contains("Content-Type: message/rfc822\r\n\r\nSubject: in\r\n"), "{out}");
        assert!(out.contains("\r\n\r\n=C3=B6\r\n--b=1--\r\nepil??gue\r\n"), "{out}");
    }

    #[test]
    fn long_lines_are_broken_up() {
        let out = convert(&format!("From: a@b\r\n\r\n{}\r\n", "word ".repeat(400))).unwrap();
        assert!(out.lines().all(|line| line.len() <= 76));
        let back: String = out.split_once("\r\n\r\n").unwrap().1.replace("=\r\n", "").replace("=20", " ");
        assert_eq!(back, format!("{}\r\n", "word ".repeat(400)));
    }

    #[test]
    fn r15_headers_can_not_be_downgraded() {
        assert_eq!(convert("From: ä@b\r\n\r\n"), Err(ConvertError::Header));
        let part = "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Description: ä\r\n\r\n--x--\r\n";
        assert_eq!(convert(part), Err(ConvertError::Header));
        let lie = "Content-Transfer-Encoding: base64\r\n\r\nä\r\n";
        assert_eq!(convert(lie), Err(ConvertError::Encoding));
        assert_eq!(convert("Content-Type: multipart/mixed\r\n\r\nä\r\n"), Err(ConvertError::Structure));
    }

    #[test]
    fn odd_structures_end_and_stay_seven_bit() {
        let deep = "Content-Type: message/rfc822\r\n\r\n".repeat(DEPTH_MAX + 5);
        assert_eq!(convert(&deep), Err(ConvertError::Structure));
        for text in [
            "Content-Type: multipart/x; boundary=b\r\n\r\n--b\r\n\r\nä",
            "Content-Type: multipart/x; boundary=b\r\n\r\n--b\r\n--b\r\n--b--",
            "Content-Type: multipart/x; boundary=b\r\n\r\nä",
            "Content-Type: multipart/x; boundary=\"b\r\n\r\n",
            "Content-Type: ; boundary\r\n\r\nä",
        ] {
            let _ = convert(text);
        }
    }
}
