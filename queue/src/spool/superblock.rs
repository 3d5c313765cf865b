//! The superblock: what a segment file is used for now. Two copies, written in turn.
//!
//! A segment file is a slot that is used over and over. Each use has its own logical number, which only rises, and
//! its own random epoch, so that nothing written in an earlier use is taken for something of this one. The valid
//! copy with the higher generation holds; a torn write of one copy leaves the other.
//! Twin of `FORMAT.md`, section "Superblock".

use super::layout::{put, u128_at, u32_at, u64_at, u8_at};
use crate::limits::BLOCK;

/// Newest format this release writes and reads.
pub const FORMAT: u32 = 1;
/// Oldest format this release reads.
pub const FORMAT_OLDEST: u32 = 1;
/// Where the batches start: behind both superblocks.
pub const DATA_START: u64 = 2 * BLOCK as u64;
/// Cut-offs one superblock can hold.
pub const CUT_OFFS_MAX: usize = (BLOCK - CUT_OFFS_AT) / CUT_OFF_LEN;

const MAGIC: u64 = u64::from_le_bytes(*b"RINGSEG\x01");
const CUT_OFFS_AT: usize = 96;
const CUT_OFF_LEN: usize = 24;
const CRC_AT: usize = 12;

/// Whether a segment takes new mail or what compaction gathers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Heat {
    /// New mail.
    #[default]
    Hot = 0,
    /// Long-lived records, copied together.
    Cold = 1,
}

/// What a segment file is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Waits to be used; holds nothing.
    Spare = 0,
    /// Holds records, or may.
    InUse = 1,
}

/// Why a segment has a cut-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CutReason {
    /// A write to it failed.
    WriteFailed = 1,
    /// The process or the machine stopped while it was written; recovery ended it.
    Stopped = 2,
    /// Its footer could not be written; all of its records are whole.
    NoFooter = 3,
}

/// Where an ended segment ends: what lies behind `offset` was never acknowledged and is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutOff {
    /// Logical number of the ended segment.
    pub number: u32,
    /// Its epoch in that use.
    pub epoch: u64,
    /// Last acknowledged offset, in bytes from the start of the file.
    pub offset: u64,
    /// Why it ended.
    pub reason: CutReason,
}

/// One copy of a superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Which spool this file belongs to.
    pub identity: u128,
    /// Rises with every write of either copy.
    pub generation: u64,
    /// Random per use.
    pub epoch: u64,
    /// Logical number of this use; rises over the life of the spool.
    pub number: u32,
    /// What the file is used for.
    pub state: State,
    /// New mail or compacted.
    pub heat: Heat,
    /// When this use began, milliseconds since 1970.
    pub created: u64,
    /// Every spool id handed out later than this write is at least this.
    pub id_floor: u64,
    /// Length of the file in bytes.
    pub segment_bytes: u64,
    /// Cut-offs of earlier segments still in use.
    pub cut_offs: Vec<CutOff>,
}

/// What one copy turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Whole, and of a format this release reads.
    Valid(Superblock),
    /// Torn, damaged, or never written.
    Invalid,
    /// Whole, but of a format outside of what this release reads.
    Unreadable(u32),
}

fn checksum(block: &[u8]) -> u32 {
    let head = crc32c::crc32c(block.get(..CRC_AT).unwrap_or_default());
    crc32c::crc32c_append(head, block.get(CRC_AT + 4..BLOCK).unwrap_or_default())
}

impl Superblock {
    /// Where the copy of this generation is written: the copies take turns.
    #[must_use]
    pub fn place(&self) -> u64 {
        (self.generation % 2) * BLOCK as u64
    }

    /// The 4 KiB of this copy. Cut-offs past [`CUT_OFFS_MAX`] do not fit; the writer never asks for that.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK] {
        let mut block = [0u8; BLOCK];
        put(&mut block, 0, &MAGIC.to_le_bytes());
        put(&mut block, 8, &FORMAT.to_le_bytes());
        put(&mut block, 16, &self.identity.to_le_bytes());
        put(&mut block, 32, &self.generation.to_le_bytes());
        put(&mut block, 40, &self.epoch.to_le_bytes());
        put(&mut block, 48, &self.number.to_le_bytes());
        put(&mut block, 52, &[self.state as u8, self.heat as u8]);
        put(&mut block, 56, &self.created.to_le_bytes());
        put(&mut block, 64, &self.id_floor.to_le_bytes());
        put(&mut block, 72, &self.segment_bytes.to_le_bytes());
        let kept = &self.cut_offs[..self.cut_offs.len().min(CUT_OFFS_MAX)];
        put(&mut block, 80, &(kept.len() as u32).to_le_bytes());
        for (index, cut) in kept.iter().enumerate() {
            let at = CUT_OFFS_AT + index * CUT_OFF_LEN;
            put(&mut block, at, &cut.number.to_le_bytes());
            put(&mut block, at + 4, &(cut.reason as u32).to_le_bytes());
            put(&mut block, at + 8, &cut.epoch.to_le_bytes());
            put(&mut block, at + 16, &cut.offset.to_le_bytes());
        }
        let crc = checksum(&block);
        put(&mut block, CRC_AT, &crc.to_le_bytes());
        block
    }

    /// Reads one copy. Magic, format and checksum stay at their places in every format to come, so that an old
    /// release can tell a newer format from damage.
    #[must_use]
    pub fn parse(block: &[u8]) -> Parsed {
        if block.len() < BLOCK || u64_at(block, 0) != MAGIC || u32_at(block, CRC_AT) != checksum(block) {
            return Parsed::Invalid;
        }
        let format = u32_at(block, 8);
        if !(FORMAT_OLDEST..=FORMAT).contains(&format) {
            return Parsed::Unreadable(format);
        }
        let count = u32_at(block, 80) as usize;
        let cut_offs = (0..count.min(CUT_OFFS_MAX))
            .map(|index| CUT_OFFS_AT + index * CUT_OFF_LEN)
            .map(|at| CutOff {
                number: u32_at(block, at),
                epoch: u64_at(block, at + 8),
                offset: u64_at(block, at + 16),
                reason: match u32_at(block, at + 4) {
                    1 => CutReason::WriteFailed,
                    3 => CutReason::NoFooter,
                    _ => CutReason::Stopped,
                },
            })
            .collect();
        Parsed::Valid(Self {
            identity: u128_at(block, 16),
            generation: u64_at(block, 32),
            epoch: u64_at(block, 40),
            number: u32_at(block, 48),
            state: if u8_at(block, 52) == State::InUse as u8 { State::InUse } else { State::Spare },
            heat: if u8_at(block, 53) == Heat::Cold as u8 { Heat::Cold } else { Heat::Hot },
            created: u64_at(block, 56),
            id_floor: u64_at(block, 64),
            segment_bytes: u64_at(block, 72),
            cut_offs,
        })
    }

    /// Which of two copies holds: the valid one with the higher generation. An unreadable format wins over all,
    /// because writing over it would lose mail.
    #[must_use]
    pub fn choose(first: Parsed, second: Parsed) -> Parsed {
        match (first, second) {
            (Parsed::Unreadable(format), _) | (_, Parsed::Unreadable(format)) => Parsed::Unreadable(format),
            (Parsed::Valid(one), Parsed::Valid(two)) => {
                Parsed::Valid(if one.generation >= two.generation { one } else { two })
            }
            (Parsed::Valid(one), Parsed::Invalid) | (Parsed::Invalid, Parsed::Valid(one)) => Parsed::Valid(one),
            (Parsed::Invalid, Parsed::Invalid) => Parsed::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample(generation: u64) -> Superblock {
        Superblock {
            identity: 77,
            generation,
            epoch: 0xfeed,
            number: 9,
            state: State::InUse,
            heat: Heat::Cold,
            created: 1_763_679_600_000,
            id_floor: 1234,
            segment_bytes: 1 << 24,
            cut_offs: vec![
                CutOff { number: 3, epoch: 4, offset: 8192, reason: CutReason::WriteFailed },
                CutOff { number: 5, epoch: 6, offset: 12288, reason: CutReason::Stopped },
            ],
        }
    }

    #[test]
    fn round_trips() {
        assert_eq!(Superblock::parse(&sample(1).encode()), Parsed::Valid(sample(1)));
        assert_ne!(sample(1).place(), sample(2).place());
    }

    #[test]
    fn any_flipped_bit_makes_a_copy_invalid() {
        let block = sample(1).encode();
        for at in (0..BLOCK).step_by(7) {
            let mut bad = block;
            bad[at] ^= 0x10;
            assert_eq!(Superblock::parse(&bad), Parsed::Invalid, "byte {at}");
        }
        assert_eq!(Superblock::parse(&[0; BLOCK]), Parsed::Invalid);
        assert_eq!(Superblock::parse(&block[..100]), Parsed::Invalid);
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let mut block = sample(1).encode();
        put(&mut block, 8, &(FORMAT + 1).to_le_bytes());
        let crc = checksum(&block);
        put(&mut block, CRC_AT, &crc.to_le_bytes());
        assert_eq!(Superblock::parse(&block), Parsed::Unreadable(FORMAT + 1));
    }
}
