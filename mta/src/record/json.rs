//! The line of an event: one JSON object, written by hand into one buffer because every disposition passes here.
//!
//! Members without a value are left out, and a time stands once: a line is read back by name, and every byte here is
//! paid for by every message. Exports put in what other layouts want.
//!
//! The last member is a CRC32C over all bytes before its comma; it tells a torn or damaged line from a whole one and
//! is plain JSON to everybody else.

use queue::UnixMillis;

use super::event::{class_name, Event};
use crate::message::date::push_number;

/// `,"crc":"xxxxxxxx"}` and the newline.
const CRC_LEN: usize = 19;

/// Appends the line of an event, newline included.
pub fn push_line(out: &mut Vec<u8>, event: &Event) {
    let start = out.len();
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(event.kind.name().as_bytes());
    out.extend_from_slice(b"\"");
    text(out, "event_id", &event.event_id());
    text(out, "id", &event.id.to_string());
    text(out, "sender", &event.sender);
    recipients(out, &event.recipients);
    optional(out, "queue", &event.queue);
    optional(out, "site", &event.site);
    number(out, "size", event.size);
    response(out, event);
    peer(out, event);
    time(out, "event_time", event.event_time);
    time(out, "created_time", event.created);
    number(out, "num_attempts", u64::from(event.num_attempts));
    text(out, "bounce_classification", class_name(event.bounce_class));
    optional(out, "egress_pool", &event.egress_pool);
    optional(out, "egress_source", &event.egress_source);
    source_address(out, event);
    if let Some(report) = &event.feedback_report {
        key(out, "feedback_report");
        // Serializing a value that is JSON already can't fail.
        out.extend_from_slice(report.to_string().as_bytes());
    }
    object(out, "meta", event.meta.iter().map(|(name, value)| (*name, value.as_str())));
    object(out, "headers", event.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    optional(out, "delivery_protocol", &event.delivery_protocol);
    optional(out, "reception_protocol", &event.reception_protocol);
    text(out, "nodeid", &event.nodeid);
    tls(out, event);
    if event.session_id != 0 {
        text(out, "session_id", &format!("{:016x}", event.session_id));
    }
    if event.possible_duplicate {
        key(out, "possible_duplicate");
        out.extend_from_slice(b"true");
    }
    let crc = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(format!(",\"crc\":\"{crc:08x}\"}}\n").as_bytes());
}

/// True when the line (newline included) is exactly what was written.
#[must_use]
pub fn is_whole(line: &[u8]) -> bool {
    let Some(split) = line.len().checked_sub(CRC_LEN) else {
        return false;
    };
    let (content, tail) = line.split_at(split);
    tail == format!(",\"crc\":\"{:08x}\"}}\n", crc32c::crc32c(content)).as_bytes()
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    key(out, name);
    string(out, value);
}

fn optional(out: &mut Vec<u8>, name: &str, value: &str) {
    if !value.is_empty() {
        text(out, name, value);
    }
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    key(out, name);
    push_number(out, value, 1);
}

/// Seconds since 1970 with milliseconds.
fn time(out: &mut Vec<u8>, name: &str, time: UnixMillis) {
    number(out, name, time.0 / 1000);
    out.push(b'.');
    push_number(out, time.0 % 1000, 3);
}

fn recipients(out: &mut Vec<u8>, all: &[String]) {
    match all {
        [one] => text(out, "recipient", one),
        many => {
            key(out, "recipient");
            array(out, many);
        }
    }
}

fn array(out: &mut Vec<u8>, values: &[String]) {
    out.push(b'[');
    for (place, value) in values.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        string(out, value);
    }
    out.push(b']');
}

fn response(out: &mut Vec<u8>, event: &Event) {
    let response = &event.response;
    out.extend_from_slice(b",\"response\":{\"code\":");
    push_number(out, u64::from(response.code), 1);
    let [class, subject, detail] = response.enhanced;
    if class > 0 {
        key(out, "enhanced_code");
        out.extend_from_slice(format!("{{\"class\":{class},\"subject\":{subject},\"detail\":{detail}}}").as_bytes());
    }
    text(out, "content", &response.content);
    optional(out, "command", response.command.as_deref().unwrap_or_default());
    out.push(b'}');
}

fn peer(out: &mut Vec<u8>, event: &Event) {
    let Some((name, addr)) = &event.peer_address else { return };
    key(out, "peer_address");
    out.extend_from_slice(b"{\"name\":");
    string(out, name);
    text(out, "addr", addr);
    out.push(b'}');
}

fn source_address(out: &mut Vec<u8>, event: &Event) {
    let Some(source) = &event.source_address else { return };
    key(out, "source_address");
    out.extend_from_slice(b"{\"address\":");
    string(out, &source.address);
    optional(out, "protocol", source.protocol.as_deref().unwrap_or_default());
    optional(out, "server", source.server.as_deref().unwrap_or_default());
    out.push(b'}');
}

fn tls(out: &mut Vec<u8>, event: &Event) {
    if let Some(tls) = &event.tls {
        text(out, "tls_cipher", &tls.cipher);
        text(out, "tls_protocol_version", &tls.version);
        key(out, "tls_peer_subject_name");
        array(out, &tls.peer_subject_name);
    }
}

fn object<'a>(out: &mut Vec<u8>, name: &str, members: impl Iterator<Item = (&'a str, &'a str)>) {
    let mut any = false;
    for (member, value) in members {
        if any {
            out.push(b',');
        } else {
            key(out, name);
            out.push(b'{');
        }
        any = true;
        string(out, member);
        out.push(b':');
        string(out, value);
    }
    if any {
        out.push(b'}');
    }
}

/// A JSON string, RFC 8259 section 7. Runs without anything to escape are copied whole.
fn string(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    let bytes = value.as_bytes();
    let mut copied = 0;
    for (place, byte) in bytes.iter().enumerate() {
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[copied..place]);
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
        copied = place + 1;
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use queue::SpoolId;

    use super::super::event::{Kind, Response, SourceAddress, TlsFacts};
    use super::*;

    #[test]
    fn a_line_is_json_with_the_fields_of_the_field() {
        let event = Event {
            kind: Kind::Bounce,
            id: SpoolId(3),
            attempt: 2,
            sender: "s@a.test".to_owned(),
            recipients: vec!["r@b.test".to_owned()],
            response: Response {
                code: 550,
                enhanced: [5, 1, 1],
                content: "no \"such\" user\r\n\t\\ \u{1} ü".to_owned(),
                command: Some("RCPT TO".to_owned()),
            },
            peer_address: Some(("mx.b.test".to_owned(), "192.0.2.1".to_owned())),
            event_time: UnixMillis(1_795_215_489_007),
            source_address: Some(SourceAddress { address: "192.0.2.2:1".to_owned(), ..SourceAddress::default() }),
            meta: vec![("tenant", "t".to_owned()), ("campaign", "c".to_owned())],
            tls: Some(TlsFacts::default()),
            session_id: 255,
            possible_duplicate: true,
            ..Event::default()
        };
        let mut line = Vec::new();
        push_line(&mut line, &event);
        assert!(is_whole(&line));
        let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(json["type"], "Bounce");
        assert_eq!(json["event_id"], "0000000000003-0-2-3");
        assert_eq!(json["response"]["content"], "no \"such\" user\r\n\t\\ \u{1} ü");
        assert_eq!(json["response"]["enhanced_code"]["detail"], 1);
        assert_eq!(json["event_time"].to_string(), "1795215489.007");
        assert_eq!(json["meta"]["campaign"], "c");
        assert_eq!(json["recipient"], "r@b.test");
        assert_eq!(json["session_id"], "00000000000000ff");
        for cut in 0..line.len() {
            assert!(!is_whole(&line[..cut]));
        }
        line[20] ^= 1;
        assert!(!is_whole(&line));
    }
}
