//! The server session: bytes in, replies and events out.
//!
//! [`Session`] is a value. It opens no socket, reads no clock and draws no random number; it never waits. What it
//! can't decide alone it asks: [`Gate`] for what only the shard knows and answers at once, [`Step`] for what takes
//! time (a TLS handshake, a slow password hash, the disk).
//!
//! Calling order: [`Session::new`], [`Session::greeting`], then [`Session::feed`] with whatever the peer sent. When
//! `feed` gives back another step than [`Step::More`] the rest of the input is kept by the caller; the step is
//! carried out, its `resume_*` method is called, and the rest is fed again. `out` is written to the peer before the
//! session waits for more input.
//!
//! | file | what it answers |
//! | --- | --- |
//! | `policy` | who may send what: roles, credentials, networks, own addresses |
//! | `session` | lines, modes, the error allowance |
//! | `greet` | EHLO, HELO, what is offered |
//! | `transaction` | MAIL, RCPT, RSET |
//! | `content` | DATA and BDAT |
//! | `login` | AUTH |
//! | `xclient` | XCLIENT |
//! | `mail` | what comes out: a received mail |

mod content;
mod greet;
mod login;
mod mail;
mod policy;
mod session;
#[cfg(test)]
mod tests;
mod transaction;
mod xclient;

pub use crate::config::Network;
pub use login::{AuthAnswer, AuthQuestion};
pub use mail::{Peer, Protocol, ReceivedMail, TlsFacts};
pub use policy::{
    Credential, DomainRule, InboundKind, InboundRule, ListenerRole, LocalRule, ServerPolicy, SteerScope, TrustedNetwork,
};
pub use session::{Asking, Gate, Now, OpenGate, Session, Step};
