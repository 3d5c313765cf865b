//! What a connection is fed with: the shard's side of [`crate::delivery::Feed`], one per connection.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::{BounceClass, MoveReason, Outcome, OutcomeKind};

use super::driver::Shard;
use super::effect::Returned;
use super::events::PeerInfo;
use super::item::{Item, PathKey};
use super::owner::{NextStep, PeerLimits as Limits};
use crate::delivery::{
    connection, Closed, ConnId, ConnectFailure, Connected, DeliverBy, Feed, PeerLimits, Stopped, Transaction,
    TxRecipient,
};
use crate::net::LocalFuture;
use crate::record::event::TlsFacts;

/// Runs one connection on a path to its end.
pub async fn run_connection(shard: &Rc<Shard>, path: PathKey) {
    let conn = ConnId(shard.next_number());
    let job = shard.with_core(|core, _| {
        let plan = core.owner().0.path(&path).map(|p| Arc::clone(&p.plan))?;
        let random = core.next_random();
        shard.links.outbound.job(conn, &path, &plan, random)
    });
    let Some((job, source)) = job else {
        // The source was parked meanwhile: what waits goes back and finds another.
        shard.with_core(|core, now| {
            let (owner, effects) = core.owner();
            owner.source_gone(&path, now, effects);
        });
        return;
    };
    let peer = PeerInfo { source, source_address: job.source, ..PeerInfo::default() };
    let feed = Rc::new(PathFeed {
        shard: Rc::clone(shard),
        path,
        item: RefCell::new(None),
        peer: RefCell::new(Arc::new(peer)),
        dsn: Cell::new(false),
        messages: Cell::new(0),
        stands: Cell::new(false),
    });
    connection::run(job, feed).await;
}

struct PathFeed {
    shard: Rc<Shard>,
    path: PathKey,
    item: RefCell<Option<Box<Item>>>,
    peer: RefCell<Arc<PeerInfo>>,
    dsn: Cell<bool>,
    messages: Cell<u32>,
    stands: Cell<bool>,
}

/// Counts a connection as idle for as long as it lives.
struct Idle<'a>(&'a PathFeed);

impl<'a> Idle<'a> {
    fn begin(feed: &'a PathFeed) -> Self {
        feed.count_idle(true);
        Self(feed)
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.0.count_idle(false);
    }
}

/// While a limit holds what waits, look again at least this often.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl PathFeed {
    fn count_idle(&self, waits: bool) {
        self.shard.with_core(|core, _| core.owner().0.waiting(&self.path, waits));
    }

    fn limits(&self, peer: &PeerLimits) -> Limits {
        let left = peer.mail_max.unwrap_or(u32::MAX).saturating_sub(self.messages.get());
        Limits {
            recipients: peer.recipients(),
            domains: peer.rcpt_domain_max.map_or(usize::MAX, |most| most as usize),
            messages_left: left,
            eight_bit: peer.eight_bit,
            binary: peer.takes_binary(),
            dsn: peer.dsn,
        }
    }

    fn take(&self, peer: &PeerLimits) -> NextStep {
        let limits = self.limits(peer);
        self.shard.with_core(|core, now| {
            let (owner, effects) = core.owner();
            owner.next(&self.path, &limits, now, effects)
        })
    }

    /// How long to wait at most before looking again, and how long an idle connection is kept.
    fn patience(&self) -> (Duration, Duration) {
        self.shard.with_core(|core, now| {
            let (owner, _) = core.owner();
            let Some(path) = owner.path(&self.path) else { return (LOOK_AGAIN, LOOK_AGAIN) };
            let idle = path.idle_time();
            let held = path.held().filter(|_| path.waiting() > 0).map(|(until, _)| until);
            let look = held.map_or(idle, |until| until.saturating_duration_since(now.steady).min(LOOK_AGAIN));
            (look.max(Duration::from_millis(1)), idle)
        })
    }

    async fn next_transaction(&self, peer: &PeerLimits) -> Option<Transaction> {
        self.dsn.set(peer.dsn);
        let since = Instant::now();
        loop {
            match self.take(peer) {
                NextStep::Send(item) => return Some(self.begin(item)),
                NextStep::Close => return None,
                NextStep::Wait => {}
            }
            if self.shard.is_draining() {
                return None;
            }
            let (look, idle) = self.patience();
            if since.elapsed() >= idle {
                return None;
            }
            let _idle = Idle::begin(self);
            let work = self.shard.work_of(&self.path);
            let _ = tokio::time::timeout(look, work.notified()).await;
        }
    }

    fn begin(&self, item: Box<Item>) -> Transaction {
        let hold_last = self.shard.with_core(|core, _| {
            let (owner, _) = core.owner();
            // More work and more hands: pass the word on.
            match owner.path(&self.path) {
                Some(path) => {
                    if path.idle > 0 && path.waiting() > 0 {
                        self.shard.work_of(&self.path).notify_one();
                    }
                    path.hold_last()
                }
                None => true,
            }
        });
        let transaction = transaction_of(&item, hold_last);
        self.messages.set(self.messages.get() + 1);
        self.item.replace(Some(item));
        transaction
    }
}

/// The transaction for an item. Its envelope is at hand: the owner rendered it.
fn transaction_of(item: &Item, hold_last: bool) -> Transaction {
    let Some(envelope) = &item.envelope else { return Transaction::default() };
    let recipients = item
        .recipients
        .iter()
        .filter_map(|r| {
            let recipient = envelope.recipients.get(usize::from(r.index))?;
            Some(TxRecipient {
                index: r.index,
                address: recipient.address.clone(),
                orcpt: recipient.orcpt.clone(),
                notify: recipient.notify,
            })
        })
        .collect();
    Transaction {
        id: item.id,
        reverse_path: envelope.reverse_path.clone(),
        recipients,
        prefix: item.prefix.as_ref().map(|p| p.to_vec()).unwrap_or_default(),
        body: item.body.clone().unwrap_or_else(|| queue::Body::from(Vec::new())),
        flags: item.flags,
        envid: envelope.envid.clone(),
        ret: envelope.ret,
        deliver_by: envelope
            .not_after
            .filter(|_| envelope.deliver_by_notify)
            .map(|until| DeliverBy { until, notify: true }),
        hold_last,
    }
}

impl Feed for PathFeed {
    fn next<'a>(&'a self, _conn: ConnId, peer: &'a PeerLimits) -> LocalFuture<'a, Option<Transaction>> {
        Box::pin(self.next_transaction(peer))
    }

    fn intent(&self, _conn: ConnId, _transaction: &Transaction, positions: &[usize]) -> Result<(), Stopped> {
        let now = self.shard.now();
        let item = self.item.borrow();
        let Some(item) = item.as_ref() else { return Err(Stopped("no item".into())) };
        self.shard.record_intents(item, positions, now).map_err(|stop| Stopped(stop.to_string()))
    }

    fn finished(&self, _conn: ConnId, _transaction: Transaction, results: Vec<(usize, Outcome)>) {
        let Some(mut item) = self.item.take() else { return };
        let mut outcomes: Vec<Option<Outcome>> = vec![None; item.recipients.len()];
        for (position, outcome) in results {
            if let Some(place) = outcomes.get_mut(position) {
                *place = Some(outcome);
            }
        }
        let untried = take_untried(&mut item, &mut outcomes);
        let outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
        let peer = Arc::clone(&self.peer.borrow());
        for outcome in &outcomes {
            self.shard.links.outbound.egress.report_reply(usize::from(self.path.source), outcome.enhanced);
        }
        let dsn = self.dsn.get();
        self.shard.with_core(|core, now| {
            let (owner, effects) = core.owner();
            if !outcomes.is_empty() {
                owner.finished(item, outcomes, &peer, dsn, now, effects);
            }
            if let Some(untried) = untried {
                owner.put_back_front(untried, effects);
            }
        });
        self.shard.wake_pump();
    }

    fn connected(&self, _conn: ConnId, connected: &Connected) {
        self.stands.set(true);
        let mut peer = PeerInfo::clone(&self.peer.borrow());
        peer.name.clone_from(&connected.host);
        peer.address = Some(connected.address);
        peer.source_address = connected.local.map(|a| a.ip()).or(peer.source_address);
        peer.tls = connected.tls.as_ref().map(|t| TlsFacts {
            cipher: t.cipher.clone(),
            version: t.protocol.to_owned(),
            ..TlsFacts::default()
        });
        self.peer.replace(Arc::new(peer));
        self.shard.with_core(|core, _| core.owner().0.connected(&self.path));
    }

    fn connect_failed(&self, _conn: ConnId, failure: &ConnectFailure) {
        let last = failure.tries.last().map(|t| t.host.clone()).unwrap_or_default();
        tracing::info!(site = self.path.site.as_str(), host = last, why = failure.outcome.text, "no connection");
        self.shard.with_core(|core, now| {
            let (owner, effects) = core.owner();
            owner.connected(&self.path);
            owner.connect_failed(&self.path, &failure.outcome, &last, now, effects);
        });
        self.shard.wake_pump();
    }

    fn closed(&self, _conn: ConnId, closed: &Closed) {
        if let Some(item) = self.item.take() {
            // Taken but never ended: a defect would have to be here; nothing is lost.
            self.shard.give_back(item, Returned::Back(MoveReason::NoRoom, None));
        }
        self.shard.with_core(|core, _| core.owner().0.closed(&self.path, closed.unexplained()));
        self.shard.wake_pump();
    }

    fn now(&self) -> queue::UnixSecs {
        self.shard.now().wall
    }
}

/// Splits off the recipients that have no outcome: they were not tried.
fn take_untried(item: &mut Item, outcomes: &mut Vec<Option<Outcome>>) -> Option<Box<Item>> {
    if outcomes.iter().all(Option::is_some) {
        return None;
    }
    let mut rest = item.clone();
    rest.recipients =
        item.recipients.iter().zip(outcomes.iter()).filter(|(_, o)| o.is_none()).map(|(r, _)| r.clone()).collect();
    item.recipients =
        item.recipients.iter().zip(outcomes.iter()).filter(|(_, o)| o.is_some()).map(|(r, _)| r.clone()).collect();
    outcomes.retain(Option::is_some);
    Some(Box::new(rest))
}

/// The outcome of items whose path lost its source.
#[must_use]
pub fn no_source() -> Outcome {
    Outcome {
        kind: OutcomeKind::Deferred,
        code: 451,
        enhanced: [4, 3, 5],
        text: "no egress source may send now".into(),
        class: BounceClass::RoutingErrors,
    }
}
