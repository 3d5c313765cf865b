//! Which record an outcome makes. Pure.

use queue::{BounceClass, Envelope, Outcome, OutcomeKind, SpoolId, UnixMillis};

use super::event::{Event, Kind, Response, SourceAddress, TlsFacts};

/// One attempt for one recipient, as the shard saw it.
#[derive(Clone, Debug)]
pub struct Attempt<'a> {
    /// The message.
    pub envelope: &'a Envelope,
    /// Its spool id.
    pub spool_id: SpoolId,
    /// Index into the envelope's recipients.
    pub recipient: usize,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// What it came to.
    pub outcome: &'a Outcome,
    /// When.
    pub now: UnixMillis,
    /// Site name; empty when there was none.
    pub site: &'a str,
    /// Egress pool; empty when none was chosen.
    pub egress_pool: &'a str,
    /// Egress source; empty when none was chosen.
    pub egress_source: &'a str,
    /// The local end; `None` before a connection stood.
    pub source_address: Option<&'a str>,
    /// MX host and its address; `None` before a connection stood.
    pub peer: Option<(&'a str, &'a str)>,
    /// The command the reply answered.
    pub command: Option<&'a str>,
    /// `ESMTP` or `ESMTPS`; empty when none.
    pub delivery_protocol: &'a str,
    /// TLS of the connection.
    pub tls: Option<TlsFacts>,
    /// An operator ended it.
    pub by_operator: bool,
    /// This machine.
    pub nodeid: &'a str,
}

/// The kind of record for an outcome.
#[must_use]
pub fn kind_of(outcome: &Outcome, by_operator: bool) -> Kind {
    match outcome.kind {
        OutcomeKind::Delivered => Kind::Delivery,
        OutcomeKind::Deferred | OutcomeKind::Unknown => Kind::TransientFailure,
        OutcomeKind::Failed if by_operator => Kind::AdminBounce,
        OutcomeKind::Failed if outcome.class == BounceClass::MessageExpired => Kind::Expiration,
        OutcomeKind::Failed | OutcomeKind::Suppressed => Kind::Bounce,
    }
}

/// The record of one attempt for one recipient.
#[must_use]
pub fn from_outcome(attempt: &Attempt<'_>) -> Event {
    let envelope = attempt.envelope;
    let recipient = envelope.recipients.get(attempt.recipient);
    Event {
        kind: kind_of(attempt.outcome, attempt.by_operator),
        id: attempt.spool_id,
        recipient_index: u32::try_from(attempt.recipient).unwrap_or(u32::MAX),
        attempt: attempt.attempt,
        sender: envelope.reverse_path.clone(),
        recipients: recipient.map(|r| r.address.clone()).into_iter().collect(),
        queue: recipient.map_or_else(String::new, |_| envelope.queue_name(attempt.recipient).to_string()),
        site: attempt.site.to_owned(),
        size: u64::from(envelope.size),
        response: Response {
            code: attempt.outcome.code,
            enhanced: attempt.outcome.enhanced,
            content: attempt.outcome.text.clone(),
            command: attempt.command.map(str::to_owned),
        },
        peer_address: attempt.peer.map(|(name, addr)| (name.to_owned(), addr.to_owned())),
        event_time: attempt.now,
        created: envelope.received,
        num_attempts: attempt.attempt,
        bounce_class: attempt.outcome.class,
        egress_pool: attempt.egress_pool.to_owned(),
        egress_source: attempt.egress_source.to_owned(),
        source_address: attempt
            .source_address
            .map(|address| SourceAddress { address: address.to_owned(), ..SourceAddress::default() }),
        meta: meta(envelope),
        delivery_protocol: attempt.delivery_protocol.to_owned(),
        reception_protocol: envelope.protocol.clone(),
        nodeid: attempt.nodeid.to_owned(),
        tls: attempt.tls.clone(),
        session_id: envelope.session,
        possible_duplicate: attempt.outcome.kind == OutcomeKind::Unknown,
        ..Event::default()
    }
}

/// The record of an accepted message; `reply` is what the client heard.
#[must_use]
pub fn reception(envelope: &Envelope, spool_id: SpoolId, reply: &str, nodeid: &str) -> Event {
    let queue = if envelope.recipients.is_empty() { String::new() } else { envelope.queue_name(0).to_string() };
    Event {
        kind: Kind::Reception,
        id: spool_id,
        sender: envelope.reverse_path.clone(),
        recipients: envelope.recipients.iter().map(|r| r.address.clone()).collect(),
        queue,
        size: u64::from(envelope.size),
        response: Response { code: 250, enhanced: [2, 0, 0], content: reply.to_owned(), command: None },
        peer_address: (!envelope.peer.is_empty()).then(|| (String::new(), envelope.peer.clone())),
        event_time: envelope.received,
        created: envelope.received,
        egress_pool: envelope.pool.clone(),
        meta: meta(envelope),
        reception_protocol: envelope.protocol.clone(),
        nodeid: nodeid.to_owned(),
        session_id: envelope.session,
        ..Event::default()
    }
}

fn meta(envelope: &Envelope) -> Vec<(&'static str, String)> {
    let report_of = envelope.report_of.map(|(id, attempt)| format!("{id}-{attempt}")).unwrap_or_default();
    [
        ("tenant", &envelope.tenant),
        ("campaign", &envelope.campaign),
        ("stream", &envelope.stream),
        ("credential", &envelope.credential),
        ("envid", &envelope.envid),
        ("idempotency_key", &envelope.idempotency_key),
        ("report_of", &report_of),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(name, value)| (name, value.clone()))
    .collect()
}

#[cfg(test)]
mod tests {
    use queue::EnvRecipient;

    use super::*;

    #[test]
    fn every_outcome_has_its_record() {
        let outcome = |kind, class| Outcome { kind, code: 0, enhanced: [0; 3], text: String::new(), class };
        use BounceClass as B;
        use OutcomeKind as K;
        for (kind, class, operator, want) in [
            (K::Delivered, B::None, false, Kind::Delivery),
            (K::Deferred, B::TransientFailure, false, Kind::TransientFailure),
            (K::Unknown, B::PossibleDuplicate, false, Kind::TransientFailure),
            (K::Failed, B::InvalidRecipient, false, Kind::Bounce),
            (K::Failed, B::MessageExpired, false, Kind::Expiration),
            (K::Failed, B::None, true, Kind::AdminBounce),
            (K::Suppressed, B::None, false, Kind::Bounce),
        ] {
            assert_eq!(kind_of(&outcome(kind, class), operator), want);
        }
    }

    #[test]
    fn the_id_is_the_same_every_time() {
        let envelope = Envelope {
            recipients: vec![EnvRecipient { address: "a@b.test".to_owned(), ..EnvRecipient::default() }],
            ..Envelope::default()
        };
        let event = reception(&envelope, SpoolId(9), "queued", "n1");
        assert_eq!(event.event_id(), "0000000000009-0-0-1");
        assert_eq!(event.queue, "b.test");
    }
}
