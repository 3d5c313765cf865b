//! The envelope: who a message is from and for, and what was promised about it.
//!
//! On disk it is a frozen rkyv archive ([`EnvelopeV1`]); in memory it is [`Envelope`]. rkyv has no schema
//! evolution: a new field means `EnvelopeV2`, a new version byte in the record, and V1 kept readable for ever.

use rkyv::util::AlignedVec;
use rkyv::{rancor, Archive, Deserialize, Serialize};

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

/// Why archived bytes are no envelope.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvelopeError {
    /// A version this release does not know: written by a newer one.
    #[error("envelope version {0} is newer than this release reads")]
    UnknownVersion(u8),
    /// The bytes do not form an archive of that version.
    #[error("the envelope does not validate: {0}")]
    Invalid(String),
    /// The envelope can't be archived, for instance because it is larger than an archive can be.
    #[error("the envelope can't be archived: {0}")]
    Unarchivable(String),
}

/// Bits of [`EnvelopeV1::flag_bits`].
mod bits {
    pub(super) const DOT_LINE: u8 = 1;
    pub(super) const EIGHT_BIT: u8 = 2;
    pub(super) const BINARY: u8 = 4;
    pub(super) const SMTPUTF8: u8 = 8;
    pub(super) const REPORT: u8 = 16;
    pub(super) const NOT_BEFORE: u8 = 32;
    pub(super) const NOT_AFTER: u8 = 64;
}

impl Envelope {
    /// The archived form of the newest version ([`ENVELOPE_V1`]), aligned so that it can be read in place.
    pub fn encode(&self) -> Result<AlignedVec, EnvelopeError> {
        rkyv::to_bytes::<rancor::Error>(&EnvelopeV1::from(self))
            .map_err(|error| EnvelopeError::Unarchivable(error.to_string()))
    }

    /// Reads an archived envelope back, validating every byte of it. Unaligned bytes are copied first.
    pub fn decode(version: u8, bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if version != ENVELOPE_V1 {
            return Err(EnvelopeError::UnknownVersion(version));
        }
        if !(bytes.as_ptr() as usize).is_multiple_of(crate::limits::RECORD_ALIGN) {
            let mut aligned = AlignedVec::<16>::with_capacity(bytes.len());
            aligned.extend_from_slice(bytes);
            return Self::decode_aligned(&aligned);
        }
        Self::decode_aligned(bytes)
    }

    fn decode_aligned(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let archived = rkyv::access::<ArchivedEnvelopeV1, rancor::Error>(bytes)
            .map_err(|error| EnvelopeError::Invalid(error.to_string()))?;
        Ok(Self::from(archived))
    }
}

impl From<&Envelope> for EnvelopeV1 {
    fn from(envelope: &Envelope) -> Self {
        let flags = envelope.flags;
        let mut flag_bits = 0;
        for (set, bit) in [
            (flags.dot_line, bits::DOT_LINE),
            (flags.eight_bit, bits::EIGHT_BIT),
            (flags.binary, bits::BINARY),
            (flags.smtputf8, bits::SMTPUTF8),
            (envelope.report_of.is_some(), bits::REPORT),
            (envelope.not_before.is_some(), bits::NOT_BEFORE),
            (envelope.not_after.is_some(), bits::NOT_AFTER),
        ] {
            flag_bits |= if set { bit } else { 0 };
        }
        let (report_of_id, report_of_attempt) = envelope.report_of.map_or((0, 0), |(id, attempt)| (id.0, attempt));
        Self {
            received_ms: envelope.received.0,
            kind: envelope.kind as u8,
            class: envelope.class as u8,
            priority: envelope.priority,
            ret: envelope.ret as u8,
            deliver_by_notify: envelope.deliver_by_notify,
            flag_bits,
            not_before: envelope.not_before.map_or(0, |time| time.0),
            not_after: envelope.not_after.map_or(0, |time| time.0),
            longest_line: flags.longest_line,
            header_len: flags.header_len,
            size: envelope.size,
            session: envelope.session,
            report_of_id,
            report_of_attempt,
            hash_relaxed: envelope.body_hash.relaxed,
            hash_simple: envelope.body_hash.simple,
            reverse_path: envelope.reverse_path.clone(),
            tenant: envelope.tenant.clone(),
            campaign: envelope.campaign.clone(),
            stream: envelope.stream.clone(),
            pool: envelope.pool.clone(),
            credential: envelope.credential.clone(),
            envid: envelope.envid.clone(),
            idempotency_key: envelope.idempotency_key.clone(),
            routing_domain: envelope.routing_domain.clone(),
            peer: envelope.peer.clone(),
            protocol: envelope.protocol.clone(),
            recipients: envelope
                .recipients
                .iter()
                .map(|recipient| EnvRecipientV1 {
                    address: recipient.address.clone(),
                    orcpt: recipient.orcpt.clone(),
                    notify: recipient.notify.0,
                })
                .collect(),
        }
    }
}

impl From<&ArchivedEnvelopeV1> for Envelope {
    fn from(v1: &ArchivedEnvelopeV1) -> Self {
        let has = |bit| v1.flag_bits & bit != 0;
        let time = |bit, value: u32| has(bit).then_some(UnixSecs(value));
        Self {
            received: UnixMillis(v1.received_ms.to_native()),
            kind: match v1.kind {
                1 => MessageKind::Dsn,
                2 => MessageKind::Forward,
                _ => MessageKind::Mail,
            },
            reverse_path: v1.reverse_path.as_str().to_owned(),
            tenant: v1.tenant.as_str().to_owned(),
            campaign: v1.campaign.as_str().to_owned(),
            stream: v1.stream.as_str().to_owned(),
            class: Class::from_byte(v1.class),
            pool: v1.pool.as_str().to_owned(),
            credential: v1.credential.as_str().to_owned(),
            priority: v1.priority,
            not_before: time(bits::NOT_BEFORE, v1.not_before.to_native()),
            not_after: time(bits::NOT_AFTER, v1.not_after.to_native()),
            deliver_by_notify: v1.deliver_by_notify,
            ret: match v1.ret {
                1 => DsnRet::Full,
                2 => DsnRet::Hdrs,
                _ => DsnRet::Unset,
            },
            envid: v1.envid.as_str().to_owned(),
            idempotency_key: v1.idempotency_key.as_str().to_owned(),
            routing_domain: v1.routing_domain.as_str().to_owned(),
            recipients: v1
                .recipients
                .iter()
                .map(|recipient| EnvRecipient {
                    address: recipient.address.as_str().to_owned(),
                    orcpt: recipient.orcpt.as_str().to_owned(),
                    notify: Notify(recipient.notify),
                })
                .collect(),
            flags: BodyFlags {
                dot_line: has(bits::DOT_LINE),
                eight_bit: has(bits::EIGHT_BIT),
                binary: has(bits::BINARY),
                smtputf8: has(bits::SMTPUTF8),
                longest_line: v1.longest_line.to_native(),
                header_len: v1.header_len.to_native(),
            },
            body_hash: BodyHash { relaxed: v1.hash_relaxed, simple: v1.hash_simple },
            size: v1.size.to_native(),
            peer: v1.peer.as_str().to_owned(),
            protocol: v1.protocol.as_str().to_owned(),
            session: v1.session.to_native(),
            report_of: has(bits::REPORT)
                .then(|| (crate::SpoolId(v1.report_of_id.to_native()), v1.report_of_attempt.to_native())),
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
