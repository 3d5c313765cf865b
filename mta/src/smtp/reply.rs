//! Replies of an SMTP server, read from the wire by us as the client. Pure.
//!
//! RFC 5321 section 4.2: three digits, then a hyphen (more lines follow) or a space or nothing, then text. Tolerant
//! where it does no harm (bare LF, a missing text, differing codes in one reply: the last line's counts), strict where
//! it would (no digits, endless lines). Never keeps more than [`TEXT_MAX`] bytes of what a peer says.

use std::fmt;

/// Longest text kept of one reply, lines joined.
pub const TEXT_MAX: usize = queue::limits::REPLY_TEXT_MAX;
/// Longest line taken; RFC 5321 section 4.5.3.1.5 allows 512, peers write longer ones.
pub const LINE_MAX: usize = 8 * 1024;
/// Most lines of one reply taken; an EHLO reply is the longest in practice, with about 20.
pub const LINES_MAX: usize = 256;

/// What the first digit says; unknown codes are understood by it, RFC 5321 section 4.3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyClass {
    /// 2yz: done.
    Completed,
    /// 3yz: go on.
    Intermediate,
    /// 4yz: not now.
    Transient,
    /// 5yz: not like this.
    Permanent,
}

/// One whole reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Reply code, 200 to 599.
    pub code: u16,
    /// RFC 2034 enhanced code as given; zeros when there is none.
    pub enhanced: [u16; 3],
    /// The texts of the lines after code and separator, cleaned of control characters; for EHLO the extensions.
    pub lines: Vec<String>,
}

impl Reply {
    /// What the first digit says.
    #[must_use]
    pub fn class(&self) -> ReplyClass {
        match self.code / 100 {
            2 => ReplyClass::Completed,
            3 => ReplyClass::Intermediate,
            4 => ReplyClass::Transient,
            _ => ReplyClass::Permanent,
        }
    }

    /// 2yz.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.class() == ReplyClass::Completed
    }

    /// The text of all lines in one, with the enhanced code said once; at most [`TEXT_MAX`] bytes.
    #[must_use]
    pub fn text(&self) -> String {
        self.joined(1)
    }

    /// As [`Reply::text`], without the enhanced code: for where that is told beside it.
    #[must_use]
    pub fn words(&self) -> String {
        self.joined(0)
    }

    /// All lines in one; those from `bare` on lose their enhanced code.
    fn joined(&self, bare: usize) -> String {
        let mut text = String::new();
        for (number, line) in self.lines.iter().enumerate() {
            let rest = match enhanced(line) {
                Some((_, rest)) if number >= bare => rest,
                _ => line.as_str(),
            };
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(rest);
            if text.len() >= TEXT_MAX {
                break;
            }
        }
        truncate(&mut text, TEXT_MAX);
        text
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text())
    }
}

/// Why what a peer sends is no reply. The connection cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadReply {
    /// A line that does not start with a code of 200 to 599.
    #[error("the peer's answer is not an SMTP reply")]
    NoCode,
    /// A line without an end.
    #[error("the peer's reply line is too long")]
    LineTooLong,
    /// A reply without an end.
    #[error("the peer's reply has too many lines")]
    TooManyLines,
}

/// Puts replies together from bytes as they come.
#[derive(Debug, Default)]
pub struct ReplyReader {
    line: Vec<u8>,
    lines: Vec<String>,
    kept: usize,
}

impl ReplyReader {
    /// Takes bytes from the front of `bytes`, up to the end of one reply. `None` when they are used up before.
    ///
    /// Errors: see [`BadReply`].
    pub fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<Reply>, BadReply> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (part, rest) = bytes.split_at(end);
            *bytes = rest.get(1..).unwrap_or_default();
            self.append(part)?;
            let line = std::mem::take(&mut self.line);
            let reply = self.line(&line);
            self.line = line;
            self.line.clear();
            if let Some(reply) = reply? {
                return Ok(Some(reply));
            }
        }
        self.append(bytes)?;
        *bytes = &[];
        Ok(None)
    }

    /// Nothing of a reply has been taken yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.line.is_empty() && self.lines.is_empty()
    }

    /// Gives memory back while the connection idles.
    pub fn shrink(&mut self) {
        self.line.shrink_to(0);
        self.lines.shrink_to(0);
    }

    fn append(&mut self, part: &[u8]) -> Result<(), BadReply> {
        if self.line.len() + part.len() > LINE_MAX {
            return Err(BadReply::LineTooLong);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<Reply>, BadReply> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let code = code(line).ok_or(BadReply::NoCode)?;
        let more = line.get(3) == Some(&b'-');
        if self.lines.len() == LINES_MAX {
            return Err(BadReply::TooManyLines);
        }
        let text = clean(line.get(4..).unwrap_or_default());
        // An EHLO reply is read line by line, so short lines are all kept; a novel is cut.
        let room = (4 * TEXT_MAX).saturating_sub(self.kept);
        let mut text = text;
        truncate(&mut text, room);
        self.kept += text.len();
        self.lines.push(text);
        if more {
            return Ok(None);
        }
        self.kept = 0;
        let lines = std::mem::take(&mut self.lines);
        let enhanced = lines.first().and_then(|first| enhanced(first)).map_or([0; 3], |(code, _)| code);
        Ok(Some(Reply { code, enhanced, lines }))
    }
}

/// The reply code at the start of a line.
fn code(line: &[u8]) -> Option<u16> {
    let digits = line.get(..3)?;
    if !digits.iter().all(u8::is_ascii_digit) || line.get(3).is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    (200..600).contains(&code).then_some(code)
}

/// The enhanced code at the start of a text (RFC 2034 section 4) and what follows it.
fn enhanced(text: &str) -> Option<([u16; 3], &str)> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut numbers = word.split('.');
    let mut next = |longest: usize| {
        let number = numbers.next()?;
        let fits = !number.is_empty() && number.len() <= longest && number.bytes().all(|b| b.is_ascii_digit());
        fits.then(|| number.parse::<u16>().ok()).flatten()
    };
    let code = [next(1)?, next(3)?, next(3)?];
    if numbers.next().is_some() || !matches!(code[0], 2 | 4 | 5) {
        return None;
    }
    Some((code, rest.trim_start()))
}

/// Text that is safe in a log line and in a report: no control characters, valid UTF-8.
fn clean(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Cuts at a character boundary.
fn truncate(text: &mut String, longest: usize) {
    if text.len() > longest {
        let end = (0..=longest).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(mut bytes: &[u8]) -> Result<Vec<Reply>, BadReply> {
        let mut reader = ReplyReader::default();
        let mut replies = Vec::new();
        while let Some(reply) = reader.read(&mut bytes)? {
            replies.push(reply);
        }
        Ok(replies)
    }

    #[test]
    fn r02_multiline_replies_whole_and_byte_by_byte() {
        let wire = b"250-mx.test hello\r\n250-SIZE 100\r\n250 DSN\r\n550-5.1.1 no such\r\n550 5.1.1 user\r\n354\r\n";
        let replies = read_all(wire).expect("replies");
        let mut reader = ReplyReader::default();
        let mut bytewise = Vec::new();
        for byte in wire {
            bytewise.extend(reader.read(&mut &[*byte][..]).expect("reply"));
        }
        assert_eq!(replies, bytewise);
        assert!(reader.is_empty());
        assert_eq!(replies.len(), 3);
        assert_eq!(replies[0].lines, ["mx.test hello", "SIZE 100", "DSN"]);
        assert_eq!((replies[1].code, replies[1].enhanced), (550, [5, 1, 1]));
        assert_eq!(replies[1].text(), "5.1.1 no such user");
        assert_eq!((replies[2].code, replies[2].text().as_str()), (354, ""));
    }

    #[test]
    fn r02_first_digit_decides_for_unknown_codes() {
        for (wire, class) in [
            ("299 x\r\n", ReplyClass::Completed),
            ("399 x\r\n", ReplyClass::Intermediate),
            ("477 x\n", ReplyClass::Transient),
            ("599-x\r\n599 x\r\n", ReplyClass::Permanent),
        ] {
            assert_eq!(read_all(wire.as_bytes()).expect("a reply")[0].class(), class, "{wire}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for wire in ["HTTP/1.1 400\r\n", "25\r\n", "\r\n", "2500 x\r\n", "120 x\r\n", "650 x\r\n"] {
            assert_eq!(read_all(wire.as_bytes()), Err(BadReply::NoCode), "{wire}");
        }
        assert_eq!(read_all(&vec![b'2'; LINE_MAX + 1]), Err(BadReply::LineTooLong));
        let endless = "250-x\r\n".repeat(LINES_MAX + 1);
        assert_eq!(read_all(endless.as_bytes()), Err(BadReply::TooManyLines));
    }

    #[test]
    fn texts_are_cut_and_cleaned() {
        let mut wire = b"550-5.7.1 a\x07\xffb\r\n".to_vec();
        for _ in 0..100 {
            wire.extend_from_slice(format!("550-5.7.1 {}\r\n", "\u{e9}".repeat(100)).as_bytes());
        }
        wire.extend_from_slice(b"550 end\r\n");
        let replies = read_all(&wire).expect("a reply");
        let text = replies[0].text();
        assert!(text.len() <= TEXT_MAX && text.len() > TEXT_MAX - 4);
        assert!(text.starts_with("5.7.1 a \u{fffd}b"));
    }

    #[test]
    fn enhanced_codes_are_read_strictly() {
        for (text, code) in [("5.1.1 x", [5, 1, 1]), ("2.0.0", [2, 0, 0]), ("4.7.650 x", [4, 7, 650])] {
            assert_eq!(enhanced(text).map(|(code, _)| code), Some(code));
        }
        for text in ["", "5.1", "5.1.1.1 x", "3.1.1 x", "5.1111.1 x", "5..1 x", "10.0.0 x", "5.1.1x y"] {
            assert_eq!(enhanced(text), None, "{text}");
        }
    }
}
