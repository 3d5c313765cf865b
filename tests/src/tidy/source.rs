//! Rust source, reduced to what the tidy checks look at.
//!
//! [`blank`] replaces comments, strings and character literals by spaces and keeps every line break, so that the checks
//! can look for words and braces without a full parser. Never a compiler: a file that does not parse is
//! still reduced, and `cargo check` says what is wrong with it.

/// A function found in a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// First line, counted from 1.
    pub line: usize,
    /// Lines from `fn` to the closing brace, both included.
    pub lines: usize,
    /// Byte offset of `fn` in the blanked text.
    pub at: usize,
}

/// `text` with comments, strings and character literals blanked; line numbers stay.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end > at {
            for byte in out.iter_mut().take(end).skip(at) {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
            at = end;
        } else {
            at += word_end(bytes, at).max(1);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Length of the identifier at `at`, so that the `r` of `for"` never starts a raw string.
fn word_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().take_while(|b| is_word(**b)).count().min(bytes.len() - at)
}

/// True for the bytes of an identifier.
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// End of the comment or literal that starts at `at`, or `at` when none does.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + block_comment(rest);
    }
    if rest.starts_with(b"'") {
        return at + character(rest);
    }
    let prefix = rest.iter().take_while(|b| matches!(b, b'b' | b'c' | b'r')).count();
    let hashes = rest[prefix..].iter().take_while(|b| **b == b'#').count();
    if prefix > 2 || rest.get(prefix + hashes) != Some(&b'"') {
        return at;
    }
    let body = &rest[prefix + hashes + 1..];
    let raw = rest[..prefix].contains(&b'r');
    if hashes > 0 && !raw {
        return at;
    }
    at + prefix + hashes + 1 + string_end(body, raw, hashes)
}

fn string_end(body: &[u8], raw: bool, hashes: usize) -> usize {
    let mut at = 0;
    while at < body.len() {
        if !raw && body[at] == b'\\' {
            at += 2;
            continue;
        }
        let tail = &body[at + 1..];
        if body[at] == b'"' && tail.iter().take_while(|b| **b == b'#').count() >= hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    body.len()
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Length of a character literal, or 1 for the tick of a lifetime.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        let close = rest.iter().skip(3).position(|b| *b == b'\'');
        return close.map_or(1, |p| p + 4);
    }
    let close = rest.iter().skip(2).take(4).position(|b| *b == b'\'').map(|p| p + 2);
    match close {
        // One character only: `'a'` or a longer UTF-8 sequence, never `'a, 'b`.
        Some(2) => 3,
        Some(end) if rest[1] >= 0x80 => end + 1,
        _ => 1,
    }
}

/// Line of a byte offset, counted from 1.
pub fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

/// Byte offsets at which `word` stands alone in blanked code.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = at.checked_sub(1).and_then(|i| bytes.get(i));
        let after = bytes.get(at + word.len());
        !before.is_some_and(|b| is_word(*b)) && !after.is_some_and(|b| is_word(*b))
    })
}

/// Offset just behind the brace that closes the one at `open`.
pub fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// `code` with every `#[cfg(test)]` item blanked: what ships.
pub fn without_tests(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    for (at, mark) in code.match_indices("#[cfg(test)]") {
        let from = at + mark.len();
        let stop = code[from..].find(['{', ';']).map_or(code.len(), |p| from + p);
        let end = if code.as_bytes().get(stop) == Some(&b'{') { closing(code, stop) } else { stop };
        for byte in out.iter_mut().take(end).skip(at) {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Every function with a body in blanked code.
pub fn functions(code: &str) -> Vec<Function> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    for at in words(code, "fn") {
        let name: String =
            code[at + 2..].trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if name.is_empty() {
            continue; // a function pointer type
        }
        let mut depth = 0i32;
        let mut open = None;
        for (i, byte) in bytes.iter().enumerate().skip(at) {
            match byte {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth -= 1,
                b'{' if depth == 0 => {
                    open = Some(i);
                    break;
                }
                b';' if depth == 0 => break,
                _ => {}
            }
        }
        if let Some(open) = open {
            let line = line_of(code, at);
            let lines = line_of(code, closing(code, open)) - line + 1;
            found.push(Function { name, line, lines, at });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_vanish_and_lines_stay() {
        let text = "let a = \"unsafe { \\\" }\"; // unsafe\nlet b = '{'; /* { /* } */ */\n\
            let c: &'static str = r#\"}\"#;";
        let code = blank(text);
        assert_eq!(code.lines().count(), 3);
        assert!(!code.contains("unsafe") && !code.contains('{') && !code.contains('}'));
        assert!(code.contains("'static") || code.contains(" static"));
        assert!(code.contains("let c"));
    }

    #[test]
    fn escaped_ticks_and_quotes_end_where_they_should() {
        let code = blank("('\\'', '\"', b'\\\\', 'ä', 'x') fn f() {}");
        assert!(code.contains("fn f() {}"), "{code}");
        assert!(!code.contains('"'));
    }

    #[test]
    fn function_lengths_count_both_braces() {
        let code = blank("fn one() -> [u8; 4] { [0; 4] }\nfn three(\n) {\n}\ntrait T { fn none(&self); }\n");
        let found = functions(&code);
        let shape: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
        assert_eq!(shape, [("one", 1, 1), ("three", 2, 3)]);
    }

    #[test]
    fn test_modules_are_cut_out() {
        let code = without_tests("fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { {} }\n}\nfn c() {}\n");
        assert!(code.contains("fn a") && code.contains("fn c") && !code.contains("fn b"));
        assert_eq!(code.lines().count(), 6);
    }
}
