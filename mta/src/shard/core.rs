//! The core of a shard: every queue and every decision of it, as a value. Inputs come with a time; what is to be done
//! comes out as [`Effect`]s. No socket, no file, no clock: the simulator drives this very code.
//!
//! A recipient's way: [`Core::accepted`] (or [`Core::recovered`]) -> [`Core::step`] finds it due, finds its route,
//! chooses a source, hands the item to the path's owner -> `owner` waits, renders, hands out -> `owner` decides on
//! the outcome where the reply was read -> [`Core::settled`] -> the ledger syncs -> [`Core::synced`] -> done, retired.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::hold::HoldRules;
use queue::scheduled::retry::RetrySchedule;
use queue::scheduled::{Backlog, Classes, ClockState, NewMessage, NewRecipient, QueueKey, RcptKey, Taken};
use queue::{Body, Class, Envelope, MoveReason, QueueName, SpoolId, UnixMillis, UnixSecs};

use super::effect::{Effect, ReportJob};
use super::events::{self, Fact};
use super::item::{Item, ItemRecipient, PathKey, ShardId};
use super::owner::{Owner, RenderResult};
use super::placement::Placement;
use super::policy::Policy;
use super::router::{Found, Plan, Question, Router};
use super::sources::Sources;
use crate::dns::{Route, RouteError};
use crate::egress::SourceTable;
use crate::message::render::BodyForm;

/// The times of one input: wall clock for due times, steady clock for everything else.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Wall clock.
    pub wall: UnixSecs,
    /// The same in milliseconds, for people.
    pub millis: UnixMillis,
    /// Steady clock.
    pub steady: Instant,
}

/// A message at hand: accepted a moment ago.
#[derive(Debug, Clone)]
pub struct Fresh {
    /// The envelope.
    pub envelope: Arc<Envelope>,
    /// The content.
    pub body: Body,
}

/// What is done once the ledger has synced up to a note.
#[derive(Debug)]
pub(super) enum AfterSync {
    /// The recipient is done.
    Done(RcptKey, SpoolId, u16),
    /// The report may leave.
    Report(Box<ReportJob>),
}

/// Switches that take a protection away, so that a test can show that it would notice. All on otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Protections {
    /// A report is composed only after the verdicts it is about are synced.
    pub report_after_sync: bool,
    /// "Done" is written only after the events and reports are durable.
    pub done_after_sync: bool,
}

impl Default for Protections {
    fn default() -> Self {
        Self { report_after_sync: true, done_after_sync: true }
    }
}

/// Recipients taken from one queue at a turn; fairness between queues is per turn.
pub(super) const TURN: usize = 64;
/// Entries of the wheel touched in one step.
const ADVANCE_BUDGET: usize = 10_000;
/// Entries swept over in a second for recipients past their end.
const SWEEP_BUDGET: usize = 20_000;
/// Turns in one step; then the shard looks at its sockets first.
const TURNS_MAX: usize = 64;
/// A queue without a usable source is looked at again after this.
const NO_SOURCE_WAIT: Duration = Duration::from_secs(5);

/// All queues of one shard.
pub struct Core {
    pub(super) id: ShardId,
    pub(super) policy: Arc<Policy>,
    pub(super) backlog: Backlog,
    pub(super) owner: Owner,
    pub(super) effects: VecDeque<Effect>,
    pub(super) after_sync: VecDeque<(u64, AfterSync)>,
    pub(super) notes: u64,
    pub(super) random: u64,
    /// The wall clock of the last step.
    pub(super) wall: UnixSecs,
    swept: UnixSecs,
    placement: Arc<Placement>,
    router: Router,
    sources: Sources,
    pub(super) fresh: HashMap<SpoolId, Fresh>,
    fresh_bytes: u64,
    /// Recipients handed to each path and class and not yet settled.
    pub(super) outstanding: HashMap<(PathKey, Class), usize>,
    /// Queues that wait for room on a path, or for an answer.
    pub(super) waiting_room: HashMap<(PathKey, Class), BTreeSet<QueueKey>>,
    waiting_route: HashMap<Question, BTreeSet<QueueKey>>,
    /// Recipients whose delay was reported.
    pub(super) delayed: HashSet<(SpoolId, u16)>,
    owners: HashMap<PathKey, ShardId>,
    taken: Vec<Taken>,
    /// Delivery is switched off: everything stays queued.
    pub(super) paused: bool,
    stopped: bool,
    protections: Protections,
}

impl Core {
    #[doc(hidden)]
    #[must_use]
    pub fn with_protections(mut self, protections: Protections) -> Self {
        self.protections = protections;
        self
    }

    /// An empty core. `seed` spreads retries and shuffles equal hosts.
    #[must_use]
    pub fn new(id: ShardId, policy: Arc<Policy>, placement: Arc<Placement>, now: Now, seed: u64) -> Self {
        let max_age = u32::try_from(policy.retry.max_age.as_secs()).unwrap_or(u32::MAX);
        Self {
            id,
            backlog: Backlog::new(now.wall, max_age),
            owner: Owner::new(id, Arc::clone(&policy)),
            effects: VecDeque::new(),
            after_sync: VecDeque::new(),
            notes: 0,
            random: seed | 1,
            wall: now.wall,
            swept: now.wall,
            placement,
            router: Router::new(Arc::clone(&policy.routes)),
            sources: Sources::new(&policy.pools),
            fresh: HashMap::new(),
            fresh_bytes: 0,
            outstanding: HashMap::new(),
            waiting_room: HashMap::new(),
            waiting_route: HashMap::new(),
            delayed: HashSet::new(),
            owners: HashMap::new(),
            taken: Vec::new(),
            paused: !policy.enabled,
            stopped: false,
            protections: Protections::default(),
            policy,
        }
    }

    /// What is to be done, in order.
    pub fn take_effects(&mut self, into: &mut Vec<Effect>) {
        into.extend(self.effects.drain(..));
    }

    /// The next pseudo-random number: splitmix64, so that a seed replays a run.
    pub fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A message became durable: its recipients are due now, or at the time the client asked for.
    pub fn accepted(&mut self, id: SpoolId, place: (u32, u32), fresh: Fresh, now: Now, reason: MoveReason) {
        let envelope = &fresh.envelope;
        let due = envelope.not_before.unwrap_or(now.wall).max(now.wall);
        let names: Vec<String> =
            (0..envelope.recipients.len()).map(|index| envelope.queue_name(index).to_string()).collect();
        let recipients = names.iter().enumerate().map(|(index, name)| NewRecipient {
            rcpt: u16::try_from(index).unwrap_or(u16::MAX),
            queue: name,
            attempts: 0,
            unknowns: 0,
            due,
            hold: None,
        });
        let new = self.new_message(id, place, envelope);
        if self.backlog.insert(&new, recipients, reason).is_err() {
            // Durable all the same: it comes back at the next start.
            tracing::error!(%id, "the backlog is full; the message waits on disk for the next start");
            return;
        }
        let size = fresh.body.len() as u64;
        if due <= now.wall && !self.paused && self.fresh_bytes + size <= self.policy.fresh_bytes {
            self.fresh_bytes += size;
            self.fresh.insert(id, fresh);
        }
    }

    fn new_message(&self, id: SpoolId, place: (u32, u32), envelope: &Envelope) -> NewMessage {
        NewMessage {
            id,
            place,
            received: envelope.received.secs(),
            not_after: envelope.not_after,
            class: envelope.class,
            priority: envelope.priority,
            pool: self.policy.pool_number(&envelope.pool),
            tenant: 0,
            size: envelope.size,
        }
    }

    /// The bytes of a message are needed no more in memory.
    pub(super) fn forget_fresh(&mut self, id: SpoolId) {
        if let Some(fresh) = self.fresh.remove(&id) {
            self.fresh_bytes -= fresh.body.len() as u64;
        }
    }

    /// The DNS answered.
    pub fn routed(&mut self, question: Question, answer: Result<Arc<Route>, RouteError>, now: Now) {
        self.router.answered(question.clone(), answer, now.steady);
        for queue in self.waiting_route.remove(&question).into_iter().flatten() {
            self.backlog.wake(queue);
        }
    }

    /// Which sources may send, as of now.
    pub fn set_sources(&mut self, table: &Arc<SourceTable>) {
        if !Arc::ptr_eq(self.sources.table(), table) {
            self.sources.set_table(Arc::clone(table));
        }
    }

    /// True while the ack log or the event log can't be written, or the shard is congested: nothing new leaves.
    pub fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
    }

    /// The settings changed. Paths that exist keep their limits until they are idle.
    pub fn set_policy(&mut self, policy: Arc<Policy>) {
        self.sources = Sources::new(&policy.pools);
        self.router = Router::new(Arc::clone(&policy.routes));
        self.owner.set_policy(Arc::clone(&policy));
        self.paused = !policy.enabled;
        self.policy = policy;
    }

    /// What an operator holds, from now on.
    pub fn set_holds(&mut self, rules: HoldRules) {
        self.backlog.set_rules(rules);
    }

    /// The pool is done with an item of one of our paths.
    pub fn rendered(&mut self, path: &PathKey, id: SpoolId, form: BodyForm, result: RenderResult, now: Now) {
        self.owner.rendered(path, id, form, result, now, &mut self.effects);
    }

    /// Another shard asks for a share of a limit that this shard owns.
    pub fn lease_asked(&mut self, shard: ShardId, ask: &super::leases::LeaseAsk, now: Now) {
        if let Some(grant) = self.owner.leases().answer(ask, now.steady) {
            self.effects.push_back(Effect::LeaseGrant(shard, ask.key, grant));
        }
    }

    /// Gives everything that waits for a connection back to where it came from: the process stops.
    pub fn drain(&mut self) {
        self.paused = true;
        self.owner.drain(&mut self.effects);
    }

    /// The backlog, for a look.
    #[must_use]
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// The paths of this shard, and where their effects go.
    pub fn owner(&mut self) -> (&mut Owner, &mut VecDeque<Effect>) {
        (&mut self.owner, &mut self.effects)
    }

    /// Moves time on: due recipients go towards their paths as far as there is room. True when there is more to do at
    /// once.
    pub fn step(&mut self, now: Now, clock: ClockState) -> bool {
        self.wall = now.wall;
        self.policy.set_clock_trusted(clock.may_expire());
        self.owner.set_judged(now);
        let more = self.backlog.advance(now.wall, clock, ADVANCE_BUDGET).more;
        // What nobody would look at otherwise is swept over once a second, not at every step.
        let sweep = now.wall != self.swept;
        self.swept = now.wall;
        self.expire(if sweep { SWEEP_BUDGET } else { 0 }, now);
        if !self.paused && !self.stopped {
            let mut turns = 0;
            while let Some((queue, class)) = self.backlog.next_active(Classes::ALL) {
                self.turn(queue, class, now);
                turns += 1;
                if turns == TURNS_MAX {
                    self.owner.flush(now, &mut self.effects);
                    return true;
                }
            }
            self.owner.flush(now, &mut self.effects);
        }
        more
    }

    /// One queue's turn: hand out up to [`TURN`] recipients, or stall the queue until what it lacks is there.
    fn turn(&mut self, queue: QueueKey, class: Class, now: Now) {
        let Some(name) = self.backlog.queue_name(queue).map(QueueName::parse) else { return };
        let effects = &mut self.effects;
        match self.router.find(&name, now.steady, &mut |question| effects.push_back(Effect::Ask(question))) {
            Found::Plan(plan) => self.hand_out(queue, class, &name, &plan, now),
            Found::Asking => {
                let question = self.router.question(&name);
                self.waiting_route.entry(question).or_default().insert(queue);
                self.backlog.stall(queue, None, UnixSecs(u32::MAX));
            }
            Found::Refused(error) => self.refuse_route(queue, class, &error, now),
        }
    }

    /// Takes what is due and gives each message to a source that has room; what finds none goes back and waits.
    fn hand_out(&mut self, queue: QueueKey, class: Class, name: &QueueName, plan: &Arc<Plan>, now: Now) {
        let mut taken = std::mem::take(&mut self.taken);
        self.backlog.take(queue, class, TURN, &mut taken);
        let rule = self.policy.retry_of(name);
        let mut left = taken.as_slice();
        while let Some(first) = left.first() {
            let same = left.iter().take_while(|t| t.msg == first.msg).count();
            let (group, rest) = left.split_at(same);
            if !self.hand_group(group, class, plan, rule) {
                let keys: Vec<RcptKey> = left.iter().map(|t| t.rcpt).collect();
                self.backlog.drain_ready_back(&keys, now.wall, MoveReason::NoRoom);
                self.wait_for_room(queue, class, plan, first.pool, now);
                break;
            }
            left = rest;
        }
        taken.clear();
        self.taken = taken;
    }

    /// Gives one message to a path with room; false when there is none.
    fn hand_group(&mut self, group: &[Taken], class: Class, plan: &Arc<Plan>, rule: RetrySchedule) -> bool {
        let Some(first) = group.first() else { return true };
        let window = self.policy.window(class);
        let outstanding = &self.outstanding;
        let has_room = |source: u16| outstanding.get(&(plan.path(source), class)).is_none_or(|count| *count < window);
        let Some(source) = self.sources.choose(first.pool, &plan.route, has_room) else { return false };
        let path = plan.path(source);
        *self.outstanding.entry((path.clone(), class)).or_default() += group.len();
        let item = Box::new(self.item(group, path, plan, rule));
        let owner = self.owner_of(&item.path);
        if owner == self.id {
            self.arrived(item);
        } else {
            self.effects.push_back(Effect::Hand(owner, item));
        }
        true
    }

    fn owner_of(&mut self, path: &PathKey) -> ShardId {
        if let Some(owner) = self.owners.get(path) {
            return *owner;
        }
        let owner = self.placement.owner(path);
        self.owners.insert(path.clone(), owner);
        owner
    }

    fn item(&self, group: &[Taken], path: PathKey, plan: &Arc<Plan>, rule: RetrySchedule) -> Item {
        let first = &group[0];
        let fresh = self.fresh.get(&first.id);
        Item {
            home: self.id,
            path,
            plan: Arc::clone(plan),
            id: first.id,
            place: first.place,
            tenant: first.tenant,
            class: first.class,
            priority: first.priority,
            received: first.received,
            not_after: first.not_after,
            rule,
            envelope: fresh.map(|f| Arc::clone(&f.envelope)),
            body: fresh.map(|f| f.body.clone()),
            prefix: None,
            form: BodyForm::AsStored,
            flags: fresh.map(|f| f.envelope.flags).unwrap_or_default(),
            recipients: group
                .iter()
                .map(|t| ItemRecipient { key: t.rcpt, index: t.index, attempts: t.attempts, unknowns: t.unknowns })
                .collect(),
        }
    }

    /// No source has room: wait for room on any of them, or for any source at all.
    fn wait_for_room(&mut self, queue: QueueKey, class: Class, plan: &Arc<Plan>, pool: u16, now: Now) {
        let usable = self.sources.usable(pool, &plan.route);
        if usable.is_empty() {
            self.backlog.stall(queue, None, now.wall.plus(NO_SOURCE_WAIT));
            return;
        }
        for source in usable {
            self.waiting_room.entry((plan.path(source), class)).or_default().insert(queue);
        }
        self.backlog.stall(queue, Some(class), UnixSecs(u32::MAX));
    }

    /// An item for a path that this shard owns.
    pub fn arrived(&mut self, item: Box<Item>) {
        self.owner.arrived(item, &mut self.effects);
    }

    /// A fact that nothing waits for.
    pub fn report_fact(&mut self, fact: Box<Fact>) {
        self.note(Some(fact), None);
    }

    /// Counts a note to the ledger.
    pub(super) fn note(&mut self, event: Option<Box<Fact>>, then: Option<AfterSync>) {
        self.notes += 1;
        self.effects.push_back(Effect::Note(event));
        match then {
            Some(AfterSync::Report(job)) if !self.protections.report_after_sync => {
                self.effects.push_back(Effect::Report(job));
            }
            Some(AfterSync::Done(key, id, index)) if !self.protections.done_after_sync => self.done(key, id, index),
            Some(then) => self.after_sync.push_back((self.notes, then)),
            None => {}
        }
    }

    /// The ledger has synced the first `notes` notes of this shard, and all that was in the ack log before them.
    pub fn synced(&mut self, notes: u64) {
        while self.after_sync.front().is_some_and(|(at, _)| *at <= notes) {
            match self.after_sync.pop_front() {
                Some((_, AfterSync::Done(key, id, index))) => self.done(key, id, index),
                Some((_, AfterSync::Report(job))) => self.effects.push_back(Effect::Report(job)),
                None => {}
            }
        }
    }

    /// The recipient needs nothing more.
    pub(super) fn done(&mut self, key: RcptKey, id: SpoolId, index: u16) {
        self.effects.push_back(Effect::Ack(events::done(id, index, self.wall)));
        if let Some(finished) = self.backlog.finish(key) {
            self.forget_fresh(finished.id);
            self.effects.push_back(Effect::Retire(finished.id, finished.place));
        }
    }
}
