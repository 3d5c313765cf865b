//! What an operator chooses about the spool, and what the spool tells about itself.

use std::path::PathBuf;

use super::compact;
use super::writer::{Protections, WriterCounts};
use crate::disk::Room;
use crate::error::OpenError;
use crate::limits::{BLOCK, SEGMENT_MAX};

/// Which driver writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriterChoice {
    /// The ring where it works, otherwise pwrite.
    #[default]
    Auto,
    /// io_uring; opening fails where it does not work.
    Ring,
    /// pwrite and fdatasync.
    Pwrite,
}

/// The driver in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterKind {
    /// io_uring with registered buffers on O_DIRECT.
    Ring,
    /// pwrite and fdatasync.
    Pwrite,
}

/// What an operator chooses.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The spool's directory; made when missing.
    pub dir: PathBuf,
    /// Length of new segment files in bytes, a multiple of 4096.
    pub segment_bytes: u64,
    /// Pre-written segments kept ready.
    pub spares: usize,
    /// Bytes of the file system that stay free.
    pub reserve_bytes: u64,
    /// The same as a part of the file system, in percent; the larger of both holds.
    pub reserve_percent: u8,
    /// Which driver writes.
    pub writer: WriterChoice,
    /// Identity given to a new spool; random. An existing spool keeps its own.
    pub identity: u128,
    /// Where epochs come from; random, different at every start.
    pub epoch_seed: u64,
    /// When segments are compacted.
    pub compact: compact::Policy,
    /// For tests of the tests only.
    pub protections: Protections,
}

impl Settings {
    /// The defaults for a directory. `random` is fresh at every start.
    #[must_use]
    pub fn new(dir: PathBuf, random: u128) -> Self {
        Self {
            dir,
            segment_bytes: 64 * 1024 * 1024,
            spares: 2,
            reserve_bytes: 512 * 1024 * 1024,
            reserve_percent: 2,
            writer: WriterChoice::Auto,
            identity: random,
            epoch_seed: (random >> 64) as u64 ^ random as u64,
            compact: compact::Policy::default(),
            protections: Protections::default(),
        }
    }

    /// Smallest segment: room for the superblocks, some batches, a footer and a trailer.
    pub const SEGMENT_FLOOR: u64 = 128 * 1024;

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let fits = (Self::SEGMENT_FLOOR..=SEGMENT_MAX).contains(&self.segment_bytes)
            && self.segment_bytes.is_multiple_of(BLOCK as u64);
        if !fits {
            return Err(OpenError::Setting(format!(
                "a segment of {} bytes: it must be a multiple of 4096 between {} and {SEGMENT_MAX}",
                self.segment_bytes,
                Self::SEGMENT_FLOOR
            )));
        }
        if self.reserve_percent > 90 {
            return Err(OpenError::Setting("spool reserve above 90 percent leaves no room for mail".into()));
        }
        Ok(())
    }
}

/// What the spool tells about itself.
#[derive(Clone, Debug, Default)]
pub struct SpoolStatus {
    /// The driver in use.
    pub writer: Option<WriterKind>,
    /// Why not the faster one, each with what to do about it; empty when the ring writes.
    pub reasons: Vec<String>,
    /// Segments in use.
    pub segments: usize,
    /// Of them sealed.
    pub sealed: usize,
    /// Of them cold: what compaction gathered.
    pub cold: usize,
    /// Spare segments ready.
    pub spares: usize,
    /// Messages that are not retired.
    pub messages: u64,
    /// Bytes of their records.
    pub live_bytes: u64,
    /// Bytes of the files of segments in use.
    pub used_bytes: u64,
    /// Room on the file system at the last look.
    pub room: Room,
    /// Bytes that stay free.
    pub reserve: u64,
    /// Counts of the writer since start.
    pub counts: WriterCounts,
    /// Commits waiting for the writer.
    pub waiting: usize,
    /// Segments recycled since start.
    pub recycled: u64,
    /// Records moved by compaction since start.
    pub compacted: u64,
    /// The last thing that went wrong in the background, for an operator; empty when nothing did.
    pub trouble: String,
}
