//! Carrying out what the writer decides: the half both drivers share, and the choice between them.

pub(super) mod pwrite;
pub(super) mod ring;

use std::sync::atomic::Ordering;
use std::sync::{mpsc, Arc, PoisonError};
use std::thread::JoinHandle;

use super::commit::Prepared;
use super::port::{Answers, Ticket};
use super::segment::Segment;
use super::settings::{WriterChoice, WriterKind};
use super::shared::Shared;
use super::superblock::Heat;
use super::writer::{Event, Writer};
use crate::error::{OpenError, Refusal};
use crate::limits::RECORD_ALIGN;

/// Milliseconds before a writer that was denied a segment asks again.
const ASK_AGAIN_MS: u64 = 250;
/// A driver looks around at least this often.
pub(super) const LOOK_MS: u64 = 500;

/// Moves commits into the writer, and what the writer tells to those who wait.
pub(super) struct Feeder {
    pub shared: Arc<Shared>,
    pub writer: Writer<Ticket>,
    waiting: Option<Prepared<Ticket>>,
    denied: Option<(Refusal, u64)>,
    answers: Answers,
    segment: Option<Arc<Segment>>,
}

impl Feeder {
    pub(super) fn new(shared: Arc<Shared>, writer: Writer<Ticket>) -> Self {
        Self { shared, writer, waiting: None, denied: None, answers: Answers::default(), segment: None }
    }

    /// Gives the writer what waits for it. Called before each round of writes.
    pub(super) fn feed(&mut self) {
        self.supply();
        loop {
            let next = self.waiting.take().or_else(|| self.shared.queue.pop());
            let Some(item) = next else { break };
            let bytes = item.commit.body.len();
            match self.writer.push(item) {
                Ok(()) => {
                    self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                }
                Err(item) => {
                    self.waiting = Some(item);
                    break;
                }
            }
        }
        if let Some((refusal, _)) = &self.denied {
            let refusal = refusal.clone();
            self.refuse_waiting(&refusal);
        }
        if self.shared.closing.load(Ordering::SeqCst) && !self.has_waiting() {
            self.writer.close();
        }
        if self.writer.is_closing() {
            self.refuse_waiting(&Refusal::Closing);
        }
    }

    fn supply(&mut self) {
        let now = self.shared.steady_ms();
        for number in self.shared.take_recycled() {
            self.writer.forget_cut_off(number);
        }
        if self.writer.is_stuck() {
            let why = "too many segments ended by errors are still in use".to_owned();
            self.writer.deny();
            self.denied = Some((Refusal::WriteFailed(why), now + ASK_AGAIN_MS));
            return;
        }
        while self.writer.wants_spare() {
            if self.denied.as_ref().is_some_and(|(_, until)| now < *until && self.shared.spares() == 0) {
                return;
            }
            match self.shared.take_spare(Heat::Hot) {
                Ok(spare) => {
                    self.denied = None;
                    self.writer.add_spare(spare);
                }
                Err(refusal) => {
                    self.writer.deny();
                    self.denied = Some((refusal, now + ASK_AGAIN_MS));
                    return;
                }
            }
        }
    }

    fn refuse_waiting(&mut self, refusal: &Refusal) {
        while let Some(item) = self.waiting.take().or_else(|| self.shared.queue.pop()) {
            self.shared.waiting_bytes.fetch_sub(item.commit.body.len(), Ordering::Relaxed);
            self.answers.add(item.ticket, Err(refusal.clone()));
        }
    }

    /// True when a commit came in that could be taken right away.
    pub(super) fn could_take(&self) -> bool {
        self.waiting.is_none() && !self.shared.queue.is_empty()
    }

    /// True when commits wait that the writer could not take yet.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.is_some() || !self.shared.queue.is_empty()
    }

    /// Passes on what the writer tells.
    pub(super) fn tell(&mut self) {
        while let Some(event) = self.writer.next_event() {
            match event {
                Event::Acked { ticket, id, at, len } => {
                    if let Some(segment) = self.segment_of(at.segment) {
                        segment.live().add(id.0, at.offset16, len / RECORD_ALIGN as u32);
                    }
                    self.answers.add(ticket, Ok(at));
                }
                Event::Refused { ticket, refusal, .. } => self.answers.add(ticket, Err(refusal)),
                Event::Opened { spare, generation } => {
                    self.segment = Some(self.shared.note_opened(spare, generation, Heat::Hot));
                }
                Event::Sealed { number } => self.shared.note_ended(number, None),
                Event::Ended(cut) => {
                    self.shared.report(&format!("segment {} ended at {}: {:?}", cut.number, cut.offset, cut.reason));
                    self.shared.note_ended(cut.number, Some(cut));
                }
                Event::Spoiled { slot } => self.shared.note_spoiled(slot),
            }
        }
        self.shared.set_counts(self.writer.counts());
        self.answers.deliver();
    }

    fn segment_of(&mut self, number: u32) -> Option<Arc<Segment>> {
        if self.segment.as_ref().is_none_or(|segment| segment.number != number) {
            self.segment = self.shared.table.get(number);
        }
        self.segment.clone()
    }

    /// All is written and answered: the driver may end.
    pub(super) fn is_done(&self) -> bool {
        self.writer.is_closed() && !self.has_waiting()
    }

    /// Milliseconds until the writer has something to do by itself.
    pub(super) fn idle_ms(&self) -> u64 {
        let now = self.shared.steady_ms();
        let wake = self.writer.wake_at().map_or(LOOK_MS, |at| at.saturating_sub(now).clamp(1, LOOK_MS));
        if self.denied.is_some() {
            wake.min(ASK_AGAIN_MS)
        } else {
            wake
        }
    }
}

/// Refuses mail from the moment the writer's thread is gone, whatever took it.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        if !self.0.closing.swap(true, Ordering::SeqCst) {
            self.0.report("the spool writer ended by itself: no mail is accepted until a restart");
        }
        while self.0.queue.pop().is_some() {}
    }
}

/// Starts the writer's thread with the driver that fits, and notes which one that is and why.
pub(super) fn start(feeder: Feeder) -> Result<JoinHandle<()>, OpenError> {
    let (tell, told) = mpsc::channel();
    let choice = feeder.shared.settings.writer;
    let shared = Arc::clone(&feeder.shared);
    // The ring belongs to the thread that makes it, so the thread itself finds out what works.
    let thread = super::spawn("spool writer", move || {
        let _ended = Ended(Arc::clone(&feeder.shared));
        let made = match choice {
            WriterChoice::Pwrite => Err("pwrite was chosen in the configuration".to_owned()),
            WriterChoice::Auto | WriterChoice::Ring => ring::make(&feeder),
        };
        match made {
            Ok(ring) => {
                let heard = tell.send((WriterKind::Ring, None));
                ring::run(feeder, ring, heard.is_ok());
            }
            Err(why) => {
                let fits = choice != WriterChoice::Ring;
                let heard = tell.send((WriterKind::Pwrite, Some(why)));
                if fits && heard.is_ok() {
                    pwrite::run(feeder);
                }
            }
        }
    })?;
    let gone = || OpenError::Setting("the spool writer ended while starting".into());
    let (kind, reason) = told.recv().map_err(|_| gone())?;
    if let (WriterKind::Pwrite, WriterChoice::Ring, Some(why)) = (kind, choice, &reason) {
        return Err(OpenError::Setting(format!("spool.writer = \"ring\" can't be had: {why}")));
    }
    if let Some(why) = reason.as_ref().filter(|_| choice == WriterChoice::Auto) {
        tracing::warn!("the spool writes by pwrite and fdatasync, which costs several times the CPU: {why}");
    }
    *shared.writer.lock().unwrap_or_else(PoisonError::into_inner) = (Some(kind), reason.into_iter().collect());
    Ok(thread)
}
