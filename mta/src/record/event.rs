//! One record of the event log: a disposition, with the names and fields of KumoMTA's log records.
//!
//! Its id derives from (spool id, recipient, attempt, kind), so the same disposition logged twice, as after a crash,
//! is recognised. Events are at-least-once.

use queue::{BounceClass, SpoolId, UnixMillis};

/// What happened. The names are those readers of KumoMTA's logs know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Accepted from a client.
    #[default]
    Reception = 1,
    /// Taken by a site.
    Delivery,
    /// Given up after a permanent refusal.
    Bounce,
    /// Deferred; tried again.
    TransientFailure,
    /// Given up because its time was over.
    Expiration,
    /// Given up by an operator.
    AdminBounce,
    /// A report from elsewhere about a message of ours.
    Oob,
    /// A complaint (RFC 5965).
    Feedback,
    /// Refused while the client was connected.
    Rejection,
    /// Moved to another queue by an operator.
    AdminRebind,
    /// Waits for a limit.
    Delayed,
}

impl Kind {
    /// The name in the `type` field.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reception => "Reception",
            Self::Delivery => "Delivery",
            Self::Bounce => "Bounce",
            Self::TransientFailure => "TransientFailure",
            Self::Expiration => "Expiration",
            Self::AdminBounce => "AdminBounce",
            Self::Oob => "OOB",
            Self::Feedback => "Feedback",
            Self::Rejection => "Rejection",
            Self::AdminRebind => "AdminRebind",
            Self::Delayed => "Delayed",
        }
    }
}

/// The reply, ours or the peer's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// SMTP reply code; 0 when no reply was involved.
    pub code: u16,
    /// RFC 3463 enhanced code; zeros when there is none.
    pub enhanced: [u16; 3],
    /// The words.
    pub content: String,
    /// The command it answered, when known.
    pub command: Option<String>,
}

/// TLS of the connection the record is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// Cipher suite.
    pub cipher: String,
    /// `TLSv1.3` and the like.
    pub version: String,
    /// Subject names of the peer's certificate.
    pub peer_subject_name: Vec<String>,
}

/// The local end of a delivery connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceAddress {
    /// Local address and port.
    pub address: String,
    /// Proxy protocol, when one is in between.
    pub protocol: Option<String>,
    /// Proxy server, when one is in between.
    pub server: Option<String>,
}

/// One record. Empty strings and `None` are left out of the line or written as null, as the reader expects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// The message.
    pub id: SpoolId,
    /// Index of the recipient in the envelope; 0 for records about the message.
    pub recipient_index: u32,
    /// Which attempt; 0 before the first.
    pub attempt: u32,
    /// Reverse path.
    pub sender: String,
    /// Forward paths; one but for receptions.
    pub recipients: Vec<String>,
    /// Name of the scheduled queue.
    pub queue: String,
    /// Site name.
    pub site: String,
    /// Bytes of the message.
    pub size: u64,
    /// The reply.
    pub response: Response,
    /// The peer: its name (EHLO name or MX host) and address.
    pub peer_address: Option<(String, String)>,
    /// When it happened.
    pub event_time: UnixMillis,
    /// When the message was accepted.
    pub created: UnixMillis,
    /// Attempts so far, this one included.
    pub num_attempts: u32,
    /// What a failure means.
    pub bounce_class: BounceClass,
    /// Egress pool.
    pub egress_pool: String,
    /// Egress source.
    pub egress_source: String,
    /// The local end.
    pub source_address: Option<SourceAddress>,
    /// For [`Kind::Feedback`]: the parsed report as JSON.
    pub feedback_report: Option<serde_json::Value>,
    /// Tenant, campaign and whatever else names the message.
    pub meta: Vec<(&'static str, String)>,
    /// Header fields chosen for the log.
    pub headers: Vec<(String, String)>,
    /// `ESMTP` and the like, outbound.
    pub delivery_protocol: String,
    /// `ESMTPSA` and the like, inbound.
    pub reception_protocol: String,
    /// This machine.
    pub nodeid: String,
    /// TLS, when there was any.
    pub tls: Option<TlsFacts>,
    /// The session; 0 when none.
    pub session_id: u64,
    /// It may have been delivered twice.
    pub possible_duplicate: bool,
}

/// The stable id of a disposition: equal for every time it is logged.
#[must_use]
pub fn event_id(id: SpoolId, recipient: u32, attempt: u32, kind: Kind) -> String {
    format!("{id}-{recipient}-{attempt}-{}", kind as u8)
}

impl Event {
    /// The stable id of this record.
    #[must_use]
    pub fn event_id(&self) -> String {
        event_id(self.id, self.recipient_index, self.attempt, self.kind)
    }
}

/// The class under the name of KumoMTA's logs; ours where it has none.
#[must_use]
pub fn class_name(class: BounceClass) -> &'static str {
    match class {
        BounceClass::None => "Uncategorized",
        BounceClass::InvalidRecipient => "InvalidRecipient",
        BounceClass::BadDomain => "BadDomain",
        BounceClass::InactiveMailbox => "InactiveMailbox",
        BounceClass::InvalidSender => "InvalidSender",
        BounceClass::QuotaIssues => "QuotaIssues",
        BounceClass::NoAnswerFromHost => "NoAnswerFromHost",
        BounceClass::BadConnection => "BadConnection",
        BounceClass::DnsFailure => "DNSFailure",
        BounceClass::RoutingErrors => "RoutingErrors",
        BounceClass::TransientFailure => "TransientFailure",
        BounceClass::MessageExpired => "MessageExpired",
        BounceClass::ProtocolErrors => "ProtocolErrors",
        BounceClass::AuthenticationFailed => "AuthenticationFailed",
        BounceClass::PolicyRelated => "PolicyRelated",
        BounceClass::SpamBlock => "SpamBlock",
        BounceClass::TooManyRecipients => "TooManyRecipients",
        BounceClass::SizeLimit => "SizeLimit",
        BounceClass::PossibleDuplicate => "PossibleDuplicate",
        BounceClass::SpoolDamage => "SpoolDamage",
    }
}
