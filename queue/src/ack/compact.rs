//! Compaction: the newest entry of every recipient whose message some segment may still hold, sorted, in new files.
//!
//! Nothing is changed in place. The parts are written under other names, made durable, and get their names in order;
//! the last one holds the end mark. Until that one has its name, the old files are all there and the new ones add
//! nothing that is not in them (entries are joined, so reading both is harmless). Afterwards the old ones may go, in
//! any order.

use std::io;

use super::entry::{AckEntry, ENTRY};
use super::frame::{Frame, FrameKind};
use super::load::{load, FileName};
use super::replay::{Builder, Damage, DamageCause};
use super::store::LogStore;
use super::Protections;
use crate::SpoolId;

/// A compaction to be run.
#[derive(Debug)]
pub struct CompactionJob {
    pub(super) identity: u128,
    pub(super) epoch: u64,
    pub(super) generation: u64,
    /// Frames up to this number are merged.
    pub(super) merged: u64,
    /// Files of the log before this one are merged.
    pub(super) before: u64,
    pub(super) file_bytes: u64,
}

/// A compaction that was run: durable, not yet in use.
#[derive(Debug)]
pub struct Compacted {
    pub(super) before: u64,
    pub(super) files: Vec<(String, u64)>,
    /// Entries kept.
    pub entries: u64,
}

/// Entries of one frame: 128 KiB.
const PER_FRAME: usize = 4093;

impl CompactionJob {
    /// Reads, merges and writes. Takes 32 bytes of memory for each entry kept, and as much again while it reads.
    ///
    /// `may_hold` says of a message whether a segment may still hold it: say no only when the last one that did is
    /// durably recycled.
    ///
    /// # Errors
    /// The disk; the log is whole and the job may be forgotten.
    pub fn run(&self, store: &mut impl LogStore, may_hold: &dyn Fn(SpoolId) -> bool) -> io::Result<Compacted> {
        let mut builder = Builder::new();
        load(store, self.identity, &mut builder, |name| match name {
            FileName::Base(generation, _) => generation < self.generation,
            FileName::Log(number) => number < self.before,
            _ => false,
        })?;
        if builder.losses().iter().any(|loss| loss.damage.cause == DamageCause::Unreadable) {
            return Err(io::Error::other("a file of the ack log can't be read: it is not compacted"));
        }
        // Its own files' last `Closed` is followed by the file being written, which was not read.
        builder.forget_end();
        let replay = builder.finish(Protections::default());
        let damage = replay.report().damage.clone();
        let mut parts = Parts::new(self, store);
        for loss in &damage {
            parts.damage(loss)?;
        }
        let mut chunk = Vec::with_capacity(PER_FRAME);
        let mut entries = 0;
        for entry in replay.into_entries().filter(|entry| may_hold(entry.id)) {
            chunk.push(entry);
            entries += 1;
            if chunk.len() == PER_FRAME {
                parts.entries(&chunk)?;
                chunk.clear();
            }
        }
        if !chunk.is_empty() {
            parts.entries(&chunk)?;
        }
        let files = parts.end()?;
        Ok(Compacted { before: self.before, files, entries })
    }
}

/// The files of a compaction while they are written.
struct Parts<'a, S> {
    job: &'a CompactionJob,
    store: &'a mut S,
    bytes: Vec<u8>,
    /// Bytes of the parts written.
    parts: Vec<u64>,
    frames: u64,
    last: u64,
}

impl<'a, S: LogStore> Parts<'a, S> {
    fn new(job: &'a CompactionJob, store: &'a mut S) -> Self {
        Self { job, store, bytes: Vec::new(), parts: Vec::new(), frames: 0, last: 0 }
    }

    fn frame(&self, kind: FrameKind) -> Frame {
        Frame {
            kind,
            identity: self.job.identity,
            epoch: self.job.epoch,
            sequence: self.frames,
            generation: self.job.generation,
            max_id: self.last,
            ..Frame::default()
        }
    }

    fn damage(&mut self, loss: &Damage) -> io::Result<()> {
        let frame = Frame { first: loss.first.0, bound: loss.last.0, ..self.frame(FrameKind::Damage) };
        self.add(&frame, &[])
    }

    fn entries(&mut self, entries: &[AckEntry]) -> io::Result<()> {
        let ids = |entry: Option<&AckEntry>| entry.map_or(0, |entry| entry.id.0);
        self.last = ids(entries.last());
        let frame = Frame { first: ids(entries.first()), ..self.frame(FrameKind::Base) };
        self.add(&frame, entries)?;
        self.frames += 1;
        Ok(())
    }

    fn add(&mut self, frame: &Frame, entries: &[AckEntry]) -> io::Result<()> {
        self.bytes.extend(frame.encode(entries));
        let next = Frame::bytes(PER_FRAME);
        if self.bytes.len() + next > self.job.file_bytes as usize {
            self.flush()?;
        }
        Ok(())
    }

    fn name(&self, part: usize) -> String {
        FileName::base(self.job.generation, part as u32)
    }

    fn flush(&mut self) -> io::Result<()> {
        let name = format!("{}.new", self.name(self.parts.len()));
        self.store.create(&name, self.bytes.len() as u64)?;
        self.store.write(&name, 0, &self.bytes)?;
        self.store.sync(&name)?;
        self.parts.push(self.bytes.len() as u64);
        self.bytes.clear();
        Ok(())
    }

    fn end(mut self) -> io::Result<Vec<(String, u64)>> {
        let frame = Frame { bound: self.job.merged, ..self.frame(FrameKind::BaseEnd) };
        self.bytes.extend(frame.encode(&[]));
        self.flush()?;
        let mut files = Vec::new();
        for (part, bytes) in self.parts.iter().enumerate() {
            let name = self.name(part);
            self.store.rename(&format!("{name}.new"), &name)?;
            files.push((name, *bytes));
        }
        Ok(files)
    }
}

const _: () = assert!(PER_FRAME * ENTRY < 128 * 1024);
