//! The messages of the matrix, and the comparison of what arrived with what was sent.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

/// A message as a client sends it: CRLF, not dot-stuffed.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub name: &'static str,
    pub id: String,
    pub bytes: Vec<u8>,
}

/// What a receiver does to a message it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeps {
    /// Every byte.
    Wire,
    /// Lines end with LF on its disk.
    Lines,
    /// The same, and an empty line of its own at the end.
    LinesAndOne,
}

/// One of each kind; `tag` makes their ids unique in a run.
pub(super) fn letters(tag: &str) -> Vec<Letter> {
    let letter = |name: &'static str, fields: &str, body: &[u8]| {
        let id = format!("{name}.{tag}@sender.test");
        let mut bytes = format!(
            "From: Sender <hello@sender.test>\r\nTo: you@inbox.test\r\nSubject: {name}\r\n\
             Date: Fri, 15 Jan 2027 08:00:00 +0000\r\nMessage-ID: <{id}>\r\n{fields}\r\n"
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        Letter { name, id, bytes }
    };
    let mime = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n";
    let dots = b"line\r\n.\r\n..\r\n.dot\r\n\r\n  blanks behind  \r\nFrom here\r\n\t\r\n.\r\nend\r\n";
    let eight = "gr\u{fc}\u{df}e\r\n\u{1f4e7} \u{5b9b}\r\n.\u{fc}\r\n";
    let large = "0123456789 abcdefghijklmnopqrstuvwxyz .\r\n.ABCDEFGHIJKLMNOPQRSTUVWXYZ\r\n".repeat(4500);
    let long = format!("{}\r\n{}\r\nshort\r\n", "x".repeat(990), ".".repeat(500));
    vec![
        letter("plain", "X-Folded: one\r\n\ttwo\r\n   three\r\n", b"hello\r\n"),
        letter("dots", "", dots),
        letter("eight-bit", mime, eight.as_bytes()),
        letter("large", "", large.as_bytes()),
        letter("long-lines", "", long.as_bytes()),
    ]
}

/// Waits until a file of `folder` holds the message, and gives its bytes with CRLF.
pub(super) fn arrived(folder: &Path, id: &str, keeps: Keeps) -> Result<Vec<u8>> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(bytes) = find(folder, id)? {
            return Ok(match keeps {
                Keeps::Wire => bytes,
                Keeps::Lines => with_crlf(&bytes),
                Keeps::LinesAndOne => with_crlf(bytes.strip_suffix(b"\n").unwrap_or(&bytes)),
            });
        }
        if Instant::now() > until {
            bail!("{id} did not arrive within 30 s");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn find(folder: &Path, id: &str) -> Result<Option<Vec<u8>>> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() || [".env", ".part"].iter().any(|end| name.to_string_lossy().ends_with(end)) {
            continue;
        }
        // A file may be renamed while it is looked at.
        let Ok(bytes) = fs::read(&path) else { continue };
        if has(&bytes, format!("<{id}>").as_bytes()) {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

pub(super) fn with_crlf(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 40);
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == b'\n' && (at == 0 || bytes[at - 1] != b'\r') {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    out
}

fn has(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// What was sent is at the end of what arrived, and before it stand trace fields and our signatures, nothing else.
pub(super) fn exact(sent: &[u8], got: &[u8], signed: bool) -> Result<()> {
    let Some(added) = got.strip_suffix(sent) else {
        let same = sent.iter().rev().zip(got.iter().rev()).take_while(|(a, b)| a == b).count();
        let at = sent.len() - same;
        let near = |bytes: &[u8], end: usize| {
            let from = end.saturating_sub(60);
            bytes.get(from..(end + 20).min(bytes.len())).unwrap_or_default().escape_ascii().to_string()
        };
        bail!("differs before byte {at}: sent {:?}, got {:?}", near(sent, at), near(got, got.len() - same));
    };
    let text = String::from_utf8_lossy(added).into_owned();
    const ADDED: [&str; 11] = [
        "dkim-signature",
        "received",
        "return-path",
        "delivered-to",
        "x-original-to",
        "envelope-to",
        "delivery-date",
        "x-client-addr",
        "x-client-proto",
        "x-mail-args",
        "x-rcpt-args",
    ];
    let mut signatures = 0;
    for line in text.split("\r\n").filter(|line| !line.is_empty() && !line.starts_with([' ', '\t'])) {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        ensure!(ADDED.contains(&name.as_str()) || name == "x-helo-args", "the field {line:?} was added");
        signatures += usize::from(name == "dkim-signature");
    }
    ensure!(!signed || signatures > 0, "it is not signed");
    ensure!(text.contains("by mta.sender.test"), "our Received field is missing");
    Ok(())
}
