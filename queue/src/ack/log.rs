//! The log itself: opens what is there, copies rings to files, and stops delivery when it can't.
//!
//! One [`AckLog`] per process, on the ledger thread. Every sync writes one frame and makes it durable before the next
//! is written. The file being written and one spare are reserved ahead, so a full disk is seen a whole file before it
//! hurts.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::compact::{Compacted, CompactionJob};
use super::entry::{AckEntry, ENTRY};
use super::frame::{Frame, FrameKind};
use super::load::{load, FileName, Loaded};
use super::replay::{Builder, DamageCause, Replay};
use super::ring::{self, AckPort, AckSeq, AckStop, Health, RingId, RingReader, Rings, RING_ENTRIES};
use super::store::LogStore;
use super::Protections;
use crate::limits::BLOCK;
use crate::{SpoolId, UnixMillis};

/// Sizes and switches.
#[derive(Clone, Copy, Debug)]
pub struct AckOptions {
    /// Bytes of one file of the log.
    pub file_bytes: u64,
    /// Entries of one ring.
    pub ring_entries: u32,
    /// No compaction below this many bytes.
    pub compact_min: u64,
    /// See [`Protections`].
    pub protections: Protections,
}

impl Default for AckOptions {
    fn default() -> Self {
        Self {
            file_bytes: 8 * 1024 * 1024,
            ring_entries: RING_ENTRIES,
            compact_min: 64 * 1024 * 1024,
            protections: Protections::default(),
        }
    }
}

/// Why the log can't be opened. Delivery can't start.
#[derive(Debug, thiserror::Error)]
pub enum AckOpenError {
    /// Files of another spool lie in the folder: the operator has to sort that out.
    #[error("the ack log in this folder belongs to another spool")]
    Foreign,
    /// The disk failed.
    #[error("the ack log can't be opened: {0}")]
    Io(#[from] io::Error),
}

/// What one sync made durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// For each port, the last entry that survives a power cut.
    pub ports: Vec<(u16, AckSeq)>,
    /// Entries written now.
    pub entries: usize,
    /// No spare file could be reserved: when the present file is full, delivery stops. Alarm.
    pub reserve_lost: bool,
}

/// The ack log of this process.
#[derive(Debug)]
pub struct AckLog<S: LogStore> {
    pub(super) store: S,
    rings: Rings,
    options: AckOptions,
    pub(super) identity: u128,
    pub(super) epoch: u64,
    /// Number of the next frame.
    pub(super) next: u64,
    pub(super) max_id: u64,
    /// Number of the file being written.
    pub(super) file: u64,
    offset: u64,
    spare: bool,
    /// The file being written is not to be trusted any more.
    failed: bool,
    error: Option<io::Error>,
    /// Bytes of earlier files.
    pub(super) closed_bytes: u64,
    pub(super) bases: Vec<(String, u64)>,
    pub(super) generation: u64,
    /// Files of the log, the one being written not among them.
    pub(super) closed: Vec<u64>,
    readers: Vec<RingReader>,
    own: Vec<AckEntry>,
    batch: Vec<AckEntry>,
    /// Syncs without entries since the last frame that had some.
    idle: u32,
    health: Arc<Health>,
}

/// Idle syncs after which an empty frame shows that the one before it was durable: half a second.
const IDLE_SYNCS: u32 = 5;

impl<S: LogStore> AckLog<S> {
    /// Opens the log in `store` with its rings in `rings` (a folder in tmpfs), and says where every recipient stands.
    ///
    /// What stood in the rings is in the files when this returns. `spool_is_new` says that the spool has never accepted
    /// a message: only then may the log be missing. Open the log before the first message is accepted.
    ///
    /// # Errors
    /// [`AckOpenError`]. Damage is no error: it is in the replay's report.
    pub fn open(
        store: S,
        rings: impl Into<Rings>,
        identity: u128,
        spool_is_new: bool,
        options: AckOptions,
    ) -> Result<(Self, Replay), AckOpenError> {
        let mut store = store;
        let place = rings.into();
        place.prepare()?;
        let mut builder = Builder::new();
        let loaded = load(&mut store, identity, &mut builder, |_| true)?;
        if loaded.foreign {
            return Err(AckOpenError::Foreign);
        }
        let noted = builder.losses().len();
        if loaded.is_empty() && !spool_is_new {
            builder.lost(DamageCause::LogMissing, 0, u64::MAX, loaded.epoch);
        }
        let rings = ring::find(&place)?;
        let mut found = absorb(&rings, identity, loaded.epoch, options.protections, &mut builder);
        found.extend_from_slice(&loaded.salvaged);
        let mut log = Self::start(store, place, identity, &loaded, options)?;
        log.write_opening(&loaded, &builder, noted, &found)?;
        for ring in rings.iter().filter(|ring| !ring.is_of_another(identity)) {
            log.rings.remove(&ring.name)?;
        }
        for name in &loaded.temporary {
            log.store.remove(name)?;
        }
        Ok((log, builder.finish(options.protections)))
    }

    /// Goes behind what was found: a new file, the old one ended.
    fn start(mut store: S, rings: Rings, identity: u128, loaded: &Loaded, options: AckOptions) -> io::Result<Self> {
        let last = loaded.logs.last();
        // An empty last file is the spare of the process before.
        let spare = last.filter(|file| file.used == 0 && file.len == options.file_bytes).map(|file| file.number);
        let file = spare.unwrap_or_else(|| last.map_or(1, |file| file.number + 1));
        if spare.is_none() {
            store.create(&FileName::log(file), options.file_bytes)?;
        }
        let closed: Vec<u64> = loaded.logs.iter().map(|log| log.number).filter(|number| *number != file).collect();
        Ok(Self {
            store,
            rings,
            options,
            identity,
            epoch: loaded.epoch,
            next: loaded.next,
            max_id: loaded.max_id,
            file,
            offset: 0,
            spare: false,
            failed: false,
            error: None,
            closed_bytes: loaded.logs.iter().map(|log| log.used).sum(),
            bases: loaded.bases.clone(),
            generation: loaded.generation,
            closed,
            readers: Vec::new(),
            own: Vec::new(),
            batch: Vec::new(),
            idle: 0,
            health: Arc::new(Health::default()),
        })
    }

    /// What the last process left in its rings, what is lost, and then the new epoch, each durable before the next.
    fn write_opening(
        &mut self,
        loaded: &Loaded,
        builder: &Builder,
        noted: usize,
        found: &[AckEntry],
    ) -> io::Result<()> {
        let before = loaded.logs.iter().rev().find(|file| file.number != self.file);
        if let Some(old) = before.filter(|file| file.used + BLOCK as u64 <= file.len) {
            // Its last frame may stand in the cache only: durable now, or it could vanish later and look like damage.
            let bytes = self.frame(FrameKind::Closed).encode(&[]);
            self.store.write(&FileName::log(old.number), old.used, &bytes)?;
            self.store.sync(&FileName::log(old.number))?;
        } else if let Some(old) = before {
            self.store.sync(&FileName::log(old.number))?;
        }
        for entries in found.chunks(self.frame_max()) {
            self.put(FrameKind::Entries, 0, 0, entries)?;
        }
        // What the files can't show a second time is noted: losses found beside them, and a missing end.
        for (number, loss) in builder.losses().iter().enumerate() {
            if number >= noted || matches!(loss.damage.cause, DamageCause::EndMissing | DamageCause::Unreadable) {
                self.put(FrameKind::Damage, loss.damage.first.0, loss.damage.last.0, &[])?;
            }
        }
        self.epoch += 1;
        self.put(FrameKind::Entries, 0, 0, &[])?;
        self.reserve();
        Ok(())
    }

    /// After recovery of a log with unbounded losses: they concern messages up to `highest`, the highest spool id there
    /// is.
    ///
    /// # Errors
    /// The disk did not take it; the losses stay unbounded until it did.
    pub fn settle(&mut self, highest: SpoolId) -> io::Result<()> {
        self.max_id = self.max_id.max(highest.0);
        self.put(FrameKind::Settled, 0, highest.0, &[])
    }

    /// Makes the ring of a shard. Once per shard.
    ///
    /// # Errors
    /// tmpfs is full, or the shard has its ring already.
    pub fn port(&mut self, shard: u16) -> io::Result<AckPort> {
        if self.readers.iter().any(|reader| reader.port == shard) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = RingId { identity: self.identity, epoch: self.epoch, port: shard };
        let (port, reader) = ring::create(&self.rings, id, self.options.ring_entries, &self.health)?;
        self.readers.push(reader);
        Ok(port)
    }

    /// Adds an entry of the ledger thread's own (`Done`, `Moved`), durable with the next sync.
    pub fn append(&mut self, entry: AckEntry) {
        self.own.push(entry);
    }

    /// Copies everything recorded so far to the disk. Call every 100 ms; `now` is the time at its start, by the
    /// clock that [`AckPort::lag`] is asked with.
    ///
    /// # Errors
    /// [`AckStop::Disk`]: nothing is lost, but all ports refuse until a later sync succeeds (it tries another file).
    /// [`AckLog::last_error`] tells what the disk said.
    pub fn sync(&mut self, now: UnixMillis) -> Result<Synced, AckStop> {
        match self.try_sync() {
            Ok(synced) => {
                self.error = None;
                self.health.synced.store(now.0, Ordering::Release);
                self.health.stopped.store(false, Ordering::Release);
                Ok(synced)
            }
            Err(error) => {
                self.health.stopped.store(true, Ordering::Release);
                tracing::error!(%error, "the ack log can't be written: delivery stops");
                self.error = Some(error);
                self.failed = true;
                self.readers.iter_mut().for_each(RingReader::rewind);
                Err(AckStop::Disk)
            }
        }
    }

    /// What the disk said when the last sync failed.
    #[must_use]
    pub fn last_error(&self) -> Option<&io::Error> {
        self.error.as_ref()
    }

    fn try_sync(&mut self) -> io::Result<Synced> {
        if self.failed {
            // A file that took nothing yet is tried again, or a failing disk would be filled with files.
            if self.offset > 0 {
                self.next_file()?;
            } else {
                self.begin_file()?;
            }
            self.failed = false;
        }
        let mut synced = Synced::default();
        loop {
            let mut batch = std::mem::take(&mut self.batch);
            batch.clear();
            let own = self.own.len().min(self.frame_max());
            batch.extend_from_slice(&self.own[..own]);
            for reader in &mut self.readers {
                let room = (self.options.frame_max()).saturating_sub(batch.len());
                reader.read(room, &mut batch)?;
            }
            if batch.is_empty() {
                self.batch = batch;
                break;
            }
            let done = self.put(FrameKind::Entries, 0, 0, &batch);
            synced.entries += batch.len();
            self.batch = batch;
            done?;
            self.own.drain(..own);
            for reader in &mut self.readers {
                reader.commit();
            }
            if self.own.is_empty() && self.readers.iter().all(RingReader::drained) {
                break;
            }
        }
        self.idle = if synced.entries > 0 { 0 } else { self.idle.saturating_add(1) };
        if self.idle == IDLE_SYNCS {
            self.put(FrameKind::Entries, 0, 0, &[])?;
        }
        self.reserve();
        synced.ports = self.readers.iter_mut().map(|reader| (reader.port, reader.commit())).collect();
        synced.reserve_lost = !self.spare;
        Ok(synced)
    }

    fn frame_max(&self) -> usize {
        self.options.frame_max()
    }

    fn frame(&self, kind: FrameKind) -> Frame {
        Frame {
            kind,
            identity: self.identity,
            epoch: self.epoch,
            sequence: self.next,
            max_id: self.max_id,
            ..Frame::default()
        }
    }

    /// Writes one frame and makes it durable.
    fn put(&mut self, kind: FrameKind, first: u64, bound: u64, entries: &[AckEntry]) -> io::Result<()> {
        let size = Frame::bytes(entries.len()) as u64;
        // Room for the closing frame is never given away.
        if self.offset + size + BLOCK as u64 > self.options.file_bytes {
            self.close_file()?;
            self.next_file()?;
        }
        let highest = entries.iter().map(|entry| entry.id.0).max().unwrap_or(0);
        self.max_id = self.max_id.max(highest);
        let frame = Frame { first, bound, ..self.frame(kind) };
        self.write_frame(&frame, entries)?;
        self.next += 1;
        Ok(())
    }

    fn write_frame(&mut self, frame: &Frame, entries: &[AckEntry]) -> io::Result<()> {
        let name = FileName::log(self.file);
        let bytes = frame.encode(entries);
        self.store.write(&name, self.offset, &bytes)?;
        if self.options.protections.sync_files {
            self.store.sync(&name)?;
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Ends the file being written, which has room for that.
    fn close_file(&mut self) -> io::Result<()> {
        if !self.spare {
            self.store.create(&FileName::log(self.file + 1), self.options.file_bytes)?;
            self.spare = true;
        }
        self.write_frame(&self.frame(FrameKind::Closed), &[])
    }

    /// Goes on in the spare file; its first frame says that it was begun.
    fn next_file(&mut self) -> io::Result<()> {
        if !self.spare {
            self.store.create(&FileName::log(self.file + 1), self.options.file_bytes)?;
        }
        self.spare = false;
        self.closed.push(self.file);
        self.closed_bytes += self.offset;
        self.file += 1;
        self.offset = 0;
        self.begin_file()
    }

    fn begin_file(&mut self) -> io::Result<()> {
        self.write_frame(&self.frame(FrameKind::Entries), &[])?;
        self.next += 1;
        Ok(())
    }

    /// Reserves the next file ahead, when there is none.
    fn reserve(&mut self) {
        if !self.spare {
            match self.store.create(&FileName::log(self.file + 1), self.options.file_bytes) {
                Ok(()) => self.spare = true,
                Err(error) => tracing::warn!(%error, "no room for the next file of the ack log"),
            }
        }
    }

    /// Bytes of all files that hold entries.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.closed_bytes + self.offset + self.base_bytes()
    }

    fn base_bytes(&self) -> u64 {
        self.bases.iter().map(|(_, bytes)| bytes).sum()
    }

    /// True when the log has grown to twice its last compacted size, and to the least size worth it.
    #[must_use]
    pub fn wants_compaction(&self) -> bool {
        self.bytes() > self.options.compact_min.max(2 * self.base_bytes())
    }

    /// Begins a compaction of everything written so far. The job runs on any thread, with a store of its own on the
    /// same folder; syncs go on meanwhile.
    ///
    /// # Errors
    /// The disk did not take the change of file.
    pub fn begin_compaction(&mut self) -> io::Result<CompactionJob> {
        self.close_file()?;
        let merged = self.next - 1;
        self.next_file()?;
        self.reserve();
        self.generation += 1;
        Ok(CompactionJob {
            identity: self.identity,
            epoch: self.epoch,
            generation: self.generation,
            merged,
            before: self.file,
            file_bytes: self.options.file_bytes,
        })
    }

    /// Takes a finished compaction into use: what it replaces is removed.
    ///
    /// # Errors
    /// A file can't be removed: it is tried again with the next compaction, and does no harm.
    pub fn finish_compaction(&mut self, compacted: Compacted) -> io::Result<()> {
        let old: Vec<u64> = self.closed.iter().copied().filter(|number| *number < compacted.before).collect();
        let bases = std::mem::replace(&mut self.bases, compacted.files);
        for (name, _) in bases {
            self.store.remove(&name)?;
        }
        for number in old {
            self.store.remove(&FileName::log(number))?;
            self.closed.retain(|closed| *closed != number);
        }
        self.closed_bytes = self.closed.len() as u64 * self.options.file_bytes;
        Ok(())
    }

    /// All of a compaction on this thread, when it is due: for small logs and tests. `may_hold` says of a message
    /// whether some segment may still hold it; entries of the others are dropped. True when it was done.
    ///
    /// # Errors
    /// The disk; whatever step failed, the log is whole.
    pub fn compact_if_needed(&mut self, may_hold: &dyn Fn(SpoolId) -> bool) -> io::Result<bool> {
        if !self.wants_compaction() {
            return Ok(false);
        }
        let job = self.begin_compaction()?;
        let compacted = job.run(&mut self.store, may_hold)?;
        self.finish_compaction(compacted)?;
        Ok(true)
    }

    /// The store, when the log is at its end: for tests and the simulator.
    #[must_use]
    pub fn into_store(mut self) -> S
    where
        S: Default,
    {
        std::mem::take(&mut self.store)
    }
}

impl<S: LogStore> Drop for AckLog<S> {
    /// Without a ledger nothing may leave.
    fn drop(&mut self) {
        self.health.stopped.store(true, Ordering::Release);
    }
}

impl AckOptions {
    /// Most entries of one frame: half a file, at most 2 MiB.
    fn frame_max(&self) -> usize {
        ((self.file_bytes / 2) as usize / ENTRY).saturating_sub(128).clamp(16, 65_536)
    }
}

/// Takes the rings of the last process into the builder; returns their entries, which no file may have yet.
fn absorb(
    rings: &[ring::FoundRing],
    identity: u128,
    epoch: u64,
    protections: Protections,
    builder: &mut Builder,
) -> Vec<AckEntry> {
    let mut entries = Vec::new();
    for found in rings {
        match &found.content {
            _ if found.is_of_another(identity) => builder.report.rings_foreign += 1,
            _ if found.epoch < epoch || found.blank => builder.report.rings_stale += 1,
            None => builder.lost(DamageCause::RingDamaged, 0, u64::MAX, epoch),
            Some((_, content)) => {
                builder.report.rings += 1;
                builder.report.ring_torn += content.torn;
                // A ring of a later process than any file: the files lost their end.
                if found.epoch > epoch {
                    builder.lost(DamageCause::EndMissing, 0, u64::MAX, epoch);
                }
                if content.torn > 1 {
                    builder.lost(DamageCause::RingDamaged, 0, u64::MAX, epoch);
                }
                if protections.replay_rings {
                    builder.report.ring_entries += content.entries.len() as u64;
                    content.entries.iter().for_each(|entry| builder.push(entry, found.epoch));
                    entries.extend_from_slice(&content.entries);
                }
            }
        }
    }
    entries
}
