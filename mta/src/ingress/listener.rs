//! The accept loop of one port on one shard, and how many sessions there may be.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::connection::{is_exempt, serve};
use super::{Acceptor, Door};
use crate::net::{self, Listener, Stream};
use crate::smtp::codes::reply;
use crate::smtp::server::ListenerRole;

/// How long a refused peer has to take its 421, in seconds.
const REFUSAL_SECONDS: u32 = 5;
/// Pause behind a failed accept: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Counts the sessions of one shard, and numbers them.
#[derive(Debug)]
pub struct Sessions {
    max: usize,
    per_address_max: u32,
    open: Cell<usize>,
    refused: Cell<u64>,
    by_address: RefCell<HashMap<IpAddr, u32>>,
    next: Cell<u64>,
}

/// A place taken by a session; given back when dropped.
pub struct Ticket {
    sessions: Rc<Sessions>,
    address: Option<IpAddr>,
    /// Number of the session.
    pub id: u64,
}

impl Sessions {
    /// Room for `max` sessions, `per_address_max` from one address. Numbers begin with the shard's own.
    #[must_use]
    pub fn new(shard: u16, max: usize, per_address_max: u32) -> Rc<Self> {
        Rc::new(Self {
            max,
            per_address_max,
            open: Cell::new(0),
            refused: Cell::new(0),
            by_address: RefCell::new(HashMap::new()),
            next: Cell::new(u64::from(shard) << 48 | 1),
        })
    }

    /// A place for a session from `address`; none when all are taken. No address: not counted by address.
    #[must_use]
    pub fn admit(self: &Rc<Self>, address: Option<IpAddr>) -> Option<Ticket> {
        let mut by_address = self.by_address.borrow_mut();
        let own = address.and_then(|address| by_address.get(&address).copied()).unwrap_or(0);
        if self.open.get() >= self.max || own >= self.per_address_max {
            self.refused.set(self.refused.get() + 1);
            return None;
        }
        if let Some(address) = address {
            by_address.insert(address, own + 1);
        }
        self.open.set(self.open.get() + 1);
        let id = self.next.get();
        self.next.set(id + 1);
        Some(Ticket { sessions: Rc::clone(self), address, id })
    }

    /// Sessions open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Connections turned away since the start.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.sessions.open.set(self.sessions.open.get().saturating_sub(1));
        let Some(address) = self.address else {
            return;
        };
        let mut by_address = self.sessions.by_address.borrow_mut();
        match by_address.get_mut(&address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                by_address.remove(&address);
            }
        }
    }
}

/// Accepts connections and serves each in a task of its own, until the process stops (see [`Acceptor::is_closing`])
/// or the task is aborted; an accept under way loses nothing.
pub async fn listen<A: Acceptor + 'static>(
    listener: Listener,
    door: Arc<Door>,
    acceptor: Rc<A>,
    sessions: Rc<Sessions>,
) {
    while !acceptor.is_closing() {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; raise the limit of open files if this goes on");
                net::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let policy = door.policy.load_full();
        let peer = stream.peer_addr();
        let counted = (!is_exempt(&policy, peer)).then(|| peer.ip().to_canonical());
        let Some(ticket) = sessions.admit(counted) else {
            if policy.role != ListenerRole::SubmissionTls {
                net::spawn_local(turn_away(stream));
            }
            continue;
        };
        let (door, acceptor) = (Arc::clone(&door), Rc::clone(&acceptor));
        net::spawn_local(async move {
            // The whole ticket must move in here: naming only its number would copy that and free the place at once.
            let place = ticket;
            let end = serve(stream, &door, &*acceptor, place.id).await;
            tracing::trace!(session = place.id, ?end, "session over");
            drop(place);
        });
    }
}

/// RFC 5321 section 3.1: 421 in place of a greeting.
async fn turn_away(stream: Stream) {
    let mut out = Vec::new();
    reply::TOO_MANY_SESSIONS.write(&mut out);
    stream.set_deadline(Some(REFUSAL_SECONDS));
    // The peer may be gone; nothing is left to tell it then.
    let _ = stream.write_all(out).await;
    stream.shutdown_write();
}
