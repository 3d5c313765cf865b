//! The end of receiving: from the content a client sent to the bytes that are stored.
//!
//! Hygiene, steering fields out, Received (and on submission a missing Date and Message-ID) in front. The body is
//! never moved: the receive buffer has headroom before the content, the header part alone is shifted. Pure: clock,
//! spool id and names come in as values.

use std::net::IpAddr;
use std::sync::Arc;

use queue::{Body, BodyFlags, BodyHash, SpoolId, UnixMillis};

use super::address;
use super::canonical;
use super::date;
use super::facts::{self, Facts};
use super::header::{self, Header, Name};
use super::hygiene::{self, Refusal, Role};
use super::received::{self, Stamp};
use super::steer::{self, Presets, Scope, Steering};

/// Headroom that suffices for what is put in front; with less the message is copied once.
pub const HEADROOM: usize = 1024;

/// A received message and everything that decides what becomes of it.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// `headroom` unused bytes, then the content in wire form (CRLF, dots unstuffed).
    pub buffer: Vec<u8>,
    /// Unused bytes at the start of `buffer`; [`HEADROOM`] is enough.
    pub headroom: usize,
    /// Facts about the content when the receiver took them on the way; otherwise they are taken here.
    pub facts: Option<Facts>,
    /// How it came in.
    pub role: Role,
    /// The client declared BODY=BINARYMIME (RFC 3030).
    pub binary: bool,
    /// The client declared SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// Some address of the envelope is not ASCII.
    pub utf8_addresses: bool,
    /// The client's address; `None` for HTTP injection and our own mail.
    pub peer: Option<IpAddr>,
    /// What the client called itself.
    pub helo: &'a str,
    /// `ESMTPSA` and the like (RFC 3848).
    pub protocol: &'a str,
    /// Our own name, for Received and Message-ID.
    pub host: &'a str,
    /// The recipient, when there is exactly one.
    pub single_recipient: Option<&'a str>,
    /// What the credential may steer; not read for [`Role::Inbound`].
    pub scope: Scope<'a>,
    /// Whose names of steering fields are understood.
    pub presets: Presets,
    /// Our key of the message.
    pub spool_id: SpoolId,
    /// Now.
    pub now: UnixMillis,
    /// Take the relaxed body hash: someone will sign.
    pub want_hash: bool,
    /// Take the simple one as well.
    pub want_simple: bool,
}

/// A message as it is stored.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The complete message, our Received field first.
    pub body: Body,
    /// For the envelope; `header_len` is where the body starts.
    pub flags: BodyFlags,
    /// For the envelope; zeros when not asked for.
    pub body_hash: BodyHash,
    /// Bytes of `body`.
    pub size: u32,
    /// What the fields of the client asked for.
    pub steering: Steering,
}

/// Makes the stored message out of a received one.
///
/// # Errors
/// The reply for a message that is not accepted; nothing of it is kept.
pub fn finish(mut input: Incoming<'_>) -> Result<Finished, Refusal> {
    let headroom = input.headroom.min(input.buffer.len());
    let content = &input.buffer[headroom..];
    let header = match header::scan(content) {
        Ok(header) => header,
        // Reports of odd systems: all of it becomes the body below our own field.
        Err(_) if input.role == Role::Inbound => Header::default(),
        Err(error) => return Err(hygiene::unreadable(error)),
    };
    let facts = input.facts.unwrap_or_else(|| facts::scan(content));
    hygiene::check(content, &header, &facts, input.binary, input.role)?;
    let (steering, mut taken) = match input.role {
        Role::Inbound => (Steering::default(), Vec::new()),
        Role::Submission | Role::Relay => steer::read(content, &header, input.presets, &input.scope)?,
    };
    if input.role == Role::Submission {
        author_in_scope(content, &header, &input.scope)?;
    }
    unwanted_fields(content, &header, input.role, input.host, &mut taken);
    let body_at = headroom + header.len;
    let header_eight_bit = facts.eight_bit && !content[..header.len].is_ascii();
    let body_hash = hash(&input.buffer[body_at..], input.want_hash, input.want_simple);
    let prefix = prefix(&input, &header);
    let kept_from = drop_fields(&mut input.buffer, headroom, &header, &taken);
    let start = put_in_front(&mut input.buffer, kept_from, &prefix);
    // Where nothing had to move, this is `body_at`; after a copy everything is shifted alike.
    let header_len = prefix.len() + (body_at - kept_from);
    let size = input.buffer.len() - start;
    if size > queue::limits::MESSAGE_MAX {
        return Err(Refusal { code: 552, enhanced: [5, 3, 4], text: "message too large".to_owned() });
    }
    let flags = BodyFlags {
        dot_line: facts.dot_line,
        eight_bit: facts.eight_bit || !prefix.is_ascii(),
        binary: input.binary,
        // Declared alone is no need: plain content goes to any site.
        smtputf8: input.utf8_addresses || (input.smtputf8 && header_eight_bit),
        longest_line: facts.longest_line.max(longest(&prefix)),
        header_len: header_len as u32,
    };
    let end = input.buffer.len();
    let body = Body::new(Arc::new(input.buffer), start..end);
    Ok(Finished { body, flags, body_hash, size: size as u32, steering })
}

/// RFC 6409 section 6.1: the author must be one the credential may write as.
fn author_in_scope(content: &[u8], header: &Header, scope: &Scope<'_>) -> Result<(), Refusal> {
    if matches!(scope.from_domains, steer::Allowed::Any) {
        return Ok(());
    }
    let from = header.first(Name::From).map(|field| field.text(content)).unwrap_or_default();
    let domain = address::list(&from, 1).first().map(|a| address::domain(a)).unwrap_or_default();
    if scope.from_domains.permits(&domain) {
        return Ok(());
    }
    Err(Refusal::policy("From: this credential may not write as that domain".to_owned()))
}

/// Fields that must not travel on: on submission Bcc (RFC 5322 section 3.6.3) and Return-Path, which only the last host
/// writes (RFC 5321 section 4.4); always Authentication-Results that claim to be ours (RFC 8601 section 5).
fn unwanted_fields(content: &[u8], header: &Header, role: Role, host: &str, taken: &mut Vec<usize>) {
    let before = taken.len();
    for (index, field) in header.fields.iter().enumerate() {
        let unwanted = match field.name {
            Name::Bcc | Name::ResentBcc | Name::ReturnPath => role == Role::Submission,
            Name::AuthenticationResults => {
                let text = field.text(content);
                let id = text.split([';', ' ', '\t']).next().unwrap_or_default();
                id.eq_ignore_ascii_case(host)
            }
            _ => false,
        };
        if unwanted {
            taken.push(index);
        }
    }
    if before != taken.len() {
        taken.sort_unstable();
    }
}

fn hash(body: &[u8], relaxed: bool, simple: bool) -> BodyHash {
    BodyHash {
        relaxed: if relaxed { canonical::hash_relaxed(body) } else { [0; 32] },
        simple: if simple { canonical::hash_simple(body) } else { [0; 32] },
    }
}

/// Received, and on submission what is missing of Date and Message-ID (RFC 6409 sections 8.2 and 8.3).
fn prefix(input: &Incoming<'_>, header: &Header) -> Vec<u8> {
    use std::io::Write;
    let mut out = Vec::with_capacity(384);
    received::push(
        &mut out,
        &Stamp {
            role: input.role,
            peer: input.peer,
            helo: input.helo,
            host: input.host,
            protocol: input.protocol,
            spool_id: input.spool_id,
            single_recipient: input.single_recipient,
            now: input.now,
        },
    );
    if input.role == Role::Submission {
        if header.first(Name::Date).is_none() {
            out.extend_from_slice(b"Date: ");
            date::push_rfc5322(&mut out, input.now);
            out.extend_from_slice(b"\r\n");
        }
        if header.first(Name::MessageId).is_none() {
            // The time makes it unique even when a new spool starts its ids anew.
            let _ = write!(out, "Message-ID: <{}.{:x}@{}>\r\n", input.spool_id, input.now.0, input.host);
        }
    }
    if header.fields_len == 0 && header.len == 0 {
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Closes the gaps of the `taken` fields by moving what stands before each gap towards the body. Returns where the
/// header starts now. `taken` rises.
fn drop_fields(buffer: &mut [u8], headroom: usize, header: &Header, taken: &[usize]) -> usize {
    let mut read_end = headroom + header.len;
    let mut write_end = read_end;
    for field in taken.iter().rev().filter_map(|index| header.fields.get(*index)) {
        let (gap_start, gap_end) = (headroom + field.start as usize, headroom + field.end as usize);
        let kept = read_end - gap_end;
        buffer.copy_within(gap_end..read_end, write_end - kept);
        write_end -= kept;
        read_end = gap_start;
    }
    let kept = read_end - headroom;
    buffer.copy_within(headroom..read_end, write_end - kept);
    write_end - kept
}

/// Puts `prefix` before `at`; copies the whole message only when the headroom is too small.
fn put_in_front(buffer: &mut Vec<u8>, at: usize, prefix: &[u8]) -> usize {
    if let Some(start) = at.checked_sub(prefix.len()) {
        buffer[start..at].copy_from_slice(prefix);
        return start;
    }
    let mut copy = Vec::with_capacity(prefix.len() + buffer.len() - at);
    copy.extend_from_slice(prefix);
    copy.extend_from_slice(&buffer[at..]);
    *buffer = copy;
    0
}

/// Longest line of a few lines we wrote ourselves.
fn longest(lines: &[u8]) -> u32 {
    lines.split(|b| *b == b'\n').map(|line| line.len() as u32).max().unwrap_or(0).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn incoming(content: &[u8], headroom: usize) -> Incoming<'static> {
        let mut buffer = vec![0xAA; headroom];
        buffer.extend_from_slice(content);
        Incoming {
            buffer,
            headroom,
            facts: None,
            role: Role::Submission,
            binary: false,
            smtputf8: false,
            utf8_addresses: false,
            peer: Some("192.0.2.1".parse().unwrap()),
            helo: "client.test",
            protocol: "ESMTPSA",
            host: "mx.test",
            single_recipient: Some("r@b.test"),
            scope: Scope::everything(),
            presets: Presets { powermta: true, kumomta: true },
            spool_id: SpoolId(7),
            now: UnixMillis(1_795_215_489_000),
            want_hash: true,
            want_simple: false,
        }
    }

    fn text(finished: &Finished) -> String {
        String::from_utf8(finished.body.to_vec()).unwrap()
    }

    #[test]
    fn r01_one_received_is_added_on_top_and_older_ones_stay() {
        let content =
            b"Received: from old\r\n\tby older; x\r\nFrom: a@b.test\r\nDate: x\r\nMessage-ID: <1@b>\r\n\r\nHi\r\n";
        let finished = finish(incoming(content, HEADROOM)).unwrap();
        let text = text(&finished);
        assert!(text.starts_with("Received: from submission\r\n\tby mx.test with ESMTPSA id 0000000000007\r\n"));
        assert!(text.ends_with(std::str::from_utf8(content).unwrap()));
        assert_eq!(finished.size as usize, text.len());
        assert_eq!(&text[finished.flags.header_len as usize..], "Hi\r\n");
        assert_eq!(finished.body_hash.relaxed, canonical::sha256(b"Hi\r\n"));
    }

    #[test]
    fn r05_submission_adds_missing_date_and_message_id() {
        let finished = finish(incoming(b"From: a@b.test\r\n\r\nHi\r\n", HEADROOM)).unwrap();
        let text = text(&finished);
        assert!(text.contains("\r\nDate: Fri, 20 Nov 2026 22:58:09 +0000\r\nMessage-ID: <0000000000007.1a1fb2"));
        assert!(text.contains("@mx.test>\r\nFrom: a@b.test\r\n\r\nHi\r\n"), "{text}");
        let relay = Incoming { role: Role::Relay, ..incoming(b"From: a@b.test\r\n\r\n", HEADROOM) };
        assert!(!String::from_utf8(finish(relay).unwrap().body.to_vec()).unwrap().contains("Date:"));
    }

    #[test]
    fn steering_and_private_fields_leave_the_header_only() {
        let content = b"X-Job: j1\r\nFrom: a@b.test\r\nBcc: s@b.test\r\nX-Ringpost-Pool: p\r\n\tq\r\nTo: t@b.test\r\n\
            Return-Path: <x>\r\nDate: x\r\nMessage-ID: <1@b>\r\nX-Envid: e\r\n\r\nX-Job: in the body\r\n";
        for headroom in [0, 10, HEADROOM] {
            let mut input = incoming(content, headroom);
            input.buffer = String::from_utf8_lossy(&input.buffer.split_off(headroom))
                .replace("p\r\n\tq", "p")
                .into_bytes()
                .into_iter()
                .fold(vec![0; headroom], |mut all, b| {
                    all.push(b);
                    all
                });
            let finished = finish(input).unwrap();
            let text = text(&finished);
            let (_, rest) = text.split_once("+0000\r\n").unwrap();
            assert_eq!(
                rest,
                "From: a@b.test\r\nTo: t@b.test\r\nDate: x\r\nMessage-ID: <1@b>\r\n\r\nX-Job: in the body\r\n"
            );
            assert_eq!(finished.steering.campaign.as_deref(), Some("j1"));
            assert_eq!(finished.steering.pool.as_deref(), Some("p"));
            assert_eq!(&text[finished.flags.header_len as usize..], "X-Job: in the body\r\n");
        }
    }

    #[test]
    fn r05_the_author_must_be_in_scope() {
        let domains = ["b.test".to_owned()];
        let scope = Scope { from_domains: steer::Allowed::Only(&domains), ..Scope::default() };
        let ok = Incoming { scope, ..incoming(b"From: A <a@B.test>\r\n\r\n", HEADROOM) };
        assert!(finish(ok).is_ok());
        let bad = Incoming { scope, ..incoming(b"From: A <a@evil.test>\r\n\r\n", HEADROOM) };
        assert_eq!(finish(bad).unwrap_err().enhanced, [5, 7, 1]);
    }

    #[test]
    fn r26_forged_authentication_results_are_taken_out() {
        let content = b"Authentication-Results: MX.test; dkim=pass\r\nAuthentication-Results: other.test; x\r\n\
            From: a@b.test\r\n\r\n";
        for role in [Role::Submission, Role::Relay, Role::Inbound] {
            let text = text(&finish(Incoming { role, ..incoming(content, HEADROOM) }).unwrap());
            assert!(!text.contains("MX.test") && text.contains("other.test"), "{text}");
        }
    }

    #[test]
    fn an_unreadable_header_is_kept_whole_below_ours_when_inbound() {
        let content = b"no header at all\r\nsecond: line\r\n";
        assert_eq!(finish(incoming(content, HEADROOM)).unwrap_err().enhanced, [5, 6, 0]);
        let finished = finish(Incoming { role: Role::Inbound, ..incoming(content, HEADROOM) }).unwrap();
        assert!(text(&finished).ends_with("+0000\r\n\r\nno header at all\r\nsecond: line\r\n"));
        assert_eq!(&finished.body[finished.flags.header_len as usize..], content);
    }

    #[test]
    fn the_body_is_not_moved() {
        let input = incoming(b"From: a@b.test\r\nX-Job: j\r\n\r\nbody\r\n", HEADROOM);
        let end = input.buffer.as_ptr() as usize + input.buffer.len();
        let finished = finish(input).unwrap();
        assert_eq!(finished.body.as_ptr() as usize + finished.body.len(), end);
    }

    #[test]
    fn facts_reach_the_flags() {
        let content = "From: a@b.test\r\n\r\n.dot\r\nümlaut\r\n".as_bytes();
        let flags = finish(incoming(content, HEADROOM)).unwrap().flags;
        assert!(flags.dot_line && flags.eight_bit && !flags.binary);
        assert!(flags.longest_line >= 40 && flags.longest_line < 998);
        for content in [&b""[..], b"\r\n", b"\r\n\r\nx"] {
            assert!(finish(incoming(content, HEADROOM)).is_err());
            let inbound = Incoming { role: Role::Inbound, ..incoming(content, HEADROOM) };
            assert!(finish(inbound).is_ok());
        }
    }
}
