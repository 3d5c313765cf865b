//! Messages found on disk at start enter the core: what the spool holds and what the ack log says of it, together.

use queue::ack::RcptState;
use queue::scheduled::NewRecipient;
use queue::spool::Recovered;
use queue::{BounceClass, MoveReason, Outcome, OutcomeKind, SpoolId, UnixSecs};

use super::core::{Core, Now};
use super::decide::{Decision, UNKNOWNS_MAX};
use super::effect::Effect;
use super::events;
use super::item::{PathKey, Settled, Settlement};

/// After a start an intent without a verdict waits at least this long: the site may still be at work on it.
const UNKNOWN_WAIT_S: u32 = 30 * 60;

/// One message as found, owned.
#[derive(Debug)]
pub struct RecoveredMessage {
    /// Its key.
    pub id: SpoolId,
    /// Where the spool keeps it.
    pub place: (u32, u32),
    /// When it was accepted.
    pub received: UnixSecs,
    /// Not attempted before.
    pub not_before: Option<UnixSecs>,
    /// Given up at.
    pub not_after: Option<UnixSecs>,
    /// Its class.
    pub class: queue::Class,
    /// RFC 6710 priority.
    pub priority: i8,
    /// Bytes.
    pub size: u32,
    /// Egress pool by name.
    pub pool: String,
    /// Queue name of each recipient.
    pub queues: Vec<String>,
    /// What the ack log says of each recipient.
    pub states: Vec<RcptState>,
    /// Recipients with a verdict whose report is durable: only "done" is missing.
    pub reported: Vec<u16>,
}

impl RecoveredMessage {
    /// Puts together what the spool and the ack log say.
    #[must_use]
    pub fn new(found: &Recovered<'_>, mut state: impl FnMut(u16) -> RcptState) -> Self {
        let count = u16::try_from(found.queue_names.len()).unwrap_or(u16::MAX);
        Self {
            id: found.id,
            place: (found.at.segment, found.at.offset16),
            received: found.received,
            not_before: found.not_before,
            not_after: found.not_after,
            class: found.class,
            priority: found.priority,
            size: found.size,
            pool: found.pool.to_owned(),
            queues: found.queue_names.iter().map(|n| (*n).to_owned()).collect(),
            states: (0..count).map(&mut state).collect(),
            reported: Vec::new(),
        }
    }

    /// True when nothing is left to do for it.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.states.iter().all(|s| matches!(s, RcptState::Done))
    }
}

impl Core {
    /// A message found at start.
    pub fn recovered(&mut self, message: RecoveredMessage, now: Now) {
        if message.is_done() {
            self.effects.push_back(Effect::Retire(message.id, message.place));
            return;
        }
        let new = queue::scheduled::NewMessage {
            id: message.id,
            place: message.place,
            received: message.received,
            not_after: message.not_after,
            class: message.class,
            priority: message.priority,
            pool: self.policy.pool_number(&message.pool),
            tenant: 0,
            size: message.size,
        };
        let recipients = message.states.iter().enumerate().filter_map(|(index, state)| {
            let queue = message.queues.get(index)?;
            recipient(index, queue, state, message.not_before, now)
        });
        let Ok(key) = self.backlog.insert(&new, recipients, MoveReason::Recovered) else {
            tracing::error!(id = %message.id, "the backlog is full; the message waits on disk for the next start");
            return;
        };
        if message.states.iter().any(|s| end_of(s).is_some()) {
            self.repeat_consequences(&message, key, now);
        }
    }

    /// Verdicts whose consequences may be missing: events, reports and "done" are repeated; their ids are the same.
    fn repeat_consequences(&mut self, message: &RecoveredMessage, key: queue::scheduled::MsgKey, now: Now) {
        let ends: Vec<_> = message.states.iter().map(end_of).collect();
        let mut taken = Vec::new();
        let has_end = |index: u16| matches!(ends.get(usize::from(index)), Some(Some(_)));
        self.backlog.take_recipients(key, has_end, &mut taken);
        let mut recipients = Vec::new();
        for t in taken {
            if message.reported.contains(&t.index) {
                // The report left after its event was synced: nothing is missing but this.
                self.done(t.rcpt, t.id, t.index);
                continue;
            }
            let Some(Some((outcome, attempts))) = ends.get(usize::from(t.index)) else { continue };
            let decision = Decision { outcome: outcome.clone(), attempts: *attempts, unknowns: t.unknowns, due: None };
            if outcome.class == BounceClass::PossibleDuplicate {
                // Decided here and now; the others have their verdict in the log.
                self.effects.push_back(Effect::Ack(events::verdict(message.id, t.index, &decision, now.wall)));
            }
            // Whether the peer would have reported a delivery is forgotten: better to say "relayed" than nothing.
            let relayed = outcome.kind == OutcomeKind::Delivered;
            recipients.push(Settled {
                key: t.rcpt,
                index: t.index,
                decision,
                remote: String::new(),
                event: None,
                relayed,
            });
        }
        if recipients.is_empty() {
            return;
        }
        let settlement = Settlement {
            path: PathKey::none(),
            class: message.class,
            id: message.id,
            place: message.place,
            envelope: None,
            recipients,
        };
        self.effects.push_back(Effect::Load(Box::new(settlement)));
    }

    /// Everything found at start is here.
    pub fn recovery_done(&mut self) {
        tracing::info!(totals = ?self.backlog.totals(), "everything on disk is scheduled");
    }
}

/// The end a recipient has come to, with its attempts: by a verdict, or because the second Unknown is the last.
fn end_of(state: &RcptState) -> Option<(Outcome, u16)> {
    match state {
        RcptState::Decided { kind, code, attempts } => Some((repeated(*kind, *code), *attempts)),
        RcptState::Unknown { attempts, unknowns, .. } if *unknowns >= UNKNOWNS_MAX => {
            let outcome = Outcome {
                kind: OutcomeKind::Failed,
                code: 0,
                enhanced: [5, 4, 2],
                text: "the process ended while the last byte was on its way; it may have been delivered".into(),
                class: BounceClass::PossibleDuplicate,
            };
            Some((outcome, *attempts))
        }
        _ => None,
    }
}

/// The outcome of a verdict whose words are gone.
fn repeated(kind: OutcomeKind, code: u16) -> Outcome {
    let class = match kind {
        OutcomeKind::Failed => BounceClass::PolicyRelated,
        _ => BounceClass::None,
    };
    let enhanced = match kind {
        OutcomeKind::Failed => [5, 0, 0],
        _ => [2, 0, 0],
    };
    Outcome { kind, code, enhanced, text: "the reply was read before a restart".into(), class }
}

fn recipient<'a>(
    index: usize,
    queue: &'a str,
    state: &RcptState,
    not_before: Option<UnixSecs>,
    now: Now,
) -> Option<NewRecipient<'a>> {
    let rcpt = u16::try_from(index).ok()?;
    let base = NewRecipient { rcpt, queue, attempts: 0, unknowns: 0, due: now.wall, hold: None };
    Some(match state {
        RcptState::Done => return None,
        RcptState::Open { attempts, due, unknowns } => NewRecipient {
            attempts: *attempts,
            unknowns: *unknowns,
            due: due.or(not_before).unwrap_or(now.wall),
            ..base
        },
        RcptState::Unknown { attempts, unknowns, .. } if *unknowns >= UNKNOWNS_MAX => {
            NewRecipient { attempts: *attempts, unknowns: *unknowns, due: UnixSecs(u32::MAX), ..base }
        }
        RcptState::Unknown { attempts, unknowns, since, due } => NewRecipient {
            attempts: *attempts,
            unknowns: *unknowns,
            due: due.unwrap_or(UnixSecs(since.0.saturating_add(UNKNOWN_WAIT_S))),
            ..base
        },
        // Taken out again at once, to repeat its consequences.
        RcptState::Decided { attempts, .. } => NewRecipient { attempts: *attempts, due: UnixSecs(u32::MAX), ..base },
        RcptState::Held(reason) => NewRecipient { hold: Some(*reason), ..base },
    })
}
