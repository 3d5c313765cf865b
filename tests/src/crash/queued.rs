//! What a spool still holds, read as the server reads it at its start.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use mta::shard::driver::wall;
use queue::ack::{AckLog, AckOptions, DirStore, RcptState};
use queue::spool::{Settings, Spool};

use super::ledger::Kept;

/// Every recipient that is not done, by address, and how it stands. No server may be running on the directories.
///
/// Errors: the spool or the ack log can't be opened, or a message can't be read.
pub fn queued(spool_dir: &Path, shm: &Path, segment_bytes: u64) -> Result<HashMap<String, Kept>> {
    let mut settings = Settings::new(spool_dir.to_owned(), 1);
    settings.segment_bytes = segment_bytes;
    settings.spares = 0;
    settings.reserve_bytes = 0;
    settings.reserve_percent = 0;
    let (spool, recovery) = Spool::open(settings, wall())?;
    let store = DirStore::open(&spool_dir.join("ack"))?;
    let (_log, replay) = AckLog::open(store, shm, spool.identity(), recovery.is_new(), AckOptions::default())?;
    let mut open = Vec::new();
    let report = recovery.run(&mut |found| {
        for index in 0..u16::try_from(found.queue_names.len()).unwrap_or(u16::MAX) {
            let kept = match replay.state(found.id, index) {
                RcptState::Done | RcptState::Decided { .. } => continue,
                RcptState::Open { .. } => Kept::Open,
                RcptState::Unknown { .. } => Kept::Unknown,
                RcptState::Held(_) => Kept::Held,
            };
            open.push((found.id, found.at, index, kept));
        }
    });
    anyhow::ensure!(report.damage.is_empty(), "the spool is damaged: {:?}", report.damage);
    let mut queued = HashMap::new();
    for (id, at, index, kept) in open {
        let envelope = spool.load_envelope(id, at).with_context(|| format!("message {id}"))?;
        let recipient = envelope.recipients.get(usize::from(index)).context("a recipient that is not there")?;
        queued.insert(recipient.address.clone(), kept);
    }
    spool.close();
    Ok(queued)
}
