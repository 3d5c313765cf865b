//! The event log: one record per disposition.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`event`] | what a record says, and its stable id |
//! | [`build`] | which record an outcome makes |
//! | [`json`] | the line it becomes |
//! | [`log`] | where lines are kept, and when they are durable |
//! | [`reader`] | reading on from a cursor |

pub mod build;
pub mod event;
pub mod json;
pub mod log;
pub mod reader;

pub use build::{from_outcome, reception, Attempt};
pub use event::{Event, Kind};
pub use log::EventLog;
pub use reader::{Cursor, EventReader};
