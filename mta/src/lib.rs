//! Ringpost, the mail transfer agent: SMTP in, durable on disk, SMTP out.
//!
//! Layers, low to high; a module uses only those before it (a test reads the `use` lines):
//! `limits error config metrics` | `smtp dns tls message` | `egress shaping bounce record` |
//! `ingress delivery` | `shard` | `control` | `main`. `net` stands beside.

pub mod bounce;
pub mod config;
pub mod control;
pub mod delivery;
pub mod dns;
pub mod egress;
pub mod error;
pub mod ingress;
pub mod limits;
pub mod message;
pub mod metrics;
pub mod net;
pub mod record;
pub mod shaping;
pub mod shard;
pub mod smtp;
pub mod tls;
