//! The ledger: one thread that every 100 ms makes durable what the shards noted. In this order: take the notes, sync the
//! ack log (which holds every verdict older than its note), sync the event log, tell the shards. So "done" is never
//! written before the verdict and the events it stands for are durable, and a power cut costs at most the last rounds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use queue::ack::{AckLog, DirStore};
use queue::SpoolId;

use super::mail::ShardMail;
use crate::net::Sender;
use crate::record::EventLog;

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

struct Rounds {
    log: AckLog<DirStore>,
    events: EventLog,
    shards: Vec<(NoteQueue, Sender<ShardMail>)>,
    taken: Vec<u64>,
    told: Vec<u64>,
    may_hold: Box<dyn Fn(SpoolId) -> bool + Send>,
    state: Arc<LedgerState>,
    compacted: Instant,
    nodeid: String,
}

impl Ledger {
    /// Queues for this many shards.
    #[must_use]
    pub fn queues(shards: usize) -> Vec<NoteQueue> {
        (0..shards).map(|_| NoteQueue(Arc::new(ArrayQueue::new(NOTES_MAX)))).collect()
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
        let mut rounds = Rounds {
            log,
            events,
            shards,
            taken: vec![0; count],
            told: vec![0; count],
            may_hold,
            state: Arc::clone(&state),
            compacted: Instant::now(),
            nodeid: nodeid.to_owned(),
        };
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || rounds.run())?;
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

impl Rounds {
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
        for (shard, (notes, _)) in self.shards.iter().enumerate() {
            // Bounded, so that one busy shard does not keep the round from ending.
            for _ in 0..NOTES_MAX {
                // While the event log can't be written, notes wait in the shards' queues: none is lost.
                if self.events.pending() > PENDING_MAX {
                    break;
                }
                let Some(note) = notes.0.pop() else { break };
                self.taken[shard] += 1;
                if let Some(fact) = note {
                    if self.events.append(&fact.event(&self.nodeid)).is_err() {
                        tracing::error!("an event was lost: the event log's buffer is full");
                    }
                }
            }
        }
        let synced = self.log.sync(super::driver::wall()).map_err(|e| e.to_string()).and_then(|_| {
            self.events.sync().map_err(|e| format!("the event log can't be written ({e}); look after its disk"))
        });
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
            if let Err(error) = self.log.compact_if_needed(&*self.may_hold) {
                tracing::warn!(%error, "the ack log could not be compacted; it grows until it can");
            }
        }
        self.state.rounds.fetch_add(1, Ordering::Relaxed);
    }

    fn tell(&mut self) {
        for (shard, (_, mailbox)) in self.shards.iter().enumerate() {
            let taken = self.taken[shard];
            // A full mailbox hears the next round: the number only grows.
            if taken > self.told[shard] && mailbox.send(ShardMail::Synced(taken)).is_ok() {
                self.told[shard] = taken;
            }
        }
    }
}
