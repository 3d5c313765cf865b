//! One path: an egress source to a site, its ready queue and the counts of its connections.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::ready::{Ordering, ReadyQueue};
use queue::{Class, Outcome, OutcomeKind, SpoolId};

use super::core::Now;
use super::effect::Effect;
use super::item::{Item, PathKey};
use super::leases::{Leases, WideKey};
use super::owner::split;
use super::router::Plan;
use crate::shaping::lease::WideLimit;
use crate::shaping::{Admit, PathShaper, Rule};

/// Transactions a site must have answered on reused connections before the last byte of a message is sent without
/// waiting for the RCPT replies: this bounds how many outcomes can be Unknown.
const TRUST_AFTER: u32 = 100;

/// An egress source to a site.
pub struct Path {
    /// Its name.
    pub key: PathKey,
    /// How the site is reached.
    pub plan: Arc<Plan>,
    /// Those that wait for work.
    pub idle: u32,
    idle_max: Duration,
    connecting: u32,
    /// Transactions answered on reused connections since the last unexplained close.
    pub answered: u32,
    queue: ReadyQueue<Box<Item>>,
    /// The rest of an item that was too large for one transaction.
    rest: Option<Box<Item>>,
    /// Arrived in this step: recipients of one message join here, across domains.
    #[expect(clippy::vec_box, reason = "items move between queues as boxes; unboxing here would copy them twice")]
    staged: Vec<Box<Item>>,
    staged_by_id: HashMap<SpoolId, usize>,
    /// Items on the pool for this path.
    pub(super) rendering: usize,
    shaper: PathShaper,
    held: Option<(Instant, Rule)>,
}

impl Path {
    /// A path with nothing on it.
    #[must_use]
    pub fn new(key: PathKey, plan: Arc<Plan>, ready_max: usize, idle_max: Duration) -> Self {
        let shaper = PathShaper::new(plan.limits());
        Self {
            key,
            plan,
            shaper,
            idle: 0,
            idle_max,
            connecting: 0,
            answered: 0,
            queue: ReadyQueue::new(ready_max),
            rest: None,
            staged: Vec::new(),
            staged_by_id: HashMap::new(),
            rendering: 0,
            held: None,
        }
    }

    /// True while the last byte of a message must wait for the RCPT replies.
    #[must_use]
    pub fn hold_last(&self) -> bool {
        self.answered < TRUST_AFTER
    }

    /// Items that wait here.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len() + usize::from(self.rest.is_some()) + self.staged.len()
    }

    /// True when one more item of this class would find room, counted with those on the pool and staged.
    #[must_use]
    pub fn has_room(&self, class: Class) -> bool {
        self.queue.room(class) > self.rendering + self.staged.len()
    }

    /// Puts an item where [`Path::unstage`] finds it; recipients of one message become one item.
    pub fn stage(&mut self, item: Box<Item>) {
        if let Some(same) = self.staged_by_id.get(&item.id).and_then(|at| self.staged.get_mut(*at)) {
            if same.form == item.form && same.home == item.home {
                same.recipients.extend(item.recipients);
                return;
            }
        }
        self.staged_by_id.insert(item.id, self.staged.len());
        self.staged.push(item);
    }

    /// Moves what was staged into the ready queue; returns what has no room there.
    pub fn unstage(&mut self) -> Vec<Box<Item>> {
        let mut back = Vec::new();
        if self.staged.is_empty() {
            return back;
        }
        self.staged_by_id.clear();
        for item in self.staged.drain(..) {
            let at = Ordering { class: item.class, priority: item.priority, tenant: item.tenant };
            if let Err(item) = self.queue.push(at, item) {
                back.push(item);
            }
        }
        back
    }

    /// Sees to it that somebody takes what waits: wakes idle connections, or opens one where the limits allow it.
    pub fn dispatch(&mut self, leases: &mut Leases, now: Now, effects: &mut VecDeque<Effect>) {
        let waiting = self.waiting();
        if waiting == 0 || !self.queue.tick(now.wall) {
            return;
        }
        if self.idle > 0 {
            effects.push_back(Effect::Wake(self.key.clone()));
        }
        let wanted = u32::try_from(waiting).unwrap_or(u32::MAX).saturating_sub(self.idle + self.connecting);
        for left in (1..=wanted).rev() {
            let wide = self.wide();
            let admitted = match wide {
                None => self.shaper.admit_connection(&mut [], now.steady),
                Some((key, limit)) => self.shaper.admit_connection(&mut [leases.holder(key, limit)], now.steady),
            };
            match admitted {
                Admit::Go => {
                    self.connecting += 1;
                    effects.push_back(Effect::Connect(self.key.clone()));
                }
                Admit::Wait { until, rule } => {
                    // Asked for when all paths were looked at: they add up, whichever comes last.
                    wide.into_iter().for_each(|(key, _)| leases.want(key, left));
                    self.held = Some((until, rule));
                    break;
                }
            }
        }
    }

    /// A connection stands (or failed to): it counts as being made no longer.
    pub fn connected(&mut self) {
        self.connecting = self.connecting.saturating_sub(1);
    }

    /// A connection is gone.
    pub fn closed(&mut self, leases: &mut Leases) {
        self.shaper.closed();
        if let Some((key, _)) = self.wide() {
            leases.release(key);
        }
    }

    /// The wider limit this path is under.
    fn wide(&self) -> Option<(WideKey, WideLimit)> {
        Leases::key_of(self.key.source, self.plan.route.provider, self.shaper.limits())
    }

    /// Connections open or being opened.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.shaper.open()
    }

    /// True when more connections are open than the site's mood allows.
    #[must_use]
    pub fn too_many(&self, now: Now) -> bool {
        self.shaper.open() > self.shaper.most_open(now.steady)
    }

    /// True when the limits let a message leave now; then it counts as gone.
    pub fn may_send(&mut self, now: Now) -> bool {
        if self.waiting() == 0 {
            return false;
        }
        match self.shaper.admit_message(&mut [], now.steady) {
            Admit::Go => true,
            Admit::Wait { until, rule } => {
                self.held = Some((until, rule));
                false
            }
        }
    }

    /// The next item, cut to what one transaction may hold.
    pub fn pop(&mut self, recipients: usize, domains: usize) -> Option<Box<Item>> {
        let mut item = match self.rest.take() {
            Some(rest) => rest,
            None => self.queue.pop()?,
        };
        self.rest = split(&mut item, recipients, domains);
        Some(item)
    }

    /// Puts recipients that were not tried before everything else.
    pub fn put_back_front(&mut self, item: Box<Item>) {
        match &mut self.rest {
            // Of the same message: they go together again.
            Some(rest) if rest.id == item.id && rest.form == item.form => rest.recipients.extend(item.recipients),
            Some(_) => self.staged.push(item),
            None => self.rest = Some(item),
        }
    }

    /// Learns from the outcomes of a transaction.
    pub fn observe(&mut self, outcomes: &[Outcome], now: Now) {
        if outcomes.iter().all(|o| o.kind != OutcomeKind::Unknown) {
            self.answered = self.answered.saturating_add(1);
        } else {
            self.answered = 0;
        }
        for outcome in outcomes {
            let change = match outcome.kind {
                OutcomeKind::Delivered => self.shaper.observe_delivery(now.steady),
                _ if outcome.code > 0 => {
                    self.shaper.observe_reply(outcome.code, outcome.enhanced, &outcome.text, now.steady)
                }
                _ => None,
            };
            if let Some(change) = change {
                tracing::info!(site = %self.key.site.as_str(), ?change, "the pace of a path changed");
            }
        }
    }

    /// Takes out everything that waits.
    pub fn drain(&mut self) -> Vec<Box<Item>> {
        self.staged_by_id.clear();
        let mut items: Vec<_> = self.rest.take().into_iter().collect();
        items.append(&mut self.staged);
        items.extend(self.queue.drain());
        items
    }

    /// Messages a connection may carry.
    #[must_use]
    pub fn messages_per_connection(&self) -> u32 {
        self.shaper.limits().messages_per_connection
    }

    /// How long an idle connection is kept.
    #[must_use]
    pub fn idle_time(&self) -> Duration {
        self.shaper.limits().idle.min(self.idle_max)
    }

    /// Which rule held something last, and until when.
    #[must_use]
    pub fn held(&self) -> Option<(Instant, Rule)> {
        self.held
    }
}
