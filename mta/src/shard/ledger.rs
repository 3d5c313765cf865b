//! The ledger: one thread that every 50 ms makes durable what the shards noted. In this order: take the notes, sync
//! the ack log (which holds every verdict older than its note), sync the event log, tell the shards. So "done" is never
//! written before the verdict and the events it stands for are durable, and a power cut costs at most the last rounds.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use queue::ack::{AckEntry, AckKind, AckLog, Compacted, DirStore, LogStore};
use queue::{SpoolId, UnixMillis, UnixSecs};

use super::mail::ShardMail;
use crate::net::Sender;
use crate::record::log::LogFull;
use crate::record::{Event, EventLog};

use super::events::Fact;

/// Between two rounds; with the disk's own latency it keeps the promise of 250 ms.
const ROUND: Duration = Duration::from_millis(50);
/// Notes a shard may have waiting. At the bound it stops handing out work.
pub const NOTES_MAX: usize = 65_536;
/// Bytes of events that may wait to be written; far less than the event log's own buffer.
const PENDING_MAX: usize = 8 * 1024 * 1024;

/// Whether the spool could still hold a message.
pub type MayHold = Arc<dyn Fn(SpoolId) -> bool + Send + Sync>;

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
    /// Rounds that made everything before them durable.
    pub rounds: AtomicU64,
    /// Entries of other threads (moves of compaction), for the next round.
    entries: Mutex<Vec<AckEntry>>,
    /// After a damaged log: the highest id found on disk, to be settled once everything is scheduled. 0: nothing to do.
    settle: AtomicU64,
    stop: AtomicBool,
}

impl LedgerState {
    /// Records that messages were moved by compaction, and waits until that is durable.
    ///
    /// Errors: the ledger can't be written (disk), or is stopping.
    pub fn record_moves(&self, ids: impl Iterator<Item = SpoolId>, now: UnixSecs) -> std::io::Result<()> {
        let moved = |id| AckEntry {
            id,
            rcpt: AckEntry::MESSAGE,
            kind: AckKind::Moved,
            attempt: 0,
            unknowns: 0,
            code: 0,
            time: now,
            due: UnixSecs(0),
        };
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).extend(ids.map(moved));
        // The round under way may have taken its entries before these: the second from now has them for sure.
        let until = self.rounds.load(Ordering::Acquire) + 2;
        while self.rounds.load(Ordering::Acquire) < until {
            if self.stop.load(Ordering::Acquire) {
                return Err(std::io::Error::other("the ledger is stopping"));
            }
            std::thread::sleep(ROUND / 4);
        }
        Ok(())
    }

    /// Everything on disk up to this id is scheduled: what a damaged log left open is settled.
    pub fn settle(&self, highest: SpoolId) {
        self.settle.store(highest.0.max(1), Ordering::Release);
    }
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
    may_hold: MayHold,
    state: Arc<LedgerState>,
    /// Folder of the ack log, for the compaction's own look at it.
    folder: PathBuf,
    compaction: Option<JoinHandle<std::io::Result<Compacted>>>,
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
        may_hold: MayHold,
        folder: &Path,
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
            folder: folder.to_owned(),
            compaction: None,
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
        for entry in std::mem::take(&mut *self.state.entries.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.rounds.log.append(entry);
        }
        let synced = self.rounds.sync_log(super::driver::wall()).and_then(|()| self.rounds.sync_events());
        match synced {
            Ok(()) => {
                if self.state.stopped.swap(false, Ordering::AcqRel) {
                    tracing::info!("the ledger can be written again; delivery goes on");
                }
                self.state.rounds.fetch_add(1, Ordering::AcqRel);
                self.tell();
            }
            Err(why) => {
                if !self.state.stopped.swap(true, Ordering::AcqRel) {
                    tracing::error!(why, "delivery and acceptance stop until this is mended");
                }
            }
        }
        self.settle();
        self.compact();
    }

    fn settle(&mut self) {
        let highest = self.state.settle.swap(0, Ordering::AcqRel);
        if highest == 0 {
            return;
        }
        if let Err(error) = self.rounds.log.settle(SpoolId(highest)) {
            tracing::warn!(%error, "the ack log's damage could not be settled; the next start holds the same again");
        }
    }

    /// Compaction reads and writes much: on a thread of its own, while rounds go on.
    fn compact(&mut self) {
        if let Some(done) = self.compaction.take_if(|job| job.is_finished()) {
            let result = done.join().unwrap_or_else(|_| Err(std::io::Error::other("it ended in a panic")));
            if let Err(error) = result.and_then(|compacted| self.rounds.log.finish_compaction(compacted)) {
                tracing::warn!(%error, "the ack log could not be compacted; it grows until it can");
            }
        }
        if self.compaction.is_some() || !self.rounds.log.wants_compaction() {
            return;
        }
        let job = match self.rounds.log.begin_compaction() {
            Ok(job) => job,
            Err(error) => return tracing::warn!(%error, "the ack log could not be compacted; it grows until it can"),
        };
        let (folder, may_hold) = (self.folder.clone(), Arc::clone(&self.may_hold));
        let work = move || job.run(&mut DirStore::open(&folder)?, &*may_hold);
        self.compaction = std::thread::Builder::new().name("ack compaction".into()).spawn(work).ok();
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
