//! Recovery: what is on the disk after any stop, and what it means.
//!
//! | letter | found | decision |
//! | --- | --- | --- |
//! | A | a valid trailer and footer | the footer's messages; no record is read |
//! | B | no trailer | every batch is read |
//! | C | a trailer, but the footer is damaged | every batch is read; all of it was acknowledged |
//! | D | a whole batch, everything before it whole | its records are messages, acknowledged or not |
//! | E | something bad, and nothing says it was durable | an unacknowledged tail: it and all behind is dropped |
//! | F | something bad that a later batch, a trailer or a cut-off calls durable | damage: kept aside, told; on behind |
//! | G | a batch of an earlier use | nothing: space not yet written |
//! | H | anything at or behind a cut-off | ignored, however whole it is |
//! | I | two valid superblocks | the higher generation holds |
//! | J | one superblock torn | the other holds |
//! | K | no valid superblock | the file is set aside and reported |
//! | L | a half-created segment (`new-NNNN`) | removed: it never held a message |
//! | M | a spare | used again; a spare of another size is removed |
//! | N | the same spool id in two places | one message: the cold copy, or else the later one |
//! | O | a format older than this release's | read |
//! | P | a format newer than this release's | opening is refused |
//! | Q | a superblock of another spool | opening is refused |
//! | R | blocks that can't be read | as bad as damaged ones; the rest is read |
//! | S | a lost batch header in acknowledged data | its records are found by their own checksums |
//! | T | a record of a sealed segment turns out bad when it is loaded | that message is damaged, the others are not |
//!
//! A segment that was read because it has no footer gets a cut-off at the end of what was accepted, so that the next
//! start decides the same; then, unless a write to it had failed, the footer it lacks. What is read first is in
//! `survey`, how batches are judged in `scan`.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::commit::RecordRef;
use super::footer::{Footer, FooterBuilder};
use super::scan::{scan, Bad, Found, Scan};
use super::segment::{Live, Phase, Segment, SegmentFacts};
use super::shared::Shared;
use super::superblock::{CutReason, Heat};
use super::survey::{subject, Survey, Used};
use crate::disk::{aligned, Disk};
use crate::envelope::Class;
use crate::id::SpoolId;
use crate::limits::{BLOCK, RECORD_ALIGN};
use crate::time::UnixSecs;

/// A message that recovery found.
#[derive(Clone, Copy, Debug)]
pub struct Recovered<'a> {
    /// Its key.
    pub id: SpoolId,
    /// Where it is.
    pub at: RecordRef,
    /// Version of its envelope.
    pub version: u8,
    /// When it was accepted.
    pub received: UnixSecs,
    /// Not attempted before.
    pub not_before: Option<UnixSecs>,
    /// Given up at.
    pub not_after: Option<UnixSecs>,
    /// Length of the stored message in bytes.
    pub size: u32,
    /// The stream's class.
    pub class: Class,
    /// RFC 6710 priority.
    pub priority: i8,
    /// Egress pool; empty for the default.
    pub pool: &'a str,
    /// Text form of each recipient's queue name, in the order of the envelope.
    pub queue_names: &'a [&'a str],
}

/// Damage found in acknowledged data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// File it was found in.
    pub slot: u32,
    /// Logical number of the segment; 0 when the superblocks are lost.
    pub segment: u32,
    /// Where, in bytes.
    pub offset: u64,
    /// How long.
    pub len: u64,
    /// Which message, where that can be told.
    pub id: Option<SpoolId>,
    /// What is wrong.
    pub what: String,
    /// Where its bytes were kept for a person to look at, or why not.
    pub kept: Result<String, String>,
}

/// What recovery came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Messages handed on.
    pub messages: u64,
    /// Their recipients.
    pub recipients: u64,
    /// Segments read by their footer alone.
    pub by_footer: u32,
    /// Segments read batch by batch.
    pub by_scan: u32,
    /// Batches of unacknowledged tails, dropped.
    pub dropped_batches: u32,
    /// Records in them.
    pub dropped_records: u32,
    /// Second copies of a message, ignored.
    pub duplicates: u64,
    /// Damage in acknowledged data; each is a reason to call a person.
    pub damage: Vec<Damage>,
}

/// The second half of opening a spool: telling all messages. Mail is accepted meanwhile.
pub struct Recovery {
    pub(super) shared: Arc<Shared>,
    /// Whether damage is copied aside and missing footers are written.
    pub(super) repair: bool,
    pub(super) survey: Survey,
}

/// Ids already seen, in chunks of 64: dense ids cost two bits each.
#[derive(Default)]
struct Seen(HashMap<u64, u64>);

impl Seen {
    /// False when the id was there before.
    fn insert(&mut self, id: u64) -> bool {
        let word = self.0.entry(id / 64).or_default();
        let bit = 1 << (id % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
    fn contains(&self, id: u64) -> bool {
        self.0.get(&(id / 64)).is_some_and(|word| word & (1 << (id % 64)) != 0)
    }
}

impl Recovery {
    /// True when the spool was made just now: there was none before.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.survey.identity.is_none()
    }

    /// Messages that opening already counted, an estimate for a progress line.
    #[must_use]
    pub fn expected(&self) -> u64 {
        let count = |used: &Used| match (&used.trailer, &used.scan) {
            (Some(trailer), _) => u64::from(trailer.messages),
            (None, Some(scan)) => scan.found.len() as u64,
            (None, None) => 0,
        };
        self.survey.used.iter().map(count).sum()
    }

    /// Tells every message to `sink`, once. Damage is kept aside and reported, and never stops the rest.
    pub fn run(mut self, sink: &mut dyn FnMut(Recovered<'_>)) -> RecoveryReport {
        let mut report =
            RecoveryReport { damage: std::mem::take(&mut self.survey.damage), ..RecoveryReport::default() };
        let mut used = std::mem::take(&mut self.survey.used);
        // Cold first: a cold copy stands for its original. Then the later of two, which is the more complete.
        used.sort_by_key(|used| (used.block.heat == Heat::Hot, std::cmp::Reverse(used.block.number)));
        let mut copies = Seen::default();
        for used in used {
            let cold = used.block.heat == Heat::Cold;
            let mut is_new = |id: u64| if cold { copies.insert(id) } else { !copies.contains(id) };
            self.tell(used, &mut is_new, &mut report, sink);
        }
        self.shared.nudge();
        report
    }

    fn tell(
        &self,
        mut used: Used,
        is_new: &mut dyn FnMut(u64) -> bool,
        report: &mut RecoveryReport,
        sink: &mut dyn FnMut(Recovered<'_>),
    ) {
        let Some(segment) = self.shared.table.get(used.block.number) else { return };
        if let Some(trailer) = used.trailer {
            let mut bytes = aligned(trailer.footer_len as usize);
            let read = self.shared.disk.read_at(used.slot, trailer.data_end, &mut bytes);
            let footer = read.ok().and_then(|()| Footer::parse(&bytes, &trailer));
            if let Some(footer) = footer {
                report.by_footer += 1;
                return tell_footer(&segment, &footer, is_new, report, sink);
            }
            report.damage.push(self.keep(&used, trailer.data_end, trailer.footer_len, "the footer is damaged", None));
            // The trailer says that all before the footer was acknowledged, and nothing behind it counts.
            let subject = subject(&used, Some(trailer.data_end), trailer.data_end);
            used.scan = Some(scan(&*self.shared.disk, subject, &self.shared.settings.protections));
        }
        let Some(result) = used.scan.take() else { return };
        report.by_scan += 1;
        report.dropped_batches += result.dropped_batches;
        report.dropped_records += result.dropped_records;
        for bad in &result.bad {
            let Bad { offset, len, what, id } = bad;
            report.damage.push(self.keep(&used, *offset, *len, what, *id));
        }
        let copied = report.damage.iter().all(|damage| damage.segment != segment.number || damage.kept.is_ok());
        // Damage of which no copy could be made stays where it is.
        segment.kept.store(!copied, Ordering::Release);
        tell_scan(&segment, &result.found, is_new, report, sink);
        if self.repair && copied && used.reason.is_none_or(|reason| reason == CutReason::Stopped) {
            match seal_late(&*self.shared.disk, &used, &result) {
                Ok(()) => self.shared.note_sealed_late(segment.number),
                Err(error) => self.shared.report(&format!("seg-{:04} gets no footer: {error}", used.slot)),
            }
        }
    }

    fn keep(&self, used: &Used, offset: u64, len: u64, what: &str, id: Option<u64>) -> Damage {
        let start = offset / BLOCK as u64 * BLOCK as u64;
        let end = (offset + len).min(used.block.segment_bytes);
        let mut bytes = Vec::new();
        let mut at = start;
        while at < end && self.repair {
            let mut block = aligned(BLOCK);
            // What can't be read is kept as zeros, so that the rest stays at its place.
            if self.shared.disk.read_at(used.slot, at, &mut block).is_err() {
                block.fill(0);
            }
            bytes.extend_from_slice(&block);
            at += BLOCK as u64;
        }
        let kept = match self.repair {
            true => self.shared.disk.keep_damaged(used.slot, start, &bytes, what).map_err(|error| error.to_string()),
            false => Err("only looked at".into()),
        };
        self.shared.report(&format!("damage in seg-{:04} at {offset}: {what}", used.slot));
        Damage {
            slot: used.slot,
            segment: used.block.number,
            offset,
            len,
            id: id.map(SpoolId),
            what: what.to_owned(),
            kept,
        }
    }
}

/// Gives a segment that was read batch by batch the footer it lacks, so that the next start need not read it again and
/// no cut-off has to be carried for it.
fn seal_late(disk: &dyn Disk, used: &Used, scan: &Scan) -> io::Result<()> {
    let mut footer = FooterBuilder::default();
    for found in &scan.found {
        footer.add(found.id, found.offset, found.len, found.version, &found.labels);
    }
    let bytes = used.block.segment_bytes;
    if scan.end + footer.room() > bytes {
        return Err(io::Error::other("no room behind its batches"));
    }
    let (footer, trailer) = footer.finish(used.block.epoch, used.block.number, scan.end, bytes);
    // What was read may so far be in the disk's own memory only.
    disk.sync(used.slot)?;
    disk.write_at(used.slot, scan.end, &footer, true)?;
    disk.write_at(used.slot, bytes - BLOCK as u64, &trailer, true)
}

fn tell_footer(
    segment: &Segment,
    footer: &Footer<'_>,
    is_new: &mut dyn FnMut(u64) -> bool,
    report: &mut RecoveryReport,
    sink: &mut dyn FnMut(Recovered<'_>),
) {
    let mut live = Live::default();
    let new: Vec<bool> = footer.entries().map(|entry| is_new(entry.id)).collect();
    for (entry, new) in footer.entries().zip(&new) {
        live.add(entry.id, entry.offset16, entry.len16);
        if !new {
            live.retire(entry.offset16);
        }
    }
    // Known before the first message is told: the sink may retire it at once.
    segment.set_known(live);
    let mut new = new.into_iter();
    footer.each(|entry, pool, queue_names| {
        if new.next() != Some(true) {
            report.duplicates += 1;
            return;
        }
        report.messages += 1;
        report.recipients += queue_names.len() as u64;
        sink(Recovered {
            id: SpoolId(entry.id),
            at: RecordRef { segment: segment.number, offset16: entry.offset16 },
            version: entry.version,
            received: entry.received,
            not_before: entry.not_before,
            not_after: entry.not_after,
            size: entry.size,
            class: entry.class,
            priority: entry.priority,
            pool,
            queue_names,
        });
    });
}

fn tell_scan(
    segment: &Segment,
    found: &[Found],
    is_new: &mut dyn FnMut(u64) -> bool,
    report: &mut RecoveryReport,
    sink: &mut dyn FnMut(Recovered<'_>),
) {
    let mut live = Live::default();
    let new: Vec<bool> = found.iter().map(|found| is_new(found.id)).collect();
    for (found, new) in found.iter().zip(&new) {
        let unit = RECORD_ALIGN as u64;
        let offset16 = RecordRef::at(0, found.offset).offset16;
        live.add(found.id, offset16, (found.len / unit) as u32);
        if !new {
            live.retire(offset16);
        }
    }
    segment.set_known(live);
    for (found, new) in found.iter().zip(new) {
        if !new {
            report.duplicates += 1;
            continue;
        }
        let labels = &found.labels;
        let queue_names: Vec<&str> = labels.queue_names().collect();
        report.messages += 1;
        report.recipients += queue_names.len() as u64;
        sink(Recovered {
            id: SpoolId(found.id),
            at: RecordRef::at(segment.number, found.offset),
            version: found.version,
            received: labels.received,
            not_before: labels.not_before,
            not_after: labels.not_after,
            size: labels.size,
            class: labels.class,
            priority: labels.priority,
            pool: &labels.pool,
            queue_names: &queue_names,
        });
    }
}

/// The segment of the table that stands for a slot found in use; its records are told later.
pub(super) fn segment_of(used: &Used) -> Segment {
    let facts = SegmentFacts {
        number: used.block.number,
        slot: used.slot,
        epoch: used.block.epoch,
        generation: used.block.generation,
        heat: used.block.heat,
        created: used.block.created,
        bytes: used.block.segment_bytes,
    };
    let phase = if used.trailer.is_some() { Phase::Sealed } else { Phase::Ended };
    Segment::new(facts, phase, false)
}
