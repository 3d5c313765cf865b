//! The spool without its threads. A simulator moves it by hand: it asks for writes and reports their ends in any order
//! it likes, and says when maintenance looks around. What is decided is decided by the same code as in the threads.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::cold::Cold;
use super::drive::Feeder;
use super::maintain;
use super::writer::WriteOp;
use super::{Recovery, Settings, Spool, SteadyClock};
use crate::disk::{Buffer, Disk};
use crate::error::OpenError;
use crate::time::UnixMillis;

/// See the module.
pub struct Stepped {
    spool: Arc<Spool>,
    feeder: Feeder,
    cold: Cold,
}

impl Stepped {
    pub(super) fn new(spool: Arc<Spool>, feeder: Feeder, cold: Cold) -> Self {
        Self { spool, feeder, cold }
    }

    /// Opens a spool on any disk. `steady` is its clock from now on.
    pub fn open(
        disk: Arc<dyn Disk>,
        settings: Settings,
        now: UnixMillis,
        steady: SteadyClock,
    ) -> Result<(Self, Recovery), OpenError> {
        Spool::open_stepped(disk, settings, now, steady)
    }

    /// The spool: submit, load, retire.
    #[must_use]
    pub fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    /// The next write the writer wants to have carried out, after it took in what waits.
    pub fn next_op(&mut self) -> Option<WriteOp> {
        self.feeder.feed();
        self.feeder.writer.next_op(self.feeder.shared.steady_ms())
    }

    /// The end of a write.
    pub fn complete(&mut self, id: u64, result: Result<(), String>, buffer: Buffer) {
        self.feeder.writer.complete(id, result, buffer);
    }

    /// Passes on what the writer has to tell: answers wait at the ports then.
    pub fn tell(&mut self) {
        self.feeder.tell();
    }

    /// Milliseconds until the writer may have something to do by itself.
    #[must_use]
    pub fn idle_ms(&self) -> u64 {
        self.feeder.idle_ms()
    }

    /// One round of the maintenance thread; its writes are carried out at once.
    pub fn maintain(&mut self) {
        let shared = Arc::clone(&self.feeder.shared);
        maintain::round(&shared, &mut self.cold);
    }

    /// No commit is taken any more; what was submitted is written and the segment sealed, by further
    /// [`Stepped::next_op`].
    pub fn close(&mut self) {
        self.feeder.shared.closing.store(true, Ordering::Release);
    }

    /// True when everything is written and sealed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.feeder.is_done()
    }

    /// Seals the cold segment, the last step of the maintenance thread.
    pub fn close_cold(&mut self) {
        let shared = Arc::clone(&self.feeder.shared);
        self.cold.close(&shared);
    }
}
