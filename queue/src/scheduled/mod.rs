//! Scheduled queues: which recipient is due when.
//!
//! [`Backlog`] holds every queued recipient of one shard. It is a plain value: no thread, no clock, no random source;
//! time comes in, decisions go out. A single-recipient message costs 68 bytes, a further recipient 28, a
//! distinct queue name 96 bytes and its text.
//!
//! The way of a recipient: [`Backlog::insert`] -> (its time comes in [`Backlog::advance`]) -> due in its queue ->
//! [`Backlog::next_active`] names the queue, [`Backlog::take`] hands it out -> [`Backlog::put_back`] after a deferral,
//! [`Backlog::finish`] after a final outcome. Aside stand [`Backlog::hold`], [`Backlog::release`] and
//! [`Backlog::expired`].

mod backlog;
mod clock;
mod due;
mod expiry;
mod names;
mod rcpt;
mod report;
pub mod retry;
mod slab;
mod wheel;

pub use backlog::{Backlog, Finished, InsertRefused, MsgKey, NewMessage, NewRecipient, QueueKey, RcptKey, Taken};
pub use clock::{ClockGuard, ClockState, JUMP_MAX};
pub use due::{Advanced, Classes};
pub use names::NAME_MAX;
pub use rcpt::RcptState;
pub use report::{QueueInfo, RcptInfo, Totals};

#[cfg(test)]
mod tests;
