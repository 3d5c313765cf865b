//! Lines of the event log: whole ones are JSON that says what the event says, damaged ones are refused.

use mta::record::event::{class_name, Event, Kind, Response, SourceAddress, TlsFacts};
use mta::record::json::{is_whole, push_line};
use queue::{BounceClass, SpoolId, UnixMillis};

use super::source::Source;
use super::{must, Verdict};

const KINDS: [Kind; 11] = [
    Kind::Reception,
    Kind::Delivery,
    Kind::Bounce,
    Kind::TransientFailure,
    Kind::Expiration,
    Kind::AdminBounce,
    Kind::Oob,
    Kind::Feedback,
    Kind::Rejection,
    Kind::AdminRebind,
    Kind::Delayed,
];

pub(super) fn run(source: &mut Source<'_>) -> Verdict {
    let event = event(source);
    let mut line = b"the line before\n".to_vec();
    let start = line.len();
    push_line(&mut line, &event);
    let line = line.split_off(start);
    must(is_whole(&line), || "a fresh line is not whole".to_owned())?;
    must(line.iter().filter(|byte| **byte == b'\n').count() == 1, || "not one line".to_owned())?;
    let json: serde_json::Value = serde_json::from_slice(&line).map_err(|error| format!("{error}: {line:?}"))?;
    // What is empty is left out.
    let text = |name: &str| match &json[name] {
        serde_json::Value::Null => String::new(),
        value => value.as_str().unwrap_or("?").to_owned(),
    };
    must(text("type") == event.kind.name(), || "type".to_owned())?;
    must(text("event_id") == event.event_id(), || "event_id".to_owned())?;
    must(text("sender") == event.sender, || format!("{:?} became {:?}", event.sender, text("sender")))?;
    must(text("queue") == event.queue && text("site") == event.site, || "queue or site".to_owned())?;
    must(text("bounce_classification") == class_name(event.bounce_class), || "class".to_owned())?;
    let response = &json["response"];
    let content = response["content"].as_str().unwrap_or_default();
    let code = response["code"].as_u64().unwrap_or_default();
    must(content == event.response.content && code == u64::from(event.response.code), || {
        format!("{:?} became {response}", event.response)
    })?;
    let recipients = match &json["recipient"] {
        serde_json::Value::Array(many) => many.iter().map(|one| one.as_str().unwrap_or("?").to_owned()).collect(),
        one => vec![one.as_str().unwrap_or("?").to_owned()],
    };
    must(recipients == event.recipients, || format!("{:?} became {recipients:?}", event.recipients))?;
    must(json["size"] == event.size && json["num_attempts"] == event.num_attempts, || "a number".to_owned())?;
    // The time is written with milliseconds; the reader makes a float of it.
    let seconds = json["event_time"].as_f64().unwrap_or(-1.0);
    let wanted = event.event_time.0 as f64 / 1000.0;
    must((seconds - wanted).abs() <= wanted * 1e-9 + 0.001, || format!("{seconds}, not {wanted}"))?;
    for (name, value) in &event.meta {
        let told = json["meta"][*name].as_str().unwrap_or_default();
        must(told == *value, || format!("meta {name}: {told:?}"))?;
    }
    let mut bad = line.clone();
    source.damage(&mut bad, 3);
    must(!is_whole(&bad) || bad == line, || format!("a damaged line passed: {}", bad.escape_ascii()))?;
    let _ = is_whole(&source.spicy(60));
    Ok(())
}

fn event(source: &mut Source<'_>) -> Event {
    let text = |source: &mut Source<'_>| {
        let mut text = source.text(24);
        if source.one_in(6) {
            text.push_str("\u{2028}\u{1f4e7}\u{0}\"\\");
        }
        text
    };
    Event {
        kind: KINDS[source.below(KINDS.len())],
        id: SpoolId(source.number()),
        recipient_index: source.number() as u32,
        attempt: source.number() as u32,
        sender: text(source),
        recipients: (0..source.below(4)).map(|_| text(source)).collect(),
        queue: text(source),
        site: text(source),
        size: source.number(),
        response: Response {
            code: source.number() as u16,
            enhanced: [source.byte().into(), source.number() as u16, source.number() as u16],
            content: text(source),
            command: source.flip().then(|| text(source)),
        },
        peer_address: source.flip().then(|| (text(source), text(source))),
        event_time: UnixMillis(source.number()),
        created: UnixMillis(source.number()),
        num_attempts: source.number() as u32,
        bounce_class: [BounceClass::None, BounceClass::SpamBlock, BounceClass::SpoolDamage][source.below(3)],
        egress_pool: text(source),
        egress_source: text(source),
        source_address: source.flip().then(|| SourceAddress {
            address: text(source),
            protocol: source.flip().then(|| text(source)),
            server: None,
        }),
        feedback_report: source.flip().then(|| serde_json::json!({ "x": text(source) })),
        meta: vec![("tenant", text(source)), ("campaign", text(source))],
        headers: (0..source.below(3)).map(|_| (text(source), text(source))).collect(),
        delivery_protocol: text(source),
        reception_protocol: text(source),
        nodeid: text(source),
        tls: source.flip().then(|| TlsFacts {
            cipher: text(source),
            version: text(source),
            peer_subject_name: (0..source.below(3)).map(|_| text(source)).collect(),
        }),
        session_id: source.number(),
        possible_duplicate: source.flip(),
    }
}
