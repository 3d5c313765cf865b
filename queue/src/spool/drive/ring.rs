//! The fast driver: O_DIRECT writes with RWF_DSYNC through a ring of its own.
//!
//! On pre-written segments such a write is truly asynchronous: no page cache, no flush operation, no kernel worker.
//! The thread sleeps in the ring; those who submit ring its bell only while it does.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::eventfd::EventFd;

use super::Feeder;
use crate::disk::Buffer;
use crate::spool::writer::WriteOp;
use crate::sys::{RingError, RingStep, WriteRing};

/// Makes the ring, or says in words why not and what to do about it.
pub(in crate::spool) fn make(feeder: &Feeder) -> Result<(WriteRing, Arc<EventFd>), String> {
    feeder.shared.disk.direct()?;
    let bell = EventFd::new().map_err(|error| format!("no eventfd ({error}); raise the limit on open files"))?;
    let bell = Arc::new(bell);
    let ring = WriteRing::new(feeder.writer.buffers(), Arc::clone(&bell)).map_err(|error| remedy(&error))?;
    Ok((ring, bell))
}

fn remedy(error: &RingError) -> String {
    let source = &error.source;
    match (error.step, source.raw_os_error()) {
        (RingStep::Setup, Some(libc::EPERM | libc::EACCES)) => {
            format!(
                "io_uring is forbidden here ({source}); set sysctl kernel.io_uring_disabled=0 or allow it in seccomp"
            )
        }
        (RingStep::Setup, Some(libc::ENOSYS)) => {
            format!("this kernel has no io_uring ({source}); use Linux 6.1 or newer")
        }
        (RingStep::Setup, Some(libc::EINVAL)) => {
            format!("this kernel's io_uring is too old ({source}); use Linux 6.1 or newer")
        }
        (_, Some(libc::ENOMEM)) => {
            format!(
                "too little lockable memory for the buffers ({source}); set LimitMEMLOCK=infinity or ulimit -l 16384"
            )
        }
        (step, _) => format!("io_uring does not work here ({step:?}: {source}); see the kernel log"),
    }
}

/// Writes until the spool closes. `wanted` is false when nobody waits for this driver any more.
pub(in crate::spool) fn run(mut feeder: Feeder, (mut ring, bell): (WriteRing, Arc<EventFd>), wanted: bool) {
    if !wanted {
        return;
    }
    feeder.shared.waker.set_bell(Box::new(move || {
        // A full counter means that the bell rings already.
        let _ = bell.write(1);
    }));
    loop {
        feeder.feed();
        let now = feeder.shared.steady_ms();
        while let Some(op) = feeder.writer.next_op(now) {
            start(&mut ring, op, &mut feeder);
            feeder.feed();
        }
        feeder.tell();
        if ring.under_way() == 0 && feeder.is_done() {
            return;
        }
        // With all batches under way a new commit changes nothing until one of them is done.
        let listen = feeder.writer.can_submit();
        feeder.shared.waker.set_sleeping(listen);
        // Whatever came in before the flag was up would not have rung.
        let at_most = if listen && feeder.could_take() { 0 } else { feeder.idle_ms() };
        let waited = ring.wait(Duration::from_millis(at_most));
        feeder.shared.waker.set_sleeping(false);
        if let Err(error) = waited {
            feeder.shared.report(&format!("the spool's ring failed: {error}"));
            std::thread::sleep(Duration::from_millis(10));
        }
        for (id, result, buffer) in ring.completed() {
            complete(&mut feeder, id, result, buffer);
        }
    }
}

fn complete(feeder: &mut Feeder, id: u64, result: io::Result<()>, buffer: Buffer) {
    feeder.writer.complete(id, result.map_err(|error| error.to_string()), buffer);
}

fn start(ring: &mut WriteRing, op: WriteOp, feeder: &mut Feeder) {
    let file = feeder.shared.disk.file(op.slot).unwrap_or_else(|| Err(io::Error::other("this disk has no files")));
    let file = match file {
        Ok(file) => file,
        Err(error) => return complete(feeder, op.id, Err(error), op.buffer),
    };
    let started = ring.write(op.id, (op.slot, &file), op.offset, op.len, op.sync, op.buffer);
    if let Err((error, buffer)) = started {
        complete(feeder, op.id, Err(error), buffer);
    }
}
