//! SMTP without sockets: grammar, server session, client session.

pub mod client;
pub mod reply;
pub mod sasl;
pub mod server;
