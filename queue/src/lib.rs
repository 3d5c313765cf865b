//! The spool and the queues of Ringpost.
//!
//! Durable where it must be, pure where it can be: this crate opens no socket and knows no protocol. What is on
//! disk is described byte by byte in `FORMAT.md`; what a crash at each point leads to is in `STATES.md`.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`envelope`] | who a message is from and for, and what was promised about it |
//! | [`spool`] | where the bytes are, and when they are durable |
//! | [`ack`] | which recipients are in flight, decided, or done |
//! | [`scheduled`] | which recipient is due when |
//! | [`ready`] | which recipient goes next on one path |
//! | [`hold`] | what an operator or a fault has stopped |

pub mod ack;
pub mod body;
pub mod disk;
pub mod envelope;
pub mod error;
pub mod hold;
pub mod id;
pub mod limits;
pub mod name;
pub mod outcome;
pub mod ready;
pub mod reason;
pub mod scheduled;
pub mod spool;
pub mod sys;
pub mod time;

pub use body::Body;
pub use envelope::{BodyFlags, BodyHash, Class, DsnRet, EnvRecipient, Envelope, MessageKind, Notify};
pub use id::SpoolId;
pub use name::QueueName;
pub use outcome::{BounceClass, Outcome, OutcomeKind};
pub use reason::{HoldReason, MoveReason};
pub use time::{UnixMillis, UnixSecs};
