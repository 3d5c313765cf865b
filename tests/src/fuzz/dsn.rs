//! Reports about any envelope, outcome and original: an independent reader finds the three parts and the fields.

use mail_parser::decoders::{base64::base64_decode, quoted_printable::quoted_printable_decode};
use mta::bounce::consequence::Action;
use mta::bounce::dsn::{compose, report_id, Report, Reported};
use mta::message::{canonical, facts, header};
use queue::{BounceClass, Envelope, Outcome, OutcomeKind, SpoolId, UnixMillis, UnixSecs};

use super::source::Source;
use super::{headers, must, records, Verdict};

pub(super) fn run(source: &mut Source<'_>) -> Verdict {
    let mut envelope = records::some_envelope(source);
    if envelope.recipients.is_empty() {
        envelope.recipients.push(queue::EnvRecipient { address: "r@b.test".into(), ..Default::default() });
    }
    // Addresses come from sessions, which let no control character in.
    let clean = |text: &mut String| text.retain(|c| !c.is_control());
    clean(&mut envelope.reverse_path);
    for one in &mut envelope.recipients {
        clean(&mut one.address);
        clean(&mut one.orcpt);
    }
    if !source.one_in(4) {
        envelope.reverse_path = "sender@a.test".into();
    }
    let original = headers::message(source);
    let outcomes: Vec<Outcome> = (0..envelope.recipients.len()).map(|_| outcome(source)).collect();
    let remote = source.flip().then(|| source.text(20));
    let rows: Vec<Reported<'_>> = outcomes
        .iter()
        .enumerate()
        .map(|(recipient, outcome)| Reported {
            recipient,
            action: [Action::Failed, Action::Delayed, Action::Delivered, Action::Relayed][source.below(4)],
            outcome,
            remote_mta: remote.as_deref(),
            last_attempt: UnixSecs(source.u32()),
            will_retry_until: source.flip().then(|| UnixSecs(source.u32())),
        })
        .collect();
    let report = Report {
        envelope: &envelope,
        spool_id: SpoolId(source.number()),
        attempt: source.number() as u32,
        host: "mx.own.test",
        now: UnixMillis(1_800_000_000_000),
        recipients: &rows,
        original: &original,
    };
    let dsn = compose(&report);
    must(compose(&report).body[..] == dsn.body[..], || "composed twice, two reports".to_owned())?;
    must(dsn.envelope.idempotency_key == report_id(&report), || "its name".to_owned())?;
    envelope_fits(&dsn.envelope, &dsn.body, &envelope)?;
    well_formed(&dsn.body, rows.len())
}

fn envelope_fits(own: &Envelope, body: &[u8], about: &Envelope) -> Verdict {
    must(own.reverse_path.is_empty(), || "a report that can bounce".to_owned())?;
    must(own.recipients.len() == 1 && own.recipients[0].address == about.reverse_path, || "to whom?".to_owned())?;
    must(own.size as usize == body.len(), || "size".to_owned())?;
    let scanned = header::scan(body).map_err(|error| format!("{error:?}"))?;
    must(scanned.len == own.flags.header_len as usize, || "header_len".to_owned())?;
    must(own.body_hash.relaxed == canonical::hash_relaxed(&body[scanned.len..]), || "hash".to_owned())?;
    let counted = facts::scan(body);
    // An internationalised sender is named in To, RFC 6532; the report says that it needs SMTPUTF8.
    let seven_bit = !counted.eight_bit || own.flags.smtputf8 && body[scanned.len..].is_ascii();
    must(seven_bit && !counted.bare && !counted.nul && counted.longest_line <= 998, || {
        format!("{counted:?} in {}", body.escape_ascii())
    })
}

/// RFC 3464, RFC 6522: three parts, and the fields that must be there, once for every recipient.
fn well_formed(body: &[u8], recipients: usize) -> Verdict {
    let shown = || String::from_utf8_lossy(body).into_owned();
    let top = header::scan(body).map_err(|error| format!("{error:?}"))?;
    for name in ["From", "To", "Date", "Message-ID", "Subject", "MIME-Version", "Auto-Submitted", "Content-Type"] {
        let count = top.fields.iter().filter(|one| one.name_bytes(body).eq_ignore_ascii_case(name.as_bytes())).count();
        must(count == 1, || format!("{count} fields {name}: {}", shown()))?;
    }
    let kind = top.named(body, "Content-Type").map(|field| field.text(body)).unwrap_or_default();
    must(kind.starts_with("multipart/report;"), || kind.clone())?;
    let boundary =
        kind.split("boundary=").nth(1).and_then(|rest| rest.trim_start_matches('"').split(['"', ';']).next());
    let boundary = boundary.ok_or_else(|| format!("no boundary: {kind}"))?;
    let parts = parts(&body[top.len..], boundary).ok_or_else(|| format!("not closed: {}", shown()))?;
    must(parts.len() == 3, || format!("{} parts: {}", parts.len(), shown()))?;
    let kinds: Vec<&str> = parts.iter().map(|part| part.kind.as_str()).collect();
    must(kinds[0] == "text/plain", || format!("{kinds:?}"))?;
    must(matches!(kinds[1], "message/delivery-status" | "message/global-delivery-status"), || format!("{kinds:?}"))?;
    let third = ["message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers"];
    must(third.contains(&kinds[2]), || format!("{kinds:?}"))?;
    let status = String::from_utf8_lossy(&parts[1].content).into_owned();
    let count = |name: &str| status.lines().filter(|line| line.starts_with(name)).count();
    for (name, wanted) in
        [("Reporting-MTA: ", 1), ("Final-Recipient: ", recipients), ("Action: ", recipients), ("Status: ", recipients)]
    {
        must(count(name) == wanted, || format!("{} times {name:?}, not {wanted}: {status}", count(name)))?;
    }
    let groups = status.trim_end().split("\r\n\r\n").count();
    must(groups == recipients + 1, || format!("{groups} groups: {status}"))
}

struct Part {
    kind: String,
    content: Vec<u8>,
}

/// The parts between delimiters, decoded; none when the last delimiter is missing.
fn parts(body: &[u8], boundary: &str) -> Option<Vec<Part>> {
    let text = [b"\r\n", body].concat();
    let delimiter = format!("\r\n--{boundary}");
    let mut places = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].windows(delimiter.len()).position(|window| window == delimiter.as_bytes()) {
        at += found + delimiter.len();
        places.push(at);
    }
    let (last, starts) = places.split_last()?;
    text[*last..].starts_with(b"--\r\n").then_some(())?;
    let ends = places.iter().skip(1).map(|end| end - delimiter.len());
    let part = |(start, end): (&usize, usize)| {
        let part = text.get(*start..end)?.strip_prefix(b"\r\n")?;
        let header = header::scan(part).ok()?;
        let value = |name| header.named(part, name).map(|field| field.text(part)).unwrap_or_default();
        let content = part.get(header.len..)?;
        let content = match value("Content-Transfer-Encoding").as_str() {
            "quoted-printable" => quoted_printable_decode(content)?,
            "base64" => base64_decode(content)?,
            _ => content.to_vec(),
        };
        Some(Part { kind: value("Content-Type").split(';').next()?.trim().to_owned(), content })
    };
    starts.iter().zip(ends).map(part).collect()
}

fn outcome(source: &mut Source<'_>) -> Outcome {
    let kinds = [OutcomeKind::Failed, OutcomeKind::Deferred, OutcomeKind::Delivered, OutcomeKind::Unknown];
    Outcome {
        kind: kinds[source.below(4)],
        code: [0, 250, 421, 550, 599][source.below(5)],
        enhanced: [source.below(7) as u16, source.number() as u16, source.byte().into()],
        text: if source.one_in(8) { "long ".repeat(source.below(400)) } else { source.text(60) },
        class: BounceClass::InvalidRecipient,
    }
}
