//! SMTP without sockets: grammar, server session, client session.
//!
//! Everything here is a function of bytes, policy and a time that the caller hands in. Nothing opens a file
//! descriptor, reads a clock or draws a random number.

pub mod address;
pub mod client;
pub mod codes;
pub mod command;
pub mod dot;
pub mod extension;
pub mod facts;
pub mod limits;
pub mod reply;
pub mod sasl;
pub mod server;
pub mod timestamp;
pub mod xtext;
