//! The ledger: one thread that every 100 ms makes durable what the shards noted. In this order: take the notes, sync the
//! ack log (which holds every verdict older than its note), sync the event log, tell the shards. So "done" is never
//! written before the verdict and the events it stands for are durable, and a power cut costs at most the last rounds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use queue::ack::{AckLog, DirStore, LogStore};
use queue::{SpoolId, UnixMillis};

use super::mail::ShardMail;
use crate::net::Sender;
use crate::record::log::LogFull;
use crate::record::{Event, EventLog};

use super::events::Fact;

/// Between two rounds; with the disk's own latency it keeps the promise of 250 ms.
const ROUND: Duration = Duration::from_millis(100);
/// Notes a shard may have waiting. At the bound it stops handing out work.
pub const NOTES_MAX: usize = 65_536;
/// Bytes of events that may wait to be written; far less than the event log's own buffer.
const PENDING_MAX: usize = 8 * 1024 * 1024;
/// Ack log compaction is considered this often.
const COMPACT_EVERY: Duration = Duration::from_secs(10);

/// A note: a fact to be logged, or nothing but a place in the order.
pub type Note = Option<Box<Fact>>;

/// One shard's end.
#[derive(Clone)]
pub struct NoteQueue(Arc<ArrayQueue<Note>>);

impl NoteQueue {
    /// Room for this many notes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Arc::new(ArrayQueue::new(most)))
    }

    /// Adds a note; gives it back at the bound.
    pub fn push(&self, note: Note) -> Result<(), Note> {
        self.0.push(note)
    }
}

/// What the rest of the process may know of the ledger.
#[derive(Default)]
pub struct LedgerState {
    /// The ack log or the event log can't be written: no delivery, no acceptance.
    pub stopped: AtomicBool,
    /// Rounds done.
    pub rounds: AtomicU64,
    stop: AtomicBool,
}

/// The running thread.
pub struct Ledger {
    /// Shared state.
    pub state: Arc<LedgerState>,
    thread: Option<JoinHandle<()>>,
}

/// Where events are made durable.
pub trait EventSink {
    /// Adds an event; durable after the next sync.
    ///
    /// # Errors
    /// No room; nothing is added.
    fn append(&mut self, event: &Event) -> Result<(), LogFull>;
    /// Bytes waiting for a sync.
    fn pending(&self) -> usize;
    /// Makes everything added durable.
    ///
    /// # Errors
    /// What the disk said; the next call tries again.
    fn sync(&mut self) -> std::io::Result<()>;
}

impl EventSink for EventLog {
    fn append(&mut self, event: &Event) -> Result<(), LogFull> {
        EventLog::append(self, event)
    }

    fn pending(&self) -> usize {
        EventLog::pending(self)
    }

    fn sync(&mut self) -> std::io::Result<()> {
        EventLog::sync(self)
    }
}

/// The steps of a round, to be taken in their order. The thread takes them, and so does the simulator.
pub struct Rounds<S: LogStore, E> {
    /// The ack log.
    pub log: AckLog<S>,
    /// The event log.
    pub events: E,
    queues: Vec<NoteQueue>,
    taken: Vec<u64>,
    nodeid: String,
}

impl<S: LogStore, E: EventSink> Rounds<S, E> {
    /// Over these logs, for the shards behind these queues.
    pub fn new(log: AckLog<S>, events: E, queues: Vec<NoteQueue>, nodeid: &str) -> Self {
        let taken = vec![0; queues.len()];
        Self { log, events, queues, taken, nodeid: nodeid.to_owned() }
    }

    /// First: whatever was noted until now. Every verdict these notes stand on is in the ack log already.
    pub fn take_notes(&mut self) {
        for (notes, taken) in self.queues.iter().zip(&mut self.taken) {
            // Bounded, so that one busy shard does not keep the round from ending.
            for _ in 0..NOTES_MAX {
                // While the event log can't be written, notes wait in the shards' queues: none is lost.
                if self.events.pending() > PENDING_MAX {
                    break;
                }
                let Some(note) = notes.0.pop() else { break };
                *taken += 1;
                if let Some(fact) = note {
                    if self.events.append(&fact.event(&self.nodeid)).is_err() {
                        tracing::error!("an event was lost: the event log's buffer is full");
                    }
                }
            }
        }
    }

    /// Second: the verdicts.
    ///
    /// # Errors
    /// The disk, in words.
    pub fn sync_log(&mut self, now: UnixMillis) -> Result<(), String> {
        self.log.sync(now).map(|_| ()).map_err(|e| e.to_string())
    }

    /// Third: the events.
    ///
    /// # Errors
    /// The disk, in words.
    pub fn sync_events(&mut self) -> Result<(), String> {
        self.events.sync().map_err(|e| format!("the event log can't be written ({e}); look after its disk"))
    }

    /// Fourth, when both were synced: so many notes of each shard are durable.
    #[must_use]
    pub fn taken(&self) -> &[u64] {
        &self.taken
    }
}

struct Work {
    rounds: Rounds<DirStore, EventLog>,
    mailboxes: Vec<Sender<ShardMail>>,
    told: Vec<u64>,
    may_hold: Box<dyn Fn(SpoolId) -> bool + Send>,
    state: Arc<LedgerState>,
    compacted: Instant,
}

impl Ledger {
    /// Queues for this many shards.
    #[must_use]
    pub fn queues(shards: usize) -> Vec<NoteQueue> {
        (0..shards).map(|_| NoteQueue::new(NOTES_MAX)).collect()
    }

    /// Starts the thread. `may_hold` says whether the spool could still hold a message.
    pub fn start(
        log: AckLog<DirStore>,
        events: EventLog,
        shards: Vec<(NoteQueue, Sender<ShardMail>)>,
        may_hold: Box<dyn Fn(SpoolId) -> bool + Send>,
        nodeid: &str,
    ) -> std::io::Result<Self> {
        let state = Arc::new(LedgerState::default());
        let count = shards.len();
        let (queues, mailboxes) = shards.into_iter().unzip();
        let mut work = Work {
            rounds: Rounds::new(log, events, queues, nodeid),
            mailboxes,
            told: vec![0; count],
            may_hold,
            state: Arc::clone(&state),
            compacted: Instant::now(),
        };
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || work.run())?;
        Ok(Self { state, thread: Some(thread) })
    }

    /// Does a last round and ends the thread.
    pub fn stop(mut self) {
        self.state.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            if thread.join().is_err() {
                tracing::error!("the ledger thread ended in a panic");
            }
        }
    }
}

impl Work {
    fn run(&mut self) {
        loop {
            let last = self.state.stop.load(Ordering::Acquire);
            let begin = Instant::now();
            self.round();
            if last {
                return;
            }
            std::thread::sleep(ROUND.saturating_sub(begin.elapsed()));
        }
    }

    fn round(&mut self) {
        self.rounds.take_notes();
        let synced = self.rounds.sync_log(super::driver::wall()).and_then(|()| self.rounds.sync_events());
        match synced {
            Ok(()) => {
                if self.state.stopped.swap(false, Ordering::AcqRel) {
                    tracing::info!("the ledger can be written again; delivery goes on");
                }
                self.tell();
            }
            Err(why) => {
                if !self.state.stopped.swap(true, Ordering::AcqRel) {
                    tracing::error!(why, "delivery and acceptance stop until this is mended");
                }
            }
        }
        if self.compacted.elapsed() > COMPACT_EVERY {
            self.compacted = Instant::now();
            if let Err(error) = self.rounds.log.compact_if_needed(&*self.may_hold) {
                tracing::warn!(%error, "the ack log could not be compacted; it grows until it can");
            }
        }
        self.state.rounds.fetch_add(1, Ordering::Relaxed);
    }

    fn tell(&mut self) {
        for ((mailbox, taken), told) in self.mailboxes.iter().zip(self.rounds.taken()).zip(&mut self.told) {
            // A full mailbox hears the next round: the number only grows.
            if taken > told && mailbox.send(ShardMail::Synced(*taken)).is_ok() {
                *told = *taken;
            }
        }
    }
}
