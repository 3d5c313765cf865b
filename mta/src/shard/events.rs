//! Notes about outcomes: what the ledger needs to write the event, held by reference counts, so that a shard copies
//! no text. Also the ack log's word on a decision: one place that knows both layouts.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use queue::ack::{AckEntry, AckKind};
use queue::{Envelope, HoldReason, Outcome, SpoolId, UnixMillis, UnixSecs};

use super::core::Now;
use super::decide::Decision;
use super::item::{Item, ItemRecipient, Settled};
use crate::dns::SiteName;
use crate::record::event::TlsFacts;
use crate::record::{self, Event};

/// Who was at the other end of an attempt.
#[derive(Debug, Clone, Default)]
pub struct PeerInfo {
    /// Host name, or empty when nobody was reached.
    pub name: String,
    /// Its address.
    pub address: Option<SocketAddr>,
    /// Our egress source by name.
    pub source: String,
    /// Our address.
    pub source_address: Option<IpAddr>,
    /// The TLS of the connection.
    pub tls: Option<TlsFacts>,
}

/// What happened, as the ledger is told.
#[derive(Debug, Clone)]
pub enum Fact {
    /// One attempt for one recipient.
    Attempt {
        /// The message.
        id: SpoolId,
        /// Its envelope.
        envelope: Arc<Envelope>,
        /// Which recipient.
        index: u16,
        /// Which attempt.
        attempts: u16,
        /// What it came to.
        outcome: Outcome,
        /// Where it was tried; `None` when no connection was made.
        place: Option<(SiteName, Arc<PeerInfo>)>,
        /// When.
        when: UnixMillis,
    },
    /// A message was accepted.
    Reception {
        /// The message.
        id: SpoolId,
        /// Its envelope.
        envelope: Arc<Envelope>,
    },
}

impl Fact {
    /// The event to log.
    #[must_use]
    pub fn event(&self, nodeid: &str) -> Event {
        match self {
            Self::Reception { id, envelope } => record::reception(envelope, *id, "queued", nodeid),
            Self::Attempt { id, envelope, index, attempts, outcome, place, when } => {
                let peer = place.as_ref().map(|(_, peer)| peer);
                let address = peer.and_then(|p| p.address).map(|a| a.to_string());
                let source = peer.and_then(|p| p.source_address).map(|a| a.to_string());
                record::from_outcome(&record::Attempt {
                    envelope,
                    spool_id: *id,
                    recipient: usize::from(*index),
                    attempt: u32::from(*attempts),
                    outcome,
                    now: *when,
                    site: place.as_ref().map_or("", |(site, _)| site.as_str()),
                    egress_pool: &envelope.pool,
                    egress_source: peer.map_or("", |p| p.source.as_str()),
                    source_address: source.as_deref(),
                    peer: peer.zip(address.as_deref()).map(|(p, address)| (p.name.as_str(), address)),
                    command: None,
                    delivery_protocol: match peer.map(|p| p.tls.is_some()) {
                        Some(true) => "ESMTPS",
                        Some(false) => "ESMTP",
                        None => "",
                    },
                    tls: peer.and_then(|p| p.tls.clone()),
                    by_operator: false,
                    nodeid,
                })
            }
        }
    }
}

/// "The last byte leaves next": recorded before it does.
#[must_use]
pub fn intent(id: SpoolId, recipient: &ItemRecipient, now: UnixSecs) -> AckEntry {
    AckEntry {
        id,
        rcpt: recipient.index,
        kind: AckKind::Intent,
        attempt: recipient.attempts.saturating_add(1),
        unknowns: recipient.unknowns,
        code: 0,
        time: now,
        due: UnixSecs(0),
    }
}

/// The verdict on a decision, with the next due time.
#[must_use]
pub fn verdict(id: SpoolId, index: u16, decision: &Decision, now: UnixSecs) -> AckEntry {
    AckEntry {
        id,
        rcpt: index,
        kind: AckKind::Verdict(decision.outcome.kind),
        attempt: decision.attempts,
        unknowns: decision.unknowns,
        code: decision.outcome.code,
        time: now,
        due: decision.due.unwrap_or(UnixSecs(0)),
    }
}

/// All consequences are durable.
#[must_use]
pub fn done(id: SpoolId, index: u16, now: UnixSecs) -> AckEntry {
    entry_of(id, index, AckKind::Done, now)
}

/// Held until someone decides. Carries the counts, or an earlier deferral would outrank it at the next start.
#[must_use]
pub fn held(id: SpoolId, recipient: &ItemRecipient, reason: HoldReason, now: UnixSecs) -> AckEntry {
    let entry = entry_of(id, recipient.index, AckKind::Held(reason), now);
    AckEntry { attempt: recipient.attempts, unknowns: recipient.unknowns, ..entry }
}

fn entry_of(id: SpoolId, rcpt: u16, kind: AckKind, time: UnixSecs) -> AckEntry {
    AckEntry { id, rcpt, kind, attempt: 0, unknowns: 0, code: 0, time, due: UnixSecs(0) }
}

/// The fact of an attempt.
#[must_use]
pub fn attempt(
    item: &Item,
    recipient: &ItemRecipient,
    decision: &Decision,
    peer: &Arc<PeerInfo>,
    now: Now,
) -> Option<Box<Fact>> {
    let envelope = item.envelope.clone()?;
    Some(Box::new(Fact::Attempt {
        id: item.id,
        envelope,
        index: recipient.index,
        attempts: decision.attempts,
        outcome: decision.outcome.clone(),
        place: Some((item.path.site.clone(), Arc::clone(peer))),
        when: now.millis,
    }))
}

/// The fact of an end without an attempt.
#[must_use]
pub fn without_attempt(envelope: &Arc<Envelope>, id: SpoolId, settled: &Settled, now: Now) -> Option<Box<Fact>> {
    Some(Box::new(Fact::Attempt {
        id,
        envelope: Arc::clone(envelope),
        index: settled.index,
        attempts: settled.decision.attempts,
        outcome: settled.decision.outcome.clone(),
        place: None,
        when: now.millis,
    }))
}
