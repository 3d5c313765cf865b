//! The first half of recovery: what every file of the directory is, and how far unsealed segments go.
//!
//! It is what must be known before mail is accepted: superblocks, trailers, and every segment that has no footer. The
//! letters are those of the table in [`super::recover`].

use super::footer::Trailer;
use super::records::BatchHeader;
use super::recover::Damage;
use super::scan::{scan, Scan, Subject};
use super::superblock::{CutOff, CutReason, Parsed, State, Superblock, DATA_START, FORMAT};
use super::writer::Protections;
use crate::disk::{aligned, Disk};
use crate::error::OpenError;
use crate::limits::BLOCK;

/// A slot in use, as found.
pub(super) struct Used {
    pub slot: u32,
    pub block: Superblock,
    pub trailer: Option<Trailer>,
    pub scan: Option<Scan>,
    /// Why it ended, when it ended without a trailer.
    pub reason: Option<CutReason>,
}

/// What opening found: enough to accept mail; the messages are told by [`super::Recovery::run`].
pub(super) struct Survey {
    pub identity: Option<u128>,
    pub used: Vec<Used>,
    /// Slots to be used again, with their newest generation.
    pub spares: Vec<(u32, u64)>,
    /// Where segments without a trailer end.
    pub cut_offs: Vec<CutOff>,
    pub next_id: u64,
    pub next_number: u32,
    pub next_slot: u32,
    pub damage: Vec<Damage>,
}

/// How a survey is made.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// Length of segments now; spares of another length are removed.
    pub segment_bytes: u64,
    /// Whether files may be removed and set aside.
    pub tidy: bool,
    pub protections: Protections,
}

fn io_error(what: String) -> impl FnOnce(std::io::Error) -> OpenError {
    move |source| OpenError::Io { what, source, remedy: "check the spool disk and the rights on its directory" }
}

/// Reads superblocks and trailers of all slots, and every segment that has no footer.
pub(super) fn survey(disk: &dyn Disk, manner: &Manner) -> Result<Survey, OpenError> {
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
        survey_slot(disk, (slot, len), manner, &mut survey, &mut told)?;
    }
    let mut used = std::mem::take(&mut survey.used);
    for one in &mut used {
        let cut = told.iter().find(|cut| cut.number == one.block.number && cut.epoch == one.block.epoch);
        survey_segment(disk, one, cut, manner, &mut survey)?;
    }
    survey.used = used;
    // Ids that were handed out and never became durable may stand in logs: leave them behind.
    survey.next_id = (survey.next_id | 0xffff) + 1;
    Ok(survey)
}

/// Letters A, B, H: the trailer says all, or every batch is read.
fn survey_segment(
    disk: &dyn Disk,
    used: &mut Used,
    cut: Option<&CutOff>,
    manner: &Manner,
    survey: &mut Survey,
) -> Result<(), OpenError> {
    used.trailer = read_trailer(disk, used.slot, &used.block, &manner.protections);
    if let Some(trailer) = &used.trailer {
        survey.next_id = survey.next_id.max(trailer.max_id + 1);
        return Ok(());
    }
    if manner.tidy && manner.protections.sync_found {
        // What a killed process wrote may stand in caches only. It counts from here on (originals of copies are given
        // up, a cut-off says how far it reaches), so it must outlive a power cut too.
        disk.sync(used.slot).map_err(io_error(format!("making seg-{:04} durable", used.slot)))?;
    }
    let known = cut.map(|cut| cut.offset);
    let result = scan(disk, subject(used, known, known.unwrap_or(DATA_START)), &manner.protections);
    survey.next_id = survey.next_id.max(result.max_id + 1);
    let cut = cut.copied().unwrap_or(CutOff {
        number: used.block.number,
        epoch: used.block.epoch,
        offset: result.end,
        reason: CutReason::Stopped,
    });
    survey.cut_offs.push(cut);
    used.reason = Some(cut.reason);
    used.scan = Some(result);
    Ok(())
}

/// Letters I to M and O to Q: what one file is.
fn survey_slot(
    disk: &dyn Disk,
    (slot, len): (u32, u64),
    manner: &Manner,
    survey: &mut Survey,
    told: &mut Vec<CutOff>,
) -> Result<(), OpenError> {
    let block = match read_superblock(disk, slot) {
        Parsed::Valid(block) => block,
        Parsed::Unreadable(found) => {
            return Err(OpenError::TooNew { what: format!("seg-{slot:04}"), found, known: FORMAT });
        }
        Parsed::Invalid => {
            let what = "neither superblock is valid";
            // Its messages stay known to the ack log: their ids must not come again.
            survey.next_id = survey.next_id.max(highest_id(disk, slot, len) + 1);
            let kept = match manner.tidy {
                true => disk.set_aside(slot, what).map_err(|error| error.to_string()),
                false => Err("only looked at".into()),
            };
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
        // A file that was cut short is read as far as it goes.
        let there = len / BLOCK as u64 * BLOCK as u64;
        let block = Superblock { segment_bytes: block.segment_bytes.min(there), ..block };
        survey.used.push(Used { slot, block, trailer: None, scan: None, reason: None });
    } else if len == manner.segment_bytes {
        survey.spares.push((slot, block.generation));
    } else if manner.tidy {
        disk.remove(slot).map_err(io_error(format!("removing the spare seg-{slot:04} of another size")))?;
    }
    Ok(())
}

fn read_superblock(disk: &dyn Disk, slot: u32) -> Parsed {
    let mut both = aligned(2 * BLOCK);
    if disk.read_at(slot, 0, &mut both).is_ok() {
        let (first, second) = both.split_at(BLOCK);
        return Superblock::choose(Superblock::parse(first), Superblock::parse(second));
    }
    let copy = |offset: u64| {
        let mut block = aligned(BLOCK);
        match disk.read_at(slot, offset, &mut block) {
            Ok(()) => Superblock::parse(&block),
            Err(_) => Parsed::Invalid,
        }
    };
    Superblock::choose(copy(0), copy(BLOCK as u64))
}

/// The highest id that any whole batch of a file tells, of whatever use.
fn highest_id(disk: &dyn Disk, slot: u32, len: u64) -> u64 {
    let mut block = aligned(BLOCK);
    let mut highest = 0;
    for at in (DATA_START..len).step_by(BLOCK) {
        if disk.read_at(slot, at, &mut block).is_ok() {
            highest = BatchHeader::parse(&block, true).map_or(highest, |batch| highest.max(batch.max_id));
        }
    }
    highest
}

fn read_trailer(disk: &dyn Disk, slot: u32, block: &Superblock, protections: &Protections) -> Option<Trailer> {
    let mut bytes = aligned(BLOCK);
    disk.read_at(slot, block.segment_bytes.checked_sub(BLOCK as u64)?, &mut bytes).ok()?;
    let trailer = Trailer::parse(&bytes, block.epoch, protections.check_epoch)?;
    (trailer.segment_bytes == block.segment_bytes).then_some(trailer)
}

/// What [`scan`] is told about a segment: where it is cut off, and how far it is known to be acknowledged.
pub(super) fn subject(used: &Used, cut_off: Option<u64>, durable: u64) -> Subject {
    Subject { slot: used.slot, epoch: used.block.epoch, bytes: used.block.segment_bytes, cut_off, durable }
}
