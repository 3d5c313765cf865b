//! What is handed to the writer, and where it went.

use rkyv::util::AlignedVec;

use super::labels::Labels;
use super::layout::align_up;
use super::records::{RecordHeader, BATCH_HEADER, LABELS_MAX};
use super::superblock::DATA_START;
use crate::body::Body;
use crate::error::Refusal;
use crate::id::SpoolId;
use crate::limits::{BLOCK, ENVELOPE_MAX, MESSAGE_MAX, RECORD_ALIGN};

/// A message to be made durable.
#[derive(Debug)]
pub struct Commit {
    /// Its key, from [`super::Spool::next_id`].
    pub id: SpoolId,
    /// Version of `envelope`.
    pub version: u8,
    /// What recovery needs to schedule it.
    pub labels: Labels,
    /// The archived envelope.
    pub envelope: AlignedVec,
    /// The stored message.
    pub body: Body,
}

/// Where a record is: 8 bytes, kept per message in memory. It stays good until the message is retired; after
/// compaction [`super::Spool::resolve`] tells the new place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordRef {
    /// Logical number of the segment.
    pub segment: u32,
    /// Offset in the segment in units of 16 bytes.
    pub offset16: u32,
}

impl RecordRef {
    /// Offset in bytes.
    #[must_use]
    pub fn offset(self) -> u64 {
        u64::from(self.offset16) * RECORD_ALIGN as u64
    }

    /// The place of a record at a byte offset.
    #[must_use]
    pub fn at(segment: u32, offset: u64) -> Self {
        Self { segment, offset16: (offset / RECORD_ALIGN as u64) as u32 }
    }
}

/// A commit with its checksums taken, which happens on the caller's thread, and a ticket to answer it by.
#[derive(Debug)]
pub struct Prepared<T> {
    /// What the answer is given to.
    pub ticket: T,
    /// The message.
    pub commit: Commit,
    pub(super) labels: Vec<u8>,
    pub(super) header: RecordHeader,
}

impl<T> Prepared<T> {
    /// Takes the checksums of a commit that is to go into a segment of `segment_bytes`.
    #[allow(clippy::result_large_err)] // a refused message goes back to its owner whole
    pub fn new(ticket: T, commit: Commit, segment_bytes: u64) -> Result<Self, (Refusal, Commit)> {
        let labels = commit.labels.encode();
        let header = RecordHeader {
            version: commit.version,
            id: commit.id.0,
            env_len: commit.envelope.len() as u32,
            body_len: commit.body.len() as u32,
            crc_env: crc32c::crc32c(&commit.envelope),
            crc_body: crc32c::crc32c(&commit.body),
            labels_len: labels.len() as u32,
        };
        let size = header.shape().len as u64;
        // Superblocks, one batch, a footer for this message alone, the trailer, one batch that only says "durable".
        let footer = 2 * BLOCK as u64 + labels.len() as u64 + 4 * commit.labels.recipients() as u64 + 256;
        let needed = DATA_START + size + BATCH_HEADER as u64 + align_up(footer, BLOCK as u64) + 3 * BLOCK as u64;
        let fits = needed <= segment_bytes
            && commit.body.len() <= MESSAGE_MAX
            && commit.envelope.len() <= ENVELOPE_MAX
            && labels.len() <= LABELS_MAX;
        if !fits {
            return Err((Refusal::TooLarge { size }, commit));
        }
        Ok(Self { ticket, commit, labels, header })
    }

    /// The same with another ticket.
    pub fn with_ticket<U>(self, ticket: U) -> Prepared<U> {
        Prepared { ticket, commit: self.commit, labels: self.labels, header: self.header }
    }

    /// Bytes of the record.
    #[must_use]
    pub fn record_len(&self) -> usize {
        self.header.shape().len
    }
}
