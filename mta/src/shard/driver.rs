//! The driver of a shard: carries out what the core decides. Everything with a socket, a file or a clock is here or
//! below; nothing is decided here.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use queue::ack::{AckPort, AckStop};
use queue::scheduled::{ClockGuard, ClockState};
use queue::spool::{Answer, Commit, Port, RecordRef, Spool};
use queue::{MoveReason, SpoolId, UnixMillis};
use tokio::sync::{oneshot, Notify};

use super::core::{Core, Fresh, Now};
use super::effect::{Effect, Returned};
use super::events;
use super::held_back::HeldBack;
use super::item::{PathKey, Settlement, ShardId};
use super::jobs;
use super::ledger::{LedgerState, Note, NoteQueue};
use super::mail::{Composition, LoadedEnvelope, ShardMail};
use crate::dns::Resolver;
use crate::message::render::Pool;
use crate::net::{self, Sender};

/// How often the core looks at the clock when nothing else wakes it.
const TICK: Duration = Duration::from_millis(200);
/// Verdicts older than this and not yet on disk hold new work back.
const LAG_MAX_MS: u64 = 250;
/// Letters to other shards and jobs for the pool that found no room; beyond this the shard takes no new work.
const OUTBOX_MAX: usize = 50_000;

/// After the spool disk failed.
const DISK_WAIT: Duration = Duration::from_secs(5);

/// Everything a shard shares with the rest of the process.
pub struct Links {
    /// Number of this shard.
    pub id: ShardId,
    /// The spool.
    pub spool: Arc<Spool>,
    /// Mailboxes of all shards, this one included.
    pub mailboxes: Vec<Sender<ShardMail>>,
    /// To the ledger.
    pub notes: NoteQueue,
    /// What the ledger is worth.
    pub ledger: Arc<LedgerState>,
    /// Render pool.
    pub pool: Arc<Pool>,
    /// DNS.
    pub resolver: Resolver,
    /// What render jobs need.
    pub render: Arc<jobs::RenderContext>,
    /// What connections need.
    pub outbound: super::outbound::Outbound,
}

/// One shard at work. Shared by its tasks, on one thread.
pub struct Shard {
    /// The rest of the process.
    pub links: Links,
    core: RefCell<Core>,
    acks: RefCell<AckPort>,
    port: Port,
    clock: RefCell<ClockGuard>,
    started: Instant,
    pump: Notify,
    commits: RefCell<HashMap<u64, oneshot::Sender<Answer>>>,
    next_token: Cell<u64>,
    /// Letters, jobs and notes that found no room, in order.
    outbox: RefCell<VecDeque<Effect>>,
    notes: RefCell<VecDeque<Note>>,
    held_back: RefCell<HeldBack>,
    work: RefCell<HashMap<PathKey, Rc<Notify>>>,
    effects: RefCell<Vec<Effect>>,
    /// Delivery connections that exist.
    connections: Cell<usize>,
    draining: Cell<bool>,
}

/// The wall clock, as milliseconds.
#[must_use]
pub fn wall() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Shard {
    /// A shard around its core.
    #[must_use]
    pub fn new(links: Links, core: Core, acks: AckPort, port: Port) -> Rc<Self> {
        Rc::new(Self {
            links,
            core: RefCell::new(core),
            acks: RefCell::new(acks),
            port,
            clock: RefCell::new(ClockGuard::default()),
            started: Instant::now(),
            pump: Notify::new(),
            commits: RefCell::new(HashMap::new()),
            next_token: Cell::new(0),
            outbox: RefCell::new(VecDeque::new()),
            notes: RefCell::new(VecDeque::new()),
            held_back: RefCell::new(HeldBack::default()),
            work: RefCell::new(HashMap::new()),
            effects: RefCell::new(Vec::new()),
            connections: Cell::new(0),
            draining: Cell::new(false),
        })
    }

    /// Both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        let millis = wall();
        Now { wall: millis.secs(), millis, steady: Instant::now() }
    }

    fn clock_state(&self, now: Now) -> ClockState {
        // The kernel says whether something keeps its clock right; where nothing does, a lab's clock is taken as it is.
        let synced = self.links.outbound.clock_synced();
        self.clock.borrow_mut().observe(now.wall, self.started.elapsed().as_secs(), synced)
    }

    /// The task that moves the core: when something happened, and a few times a second.
    pub async fn run_pump(self: Rc<Self>) {
        loop {
            // Not a timer per event: the sleep is the long stop, the notification the rule.
            let _ = tokio::time::timeout(TICK, self.pump.notified()).await;
            loop {
                let now = self.now();
                let clock = self.clock_state(now);
                self.retry_outbox();
                let more = {
                    let mut core = self.core.borrow_mut();
                    core.set_sources(&self.links.outbound.egress.table());
                    core.set_stopped(self.links.ledger.stopped.load(Ordering::Acquire) || self.congested());
                    core.step(now, clock)
                };
                self.carry_out();
                if !more {
                    break;
                }
                // A task that stays runnable would keep the ring from submitting: really sleep.
                net::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Nothing new is handed out: too much waits for other threads, or verdicts wait too long for the disk (the promise
    /// is that a power cut costs at most the last 250 ms).
    fn congested(&self) -> bool {
        let waiting = self.outbox.borrow().len() + self.held_back.borrow().len();
        self.acks.borrow().lag(wall()) > LAG_MAX_MS
            || waiting > OUTBOX_MAX
            || self.notes.borrow().len() > OUTBOX_MAX
            || self.draining.get()
    }

    /// Asks the pump to look.
    pub fn wake_pump(&self) {
        self.pump.notify_one();
    }

    /// The core, for a look or an input; what follows is carried out at once.
    pub fn with_core<T>(self: &Rc<Self>, input: impl FnOnce(&mut Core, Now) -> T) -> T {
        let now = self.now();
        let result = input(&mut self.core.borrow_mut(), now);
        self.carry_out();
        result
    }

    /// Carries out everything the core has decided.
    fn carry_out(self: &Rc<Self>) {
        loop {
            let mut effects = self.effects.take();
            self.core.borrow_mut().take_effects(&mut effects);
            if effects.is_empty() {
                self.effects.replace(effects);
                return;
            }
            for effect in effects.drain(..) {
                self.carry_out_one(effect);
            }
            self.effects.replace(effects);
        }
    }

    fn carry_out_one(self: &Rc<Self>, effect: Effect) {
        let passed = self.held_back.borrow_mut().pass(effect);
        let Some(effect) = passed else { return };
        match effect {
            Effect::Ack(entry) => {
                if let Err(stop) = self.acks.borrow_mut().append(&entry) {
                    self.links.ledger.stopped.store(true, Ordering::Release);
                    tracing::error!(%stop, "the ack log takes no more entries; delivery stops");
                    self.held_back.borrow_mut().refused(entry);
                }
            }
            Effect::Note(note) => self.note(note),
            Effect::Retire(id, place) => self.links.spool.retire(id, record_ref(place)),
            Effect::Wake(path) => self.work_of(&path).notify_one(),
            Effect::Connect(path) => self.connect(path),
            Effect::Ask(question) => self.ask(question),
            other => self.post(other),
        }
    }

    /// Notes keep their order: what found no room goes before what comes later.
    fn note(&self, note: Note) {
        self.notes.borrow_mut().push_back(note);
        self.flush_notes();
    }

    fn retry_outbox(self: &Rc<Self>) {
        let held_back = self.held_back.borrow_mut().take();
        let waiting = std::mem::take(&mut *self.outbox.borrow_mut());
        for effect in held_back.into_iter().chain(waiting) {
            self.carry_out_one(effect);
        }
        self.flush_notes();
    }

    fn flush_notes(&self) {
        let mut waiting = self.notes.borrow_mut();
        while let Some(note) = waiting.pop_front() {
            if let Err(note) = self.links.notes.push(note) {
                waiting.push_front(note);
                return;
            }
        }
    }

    /// Effects that are letters to a shard or jobs for the pool.
    fn post(self: &Rc<Self>, effect: Effect) {
        let refused = match effect {
            Effect::Hand(shard, item) if shard == self.links.id => return self.core.borrow_mut().arrived(item),
            Effect::Settle(shard, settlement) if shard == self.links.id => {
                return self.settled(*settlement);
            }
            Effect::Return(shard, item, how) if shard == self.links.id => {
                let now = self.now();
                return self.core.borrow_mut().returned(*item, &how, now);
            }
            // A lease is asked for again when a letter is lost; it never needs to wait in the outbox.
            Effect::LeaseAsk(shard, ask) => {
                self.send(shard, ShardMail::LeaseAsk(self.links.id, ask));
                None
            }
            Effect::LeaseGrant(shard, key, grant) => {
                self.send(shard, ShardMail::LeaseGrant(key, grant));
                None
            }
            Effect::Hand(shard, item) => self.send(shard, ShardMail::Item(item)),
            Effect::Settle(shard, settlement) => self.send(shard, ShardMail::Settled(settlement)),
            Effect::Return(shard, item, how) => self.send(shard, ShardMail::Returned(item, how)),
            Effect::Render(path, item, form) => jobs::render(&self.links, path, item, form),
            Effect::Load(settlement) => jobs::load(&self.links, settlement),
            Effect::Report(job) => jobs::compose(&self.links, job),
            _ => None,
        };
        if let Some(effect) = refused {
            self.outbox.borrow_mut().push_back(effect);
        }
    }

    fn settled(self: &Rc<Self>, settlement: Settlement) {
        let now = self.now();
        self.core.borrow_mut().settled(settlement, now);
        self.wake_pump();
    }

    fn send(&self, shard: ShardId, letter: ShardMail) -> Option<Effect> {
        let mailbox = self.links.mailboxes.get(usize::from(shard))?;
        match mailbox.send(letter) {
            Ok(()) => None,
            Err(ShardMail::Item(item)) => Some(Effect::Hand(shard, item)),
            Err(ShardMail::Settled(settlement)) => Some(Effect::Settle(shard, settlement)),
            Err(ShardMail::Returned(item, how)) => Some(Effect::Return(shard, item, how)),
            Err(_) => None,
        }
    }

    fn ask(self: &Rc<Self>, question: super::router::Question) {
        let shard = Rc::clone(self);
        net::spawn_local(async move {
            let answer = shard.links.outbound.route(&shard.links.resolver, &question).await;
            shard.with_core(|core, now| core.routed(question, answer, now));
            shard.wake_pump();
        });
    }

    /// What idle connections of a path wait on.
    pub fn work_of(&self, path: &PathKey) -> Rc<Notify> {
        if let Some(work) = self.work.borrow().get(path) {
            return Rc::clone(work);
        }
        let work = Rc::new(Notify::new());
        self.work.borrow_mut().insert(path.clone(), Rc::clone(&work));
        work
    }

    fn connect(self: &Rc<Self>, path: PathKey) {
        self.connections.set(self.connections.get() + 1);
        let shard = Rc::clone(self);
        net::spawn_local(async move {
            super::feed::run_connection(&shard, path).await;
            shard.connections.set(shard.connections.get() - 1);
            shard.wake_pump();
        });
    }

    /// Appends the intents for some recipients of an item; the last byte may leave only after this said Ok.
    pub fn record_intents(&self, item: &super::item::Item, positions: &[usize], now: Now) -> Result<(), AckStop> {
        if self.links.ledger.stopped.load(Ordering::Acquire) {
            return Err(AckStop::Disk);
        }
        let mut acks = self.acks.borrow_mut();
        for recipient in positions.iter().filter_map(|at| item.recipients.get(*at)) {
            acks.append(&events::intent(item.id, recipient, now.wall))?;
        }
        Ok(())
    }

    /// A number that is given once.
    pub fn next_number(&self) -> u64 {
        let number = self.next_token.get();
        self.next_token.set(number + 1);
        (u64::from(self.links.id) << 48) | number
    }

    /// Makes a message durable; waits for the disk. The answer is the place, or why not.
    pub async fn commit(&self, commit: Commit) -> Answer {
        let token = self.next_number();
        let (done, wait) = oneshot::channel();
        self.commits.borrow_mut().insert(token, done);
        if let Err((refusal, _)) = self.links.spool.submit(&self.port, token, commit) {
            self.commits.borrow_mut().remove(&token);
            return Err(refusal);
        }
        wait.await.unwrap_or(Err(queue::error::Refusal::Closing))
    }

    /// The task that gives commits their answers.
    pub async fn run_commits(self: Rc<Self>, mut ready: net::Waiter) {
        let mut answers = Vec::new();
        loop {
            ready.wait().await;
            self.port.drain(&mut answers);
            let mut waiting = self.commits.borrow_mut();
            for (token, answer) in answers.drain(..) {
                if let Some(done) = waiting.remove(&token) {
                    // A session that is gone has no use for its answer; the message stays accepted.
                    let _ = done.send(answer);
                }
            }
        }
    }

    /// A message of ours is durable: it enters the queue.
    pub fn enqueue(self: &Rc<Self>, id: SpoolId, at: RecordRef, fresh: Fresh, reason: MoveReason) {
        let now = self.now();
        self.core.borrow_mut().accepted(id, (at.segment, at.offset16), fresh, now, reason);
        self.wake_pump();
    }

    /// The task that reads the mailbox.
    pub async fn run_mailbox(self: Rc<Self>, mut mailbox: net::Receiver<ShardMail>) {
        let mut letters = Vec::new();
        loop {
            mailbox.recv_many(&mut letters).await;
            for letter in letters.drain(..) {
                self.read(letter);
            }
            self.carry_out();
            self.wake_pump();
        }
    }

    fn read(self: &Rc<Self>, letter: ShardMail) {
        let now = self.now();
        let mut core = self.core.borrow_mut();
        match letter {
            ShardMail::Item(item) => core.arrived(item),
            ShardMail::Settled(settlement) => core.settled(*settlement, now),
            ShardMail::Returned(item, how) => core.returned(*item, &how, now),
            ShardMail::Synced(notes) => core.synced(notes),
            ShardMail::Rendered(path, id, form, result) => core.rendered(&path, id, form, *result, now),
            ShardMail::Loaded(mut settlement, envelope) => match envelope {
                LoadedEnvelope::Here(envelope) => {
                    settlement.envelope = Some(envelope);
                    core.loaded(*settlement, now);
                }
                LoadedEnvelope::Damaged => core.loaded(*settlement, now),
                LoadedEnvelope::Later => {
                    drop(core);
                    self.post_later(Effect::Load(settlement));
                }
            },
            ShardMail::Composed(job, composed) => {
                drop(core);
                self.report(job, composed);
            }
            ShardMail::Recovered(message) => core.recovered(*message, now),
            ShardMail::RecoveryDone => core.recovery_done(),
            ShardMail::LeaseAsk(shard, ask) => core.lease_asked(shard, &ask, now),
            ShardMail::LeaseGrant(key, grant) => core.owner().0.leases().granted(&key, grant, now.steady),
            ShardMail::Inspect(look) => look(&mut core),
            ShardMail::Policy(policy) => core.set_policy(policy),
            ShardMail::Drain => {
                self.draining.set(true);
                core.drain();
                // Idle connections end now rather than after their idle time.
                for work in self.work.borrow().values() {
                    work.notify_waiters();
                }
            }
        }
    }

    /// Commits a report; what it is about is done once it is durable.
    fn report(self: &Rc<Self>, job: Box<super::effect::ReportJob>, composed: Composition) {
        let composed = match composed {
            Composition::Made(composed) => composed,
            Composition::Later => return self.post_later(Effect::Report(job)),
            Composition::Impossible => return self.core.borrow_mut().reported(&job),
        };
        let shard = Rc::clone(self);
        net::spawn_local(async move {
            let super::mail::Composed { commit, envelope } = *composed;
            let (id, body) = (commit.id, commit.body.clone());
            match shard.commit(commit).await {
                Ok(at) => {
                    shard.enqueue(id, at, Fresh { envelope, body }, MoveReason::Dsn);
                    shard.with_core(|core, _| core.reported(&job));
                }
                Err(refusal) => {
                    tracing::warn!(%refusal, about = %job.id, "a report could not be stored; tried again");
                    net::sleep(DISK_WAIT).await;
                    shard.post(Effect::Report(job));
                }
            }
        });
    }

    /// What the disk did not let happen now is tried again.
    fn post_later(self: &Rc<Self>, effect: Effect) {
        let shard = Rc::clone(self);
        net::spawn_local(async move {
            net::sleep(DISK_WAIT).await;
            shard.post(effect);
        });
    }

    /// Connections to sites that exist.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.get()
    }

    /// True while the ledger can't be written: nothing is accepted and nothing leaves.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.links.ledger.stopped.load(Ordering::Acquire)
    }

    /// True once a drain began.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Gives an item back to where it came from.
    pub fn give_back(self: &Rc<Self>, item: Box<super::item::Item>, how: Returned) {
        let home = item.home;
        self.post(Effect::Return(home, item, how));
        self.wake_pump();
    }
}

/// The spool's own form of a place.
#[must_use]
pub fn record_ref(place: (u32, u32)) -> RecordRef {
    RecordRef { segment: place.0, offset16: place.1 }
}
