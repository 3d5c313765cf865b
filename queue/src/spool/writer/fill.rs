//! Laying records into a batch. Bytes only; what is submitted when is decided next door.

use super::super::commit::Prepared;
use super::super::layout::align_up;
use super::super::records::{BatchHeader, BATCH_HEADER};
use crate::disk::Buffer;
use crate::id::SpoolId;
use crate::limits::{BATCH_MAX, BLOCK};

/// A record on its way: who waits for it and where it lies.
#[derive(Debug)]
pub(super) struct Slip<T> {
    pub ticket: T,
    pub id: SpoolId,
    pub offset: u64,
    pub len: u32,
}

/// The batch that takes records now.
pub(super) struct OpenBatch<T> {
    pub buffer: Buffer,
    pub offset: u64,
    pub len: usize,
    pub max_id: u64,
    pub slips: Vec<Slip<T>>,
    /// The next record did not fit: it waits for the next batch.
    pub closed: bool,
}

impl<T> OpenBatch<T> {
    pub fn new(buffer: Buffer, offset: u64) -> Self {
        Self { buffer, offset, len: BATCH_HEADER, max_id: 0, slips: Vec::new(), closed: false }
    }

    pub fn has_room(&self, record_len: usize) -> bool {
        self.len + record_len <= BATCH_MAX
    }

    /// Copies the record in. The caller has checked that there is room.
    pub fn add(&mut self, item: Prepared<T>, epoch: u64) {
        let offset = self.offset + self.len as u64;
        let shape = item.header.shape();
        let head = item.header.encode(&item.labels, epoch, offset);
        let into = &mut self.buffer.bytes_mut()[self.len..self.len + shape.len];
        let mut at = 0;
        for (part, end) in [
            (&head[..], head.len()),
            (&item.labels[..], shape.env_at),
            (&item.commit.envelope[..], shape.body_at),
            (&item.commit.body[..], shape.len),
        ] {
            into[at..at + part.len()].copy_from_slice(part);
            into[at + part.len()..end].fill(0);
            at = end;
        }
        self.len += shape.len;
        self.max_id = self.max_id.max(item.commit.id.0);
        self.slips.push(Slip { ticket: item.ticket, id: item.commit.id, offset, len: shape.len as u32 });
    }

    /// Writes the batch header and the padding; gives back the bytes to write.
    pub fn finish(&mut self, header: &BatchHeader) -> usize {
        let padded = align_up(self.len as u64, BLOCK as u64) as usize;
        let bytes = self.buffer.bytes_mut();
        bytes[..BATCH_HEADER].copy_from_slice(&header.encode());
        bytes[self.len..padded].fill(0);
        padded
    }
}

/// A record too long for one buffer: a batch of its own, written piece by piece.
pub(super) struct LongBatch<T> {
    pub batch: u64,
    pub offset: u64,
    pub written: usize,
    head: Vec<u8>,
    item: Prepared<T>,
}

impl<T> LongBatch<T> {
    pub fn new(item: Prepared<T>, epoch: u64, batch: u64, offset: u64) -> Self {
        let shape = item.header.shape();
        let record_at = offset + BATCH_HEADER as u64;
        let mut head = Vec::with_capacity(BATCH_HEADER + shape.body_at);
        head.resize(BATCH_HEADER, 0);
        head.extend_from_slice(&item.header.encode(&item.labels, epoch, record_at));
        head.extend_from_slice(&item.labels);
        head.resize(BATCH_HEADER + shape.env_at, 0);
        head.extend_from_slice(&item.commit.envelope);
        head.resize(BATCH_HEADER + shape.body_at, 0);
        Self { batch, offset, written: 0, head, item }
    }

    pub fn id(&self) -> SpoolId {
        self.item.commit.id
    }

    /// Bytes with the batch header, before padding.
    pub fn len(&self) -> usize {
        BATCH_HEADER + self.item.header.shape().len
    }

    pub fn padded(&self) -> usize {
        align_up(self.len() as u64, BLOCK as u64) as usize
    }

    pub fn set_header(&mut self, header: &BatchHeader) {
        self.head[..BATCH_HEADER].copy_from_slice(&header.encode());
    }

    /// Fills the next piece into `into`; its length. Pieces follow one another without a gap.
    pub fn next_piece(&mut self, into: &mut [u8]) -> usize {
        let len = (self.padded() - self.written).min(BATCH_MAX);
        let from = self.written;
        for place in [(0, &self.head[..]), (self.head.len(), &self.item.commit.body[..])] {
            copy_overlap(&mut into[..len], from, place.1, place.0);
        }
        let content = self.head.len() + self.item.commit.body.len();
        let zeros = content.saturating_sub(from).min(len);
        into[zeros..len].fill(0);
        self.written += len;
        len
    }

    pub fn into_slip(self) -> Slip<T> {
        Slip {
            id: self.item.commit.id,
            offset: self.offset + BATCH_HEADER as u64,
            len: self.item.header.shape().len as u32,
            ticket: self.item.ticket,
        }
    }
}

/// Copies what `part`, which starts at `part_at` of a stream, has in common with the window that starts at `from`.
fn copy_overlap(window: &mut [u8], from: usize, part: &[u8], part_at: usize) {
    let start = from.max(part_at);
    let end = (from + window.len()).min(part_at + part.len());
    if start < end {
        window[start - from..end - from].copy_from_slice(&part[start - part_at..end - part_at]);
    }
}
