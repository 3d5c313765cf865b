//! Ready queues: which recipient goes next on one path.
//!
//! A [`ReadyQueue`] is bounded and belongs to one pair of egress source and site. [`queue`] holds the items and deals
//! out turns, [`state`] says whether anything may leave at all. Pure: no clock, no socket.

mod lane;
mod queue;
mod state;

pub use queue::{Ordering, ReadyQueue, Slots, CRITICAL_KEPT_PERCENT, NOT_BULK_KEPT_PERCENT};
pub use state::{IllegalMove, ReadyState, ThrottleReason};
