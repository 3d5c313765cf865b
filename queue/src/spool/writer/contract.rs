//! What passes between the writer and those who drive it: settings, spares, writes, events.

use super::super::commit::RecordRef;
use super::super::superblock::{CutOff, Heat};
use crate::disk::{Buffer, Space};
use crate::error::Refusal;
use crate::id::SpoolId;

/// The protections of the spool, each of which can be taken away **by tests of the tests only**: a simulator that does
/// not notice a missing protection proves nothing. All true in every other place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is named at the one line it guards
pub struct Protections {
    pub sync_writes: bool,
    pub ack_after_batch: bool,
    pub prefix_order: bool,
    pub check_epoch: bool,
    pub check_crc: bool,
    pub footer_after_batches: bool,
    pub honour_cutoffs: bool,
    pub sync_found: bool,
}

impl Default for Protections {
    fn default() -> Self {
        Self {
            sync_writes: true,
            ack_after_batch: true,
            prefix_order: true,
            check_epoch: true,
            check_crc: true,
            footer_after_batches: true,
            honour_cutoffs: true,
            sync_found: true,
        }
    }
}

/// What a writer is told once.
#[derive(Clone, Copy, Debug)]
pub struct WriterConfig {
    /// Identity of the spool.
    pub identity: u128,
    /// What its segments are for.
    pub heat: Heat,
    /// Length of every segment file.
    pub segment_bytes: u64,
    /// See [`Protections`].
    pub protections: Protections,
}

/// A segment file ready for its next use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spare {
    /// The file.
    pub slot: u32,
    /// Logical number of the coming use, never used before.
    pub number: u32,
    /// Random epoch of the coming use.
    pub epoch: u64,
    /// Generation of the newest superblock in the file.
    pub generation: u64,
    /// Spool ids from here on are not yet handed out.
    pub id_floor: u64,
    /// When it was made ready, milliseconds since 1970.
    pub created: u64,
    /// Pre-written or merely allocated.
    pub space: Space,
}

/// One write for the driver. The buffer comes back with [`Writer::complete`].
pub struct WriteOp {
    /// Names this write in [`Writer::complete`].
    pub id: u64,
    /// Which file.
    pub slot: u32,
    /// Where.
    pub offset: u64,
    /// How many bytes of the buffer, from its start.
    pub len: usize,
    /// The bytes are durable when the write is complete.
    pub sync: bool,
    /// The bytes.
    pub buffer: Buffer,
}

/// What the writer tells. In order; nothing is told twice.
#[derive(Debug, PartialEq)]
pub enum Event<T> {
    /// The message is durable.
    Acked {
        /// Who waits.
        ticket: T,
        /// Which message.
        id: SpoolId,
        /// Where it is.
        at: RecordRef,
        /// Bytes of its record.
        len: u32,
    },
    /// The message is not in the spool and never will be.
    Refused {
        /// Who waits.
        ticket: T,
        /// Which message.
        id: SpoolId,
        /// Why.
        refusal: Refusal,
    },
    /// A segment takes messages now.
    Opened {
        /// The file and use.
        spare: Spare,
        /// Generation of its newest superblock.
        generation: u64,
    },
    /// A segment is complete, with footer and trailer.
    Sealed {
        /// Logical number.
        number: u32,
    },
    /// A segment ended without a footer.
    Ended(CutOff),
    /// A spare could not be opened: its file is not to be used again.
    Spoiled {
        /// The file.
        slot: u32,
    },
}

/// Counts since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterCounts {
    /// Batches with records.
    pub batches: u64,
    /// Batches that only recorded the durable offset.
    pub empty_batches: u64,
    /// Bytes handed to the disk.
    pub bytes: u64,
    /// Durable writes asked for.
    pub flushes: u64,
    /// Writes that failed.
    pub failures: u64,
    /// Batches written to merely allocated space.
    pub unwritten: u64,
}
