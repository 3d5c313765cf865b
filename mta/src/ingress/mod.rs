//! Mail in: listeners, connections, who may send how much.
//!
//! | file | what it answers |
//! | --- | --- |
//! | `listener` | the accept loop, and how many sessions there may be |
//! | `connection` | one connection from its first byte to its last: sockets, TLS and deadlines around a session |
//! | `proxy` | the PROXY header of a listed balancer |
//! | `guard` | back-off and rates, as a value |
//!
//! What a message becomes is decided elsewhere, behind [`Acceptor`].

mod connection;
mod guard;
mod listener;
mod proxy;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;

use arc_swap::ArcSwap;
use queue::Class;

use crate::smtp::codes::Reply;
use crate::smtp::server::{AuthAnswer, AuthQuestion, Now, ReceivedMail, ServerPolicy};
use crate::tls;

pub use connection::{serve, End};
pub use guard::{Guard, GuardLimits};
pub use listener::{listen, Sessions, Ticket};
pub use proxy::{parse as parse_proxy, Parsed as ParsedProxy, ProxyHeader};

/// What a connection asks of the shard it lives on.
pub trait Acceptor {
    /// Makes the mail durable. The text goes behind `250 2.0.0` (say `queued as <spool id>`) and means durable.
    fn finish_and_commit(&self, mail: Box<ReceivedMail>) -> impl Future<Output = Result<String, Reply>>;

    /// Has [`AuthQuestion::answer`] computed on the pool, unless a recent success answers it.
    fn verify(&self, question: Box<AuthQuestion>) -> impl Future<Output = AuthAnswer>;

    /// Why mail of this class and announced size (0: unknown) is not taken now; none when it is.
    fn refuses_now(&self, class: Class, size: u64) -> Option<Reply> {
        let _ = (class, size);
        None
    }

    /// The domain is known to take no mail (RFC 7505). Answers from a cache, never waits.
    fn has_null_mx(&self, domain: &str) -> bool {
        let _ = domain;
        false
    }

    /// Back-off and rates of this shard.
    fn guard(&self) -> &RefCell<Guard>;

    /// The time.
    fn now(&self) -> Now;

    /// The process stops: sessions end with 421 at their next reply.
    fn is_closing(&self) -> bool {
        false
    }
}

/// One listening port: what it is for, and the certificate it shows.
pub struct Door {
    /// Swapped whole; a session keeps the one it began with.
    pub policy: ArcSwap<ServerPolicy>,
    /// Absent where there is no TLS; then `policy.tls` is false too.
    pub tls: Option<tls::Server>,
}

impl Door {
    /// A door with this policy; STARTTLS is offered when there is a certificate.
    #[must_use]
    pub fn new(mut policy: ServerPolicy, tls: Option<tls::Server>) -> Self {
        policy.tls = tls.is_some();
        Self { policy: ArcSwap::from_pointee(policy), tls }
    }

    /// Another policy for the sessions to come.
    pub fn replace(&self, mut policy: ServerPolicy) {
        policy.tls = self.tls.is_some();
        self.policy.store(Arc::new(policy));
    }
}
