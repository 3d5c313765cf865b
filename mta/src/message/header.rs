//! Header scan: where each field of a message is, without copying a byte.
//!
//! One pass with memchr over the line ends. Fields keep offsets, not references, so that the buffer may be moved
//! under them. Never decodes and never alters anything.

use smallvec::SmallVec;

/// Most fields a header may have; real ones stay below 200.
pub const FIELDS_MAX: usize = 1000;
/// Longest header in bytes: what large providers stop at.
pub const HEADER_MAX: usize = 512 * 1024;

/// One header field. Offsets count from the start of the scanned message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Which field, when it is one we know.
    pub name: Name,
    /// First byte of the name.
    pub start: u32,
    /// One past the name.
    pub name_end: u32,
    /// First byte after the colon.
    pub value_start: u32,
    /// One past the CRLF of its last line.
    pub end: u32,
    /// It has more than one line.
    pub folded: bool,
}

/// The fields that somebody here asks for. `Other` is any other name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names of the fields, RFC 5322 section 3.6
pub enum Name {
    Date,
    From,
    Sender,
    ReplyTo,
    To,
    Cc,
    Bcc,
    MessageId,
    InReplyTo,
    References,
    Subject,
    Received,
    ReturnPath,
    ResentBcc,
    MimeVersion,
    ContentType,
    TransferEncoding,
    AuthenticationResults,
    Other,
}

impl Name {
    /// The field behind a name in any case.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        let candidates: &[(&[u8], Self)] = match name.len() {
            2 => &[(b"to", Self::To), (b"cc", Self::Cc)],
            3 => &[(b"bcc", Self::Bcc)],
            4 => &[(b"from", Self::From), (b"date", Self::Date)],
            6 => &[(b"sender", Self::Sender)],
            7 => &[(b"subject", Self::Subject)],
            8 => &[(b"received", Self::Received), (b"reply-to", Self::ReplyTo)],
            10 => {
                &[(b"message-id", Self::MessageId), (b"references", Self::References), (b"resent-bcc", Self::ResentBcc)]
            }
            11 => &[(b"in-reply-to", Self::InReplyTo), (b"return-path", Self::ReturnPath)],
            12 => &[(b"mime-version", Self::MimeVersion), (b"content-type", Self::ContentType)],
            22 => &[(b"authentication-results", Self::AuthenticationResults)],
            25 => &[(b"content-transfer-encoding", Self::TransferEncoding)],
            _ => &[],
        };
        candidates.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or(Self::Other, |(_, which)| *which)
    }
}

/// A scanned header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The fields in order.
    pub fields: SmallVec<[Field; 32]>,
    /// Bytes of the header, its closing empty line included when there is one: where the body starts.
    pub len: usize,
    /// Bytes of the fields alone.
    pub fields_len: usize,
}

/// Why a header could not be scanned. Lines count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanError {
    /// This line is neither a field nor a continuation nor the empty line.
    NotAField(usize),
    /// More than [`FIELDS_MAX`] fields.
    TooMany,
    /// Longer than [`HEADER_MAX`].
    TooLong,
}

/// Scans the header at the start of `message`. A message without an empty line is all header, as RFC 5322 section
/// 2.1 allows a message without a body.
///
/// # Errors
/// A line that is no field, or a header beyond its bounds.
pub fn scan(message: &[u8]) -> Result<Header, ScanError> {
    let mut header = Header::default();
    let mut at = 0;
    let mut line_number = 0;
    while at < message.len() {
        line_number += 1;
        if at > HEADER_MAX {
            return Err(ScanError::TooLong);
        }
        let rest = &message[at..];
        let line_len = memchr::memchr(b'\n', rest).map_or(rest.len(), |place| place + 1);
        let line = &rest[..line_len];
        match line.first() {
            Some(b'\r' | b'\n') if line == b"\r\n" || line == b"\n" => {
                header.fields_len = at;
                header.len = at + line_len;
                return Ok(header);
            }
            Some(b' ' | b'\t') => match header.fields.last_mut() {
                Some(field) => {
                    field.end = (at + line_len) as u32;
                    field.folded = true;
                }
                None => return Err(ScanError::NotAField(line_number)),
            },
            _ => {
                if header.fields.len() == FIELDS_MAX {
                    return Err(ScanError::TooMany);
                }
                let field = field_at(line, at).ok_or(ScanError::NotAField(line_number))?;
                header.fields.push(field);
            }
        }
        at += line_len;
    }
    header.fields_len = at;
    header.len = at;
    Ok(header)
}

/// The field on its first line. RFC 5322 section 4.5.3 lets old senders put blanks before the colon.
fn field_at(line: &[u8], at: usize) -> Option<Field> {
    let colon = memchr::memchr(b':', line)?;
    let mut name_len = colon;
    while name_len > 0 && matches!(line[name_len - 1], b' ' | b'\t') {
        name_len -= 1;
    }
    let name = &line[..name_len];
    // RFC 5322 section 2.2: a name is printable ASCII without the colon.
    if name.is_empty() || !name.iter().all(|b| (33..=126).contains(b)) {
        return None;
    }
    Some(Field {
        name: Name::of(name),
        start: at as u32,
        name_end: (at + name_len) as u32,
        value_start: (at + colon + 1) as u32,
        end: (at + line.len()) as u32,
        folded: false,
    })
}

impl Field {
    /// The whole field with its CRLF.
    #[must_use]
    pub fn bytes<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        message.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// The name as written.
    #[must_use]
    pub fn name_bytes<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        message.get(self.start as usize..self.name_end as usize).unwrap_or_default()
    }

    /// What follows the colon, folds inside it, without surrounding white space.
    #[must_use]
    pub fn value<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        message.get(self.value_start as usize..self.end as usize).unwrap_or_default().trim_ascii()
    }

    /// The value with folds undone (the CRLF taken out, RFC 5322 section 2.2.3); bytes that are no UTF-8 replaced.
    #[must_use]
    pub fn text(&self, message: &[u8]) -> String {
        let value = self.value(message);
        if !self.folded {
            return String::from_utf8_lossy(value).into_owned();
        }
        let unfolded: Vec<u8> = value.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
        String::from_utf8_lossy(&unfolded).into_owned()
    }
}

impl Header {
    /// The fields of one known name, in order.
    pub fn all(&self, name: Name) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(move |field| field.name == name)
    }

    /// How many fields have this name.
    #[must_use]
    pub fn count(&self, name: Name) -> usize {
        self.all(name).count()
    }

    /// The first field of a known name.
    #[must_use]
    pub fn first(&self, name: Name) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The first field with this name in any case, for names without an entry in [`Name`].
    #[must_use]
    pub fn named(&self, message: &[u8], name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name_bytes(message).eq_ignore_ascii_case(name.as_bytes()))
    }

    /// How many hops the message has made: one Received field each, RFC 5321 section 6.3.
    #[must_use]
    pub fn hops(&self) -> usize {
        self.count(Name::Received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_folds_and_body_are_found() {
        let text = b"From: a@b\r\nSubject: one\r\n two\r\nX-Odd : v\r\n\r\nbody\r\n";
        let header = scan(text).unwrap();
        assert_eq!(header.fields.len(), 3);
        assert_eq!(&text[header.len..], b"body\r\n");
        let subject = header.first(Name::Subject).unwrap();
        assert!(subject.folded);
        assert_eq!(subject.text(text), "one two");
        assert_eq!(header.named(text, "x-odd").unwrap().value(text), b"v");
    }

    #[test]
    fn a_line_that_is_no_field_is_named_by_number() {
        assert_eq!(scan(b"From: a\r\nhello\r\n\r\n"), Err(ScanError::NotAField(2)));
        assert_eq!(scan(b" fold first: x\r\n"), Err(ScanError::NotAField(1)));
        assert_eq!(scan(b": x\r\n"), Err(ScanError::NotAField(1)));
        assert_eq!(scan(b"From a@b Mon: x\r\n\r\n"), Err(ScanError::NotAField(1)));
    }

    #[test]
    fn bounds_hold_and_odd_inputs_do_not_panic() {
        let many = "A: b\r\n".repeat(FIELDS_MAX + 1);
        assert_eq!(scan(many.as_bytes()), Err(ScanError::TooMany));
        let long = format!("A: b\r\n{}", " x\r\n".repeat(HEADER_MAX / 4 + 2));
        assert_eq!(scan(long.as_bytes()), Err(ScanError::TooLong));
        for text in [&b""[..], b"\r\n", b"\n", b"A", b"A:", b"\r", b"A: b\r\n\r"] {
            let _ = scan(text);
        }
        assert_eq!(scan(b"A: b\r\n").unwrap().len, 6);
    }
}
