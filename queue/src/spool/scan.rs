//! Reading a segment that has no footer: every batch, every record, and a judgement on each.
//!
//! The judgement is [`judge`], pure; around it stands the reading, which turns unreadable blocks into bad ones
//! instead of giving up.

use std::io;

use super::labels::Labels;
use super::layout::align_up;
use super::records::{BatchHeader, RecordFault, RecordHeader, BATCH_HEADER, RECORD_HEADER};
use super::superblock::DATA_START;
use super::writer::Protections;
use crate::disk::{aligned, Disk};
use crate::limits::{BLOCK, RECORD_ALIGN};

/// Bytes read at once.
const WINDOW: usize = 1024 * 1024;

/// Which segment is read, and what is known about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub slot: u32,
    pub epoch: u64,
    pub bytes: u64,
    /// What lies behind was never acknowledged.
    pub cut_off: Option<u64>,
    /// Everything below is known to be acknowledged from elsewhere (a trailer, a cut-off).
    pub durable: u64,
}

/// A message found.
#[derive(Debug)]
pub(super) struct Found {
    pub id: u64,
    pub version: u8,
    pub offset: u64,
    pub len: u64,
    pub labels: Labels,
}

/// Damage in what was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub offset: u64,
    pub len: u64,
    pub what: &'static str,
    /// Key of the message, where its header could still be read.
    pub id: Option<u64>,
}

/// What a segment turned out to hold.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub found: Vec<Found>,
    pub bad: Vec<Bad>,
    /// Everything below was accepted: the cut-off to remember.
    pub end: u64,
    pub max_id: u64,
    /// Batches and records of an unacknowledged tail, dropped.
    pub dropped_batches: u32,
    pub dropped_records: u32,
    /// Blocks the disk would not read.
    pub unreadable: Vec<u64>,
}

/// What becomes of a place in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its good records are messages.
    Accept,
    /// It was acknowledged and is damaged: kept aside, and reading goes on behind it.
    Damage,
    /// It was never acknowledged: it and all behind it is dropped.
    Tail,
}

/// The judgement over a batch, or over blocks that are no batch, at `offset`. `whole` when nothing in it is bad,
/// `durable` is how far the segment is known to be acknowledged.
pub(super) fn judge(offset: u64, whole: bool, durable: u64, cut_off: Option<u64>) -> Verdict {
    if cut_off.is_some_and(|cut| offset >= cut) {
        return Verdict::Tail;
    }
    match (whole, offset < durable) {
        (true, _) => Verdict::Accept,
        (false, true) => Verdict::Damage,
        (false, false) => Verdict::Tail,
    }
}

/// A reader that holds one window of the file and never fails: what can't be read is zeros and noted.
struct Reader<'a> {
    disk: &'a dyn Disk,
    subject: Subject,
    window: rkyv::util::AlignedVec<BLOCK>,
    start: u64,
    unreadable: Vec<u64>,
}

impl<'a> Reader<'a> {
    fn new(disk: &'a dyn Disk, subject: Subject) -> Self {
        Self { disk, subject, window: aligned(0), start: 0, unreadable: Vec::new() }
    }

    /// `len` bytes from `offset`, fewer at the end of the file.
    fn bytes(&mut self, offset: u64, len: usize) -> &[u8] {
        let end = (offset + len as u64).min(self.subject.bytes);
        let held = self.start..self.start + self.window.len() as u64;
        if offset < held.start || end > held.end {
            self.load(offset / BLOCK as u64 * BLOCK as u64, end);
        }
        let from = (offset.saturating_sub(self.start) as usize).min(self.window.len());
        let to = (end.saturating_sub(self.start) as usize).clamp(from, self.window.len());
        &self.window[from..to]
    }

    fn load(&mut self, start: u64, end: u64) {
        let wanted = align_up(end - start, BLOCK as u64).max(WINDOW as u64);
        let len = wanted.min(self.subject.bytes.saturating_sub(start)) as usize;
        self.window.clear();
        self.window.resize(len, 0);
        self.start = start;
        if self.disk.read_at(self.subject.slot, start, &mut self.window).is_ok() {
            return;
        }
        for (index, block) in self.window.chunks_mut(BLOCK).enumerate() {
            let at = start + (index * BLOCK) as u64;
            let read: io::Result<()> = self.disk.read_at(self.subject.slot, at, block);
            if read.is_err() {
                block.fill(0);
                if !self.unreadable.contains(&at) {
                    self.unreadable.push(at);
                }
            }
        }
    }
}

/// Something that lies at an offset: a batch with its good records and its faults, or blocks that are no batch.
struct Piece {
    offset: u64,
    len: u64,
    batch: Option<BatchHeader>,
    found: Vec<Found>,
    bad: Vec<Bad>,
}

/// Reads the whole segment.
pub(super) fn scan(disk: &dyn Disk, subject: Subject, protections: &Protections) -> Scan {
    let mut reader = Reader::new(disk, subject);
    let pieces = read_pieces(&mut reader, protections);
    let headers = pieces.iter().filter_map(|piece| piece.batch.as_ref());
    let durable = headers.map(|batch| batch.durable).max().unwrap_or(0).max(subject.durable);
    let cut_off = subject.cut_off.filter(|_| protections.honour_cutoffs);
    let mut scan = Scan { end: DATA_START, ..Scan::default() };
    let mut tail = false;
    for mut piece in pieces {
        let whole = piece.batch.is_some() && piece.bad.is_empty();
        let verdict = if tail { Verdict::Tail } else { judge(piece.offset, whole, durable, cut_off) };
        if let Some(batch) = &piece.batch {
            scan.max_id = scan.max_id.max(batch.max_id);
        }
        match verdict {
            Verdict::Accept => {
                scan.end = piece.offset + piece.len;
                scan.found.append(&mut piece.found);
            }
            Verdict::Damage => {
                scan.end = piece.offset + piece.len;
                if piece.batch.is_none() {
                    salvage(&mut reader, &mut piece, protections);
                }
                scan.found.append(&mut piece.found);
                scan.bad.append(&mut piece.bad);
            }
            Verdict::Tail => {
                tail = true;
                scan.dropped_batches += u32::from(piece.batch.is_some());
                scan.dropped_records += piece.batch.map_or(0, |batch| batch.records);
            }
        }
    }
    scan.max_id = scan.found.iter().map(|found| found.id).fold(scan.max_id, u64::max);
    scan.unreadable = reader.unreadable;
    scan
}

fn read_pieces(reader: &mut Reader<'_>, protections: &Protections) -> Vec<Piece> {
    let subject = reader.subject;
    let mut pieces: Vec<Piece> = Vec::new();
    let mut at = DATA_START;
    while at < subject.bytes {
        let parsed = BatchHeader::parse(reader.bytes(at, BATCH_HEADER), protections.check_crc);
        let batch = parsed.filter(|batch| {
            // An old use's batch is none of this use.
            let ours = !protections.check_epoch || batch.epoch == subject.epoch;
            ours && batch.offset == at && at + batch.padded() <= subject.bytes
        });
        let Some(batch) = batch else {
            match pieces.last_mut().filter(|piece| piece.batch.is_none()) {
                Some(gap) => gap.len += BLOCK as u64,
                None => pieces.push(gap(at)),
            }
            at += BLOCK as u64;
            continue;
        };
        let piece = read_batch(reader, batch, protections);
        at += piece.len;
        pieces.push(piece);
    }
    pieces
}

fn gap(offset: u64) -> Piece {
    Piece { offset, len: BLOCK as u64, batch: None, found: Vec::new(), bad: Vec::new() }
}

fn read_batch(reader: &mut Reader<'_>, batch: BatchHeader, protections: &Protections) -> Piece {
    let mut piece =
        Piece { offset: batch.offset, len: batch.padded(), batch: Some(batch), found: Vec::new(), bad: Vec::new() };
    let end = batch.offset + u64::from(batch.len);
    let mut at = batch.offset + BATCH_HEADER as u64;
    for _ in 0..batch.records {
        match read_record(reader, at, end, batch.epoch, protections) {
            Ok(found) => {
                at += found.len;
                piece.found.push(found);
            }
            Err((fault, Some((id, len)))) => {
                piece.bad.push(Bad { offset: at, len, what: fault.text(), id: Some(id) });
                at += len;
            }
            Err((fault, None)) => {
                // The chain of lengths is broken here: whatever can be found behind is found by its checksum.
                let rest = end - at;
                piece.bad.push(Bad { offset: at, len: rest, what: fault.text(), id: None });
                let mut behind = Piece { offset: at, len: rest, ..gap(at) };
                search(reader, &mut behind, batch.epoch, protections);
                piece.found.append(&mut behind.found);
                return piece;
            }
        }
    }
    piece
}

type RecordError = (RecordFault, Option<(u64, u64)>);

fn read_record(
    reader: &mut Reader<'_>,
    at: u64,
    end: u64,
    epoch: u64,
    protections: &Protections,
) -> Result<Found, RecordError> {
    let lost = (RecordFault::Header, None);
    let peeked = RecordHeader::peek(reader.bytes(at, RECORD_HEADER)).ok_or(lost)?;
    let shape = peeked.shape();
    if at + shape.len as u64 > end {
        return Err(lost);
    }
    let check_crc = protections.check_crc;
    let bytes = reader.bytes(at, shape.len);
    let (header, labels) = RecordHeader::parse(bytes, epoch, at, check_crc).ok_or(lost)?;
    let known = Some((header.id, shape.len as u64));
    let labels = Labels::parse(labels).ok_or((RecordFault::Header, known))?;
    let part = |from: usize, len: u32| bytes.get(from..from + len as usize).unwrap_or_default();
    if check_crc && crc32c::crc32c(part(shape.env_at, header.env_len)) != header.crc_env {
        return Err((RecordFault::Envelope, known));
    }
    if check_crc && crc32c::crc32c(part(shape.body_at, header.body_len)) != header.crc_body {
        return Err((RecordFault::Body, known));
    }
    Ok(Found { id: header.id, version: header.version, offset: at, len: shape.len as u64, labels })
}

/// Blocks that are no batch, in what was acknowledged: the batch header is lost, its records may not be.
fn salvage(reader: &mut Reader<'_>, piece: &mut Piece, protections: &Protections) {
    piece.bad.push(Bad { offset: piece.offset, len: piece.len, what: "no batch header", id: None });
    let epoch = reader.subject.epoch;
    search(reader, piece, epoch, protections);
}

/// Looks at every place a record may start. The checksum of a record header knows epoch and place, so nothing old
/// and nothing that a message quotes can be taken for a record.
fn search(reader: &mut Reader<'_>, piece: &mut Piece, epoch: u64, protections: &Protections) {
    let strict = Protections { check_crc: true, ..*protections };
    let end = piece.offset + piece.len;
    let mut at = piece.offset;
    while at < end {
        match read_record(reader, at, end, epoch, &strict) {
            Ok(found) => {
                at += found.len;
                piece.found.push(found);
            }
            Err(_) => at += RECORD_ALIGN as u64,
        }
    }
}
