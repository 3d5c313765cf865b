//! Frames: what one sync writes. A header of 96 bytes, entries, zeros up to the next 4 KiB. A file is frames and
//! nothing else; whatever lies between them is stepped over, and the frames' own numbers say whether something is
//! missing.

use super::entry::{AckEntry, ENTRY};
use crate::limits::BLOCK;

/// Bytes of a frame header.
pub(super) const FRAME_HEADER: usize = 96;
const MAGIC: &[u8; 4] = b"RPAF";
const VERSION: u8 = 1;

/// What a frame is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// Entries of one sync; maybe none.
    #[default]
    Entries = 1,
    /// The last frame of a file: there is a next file. Carries the number of the frame that comes next.
    Closed = 2,
    /// Entries were lost before this point: recipients of messages `first..=bound` may have been closed by them.
    Damage = 3,
    /// All damage noted so far is about messages up to `bound`.
    Settled = 4,
    /// Entries of a compaction, sorted; numbered from 0 within their generation.
    Base = 5,
    /// End of a compaction: `sequence` frames of it precede, frames of the log up to `bound` are in it.
    BaseEnd = 6,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Entries,
            2 => Self::Closed,
            3 => Self::Damage,
            4 => Self::Settled,
            5 => Self::Base,
            6 => Self::BaseEnd,
            _ => return None,
        })
    }
}

/// A frame without its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: FrameKind,
    pub(super) identity: u128,
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    /// Highest spool id in any entry so far, this frame's included; in a base, in this frame.
    pub(super) max_id: u64,
    pub(super) bound: u64,
    pub(super) first: u64,
    /// Generation of a base.
    pub(super) generation: u64,
}

impl Frame {
    /// Bytes of a frame with that many entries, padding included.
    pub(super) fn bytes(entries: usize) -> usize {
        (FRAME_HEADER + entries * ENTRY).next_multiple_of(BLOCK)
    }

    /// The frame as written.
    pub(super) fn encode(&self, entries: &[AckEntry]) -> Vec<u8> {
        let mut bytes = vec![0; Self::bytes(entries.len())];
        for (number, (slot, entry)) in bytes[FRAME_HEADER..].chunks_exact_mut(ENTRY).zip(entries).enumerate() {
            slot.copy_from_slice(&entry.encode(number as u32, salt(self.identity)));
        }
        let payload = crc32c::crc32c(&bytes[FRAME_HEADER..FRAME_HEADER + entries.len() * ENTRY]);
        bytes[0..4].copy_from_slice(MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self.kind as u8;
        bytes[8..24].copy_from_slice(&self.identity.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.max_id.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.bound.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.first.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.generation.to_le_bytes());
        bytes[72..76].copy_from_slice(&(entries.len() as u32).to_le_bytes());
        bytes[76..80].copy_from_slice(&payload.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..92]);
        bytes[92..96].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header: the frame, the number of its entries, the checksum over them.
    fn decode(bytes: &[u8]) -> Option<(Self, usize, u32)> {
        let head = bytes.get(..FRAME_HEADER)?;
        let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
        if head.get(..4)? != MAGIC || head[4] != VERSION || crc32c::crc32c(&head[..92]) != word(92)? {
            return None;
        }
        let frame = Self {
            kind: FrameKind::from_byte(head[5])?,
            identity: u128::from(long(8)?) | u128::from(long(16)?) << 64,
            epoch: long(24)?,
            sequence: long(32)?,
            max_id: long(40)?,
            bound: long(48)?,
            first: long(56)?,
            generation: long(64)?,
        };
        Some((frame, word(72)? as usize, word(76)?))
    }
}

/// Ties an entry's checksum to the spool.
fn salt(identity: u128) -> u32 {
    crc32c::crc32c(&identity.to_le_bytes())
}

/// One frame found in a file.
pub(super) struct FoundFrame<'a> {
    pub(super) frame: Frame,
    payload: &'a [u8],
    /// All its entries are as written. Otherwise the frame counts as missing, and only its whole entries are used.
    pub(super) whole: bool,
    /// Offset behind it.
    pub(super) end: usize,
}

impl FoundFrame<'_> {
    /// Its valid entries.
    pub(super) fn entries(&self) -> impl Iterator<Item = AckEntry> + '_ {
        let salt = salt(self.frame.identity);
        self.payload.chunks_exact(ENTRY).filter_map(move |slot| AckEntry::decode(slot, salt).map(|(entry, _)| entry))
    }
}

/// Visits the frames of a file. Returns true when something that is neither frame nor zeros lies in it.
pub(super) fn scan(bytes: &[u8], mut visit: impl FnMut(&FoundFrame<'_>)) -> bool {
    let (mut at, mut garbage) = (0, false);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let Some((frame, count, crc)) = Frame::decode(rest) else {
            garbage |= rest[..rest.len().min(BLOCK)].iter().any(|byte| *byte != 0);
            at += BLOCK;
            continue;
        };
        let wanted = count.saturating_mul(ENTRY);
        let payload = &rest[FRAME_HEADER..FRAME_HEADER.saturating_add(wanted).min(rest.len())];
        let whole = payload.len() == wanted && crc32c::crc32c(payload) == crc;
        let end = at + if whole { Frame::bytes(count) } else { BLOCK };
        visit(&FoundFrame { frame, payload, whole, end });
        garbage |= !whole;
        at = end;
    }
    garbage
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ack::AckKind;
    use crate::{SpoolId, UnixSecs};

    fn entries(count: u64) -> Vec<AckEntry> {
        let entry = |id| AckEntry {
            id: SpoolId(id),
            rcpt: 1,
            kind: AckKind::Intent,
            attempt: 1,
            unknowns: 0,
            code: 0,
            time: UnixSecs(5),
            due: UnixSecs(0),
        };
        (0..count).map(entry).collect()
    }

    fn seen(bytes: &[u8]) -> (Vec<(u64, usize, bool)>, bool) {
        let mut list = Vec::new();
        let garbage = scan(bytes, |f| list.push((f.frame.sequence, f.entries().count(), f.whole)));
        (list, garbage)
    }

    #[test]
    fn frames_come_back_and_what_lies_between_is_stepped_over() {
        let frame = |sequence| Frame { sequence, identity: 7 << 90 | 3, epoch: 2, max_id: 9, ..Frame::default() };
        let mut bytes = frame(1).encode(&entries(3));
        bytes.extend(frame(2).encode(&entries(500)));
        bytes.extend(vec![0xee; BLOCK]);
        bytes.extend(frame(3).encode(&[]));
        bytes.extend(vec![0; 3 * BLOCK]);
        assert_eq!(seen(&bytes), (vec![(1, 3, true), (2, 500, true), (3, 0, true)], true));
        // A bit in the entries: the frame does not count, its other entries do.
        bytes[BLOCK + FRAME_HEADER + 40] ^= 1;
        assert_eq!(seen(&bytes).0, [(1, 3, true), (2, 499, false), (3, 0, true)]);
        // A bit in the header: the frame is gone.
        bytes[BLOCK + 40] ^= 1;
        assert_eq!(seen(&bytes).0, [(1, 3, true), (3, 0, true)]);
        assert_eq!(seen(&[1, 2, 3]), (vec![], true));
        assert_eq!(seen(&frame(1).encode(&entries(300))[..5000]).0, [(1, 153, false)], "cut short");
    }
}
