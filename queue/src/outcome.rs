//! What one attempt came to for one recipient. A closed list, never an (error, bool) pair.

/// The five ways an attempt can end for a recipient. The numbers are the bytes in the ack log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OutcomeKind {
    /// The site answered 2xx after the message: it is theirs now.
    Delivered = 1,
    /// A 4xx, or no site could be reached: tried again by the retry schedule.
    Deferred = 2,
    /// A 5xx, or given up: reported to the reverse path.
    Failed = 3,
    /// The last byte was sent and no reply came: it may have been delivered.
    Unknown = 4,
    /// Not attempted, because the address is on the suppression list.
    Suppressed = 5,
}

impl OutcomeKind {
    /// The kind behind a byte of the ack log.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Delivered,
            2 => Self::Deferred,
            3 => Self::Failed,
            4 => Self::Unknown,
            5 => Self::Suppressed,
            _ => return None,
        })
    }

    /// True when the recipient is never attempted again.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Delivered | Self::Failed | Self::Suppressed)
    }
}

/// Our meaning of a failure, as in the field's bounce classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // the names are the field's own words
pub enum BounceClass {
    #[default]
    None = 0,
    InvalidRecipient,
    BadDomain,
    InactiveMailbox,
    InvalidSender,
    QuotaIssues,
    NoAnswerFromHost,
    BadConnection,
    DnsFailure,
    RoutingErrors,
    TransientFailure,
    MessageExpired,
    ProtocolErrors,
    AuthenticationFailed,
    PolicyRelated,
    SpamBlock,
    TooManyRecipients,
    SizeLimit,
    PossibleDuplicate,
    SpoolDamage,
}

/// The outcome of one attempt for one recipient, with the words of who caused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which of the five.
    pub kind: OutcomeKind,
    /// SMTP reply code; 0 when no reply was involved.
    pub code: u16,
    /// RFC 3463 enhanced code; zeros when the peer gave none.
    pub enhanced: [u16; 3],
    /// The reply text without its enhanced code (or our own words when the fault was not the peer's); at most
    /// `limits::REPLY_TEXT_MAX` bytes.
    pub text: String,
    /// What it means.
    pub class: BounceClass,
}
