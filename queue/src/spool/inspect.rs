//! Looking at a spool without opening it: no thread, no lock, nothing written.
//!
//! For tools that show what a spool holds, and for a simulator that judges a disk after a cut and goes on from there.

use std::sync::Arc;

use super::commit::RecordRef;
use super::read::Stored;
use super::recover::{segment_of, Recovered, Recovery, RecoveryReport};
use super::settings::Settings;
use super::shared::{Counters, Shared, SteadyClock};
use super::superblock::CutOff;
use super::survey::{survey, Manner};
use super::writer::Protections;
use crate::disk::Disk;
use crate::error::{OpenError, ReadError};
use crate::id::SpoolId;
use crate::time::UnixMillis;

/// What a disk holds, as recovery would decide it.
pub struct Inspector {
    shared: Arc<Shared>,
    recovery: Option<Recovery>,
    cut_offs: Vec<CutOff>,
    spares: Vec<(u32, u64)>,
    from: Counters,
}

impl Inspector {
    /// Reads superblocks, trailers and unsealed segments. Spares count when they are `segment_bytes` long.
    pub fn open(disk: Arc<dyn Disk>, segment_bytes: u64, protections: Protections) -> Result<Self, OpenError> {
        let mut settings = Settings::new(std::path::PathBuf::new(), 0);
        (settings.segment_bytes, settings.protections) = (segment_bytes, protections);
        let manner = Manner { segment_bytes, tidy: false, protections };
        let survey = survey(&*disk, &manner)?;
        let from = Counters { next_id: survey.next_id, next_number: survey.next_number, next_slot: survey.next_slot };
        let identity = survey.identity.unwrap_or_default();
        let steady = SteadyClock::Machine(std::time::Instant::now());
        let shared = Arc::new(Shared::new(settings, disk, identity, from, Vec::new(), UnixMillis(0), steady));
        for used in &survey.used {
            shared.table.insert(segment_of(used));
        }
        let (cut_offs, spares) = (survey.cut_offs.clone(), survey.spares.clone());
        let recovery = Some(Recovery { shared: Arc::clone(&shared), repair: false, survey });
        Ok(Self { shared, recovery, cut_offs, spares, from })
    }

    /// Tells every message once; a second call tells nothing.
    pub fn each(&mut self, sink: &mut dyn FnMut(Recovered<'_>)) -> RecoveryReport {
        self.recovery.take().map(|recovery| recovery.run(sink)).unwrap_or_default()
    }

    /// Reads a message and verifies both checksums.
    pub fn load(&self, id: SpoolId, at: RecordRef) -> Result<Stored, ReadError> {
        self.shared.load(id, at)
    }

    /// Where segments without a footer end; the next writer is made with them.
    #[must_use]
    pub fn cut_offs(&self) -> &[CutOff] {
        &self.cut_offs
    }

    /// Spares of the length given: slot and generation of the newest superblock.
    #[must_use]
    pub fn spares(&self) -> &[(u32, u64)] {
        &self.spares
    }

    /// First spool id, first logical number and first slot that were never used.
    #[must_use]
    pub fn next(&self) -> (u64, u32, u32) {
        (self.from.next_id, self.from.next_number, self.from.next_slot)
    }
}
