//! One entry of the ack log: 32 bytes, the same in the rings and on disk.
//!
//! Entries are joined, not replayed in order: for one recipient the greatest by [`AckEntry::rank`] says where it
//! stands. So entries from several shards may be copied in any order, and the same entry may be read twice.

use crate::{HoldReason, OutcomeKind, SpoolId, UnixSecs};

/// Bytes of an entry.
pub const ENTRY: usize = 32;

/// What an entry records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AckKind {
    /// The last byte of the message is about to leave.
    Intent,
    /// The attempt is decided; for a final kind, the recipient is.
    Verdict(OutcomeKind),
    /// The consequences of the final verdict are durable.
    Done,
    /// The record was copied to another segment, and the copy is durable. About a message, see [`AckEntry::MESSAGE`].
    Moved,
    /// Not attempted until someone decides.
    Held(HoldReason),
    /// The hold ended.
    Released,
}

impl AckKind {
    /// The byte on disk.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Intent => 0x01,
            Self::Done => 0x02,
            Self::Moved => 0x03,
            Self::Released => 0x04,
            Self::Verdict(kind) => 0x10 | kind as u8,
            Self::Held(reason) => 0x20 | reason as u8,
        }
    }

    /// The kind behind a byte of the disk.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Intent,
            0x02 => Self::Done,
            0x03 => Self::Moved,
            0x04 => Self::Released,
            0x10..=0x1f => Self::Verdict(OutcomeKind::from_byte(byte & 0x0f)?),
            0x21 => Self::Held(HoldReason::Operator),
            0x22 => Self::Held(HoldReason::SpoolDamage),
            0x23 => Self::Held(HoldReason::AckLogDamage),
            0x24 => Self::Held(HoldReason::Clock),
            _ => return None,
        })
    }

    /// True when nothing can follow but `Done`.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Done => true,
            Self::Verdict(kind) => kind.is_final(),
            _ => false,
        }
    }
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckEntry {
    /// The message.
    pub id: SpoolId,
    /// The recipient's number in the envelope, or [`AckEntry::MESSAGE`].
    pub rcpt: u16,
    /// What happened.
    pub kind: AckKind,
    /// Number of the attempt it is about, from 1; attempts made so far when it is about none.
    pub attempt: u16,
    /// Unknown outcomes so far. With `Intent`, those before it.
    pub unknowns: u8,
    /// Reply code of the verdict; 0 without one.
    pub code: u16,
    /// When.
    pub time: UnixSecs,
    /// Next attempt, after `Deferred` and `Unknown`; 0 for none.
    pub due: UnixSecs,
}

impl AckEntry {
    /// As a recipient's number: the entry is about the whole message.
    pub const MESSAGE: u16 = u16::MAX;

    /// The 32 bytes. `sequence` is the entry's place in its ring or frame; `salt` ties the checksum to it.
    #[must_use]
    pub fn encode(&self, sequence: u32, salt: u32) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[0..8].copy_from_slice(&self.id.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.time.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.due.0.to_le_bytes());
        bytes[20..22].copy_from_slice(&self.rcpt.to_le_bytes());
        bytes[22..24].copy_from_slice(&self.attempt.to_le_bytes());
        bytes[24..26].copy_from_slice(&self.code.to_le_bytes());
        bytes[26] = self.kind.to_byte();
        bytes[27] = self.unknowns;
        let crc = crc32c::crc32c_append(salt, &bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads 32 bytes back, with the sequence; `None` when they are not what was written.
    #[must_use]
    pub fn decode(bytes: &[u8], salt: u32) -> Option<(Self, u32)> {
        let bytes: &[u8; ENTRY] = bytes.try_into().ok()?;
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if crc32c::crc32c_append(salt, &bytes[..28]) != word(28) {
            return None;
        }
        let entry = Self {
            id: SpoolId(u64::from(word(0)) | u64::from(word(4)) << 32),
            rcpt: half(20),
            kind: AckKind::from_byte(bytes[26])?,
            attempt: half(22),
            unknowns: bytes[27],
            code: half(24),
            time: UnixSecs(word(12)),
            due: UnixSecs(word(16)),
        };
        Some((entry, word(8)))
    }

    /// How much an entry says about a recipient: done beats final beats later attempt beats verdict beats intent. Holds
    /// and releases of one attempt weigh the same: among equals the later one counts.
    #[must_use]
    pub fn rank(&self) -> (u8, u16, u8) {
        let step = match self.kind {
            AckKind::Intent => 1,
            AckKind::Verdict(_) => 2,
            AckKind::Held(_) | AckKind::Released => 3,
            AckKind::Done | AckKind::Moved => 0,
        };
        let end = match self.kind {
            AckKind::Done => 2,
            kind => u8::from(kind.is_final()),
        };
        (end, self.attempt, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: AckKind) -> AckEntry {
        AckEntry {
            id: SpoolId(0x0102_0304_0506_0708),
            rcpt: 9,
            kind,
            attempt: 3,
            unknowns: 1,
            code: 451,
            time: UnixSecs(1_700_000_000),
            due: UnixSecs(1_700_001_200),
        }
    }

    #[test]
    fn every_kind_survives_its_bytes() {
        let mut kinds = 0;
        for byte in 0..=255 {
            let Some(kind) = AckKind::from_byte(byte) else { continue };
            kinds += 1;
            assert_eq!(kind.to_byte(), byte);
            assert_eq!(AckEntry::decode(&entry(kind).encode(7, 5), 5), Some((entry(kind), 7)));
        }
        assert_eq!(kinds, 4 + 5 + 4);
    }

    #[test]
    fn a_single_changed_bit_is_noticed() {
        let bytes = entry(AckKind::Intent).encode(7, 5);
        for bit in 0..ENTRY * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(AckEntry::decode(&changed, 5), None, "bit {bit}");
        }
        assert_eq!(AckEntry::decode(&bytes, 6), None, "another ring's entry");
        assert_eq!(AckEntry::decode(&[0; ENTRY], 0), None, "an empty slot");
    }

    #[test]
    fn the_order_is_that_of_a_recipients_life() {
        let at = |kind, attempt| AckEntry { attempt, ..entry(kind) }.rank();
        use AckKind::{Done, Held, Intent, Released, Verdict};
        let life = [
            at(Intent, 1),
            at(Verdict(OutcomeKind::Deferred), 1),
            at(Intent, 2),
            at(Verdict(OutcomeKind::Unknown), 2),
            at(Held(HoldReason::Operator), 2),
            at(Intent, 3),
            at(Verdict(OutcomeKind::Delivered), 3),
            at(Done, 3),
        ];
        assert!(life.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(at(Held(HoldReason::Operator), 2), at(Released, 2));
        assert!(at(Verdict(OutcomeKind::Failed), 2) > at(Held(HoldReason::Operator), 2), "bounced while held");
    }
}
