//! Compaction: what still lives in thin segments is copied into cold ones.
//!
//! The copy goes through the same writer as new mail, only on the maintenance thread and by pwrite. The order is:
//! copies durable, then the hook told (which makes "moved" durable), then the originals given up; a stop in between
//! leaves two copies of a message, which recovery counts as one.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::commit::{Commit, Prepared, RecordRef};
use super::compact::{plan, Candidate};
use super::drive::pwrite::carry_out;
use super::maintain::keep_spares;
use super::read::Extent;
use super::segment::Segment;
use super::shared::Shared;
use super::superblock::{CutOff, Heat};
use super::writer::{Event, Writer, WriterConfig, BUFFERS};
use crate::disk::Buffer;
use crate::id::SpoolId;
use crate::limits::RECORD_ALIGN;

/// One record on its way to a cold segment.
struct Move {
    id: SpoolId,
    from: RecordRef,
    to: Option<RecordRef>,
}

/// The writer of cold segments. Its tickets are places in `moves`.
pub(super) struct Cold {
    writer: Writer<usize>,
    moves: Vec<Move>,
    /// Moves that the writer has not answered yet.
    owed: usize,
}

impl Cold {
    pub(super) fn new(config: WriterConfig, cut_offs: Vec<CutOff>) -> Self {
        let config = WriterConfig { heat: Heat::Cold, ..config };
        Self { writer: Writer::new(config, Buffer::pool(BUFFERS), cut_offs), moves: Vec::new(), owed: 0 }
    }

    /// A segment was recycled: its cut-off is needed no more.
    pub(super) fn forget_cut_off(&mut self, number: u32) {
        self.writer.forget_cut_off(number);
    }

    /// Copies what the plan says. Without a hook nothing is compacted.
    pub(super) fn round(&mut self, shared: &Shared) {
        if self.writer.has_segment() {
            // An idle writer records how far it is durable.
            self.drive(shared, false);
        }
        let Some(hook) = shared.hook.get().map(Arc::clone) else { return };
        let segments: Vec<Arc<Segment>> =
            shared.table.all().into_iter().filter(|segment| segment.can_be_copied()).collect();
        let candidates: Vec<Candidate> = segments
            .iter()
            .map(|segment| Candidate {
                number: segment.number,
                bytes: segment.bytes,
                live: segment.live().bytes(),
                created: segment.created,
            })
            .collect();
        let room = shared.room();
        let pressed = room.free < 2 * shared.reserve_of(room) + shared.settings.segment_bytes;
        let (policy, bytes) = (&shared.settings.compact, shared.settings.segment_bytes);
        let chosen = plan(policy, &candidates, bytes, shared.now(), pressed);
        for segment in segments.iter().filter(|segment| chosen.contains(&segment.number)) {
            // Copying takes its time, and new mail goes on needing segments.
            keep_spares(shared);
            self.copy(shared, segment);
            if shared.closing.load(Ordering::Acquire) {
                break;
            }
        }
        self.drive(shared, true);
        self.owed = 0;
        let moves: Vec<(SpoolId, RecordRef, RecordRef)> =
            self.moves.drain(..).filter_map(|one| Some((one.id, one.from, one.to?))).collect();
        if !moves.is_empty() {
            settle(shared, &moves, hook(&moves));
        }
    }

    fn copy(&mut self, shared: &Shared, segment: &Segment) {
        let living = segment.live().living();
        for (offset, _) in living {
            let from = RecordRef::at(segment.number, offset);
            let read = shared.read_raw(segment, from, Extent::Whole).map_err(|error| error.to_string());
            match read.and_then(|raw| raw.into_commit().map_err(str::to_owned)) {
                Ok(commit) => {
                    if !self.push(shared, from, commit) {
                        return;
                    }
                }
                Err(why) => {
                    // Loading it will say the same to whoever wants to send it.
                    segment.uncopied.store(true, Ordering::Release);
                    shared.report(&format!("segment {} can't be compacted: at {offset}: {why}", segment.number));
                }
            }
        }
    }

    /// False when no cold segment can be written now.
    fn push(&mut self, shared: &Shared, from: RecordRef, commit: Commit) -> bool {
        let ticket = self.moves.len();
        self.moves.push(Move { id: commit.id, from, to: None });
        let Ok(mut item) = Prepared::new(ticket, commit, shared.settings.segment_bytes) else { return true };
        self.owed += 1;
        loop {
            match self.writer.push(item) {
                Ok(()) => return true,
                Err(back) => item = back,
            }
            if !self.drive(shared, true) {
                return false;
            }
        }
    }

    /// Carries out what the writer has; with `open` it may take a segment for that. False when it has none.
    fn drive(&mut self, shared: &Shared, open: bool) -> bool {
        loop {
            if self.writer.is_stuck() {
                self.writer.deny();
                self.tell(shared);
                return false;
            }
            while open && self.writer.wants_spare() && self.owed > 0 {
                match shared.take_spare(Heat::Cold) {
                    Ok(spare) => self.writer.add_spare(spare),
                    Err(_) => {
                        self.writer.deny();
                        self.tell(shared);
                        return false;
                    }
                }
            }
            let mut ops = Vec::new();
            while let Some(op) = self.writer.next_op(shared.steady_ms()) {
                ops.push(op);
            }
            if ops.is_empty() {
                self.tell(shared);
                return self.writer.has_segment();
            }
            for (op, result) in carry_out(&*shared.disk, ops) {
                self.writer.complete(op.id, result, op.buffer);
            }
            self.tell(shared);
        }
    }

    fn tell(&mut self, shared: &Shared) {
        while let Some(event) = self.writer.next_event() {
            match event {
                Event::Acked { ticket, id, at, len } => {
                    self.owed = self.owed.saturating_sub(1);
                    if let Some(segment) = shared.table.get(at.segment) {
                        segment.live().add(id.0, at.offset16, len / RECORD_ALIGN as u32);
                    }
                    if let Some(one) = self.moves.get_mut(ticket) {
                        one.to = Some(at);
                    }
                }
                // The original stays where it is.
                Event::Refused { .. } => self.owed = self.owed.saturating_sub(1),
                Event::Opened { spare, generation } => {
                    shared.note_opened(spare, generation, Heat::Cold);
                }
                Event::Sealed { number } => shared.note_ended(number, None),
                Event::Ended(cut) => {
                    shared.report(&format!("segment {} ended at {}: {:?}", cut.number, cut.offset, cut.reason));
                    shared.note_ended(cut.number, Some(cut));
                }
                Event::Spoiled { slot } => shared.note_spoiled(slot),
            }
        }
    }

    /// Seals the cold segment.
    pub(super) fn close(&mut self, shared: &Shared) {
        self.writer.close();
        self.drive(shared, true);
    }
}

/// Makes the copies count, or gives them up when the hook failed.
fn settle(shared: &Shared, moves: &[(SpoolId, RecordRef, RecordRef)], told: std::io::Result<()>) {
    if let Err(error) = told {
        shared.report(&format!("compaction given up: {error}"));
        for (_, _, to) in moves {
            shared.retire_at(*to);
        }
        return;
    }
    shared.table.note_moves(moves);
    shared.compacted.fetch_add(moves.len() as u64, Ordering::Relaxed);
    for (id, from, to) in moves {
        if !shared.retire_at(*from) {
            // It was retired while it was copied.
            shared.table.forget_moves(*id, *from);
            shared.retire_at(*to);
        }
    }
}
