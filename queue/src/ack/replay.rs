//! Where every recipient stands after a start: the newest entry of each, joined from files and rings, in 32 bytes.
//!
//! Damage is a range of spool ids and a point in the log. A recipient in the range is held, unless an entry tells its
//! end, or an entry of a later process shows that it was open after the point. (An entry of the same process does not:
//! rings of several shards are copied one after the other, so a verdict may stand in the log before an older deferral.)

use crate::ack::entry::{AckEntry, AckKind};
use crate::ack::Protections;
use crate::{HoldReason, OutcomeKind, SpoolId, UnixSecs};

/// Where one recipient stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RcptState {
    /// To be attempted.
    Open {
        /// Attempts made.
        attempts: u16,
        /// Unknown outcomes among them.
        unknowns: u8,
        /// Not before; `None` for now.
        due: Option<UnixSecs>,
    },
    /// An intent without a verdict, or the verdict Unknown.
    Unknown {
        /// Attempts made, this one included.
        attempts: u16,
        /// Unknown outcomes among them, this one included.
        unknowns: u8,
        /// When the last byte was about to leave.
        since: UnixSecs,
        /// Not before, when that was decided.
        due: Option<UnixSecs>,
    },
    /// A final verdict whose consequences may be missing: repeat them, then `Done`.
    Decided {
        /// Delivered, Failed or Suppressed.
        kind: OutcomeKind,
        /// Reply code; 0 without one.
        code: u16,
        /// Attempts made.
        attempts: u16,
    },
    /// Nothing is left to do.
    Done,
    /// Not attempted until someone decides.
    Held(HoldReason),
}

/// What was damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DamageCause {
    /// The spool is not new, the ack log is not there.
    LogMissing,
    /// Frames are missing in the midst of the log, or can't be read.
    FramesMissing,
    /// The files end before the log did.
    EndMissing,
    /// A compaction lost a part.
    BaseDamaged,
    /// The disk failed to read a file.
    Unreadable,
    /// A ring holds more than one torn slot, or its header is gone.
    RingDamaged,
    /// Noted at an earlier start.
    Noted,
}

/// A loss, and whom it may concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What was damaged.
    pub cause: DamageCause,
    /// First message whose recipients the lost entries could have closed.
    pub first: SpoolId,
    /// The last one.
    pub last: SpoolId,
}

/// What the start found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// Files of the log and of compactions.
    pub files: usize,
    /// Valid frames.
    pub frames: u64,
    /// Entries read from files.
    pub entries: u64,
    /// Rings of the last process.
    pub rings: usize,
    /// Entries read from them.
    pub ring_entries: u64,
    /// Torn slots in them; one each is what kill -9 may leave.
    pub ring_torn: usize,
    /// Rings of earlier processes, whose entries were copied long ago.
    pub rings_stale: usize,
    /// Rings of another spool.
    pub rings_foreign: usize,
    /// The last file ends in a frame that was not written to its end; nobody had been told of it.
    pub torn_tail: bool,
    /// Files whose names say nothing to us.
    pub unknown_files: usize,
    /// Recipients about which something is known.
    pub recipients: usize,
    /// All losses.
    pub damage: Vec<Damage>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    id: u64,
    time: u32,
    due: u32,
    order: u32,
    rcpt: u16,
    attempt: u16,
    code: u16,
    kind: u8,
    unknowns: u8,
}

const _: () = assert!(size_of::<Row>() == 32);

impl Row {
    pub(super) fn entry(&self) -> AckEntry {
        AckEntry {
            id: SpoolId(self.id),
            rcpt: self.rcpt,
            kind: AckKind::from_byte(self.kind).unwrap_or(AckKind::Released),
            attempt: self.attempt,
            unknowns: self.unknowns,
            code: self.code,
            time: UnixSecs(self.time),
            due: UnixSecs(self.due),
        }
    }

    fn weight(&self) -> (u64, u16, (u8, u16, u8), u32, u32) {
        (self.id, self.rcpt, self.entry().rank(), self.time, self.order)
    }

    fn state(&self) -> RcptState {
        let due = (self.due != 0).then_some(UnixSecs(self.due));
        let (attempts, unknowns, since) = (self.attempt, self.unknowns, UnixSecs(self.time));
        match self.entry().kind {
            AckKind::Intent => RcptState::Unknown { attempts, unknowns: unknowns.saturating_add(1), since, due: None },
            AckKind::Verdict(OutcomeKind::Unknown) => RcptState::Unknown { attempts, unknowns, since, due },
            AckKind::Verdict(OutcomeKind::Deferred) => RcptState::Open { attempts, unknowns, due },
            AckKind::Verdict(kind) => RcptState::Decided { kind, code: self.code, attempts },
            AckKind::Done => RcptState::Done,
            AckKind::Held(reason) => RcptState::Held(reason),
            AckKind::Released | AckKind::Moved => RcptState::Open { attempts, unknowns, due: None },
        }
    }
}

/// A loss with its point in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    pub(super) damage: Damage,
    /// Of the process that lost it.
    pub(super) epoch: u64,
    /// Entries from this one on are of later processes.
    over: u32,
}

/// Collects entries and losses in the order of the log.
#[derive(Debug)]
pub(super) struct Builder {
    rows: Vec<Row>,
    /// Rows at which the newest of each recipient are kept and the others dropped.
    squeeze_at: usize,
    order: u32,
    losses: Vec<Loss>,
    pub(super) report: ReplayReport,
}

const SQUEEZE_MIN: usize = 1 << 20;

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            rows: Vec::new(),
            squeeze_at: SQUEEZE_MIN,
            order: 0,
            losses: Vec::new(),
            report: ReplayReport::default(),
        }
    }

    /// An entry, read in a frame or ring of `epoch`.
    pub(super) fn push(&mut self, entry: &AckEntry, epoch: u64) {
        self.enter(epoch);
        self.rows.push(Row {
            id: entry.id.0,
            time: entry.time.0,
            due: entry.due.0,
            order: self.order,
            rcpt: entry.rcpt,
            attempt: entry.attempt,
            code: entry.code,
            kind: entry.kind.to_byte(),
            unknowns: entry.unknowns,
        });
        self.order = self.order.saturating_add(1);
        if self.rows.len() >= self.squeeze_at {
            self.squeeze();
            // Half as much again, asked for exactly: doubling would cost the memory of a queue for nothing.
            let more = (self.rows.len() / 2).max(SQUEEZE_MIN);
            self.squeeze_at = self.rows.len() + more;
            self.rows.reserve_exact(more);
        }
    }

    /// The log goes on with a frame of `epoch`.
    pub(super) fn enter(&mut self, epoch: u64) {
        for loss in &mut self.losses {
            if loss.over == u32::MAX && epoch > loss.epoch {
                loss.over = self.order;
            }
        }
    }

    /// Entries were lost here.
    pub(super) fn lost(&mut self, cause: DamageCause, first: u64, last: u64, epoch: u64) {
        let damage = Damage { cause, first: SpoolId(first), last: SpoolId(last) };
        self.losses.push(Loss { damage, epoch, over: u32::MAX });
    }

    /// All losses so far are about messages up to `bound`.
    pub(super) fn settle(&mut self, bound: u64) {
        for loss in &mut self.losses {
            loss.damage.last = loss.damage.last.min(SpoolId(bound));
        }
    }

    /// The end that seems to be missing was left out on purpose.
    pub(super) fn forget_end(&mut self) {
        self.losses.retain(|loss| loss.damage.cause != DamageCause::EndMissing);
    }

    pub(super) fn losses(&self) -> &[Loss] {
        &self.losses
    }

    fn squeeze(&mut self) {
        self.rows.sort_unstable_by_key(Row::weight);
        // The greatest of a group is its last; its unknowns are the most anyone counted.
        self.rows.dedup_by(|next, kept| {
            let same = next.id == kept.id && next.rcpt == kept.rcpt;
            if same {
                let unknowns = kept.unknowns.max(next.unknowns);
                *kept = Row { unknowns, ..*next };
            }
            same
        });
    }

    pub(super) fn finish(mut self, protections: Protections) -> Replay {
        self.squeeze();
        self.rows.shrink_to_fit();
        self.report.recipients = self.rows.len();
        self.report.damage = self.losses.iter().map(|loss| loss.damage).collect();
        Replay { rows: self.rows, losses: self.losses, at: 0, held: 0, report: self.report, protections }
    }
}

/// What the ack log knows after a start. 32 bytes for each recipient it knows; drop it after recovery.
#[derive(Debug)]
pub struct Replay {
    rows: Vec<Row>,
    losses: Vec<Loss>,
    at: usize,
    held: u64,
    report: ReplayReport,
    protections: Protections,
}

impl Replay {
    /// Where a recipient stands.
    #[must_use]
    pub fn state(&self, id: SpoolId, rcpt: u16) -> RcptState {
        let from = self.rows.partition_point(|row| row.id < id.0);
        let to = from + self.rows[from..].partition_point(|row| row.id == id.0);
        self.state_in(&self.rows[from..to], id, rcpt)
    }

    /// What is known about one message. Fast when messages are asked for in roughly rising order.
    pub fn take_message(&mut self, id: SpoolId) -> MessageStates<'_> {
        let from = self.seek(id.0);
        let to = from + self.rows[from..].partition_point(|row| row.id == id.0);
        self.at = from;
        MessageStates { replay: self, id, from, to }
    }

    /// The first row not below `id`: a few steps from the last place, doubling, then a binary search.
    fn seek(&self, id: u64) -> usize {
        let mut from = self.at.min(self.rows.len());
        if from > 0 && self.rows[from - 1].id >= id {
            from = 0;
        }
        let mut step = 1;
        while self.rows.get(from + step).is_some_and(|row| row.id < id) {
            from += step;
            step *= 2;
        }
        let to = (from + step + 1).min(self.rows.len());
        from + self.rows[from..to].partition_point(|row| row.id < id)
    }

    fn state_in(&self, rows: &[Row], id: SpoolId, rcpt: u16) -> RcptState {
        if !self.protections.replay_acks {
            return RcptState::Open { attempts: 0, unknowns: 0, due: None };
        }
        let row = rows.binary_search_by_key(&rcpt, |row| row.rcpt).ok().map(|at| &rows[at]);
        if row.is_some_and(|row| row.entry().kind.is_final()) {
            return row.map_or(RcptState::Done, Row::state);
        }
        if self.protections.hold_on_damage && self.may_be_closed(id, row) {
            return RcptState::Held(HoldReason::AckLogDamage);
        }
        row.map_or(RcptState::Open { attempts: 0, unknowns: 0, due: None }, Row::state)
    }

    /// True when a lost entry could have told this recipient's end.
    fn may_be_closed(&self, id: SpoolId, row: Option<&Row>) -> bool {
        self.losses.iter().any(|loss| {
            let range = loss.damage.first..=loss.damage.last;
            range.contains(&id) && row.is_none_or(|row| row.order < loss.over)
        })
    }

    /// Recipients that [`MessageStates::state`] answered with a hold for damage.
    #[must_use]
    pub fn held_for_damage(&self) -> u64 {
        self.held
    }

    /// What the start found.
    #[must_use]
    pub fn report(&self) -> &ReplayReport {
        &self.report
    }

    /// True when a loss has no upper bound yet: after recovery, tell `AckLog::settle` the highest spool id.
    #[must_use]
    pub fn needs_settling(&self) -> bool {
        self.losses.iter().any(|loss| loss.damage.last.0 == u64::MAX)
    }

    /// The newest entry of every recipient, in the order of ids; those held for damage as holds.
    pub(super) fn into_entries(self) -> impl Iterator<Item = AckEntry> {
        let losses = self.losses;
        self.rows.into_iter().map(move |row| {
            let entry = row.entry();
            let may_be_closed = losses
                .iter()
                .any(|loss| (loss.damage.first..=loss.damage.last).contains(&entry.id) && row.order < loss.over);
            let about_rcpt = entry.rcpt != AckEntry::MESSAGE && !entry.kind.is_final();
            if about_rcpt && may_be_closed {
                AckEntry { kind: AckKind::Held(HoldReason::AckLogDamage), ..entry }
            } else {
                entry
            }
        })
    }
}

/// What is known about one message.
#[derive(Debug)]
pub struct MessageStates<'a> {
    replay: &'a mut Replay,
    id: SpoolId,
    from: usize,
    to: usize,
}

impl MessageStates<'_> {
    /// Where a recipient of the message stands.
    pub fn state(&mut self, rcpt: u16) -> RcptState {
        let state = self.replay.state_in(&self.replay.rows[self.from..self.to], self.id, rcpt);
        self.replay.held += u64::from(state == RcptState::Held(HoldReason::AckLogDamage));
        state
    }

    /// True when nothing at all is known: every recipient is open, never attempted, and not held.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.from == self.to && !self.replay.may_be_closed(self.id, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64, rcpt: u16, kind: AckKind, attempt: u16) -> AckEntry {
        let (time, due) = (UnixSecs(100), UnixSecs(200));
        AckEntry { id: SpoolId(id), rcpt, kind, attempt, unknowns: 0, code: 250, time, due }
    }

    const DEFERRED: AckKind = AckKind::Verdict(OutcomeKind::Deferred);
    const DELIVERED: AckKind = AckKind::Verdict(OutcomeKind::Delivered);

    #[test]
    fn states_follow_from_the_greatest_entry_in_whatever_order_they_come() {
        let unknown = AckEntry { unknowns: 1, ..entry(1, 0, AckKind::Verdict(OutcomeKind::Unknown), 1) };
        let (since, due) = (UnixSecs(100), Some(UnixSecs(200)));
        let held = AckKind::Held(HoldReason::Operator);
        let table: Vec<(Vec<AckEntry>, RcptState)> = vec![
            (vec![], RcptState::Open { attempts: 0, unknowns: 0, due: None }),
            (vec![entry(1, 0, AckKind::Intent, 1)], RcptState::Unknown { attempts: 1, unknowns: 1, since, due: None }),
            (vec![unknown], RcptState::Unknown { attempts: 1, unknowns: 1, since, due }),
            (
                vec![unknown, entry(1, 0, AckKind::Intent, 2)],
                RcptState::Unknown { attempts: 2, unknowns: 2, since, due: None },
            ),
            (
                vec![unknown, entry(1, 0, AckKind::Intent, 2), entry(1, 0, DEFERRED, 2)],
                RcptState::Open { attempts: 2, unknowns: 1, due },
            ),
            (
                vec![entry(1, 0, AckKind::Intent, 1), entry(1, 0, DELIVERED, 1)],
                RcptState::Decided { kind: OutcomeKind::Delivered, code: 250, attempts: 1 },
            ),
            (vec![entry(1, 0, DELIVERED, 1), entry(1, 0, AckKind::Done, 1)], RcptState::Done),
            (vec![entry(1, 0, DEFERRED, 1), entry(1, 0, held, 1)], RcptState::Held(HoldReason::Operator)),
            (vec![entry(1, 1, DELIVERED, 1)], RcptState::Open { attempts: 0, unknowns: 0, due: None }),
        ];
        for (entries, want) in table {
            for turn in 0..entries.len().max(1) {
                let mut builder = Builder::new();
                let mut turned = entries.clone();
                turned.rotate_left(turn);
                for entry in turned.iter().chain(&turned) {
                    builder.push(entry, 1);
                }
                assert_eq!(builder.finish(Protections::default()).state(SpoolId(1), 0), want, "{entries:?} {turn}");
            }
        }
    }

    #[test]
    fn of_hold_and_release_the_later_counts() {
        for (last, held) in [(AckKind::Released, false), (AckKind::Held(HoldReason::Operator), true)] {
            let mut builder = Builder::new();
            for kind in [DEFERRED, AckKind::Released, AckKind::Held(HoldReason::Operator), last] {
                builder.push(&entry(1, 0, kind, 1), 1);
            }
            let state = builder.finish(Protections::default()).state(SpoolId(1), 0);
            assert_eq!(matches!(state, RcptState::Held(_)), held);
        }
    }

    #[test]
    fn a_loss_holds_whom_it_could_have_closed_and_nobody_else() {
        let mut builder = Builder::new();
        builder.push(&entry(1, 0, DELIVERED, 1), 1);
        builder.push(&entry(2, 0, DEFERRED, 1), 1);
        builder.lost(DamageCause::FramesMissing, 0, 50, 1);
        builder.push(&entry(3, 0, DEFERRED, 1), 1);
        builder.push(&entry(4, 0, DEFERRED, 1), 2);
        let mut replay = builder.finish(Protections::default());
        let held = RcptState::Held(HoldReason::AckLogDamage);
        let open = |attempts, due: Option<u32>| RcptState::Open { attempts, unknowns: 0, due: due.map(UnixSecs) };
        assert!(matches!(replay.state(SpoolId(1), 0), RcptState::Decided { .. }));
        assert_eq!(replay.state(SpoolId(2), 0), held, "known before the loss");
        assert_eq!(replay.state(SpoolId(3), 0), held, "an entry of the same process proves nothing");
        assert_eq!(replay.state(SpoolId(4), 0), open(1, Some(200)), "open in a later process");
        assert_eq!(replay.state(SpoolId(50), 7), held, "never heard of");
        assert_eq!(replay.state(SpoolId(51), 0), open(0, None), "accepted later");
        assert!(replay.take_message(SpoolId(51)).is_fresh());
        assert!(!replay.take_message(SpoolId(50)).is_fresh());
        assert_eq!(replay.take_message(SpoolId(50)).state(1), held);
        assert_eq!(replay.held_for_damage(), 1);
    }

    #[test]
    fn messages_are_found_in_any_order_of_asking() {
        let mut builder = Builder::new();
        for id in (0..1000).map(|n| n * 3) {
            builder.push(&entry(id, 2, DELIVERED, 1), 1);
        }
        let mut replay = builder.finish(Protections::default());
        let mut asked: Vec<u64> = (0..3100).collect();
        asked.extend((0..3100).rev().step_by(7));
        asked.extend([2999, 0, 1500, 3, 2997]);
        for id in asked {
            let known = id % 3 == 0 && id < 3000;
            let decided = matches!(replay.take_message(SpoolId(id)).state(2), RcptState::Decided { .. });
            assert_eq!(decided, known, "{id}");
            assert_eq!(replay.take_message(SpoolId(id)).is_fresh(), !known, "{id}");
        }
    }

    #[test]
    fn without_the_protection_everything_is_open_again() {
        let mut builder = Builder::new();
        builder.push(&entry(1, 0, DELIVERED, 1), 1);
        let replay = builder.finish(Protections { replay_acks: false, ..Protections::default() });
        assert_eq!(replay.state(SpoolId(1), 0), RcptState::Open { attempts: 0, unknowns: 0, due: None });
    }
}
