//! Reading a message back: from the map of a sealed segment, or straight from the disk.

use std::sync::{Arc, PoisonError};

use super::commit::{Commit, RecordRef};
use super::labels::Labels;
use super::records::{RecordFault, RecordHeader, Shape, RECORD_HEADER};
use super::segment::{MapState, Phase, Segment};
use super::shared::Shared;
use crate::body::{Body, BodyOwner};
use crate::disk::{aligned, Disk, Map};
use crate::envelope::Envelope;
use crate::error::ReadError;
use crate::id::SpoolId;
use crate::limits::BLOCK;

/// A message read back, both checksums verified.
#[derive(Debug)]
pub struct Stored {
    /// Its envelope.
    pub envelope: Envelope,
    /// The stored message; shares the mapped segment, or owns its bytes.
    pub body: Body,
}

/// Bytes read from the disk, kept at the alignment they were read with.
struct ReadBytes(rkyv::util::AlignedVec<BLOCK>);

impl BodyOwner for ReadBytes {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// First guess of how much of a record to read.
const GUESS: usize = 4 * BLOCK;

/// The bytes of one record inside of what owns them.
pub(super) struct Raw {
    owner: Arc<dyn BodyOwner>,
    start: usize,
    header: RecordHeader,
    shape: Shape,
}

impl Raw {
    fn part(&self, at: usize, len: u32) -> &[u8] {
        let from = self.start + at;
        self.owner.bytes().get(from..from + len as usize).unwrap_or_default()
    }

    fn envelope(&self) -> Result<Envelope, &'static str> {
        let bytes = self.part(self.shape.env_at, self.header.env_len);
        if crc32c::crc32c(bytes) != self.header.crc_env {
            return Err(RecordFault::Envelope.text());
        }
        Envelope::decode(self.header.version, bytes).map_err(|_| "the envelope does not validate")
    }

    /// The record as it was committed, for a copy of it; both checksums verified.
    pub(super) fn into_commit(self) -> Result<Commit, &'static str> {
        self.envelope()?;
        let mut envelope = rkyv::util::AlignedVec::with_capacity(self.header.env_len as usize);
        envelope.extend_from_slice(self.part(self.shape.env_at, self.header.env_len));
        let labels = Labels::parse(self.part(RECORD_HEADER, self.header.labels_len)).ok_or("labels do not add up")?;
        let (id, version) = (SpoolId(self.header.id), self.header.version);
        Ok(Commit { id, version, labels, envelope, body: self.body()? })
    }

    fn body(self) -> Result<Body, &'static str> {
        if crc32c::crc32c(self.part(self.shape.body_at, self.header.body_len)) != self.header.crc_body {
            return Err(RecordFault::Body.text());
        }
        let from = self.start + self.shape.body_at;
        Ok(Body::new(self.owner, from..from + self.header.body_len as usize))
    }
}

impl Shared {
    /// Blocks until the message is read.
    pub(super) fn load(&self, id: SpoolId, at: RecordRef) -> Result<Stored, ReadError> {
        let (place, raw) = self.fetch(id, at, Extent::Whole)?;
        let envelope = raw.envelope().map_err(|what| damaged(place, what))?;
        let body = raw.body().map_err(|what| damaged(place, what))?;
        Ok(Stored { envelope, body })
    }

    /// Blocks until the envelope is read; the body is not looked at.
    pub(super) fn load_envelope(&self, id: SpoolId, at: RecordRef) -> Result<Envelope, ReadError> {
        let (place, raw) = self.fetch(id, at, Extent::Envelope)?;
        raw.envelope().map_err(|what| damaged(place, what))
    }

    fn fetch(&self, id: SpoolId, at: RecordRef, extent: Extent) -> Result<(RecordRef, Raw), ReadError> {
        let place = self.table.resolve(id, at);
        match self.fetch_at(id, place, extent) {
            // Its segment was recycled while it was read: moved by compaction, or retired.
            Err(_) if self.table.get(place.segment).is_none() => {
                let moved = self.table.resolve(id, at);
                if moved == place {
                    return Err(gone(place));
                }
                self.fetch_at(id, moved, extent)
            }
            other => other,
        }
    }

    fn fetch_at(&self, id: SpoolId, place: RecordRef, extent: Extent) -> Result<(RecordRef, Raw), ReadError> {
        let segment = self.table.get(place.segment).ok_or_else(|| gone(place))?;
        let raw = self.read_raw(&segment, place, extent)?;
        if raw.header.id == id.0 {
            Ok((place, raw))
        } else {
            Err(gone(place))
        }
    }

    /// The record at a place, its header verified.
    pub(super) fn read_raw(&self, segment: &Segment, place: RecordRef, extent: Extent) -> Result<Raw, ReadError> {
        let io = |source| ReadError::Io { segment: place.segment, source };
        let raw = match self.map_of(segment, place)? {
            Some(map) => from_map(&map, segment, place, extent),
            None => from_disk(&*self.disk, segment, place, extent).map_err(io)?,
        };
        raw.map_err(|what| damaged(place, what))
    }

    /// The map of a sealed segment, made when first asked for. `None` when it is to be read from the disk.
    fn map_of(&self, segment: &Segment, place: RecordRef) -> Result<Option<Arc<Map>>, ReadError> {
        if segment.phase() != Phase::Sealed {
            return Ok(None);
        }
        let mut map = segment.map.lock().unwrap_or_else(PoisonError::into_inner);
        match &*map {
            MapState::Mapped(map) => return Ok(Some(Arc::clone(map))),
            MapState::Closed => return Err(gone(place)),
            MapState::NotYet => {}
        }
        let Some(made) = self.disk.map(segment.slot) else { return Ok(None) };
        let made = made.map_err(|source| ReadError::Io { segment: segment.number, source })?;
        *map = MapState::Mapped(Arc::clone(&made));
        Ok(Some(made))
    }
}

/// How much of a record is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Header, labels and envelope.
    Envelope,
    /// All of it.
    Whole,
}

impl Extent {
    fn of(self, shape: &Shape) -> usize {
        match self {
            Self::Envelope => shape.body_at,
            Self::Whole => shape.len,
        }
    }
}

fn gone(at: RecordRef) -> ReadError {
    ReadError::Gone { segment: at.segment, offset: at.offset() }
}

fn damaged(at: RecordRef, what: &'static str) -> ReadError {
    ReadError::Damaged { segment: at.segment, offset: at.offset(), what }
}

const UNREADABLE: &str = "the disk can't read it";

fn from_map(map: &Arc<Map>, segment: &Segment, at: RecordRef, extent: Extent) -> Result<Raw, &'static str> {
    let start = at.offset() as usize;
    let lost = RecordFault::Header.text();
    // Touching a page that the disk can't read would kill the process: populate reports it instead.
    map.populate(start, RECORD_HEADER).map_err(|_| UNREADABLE)?;
    let head = map.bytes().get(start..start + RECORD_HEADER).ok_or(lost)?;
    let shape = RecordHeader::peek(head).ok_or(lost)?.shape();
    let len = extent.of(&shape);
    map.populate(start, len).map_err(|_| UNREADABLE)?;
    let bytes = map.bytes().get(start..start + len).ok_or(lost)?;
    let (header, _) = RecordHeader::parse(bytes, segment.epoch, at.offset(), true).ok_or(lost)?;
    Ok(Raw { owner: Arc::clone(map) as Arc<dyn BodyOwner>, start, header, shape })
}

fn blocks(len: usize) -> usize {
    len.div_ceil(BLOCK) * BLOCK
}

fn from_disk(
    disk: &dyn Disk,
    segment: &Segment,
    at: RecordRef,
    extent: Extent,
) -> std::io::Result<Result<Raw, &'static str>> {
    let offset = at.offset();
    let block = offset / BLOCK as u64 * BLOCK as u64;
    let start = (offset - block) as usize;
    let lost = RecordFault::Header.text();
    let room = segment.bytes.saturating_sub(block);
    let read = |len: usize| {
        let mut bytes = aligned((len as u64).min(room) as usize);
        disk.read_at(segment.slot, block, &mut bytes).map(|()| bytes)
    };
    // The guess may reach into blocks of others that can't be read.
    let mut bytes = read(GUESS).or_else(|_| read(blocks(start + RECORD_HEADER)))?;
    let Some(peeked) = bytes.get(start..).and_then(RecordHeader::peek) else {
        return Ok(Err(lost));
    };
    let shape = peeked.shape();
    let len = extent.of(&shape);
    let needed = blocks(start + len);
    if needed as u64 > room {
        return Ok(Err(lost));
    }
    if needed > bytes.len() {
        bytes = read(needed)?;
    }
    let record = bytes.get(start..start + len).unwrap_or_default();
    let Some((header, _)) = RecordHeader::parse(record, segment.epoch, offset, true) else { return Ok(Err(lost)) };
    Ok(Ok(Raw { owner: Arc::new(ReadBytes(bytes)), start, header, shape }))
}
