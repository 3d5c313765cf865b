//! The ledger's rounds, step by step with time between them, and the graceful stop.

use mta::shard::mail::ShardMail;
use queue::UnixMillis;
use rand::Rng;

use super::world::{Event, RoundStep, World};

/// Between two rounds.
const ROUND_MS: u64 = 50;
/// Compaction of the ack log is considered this often.
const COMPACT_MS: u64 = 10_000;

impl World {
    /// Something was recorded: a round follows within its time.
    pub fn foresee_round(&mut self) {
        let Some(life) = &mut self.life else { return };
        life.idle_rounds = 0;
        if !life.round_foreseen {
            life.round_foreseen = true;
            let wait = self.random.random_range(1..=ROUND_MS);
            self.inside(wait, Event::Round(RoundStep::Take));
        }
    }

    /// A step of a round.
    pub fn round(&mut self, step: RoundStep) {
        let wall = self.clock.wall(self.now);
        let wait = self.random.random_range(0..15);
        let Some(life) = &mut self.life else { return };
        match step {
            RoundStep::Take => {
                life.round_began = self.now;
                life.rounds().take_notes();
                self.inside(wait, Event::Round(RoundStep::Log));
            }
            RoundStep::Log => self.sync_log(wall, wait),
            RoundStep::Events => {
                let synced = life.rounds().sync_events();
                if self.storage.tripped() {
                    return;
                }
                match synced {
                    Ok(()) => self.inside(wait, Event::Round(RoundStep::Tell)),
                    Err(why) => self.round_failed(&why),
                }
            }
            RoundStep::Tell => {
                if std::mem::take(&mut life.stopped) {
                    self.say(format_args!("the ledger can be written again"));
                }
                self.tell();
                self.compact_acks();
            }
        }
    }

    fn sync_log(&mut self, wall: UnixMillis, wait: u64) {
        let Some(life) = &mut self.life else { return };
        let began = self.now;
        let synced = life.rounds().sync_log(wall);
        if self.storage.tripped() {
            return;
        }
        match synced {
            Ok(()) => {
                self.synced_at = began;
                self.inside(wait, Event::Round(RoundStep::Events));
            }
            Err(why) => self.round_failed(&why),
        }
    }

    fn round_failed(&mut self, why: &str) {
        self.say(format_args!("the ledger stops: {why}"));
        if let Some(life) = &mut self.life {
            life.stopped = true;
            life.idle_rounds = 0;
        }
        self.compact_acks();
    }

    fn tell(&mut self) {
        let shards = self.plan.shards;
        let Some(life) = &mut self.life else { return };
        let taken: Vec<u64> = life.rounds().taken().to_vec();
        for (shard, taken) in taken.into_iter().enumerate() {
            let Some(life) = &mut self.life else { return };
            if taken > life.told[shard] {
                life.told[shard] = taken;
                life.idle_rounds = 0;
                self.send(shards, shard, ShardMail::Synced(taken));
            }
        }
    }

    /// The end of a round: the ack log may be compacted, the next round is foreseen.
    fn compact_acks(&mut self) {
        let now = self.now;
        let Some(life) = &mut self.life else { return };
        if now.saturating_sub(life.compacted_at) > COMPACT_MS {
            life.compacted_at = now;
            let spool = std::sync::Arc::clone(life.stepped.spool());
            // It grows until it can be compacted; no promise depends on it.
            let done = life.rounds().log.compact_if_needed(&|id| spool.may_hold(id));
            if self.storage.tripped() {
                return;
            }
            let Some(life) = &mut self.life else { return };
            if matches!(done, Ok(true)) {
                life.ack_compactions += 1;
                self.say(format_args!("the ack log is compacted"));
            }
        }
        let Some(life) = &mut self.life else { return };
        life.idle_rounds += 1;
        // After a while without anything to do the log has shown that it is whole, and rounds change nothing.
        let busy = life.idle_rounds < 10 || life.stopped;
        let wait = (life.round_began + ROUND_MS).saturating_sub(now).max(1);
        life.round_foreseen = busy;
        if busy {
            self.inside(wait, Event::Round(RoundStep::Take));
        }
    }

    /// A graceful stop: nothing new begins, what is under way ends, the rest goes back; then the process is gone.
    pub fn drain(&mut self) {
        let shards = self.plan.shards;
        let Some(life) = &mut self.life else { return };
        if std::mem::replace(&mut life.draining, true) {
            return;
        }
        for shard in 0..shards {
            if let Some(life) = &mut self.life {
                life.cores[shard].drain();
            }
            self.carry_out(shard);
        }
        self.inside(15_000, Event::Stop);
    }
}
