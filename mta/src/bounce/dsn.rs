//! Delivery status notifications: the text of a report (RFC 3464, RFC 6522, RFC 6533) and its envelope.
//!
//! One report covers all recipients of one message in one attempt. It comes from the null reverse path, is 7-bit
//! clean, and every byte derives from values handed in, so that recovery composes the same report again and a repeat
//! is recognised by its ids. Whether a report is due at all is decided in [`super::consequence`].

use queue::{
    Body, BodyFlags, BodyHash, Class, DsnRet, EnvRecipient, Envelope, MessageKind, Notify, Outcome, SpoolId,
    UnixMillis, UnixSecs,
};

use super::consequence::Action;
use crate::message::{canonical, convert, date, facts, header, hygiene};
use crate::smtp::xtext;

/// Largest original returned whole; of larger ones the header alone.
pub const FULL_MAX: usize = 1024 * 1024;
/// Most bytes of one value in a report.
const VALUE_MAX: usize = 1024;

/// One recipient in a report.
#[derive(Clone, Copy, Debug)]
pub struct Reported<'a> {
    /// Index into the envelope's recipients.
    pub recipient: usize,
    /// What is said.
    pub action: Action,
    /// What the attempt came to.
    pub outcome: &'a Outcome,
    /// MX host that answered; `None` when the words are our own.
    pub remote_mta: Option<&'a str>,
    /// When it was last tried.
    pub last_attempt: UnixSecs,
    /// For [`Action::Delayed`]: until when.
    pub will_retry_until: Option<UnixSecs>,
}

/// Everything a report is made of.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// The message it is about.
    pub envelope: &'a Envelope,
    /// Its spool id.
    pub spool_id: SpoolId,
    /// Which attempt.
    pub attempt: u32,
    /// Our name: Reporting-MTA and the author's domain.
    pub host: &'a str,
    /// Time of the verdict; the same again on recovery.
    pub now: UnixMillis,
    /// About whom; at least one.
    pub recipients: &'a [Reported<'a>],
    /// The stored message; its header is enough unless RET=FULL was asked for.
    pub original: &'a [u8],
}

/// A report ready for the spool.
#[derive(Clone, Debug)]
pub struct Dsn {
    /// From the null reverse path to the original's reverse path; `idempotency_key` names the report for ever.
    pub envelope: Envelope,
    /// The complete message.
    pub body: Body,
}

/// The name of a report: the same message, attempt, first recipient and kind give the same name.
#[must_use]
pub fn report_id(report: &Report<'_>) -> String {
    let first = report.recipients.first();
    let (recipient, action) = first.map_or((0, Action::Failed), |r| (r.recipient, r.action));
    format!("dsn.{}.{}.{recipient}.{}", report.spool_id, report.attempt, action as u8)
}

/// Composes a report.
#[must_use]
pub fn compose(report: &Report<'_>) -> Dsn {
    let id = report_id(report);
    let original = returned(report);
    let boundary = boundary(&id, &original.bytes);
    let mut out = Vec::with_capacity(4096 + original.bytes.len());
    push_header(report, &id, &boundary, &mut out);
    let header_len = out.len();
    push_part(&boundary, "text/plain", "Notification", &encoded_text(&explanation(report)), &mut out);
    let status = status_fields(report);
    let global = !status.is_ascii();
    let kind = if global { "message/global-delivery-status" } else { "message/delivery-status" };
    push_part(&boundary, kind, "Delivery report", &encoded_text(&status), &mut out);
    push_part(&boundary, original.kind, original.title, &original, &mut out);
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Dsn { envelope: envelope(report, id, &out, header_len), body: Body::from(out) }
}

fn envelope(report: &Report<'_>, id: String, message: &[u8], header_len: usize) -> Envelope {
    let facts = facts::scan(message);
    Envelope {
        received: report.now,
        kind: MessageKind::Dsn,
        tenant: report.envelope.tenant.clone(),
        stream: report.envelope.stream.clone(),
        class: Class::Transactional,
        idempotency_key: id,
        recipients: vec![EnvRecipient {
            address: report.envelope.reverse_path.clone(),
            orcpt: String::new(),
            // RFC 3461 section 5.2: a report about a report is never asked for.
            notify: Notify(Notify::NEVER),
        }],
        flags: BodyFlags {
            dot_line: facts.dot_line,
            eight_bit: facts.eight_bit,
            binary: false,
            smtputf8: !report.envelope.reverse_path.is_ascii(),
            longest_line: facts.longest_line,
            header_len: header_len as u32,
        },
        body_hash: BodyHash {
            relaxed: canonical::hash_relaxed(message.get(header_len..).unwrap_or_default()),
            simple: [0; 32],
        },
        size: message.len() as u32,
        protocol: "local".to_owned(),
        report_of: Some((report.spool_id, report.attempt)),
        ..Envelope::default()
    }
}

/// RFC 3464 section 2 and RFC 3834 section 5.
fn push_header(report: &Report<'_>, id: &str, boundary: &str, out: &mut Vec<u8>) {
    use std::io::Write;
    let host = report.host;
    let subject = match overall(report) {
        Action::Failed => "Undelivered mail returned to sender",
        Action::Delayed => "Delayed mail (still being tried)",
        Action::Relayed => "Mail relayed to a host without delivery reports",
        Action::Delivered => "Mail delivered",
    };
    // A write into a Vec can't fail.
    let _ = write!(
        out,
        "Date: {}\r\nFrom: Mail Delivery System <mailer-daemon@{host}>\r\nTo: <{}>\r\nSubject: {subject}\r\n\
         Message-ID: <{id}@{host}>\r\n",
        date::rfc5322(report.now),
        clean(&report.envelope.reverse_path, true),
    );
    if let Some(message_id) = original_message_id(report.original) {
        let _ = write!(out, "In-Reply-To: {message_id}\r\nReferences: {message_id}\r\n");
    }
    let _ = write!(
        out,
        "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\nContent-Type: multipart/report; \
         report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\r\n"
    );
}

/// The gravest action named: the subject speaks of it.
fn overall(report: &Report<'_>) -> Action {
    report.recipients.iter().map(|r| r.action).min().unwrap_or(Action::Failed)
}

/// The original's Message-ID when it is safe to repeat.
fn original_message_id(original: &[u8]) -> Option<String> {
    let header = header::scan(original).ok()?;
    let value = header.first(header::Name::MessageId)?.text(original);
    let safe = value.len() <= 250
        && value.starts_with('<')
        && value.ends_with('>')
        && value.bytes().all(|b| b.is_ascii_graphic());
    safe.then_some(value)
}

/// Content of one part with the encoding it needs to be 7-bit clean.
struct Part {
    bytes: Vec<u8>,
    kind: &'static str,
    title: &'static str,
    encoding: &'static str,
    charset: &'static str,
}

fn encoded_text(text: &str) -> Part {
    let mut part = Part { bytes: Vec::new(), kind: "", title: "", encoding: "7bit", charset: "us-ascii" };
    if text.is_ascii() {
        part.bytes.extend_from_slice(text.as_bytes());
    } else {
        part.encoding = "quoted-printable";
        part.charset = "utf-8";
        convert::push_quoted_printable(&mut part.bytes, text.as_bytes());
    }
    part
}

fn push_part(boundary: &str, kind: &str, title: &str, part: &Part, out: &mut Vec<u8>) {
    use std::io::Write;
    let charset = if kind == "text/plain" { format!("; charset={}", part.charset) } else { String::new() };
    let _ = write!(
        out,
        "--{boundary}\r\nContent-Description: {title}\r\nContent-Type: {kind}{charset}\r\n\
         Content-Transfer-Encoding: {}\r\n\r\n",
        part.encoding
    );
    out.extend_from_slice(&part.bytes);
    if !part.bytes.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
}

/// For people: what happened to whom.
fn explanation(report: &Report<'_>) -> String {
    let mut text = format!(
        "This is the mail system at {}.\r\n\r\nIt reports on a message that you sent, queued here as {}.\r\n",
        report.host, report.spool_id
    );
    for (action, words) in [
        (Action::Failed, "It could not be delivered to the following recipients and is given up:"),
        (Action::Delayed, "It could not be delivered yet to the following recipients. It is still being tried:"),
        (Action::Relayed, "It was taken by a host that will not report on its delivery:"),
        (Action::Delivered, "It was delivered to the following recipients:"),
    ] {
        let mut first = true;
        for one in report.recipients.iter().filter(|r| r.action == action) {
            if std::mem::take(&mut first) {
                text.push_str(&format!("\r\n{words}\r\n"));
            }
            explain(report, one, &mut text);
        }
    }
    text
}

fn explain(report: &Report<'_>, one: &Reported<'_>, text: &mut String) {
    let who = one
        .remote_mta
        // Without a code nobody there said anything.
        .filter(|_| one.outcome.code > 0)
        .map_or_else(|| "this system says".to_owned(), |mta| format!("the host {} said", clean(mta, false)));
    text.push_str(&format!("\r\n  <{}>\r\n", address(report, one)));
    let said = format!("{who}: {}", reply_line(one.outcome, true));
    push_wrapped(&said, "    ", text);
    if let Some(until) = one.will_retry_until.filter(|_| one.action == Action::Delayed) {
        let when = date::rfc5322(UnixMillis(u64::from(until.0) * 1000));
        text.push_str(&format!("    It is tried until {when}.\r\n"));
    }
}

/// RFC 3464 section 2.1: one group for the message, one for each recipient.
fn status_fields(report: &Report<'_>) -> String {
    let time = |secs: UnixSecs| date::rfc5322(UnixMillis(u64::from(secs.0) * 1000));
    let mut text = format!("Reporting-MTA: dns; {}\r\n", report.host);
    if !report.envelope.envid.is_empty() {
        let envid = plain(&report.envelope.envid);
        text.push_str(&format!("Original-Envelope-Id: {}\r\n", clean(&envid, false)));
    }
    text.push_str(&format!("Arrival-Date: {}\r\n", date::rfc5322(report.envelope.received)));
    for one in report.recipients {
        text.push_str("\r\n");
        if let Some((kind, original)) = original_recipient(report, one) {
            text.push_str(&format!("Original-Recipient: {kind}; {original}\r\n"));
        }
        let address = address(report, one);
        let kind = if address.is_ascii() { "rfc822" } else { "utf-8" };
        text.push_str(&format!(
            "Final-Recipient: {kind}; {address}\r\nAction: {}\r\nStatus: {}\r\n",
            one.action.word(),
            status(one)
        ));
        if let Some(mta) = one.remote_mta {
            text.push_str(&format!("Remote-MTA: dns; {}\r\n", clean(mta, false)));
        }
        if matches!(one.action, Action::Failed | Action::Delayed) {
            // The type says whose words they are: a peer's reply, or ours.
            let kind = if one.remote_mta.is_some() && one.outcome.code > 0 { "smtp" } else { "x-ringpost" };
            let mut value = String::new();
            push_wrapped(&format!("Diagnostic-Code: {kind}; {}", reply_line(one.outcome, false)), "", &mut value);
            // A wrapped line of a field goes on after white space.
            text.push_str(&value.trim_end().replace("\r\n", "\r\n\t"));
            text.push_str("\r\n");
        }
        text.push_str(&format!("Last-Attempt-Date: {}\r\n", time(one.last_attempt)));
        if let Some(until) = one.will_retry_until.filter(|_| one.action == Action::Delayed) {
            text.push_str(&format!("Will-Retry-Until: {}\r\n", time(until)));
        }
    }
    text
}

fn address(report: &Report<'_>, one: &Reported<'_>) -> String {
    report.envelope.recipients.get(one.recipient).map_or_else(String::new, |r| clean(&r.address, true))
}

/// RFC 3464 section 2.3.1: what the sender gave as ORCPT, its xtext undone (RFC 3461 section 4.2).
fn original_recipient(report: &Report<'_>, one: &Reported<'_>) -> Option<(String, String)> {
    let orcpt = &report.envelope.recipients.get(one.recipient)?.orcpt;
    let (kind, value) = orcpt.split_once(';')?;
    let plain = plain(value);
    let kind: String = kind.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    (!kind.is_empty()).then(|| (kind, clean(&plain, true)))
}

/// The text behind xtext (RFC 3461 section 4); as it stands when it is none.
fn plain(value: &str) -> String {
    let bytes = xtext::decode(value.as_bytes()).and_then(|bytes| String::from_utf8(bytes).ok());
    bytes.unwrap_or_else(|| value.to_owned())
}

/// The RFC 3463 status; its class follows the action where the peer gave none.
fn status(one: &Reported<'_>) -> String {
    let [class, subject, detail] = one.outcome.enhanced;
    let fits = match one.action {
        Action::Failed => class == 5 || class == 4,
        Action::Delayed => class == 4,
        Action::Relayed | Action::Delivered => class == 2,
    };
    if fits {
        return format!("{class}.{subject}.{detail}");
    }
    match one.action {
        Action::Failed => "5.0.0".to_owned(),
        Action::Delayed => "4.0.0".to_owned(),
        Action::Relayed | Action::Delivered => "2.0.0".to_owned(),
    }
}

/// `550 5.1.1 text`; the text alone when no reply was involved.
fn reply_line(outcome: &Outcome, utf8: bool) -> String {
    let text = clean(&outcome.text.replace(['\r', '\n'], " "), utf8);
    let [class, subject, detail] = outcome.enhanced;
    match (outcome.code, class) {
        (0, _) => text,
        (code, 0) => format!("{code} {text}"),
        (code, _) => format!("{code} {class}.{subject}.{detail} {text}"),
    }
}

/// One line, bounded, without control characters; other bytes than ASCII only where `utf8` allows them.
fn clean(value: &str, utf8: bool) -> String {
    value.chars().take(VALUE_MAX).map(|c| if c.is_control() || (!utf8 && !c.is_ascii()) { '?' } else { c }).collect()
}

/// Breaks at blanks so that lines stay short; a longer word is broken hard at 900 octets (RFC 5322 section 2.1.1).
fn push_wrapped(text: &str, indent: &str, out: &mut String) {
    let mut line = indent.to_owned();
    for word in text.split(' ').filter(|w| !w.is_empty()) {
        if line.len() > indent.len() && line.len() + word.len() > 75 {
            out.push_str(line.trim_end());
            out.push_str("\r\n");
            line = indent.to_owned();
        }
        for c in word.chars() {
            if line.len() >= 900 {
                out.push_str(&std::mem::replace(&mut line, indent.to_owned()));
                out.push_str("\r\n");
            }
            line.push(c);
        }
        line.push(' ');
    }
    out.push_str(line.trim_end());
    out.push_str("\r\n");
}

/// What is returned of the original, RFC 3461 section 4.3: the whole only when a failure is reported and RET=FULL was
/// asked for.
fn returned(report: &Report<'_>) -> Part {
    let original = report.original;
    let whole = report.envelope.ret == DsnRet::Full && overall(report) == Action::Failed && original.len() <= FULL_MAX;
    if whole {
        let facts = facts::scan(original);
        let plain = !facts.eight_bit && !facts.bare && !facts.nul && facts.longest_line <= hygiene::LINE_MAX;
        let bytes = if plain { Some(original.to_vec()) } else { convert::to_seven_bit(original).ok() };
        if let Some(bytes) = bytes {
            return Part { bytes, kind: "message/rfc822", title: "Undelivered message", encoding: "7bit", charset: "" };
        }
    }
    header_only(original)
}

fn header_only(original: &[u8]) -> Part {
    let header = header::scan(original).unwrap_or_default();
    // A field that could not stand in a report as it is stays out of it.
    let sound = |field: &&header::Field| {
        let facts = facts::scan(field.bytes(original));
        !facts.bare && !facts.nul && facts.longest_line <= hygiene::LINE_MAX
    };
    let fields: Vec<u8> = header.fields.iter().filter(sound).flat_map(|f| f.bytes(original)).copied().collect();
    let mut part = Part {
        bytes: fields.clone(),
        kind: "text/rfc822-headers",
        title: "Message header",
        encoding: "7bit",
        charset: "",
    };
    if fields.is_ascii() {
        return part;
    }
    if std::str::from_utf8(&fields).is_ok() {
        // RFC 6533 section 4.2.
        part.kind = "message/global-headers";
        part.encoding = "quoted-printable";
        part.bytes.clear();
        convert::push_quoted_printable(&mut part.bytes, &fields);
    } else {
        part.bytes.iter_mut().filter(|b| !b.is_ascii()).for_each(|b| *b = b'?');
    }
    part
}

/// The addresses that a report of ours speaks of.
#[must_use]
pub fn reported(report: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(report);
    // The first and the last part are other people's words.
    let part =
        text.split("delivery-status\r\n").nth(1).and_then(|rest| rest.split("\r\n--").next()).unwrap_or_default();
    let fields = part.lines().filter_map(|line| line.strip_prefix("Final-Recipient: "));
    fields.filter_map(|value| Some(value.split_once("; ")?.1.to_owned())).collect()
}

/// A delimiter that no line of the returned content starts with.
fn boundary(id: &str, content: &[u8]) -> String {
    let mut boundary = format!("=_{id}");
    while memchr::memmem::find(content, boundary.as_bytes()).is_some() {
        boundary.push('_');
    }
    boundary
}

#[cfg(test)]
mod tests {
    use queue::{BounceClass, OutcomeKind};

    use super::*;

    const ORIGINAL: &[u8] = b"From: s@a.test\r\nMessage-ID: <1@a.test>\r\nSubject: hi\r\n\r\nbody text\r\n";

    fn outcome(kind: OutcomeKind, code: u16, enhanced: [u16; 3], text: &str) -> Outcome {
        Outcome { kind, code, enhanced, text: text.to_owned(), class: BounceClass::InvalidRecipient }
    }

    fn envelope() -> Envelope {
        let recipient = |address: &str, orcpt: &str| EnvRecipient {
            address: address.to_owned(),
            orcpt: orcpt.to_owned(),
            notify: Notify::default(),
        };
        Envelope {
            received: UnixMillis(1_795_215_489_000),
            reverse_path: "s@a.test".to_owned(),
            envid: "QQ+2B1".to_owned(),
            recipients: vec![recipient("x@b.test", "rfc822;X+2Bold@b.test"), recipient("y@b.test", "")],
            ..Envelope::default()
        }
    }

    fn text(envelope: &Envelope, recipients: &[Reported<'_>], original: &[u8]) -> (Dsn, String) {
        let dsn = compose(&Report {
            envelope,
            spool_id: SpoolId(5),
            attempt: 3,
            host: "mx.test",
            now: UnixMillis(1_795_215_499_000),
            recipients,
            original,
        });
        let text = String::from_utf8(dsn.body.to_vec()).unwrap();
        (dsn, text)
    }

    fn reported<'a>(recipient: usize, action: Action, outcome: &'a Outcome) -> Reported<'a> {
        Reported {
            recipient,
            action,
            outcome,
            remote_mta: Some("mx1.b.test"),
            last_attempt: UnixSecs(1_795_215_498),
            will_retry_until: None,
        }
    }

    #[test]
    fn a_report_can_be_read_back() {
        let failed = outcome(OutcomeKind::Failed, 550, [5, 1, 1], "Final-Recipient: rfc822; forged@b.test");
        let rows = [reported(0, Action::Failed, &failed), reported(1, Action::Failed, &failed)];
        let mut asked = envelope();
        asked.ret = DsnRet::Full;
        let original = b"From: s@a.test\r\n\r\nFinal-Recipient: rfc822; forged@b.test\r\n";
        let (dsn, _) = text(&asked, &rows, original);
        assert_eq!(super::reported(&dsn.body), ["x@b.test", "y@b.test"]);
    }

    #[test]
    fn r18_report_has_three_parts_and_every_field() {
        let failed = outcome(OutcomeKind::Failed, 550, [5, 1, 1], "User unknown\r\nsecond line");
        let relayed = outcome(OutcomeKind::Delivered, 250, [0, 0, 0], "ok");
        let rows = [reported(0, Action::Failed, &failed), reported(1, Action::Relayed, &relayed)];
        let (dsn, text) = text(&envelope(), &rows, ORIGINAL);
        for want in [
            "Content-Type: multipart/report; report-type=delivery-status;",
            "Auto-Submitted: auto-replied\r\n",
            "To: <s@a.test>\r\n",
            "In-Reply-To: <1@a.test>\r\n",
            "Content-Type: message/delivery-status\r\n",
            "Reporting-MTA: dns; mx.test\r\nOriginal-Envelope-Id: QQ+1\r\nArrival-Date: Fri, 20 Nov 2026",
            "Original-Recipient: rfc822; X+old@b.test\r\nFinal-Recipient: rfc822; x@b.test\r\nAction: failed\r\n\
             Status: 5.1.1\r\nRemote-MTA: dns; mx1.b.test\r\n\
             Diagnostic-Code: smtp; 550 5.1.1 User unknown second line\r\nLast-Attempt-Date: Fri, 20 Nov",
            "\r\n\r\nFinal-Recipient: rfc822; y@b.test\r\nAction: relayed\r\nStatus: 2.0.0\r\n",
            "Content-Type: text/rfc822-headers\r\n",
        ] {
            assert!(text.contains(want), "{want}\n--- in ---\n{text}");
        }
        assert!(!text.contains("body text"));
        assert!(text.is_ascii() && text.ends_with("--\r\n"));
        assert_eq!(text.matches("\r\n--=_dsn.0000000000005.3.0.1\r\n").count(), 3);
        assert_eq!(dsn.envelope.reverse_path, "");
        assert_eq!(dsn.envelope.recipients[0].address, "s@a.test");
        assert_eq!(dsn.envelope.report_of, Some((SpoolId(5), 3)));
        assert_eq!(dsn.envelope.idempotency_key, "dsn.0000000000005.3.0.1");
        assert_eq!(dsn.envelope.size as usize, text.len());
    }

    #[test]
    fn r17_ret_decides_what_comes_back() {
        let failed = outcome(OutcomeKind::Failed, 0, [5, 4, 7], "expired after 4 days");
        let mut envelope = envelope();
        envelope.ret = DsnRet::Full;
        let mut row = reported(0, Action::Failed, &failed);
        row.remote_mta = None;
        let (_, whole) = text(&envelope, &[row], ORIGINAL);
        assert!(whole.contains("Content-Type: message/rfc822\r\n") && whole.contains("body text"));
        assert!(whole.contains("Diagnostic-Code: x-ringpost; expired after 4 days\r\n"), "{whole}");
        let delayed = outcome(OutcomeKind::Deferred, 451, [4, 7, 1], "later");
        let mut row = reported(0, Action::Delayed, &delayed);
        row.will_retry_until = Some(UnixSecs(1_795_999_999));
        let (_, header) = text(&envelope, &[row], ORIGINAL);
        assert!(header.contains("Action: delayed\r\nStatus: 4.7.1\r\n") && header.contains("Will-Retry-Until: "));
        assert!(!header.contains("body text"));
    }

    #[test]
    fn r15_internationalised_reports_are_seven_bit_clean() {
        let failed = outcome(OutcomeKind::Failed, 550, [5, 1, 1], "unbekannter Empfänger");
        let mut envelope = envelope();
        envelope.recipients[0].address = "jörg@b.test".to_owned();
        envelope.ret = DsnRet::Full;
        let original = "From: s@a.test\r\nSubject: grüße\r\n\r\nü\r\n".as_bytes();
        let (dsn, out) = text(&envelope, &[reported(0, Action::Failed, &failed)], original);
        assert!(out.is_ascii(), "{out}");
        assert!(out.contains("Content-Type: message/global-delivery-status\r\n"));
        assert!(out.contains("Final-Recipient: utf-8; j=C3=B6rg@b.test"));
        assert!(out.contains("Content-Type: message/global-headers\r\n"));
        assert!(!dsn.envelope.flags.eight_bit && !dsn.envelope.flags.smtputf8);
        let eight = "From: s@a.test\r\n\r\nü\r\n".as_bytes();
        let (_, out) = text(&envelope, &[reported(0, Action::Failed, &failed)], eight);
        assert!(out.contains("Content-Type: message/rfc822\r\n") && out.contains("=C3=BC"));
    }

    #[test]
    fn hostile_values_stay_in_their_line_and_reports_repeat() {
        let text_of = format!("x{}\r\nStatus: 2.0.0 \u{7}\0", "y".repeat(3000));
        let failed = outcome(OutcomeKind::Failed, 550, [0, 0, 0], &text_of);
        let mut envelope = envelope();
        envelope.envid = "a\r\nAction: delivered".to_owned();
        envelope.recipients[0].orcpt = "rfc822;bad+0D+0AAction: delivered".to_owned();
        let rows = [reported(0, Action::Failed, &failed)];
        let (_, one) = text(&envelope, &rows, b"garbage \xff\r\n no header --=_dsn.0000000000005.3.0.1");
        let (_, two) = text(&envelope, &rows, b"garbage \xff\r\n no header --=_dsn.0000000000005.3.0.1");
        assert_eq!(one, two);
        assert!(!one.contains("\r\nAction: delivered") && !one.contains("\r\nStatus: 2.0.0"));
        assert!(one.split("\r\n").all(|line| line.len() <= 998 && !line.contains('\n')));
    }
}
