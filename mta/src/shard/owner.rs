//! The owner's side of a shard: one ready queue per path, and what its connections are told. Connections are only
//! counted here; the driver runs them and asks [`Owner::next`] for work.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use queue::{Body, BodyFlags, BounceClass, Envelope, HoldReason, MoveReason, Outcome, OutcomeKind, SpoolId};
use smallvec::SmallVec;

use super::core::Now;
use super::decide::{self, Before};
use super::effect::{Effect, Returned};
use super::events;
use super::item::{Item, PathKey, Settled, Settlement, ShardId};
use super::leases::Leases;
use super::path::Path;
use super::policy::Policy;
use crate::message::render::BodyForm;

/// What the pool made of an item.
#[derive(Debug)]
pub enum RenderResult {
    /// Ready to be sent.
    Done {
        /// Header fields in front.
        prefix: Arc<Vec<u8>>,
        /// The content in the form asked for.
        body: Body,
        /// The envelope.
        envelope: Arc<Envelope>,
        /// Facts about both together.
        flags: BodyFlags,
    },
    /// The bytes on disk are not what was written: held, never sent.
    Damaged(String),
    /// The disk failed the read: tried again.
    ReadFailed(String),
    /// It can't be converted to what the site takes: final.
    Unconvertible(Box<Outcome>, Arc<Envelope>),
}

/// What a connection does next.
#[derive(Debug)]
pub enum NextStep {
    /// Send this to these recipients.
    Send(Box<Item>),
    /// Nothing yet.
    Wait,
    /// Nothing more on this connection.
    Close,
}

/// What a peer's greeting and EHLO allow, as far as it matters for what it is given.
#[derive(Debug, Clone, Copy)]
pub struct PeerLimits {
    /// RCPTMAX of RFC 9422, or 100.
    pub recipients: usize,
    /// RCPTDOMAINMAX of RFC 9422.
    pub domains: usize,
    /// Messages this connection may still take.
    pub messages_left: u32,
    /// 8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// BINARYMIME and CHUNKING (RFC 3030).
    pub binary: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
}

/// All paths this shard owns.
pub struct Owner {
    shard: ShardId,
    policy: Arc<Policy>,
    paths: BTreeMap<PathKey, Path>,
    /// Items on the pool, by path, message and form; recipients that come later join them.
    rendering: HashMap<(PathKey, SpoolId, BodyForm), Box<Item>>,
    random: u64,
    /// The times of the last step, by which the clock was judged.
    judged: Option<Now>,
    leases: Leases,
}

impl Owner {
    /// No paths yet.
    #[must_use]
    pub fn new(shard: ShardId, policy: Arc<Policy>) -> Self {
        let leases = Leases::new(shard, policy.shards);
        Self {
            shard,
            policy,
            paths: BTreeMap::new(),
            rendering: HashMap::new(),
            random: u64::from(shard) + 1,
            judged: None,
            leases,
        }
    }

    /// The settings changed.
    pub fn set_policy(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
    }

    /// The clock was judged at this time.
    pub fn set_judged(&mut self, now: Now) {
        self.judged = Some(now);
    }

    /// True while the clock may end a recipient: it was trusted when it was last judged, and has not jumped since.
    #[must_use]
    pub fn clock_trusted(&self, now: Now) -> bool {
        self.policy.clock_trusted() && self.judged.is_some_and(|judged| decide::moved_together(judged, now))
    }

    /// The path of this name, when it is known.
    #[must_use]
    pub fn path(&self, key: &PathKey) -> Option<&Path> {
        self.paths.get(key)
    }

    /// All paths, for people who look.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.paths.values()
    }

    /// An item for one of our paths: to the pool when it must be loaded, signed or converted, else to its ready queue.
    pub fn arrived(&mut self, item: Box<Item>, effects: &mut VecDeque<Effect>) {
        let key = item.path.clone();
        let (ready_max, idle_max) = (self.policy.ready_max, self.policy.idle_max);
        let path = self
            .paths
            .entry(key.clone())
            .or_insert_with(|| Path::new(key, Arc::clone(&item.plan), ready_max, idle_max));
        path.plan = Arc::clone(&item.plan);
        if !path.has_room(item.class) {
            // Before the pool has signed it in vain.
            effects.push_back(Effect::Return(item.home, item, Returned::Back(MoveReason::NoRoom, None)));
            return;
        }
        if item.body.is_some() && item.envelope.is_some() && !self.policy.signs {
            path.stage(item);
        } else {
            self.render(item, BodyForm::AsStored, effects);
        }
    }

    fn render(&mut self, item: Box<Item>, form: BodyForm, effects: &mut VecDeque<Effect>) {
        let key = (item.path.clone(), item.id, form);
        if let Some(under_way) = self.rendering.get_mut(&key) {
            under_way.recipients.extend(item.recipients);
            return;
        }
        if let Some(path) = self.paths.get_mut(&item.path) {
            path.rendering += 1;
        }
        effects.push_back(Effect::Render(item.path.clone(), item.clone(), form));
        self.rendering.insert(key, item);
    }

    /// The pool is done with an item.
    pub fn rendered(
        &mut self,
        path: &PathKey,
        id: SpoolId,
        form: BodyForm,
        result: RenderResult,
        now: Now,
        effects: &mut VecDeque<Effect>,
    ) {
        let Some(mut item) = self.rendering.remove(&(path.clone(), id, form)) else { return };
        if let Some(path) = self.paths.get_mut(path) {
            path.rendering -= 1;
        }
        match result {
            RenderResult::Done { prefix, body, envelope, flags } => {
                item.flags = flags;
                item.prefix = Some(prefix);
                item.body = Some(body);
                item.envelope = Some(envelope);
                item.form = form;
                if let Some(path) = self.paths.get_mut(path) {
                    path.stage(item);
                }
            }
            RenderResult::Damaged(what) => {
                tracing::error!(%id, what, "the message is damaged on disk and held");
                effects.push_back(Effect::Return(item.home, item, Returned::Held(HoldReason::SpoolDamage)));
            }
            RenderResult::ReadFailed(what) => {
                tracing::error!(%id, what, "the spool disk failed a read; the message is tried again");
                let outcome = local_deferral("4.3.0 local storage trouble");
                self.settle_all(item, &outcome, "", now, effects);
            }
            RenderResult::Unconvertible(outcome, envelope) => {
                item.envelope = Some(envelope);
                self.settle_all(item, &outcome, "", now, effects);
            }
        }
    }

    /// Moves staged items to the ready queues and sees to it that connections are there for them.
    pub fn flush(&mut self, now: Now, effects: &mut VecDeque<Effect>) {
        self.leases.forget_wants();
        for path in self.paths.values_mut() {
            for item in path.unstage() {
                effects.push_back(Effect::Return(item.home, item, Returned::Back(MoveReason::NoRoom, None)));
            }
            path.dispatch(&mut self.leases, now, effects);
        }
        if self.leases.ask(now.steady, effects) {
            for path in self.paths.values_mut() {
                path.dispatch(&mut self.leases, now, effects);
            }
        }
    }

    /// The shares of limits that are wider than a path.
    pub fn leases(&mut self) -> &mut Leases {
        &mut self.leases
    }

    /// What the connection does next. `limits` are the peer's.
    pub fn next(&mut self, key: &PathKey, limits: &PeerLimits, now: Now, effects: &mut VecDeque<Effect>) -> NextStep {
        if limits.messages_left == 0 {
            return NextStep::Close;
        }
        loop {
            let Some(path) = self.paths.get_mut(key) else { return NextStep::Close };
            if path.too_many(now) {
                return NextStep::Close;
            }
            if !path.may_send(now) {
                return NextStep::Wait;
            }
            let Some(mut item) = path.pop(limits.recipients, limits.domains) else { return NextStep::Wait };
            let flags = item.envelope.as_ref().map(|e| e.flags).unwrap_or_default();
            let takes = limits.binary || (limits.eight_bit && !flags.binary);
            if (flags.eight_bit || flags.binary) && !takes && item.form == BodyForm::AsStored {
                item.prefix = None;
                self.render(item, BodyForm::SevenBit, effects);
                continue;
            }
            return NextStep::Send(item);
        }
    }

    /// A transaction ended: one outcome per recipient of the item, in its order.
    pub fn finished(
        &mut self,
        item: Box<Item>,
        outcomes: Vec<Outcome>,
        peer: &Arc<events::PeerInfo>,
        dsn: bool,
        now: Now,
        effects: &mut VecDeque<Effect>,
    ) {
        if let Some(path) = self.paths.get_mut(&item.path) {
            path.observe(&outcomes, now);
        }
        let random = self.next_random();
        let clock_trusted = self.clock_trusted(now);
        let mut settled = Vec::with_capacity(outcomes.len());
        for (recipient, outcome) in item.recipients.iter().zip(outcomes) {
            let before = Before {
                attempts: recipient.attempts,
                unknowns: recipient.unknowns,
                received: item.received,
                not_after: item.not_after,
                clock_trusted,
            };
            let decision = decide::decide(outcome, before, &item.rule, now.wall, random);
            effects.push_back(Effect::Ack(events::verdict(item.id, recipient.index, &decision, now.wall)));
            let event = events::attempt(&item, recipient, &decision, peer, now);
            settled.push(Settled {
                key: recipient.key,
                index: recipient.index,
                decision,
                remote: peer.name.clone(),
                event,
                relayed: !dsn,
            });
        }
        let home = item.home;
        let settlement = Settlement {
            path: item.path,
            class: item.class,
            id: item.id,
            place: item.place,
            envelope: item.envelope,
            recipients: settled,
        };
        effects.push_back(Effect::Settle(home, Box::new(settlement)));
    }

    /// One outcome for all recipients of an item.
    fn settle_all(&mut self, item: Box<Item>, outcome: &Outcome, peer: &str, now: Now, effects: &mut VecDeque<Effect>) {
        let outcomes = vec![outcome.clone(); item.recipients.len()];
        self.finished(
            item,
            outcomes,
            &Arc::new(events::PeerInfo { name: peer.to_owned(), ..events::PeerInfo::default() }),
            true,
            now,
            effects,
        );
    }

    /// A connection could not be made to any host of the site. When no other is there, what waits is deferred.
    pub fn connect_failed(
        &mut self,
        key: &PathKey,
        outcome: &Outcome,
        peer: &str,
        now: Now,
        effects: &mut VecDeque<Effect>,
    ) {
        let Some(path) = self.paths.get_mut(key) else { return };
        path.closed(&mut self.leases);
        if path.connections() > 0 {
            return;
        }
        let items = path.drain();
        for item in items {
            self.settle_all(item, outcome, peer, now, effects);
        }
    }

    /// A connection stands, or failed to: it is no longer being made.
    pub fn connected(&mut self, key: &PathKey) {
        if let Some(path) = self.paths.get_mut(key) {
            path.connected();
        }
    }

    /// The source of a path may not send any more: what waits goes back and finds another.
    pub fn source_gone(&mut self, key: &PathKey, _now: Now, effects: &mut VecDeque<Effect>) {
        let Some(path) = self.paths.get_mut(key) else { return };
        path.connected();
        path.closed(&mut self.leases);
        for item in path.drain() {
            effects.push_back(Effect::Return(item.home, item, Returned::Back(MoveReason::NoSource, None)));
        }
    }

    /// Recipients that a transaction left untried go first in the next one.
    pub fn put_back_front(&mut self, item: Box<Item>, effects: &mut VecDeque<Effect>) {
        match self.paths.get_mut(&item.path) {
            Some(path) => path.put_back_front(item),
            None => effects.push_back(Effect::Return(item.home, item, Returned::Back(MoveReason::NoRoom, None))),
        }
    }

    /// A connection ended. `unexplained`: it was closed by the peer in the middle of something, without a reply.
    pub fn closed(&mut self, key: &PathKey, unexplained: bool) {
        if let Some(path) = self.paths.get_mut(key) {
            path.closed(&mut self.leases);
            if unexplained {
                path.answered = 0;
            }
        }
    }

    /// A connection begins or ends to wait for work.
    pub fn waiting(&mut self, key: &PathKey, waits: bool) {
        if let Some(path) = self.paths.get_mut(key) {
            path.idle = if waits { path.idle + 1 } else { path.idle.saturating_sub(1) };
        }
    }

    /// Gives everything that waits back, because the process stops.
    pub fn drain(&mut self, effects: &mut VecDeque<Effect>) {
        let mut items: Vec<Box<Item>> = self.rendering.drain().map(|(_, item)| item).collect();
        items.sort_by(|a, b| (a.id, &a.path).cmp(&(b.id, &b.path)));
        for path in self.paths.values_mut() {
            path.rendering = 0;
            items.extend(path.drain());
        }
        for item in items {
            effects.push_back(Effect::Return(item.home, item, Returned::Back(MoveReason::Shutdown, None)));
        }
    }

    fn next_random(&mut self) -> u32 {
        // Spreads retries; need not be good, must replay.
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as u32
    }

    /// Number of the shard, for logs.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }
}

/// A deferral that is our own fault.
fn local_deferral(text: &str) -> Outcome {
    Outcome {
        kind: OutcomeKind::Deferred,
        code: 451,
        enhanced: [4, 3, 0],
        text: text.to_owned(),
        class: BounceClass::TransientFailure,
    }
}

/// Splits off what one transaction may take: at most `recipients`, in at most `domains` domains.
pub(super) fn split(item: &mut Item, recipients: usize, domains: usize) -> Option<Box<Item>> {
    let most = most_in_one_transaction(item, recipients.max(1), domains.max(1));
    if most >= item.recipients.len() {
        return None;
    }
    let rest: SmallVec<_> = item.recipients.drain(most..).collect();
    let mut other = item.clone();
    other.recipients = rest;
    Some(Box::new(other))
}

fn most_in_one_transaction(item: &Item, recipients: usize, domains: usize) -> usize {
    let most = recipients.min(item.recipients.len());
    let Some(envelope) = item.envelope.as_ref().filter(|_| domains < most) else { return most };
    let mut seen: Vec<&str> = Vec::new();
    for (count, recipient) in item.recipients.iter().take(most).enumerate() {
        let domain = envelope.recipients.get(usize::from(recipient.index)).map_or("", |r| r.domain());
        if !seen.contains(&domain) {
            if seen.len() == domains {
                return count;
            }
            seen.push(domain);
        }
    }
    most
}
