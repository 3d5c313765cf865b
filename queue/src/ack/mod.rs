//! The ack log: which recipients are in flight, decided, or done.
//!
//! An intent is recorded before the last byte of a message leaves, a verdict when the reply is read. From that moment
//! both survive the death of the process (they stand in a [`ring`], a file in tmpfs that is mapped shared), and a power
//! cut after the next [`AckLog::sync`] (which copies the rings to numbered files, every 100 ms). After a start
//! [`Replay`] says where every recipient stands. What the log lost is never taken for "not yet sent": see [`replay`].
//!
//! Bytes on disk and in the rings: `FORMAT.md` in this folder. What a crash at each point leads to: [`crash`].

mod compact;
#[cfg(test)]
mod crash;
mod entry;
mod frame;
mod load;
mod log;
mod memory;
mod replay;
pub mod ring;
mod store;

pub use compact::{Compacted, CompactionJob};
pub use entry::{AckEntry, AckKind, ENTRY};
pub use log::{AckLog, AckOpenError, AckOptions, Synced};
pub use memory::MemoryStore;
pub use replay::{Damage, DamageCause, RcptState, Replay, ReplayReport};
pub use ring::{AckPort, AckSeq, AckStop, MemoryRings, Rings};
pub use store::{DirStore, LogStore};

/// Protections that the mutant run takes away one at a time, to prove that the checks notice. All on otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protections {
    /// What the log says is believed at a start.
    pub replay_acks: bool,
    /// What stands in the rings is read at a start.
    pub replay_rings: bool,
    /// Recipients that a damaged log could have closed are held.
    pub hold_on_damage: bool,
    /// Files are synchronised before anything is called durable.
    pub sync_files: bool,
}

impl Default for Protections {
    fn default() -> Self {
        Self { replay_acks: true, replay_rings: true, hold_on_damage: true, sync_files: true }
    }
}
