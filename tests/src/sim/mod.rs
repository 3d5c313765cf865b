//! The simulator: one seed is one whole run of the process and its world, in one thread, without clock, network, disk
//! or thread of the machine. It drives the real code: shard cores, the spool's writer, maintenance and recovery, the
//! ack log, the ledger's rounds, rendering and reports.
//!
//! | file | what it is |
//! | --- | --- |
//! | `plan` | what a seed chooses: mail, peers, mishaps |
//! | `world` | what happens when |
//! | `life` | one life of the process |
//! | `spooling`, `carry`, `rounds`, `peer` | the process at work: spool, shard driver, ledger, connections |
//! | `storage` | what outlives the process, and how it fails |
//! | `clock`, `client`, `lease` | the wall clock, submissions, a wide limit |
//! | `model` | every promise, and whether it was kept |
//! | `mutants` | protections that can be taken away |
//! | `seeds` | seeds that once found something |

mod carry;
mod client;
mod clock;
mod lease;
mod life;
mod model;
pub mod mutants;
mod peer;
pub mod plan;
mod rounds;
pub mod seeds;
mod spooling;
mod storage;
pub mod trace;
mod world;

pub use plan::{Plan, Protections};
pub use trace::Show;
pub use world::Outcome;

/// Runs one seed.
pub fn run(seed: u64, protections: Protections, show: Show) -> Outcome {
    world::World::new(seed, Plan::of_seed(seed, protections), show).run(seed)
}
