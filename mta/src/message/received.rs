//! The trace header we put on top, RFC 5321 section 4.4.
//!
//! Names our spool id and how the message came (RFC 3848). On submission it tells nothing about the client: neither
//! address nor EHLO name nor user (RFC 6973; these are in the event log). Never touches older trace fields.

use std::net::IpAddr;

use queue::{SpoolId, UnixMillis};

use super::date;
use super::hygiene::Role;

/// Longest EHLO name copied.
const HELO_MAX: usize = 255;

/// What the trace header says.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// How the message came in.
    pub role: Role,
    /// The client's address, when there is one.
    pub peer: Option<IpAddr>,
    /// What the client called itself.
    pub helo: &'a str,
    /// Our own name.
    pub host: &'a str,
    /// `ESMTPSA` and the like, RFC 3848 and RFC 6531 section 4.3.
    pub protocol: &'a str,
    /// Our key of the message.
    pub spool_id: SpoolId,
    /// The recipient, when there is exactly one: naming several would tell them of each other.
    pub single_recipient: Option<&'a str>,
    /// When it was received.
    pub now: UnixMillis,
}

/// Appends the field with its CRLF.
pub fn push(out: &mut Vec<u8>, stamp: &Stamp<'_>) {
    use std::io::Write;
    out.extend_from_slice(b"Received: from ");
    match (stamp.role, stamp.peer) {
        (Role::Submission, _) | (_, None) => out.extend_from_slice(b"submission"),
        (_, Some(peer)) => {
            push_name(out, stamp.helo);
            // A write into a Vec can't fail.
            let _ = match peer.to_canonical() {
                IpAddr::V4(v4) => write!(out, " ([{v4}])"),
                IpAddr::V6(v6) => write!(out, " ([IPv6:{v6}])"),
            };
        }
    }
    out.extend_from_slice(b"\r\n\tby ");
    push_name(out, stamp.host);
    let _ = write!(out, " with {} id {}", stamp.protocol, stamp.spool_id);
    if let Some(recipient) = stamp.single_recipient.filter(|r| is_safe_path(r)) {
        let _ = write!(out, "\r\n\tfor <{recipient}>");
    }
    out.extend_from_slice(b";\r\n\t");
    date::push_rfc5322(out, stamp.now);
    out.extend_from_slice(b"\r\n");
}

/// A client may call itself anything: only what can't be mistaken for trace syntax is copied.
fn push_name(out: &mut Vec<u8>, name: &str) {
    if name.is_empty() {
        out.extend_from_slice(b"unknown");
    }
    out.extend(name.bytes().take(HELO_MAX).map(|b| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b':' | b'[' | b']' => b,
        _ => b'?',
    }));
}

/// Long or odd paths are left out rather than folded wrongly.
fn is_safe_path(path: &str) -> bool {
    path.len() <= 512 && !path.chars().any(|c| c.is_control() || matches!(c, '<' | '>'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp<'static> {
        Stamp {
            role: Role::Relay,
            peer: Some("203.0.113.7".parse().unwrap()),
            helo: "client.test",
            host: "mx.test",
            protocol: "ESMTPS",
            spool_id: SpoolId(33),
            single_recipient: Some("a@b.test"),
            now: UnixMillis(1_795_215_489_000),
        }
    }

    fn text(stamp: &Stamp<'_>) -> String {
        let mut out = Vec::new();
        push(&mut out, stamp);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn r26_with_keyword_and_id_stand_in_the_trace() {
        assert_eq!(
            text(&stamp()),
            "Received: from client.test ([203.0.113.7])\r\n\tby mx.test with ESMTPS id 0000000000011\r\n\
             \tfor <a@b.test>;\r\n\tFri, 20 Nov 2026 22:58:09 +0000\r\n"
        );
        let v6 = Stamp { peer: Some("2001:db8::1".parse().unwrap()), single_recipient: None, ..stamp() };
        assert!(text(&v6).contains("([IPv6:2001:db8::1])\r\n\tby mx.test with ESMTPS id 0000000000011;"));
    }

    #[test]
    fn r48_submission_tells_nothing_about_the_client() {
        let hidden = text(&Stamp { role: Role::Submission, peer: Some("10.0.0.9".parse().unwrap()), ..stamp() });
        assert!(hidden.starts_with("Received: from submission\r\n\tby mx.test"));
        assert!(!hidden.contains("10.0.0.9") && !hidden.contains("client.test"));
    }

    #[test]
    fn a_hostile_name_can_not_forge_trace_syntax() {
        let text = text(&Stamp { helo: "x) by evil\r\nFrom: y (", single_recipient: Some("a>\r\n@b"), ..stamp() });
        assert!(text.starts_with("Received: from x??by?evil??From:?y?? ([203.0.113.7])\r\n"));
        assert!(!text.contains("for <"));
    }
}
