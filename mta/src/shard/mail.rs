//! What other threads tell a shard, through its bounded mailbox.

use std::sync::Arc;

use queue::spool::commit::Commit;
use queue::{Envelope, SpoolId};

use super::effect::{ReportJob, Returned};
use super::item::{Item, PathKey, Settlement, ShardId};
use super::leases::{LeaseAsk, WideKey};
use super::owner::RenderResult;
use crate::message::render::BodyForm;
use crate::shaping::lease::LeaseGrant;

/// One letter.
pub enum ShardMail {
    /// An item for a path of this shard.
    Item(Box<Item>),
    /// A transaction of a message that lives here ended.
    Settled(Box<Settlement>),
    /// An item of a message that lives here comes back without an attempt.
    Returned(Box<Item>, Returned),
    /// The ledger has synced this many notes of this shard.
    Synced(u64),
    /// The pool is done with an item.
    Rendered(PathKey, SpoolId, BodyForm, Box<RenderResult>),
    /// The pool has loaded the envelope of a settlement made without an attempt.
    Loaded(Box<Settlement>, LoadedEnvelope),
    /// The pool has composed a report.
    Composed(Box<ReportJob>, Composition),
    /// A message found on disk at start.
    Recovered(Box<super::recovery::RecoveredMessage>),
    /// Everything on disk has been scheduled.
    RecoveryDone,
    /// A shard asks for a share of a limit that this shard owns.
    LeaseAsk(ShardId, LeaseAsk),
    /// The owner's answer.
    LeaseGrant(WideKey, LeaseGrant),
    /// Tell what is queued.
    Inspect(Box<dyn FnOnce(&mut super::core::Core) + Send>),
    /// The configuration changed.
    Policy(Arc<super::policy::Policy>),
    /// Stop: finish what is under way, give the rest back.
    Drain,
}

/// What became of loading an envelope.
pub enum LoadedEnvelope {
    /// It is here.
    Here(Arc<Envelope>),
    /// The disk failed the read: to be asked again, or events and reports would be missing.
    Later,
    /// Its bytes are not what was written.
    Damaged,
}

/// What became of composing a report.
pub enum Composition {
    /// To be committed.
    Made(Box<Composed>),
    /// The disk failed a read: to be asked again.
    Later,
    /// There is nothing that could be sent.
    Impossible,
}

/// A report ready to be committed.
pub struct Composed {
    /// Its commit.
    pub commit: Commit,
    /// Its envelope.
    pub envelope: Arc<Envelope>,
}
