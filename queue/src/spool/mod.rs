//! The spool: where the bytes are, and when they are durable.
//!
//! [`Spool::open`] reads what is there and is ready to accept; [`Recovery::run`] then tells every message found,
//! meanwhile mail comes in. A message is handed in by [`Spool::submit`], answered through the shard's [`Port`] once it
//! is durable, read back by [`Spool::load`], and given up by [`Spool::retire`]. What the bytes look like stands in
//! `FORMAT.md`, what a stop at any point leads to in `STATES.md`.
//!
//! | module | what it decides or does |
//! | --- | --- |
//! | [`writer`] | which bytes go where, and when a message counts as durable (pure) |
//! | [`recover`] | what is on the disk after any stop, and what it means |
//! | [`inspect`] | what a spool holds, without opening it |
//! | [`compact`] | which segments are copied together (pure) |
//! | `drive` | carries out the writer's writes: io_uring, or pwrite |
//! | `maintain` | spare segments, recycling, compaction |
//! | `survey`, `scan` | the two halves of recovery: files, then batches |
//! | `cold` | carries compaction out |
//! | [`stepped`] | the same without threads, moved by a simulator |
//! | `read` | messages read back |
//! | [`superblock`], [`records`], [`labels`], [`footer`] | the bytes |

mod cold;
pub mod commit;
pub mod compact;
mod drive;
pub mod footer;
pub mod inspect;
pub mod labels;
mod layout;
mod maintain;
mod port;
mod read;
pub mod records;
pub mod recover;
mod scan;
mod segment;
mod settings;
mod shared;
pub mod stepped;
pub mod superblock;
mod survey;
pub mod writer;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::fcntl::{Flock, FlockArg};

pub use commit::{Commit, Prepared, RecordRef};
pub use labels::Labels;
pub use port::{Answer, Port};
pub use read::Stored;
pub use recover::{Damage, Recovered, Recovery, RecoveryReport};
pub use segment::Phase;
pub use settings::{Settings, SpoolStatus, WriterChoice, WriterKind};
pub use shared::{MovedHook, SteadyClock};
pub use stepped::Stepped;
pub use superblock::Heat;

use crate::disk::{Buffer, Disk, FileDisk, Space};
use crate::envelope::{Class, Envelope};
use crate::error::{OpenError, ReadError, Refusal};
use crate::id::SpoolId;
use crate::time::UnixMillis;
use cold::Cold;
use drive::Feeder;
use port::Ticket;
use recover::segment_of;
use shared::{Counters, Shared, WAITING_BYTES_MAX};
use survey::{survey, Manner, Survey};
use writer::{Writer, WriterConfig, BUFFERS};

/// Ids begin at the time of the start in milliseconds, shifted by this: 65 thousand ids a millisecond never catch up
/// with the clock, so a later start begins above them, whatever became of the disk.
const ID_TIME_SHIFT: u32 = 16;

/// An open spool. Any thread may use it.
pub struct Spool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Held as long as the spool is open: no second process may write here.
    _lock: Option<Flock<File>>,
}

impl Spool {
    /// Opens the spool in `settings.dir`, making it when missing. On return it accepts mail; the messages it holds are
    /// told by [`Recovery::run`]. `now` is the wall clock.
    pub fn open(settings: Settings, now: UnixMillis) -> Result<(Arc<Self>, Recovery), OpenError> {
        settings.check()?;
        let disk = FileDisk::open(&settings.dir).map_err(|source| OpenError::Io {
            what: format!("opening the spool directory {}", settings.dir.display()),
            source,
            remedy: "create it and give it to the user that runs ringpost",
        })?;
        let lock = lock_dir(&settings.dir)?;
        Self::open_on(Arc::new(disk), settings, now, Some(lock))
    }

    /// Opens the spool on any disk, with the writer that every disk can carry.
    pub fn open_on_disk(
        disk: Arc<dyn Disk>,
        settings: Settings,
        now: UnixMillis,
    ) -> Result<(Arc<Self>, Recovery), OpenError> {
        settings.check()?;
        Self::open_on(disk, settings, now, None)
    }

    /// Without its threads: see [`Stepped::open`].
    fn open_stepped(
        disk: Arc<dyn Disk>,
        settings: Settings,
        now: UnixMillis,
        steady: SteadyClock,
    ) -> Result<(Stepped, Recovery), OpenError> {
        settings.check()?;
        let Parts { shared, feeder, cold, survey } = Parts::open(disk, settings, now, steady)?;
        let spool = Arc::new(Self { shared: Arc::clone(&shared), threads: Mutex::default(), _lock: None });
        Ok((Stepped::new(spool, feeder, cold), Recovery { shared, repair: true, survey }))
    }

    fn open_on(
        disk: Arc<dyn Disk>,
        settings: Settings,
        now: UnixMillis,
        lock: Option<Flock<File>>,
    ) -> Result<(Arc<Self>, Recovery), OpenError> {
        let steady = SteadyClock::Machine(std::time::Instant::now());
        let Parts { shared, feeder, cold, survey } = Parts::open(disk, settings, now, steady)?;
        let threads = vec![
            drive::start(feeder)?,
            spawn("spool maintenance", {
                let shared = Arc::clone(&shared);
                move || maintain::run(&shared, cold)
            })?,
        ];
        let spool = Arc::new(Self { shared: Arc::clone(&shared), threads: Mutex::new(threads), _lock: lock });
        Ok((spool, Recovery { shared, repair: true, survey }))
    }

    /// The key for the next message: above everything ever seen in this spool.
    #[must_use]
    pub fn next_id(&self) -> SpoolId {
        SpoolId(self.shared.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// A shard's end of the spool. `wake` is called from the writer's thread when answers come in while none waited;
    /// it must not block.
    #[must_use]
    pub fn port(&self, wake: Arc<dyn Fn() + Send + Sync>) -> Port {
        Port::new(wake)
    }

    /// Hands a message to the writer. The answer comes through `port` with `token`: where the message is, once it is
    /// durable, or why it was refused. Never blocks; takes the checksums on the caller's thread.
    #[allow(clippy::result_large_err)] // a refused message goes back to its owner whole
    pub fn submit(&self, port: &Port, token: u64, commit: Commit) -> Result<(), (Refusal, Commit)> {
        let shared = &self.shared;
        if shared.closing.load(Ordering::Acquire) {
            return Err((Refusal::Closing, commit));
        }
        let bytes = commit.body.len();
        if shared.waiting_bytes.load(Ordering::Relaxed) + bytes > WAITING_BYTES_MAX {
            return Err((Refusal::Busy, commit));
        }
        let prepared = Prepared::new((), commit, shared.settings.segment_bytes)?;
        let prepared = prepared.with_ticket(Ticket::new(port, token));
        shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Err(back) = shared.queue.push(prepared) {
            shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            back.ticket.disarm();
            return Err((Refusal::Busy, back.commit));
        }
        shared.waker.wake();
        if shared.closing.load(Ordering::SeqCst) {
            // The writer may have looked for the last time already: dropped tickets answer by themselves.
            while shared.queue.pop().is_some() {}
        }
        Ok(())
    }

    /// Whether mail of this class may come in now: asked before a message is received. Costs two atomic loads.
    pub fn admits(&self, class: Class) -> Result<(), Refusal> {
        self.shared.admits(class)
    }

    /// Reads a message back and verifies both checksums. Blocks: not for an IO core.
    pub fn load(&self, id: SpoolId, at: RecordRef) -> Result<Stored, ReadError> {
        self.shared.load(id, at)
    }

    /// Reads only the envelope. Blocks: not for an IO core.
    pub fn load_envelope(&self, id: SpoolId, at: RecordRef) -> Result<Envelope, ReadError> {
        self.shared.load_envelope(id, at)
    }

    /// Where a message is now: compaction may have moved it.
    #[must_use]
    pub fn resolve(&self, id: SpoolId, at: RecordRef) -> RecordRef {
        self.shared.table.resolve(id, at)
    }

    /// No recipient of the message is open and all consequences are durable: its bytes may go. Doing it twice does
    /// nothing.
    pub fn retire(&self, id: SpoolId, at: RecordRef) {
        self.shared.retire(id, at);
    }

    /// Whether a segment that is not durably recycled may still hold this message, retired or not.
    #[must_use]
    pub fn may_hold(&self, id: SpoolId) -> bool {
        self.shared.table.may_hold(id)
    }

    /// Sets what compaction tells its moves to. Without it nothing is compacted. The first call holds.
    pub fn on_moved(&self, hook: MovedHook) {
        // A second hook would be a bug of the caller; the first goes on being told.
        let _ = self.shared.hook.set(hook);
    }

    /// Identity of this spool, for files that belong to it.
    #[must_use]
    pub fn identity(&self) -> u128 {
        self.shared.identity
    }

    /// How the spool is.
    #[must_use]
    pub fn status(&self) -> SpoolStatus {
        let shared = &self.shared;
        let room = shared.room();
        let (writer, reasons) = shared.writer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut status = SpoolStatus {
            writer,
            reasons,
            spares: shared.spares(),
            room,
            reserve: shared.reserve_of(room),
            counts: shared.counts(),
            waiting: shared.queue.len(),
            recycled: shared.recycled.load(Ordering::Relaxed),
            compacted: shared.compacted.load(Ordering::Relaxed),
            trouble: shared.trouble(),
            ..SpoolStatus::default()
        };
        for segment in shared.table.all() {
            let live = segment.live();
            status.segments += 1;
            status.sealed += usize::from(segment.phase() == Phase::Sealed);
            status.cold += usize::from(segment.heat == Heat::Cold);
            status.messages += live.count() as u64;
            status.live_bytes += live.bytes();
            status.used_bytes += segment.bytes;
        }
        status
    }

    /// Writes what was submitted, seals the segment, ends the threads. Later commits are refused. Blocks.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.waker.wake();
        self.shared.nudge();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                self.shared.report("a spool thread panicked");
            }
        }
    }
}

/// An open spool whose threads have not been started.
struct Parts {
    shared: Arc<Shared>,
    feeder: Feeder,
    cold: Cold,
    survey: Survey,
}

impl Parts {
    fn open(disk: Arc<dyn Disk>, settings: Settings, now: UnixMillis, steady: SteadyClock) -> Result<Self, OpenError> {
        let (segment_bytes, protections) = (settings.segment_bytes, settings.protections);
        let survey = survey(&*disk, &Manner { segment_bytes, tidy: true, protections })?;
        // Not only above everything found: what a damaged disk no longer tells of must not be given out again either.
        let next_id = survey.next_id.max(now.0 << ID_TIME_SHIFT);
        let from = Counters { next_id, next_number: survey.next_number, next_slot: survey.next_slot };
        let identity = survey.identity.unwrap_or(settings.identity);
        let config = WriterConfig {
            identity,
            heat: Heat::Hot,
            segment_bytes: settings.segment_bytes,
            protections: settings.protections,
        };
        let cut_offs = survey.cut_offs.clone();
        let shared = Arc::new(Shared::new(settings, disk, identity, from, cut_offs.clone(), now, steady));
        for used in &survey.used {
            shared.table.insert(segment_of(used));
        }
        for (slot, generation) in &survey.spares {
            // A spare that was only allocated is one of few and is written over soon: it counts as written.
            let spare = shared.spare_of(*slot, *generation, Space::Written);
            shared.put_spare(spare);
        }
        let room = shared.look_at_room();
        if survey.spares.is_empty() && room.free >= shared.settings.segment_bytes + shared.reserve_of(room) {
            // A fraction of a second once, rather than a whole first segment of slow writes. Without it the writer
            // falls back to allocated space, or refuses with the reason.
            match shared.create_spare(Space::Written) {
                Ok(spare) => shared.put_spare(spare),
                Err(error) => shared.report(&format!("no spare segment: {error}")),
            }
        }
        let writer = Writer::new(config, Buffer::pool(BUFFERS), cut_offs.clone());
        let feeder = Feeder::new(Arc::clone(&shared), writer);
        Ok(Self { shared, feeder, cold: Cold::new(config, cut_offs), survey })
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.close();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new().name(name.into()).spawn(work).map_err(|source| OpenError::Io {
        what: format!("starting the thread {name}"),
        source,
        remedy: "raise the limit on processes (ulimit -u)",
    })
}

fn lock_dir(dir: &Path) -> Result<Flock<File>, OpenError> {
    let path = dir.join("lock");
    let open = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = open.map_err(|source| OpenError::Io {
        what: format!("opening {}", path.display()),
        source,
        remedy: "give the spool directory to the user that runs ringpost",
    })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => OpenError::Locked(dir.display().to_string()),
        other => OpenError::Io {
            what: format!("locking {}", path.display()),
            source: other.into(),
            remedy: "use a file system that has flock",
        },
    })
}
