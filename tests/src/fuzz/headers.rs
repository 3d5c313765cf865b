//! Messages put together from pieces and damage: accepted whole or refused, and converted without loss.

use mail_parser::{MessageParser, MimeHeaders, PartType};
use mta::message::accept::{self, Finished, Incoming};
use mta::message::hygiene::Role;
use mta::message::steer::{Allowed, Presets, Scope};
use mta::message::{canonical, convert, facts, header};
use queue::{SpoolId, UnixMillis};

use super::source::Source;
use super::{must, Verdict};

pub(super) fn run(source: &mut Source<'_>) -> Verdict {
    let content = message(source);
    let scanned = header::scan(&content);
    if let Ok(header) = &scanned {
        fields_tile_the_header(&content, header)?;
    }
    let input = incoming(&content, source);
    let (role, binary) = (input.role, input.binary);
    match accept::finish(input) {
        Ok(finished) => accepted(&content, &finished, role, binary)?,
        Err(refusal) => {
            let text = &refusal.text;
            let sane = (500..560).contains(&refusal.code) && u16::from(refusal.enhanced[0] == 5) == 1;
            must(sane && !text.is_empty() && text.len() < 600, || format!("an odd refusal: {refusal:?}"))?;
        }
    }
    if let Ok(converted) = convert::to_seven_bit(&content) {
        conversion(&content, &converted)?;
    }
    Ok(())
}

/// Fields follow each other without gap, and their parts lie in them.
fn fields_tile_the_header(message: &[u8], header: &header::Header) -> Verdict {
    let mut at = 0;
    for field in &header.fields {
        let parts =
            field.start <= field.name_end && field.name_end < field.value_start && field.value_start <= field.end;
        must(field.start as usize == at && parts, || format!("{field:?} at {at}"))?;
        at = field.end as usize;
        let _ = field.text(message);
    }
    must(at == header.fields_len, || format!("fields end at {at}, said {}", header.fields_len))?;
    let rest = message.get(at..header.len).unwrap_or(b"?");
    must(rest.is_empty() || rest == b"\r\n" || rest == b"\n", || "no empty line behind the fields".to_owned())
}

fn accepted(content: &[u8], finished: &Finished, role: Role, binary: bool) -> Verdict {
    let stored = &finished.body[..];
    must(finished.size as usize == stored.len(), || "size".to_owned())?;
    must(stored.starts_with(b"Received: "), || "our Received field is not the first".to_owned())?;
    let header = header::scan(stored).map_err(|error| format!("what is stored has no header: {error:?}"))?;
    must(header.len == finished.flags.header_len as usize, || "header_len".to_owned())?;
    let old = header::scan(content).unwrap_or_default();
    let body = &stored[header.len..];
    must(body == &content[old.len..], || format!("the body changed: {}", stored.escape_ascii()))?;
    must(header.hops() == old.hops() + 1, || "a trace field was lost or made".to_owned())?;
    must(finished.body_hash.relaxed == canonical::hash_relaxed(body), || "relaxed hash".to_owned())?;
    must(finished.body_hash.simple == canonical::hash_simple(body), || "simple hash".to_owned())?;
    let counted = facts::scan(stored);
    let told = finished.flags;
    if !binary {
        // Fields taken out may have held the longest line, or what is not ASCII: told may be more than there is.
        let same = told.dot_line >= counted.dot_line
            && told.eight_bit >= counted.eight_bit
            && told.longest_line >= counted.longest_line;
        must(same, || format!("told {told:?}, counted {counted:?}"))?;
        must(!counted.bare, || "a bare line end is stored".to_owned())?;
    }
    if role == Role::Submission {
        for name in [header::Name::Date, header::Name::MessageId, header::Name::From] {
            must(header.count(name) == 1, || format!("{} fields {name:?}", header.count(name)))?;
        }
        must(header.count(header::Name::Bcc) == 0, || "Bcc is stored".to_owned())?;
    }
    // What was not taken out stands as it stood.
    let mut wanted = header.fields.iter().map(|field| field.bytes(stored));
    for field in &old.fields {
        let bytes = field.bytes(content);
        if matches!(field.name, header::Name::Received | header::Name::From | header::Name::Date) {
            must(wanted.any(|kept| kept == bytes), || format!("{} was changed", bytes.escape_ascii()))?;
        }
    }
    Ok(())
}

/// 7 bits, and an independent reader sees the same parts in it.
fn conversion(content: &[u8], converted: &[u8]) -> Verdict {
    let counted = facts::scan(converted);
    let clean = !counted.eight_bit && !counted.bare && counted.longest_line <= 998;
    must(clean, || format!("{counted:?} after conversion: {}", converted.escape_ascii()))?;
    let again = convert::to_seven_bit(converted);
    must(again.as_deref() == Ok(converted), || format!("conversion does not settle: {}", converted.escape_ascii()))?;
    // The reader takes only what is well-formed: others have no one meaning that could be kept.
    let header = header::scan(content).unwrap_or_default();
    let (kinds, encodings) = (header::Name::ContentType, header::Name::TransferEncoding);
    let regular = header.count(kinds) <= 1 && header.count(encodings) <= 1 && header.len > header.fields_len;
    // RFC 2046 section 5.1.1 lets readers take a line for a delimiter that only begins like one.
    let ambiguous = content.windows(4).any(|four| four[0] != b'\n' && &four[1..] == b"--b")
        || content.split(|byte| *byte == b'\n').any(|line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            line.starts_with(b"--b") && !matches!(line, b"--b" | b"--b--" | b"--b c" | b"--b c--")
                || line.starts_with(b"--b c") && !has(content, b"boundary=\"b c\"")
                || line.starts_with(b"--b") && has(content, b"boundary=\"b c\"") && has(content, b"boundary=b")
        });
    // The reader at hand does not see the end of a part that is all header.
    let empty = all_header(content);
    // A nested message whose header never ends has no one meaning either; unit tests hold the nested ones that do.
    let nested = has(content, b"message/rfc822") || has(content, b"multipart/digest");
    if !regular || ambiguous || empty || nested || facts::scan(content).bare {
        return Ok(());
    }
    let (before, after) = (parts(content), parts(converted));
    must(before == after, || {
        format!("parts\n{before:?}\nbecame\n{after:?}\nof {}\nand {}", content.escape_ascii(), converted.escape_ascii())
    })
}

/// Decoded bytes of every leaf that says how it is encoded in a way that binds.
fn parts(message: &[u8]) -> Option<Vec<Vec<u8>>> {
    let message = MessageParser::default().parse(message)?;
    let inner = |body: &PartType<'_>| matches!(body, PartType::Multipart(_) | PartType::Message(_));
    let mut all = Vec::new();
    for part in message.parts.iter().filter(|part| !inner(&part.body)) {
        let encoding = part.content_transfer_encoding().unwrap_or_default().to_ascii_lowercase();
        let raw = message.raw_message.get(part.offset_body as usize..part.offset_end as usize).unwrap_or_default();
        all.push(match encoding.as_str() {
            "base64" => mail_parser::decoders::base64::base64_decode(raw).unwrap_or_default(),
            "quoted-printable" => {
                mail_parser::decoders::quoted_printable::quoted_printable_decode(raw).unwrap_or_default()
            }
            _ => raw.to_vec(),
        });
    }
    Some(all)
}

fn incoming(content: &[u8], source: &mut Source<'_>) -> Incoming<'static> {
    static POOLS: [&str; 2] = ["p", "q"];
    let headroom = [0, 1, 100, accept::HEADROOM][source.below(4)];
    let mut buffer = vec![b'#'; headroom];
    buffer.extend_from_slice(content);
    let mut scope = Scope::everything();
    if source.one_in(3) {
        scope.campaigns = Allowed::Nothing;
        scope.from_domains = Allowed::Nothing;
        scope.schedule = false;
    }
    let _ = POOLS;
    Incoming {
        buffer,
        headroom,
        facts: None,
        role: [Role::Submission, Role::Relay, Role::Inbound][source.below(3)],
        binary: source.one_in(4),
        smtputf8: source.one_in(4),
        utf8_addresses: false,
        peer: Some("192.0.2.1".parse().expect("an address")),
        helo: "h",
        protocol: "ESMTP",
        host: "mx.test",
        single_recipient: source.flip().then_some("r@b.test"),
        scope,
        presets: Presets { powermta: true, kumomta: true },
        spool_id: SpoolId(source.number()),
        now: UnixMillis(1_700_000_000_000 + u64::from(source.u32())),
        want_hash: true,
        want_simple: true,
    }
}

const FIELDS: &[&[u8]] = &[
    b"From: a@b.test\r\n",
    b"From: \"A, B\" <a@b.test>\r\n",
    b"From: A (c) <a@b.test>, x@y.test\r\n",
    b"To: c@d.test\r\n",
    b"Received: from x\r\n\tby y; z\r\n",
    b"X-Job: j\r\n",
    b"x-virtual-mta: p\r\n",
    b"X-Ringpost-Campaign: c\r\n",
    b"X-Ringpost-Schedule: 2027-01-15T08:00:00Z\r\n",
    b"x-schedule: {\"first_attempt\": \"2027-01-15T08:00:00Z\", \"expires\": 1}\r\n",
    b"X-Tenant: t\r\n",
    b"Bcc: s@b.test\r\n",
    b"Return-Path: <x@y.test>\r\n",
    b"Authentication-Results: mx.test; spf=pass\r\n",
    b"Subject: \xc3\xbc\r\n",
    b"Subject: plain\r\n folded\r\n",
    b"Message-ID: <1@b.test>\r\n",
    b"Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n",
    b"Reply-To: \"x, (\r\n",
    b"MIME-Version: 1.0\r\n",
    b"Content-Type: multipart/mixed; boundary=b\r\n",
    b"Content-Type: multipart/digest; boundary=\"b c\"\r\n",
    b"Content-Type: message/rfc822\r\n",
    b"Content-Type: text/html; charset=utf-8\r\n",
    b"Content-Type: text/plain; charset=\"x\r\n",
    b"Content-Type: application/octet-stream\r\n",
    b"Content-Transfer-Encoding: 8bit\r\n",
    b"Content-Transfer-Encoding: binary\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
    b"Content-Transfer-Encoding: quoted-printable\r\n",
];

const LINES: &[&[u8]] = &[
    b"text \r\n",
    b"\t\r\n",
    b".dot\r\n",
    b"From here\r\n",
    b"\xff\xfe\r\n",
    b"\xc3\xbc \r\n",
    b"=3D=\r\n",
    b"\r\n",
    b"--b\r\n",
    b"--b\r\n",
    b"--b--\r\n",
    b"--b c\r\n",
    b"Content-Type: text/plain\r\n",
    b"Content-Transfer-Encoding: 8bit\r\n\r\n",
    b"unfinished",
    b"                                                                                              x",
    b"\0",
    b"\n",
    b"\r",
];

pub(super) fn message(source: &mut Source<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    if !source.one_in(5) {
        out.extend_from_slice(FIELDS[0]);
    }
    for _ in 0..source.below(10) {
        out.extend_from_slice(source.pick(FIELDS));
    }
    if !source.one_in(8) {
        out.extend_from_slice(b"\r\n");
    }
    let clean = !source.one_in(4);
    for _ in 0..source.below(24) {
        let line = if clean { LINES[source.below(LINES.len() - 5)] } else { source.pick(LINES) };
        out.extend_from_slice(line);
    }
    match source.byte() % 6 {
        0 => source.damage(&mut out, 3),
        1 => out.extend(source.spicy(200)),
        _ => {}
    }
    out
}

fn has(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Some stretch between lines that begin like a delimiter has no empty line.
fn all_header(content: &[u8]) -> bool {
    let mut body = true;
    for line in content.split(|byte| *byte == b'\n') {
        if line.starts_with(b"--b") {
            if !body {
                return true;
            }
            body = false;
        }
        body |= line == b"\r";
    }
    false
}
