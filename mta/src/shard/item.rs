//! What travels between the home of a message (the shard that accepted it) and the owner of a path (the shard that
//! delivers on it). Plain values, no sockets.

use std::sync::Arc;

use queue::scheduled::retry::RetrySchedule;
use queue::scheduled::RcptKey;
use queue::{Body, Class, Envelope, SpoolId, UnixSecs};
use smallvec::SmallVec;

use super::decide::Decision;
use super::events::Fact;
use super::router::Plan;
use crate::dns::SiteName;
use crate::message::render::BodyForm;

/// Number of a shard.
pub type ShardId = u16;

/// Names a path: which egress source to which site. The pair names a ready queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathKey {
    /// Index of the egress source.
    pub source: u16,
    /// The site's stable name.
    pub site: SiteName,
}

impl PathKey {
    /// Stands where no path was involved.
    #[must_use]
    pub fn none() -> Self {
        Self { source: u16::MAX, site: SiteName::from_text("") }
    }
}

/// One recipient on its way.
#[derive(Debug, Clone)]
pub struct ItemRecipient {
    /// Its key in the home's backlog.
    pub key: RcptKey,
    /// Its index in the envelope.
    pub index: u16,
    /// Attempts made so far.
    pub attempts: u16,
    /// Unknown outcomes so far.
    pub unknowns: u8,
}

/// A message with those of its recipients that go down one path.
#[derive(Debug, Clone)]
pub struct Item {
    /// Where its backlog entry lives.
    pub home: ShardId,
    /// The path it goes down.
    pub path: PathKey,
    /// How that path's site is reached.
    pub plan: Arc<Plan>,
    /// The message.
    pub id: SpoolId,
    /// Where the spool keeps it.
    pub place: (u32, u32),
    /// Number of its tenant.
    pub tenant: u32,
    /// Its class.
    pub class: Class,
    /// RFC 6710 priority.
    pub priority: i8,
    /// When it was accepted.
    pub received: UnixSecs,
    /// The sender's own limit.
    pub not_after: Option<UnixSecs>,
    /// The retry rule of its queue.
    pub rule: RetrySchedule,
    /// The envelope, when it is at hand; otherwise the render pool loads it.
    pub envelope: Option<Arc<Envelope>>,
    /// The content, when it is at hand.
    pub body: Option<Body>,
    /// Header fields put in front of the content, once rendered.
    pub prefix: Option<Arc<Vec<u8>>>,
    /// The form `body` is in.
    pub form: BodyForm,
    /// Facts about prefix and body, once rendered.
    pub flags: queue::BodyFlags,
    /// The recipients.
    pub recipients: SmallVec<[ItemRecipient; 1]>,
}

/// What an owner tells a home about one recipient.
#[derive(Debug, Clone)]
pub struct Settled {
    /// Key in the home's backlog.
    pub key: RcptKey,
    /// Index in the envelope.
    pub index: u16,
    /// What was decided; already in the ack log.
    pub decision: Decision,
    /// Name of the peer that answered, for reports.
    pub remote: String,
    /// The event, not yet logged.
    pub event: Option<Box<Fact>>,
    /// True when it went to a peer without DSN: RFC 3461 section 5.2.2, we report "relayed".
    pub relayed: bool,
}

/// Outcomes of one transaction, on the way home.
#[derive(Debug)]
pub struct Settlement {
    /// The path that has room again.
    pub path: PathKey,
    /// The message's class.
    pub class: Class,
    /// The message.
    pub id: SpoolId,
    /// Where the spool keeps it.
    pub place: (u32, u32),
    /// The envelope.
    pub envelope: Option<Arc<Envelope>>,
    /// Its recipients.
    pub recipients: Vec<Settled>,
}
