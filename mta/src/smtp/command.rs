//! One command line of a client: RFC 5321 section 4.1.1 and the extensions that add commands.
//!
//! Splitting only: what an argument means is decided by who handles the command. Lines arrive without their CRLF.

use super::codes::{reply, Reply};

/// A command with its raw arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the protocol's own words
pub enum Command<'a> {
    Ehlo(&'a str),
    Helo(&'a str),
    /// What follows `FROM:`.
    Mail(&'a str),
    /// What follows `TO:`.
    Rcpt(&'a str),
    Data,
    Bdat(&'a str),
    Rset,
    Noop,
    Quit,
    Vrfy,
    Expn,
    Help,
    StartTls,
    Auth(&'a str),
    Xclient(&'a str),
    Unknown,
}

/// Reads a line; the error is the reply to give.
pub fn parse(line: &[u8]) -> Result<Command<'_>, Reply> {
    // Control characters have no place in a command; a bare CR here would be an attempt at smuggling.
    if line.iter().any(|byte| *byte < b' ' && *byte != b'\t' || *byte == 0x7f) {
        return Err(reply::BAD_BYTES);
    }
    let text = std::str::from_utf8(line).map_err(|_| reply::BAD_BYTES)?;
    let end = text.bytes().position(|byte| byte == b' ' || byte == b'\t');
    let (verb, argument) = text.split_at(end.unwrap_or(text.len()));
    let argument = argument.trim_matches([' ', '\t']);
    let bare = |command| if argument.is_empty() { Ok(command) } else { Err(reply::NO_ARGUMENT) };
    let is = |name: &str| verb.eq_ignore_ascii_case(name);
    match verb.len() {
        4 if is("MAIL") => keyword(argument, "FROM:").map(Command::Mail).ok_or(reply::BAD_MAIL),
        4 if is("RCPT") => keyword(argument, "TO:").map(Command::Rcpt).ok_or(reply::BAD_RCPT),
        4 if is("DATA") => bare(Command::Data),
        4 if is("BDAT") => Ok(Command::Bdat(argument)),
        4 if is("EHLO") => Ok(Command::Ehlo(argument)),
        4 if is("HELO") => Ok(Command::Helo(argument)),
        4 if is("RSET") => bare(Command::Rset),
        4 if is("NOOP") => Ok(Command::Noop),
        4 if is("QUIT") => bare(Command::Quit),
        4 if is("VRFY") && !argument.is_empty() => Ok(Command::Vrfy),
        4 if is("VRFY") => Err(reply::BAD_PARAMETER),
        4 if is("EXPN") => Ok(Command::Expn),
        4 if is("HELP") => Ok(Command::Help),
        4 if is("AUTH") => Ok(Command::Auth(argument)),
        7 if is("XCLIENT") => Ok(Command::Xclient(argument)),
        8 if is("STARTTLS") => bare(Command::StartTls),
        _ => Ok(Command::Unknown),
    }
}

/// What follows a keyword such as `FROM:`; blanks behind the colon are forgiven.
fn keyword<'a>(argument: &'a str, name: &str) -> Option<&'a str> {
    let (head, rest) = argument.split_at_checked(name.len())?;
    head.eq_ignore_ascii_case(name).then(|| rest.trim_start_matches(' '))
}

/// RFC 3030 section 2: `size [LAST]`.
#[must_use]
pub fn chunk(argument: &str) -> Option<(u64, bool)> {
    let mut words = argument.split_ascii_whitespace();
    let size = words.next()?;
    // At most 20 digits by the grammar; `parse` alone would take a sign.
    let size = size.bytes().all(|byte| byte.is_ascii_digit()).then(|| size.parse().ok())??;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return None,
    };
    words.next().is_none().then_some((size, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r01_verbs_in_any_case() {
        assert_eq!(parse(b"mAiL fRoM:<a@b> SIZE=1"), Ok(Command::Mail("<a@b> SIZE=1")));
        assert_eq!(parse(b"RCPT TO: <a@b>"), Ok(Command::Rcpt("<a@b>")));
        assert_eq!(parse(b"quit"), Ok(Command::Quit));
        assert_eq!(parse(b"QUIT now"), Err(reply::NO_ARGUMENT));
        assert_eq!(parse(b"XYZZ"), Ok(Command::Unknown));
        assert_eq!(parse(b""), Ok(Command::Unknown));
        assert_eq!(parse(b"MAIL TO:<a@b>"), Err(reply::BAD_MAIL));
        assert_eq!(parse(b"RCPT"), Err(reply::BAD_RCPT));
    }

    #[test]
    fn r01_bytes_no_command_may_hold() {
        for line in [&b"NOOP\r"[..], b"NOOP \0", b"NOOP \xff", b"EHLO a\x7f"] {
            assert_eq!(parse(line), Err(reply::BAD_BYTES));
        }
    }

    #[test]
    fn r13_chunk_sizes() {
        assert_eq!(chunk("0 LAST"), Some((0, true)));
        assert_eq!(chunk("86 last"), Some((86, true)));
        assert_eq!(chunk("18446744073709551615"), Some((u64::MAX, false)));
        for text in ["", "LAST", "-1", "+1", "1 2", "1 LAST x", "18446744073709551616", "0x10"] {
            assert_eq!(chunk(text), None, "{text}");
        }
    }
}
