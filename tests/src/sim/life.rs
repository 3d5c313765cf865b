//! One life of the process: the real spool, ack log, ledger rounds and shard cores, put together as the control thread
//! does it, without a thread.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mta::message::key::Keyring;
use mta::shard::core::Core;
use mta::shard::effect::ReportJob;
use mta::shard::held_back::HeldBack;
use mta::shard::jobs::RenderContext;
use mta::shard::ledger::{Note, NoteQueue, Rounds};
use mta::shard::placement::Placement;
use queue::ack::{AckEntry, AckKind, AckLog, AckOptions, AckPort, Replay, Rings};
use queue::scheduled::ClockGuard;
use queue::spool::writer::WriteOp;
use queue::spool::{compact, Port, Recovery, Settings, SteadyClock, Stepped};
use queue::{Envelope, SpoolId, UnixMillis};
use rand::Rng;

use super::peer::Connection;
use super::storage::{AckFolder, EventFile};
use super::world::World;

/// Who waits for a commit.
pub enum Waiting {
    /// A client.
    Client(usize, SpoolId, Arc<Envelope>, queue::Body),
    /// A report of ours.
    Report(usize, Box<ReportJob>, SpoolId, Arc<Envelope>, queue::Body),
}

/// The ledger's logs.
pub type SimRounds = Rounds<AckFolder, EventFile>;

/// Everything that dies with the process.
pub struct Life {
    /// The spool.
    pub stepped: Stepped,
    /// Its ends, by shard.
    pub ports: Vec<Port>,
    /// Ends of the ack log.
    pub acks: Vec<AckPort>,
    /// The cores.
    pub cores: Vec<Core>,
    /// What waits for the ack log.
    pub held_back: Vec<HeldBack>,
    /// Notes that found no room.
    pub notes: Vec<VecDeque<Note>>,
    /// To the ledger.
    pub queues: Vec<NoteQueue>,
    /// The ledger; the hook of compaction shares it.
    pub rounds: Arc<Mutex<SimRounds>>,
    /// Notes the shards were told of.
    pub told: Vec<u64>,
    /// What render jobs do.
    pub render: RenderContext,
    /// Judges the clock.
    pub guards: Vec<ClockGuard>,
    /// The ledger can't write.
    pub stopped: bool,
    /// No new work.
    pub draining: bool,
    /// Milliseconds of the world at which it began.
    pub began: u64,
    /// Milliseconds since then, for the spool.
    pub steady: Arc<AtomicU64>,
    /// The wall clock, for the hook of compaction.
    pub wall: Arc<AtomicU64>,
    /// Commits without an answer.
    pub waiting: HashMap<u64, Waiting>,
    /// Next token.
    pub token: u64,
    /// Writes under way.
    pub writes: BTreeMap<u64, WriteOp>,
    /// Connections.
    pub connections: BTreeMap<u64, Connection>,
    /// Next connection.
    pub next_connection: u64,
    /// Not yet told.
    pub recovery: Option<(Recovery, Replay)>,
    /// Where each verdict stands: port and sequence.
    pub verdicts: HashMap<(SpoolId, u16), (usize, u64)>,
    /// Last arrival of a letter, by sender and receiver: letters do not overtake.
    pub arrivals: BTreeMap<(usize, usize), u64>,
    /// Rounds of the ledger without anything to do.
    pub idle_rounds: u32,
    /// A round is foreseen.
    pub round_foreseen: bool,
    /// Looks of the writer without anything to do.
    pub idle_feeds: u32,
    /// When the round under way began.
    pub round_began: u64,
    /// The next tick of each shard.
    pub ticks: Vec<u64>,
    /// Last time the ack log was looked at for compaction.
    pub compacted_at: u64,
    /// Compactions of the ack log.
    pub ack_compactions: u64,
}

/// Segments are as small as they may be, so that they are recycled within a run.
pub const SEGMENT: u64 = Settings::SEGMENT_FLOOR;

impl Life {
    /// Opens everything in the order the control thread does.
    pub fn begin(world: &mut World) -> Result<Self, String> {
        let plan = &world.plan;
        let protections = plan.protections;
        let shards = plan.shards;
        let steady = Arc::new(AtomicU64::new(0));
        let wall = Arc::new(AtomicU64::new(world.clock.wall(world.now).0));
        let settings = Settings {
            segment_bytes: SEGMENT,
            spares: 2,
            reserve_bytes: SEGMENT,
            reserve_percent: 0,
            compact: compact::Policy { min_age_ms: 20_000, ..compact::Policy::default() },
            protections: protections.spool,
            ..Settings::new("simulated".into(), world.random.random())
        };
        let now = UnixMillis(wall.load(Ordering::Relaxed));
        let told = SteadyClock::Told(Arc::clone(&steady));
        let disk = Arc::new(world.storage.clone());
        let (stepped, recovery) = Stepped::open(disk, settings, now, told).map_err(|error| error.to_string())?;
        let spool = Arc::clone(stepped.spool());
        let options = AckOptions {
            file_bytes: 64 * 1024,
            ring_entries: 4096,
            compact_min: 96 * 1024,
            protections: protections.ack,
        };
        let rings = Rings::Memory(world.storage.state().rings.clone());
        let folder = AckFolder(world.storage.clone());
        let (mut log, replay) = AckLog::open(folder, rings, spool.identity(), recovery.is_new(), options)
            .map_err(|error| error.to_string())?;
        if replay.needs_settling() {
            log.settle(spool.next_id()).map_err(|error| error.to_string())?;
        }
        let acks = (0..shards)
            .map(|shard| log.port(shard as u16))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?;
        let queues: Vec<NoteQueue> = (0..shards).map(|_| NoteQueue::new(4096)).collect();
        let events = EventFile::new(world.storage.clone());
        let rounds = Arc::new(Mutex::new(Rounds::new(log, events, queues.clone(), "simulated")));
        set_hook(&spool, &rounds, &wall);
        let placement = Arc::new(Placement::new(shards));
        let times = world.times();
        let mut cores = Vec::new();
        for shard in 0..shards {
            let seed = world.random.random();
            let core = Core::new(shard as u16, Arc::clone(&world.policy), Arc::clone(&placement), times, seed);
            let mut core = core.with_protections(protections.core);
            core.owner().0.leases().set_mutants(protections.lease);
            cores.push(core);
        }
        Ok(Self {
            ports: (0..shards).map(|_| spool.port(Arc::new(|| {}))).collect(),
            acks,
            cores,
            held_back: (0..shards).map(|_| HeldBack::default()).collect(),
            notes: (0..shards).map(|_| VecDeque::new()).collect(),
            queues,
            rounds,
            told: vec![0; shards],
            render: RenderContext::new(spool, Keyring::new(Vec::new()), "mta.sender.test".to_owned()),
            guards: vec![ClockGuard::default(); shards],
            stopped: false,
            draining: false,
            began: world.now,
            steady,
            wall,
            waiting: HashMap::new(),
            token: 0,
            writes: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            recovery: Some((recovery, replay)),
            verdicts: HashMap::new(),
            arrivals: BTreeMap::new(),
            idle_rounds: 0,
            round_foreseen: true,
            idle_feeds: 0,
            round_began: world.now,
            ticks: vec![0; shards],
            compacted_at: world.now,
            ack_compactions: 0,
            stepped,
        })
    }

    /// The ledger, for a step.
    pub fn rounds(&self) -> MutexGuard<'_, SimRounds> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is under way in it.
    pub fn is_idle(&self) -> bool {
        self.connections.values().all(|c| c.item.is_none()) && self.waiting.is_empty() && self.recovery.is_none()
    }
}

/// Compaction tells its moves to the ack log, and waits until they are durable there.
fn set_hook(spool: &queue::spool::Spool, rounds: &Arc<Mutex<SimRounds>>, wall: &Arc<AtomicU64>) {
    let (rounds, wall) = (Arc::downgrade(rounds), Arc::clone(wall));
    spool.on_moved(Arc::new(move |moves| {
        let Some(rounds) = rounds.upgrade() else { return Err(std::io::ErrorKind::NotConnected.into()) };
        let mut rounds = rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let now = UnixMillis(wall.load(Ordering::Relaxed));
        for (id, _, _) in moves {
            rounds.log.append(AckEntry {
                id: *id,
                rcpt: AckEntry::MESSAGE,
                kind: AckKind::Moved,
                attempt: 0,
                unknowns: 0,
                code: 0,
                time: now.secs(),
                due: queue::UnixSecs(0),
            });
        }
        rounds.log.sync(now).map(|_| ()).map_err(std::io::Error::other)
    }));
}
