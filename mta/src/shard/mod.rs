//! One shard: a pinned thread with its runtime, queues and connections.

pub mod acceptance;
pub mod core;
pub mod decide;
pub mod driver;
pub mod effect;
pub mod events;
pub mod feed;
pub mod held_back;
pub mod item;
pub mod jobs;
pub mod leases;
pub mod ledger;
pub mod mail;
pub mod outbound;
pub mod owner;
pub mod path;
pub mod placement;
pub mod policy;
pub mod recovery;
pub mod reported;
pub mod router;
pub mod settle;
pub mod sources;
pub mod work;
