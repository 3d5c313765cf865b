//! One shard: a pinned thread with its runtime, queues and connections.

pub mod core;
pub mod decide;
pub mod effect;
pub mod events;
pub mod item;
pub mod limits;
pub mod owner;
pub mod path;
pub mod placement;
pub mod policy;
pub mod router;
pub mod settle;
pub mod sources;
