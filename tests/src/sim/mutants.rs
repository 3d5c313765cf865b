//! The protections that can be taken away, each by its name.

use super::Protections;

/// All mutants: what is missing, and everything else in force.
pub fn all() -> Vec<(&'static str, Protections)> {
    let mutant = |change: fn(&mut Protections)| {
        let mut protections = Protections::default();
        change(&mut protections);
        protections
    };
    vec![
        ("spool: no sync", mutant(|p| p.spool.sync_writes = false)),
        ("spool: 250 before the batch", mutant(|p| p.spool.ack_after_batch = false)),
        ("spool: no prefix order", mutant(|p| p.spool.prefix_order = false)),
        ("spool: epoch ignored", mutant(|p| p.spool.check_epoch = false)),
        ("spool: checksum ignored", mutant(|p| p.spool.check_crc = false)),
        ("spool: footer trusted early", mutant(|p| p.spool.footer_after_batches = false)),
        ("spool: cut-off ignored", mutant(|p| p.spool.honour_cutoffs = false)),
        ("spool: found but not synced", mutant(|p| p.spool.sync_found = false)),
        ("ack log: replay skipped", mutant(|p| p.ack.replay_acks = false)),
        ("ack log: rings skipped", mutant(|p| p.ack.replay_rings = false)),
        ("ack log: no sync", mutant(|p| p.ack.sync_files = false)),
        ("core: report before the verdict", mutant(|p| p.core.report_after_sync = false)),
        ("core: done before the event", mutant(|p| p.core.done_after_sync = false)),
        ("limiter: off by one", mutant(|p| p.lease.off_by_one = true)),
        ("limiter: late grants taken", mutant(|p| p.lease.take_late_grants = true)),
        ("limiter: slots reclaimed by clock", mutant(|p| p.lease.reclaim_by_clock = true)),
    ]
}
