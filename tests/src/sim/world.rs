//! The world of one run: what happens when, in one thread. Time is a number; the next event is the earliest one, and
//! among equals the one that was foreseen first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mta::egress::source::{EgressSource, Standing};
use mta::egress::watch::{Entry, SourceTable};
use mta::shard::core::Now;
use mta::shard::effect::Effect;
use mta::shard::mail::ShardMail;
use mta::shard::policy::Policy;
use mta::shard::router::Question;
use queue::hold::{HoldRule, HoldRules};
use queue::SpoolId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::clock::Clock;
use super::lease::{LeaseLetter, Leases};
use super::life::Life;
use super::model::{EventKey, Model, SYNC_PROMISE_MS};
use super::peer::Step;
use super::plan::{Mishap, Plan};
use super::storage::{Faults, Storage};
use super::trace::{Show, Trace};

/// Something that will happen.
pub enum Event {
    /// A client submits.
    Submit(u32),
    /// A write of the spool ends.
    Written(u64),
    /// The spool's writer looks around.
    Feed,
    /// The maintenance thread looks around.
    Maintain,
    /// A shard looks at the clock.
    Tick(usize),
    /// A letter reaches a shard.
    Letter(usize, Box<ShardMail>),
    /// The ledger begins a round, and its further steps.
    Round(RoundStep),
    /// The DNS answers a shard.
    Answer(usize, Question),
    /// Something happens on a connection.
    Connection(u64, Step),
    /// The pool gets to a job.
    Job(usize, Box<Effect>),
    /// What a disk did not let happen is tried again.
    Again(usize, Box<Effect>),
    /// Recovery tells the messages.
    Recover,
    /// A graceful stop comes to its end.
    Stop,
    /// The process starts.
    Start,
    /// Something goes wrong.
    Mishap(Mishap),
    /// It is over.
    Heal(Mishap),
    /// A moment of the wide limit.
    Lease,
    /// A letter of the wide limit arrives.
    LeaseMail(LeaseLetter),
    /// A peer takes a message: it has all its bytes, whatever becomes of us.
    Taken(SpoolId, Vec<u16>),
}

/// Steps of a round of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundStep {
    /// Takes the notes.
    Take,
    /// Syncs the ack log.
    Log,
    /// Syncs the event log.
    Events,
    /// Tells the shards.
    Tell,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The promise that was broken.
    pub broken: Option<String>,
    /// Hash of the trace.
    pub hash: u64,
    /// Lines of the trace.
    pub lines: u64,
    /// Messages answered 250.
    pub accepted: usize,
    /// Crashes.
    pub crashes: u32,
    /// Starts.
    pub starts: u32,
    /// Unknown outcomes.
    pub unknowns: u64,
    /// Further last bytes for a recipient that a peer had taken.
    pub duplicates: u64,
    /// Segments recycled, records compacted, compactions of the ack log.
    pub recycled: [u64; 3],
    /// Simulated seconds.
    pub seconds: u64,
}

/// Everything.
pub struct World {
    /// Milliseconds since the beginning.
    pub now: u64,
    /// What the seed chose.
    pub plan: Plan,
    /// Chance.
    pub random: StdRng,
    /// The trace.
    pub trace: Trace,
    /// The ledger of truth.
    pub model: Model,
    /// What outlives the process.
    pub storage: Storage,
    /// The wall clock.
    pub clock: Clock,
    /// The process, while there is one.
    pub life: Option<Life>,
    /// Settings.
    pub policy: Arc<Policy>,
    /// Sources.
    pub sources: Arc<SourceTable>,
    /// Suspended domains.
    pub holds: HoldRules,
    /// Last events by recipient that are durable and final.
    pub ends: BTreeMap<(u64, u16), EventKey>,
    /// Events of the storage that `ends` knows.
    pub ends_known: usize,
    /// Spool writes may take so long.
    pub slow_ms: u64,
    /// The last time anything moved.
    pub active_at: u64,
    /// Begin of the last sync of the ack log that succeeded.
    pub synced_at: u64,
    /// Counts of lives that are over: recycled, compacted, ack compactions.
    pub counts: [u64; 3],
    events: BTreeMap<(u64, u64), (u32, Event)>,
    foreseen: u64,
    epoch: Instant,
    generation: u32,
    trip_power: bool,
    /// Entries from here on stand in the rings of a process that was killed, and nowhere else.
    in_rings: Option<u64>,
    leases: Leases,
    starts: u32,
}

/// After the last mishap a run has so many days to come to its end.
const DAYS: u64 = 12;
const DAY: u64 = 86_400_000;
/// Something is wrong with the simulator when a run has more events.
const EVENTS_MAX: u64 = 3_000_000;

impl World {
    /// The world that a seed stands for.
    pub fn new(seed: u64, plan: Plan, show: Show) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x0077_0171_d000);
        let limit = random.random_range(3..12);
        let leases = Leases::new(random.random_range(2..5), limit, plan.protections.lease);
        let policy = Arc::new(policy_of(&plan));
        let sources = Arc::new(table_of(&plan, &BTreeSet::new()));
        let mut world = Self {
            now: 0,
            random,
            trace: Trace::new(show),
            model: Model::default(),
            storage: Storage::new(seed, 6 * 1024 * 1024),
            clock: Clock::right(),
            life: None,
            policy,
            sources,
            holds: HoldRules::default(),
            ends: BTreeMap::new(),
            ends_known: 0,
            slow_ms: 0,
            active_at: 0,
            synced_at: 0,
            counts: [0; 3],
            events: BTreeMap::new(),
            foreseen: 0,
            epoch: Instant::now(),
            generation: 0,
            trip_power: false,
            in_rings: None,
            leases,
            starts: 0,
            plan,
        };
        world.foresee_all();
        world
    }

    fn foresee_all(&mut self) {
        self.outside(0, Event::Start);
        for number in 0..self.plan.mail.len() {
            self.outside(self.plan.mail[number].at, Event::Submit(number as u32));
        }
        for (at, mishap) in self.plan.mishaps.clone() {
            self.outside(at, Event::Mishap(mishap));
        }
        for _ in 0..300 {
            let at = self.random.random_range(0..15_000);
            self.outside(at, Event::Lease);
        }
    }

    /// Something that happens whether or not the process lives.
    pub fn outside(&mut self, after: u64, event: Event) {
        self.foresee(after, 0, event);
    }

    /// Something that happens only if the process of now lives then.
    pub fn inside(&mut self, after: u64, event: Event) {
        self.foresee(after, self.generation, event);
    }

    fn foresee(&mut self, after: u64, generation: u32, event: Event) {
        self.foreseen += 1;
        self.events.insert((self.now + after, self.foreseen), (generation, event));
    }

    /// The times as the process sees them.
    pub fn times(&self) -> Now {
        let millis = self.clock.wall(self.now);
        Now { wall: millis.secs(), millis, steady: self.steady() }
    }

    /// The steady clock.
    pub fn steady(&self) -> Instant {
        self.epoch + Duration::from_millis(self.now)
    }

    /// A chance in 1000.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.random.random_range(0..1000) < per_mille
    }

    /// True when nothing goes wrong any more.
    pub fn is_good(&self) -> bool {
        self.now >= self.plan.good_from
    }

    /// How long a watcher that finds nothing may sleep: the longer nothing moved, the longer.
    pub fn patience(&self, least: u64) -> u64 {
        (self.now.saturating_sub(self.active_at) / 4).clamp(least, 60_000)
    }

    /// Adds a line to the trace.
    pub fn say(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.line(self.now, what);
    }

    /// Runs to the end.
    pub fn run(mut self, seed: u64) -> Outcome {
        let last = self.plan.good_from + DAYS * DAY;
        let mut count = 0;
        while let Some(((at, _), (generation, event))) = self.events.pop_first() {
            self.now = at;
            if generation != 0 && generation != self.generation {
                continue;
            }
            count += 1;
            if count > EVENTS_MAX {
                self.model.breaks("the run has no end: too many events".to_owned());
            }
            self.happen(event);
            if self.storage.tripped() {
                self.storage.go_back();
                let power = self.trip_power;
                self.crash(power, "in the midst of a call");
            }
            if self.model.broken.is_some() || at > last || (self.is_good() && count % 64 == 0 && self.is_over()) {
                break;
            }
        }
        if self.model.broken.is_none() {
            self.learn_ends();
            let events = self.storage.state().events.clone();
            self.model.judge(&events);
            self.judge_backlog();
        }
        self.outcome(seed)
    }

    fn is_over(&self) -> bool {
        self.model.all_done() && self.life.as_ref().is_some_and(Life::is_idle)
    }

    fn judge_backlog(&mut self) {
        let Some(life) = &self.life else { return self.model.breaks("the process never came back".to_owned()) };
        let held: usize = life.cores.iter().map(|core| core.backlog().totals().held).sum();
        if held > 0 {
            self.model.breaks(format!("{held} recipients are held though nothing was damaged"));
        }
        if let Some(kept) = self.storage.state().kept.first() {
            self.model.broken.get_or_insert(format!("recovery found damage: {kept}"));
        }
    }

    fn outcome(mut self, seed: u64) -> Outcome {
        self.end_life();
        if let Some(broken) = self.model.broken.clone() {
            self.say(format_args!("BROKEN: {broken}"));
        }
        Outcome {
            seed,
            broken: self.model.broken.clone(),
            hash: self.trace.hash(),
            lines: self.trace.lines(),
            accepted: self.model.accepted(),
            crashes: self.model.crashes,
            starts: self.starts,
            unknowns: self.model.unknowns,
            duplicates: self.model.duplicates,
            recycled: self.counts,
            seconds: self.now / 1000,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Submit(number) => self.submit(number),
            Event::Written(op) => self.written(op),
            Event::Feed => self.feed(),
            Event::Maintain => self.maintain(),
            Event::Tick(shard) => self.tick(shard),
            Event::Letter(shard, letter) => self.read(shard, *letter),
            Event::Round(step) => self.round(step),
            Event::Answer(shard, question) => self.answer(shard, question),
            Event::Connection(conn, step) => self.connection(conn, step),
            Event::Job(shard, job) => self.job(shard, *job),
            Event::Again(shard, effect) => {
                self.post(shard, *effect);
                self.carry_out(shard);
            }
            Event::Recover => self.recover(),
            Event::Stop => self.stop(),
            Event::Start => self.start(),
            Event::Mishap(mishap) => self.mishap(mishap),
            Event::Heal(mishap) => self.heal(mishap),
            Event::Lease => {
                if let Some((delay, letter)) = self.leases.step(self.steady(), &mut self.random) {
                    self.outside(delay.as_millis() as u64, Event::LeaseMail(letter));
                }
                self.model.broken = self.model.broken.take().or_else(|| self.leases.broken());
            }
            Event::LeaseMail(letter) => {
                if let Some((delay, letter)) = self.leases.read(letter, self.steady(), &mut self.random) {
                    self.outside(delay.as_millis() as u64, Event::LeaseMail(letter));
                }
            }
            Event::Taken(id, recipients) => {
                self.say(format_args!("a peer has {id} for {recipients:?}"));
                recipients.iter().for_each(|index| self.model.taken(id, *index));
            }
        }
    }

    fn mishap(&mut self, mishap: Mishap) {
        self.say(format_args!("mishap: {mishap:?}"));
        self.active_at = self.now;
        match mishap {
            Mishap::Crash(power) => self.crash(power, "as planned"),
            Mishap::Trip(after, power) => {
                self.trip_power = power;
                self.storage.trip_after(after);
            }
            Mishap::Drain => self.drain(),
            Mishap::WriteErrors(chance, ms) => self.fault(mishap, ms, |f| f.write = chance),
            Mishap::ReadErrors(chance, ms) => self.fault(mishap, ms, |f| f.read = chance),
            Mishap::Full(ms) => self.fault(mishap, ms, |f| f.full = true),
            Mishap::AckErrors(ms) => self.fault(mishap, ms, |f| f.ack = true),
            Mishap::EventErrors(ms) => self.fault(mishap, ms, |f| f.events = true),
            Mishap::Slow(most, ms) => {
                self.slow_ms = most;
                self.outside(ms, Event::Heal(mishap));
            }
            Mishap::Jump(by) => self.clock.ahead += by * 1000,
            Mishap::Unsynced(ms) => {
                self.clock.synced = false;
                self.outside(ms, Event::Heal(mishap));
            }
            Mishap::Hold(domain, ms) => {
                let rule = HoldRule { domain: Some(format!("d{domain}.test")), ..HoldRule::default() };
                // More rules than fit are no concern here.
                let _ = self.holds.add(rule);
                self.outside(ms, Event::Heal(mishap));
                self.set_holds();
            }
            Mishap::NoSource(source, ms) => {
                self.sources = Arc::new(table_of(&self.plan, &BTreeSet::from([source])));
                self.outside(ms, Event::Heal(mishap));
            }
        }
    }

    fn fault(&mut self, mishap: Mishap, ms: u64, set: impl FnOnce(&mut Faults)) {
        set(&mut self.storage.state().faults);
        self.outside(ms, Event::Heal(mishap));
    }

    fn heal(&mut self, mishap: Mishap) {
        self.say(format_args!("over: {mishap:?}"));
        self.active_at = self.now;
        {
            let faults = &mut self.storage.state().faults;
            match mishap {
                Mishap::WriteErrors(..) => faults.write = 0,
                Mishap::ReadErrors(..) => faults.read = 0,
                Mishap::Full(_) => faults.full = false,
                Mishap::AckErrors(_) => faults.ack = false,
                Mishap::EventErrors(_) => faults.events = false,
                _ => {}
            }
        }
        match mishap {
            Mishap::Slow(..) => self.slow_ms = 0,
            Mishap::Unsynced(_) => self.clock.synced = true,
            Mishap::NoSource(..) => self.sources = Arc::new(table_of(&self.plan, &BTreeSet::new())),
            Mishap::Hold(domain, _) => {
                let name = format!("d{domain}.test");
                let ids: Vec<u32> = self
                    .holds
                    .list()
                    .iter()
                    .filter(|rule| rule.domain.as_deref() == Some(&name))
                    .map(|rule| rule.id)
                    .collect();
                for id in ids {
                    self.holds.remove(id);
                }
                self.set_holds();
            }
            _ => {}
        }
    }

    fn set_holds(&mut self) {
        let holds = self.holds.clone();
        if let Some(life) = &mut self.life {
            life.cores.iter_mut().for_each(|core| core.set_holds(holds.clone()));
        }
    }

    /// The process dies.
    fn crash(&mut self, power: bool, how: &str) {
        if self.life.is_none() {
            return;
        }
        self.say(format_args!("{} {how}", if power { "POWER CUT" } else { "KILL" }));
        self.abandon_writes(power);
        self.end_life();
        let ack_fails = self.storage.state().faults.ack;
        let promised = self.now.saturating_sub(SYNC_PROMISE_MS);
        let horizon = if ack_fails { promised.min(self.synced_at) } else { promised };
        // What a killed process left in its rings is durable when the next start has taken it in.
        let horizon = self.in_rings.map_or(horizon, |from| horizon.min(from));
        self.in_rings = Some(horizon).filter(|_| !power);
        self.model.crashed(power.then_some(horizon));
        if power {
            self.storage.cut_power();
            self.learn_ends();
        }
        let wait = self.random.random_range(10..5000);
        self.outside(wait, Event::Start);
    }

    /// The end of a graceful stop: the spool is sealed, then the process ends. What is still under way was given up.
    fn stop(&mut self) {
        self.close_spool();
        if self.storage.tripped() || self.life.is_none() {
            return;
        }
        self.say(format_args!("STOP"));
        self.end_life();
        self.in_rings = Some(self.now.saturating_sub(SYNC_PROMISE_MS));
        self.model.crashed(None);
        let wait = self.random.random_range(10..5000);
        self.outside(wait, Event::Start);
    }

    /// The process of now is gone, and what was foreseen for it does not happen.
    pub fn end_life(&mut self) {
        if let Some(life) = self.life.take() {
            let status = life.stepped.spool().status();
            self.counts[0] += status.recycled;
            self.counts[1] += status.compacted;
            self.counts[2] += life.ack_compactions;
        }
        self.generation += 1;
    }

    /// The process starts.
    fn start(&mut self) {
        self.generation += 1;
        self.starts += 1;
        self.model.lives += 1;
        self.active_at = self.now;
        // A start that can't read its disks is not a start: operators mend disks first.
        let faults = std::mem::take(&mut self.storage.state().faults);
        let begun = Life::begin(self);
        self.storage.state().faults = faults;
        match begun {
            Ok(life) => self.life = Some(life),
            Err(why) => return self.model.breaks(format!("the process can't start: {why}")),
        }
        if self.storage.tripped() {
            return;
        }
        self.in_rings = None;
        self.set_holds();
        let count = self.starts;
        self.say(format_args!("START {count}"));
        let wait = self.random.random_range(0..2000);
        self.inside(wait, Event::Recover);
        self.inside(0, Event::Maintain);
        self.inside(0, Event::Feed);
        self.inside(self.starts.into(), Event::Round(RoundStep::Take));
        for shard in 0..self.plan.shards {
            self.inside(1 + shard as u64, Event::Tick(shard));
        }
    }

    /// Learns which ends are durable by now.
    pub fn learn_ends(&mut self) {
        let state = self.storage.state();
        let new = state.events.get(self.ends_known..).unwrap_or_default();
        let ends = new.iter().filter(|event| event.is_final()).map(|event| ((event.id.0, event.rcpt), *event));
        self.ends.extend(ends);
        self.ends_known = state.events.len();
    }
}

fn policy_of(plan: &Plan) -> Policy {
    let mut text = format!(
        "[server]\nhostname = 'mta.sender.test'\noperator = 'operator@d0.test'\nlab = true\n\
         [delivery]\nretry_first_s = {}\nretry_max_s = 14400\nmax_age_s = {}\nready_max = 50\n",
        plan.retry_first_s, plan.max_age_s
    );
    let names: Vec<String> = (0..plan.sources).map(|n| format!("'s{n}'")).collect();
    for n in 0..plan.sources {
        text.push_str(&format!(
            "[[source]]\nname = 's{n}'\naddress = '192.0.2.{}'\nehlo = 's{n}.sender.test'\n",
            n + 1
        ));
    }
    text.push_str(&format!("[[pool]]\nname = 'default'\nsources = [{}]\n", names.join(", ")));
    let config = mta::config::parse(&text, "simulator").expect("the simulator's own configuration");
    Policy::new(&config, plan.shards)
}

fn table_of(plan: &Plan, parked: &BTreeSet<usize>) -> SourceTable {
    let entry = |n: usize| {
        let name = format!("s{n}.sender.test");
        let standing = if parked.contains(&n) {
            Standing::Parked(mta::egress::source::Parked::Unplumbed)
        } else {
            Standing::Usable { ehlo: name.clone(), assumed: true }
        };
        let address = std::net::Ipv4Addr::new(192, 0, 2, n as u8 + 1).into();
        Entry { source: EgressSource { name: format!("s{n}"), address, assumed_name: Some(name), weight: 1 }, standing }
    };
    SourceTable { entries: (0..plan.sources).map(entry).collect() }
}
