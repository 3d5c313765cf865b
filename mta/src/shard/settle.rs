//! The home's side of an outcome: back into the schedule, or on to the consequences. The verdict is in the ack log
//! already; final means that its consequences are durable before "done" is.

use std::sync::Arc;
use std::time::Duration;

use queue::scheduled::{QueueKey, RcptKey, Taken};
use queue::{BounceClass, Class, Envelope, HoldReason, MoveReason, Outcome, OutcomeKind, QueueName, SpoolId};

use super::core::{AfterSync, Core, Now, TURN};
use super::decide::{decide, Before};
use super::effect::{Effect, ReportJob, ReportRecipient, Returned};
use super::events;
use super::item::{Item, ItemRecipient, PathKey, Settled, Settlement};
use crate::bounce::consequence::{consequence, Action, Consequence, Said, Tried};
use crate::dns::RouteError;

/// A queue whose path's owner had no room is looked at again after this.
const NO_ROOM_WAIT: Duration = Duration::from_secs(5);
/// Expired recipients looked at in one step.
const EXPIRED_TURN: usize = 1000;

impl Core {
    /// A transaction of one of our messages ended.
    pub fn settled(&mut self, settlement: Settlement, now: Now) {
        let Settlement { path, class, id, place, envelope, recipients } = settlement;
        self.room_again(&path, class, recipients.len());
        let said = envelope.as_deref().map_or(Vec::new(), |envelope| self.said(id, envelope, &recipients, now));
        let mut report = Vec::new();
        for (at, settled) in recipients.into_iter().enumerate() {
            let action = said.iter().find(|s| s.tried == at).map(|s| s.action);
            report.extend(self.settle_one(id, envelope.as_deref(), settled, action));
        }
        if !report.is_empty() {
            self.report(ReportJob { id, place, envelope, when: now.millis, recipients: report });
        }
    }

    /// What the outcomes ask to be reported, RFC 3461 section 5.2.
    fn said(&mut self, id: SpoolId, envelope: &Envelope, recipients: &[Settled], now: Now) -> Vec<Said> {
        let late = now.wall.since(envelope.received.secs()) >= self.policy.delay_report_s;
        let tried: Vec<Tried<'_>> = recipients
            .iter()
            .map(|settled| Tried {
                recipient: usize::from(settled.index),
                outcome: &settled.decision.outcome,
                peer_reports: !settled.relayed,
                delay_due: late && !self.delayed.contains(&(id, settled.index)),
            })
            .collect();
        match consequence(envelope, &tried, &self.policy.return_domains) {
            // The events of the attempt say it already.
            Consequence::None | Consequence::Event { .. } => Vec::new(),
            Consequence::Message { said } => said,
        }
    }

    fn settle_one(
        &mut self,
        id: SpoolId,
        envelope: Option<&Envelope>,
        settled: Settled,
        action: Option<Action>,
    ) -> Option<ReportRecipient> {
        let Settled { key, index, decision, remote, event, .. } = settled;
        let last = decision.due.is_none();
        if let Some(due) = decision.due {
            let reason = match decision.outcome.kind {
                OutcomeKind::Unknown => MoveReason::UnknownRetry,
                _ => MoveReason::Retry,
            };
            self.backlog.put_back(key, due, decision.attempts, decision.unknowns, reason);
            self.forget_fresh(id);
        } else {
            self.delayed.remove(&(id, index));
        }
        let then = (last && action.is_none()).then_some(AfterSync::Done(key, id, index));
        if event.is_some() || then.is_some() {
            self.note(event, then);
        }
        let action = action?;
        if action == Action::Delayed {
            self.delayed.insert((id, index));
        }
        Some(ReportRecipient {
            key,
            index,
            attempts: decision.attempts,
            last,
            outcome: decision.outcome,
            action,
            remote,
            retry_until: envelope.map(|e| self.policy.give_up(e)),
        })
    }

    /// Room on a path: queues that waited for it get their turn.
    pub(super) fn room_again(&mut self, path: &PathKey, class: Class, count: usize) {
        let key = (path.clone(), class);
        let Some(outstanding) = self.outstanding.get_mut(&key) else { return };
        *outstanding = outstanding.saturating_sub(count);
        let left = *outstanding;
        if left == 0 {
            self.outstanding.remove(&key);
        }
        if left <= self.policy.window(class) / 2 {
            for queue in self.waiting_room.remove(&key).into_iter().flatten() {
                self.backlog.wake(queue);
            }
        }
    }

    /// An item came back without an attempt.
    pub fn returned(&mut self, item: Item, how: &Returned, now: Now) {
        self.room_again(&item.path, item.class, item.recipients.len());
        let keys: Vec<RcptKey> = item.recipients.iter().map(|r| r.key).collect();
        match how {
            Returned::Back(reason, until) => {
                self.backlog.drain_ready_back(&keys, until.unwrap_or(now.wall), *reason);
                if *reason == MoveReason::NoRoom {
                    self.pause_queues(&keys, item.class, now);
                }
            }
            Returned::Held(reason) => {
                for recipient in &item.recipients {
                    self.hold(item.id, recipient, *reason);
                }
            }
        }
    }

    /// The owner had no room: other shards fill it, so no settlement of ours will say when there is some. Without a
    /// pause the queue would go back and forth without end.
    fn pause_queues(&mut self, keys: &[RcptKey], class: Class, now: Now) {
        let mut queues: Vec<QueueKey> =
            keys.iter().filter_map(|key| self.backlog.explain(*key)).map(|info| info.queue).collect();
        queues.dedup();
        for queue in queues {
            self.backlog.stall(queue, Some(class), now.wall.plus(NO_ROOM_WAIT));
        }
    }

    /// Holds a recipient, durably.
    fn hold(&mut self, id: SpoolId, recipient: &ItemRecipient, reason: HoldReason) {
        self.backlog.hold(recipient.key, reason);
        self.effects.push_back(Effect::Ack(events::held(id, recipient, reason, self.wall)));
    }

    /// The queue's route is refused: for now, or for good.
    pub(super) fn refuse_route(&mut self, queue: QueueKey, class: Class, error: &RouteError, now: Now) {
        let mut taken = Vec::new();
        self.backlog.take(queue, class, TURN, &mut taken);
        let outcome = route_outcome(error);
        self.end_without_attempt(&taken, &outcome, now);
    }

    /// Recipients past their end.
    pub(super) fn expire(&mut self, budget: usize, now: Now) {
        let mut taken = Vec::new();
        self.backlog.expired(EXPIRED_TURN, budget, &mut taken);
        if taken.is_empty() {
            return;
        }
        let outcome = Outcome {
            kind: OutcomeKind::Failed,
            code: 0,
            enhanced: [4, 4, 7],
            text: "delivery time expired".into(),
            class: BounceClass::MessageExpired,
        };
        self.end_without_attempt(&taken, &outcome, now);
    }

    /// Decides on recipients that no connection was made for; their envelope must be loaded for events and reports.
    fn end_without_attempt(&mut self, taken: &[Taken], outcome: &Outcome, now: Now) {
        for group in taken.chunk_by(|a, b| a.msg == b.msg) {
            let Some(first) = group.first() else { continue };
            let name = self.backlog.queue_name(first.queue).map(QueueName::parse).unwrap_or_default();
            let rule = self.policy.retry_of(&name);
            let mut recipients = Vec::with_capacity(group.len());
            for t in group {
                let before = Before {
                    attempts: t.attempts,
                    unknowns: t.unknowns,
                    received: t.received,
                    not_after: t.not_after,
                    clock_trusted: self.owner.clock_trusted(now),
                };
                let random = self.next_random() as u32;
                let decision = decide(outcome.clone(), before, &rule, now.wall, random);
                self.effects.push_back(Effect::Ack(events::verdict(t.id, t.index, &decision, now.wall)));
                recipients.push(Settled {
                    key: t.rcpt,
                    index: t.index,
                    decision,
                    remote: String::new(),
                    event: None,
                    relayed: false,
                });
            }
            let settlement = Settlement {
                path: PathKey::none(),
                class: first.class,
                id: first.id,
                place: first.place,
                envelope: self.fresh_envelope(first.id),
                recipients,
            };
            match settlement.envelope {
                Some(_) => self.loaded(settlement, now),
                None => self.effects.push_back(Effect::Load(Box::new(settlement))),
            }
        }
    }

    /// The envelope of a settlement made without an attempt is there: events and consequences follow.
    pub fn loaded(&mut self, mut settlement: Settlement, now: Now) {
        if let Some(envelope) = settlement.envelope.clone() {
            for settled in &mut settlement.recipients {
                settled.event = events::without_attempt(&envelope, settlement.id, settled, now);
            }
        }
        self.settled(settlement, now);
    }

    /// A report must be written; not before the verdicts it is about are synced.
    fn report(&mut self, job: ReportJob) {
        self.note(None, Some(AfterSync::Report(Box::new(job))));
    }

    /// A report is durable (or none was needed): its recipients are done.
    pub fn reported(&mut self, job: &ReportJob) {
        for recipient in job.recipients.iter().filter(|r| r.last) {
            self.done(recipient.key, job.id, recipient.index);
        }
    }

    fn fresh_envelope(&self, id: SpoolId) -> Option<Arc<Envelope>> {
        self.fresh.get(&id).map(|f| Arc::clone(&f.envelope))
    }
}

/// A refused route as an outcome.
fn route_outcome(error: &RouteError) -> Outcome {
    let (kind, code, enhanced, text, class) = match error {
        RouteError::Temporary { code, enhanced, text, .. } => {
            (OutcomeKind::Deferred, *code, *enhanced, text.clone(), BounceClass::DnsFailure)
        }
        RouteError::Permanent { code, enhanced, text } => {
            (OutcomeKind::Failed, *code, *enhanced, text.clone(), BounceClass::BadDomain)
        }
    };
    Outcome { kind, code, enhanced, text, class }
}
