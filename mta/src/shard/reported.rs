//! Reports that were durable when the process died, though "done" was not noted any more: found again at a start, so
//! that nobody gets them twice. On the recovery thread; reads envelopes only when there is something to recognise.

use std::collections::VecDeque;

use queue::ack::RcptState;
use queue::spool::{RecordRef, Recovered, Spool};
use queue::{SpoolId, UnixSecs};

use super::recovery::RecoveredMessage;
use crate::bounce::dsn;

/// "Done" follows a report within milliseconds, unless the ack log stood still; a report older than this at the time
/// of the end was followed by its "done".
const YOUNG_S: u32 = 60;
/// Most records looked at.
const YOUNG_MAX: usize = 200_000;

/// What recovery keeps back until everything is found.
#[derive(Default)]
pub struct Reported {
    decided: Vec<RecoveredMessage>,
    young: VecDeque<(SpoolId, RecordRef, UnixSecs)>,
    newest: UnixSecs,
}

impl Reported {
    /// Takes note of a message; gives it back unless it must wait for [`Reported::settle`].
    pub fn note(&mut self, found: &Recovered<'_>, message: RecoveredMessage) -> Option<RecoveredMessage> {
        if found.queue_names.len() == 1 {
            self.newest = self.newest.max(found.received);
            self.young.push_back((found.id, found.at, found.received));
            while self.young.len() > YOUNG_MAX || self.young.front().is_some_and(|(.., at)| self.is_old(*at)) {
                self.young.pop_front();
            }
        }
        if message.states.iter().any(|state| matches!(state, RcptState::Decided { .. })) {
            self.decided.push(message);
            return None;
        }
        Some(message)
    }

    fn is_old(&self, received: UnixSecs) -> bool {
        self.newest.since(received) > YOUNG_S
    }

    /// The messages that waited, each with the recipients about whom a report is in the spool.
    #[must_use]
    pub fn settle(mut self, spool: &Spool) -> Vec<RecoveredMessage> {
        self.decided.sort_by_key(|message| message.id);
        let Some(first) = self.decided.first().map(|message| message.id) else { return self.decided };
        // A report is younger than what it is about.
        for (id, at, _) in self.young.iter().filter(|(id, ..)| *id > first) {
            let about = spool.load_envelope(*id, *at).ok().and_then(|envelope| envelope.report_of);
            let Some((about, attempt)) = about else { continue };
            let Ok(place) = self.decided.binary_search_by_key(&about, |message| message.id) else { continue };
            // What can't be read now is reported again: better twice than never.
            let Ok(report) = spool.load(*id, *at) else { continue };
            if let Some(message) = self.decided.get_mut(place) {
                close(spool, message, attempt, &dsn::reported(&report.body));
            }
        }
        self.decided
    }
}

/// Marks the recipients of this attempt whose addresses a report names.
fn close(spool: &Spool, message: &mut RecoveredMessage, attempt: u32, named: &[String]) {
    let place = RecordRef { segment: message.place.0, offset16: message.place.1 };
    let Ok(envelope) = spool.load_envelope(message.id, place) else { return };
    for (index, state) in (0u16..).zip(&message.states) {
        let RcptState::Decided { attempts, .. } = state else { continue };
        let address = envelope.recipients.get(usize::from(index)).map(|recipient| &recipient.address);
        if u32::from(*attempts) == attempt && address.is_some_and(|address| named.contains(address)) {
            message.reported.push(index);
        }
    }
}
