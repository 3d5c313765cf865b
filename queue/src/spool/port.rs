//! Where a shard hears what became of its commits: one queue per shard, woken once for many answers.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::commit::RecordRef;
use crate::error::Refusal;

/// What a commit came to.
pub type Answer = Result<RecordRef, Refusal>;

pub(super) struct PortShared {
    answers: Mutex<Vec<(u64, Answer)>>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl PortShared {
    /// Adds answers; wakes the shard when it had none waiting, so that a batch costs one wake-up.
    pub(super) fn deliver(&self, batch: &mut Vec<(u64, Answer)>) {
        if batch.is_empty() {
            return;
        }
        let was_empty = {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            let was_empty = answers.is_empty();
            answers.append(batch);
            was_empty
        };
        if was_empty {
            (self.wake)();
        }
    }
}

/// A shard's end of the spool. Cloning it gives another handle to the same queue.
#[derive(Clone)]
pub struct Port(pub(super) Arc<PortShared>);

impl Port {
    pub(super) fn new(wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self(Arc::new(PortShared { answers: Mutex::new(Vec::new()), wake }))
    }

    /// Moves all answers that wait to the end of `into`, each with the token of its commit.
    pub fn drain(&self, into: &mut Vec<(u64, Answer)>) {
        let mut answers = self.0.answers.lock().unwrap_or_else(PoisonError::into_inner);
        into.append(&mut answers);
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Port")
    }
}

/// What the writer of new mail is answered by. Dropped without an answer (a thread died) it answers by itself: nobody
/// waits for ever.
pub(super) struct Ticket {
    port: Option<Arc<PortShared>>,
    token: u64,
}

impl Ticket {
    pub(super) fn new(port: &Port, token: u64) -> Self {
        Self { port: Some(Arc::clone(&port.0)), token }
    }

    /// Nobody waits for it any more: the caller has been told otherwise.
    pub(super) fn disarm(mut self) {
        self.port = None;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(port) = self.port.take() {
            port.deliver(&mut vec![(self.token, Err(Refusal::Closing))]);
        }
    }
}

/// Answers for one port.
type Batch = Vec<(u64, Answer)>;

/// Gathers answers by port, so that each port is locked and woken once.
#[derive(Default)]
pub(super) struct Answers {
    ports: Vec<(Arc<PortShared>, Batch)>,
}

impl Answers {
    pub(super) fn add(&mut self, mut ticket: Ticket, answer: Answer) {
        let Some(port) = ticket.port.take() else { return };
        let known = self.ports.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &port));
        match known {
            Some((_, batch)) => batch.push((ticket.token, answer)),
            None => self.ports.push((port, vec![(ticket.token, answer)])),
        }
    }

    pub(super) fn deliver(&mut self) {
        for (port, batch) in &mut self.ports {
            port.deliver(batch);
        }
        // A shard that went away is forgotten here; the others keep their room.
        self.ports.retain(|(port, _)| Arc::strong_count(port) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_port_is_woken_once_until_it_is_drained() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let port = Port::new(Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        let mut answers = Answers::default();
        for token in 0..3 {
            answers.add(Ticket::new(&port, token), Ok(RecordRef::default()));
        }
        answers.deliver();
        answers.add(Ticket::new(&port, 3), Err(Refusal::Closing));
        answers.deliver();
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        let mut out = Vec::new();
        port.drain(&mut out);
        assert_eq!(out.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1, 2, 3]);
        answers.add(Ticket::new(&port, 4), Ok(RecordRef::default()));
        answers.deliver();
        assert_eq!(woken.load(Ordering::SeqCst), 2);
        drop(Ticket::new(&port, 5));
        Ticket::new(&port, 6).disarm();
        out.clear();
        port.drain(&mut out);
        assert_eq!(out, [(4, Ok(RecordRef::default())), (5, Err(Refusal::Closing))], "nobody waits for ever");
    }
}
