//! Recovery: what is on the disk after any stop, and what it means.
//!
//! | letter | found | decision |
//! | --- | --- | --- |
//! | A | a valid trailer and footer | the footer's messages; no record is read |
//! | B | no trailer | every batch is read |
//! | C | a trailer, but the footer is damaged | every batch is read; all of it was acknowledged |
//! | D | a whole batch, everything before it whole | its records are messages, acknowledged or not |
//! | E | something bad, and no batch behind says it was durable | an unacknowledged tail: it and all behind it is dropped |
//! | F | something bad below what a later batch, a trailer or a cut-off says was durable | damage: kept aside, reported; reading goes on behind it |
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
//! start decides the same.

use std::collections::HashMap;
use std::sync::Arc;

use super::commit::RecordRef;
use super::footer::{Footer, Trailer};
use super::scan::{scan, Bad, Found, Scan, Subject};
use super::segment::{Live, Phase, Segment, SegmentFacts};
use super::shared::Shared;
use super::superblock::{CutOff, CutReason, Heat, Parsed, State, Superblock, DATA_START, FORMAT};
use super::writer::Protections;
use crate::disk::{aligned, Disk};
use crate::envelope::Class;
use crate::error::OpenError;
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

/// A slot in use, as found.
pub(super) struct Used {
    pub slot: u32,
    pub block: Superblock,
    pub trailer: Option<Trailer>,
    pub scan: Option<Scan>,
}

/// What opening found: enough to accept mail; the messages are told by [`Recovery::run`].
pub(super) struct Survey {
    pub identity: Option<u128>,
    pub used: Vec<Used>,
    /// Slots to be used again, with their newest generation.
    pub spares: Vec<(u32, u64)>,
    pub cut_offs: Vec<CutOff>,
    pub next_id: u64,
    pub next_number: u32,
    pub next_slot: u32,
    pub damage: Vec<Damage>,
}

fn io_error(what: String) -> impl FnOnce(std::io::Error) -> OpenError {
    move |source| OpenError::Io { what, source, remedy: "check the spool disk and the rights on its directory" }
}

/// Reads superblocks and trailers of all slots, and every segment that has no footer.
pub(super) fn survey(disk: &dyn Disk, segment_bytes: u64, protections: &Protections) -> Result<Survey, OpenError> {
    let slots = disk.list().map_err(io_error("listing the spool".into()))?;
    let mut survey = Survey {
        identity: None,
        used: Vec::new(),
        spares: Vec::new(),
        cut_offs: Vec::new(),
        next_id: 1,
        next_number: 1,
        next_slot: slots.iter().map(|(slot, _)| slot + 1).max().unwrap_or(0),
        damage: Vec::new(),
    };
    let mut told: Vec<CutOff> = Vec::new();
    for (slot, len) in slots {
        survey_slot(disk, slot, len, segment_bytes, &mut survey, &mut told)?;
    }
    for used in &mut survey.used {
        let cut = told.iter().find(|cut| cut.number == used.block.number && cut.epoch == used.block.epoch);
        survey.cut_offs.extend(cut);
        used.trailer = read_trailer(disk, used.slot, &used.block, protections);
        if let Some(trailer) = &used.trailer {
            survey.next_id = survey.next_id.max(trailer.max_id + 1);
            continue;
        }
        if protections.sync_found {
            // What a killed process wrote may stand in caches only. It counts from here on (originals of copies are given
            // up, a cut-off says how far it reaches), so it must outlive a power cut too.
            disk.sync(used.slot).map_err(io_error(format!("making seg-{:04} durable", used.slot)))?;
        }
        let result = scan(disk, subject(used, cut, DATA_START), protections);
        survey.next_id = survey.next_id.max(result.max_id + 1);
        if cut.is_none() {
            survey.cut_offs.push(CutOff {
                number: used.block.number,
                epoch: used.block.epoch,
                offset: result.end,
                reason: CutReason::Stopped,
            });
        }
        used.scan = Some(result);
    }
    // Ids that were handed out and never became durable may stand in logs: leave them behind.
    survey.next_id = (survey.next_id | 0xffff) + 1;
    Ok(survey)
}

fn survey_slot(
    disk: &dyn Disk,
    slot: u32,
    len: u64,
    segment_bytes: u64,
    survey: &mut Survey,
    told: &mut Vec<CutOff>,
) -> Result<(), OpenError> {
    let parsed = read_superblock(disk, slot);
    let block = match parsed {
        Parsed::Valid(block) => block,
        Parsed::Unreadable(found) => {
            return Err(OpenError::TooNew { what: format!("seg-{slot:04}"), found, known: FORMAT });
        }
        Parsed::Invalid => {
            let what = "neither superblock is valid";
            let kept = disk.set_aside(slot, what).map_err(|error| error.to_string());
            survey.damage.push(Damage { slot, segment: 0, offset: 0, len, id: None, what: what.into(), kept });
            return Ok(());
        }
    };
    if survey.identity.is_some_and(|identity| identity != block.identity) {
        return Err(OpenError::Setting(format!(
            "seg-{slot:04} belongs to another spool; move it out of the spool directory"
        )));
    }
    survey.identity = Some(block.identity);
    survey.next_id = survey.next_id.max(block.id_floor);
    survey.next_number = survey.next_number.max(block.number + 1);
    told.extend(block.cut_offs.iter().copied());
    if block.state == State::InUse {
        let block = Superblock { segment_bytes: block.segment_bytes.min(len / BLOCK as u64 * BLOCK as u64), ..block };
        survey.used.push(Used { slot, block, trailer: None, scan: None });
    } else if len == segment_bytes {
        survey.spares.push((slot, block.generation));
    } else {
        disk.remove(slot).map_err(io_error(format!("removing the spare seg-{slot:04} of another size")))?;
    }
    Ok(())
}

fn read_superblock(disk: &dyn Disk, slot: u32) -> Parsed {
    let copy = |offset: u64| {
        let mut block = aligned(BLOCK);
        match disk.read_at(slot, offset, &mut block) {
            Ok(()) => Superblock::parse(&block),
            Err(_) => Parsed::Invalid,
        }
    };
    Superblock::choose(copy(0), copy(BLOCK as u64))
}

fn read_trailer(disk: &dyn Disk, slot: u32, block: &Superblock, protections: &Protections) -> Option<Trailer> {
    let mut bytes = aligned(BLOCK);
    disk.read_at(slot, block.segment_bytes.checked_sub(BLOCK as u64)?, &mut bytes).ok()?;
    Trailer::parse(&bytes, block.epoch, protections.check_epoch)
}

fn subject(used: &Used, cut: Option<&CutOff>, durable: u64) -> Subject {
    Subject {
        slot: used.slot,
        epoch: used.block.epoch,
        bytes: used.block.segment_bytes,
        cut_off: cut.map(|cut| cut.offset),
        durable: cut.map_or(durable, |cut| cut.offset.max(durable)),
    }
}

/// The second half of opening a spool: telling all messages. Mail is accepted meanwhile.
pub struct Recovery {
    pub(super) shared: Arc<Shared>,
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
            let protections = &self.shared.settings.protections;
            used.scan = Some(scan(&*self.shared.disk, subject(&used, None, trailer.data_end), protections));
        }
        let Some(result) = used.scan.take() else { return };
        report.by_scan += 1;
        report.dropped_batches += result.dropped_batches;
        report.dropped_records += result.dropped_records;
        for bad in &result.bad {
            let Bad { offset, len, what, id } = bad;
            report.damage.push(self.keep(&used, *offset, *len, what, *id));
        }
        // Evidence stays where it is as long as somebody may want to look.
        segment.kept.store(!result.bad.is_empty(), std::sync::atomic::Ordering::Release);
        tell_scan(&segment, &result.found, is_new, report, sink);
    }

    fn keep(&self, used: &Used, offset: u64, len: u64, what: &str, id: Option<u64>) -> Damage {
        let start = offset / BLOCK as u64 * BLOCK as u64;
        let end = (offset + len).min(used.block.segment_bytes);
        let mut bytes = Vec::new();
        let mut at = start;
        while at < end {
            let mut block = aligned(BLOCK);
            // What can't be read is kept as zeros, so that the rest stays at its place.
            if self.shared.disk.read_at(used.slot, at, &mut block).is_err() {
                block.fill(0);
            }
            bytes.extend_from_slice(&block);
            at += BLOCK as u64;
        }
        let kept = self.shared.disk.keep_damaged(used.slot, start, &bytes, what).map_err(|error| error.to_string());
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
        created: used.block.created,
        bytes: used.block.segment_bytes,
    };
    let phase = if used.trailer.is_some() { Phase::Sealed } else { Phase::Ended };
    Segment::new(facts, phase, false)
}
