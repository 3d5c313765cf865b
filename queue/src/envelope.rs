//! The envelope: who a message is from and for, and what was promised about it.
//!
//! On disk it is a frozen rkyv archive ([`EnvelopeV1`]); in memory it is [`Envelope`]. rkyv has no schema
//! evolution: a new field means `EnvelopeV2`, a new version byte in the record, and V1 kept readable for ever.

use rkyv::{Archive, Deserialize, Serialize};

use crate::name::QueueName;
use crate::time::{UnixMillis, UnixSecs};

/// The version byte that goes with [`EnvelopeV1`].
pub const ENVELOPE_V1: u8 = 1;

/// Class of a stream: who keeps slots when not all can go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// One-time passwords and the like: minutes matter.
    Critical = 0,
    /// Receipts, notices.
    #[default]
    Transactional = 1,
    /// Mailings: the first to wait.
    Bulk = 2,
}

impl Class {
    /// The class behind a byte on disk; unknown bytes count as bulk, the most patient.
    #[must_use]
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Critical,
            1 => Self::Transactional,
            _ => Self::Bulk,
        }
    }
}

/// What kind of message a record holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageKind {
    /// Submitted by a client.
    #[default]
    Mail = 0,
    /// A report of ours (RFC 3464).
    Dsn = 1,
    /// Mail to postmaster@ or abuse@, forwarded to the operator.
    Forward = 2,
}

/// RFC 3461 section 4.1: what the sender wants to hear about a recipient. Bits; `NEVER` stands alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Notify(pub u8);

impl Notify {
    /// No report at all.
    pub const NEVER: u8 = 1;
    /// On delivery.
    pub const SUCCESS: u8 = 2;
    /// On failure.
    pub const FAILURE: u8 = 4;
    /// When late.
    pub const DELAY: u8 = 8;

    /// The client named no NOTIFY: failures are reported, RFC 3461 section 4.1.
    #[must_use]
    pub fn is_default(self) -> bool {
        self.0 == 0
    }
    /// A failure is reported.
    #[must_use]
    pub fn failure(self) -> bool {
        self.0 == 0 || self.0 & Self::FAILURE != 0
    }
    /// A delivery is reported.
    #[must_use]
    pub fn success(self) -> bool {
        self.0 & Self::SUCCESS != 0
    }
    /// A delay is reported.
    #[must_use]
    pub fn delay(self) -> bool {
        self.0 & Self::DELAY != 0
    }
}

/// RFC 3461 section 4.3: how much of the message a failure report returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DsnRet {
    /// The client did not say.
    #[default]
    Unset = 0,
    /// The whole message.
    Full = 1,
    /// Only the header.
    Hdrs = 2,
}

/// Facts about the stored bytes, taken while receiving so that nobody scans them again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodyFlags {
    /// Some line starts with a dot: DATA needs stuffing.
    pub dot_line: bool,
    /// Some byte is above 127: the peer needs 8BITMIME, or we convert.
    pub eight_bit: bool,
    /// Declared BODY=BINARYMIME (RFC 3030): the peer needs it, or we convert.
    pub binary: bool,
    /// Declared SMTPUTF8 and needs it (RFC 6531).
    pub smtputf8: bool,
    /// Longest line in bytes without its CRLF.
    pub longest_line: u32,
    /// Length of the header with its closing empty line.
    pub header_len: u32,
}

/// SHA-256 of the body (after the header) in both DKIM canonical forms, RFC 6376 section 3.4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodyHash {
    /// Hash over the relaxed form.
    pub relaxed: [u8; 32],
    /// Hash over the simple form; zeros when not taken.
    pub simple: [u8; 32],
}

/// One recipient of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvRecipient {
    /// Forward path without brackets, the local part as given, the domain in lower case.
    pub address: String,
    /// RFC 3461 ORCPT as given (`rfc822;xtext`), still encoded; empty when absent.
    pub orcpt: String,
    /// RFC 3461 NOTIFY.
    pub notify: Notify,
}

impl EnvRecipient {
    /// The domain of the address, or all of it when there is no at sign.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.address.rsplit_once('@').map_or(self.address.as_str(), |(_, domain)| domain)
    }
}

/// Who a message is from and for, and what was promised about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// When it was accepted, by our clock.
    pub received: UnixMillis,
    /// Kind of message.
    pub kind: MessageKind,
    /// Reverse path without brackets; empty is the null reverse path.
    pub reverse_path: String,
    /// Who sends; empty for the operator's own mail.
    pub tenant: String,
    /// Which mailing.
    pub campaign: String,
    /// Named stream.
    pub stream: String,
    /// The stream's class.
    pub class: Class,
    /// Egress pool by name; empty for the default.
    pub pool: String,
    /// Credential that submitted it; empty for mail on port 25 and for reports.
    pub credential: String,
    /// RFC 6710 priority, -9 to 9.
    pub priority: i8,
    /// Not attempted before (RFC 4865, schedule header).
    pub not_before: Option<UnixSecs>,
    /// Given up at (RFC 2852 or the stream's time to live).
    pub not_after: Option<UnixSecs>,
    /// RFC 2852 `N`: at `not_after` notify and go on, rather than return.
    pub deliver_by_notify: bool,
    /// RFC 3461 RET.
    pub ret: DsnRet,
    /// RFC 3461 ENVID as given, still encoded; empty when absent.
    pub envid: String,
    /// What a client may send again when it never saw our 250: its own key for this message.
    pub idempotency_key: String,
    /// Where it goes when not to the recipients' own domains; empty otherwise.
    pub routing_domain: String,
    /// The recipients, in the order given.
    pub recipients: Vec<EnvRecipient>,
    /// Facts about the stored bytes.
    pub flags: BodyFlags,
    /// Hashes of the body.
    pub body_hash: BodyHash,
    /// Length of the stored message, Received header included.
    pub size: u32,
    /// The client's address as text.
    pub peer: String,
    /// `ESMTPSA` and the like (RFC 3848).
    pub protocol: String,
    /// Session it came in on, for the event log.
    pub session: u64,
    /// For a report: the message and attempt it is about, so that a repeat is recognised.
    pub report_of: Option<(crate::SpoolId, u32)>,
}

impl Envelope {
    /// Name of the scheduled queue that recipient `index` waits in.
    #[must_use]
    pub fn queue_name(&self, index: usize) -> QueueName {
        QueueName {
            campaign: self.campaign.clone(),
            tenant: self.tenant.clone(),
            domain: self.recipients[index].domain().to_ascii_lowercase(),
            routing_domain: self.routing_domain.clone(),
        }
    }
}

/// The archived form of [`EnvRecipient`]. Frozen.
#[derive(Archive, Serialize, Deserialize, Debug)]
#[allow(missing_docs)] // field for field as `EnvRecipient`
pub struct EnvRecipientV1 {
    pub address: String,
    pub orcpt: String,
    pub notify: u8,
}

/// The archived form of [`Envelope`], version 1. Frozen: `tests` hold a fixture of it.
#[derive(Archive, Serialize, Deserialize, Debug)]
#[allow(missing_docs)] // field for field as `Envelope`
pub struct EnvelopeV1 {
    pub received_ms: u64,
    pub kind: u8,
    pub class: u8,
    pub priority: i8,
    pub ret: u8,
    pub deliver_by_notify: bool,
    pub flag_bits: u8,
    pub not_before: u32,
    pub not_after: u32,
    pub longest_line: u32,
    pub header_len: u32,
    pub size: u32,
    pub session: u64,
    pub report_of_id: u64,
    pub report_of_attempt: u32,
    pub hash_relaxed: [u8; 32],
    pub hash_simple: [u8; 32],
    pub reverse_path: String,
    pub tenant: String,
    pub campaign: String,
    pub stream: String,
    pub pool: String,
    pub credential: String,
    pub envid: String,
    pub idempotency_key: String,
    pub routing_domain: String,
    pub peer: String,
    pub protocol: String,
    pub recipients: Vec<EnvRecipientV1>,
}
