//! Batches and records: the bytes between the superblocks and the footer.
//!
//! A batch starts on 4 KiB and says what was durable when it was submitted; a record starts on 16 bytes, so that its
//! envelope can be read in place. The checksum of a record's header is seeded with the epoch of the use and the
//! place of the record: what an earlier use left in the middle of a torn batch never passes for a record of this
//! one. Twin of `FORMAT.md`, sections "Batch" and "Record".

use super::layout::{align_up, put, u16_at, u32_at, u64_at, u8_at};
use crate::limits::{BLOCK, ENVELOPE_MAX, MESSAGE_MAX, RECORD_ALIGN};

/// Bytes of a batch header.
pub const BATCH_HEADER: usize = 64;
/// Bytes of a record header.
pub const RECORD_HEADER: usize = 48;
/// Longest labels that are read: 10 000 recipients, each with a name of its own.
pub const LABELS_MAX: usize = 16 * 1024 * 1024;

const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"RPBT");
const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"RPRC");
const LAYOUT_VERSION: u8 = 1;
const KIND_MESSAGE: u8 = 1;
const BATCH_CRC_AT: usize = 60;
const RECORD_CRC_AT: usize = 44;

/// Header of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Epoch of the use it was written in.
    pub epoch: u64,
    /// Its own offset in the file.
    pub offset: u64,
    /// Everything below this offset was acknowledged when it was submitted.
    pub durable: u64,
    /// Bytes with this header, before padding to 4 KiB.
    pub len: u32,
    /// Records in it; none in a batch that only carries `durable`.
    pub records: u32,
    /// Highest spool id in it.
    pub max_id: u64,
    /// Logical number of the segment.
    pub number: u32,
}

impl BatchHeader {
    /// The bytes on disk.
    #[must_use]
    pub fn encode(&self) -> [u8; BATCH_HEADER] {
        let mut out = [0u8; BATCH_HEADER];
        put(&mut out, 0, &BATCH_MAGIC.to_le_bytes());
        put(&mut out, 4, &[u8::from(self.records == 0), LAYOUT_VERSION]);
        put(&mut out, 8, &self.epoch.to_le_bytes());
        put(&mut out, 16, &self.offset.to_le_bytes());
        put(&mut out, 24, &self.durable.to_le_bytes());
        put(&mut out, 32, &self.len.to_le_bytes());
        put(&mut out, 36, &self.records.to_le_bytes());
        put(&mut out, 40, &self.max_id.to_le_bytes());
        put(&mut out, 48, &self.number.to_le_bytes());
        let crc = crc32c::crc32c(&out[..BATCH_CRC_AT]);
        put(&mut out, BATCH_CRC_AT, &crc.to_le_bytes());
        out
    }

    /// Reads the header at the start of `bytes`. `None` for anything but a whole header of this layout; the epoch
    /// is for the caller to compare.
    #[must_use]
    pub fn parse(bytes: &[u8], check_crc: bool) -> Option<Self> {
        if u32_at(bytes, 0) != BATCH_MAGIC || u8_at(bytes, 5) != LAYOUT_VERSION {
            return None;
        }
        let header = bytes.get(..BATCH_HEADER)?;
        if check_crc && crc32c::crc32c(header.get(..BATCH_CRC_AT)?) != u32_at(header, BATCH_CRC_AT) {
            return None;
        }
        let parsed = Self {
            epoch: u64_at(header, 8),
            offset: u64_at(header, 16),
            durable: u64_at(header, 24),
            len: u32_at(header, 32),
            records: u32_at(header, 36),
            max_id: u64_at(header, 40),
            number: u32_at(header, 48),
        };
        (parsed.len as usize >= BATCH_HEADER && u8_at(header, 4) <= 1).then_some(parsed)
    }

    /// Bytes it takes on disk, padding included.
    #[must_use]
    pub fn padded(&self) -> u64 {
        align_up(u64::from(self.len), BLOCK as u64)
    }
}

/// Header of a record: lengths and checksums of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Version of the envelope.
    pub version: u8,
    /// Key of the message.
    pub id: u64,
    /// Bytes of the envelope.
    pub env_len: u32,
    /// Bytes of the body.
    pub body_len: u32,
    /// CRC-32C of the envelope.
    pub crc_env: u32,
    /// CRC-32C of the body.
    pub crc_body: u32,
    /// Bytes of the labels.
    pub labels_len: u32,
}

/// Where the parts of a record are, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Start of the envelope.
    pub env_at: usize,
    /// Start of the body.
    pub body_at: usize,
    /// Bytes of the record with padding.
    pub len: usize,
}

/// Why bytes are not the record that should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFault {
    /// No record header here.
    Header,
    /// The envelope does not match its checksum.
    Envelope,
    /// The body does not match its checksum.
    Body,
}

impl RecordFault {
    /// In words for a log.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Header => "no whole record header",
            Self::Envelope => "the envelope does not match its checksum",
            Self::Body => "the body does not match its checksum",
        }
    }
}

const fn pad(len: usize) -> usize {
    len.div_ceil(RECORD_ALIGN) * RECORD_ALIGN
}

impl RecordHeader {
    /// Where its parts are.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let env_at = RECORD_HEADER + pad(self.labels_len as usize);
        let body_at = env_at + pad(self.env_len as usize);
        Shape { env_at, body_at, len: body_at + pad(self.body_len as usize) }
    }

    fn checksum(head: &[u8], labels: &[u8], epoch: u64, offset: u64) -> u32 {
        let seed = crc32c::crc32c_append(crc32c::crc32c(&epoch.to_le_bytes()), &offset.to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c_append(seed, head), labels)
    }

    /// The header's bytes for a record at `offset` of a segment used under `epoch`.
    #[must_use]
    pub fn encode(&self, labels: &[u8], epoch: u64, offset: u64) -> [u8; RECORD_HEADER] {
        let mut out = [0u8; RECORD_HEADER];
        put(&mut out, 0, &RECORD_MAGIC.to_le_bytes());
        put(&mut out, 4, &[KIND_MESSAGE, self.version]);
        put(&mut out, 8, &self.id.to_le_bytes());
        put(&mut out, 16, &self.env_len.to_le_bytes());
        put(&mut out, 20, &self.body_len.to_le_bytes());
        put(&mut out, 24, &self.crc_env.to_le_bytes());
        put(&mut out, 28, &self.crc_body.to_le_bytes());
        put(&mut out, 32, &self.labels_len.to_le_bytes());
        let crc = Self::checksum(&out[..RECORD_CRC_AT], labels, epoch, offset);
        put(&mut out, RECORD_CRC_AT, &crc.to_le_bytes());
        out
    }

    /// Reads only the lengths, to know how many bytes to fetch before [`RecordHeader::parse`] can check them.
    /// `None` when they can't be right.
    #[must_use]
    pub fn peek(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < RECORD_HEADER || u32_at(bytes, 0) != RECORD_MAGIC || u8_at(bytes, 4) != KIND_MESSAGE {
            return None;
        }
        let header = Self {
            version: u8_at(bytes, 5),
            id: u64_at(bytes, 8),
            env_len: u32_at(bytes, 16),
            body_len: u32_at(bytes, 20),
            crc_env: u32_at(bytes, 24),
            crc_body: u32_at(bytes, 28),
            labels_len: u32_at(bytes, 32),
        };
        let sane = header.env_len as usize <= ENVELOPE_MAX
            && header.body_len as usize <= MESSAGE_MAX
            && header.labels_len as usize <= LABELS_MAX
            && u16_at(bytes, 6) == 0;
        sane.then_some(header)
    }

    /// Reads header and labels at the start of `bytes`, which lie at `offset` of a segment used under `epoch`.
    #[must_use]
    pub fn parse(bytes: &[u8], epoch: u64, offset: u64, check_crc: bool) -> Option<(Self, &[u8])> {
        let header = Self::peek(bytes)?;
        let labels = bytes.get(RECORD_HEADER..RECORD_HEADER + header.labels_len as usize)?;
        let crc = Self::checksum(bytes.get(..RECORD_CRC_AT)?, labels, epoch, offset);
        (!check_crc || crc == u32_at(bytes, RECORD_CRC_AT)).then_some((header, labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_header_round_trips_and_any_flip_is_seen() {
        let header =
            BatchHeader { epoch: 1 << 60, offset: 8192, durable: 4096, len: 70_000, records: 3, max_id: 17, number: 4 };
        let bytes = header.encode();
        assert_eq!(BatchHeader::parse(&bytes, true), Some(header));
        assert_eq!(header.padded(), 73_728);
        for at in 0..bytes.len() {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert_eq!(BatchHeader::parse(&bad, true), None, "byte {at}");
        }
        assert_eq!(BatchHeader::parse(&bytes[..63], true), None);
    }

    #[test]
    fn a_record_belongs_to_its_epoch_and_place() {
        let header =
            RecordHeader { version: 1, id: 5, env_len: 100, body_len: 33, crc_env: 7, crc_body: 8, labels_len: 5 };
        let mut bytes = header.encode(b"abcde", 11, 8256).to_vec();
        bytes.extend_from_slice(b"abcde");
        assert_eq!(RecordHeader::parse(&bytes, 11, 8256, true), Some((header, &b"abcde"[..])));
        assert_eq!(RecordHeader::parse(&bytes, 12, 8256, true), None, "another epoch");
        assert_eq!(RecordHeader::parse(&bytes, 11, 8272, true), None, "another place");
        let shape = header.shape();
        assert_eq!((shape.env_at, shape.body_at, shape.len), (64, 176, 224));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(RecordHeader::parse(&bad, 11, 8256, true), None, "byte {at}");
        }
    }
}
