//! What a reply means, and the reports (DSN) we send about it.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`classify`] | the bounce class of a reply |
//! | [`consequence`] | does an outcome lead to a report, an event, or nothing |
//! | [`dsn`] | the text of a report (RFC 3464) |
//!
//! All pure: values and a time in, decisions and bytes out. Sending, storing and suppressing is for others.

pub mod classify;
pub mod consequence;
pub mod dsn;

pub use classify::classify;
pub use consequence::{consequence, Consequence};
