//! The events and ack entries of outcomes: one place that knows both the item and the layouts.

use queue::ack::AckEntry;
use queue::{Envelope, SpoolId, UnixSecs};

use super::core::Now;
use super::decide::Decision;
use super::item::{Item, ItemRecipient, Settled};
use crate::record::Event;

/// Who was at the other end of an attempt.
#[derive(Debug, Clone, Default)]
pub struct PeerInfo {
    /// Host name, or empty when nobody was reached.
    pub name: String,
    /// Its address.
    pub address: Option<std::net::SocketAddr>,
    /// Our egress source by name.
    pub source: String,
    /// Our address.
    pub source_address: Option<std::net::IpAddr>,
    /// TLS version and cipher, when there was TLS.
    pub tls: Option<(String, String)>,
}

/// The ack log's word on a decision.
#[must_use]
pub fn verdict(id: SpoolId, index: u16, decision: &Decision, now: UnixSecs) -> AckEntry {
    AckEntry::verdict(id, index, decision.outcome.kind, decision.attempts, decision.outcome.code, now, decision.due)
}

/// The event of an attempt.
#[must_use]
pub fn attempt(
    _item: &Item,
    _recipient: &ItemRecipient,
    _decision: &Decision,
    _peer: &PeerInfo,
    _now: Now,
) -> Option<Box<Event>> {
    None
}

/// The event of an end without an attempt.
#[must_use]
pub fn without_attempt(_envelope: &Envelope, _id: SpoolId, _settled: &Settled, _now: Now) -> Option<Box<Event>> {
    None
}
