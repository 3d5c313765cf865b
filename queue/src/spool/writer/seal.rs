//! The end of a full segment: footer, then trailer.

use super::super::superblock::{CutOff, CutReason};
use super::{Event, OpKind, Spare, WriteOp, Writer};
use crate::limits::{BATCH_MAX, BLOCK};

/// A segment that is being sealed.
pub(super) struct Sealing {
    spare: Spare,
    data_end: u64,
    footer: Vec<u8>,
    trailer: [u8; BLOCK],
    written: usize,
    under_way: bool,
    trailer_sent: bool,
}

impl<T> Writer<T> {
    /// Turns the full segment over to sealing once nothing of it is under way.
    pub(super) fn end_full_segment(&mut self) {
        let ready = self.active.as_ref().is_some_and(|active| active.full)
            && self.open.as_ref().is_none_or(|open| open.slips.is_empty())
            && self.long.is_none()
            && self.sealing.is_none();
        // The footer speaks for records, so they must be durable first.
        if !ready || (self.config.protections.footer_after_batches && !self.batches.is_empty()) {
            return;
        }
        let Some(active) = self.active.take() else { return };
        self.free.extend(self.open.take().map(|open| open.buffer));
        let (footer, trailer) =
            active.footer.finish(active.spare.epoch, active.spare.number, active.pos, self.config.segment_bytes);
        self.sealing = Some(Sealing {
            spare: active.spare,
            data_end: active.pos,
            footer,
            trailer,
            written: 0,
            under_way: false,
            trailer_sent: false,
        });
    }

    pub(super) fn seal_op(&mut self) -> Option<WriteOp> {
        let sealing = self.sealing.as_mut().filter(|sealing| !sealing.under_way)?;
        let mut buffer = self.free.pop()?;
        let left = sealing.footer.get(sealing.written..).unwrap_or_default();
        let (offset, piece) = if left.is_empty() {
            sealing.trailer_sent = true;
            (self.config.segment_bytes - BLOCK as u64, &sealing.trailer[..])
        } else {
            (sealing.data_end + sealing.written as u64, &left[..left.len().min(BATCH_MAX)])
        };
        let len = piece.len();
        buffer.bytes_mut()[..len].copy_from_slice(piece);
        sealing.under_way = true;
        sealing.written = sealing.footer.len().min(sealing.written + len);
        let slot = sealing.spare.slot;
        Some(self.op(OpKind::Seal, slot, offset, len, buffer))
    }

    pub(super) fn seal_done(&mut self, result: Result<(), String>) {
        let Some(sealing) = self.sealing.as_mut() else { return };
        sealing.under_way = false;
        let number = sealing.spare.number;
        if result.is_err() {
            // Every record of it is acknowledged; recovery reads the records instead of the footer.
            let cut =
                CutOff { number, epoch: sealing.spare.epoch, offset: sealing.data_end, reason: CutReason::NoFooter };
            self.sealing = None;
            self.end_with(cut);
        } else if sealing.trailer_sent {
            self.sealing = None;
            self.events.push_back(Event::Sealed { number });
        }
    }
}
