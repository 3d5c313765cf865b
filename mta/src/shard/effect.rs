//! What the core decides and the driver carries out. In order: a verdict goes to the ack log before the note about it
//! goes to the ledger, and both before anything that follows from them.

use std::sync::Arc;

use queue::ack::AckEntry;
use queue::scheduled::RcptKey;
use queue::{Envelope, HoldReason, MoveReason, SpoolId, UnixSecs};

use super::events::Fact;
use super::item::{Item, PathKey, Settlement, ShardId};
use super::leases::{LeaseAsk, WideKey};
use super::router::Question;
use crate::bounce::consequence::Action;
use crate::message::render::BodyForm;
use crate::shaping::lease::LeaseGrant;

/// Why an item comes back without an attempt.
#[derive(Debug, Clone, Copy)]
pub enum Returned {
    /// Into the schedule, due then (or at once).
    Back(MoveReason, Option<UnixSecs>),
    /// Held until someone decides.
    Held(HoldReason),
}

/// A report that must be written, and what is done once it is durable.
#[derive(Debug, Clone)]
pub struct ReportJob {
    /// The message it is about.
    pub id: SpoolId,
    /// Where the spool keeps it.
    pub place: (u32, u32),
    /// Its envelope, when at hand.
    pub envelope: Option<Arc<Envelope>>,
    /// Time of the verdict.
    pub when: queue::UnixMillis,
    /// The recipients it is about.
    pub recipients: Vec<ReportRecipient>,
}

/// One recipient in a report.
#[derive(Debug, Clone)]
pub struct ReportRecipient {
    /// Key in the backlog.
    pub key: RcptKey,
    /// Index in the envelope.
    pub index: u16,
    /// Attempts made.
    pub attempts: u16,
    /// What happened.
    pub outcome: queue::Outcome,
    /// Which kind of report it asks for.
    pub action: Action,
    /// The peer that said so.
    pub remote: String,
    /// For a delay: when trying ends.
    pub retry_until: Option<queue::UnixSecs>,
    /// True when the recipient is done once the report is durable.
    pub last: bool,
}

/// One thing to do.
#[derive(Debug)]
pub enum Effect {
    /// Ask the DNS.
    Ask(Question),
    /// Give an item to the shard that owns its path.
    Hand(ShardId, Box<Item>),
    /// Tell the home shard how a transaction ended.
    Settle(ShardId, Box<Settlement>),
    /// Load and sign on the pool; comes back through `Core::rendered`.
    Render(PathKey, Box<Item>, BodyForm),
    /// Start a connection on a path.
    Connect(PathKey),
    /// Connections of this path that wait for work have some.
    Wake(PathKey),
    /// Append to the ack log.
    Ack(AckEntry),
    /// Give a fact to the ledger; they are counted, see `Core::synced`.
    Note(Option<Box<Fact>>),
    /// Give an item back to its home without an attempt.
    Return(ShardId, Box<Item>, Returned),
    /// Load the envelope of a message whose recipients end without an attempt; comes back through `Core::loaded`.
    Load(Box<Settlement>),
    /// Compose a report and commit it; comes back through `Core::reported`.
    Report(Box<ReportJob>),
    /// Ask the owner of a wide limit for a share.
    LeaseAsk(ShardId, LeaseAsk),
    /// The owner's answer to a shard.
    LeaseGrant(ShardId, WideKey, LeaseGrant),
    /// The message is done.
    Retire(SpoolId, (u32, u32)),
}
