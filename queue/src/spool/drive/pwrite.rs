//! The driver for everywhere: pwrite, then one fdatasync for all that was written in the round.

use std::sync::Arc;
use std::time::Duration;

use super::Feeder;
use crate::disk::Disk;
use crate::spool::writer::WriteOp;

/// Writes until the spool closes.
pub(in crate::spool) fn run(mut feeder: Feeder) {
    let disk = Arc::clone(&feeder.shared.disk);
    let own = std::thread::current();
    feeder.shared.waker.set_bell(Box::new(move || own.unpark()));
    loop {
        feeder.feed();
        let mut ops = Vec::new();
        let now = feeder.shared.steady_ms();
        while let Some(op) = feeder.writer.next_op(now) {
            ops.push(op);
            feeder.feed();
        }
        if !ops.is_empty() {
            for (op, result) in carry_out(&*disk, ops) {
                feeder.writer.complete(op.id, result, op.buffer);
            }
            feeder.tell();
            continue;
        }
        feeder.tell();
        if feeder.is_done() {
            return;
        }
        feeder.shared.waker.set_sleeping(true);
        // Whatever came in before the flag was up would not have rung.
        if !feeder.could_take() {
            std::thread::park_timeout(Duration::from_millis(feeder.idle_ms()));
        }
        feeder.shared.waker.set_sleeping(false);
    }
}

/// Writes all, then makes each file durable once.
pub(in crate::spool) fn carry_out(disk: &dyn Disk, ops: Vec<WriteOp>) -> Vec<(WriteOp, Result<(), String>)> {
    let mut written: Vec<(WriteOp, Result<(), String>)> = Vec::with_capacity(ops.len());
    for op in ops {
        let bytes = op.buffer.bytes().get(..op.len).unwrap_or_default();
        let result = disk.write_at(op.slot, op.offset, bytes, false).map_err(|error| error.to_string());
        written.push((op, result));
    }
    let mut slots: Vec<u32> = written.iter().filter(|(op, _)| op.sync).map(|(op, _)| op.slot).collect();
    slots.sort_unstable();
    slots.dedup();
    for slot in slots {
        let Err(error) = disk.sync(slot) else { continue };
        // The kernel reports a failed flush once: all that it covered counts as lost.
        for (_, result) in written.iter_mut().filter(|(op, _)| op.slot == slot) {
            *result = Err(error.to_string());
        }
    }
    written
}
