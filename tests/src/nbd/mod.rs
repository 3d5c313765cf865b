//! A disk whose power can be cut: a network block device that keeps writes volatile until they are flushed.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`volatile`] | which bytes survive a cut (pure; a seed decides) |
//! | [`wire`] | the protocol's records (pure) |
//! | [`server`] | serves one disk on a Unix socket, until the power is cut |
//!
//! A guest that boots from it and says "durable" has to be right for every seed. Never keeps anything on the
//! machine's own disk: the image lives in memory.

pub mod server;
pub mod volatile;
pub mod wire;
