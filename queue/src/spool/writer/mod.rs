//! The writer as a state machine: which bytes go where in which order, and when a message counts as durable.
//!
//! It holds no file, no clock and no thread. A driver asks [`Writer::next_op`] for writes, carries them out in any
//! order and reports each by [`Writer::complete`]; a simulator does the same against a disk that tears, reorders and
//! fails. Everything that makes an acknowledgement true is decided here:
//!
//! - records fill a batch while earlier batches are on their way (group commit without a timer);
//! - a message is acknowledged when its batch and all batches before it are durable;
//! - a failed write ends the segment: nothing more goes there, what was not acknowledged is refused, and the refusals
//!   wait until the cut-off is durable in the superblock of the next segment;
//! - a segment takes messages only after its superblock is durable and the segment before it has nothing under way;
//! - the footer is written after every batch of the segment is durable, the trailer after the footer;
//! - a writer without work adds an empty batch, so that the disk says how far it was acknowledged.

mod contract;
mod fill;
mod seal;

use std::collections::{HashMap, VecDeque};

pub use contract::{Event, Protections, Spare, WriteOp, WriterConfig, WriterCounts};
use fill::{LongBatch, OpenBatch, Slip};
use seal::Sealing;

use super::commit::{Prepared, RecordRef};
use super::footer::FooterBuilder;
use super::layout::align_up;
use super::records::{BatchHeader, BATCH_HEADER};
use super::superblock::{CutOff, CutReason, State, Superblock, CUT_OFFS_MAX, DATA_START};
use crate::disk::{Buffer, Space};
use crate::error::Refusal;
use crate::id::SpoolId;
use crate::limits::{BATCHES_IN_FLIGHT, BLOCK};

/// Milliseconds without a write after which an empty batch records how far was acknowledged.
pub const IDLE_MS: u64 = 500;
/// Buffers a writer works with: those under way, the one being filled, one for superblock and footer.
pub const BUFFERS: u16 = BATCHES_IN_FLIGHT as u16 + 2;

struct Active {
    spare: Spare,
    /// Where the next batch goes.
    pos: u64,
    /// Everything below is acknowledged.
    acked: u64,
    /// End of the last acknowledged batch with records.
    acked_data: u64,
    /// The highest `durable` that a durable batch header carries.
    recorded: u64,
    footer: FooterBuilder,
    full: bool,
}

struct Batch<T> {
    seq: u64,
    number: u32,
    end: u64,
    durable: u64,
    ops_left: usize,
    submitted: bool,
    slips: Vec<Slip<T>>,
    data: bool,
}

/// A spare whose superblock is being written: one copy, then the other, so that the loss of one can't make the
/// segment look like what it was before.
#[derive(Clone, Copy)]
struct Opening {
    spare: Spare,
    generation: u64,
    under_way: bool,
}

#[derive(Clone, Copy)]
enum OpKind {
    Batch(u64),
    Superblock,
    Seal,
}

/// See the module. `T` is the ticket a caller is answered by.
pub struct Writer<T> {
    config: WriterConfig,
    free: Vec<Buffer>,
    spares: VecDeque<Spare>,
    cut_offs: Vec<CutOff>,
    active: Option<Active>,
    opening: Option<Opening>,
    sealing: Option<Sealing>,
    open: Option<OpenBatch<T>>,
    long: Option<LongBatch<T>>,
    batches: VecDeque<Batch<T>>,
    held: Vec<(T, SpoolId, Refusal)>,
    ops: HashMap<u64, OpKind>,
    batch_ops: usize,
    next_op: u64,
    next_batch: u64,
    max_id: u64,
    last_submit: u64,
    closing: bool,
    events: VecDeque<Event<T>>,
    counts: WriterCounts,
}

impl<T> Writer<T> {
    /// A writer without a segment. `cut_offs` are those recovery found; `buffers` are [`BUFFERS`] in number.
    #[must_use]
    pub fn new(config: WriterConfig, buffers: Vec<Buffer>, cut_offs: Vec<CutOff>) -> Self {
        Self {
            config,
            free: buffers,
            spares: VecDeque::new(),
            cut_offs,
            active: None,
            opening: None,
            sealing: None,
            open: None,
            long: None,
            batches: VecDeque::new(),
            held: Vec::new(),
            ops: HashMap::new(),
            batch_ops: 0,
            next_op: 0,
            next_batch: 0,
            max_id: 0,
            last_submit: 0,
            closing: false,
            events: VecDeque::new(),
            counts: WriterCounts::default(),
        }
    }

    /// Gives it a segment file for later.
    pub fn add_spare(&mut self, spare: Spare) {
        self.spares.push_back(spare);
    }

    /// True when it can't go on without a spare: answer with [`Writer::add_spare`] or [`Writer::deny`].
    #[must_use]
    pub fn wants_spare(&self) -> bool {
        self.wants_segment() && self.spares.is_empty() && !self.is_stuck()
    }

    /// True when more segments ended than a superblock has room to tell of: answer with [`Writer::deny`]. It ends when
    /// some of them are recycled ([`Writer::forget_cut_off`]).
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.wants_segment() && self.cut_offs.len() > CUT_OFFS_MAX
    }

    fn wants_segment(&self) -> bool {
        self.active.is_none() && self.opening.is_none() && (!self.closing || !self.held.is_empty())
    }

    /// No segment can be written now: refusals that waited for a superblock are released at once.
    pub fn deny(&mut self) {
        self.release_held();
    }

    /// True while messages can be pushed.
    #[must_use]
    pub fn has_segment(&self) -> bool {
        self.active.is_some() && !self.closing
    }

    /// Its free buffers: before the first write all of them, in the order of their index.
    #[must_use]
    pub fn buffers(&self) -> &[Buffer] {
        &self.free
    }

    /// True while another batch could be submitted.
    #[must_use]
    pub fn can_submit(&self) -> bool {
        self.batch_ops < BATCHES_IN_FLIGHT
    }

    /// A recycled segment needs no cut-off any more.
    pub fn forget_cut_off(&mut self, number: u32) {
        self.cut_offs.retain(|cut| cut.number != number);
    }

    /// The cut-offs the next superblock will carry.
    #[must_use]
    pub fn cut_offs(&self) -> &[CutOff] {
        &self.cut_offs
    }

    /// Counts since start.
    #[must_use]
    pub fn counts(&self) -> WriterCounts {
        self.counts
    }

    /// Takes a message into the batch that is being filled, or gives it back when that has to wait: carry out
    /// [`Writer::next_op`] and completions first.
    #[allow(clippy::result_large_err)] // what has to wait goes back to its owner whole
    pub fn push(&mut self, item: Prepared<T>) -> Result<(), Prepared<T>> {
        let Some(active) = self.active.as_mut().filter(|active| !active.full) else { return Err(item) };
        if self.closing || self.long.is_some() || self.open.as_ref().is_some_and(|open| open.closed) {
            return Err(item);
        }
        let len = item.record_len();
        let used = self.open.as_ref().map_or(BATCH_HEADER, |open| open.len);
        let end = align_up(active.pos + (used + len) as u64, BLOCK as u64);
        // Room for the footer with this message, and for one empty batch.
        let tail = active.footer.room_with(&item.commit.labels) + BLOCK as u64;
        if end + tail > self.config.segment_bytes {
            active.full = true;
            return Err(item);
        }
        if self.open.is_none() {
            let Some(buffer) = self.free.pop() else { return Err(item) };
            self.open = Some(OpenBatch::new(buffer, active.pos));
        }
        let Some(open) = self.open.as_mut() else { return Err(item) };
        let too_long = !open.has_room(len);
        if too_long && !open.slips.is_empty() {
            open.closed = true;
            return Err(item);
        }
        let offset = active.pos + used as u64;
        let (id, version) = (item.commit.id.0, item.commit.version);
        self.max_id = self.max_id.max(id);
        active.footer.add(id, offset, len as u64, version, &item.commit.labels);
        if too_long {
            let seq = self.next_batch;
            self.long = Some(LongBatch::new(item, active.spare.epoch, seq, active.pos));
            self.free.extend(self.open.take().map(|open| open.buffer));
        } else {
            open.add(item, active.spare.epoch);
        }
        Ok(())
    }

    /// Takes no more messages; what was pushed is written, then the segment is sealed.
    pub fn close(&mut self) {
        self.closing = true;
        if let Some(active) = &mut self.active {
            active.full = true;
        }
    }

    /// True after [`Writer::close`].
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// After [`Writer::close`]: nothing is left to do.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closing
            && self.ops.is_empty()
            && self.active.is_none()
            && self.opening.is_none()
            && self.sealing.is_none()
            && self.held.is_empty()
    }

    /// When [`Writer::next_op`] should be asked again though nothing happened, in milliseconds of its clock.
    #[must_use]
    pub fn wake_at(&self) -> Option<u64> {
        let active = self.active.as_ref()?;
        (!active.full && active.acked_data > active.recorded && self.batches.is_empty())
            .then_some(self.last_submit + IDLE_MS)
    }

    /// The next write, if any may go now. `now` is any steady clock in milliseconds.
    pub fn next_op(&mut self, now: u64) -> Option<WriteOp> {
        self.end_full_segment();
        self.superblock_op().or_else(|| self.seal_op()).or_else(|| self.batch_op(now))
    }

    /// The next thing to tell.
    pub fn next_event(&mut self) -> Option<Event<T>> {
        self.events.pop_front()
    }

    /// Reports the end of a write. Short writes count as failed.
    pub fn complete(&mut self, id: u64, result: Result<(), String>, buffer: Buffer) {
        self.free.push(buffer);
        let Some(kind) = self.ops.remove(&id) else { return };
        if result.is_err() {
            self.counts.failures += 1;
        }
        match kind {
            OpKind::Batch(seq) => {
                self.batch_ops -= 1;
                self.batch_done(seq, result);
            }
            OpKind::Superblock => self.superblock_done(result),
            OpKind::Seal => self.seal_done(result),
        }
    }

    fn op(&mut self, kind: OpKind, slot: u32, offset: u64, len: usize, buffer: Buffer) -> WriteOp {
        let id = self.next_op;
        self.next_op += 1;
        self.ops.insert(id, kind);
        self.counts.bytes += len as u64;
        let sync = self.config.protections.sync_writes;
        self.counts.flushes += u64::from(sync);
        WriteOp { id, slot, offset, len, sync, buffer }
    }

    fn superblock_op(&mut self) -> Option<WriteOp> {
        if self.free.is_empty() {
            return None;
        }
        if self.wants_segment() && !self.is_stuck() && !self.spares.is_empty() {
            let spare = self.spares.pop_front()?;
            self.opening = Some(Opening { spare, generation: spare.generation + 1, under_way: false });
        }
        let opening = self.opening.as_mut().filter(|opening| !opening.under_way)?;
        opening.under_way = true;
        let Opening { spare, generation, .. } = *opening;
        let mut buffer = self.free.pop()?;
        let block = Superblock {
            identity: self.config.identity,
            generation,
            epoch: spare.epoch,
            number: spare.number,
            state: State::InUse,
            heat: self.config.heat,
            created: spare.created,
            id_floor: spare.id_floor.max(self.max_id + 1),
            segment_bytes: self.config.segment_bytes,
            cut_offs: self.cut_offs.clone(),
        };
        buffer.bytes_mut()[..BLOCK].copy_from_slice(&block.encode());
        Some(self.op(OpKind::Superblock, spare.slot, block.place(), BLOCK, buffer))
    }

    fn superblock_done(&mut self, result: Result<(), String>) {
        let Some(opening) = self.opening.as_mut() else {
            return;
        };
        let Opening { spare, generation, .. } = *opening;
        if result.is_err() {
            self.opening = None;
            self.events.push_back(Event::Spoiled { slot: spare.slot });
            return;
        }
        if generation == spare.generation + 1 {
            *opening = Opening { spare, generation: generation + 1, under_way: false };
            return;
        }
        self.opening = None;
        // The cut-off is durable: only now may the refusals be heard and messages come in.
        self.release_held();
        self.active = Some(Active {
            spare,
            pos: DATA_START,
            acked: DATA_START,
            acked_data: DATA_START,
            recorded: DATA_START,
            footer: FooterBuilder::default(),
            full: self.closing,
        });
        self.events.push_back(Event::Opened { spare, generation });
    }

    fn release_held(&mut self) {
        let held = self.held.drain(..);
        self.events.extend(held.map(|(ticket, id, refusal)| Event::Refused { ticket, id, refusal }));
    }

    fn batch_op(&mut self, now: u64) -> Option<WriteOp> {
        if self.batch_ops >= BATCHES_IN_FLIGHT {
            return None;
        }
        let op = if self.long.is_some() {
            self.long_op()
        } else if self.open.as_ref().is_some_and(|open| !open.slips.is_empty()) {
            self.open_op()
        } else if self.wake_at().is_some_and(|at| now >= at) {
            self.empty_op()
        } else {
            None
        };
        if op.is_some() {
            self.batch_ops += 1;
            self.last_submit = now;
        }
        op
    }

    fn header(active: &Active, len: usize, records: usize, max_id: u64) -> BatchHeader {
        BatchHeader {
            epoch: active.spare.epoch,
            offset: active.pos,
            durable: active.acked,
            len: len as u32,
            records: records as u32,
            max_id,
            number: active.spare.number,
        }
    }

    /// Notes a batch that starts at the segment's position and moves the position behind it.
    fn note_batch(&mut self, header: &BatchHeader, slips: Vec<Slip<T>>) -> Option<u64> {
        let active = self.active.as_mut()?;
        let seq = self.next_batch;
        self.next_batch += 1;
        active.pos += header.padded();
        let data = header.records > 0;
        self.counts.batches += u64::from(data);
        self.counts.empty_batches += u64::from(!data);
        self.counts.unwritten += u64::from(active.spare.space == Space::Allocated);
        self.batches.push_back(Batch {
            seq,
            number: header.number,
            end: active.pos,
            durable: header.durable,
            ops_left: 0,
            submitted: false,
            slips,
            data,
        });
        Some(seq)
    }

    /// Ties one more write to the newest batch; `last` when it is its last.
    fn note_op(&mut self, last: bool) {
        if let Some(batch) = self.batches.back_mut() {
            batch.ops_left += 1;
            batch.submitted = last;
        }
        if last && !self.config.protections.ack_after_batch {
            self.ack_early();
        }
    }

    fn open_op(&mut self) -> Option<WriteOp> {
        let mut open = self.open.take()?;
        let active = self.active.as_ref()?;
        let (slot, offset) = (active.spare.slot, active.pos);
        let header = Self::header(active, open.len, open.slips.len(), open.max_id);
        let len = open.finish(&header);
        let seq = self.note_batch(&header, std::mem::take(&mut open.slips))?;
        let op = self.op(OpKind::Batch(seq), slot, offset, len, open.buffer);
        self.note_op(true);
        Some(op)
    }

    fn empty_op(&mut self) -> Option<WriteOp> {
        let active = self.active.as_mut()?;
        let (slot, offset) = (active.spare.slot, active.pos);
        if offset + BLOCK as u64 + active.footer.room() > self.config.segment_bytes {
            // The footer says the same, and more.
            active.full = true;
            return None;
        }
        let header = Self::header(&*active, BATCH_HEADER, 0, self.max_id);
        let mut buffer = self.free.pop()?;
        buffer.bytes_mut()[..BLOCK].fill(0);
        buffer.bytes_mut()[..BATCH_HEADER].copy_from_slice(&header.encode());
        let seq = self.note_batch(&header, Vec::new())?;
        let op = self.op(OpKind::Batch(seq), slot, offset, BLOCK, buffer);
        self.note_op(true);
        Some(op)
    }

    fn long_op(&mut self) -> Option<WriteOp> {
        let mut buffer = self.free.pop()?;
        let slot = self.active.as_ref()?.spare.slot;
        let mut long = self.long.take()?;
        if long.written == 0 {
            let header = Self::header(self.active.as_ref()?, long.len(), 1, long.id().0);
            long.set_header(&header);
            self.note_batch(&header, Vec::new())?;
        }
        let offset = long.offset + long.written as u64;
        let len = long.next_piece(buffer.bytes_mut());
        let op = self.op(OpKind::Batch(long.batch), slot, offset, len, buffer);
        let last = long.written == long.padded();
        if last {
            let slip = long.into_slip();
            if let Some(batch) = self.batches.back_mut() {
                batch.slips.push(slip);
            }
        } else {
            self.long = Some(long);
        }
        self.note_op(last);
        Some(op)
    }

    fn batch_done(&mut self, seq: u64, result: Result<(), String>) {
        // A batch that is not there any more was refused with its segment.
        let Some(batch) = self.batches.iter_mut().find(|batch| batch.seq == seq) else { return };
        match result {
            Ok(()) => {
                batch.ops_left -= 1;
                self.acknowledge();
            }
            Err(why) => {
                let number = batch.number;
                self.end_failed_segment(number, &why);
            }
        }
    }

    /// Acknowledges every batch that is durable and has only durable batches before it.
    fn acknowledge(&mut self) {
        let done = |batch: &Batch<T>| batch.submitted && batch.ops_left == 0;
        loop {
            let next = if self.config.protections.prefix_order {
                self.batches.front().is_some_and(done).then_some(0)
            } else {
                self.batches.iter().position(done)
            };
            let Some(batch) = next.and_then(|index| self.batches.remove(index)) else { return };
            if let Some(active) = self.active.as_mut().filter(|active| active.spare.number == batch.number) {
                active.acked = active.acked.max(batch.end);
                active.recorded = active.recorded.max(batch.durable);
                if batch.data {
                    active.acked_data = active.acked_data.max(batch.end);
                }
            }
            self.tell_acked(batch.number, batch.slips);
        }
    }

    fn tell_acked(&mut self, number: u32, slips: Vec<Slip<T>>) {
        self.events.extend(slips.into_iter().map(|slip| Event::Acked {
            at: RecordRef::at(number, slip.offset),
            ticket: slip.ticket,
            id: slip.id,
            len: slip.len,
        }));
    }

    /// What a missing `ack_after_batch` would do: acknowledge on submission.
    fn ack_early(&mut self) {
        if let Some(batch) = self.batches.back_mut() {
            let (number, slips) = (batch.number, std::mem::take(&mut batch.slips));
            self.tell_acked(number, slips);
        }
    }

    fn end_failed_segment(&mut self, number: u32, why: &str) {
        let Some(active) = self.active.take_if(|active| active.spare.number == number) else {
            self.batches.retain(|batch| batch.number != number);
            return;
        };
        let refusal = Refusal::WriteFailed(why.to_owned());
        let mut slips: Vec<Slip<T>> = self.batches.drain(..).flat_map(|batch| batch.slips).collect();
        slips.extend(self.long.take().map(LongBatch::into_slip));
        if let Some(open) = self.open.take() {
            slips.extend(open.slips);
            self.free.push(open.buffer);
        }
        self.held.extend(slips.into_iter().map(|slip| (slip.ticket, slip.id, refusal.clone())));
        self.end_with(CutOff {
            number,
            epoch: active.spare.epoch,
            offset: active.acked,
            reason: CutReason::WriteFailed,
        });
    }

    fn end_with(&mut self, cut: CutOff) {
        self.cut_offs.push(cut);
        self.events.push_back(Event::Ended(cut));
    }
}
