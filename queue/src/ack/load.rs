//! Reads all files of the log, oldest first, into a [`Builder`], and judges whether something is missing.
//!
//! Frames of the log are numbered without a gap, each is durable before the next is written, and a frame says the
//! highest spool id so far. So a gap is damage, and the next frame bounds whom it concerns; what follows the last frame
//! was never called durable. A file that ends in `Closed` has a successor.

use std::io;

use super::entry::AckEntry;
use super::frame::{scan, Frame, FrameKind};
use super::replay::{Builder, DamageCause};
use super::store::LogStore;

/// What a file name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileName {
    /// Part `1` of the compaction of generation `0`.
    Base(u64, u32),
    /// File of the log.
    Log(u64),
    /// Part of a compaction that was not finished.
    Temporary,
    /// None of ours.
    Unknown,
}

impl FileName {
    pub(super) fn parse(name: &str) -> Self {
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        if let Some(number) = name.strip_prefix("ack-").and_then(hex) {
            return Self::Log(number);
        }
        if name.ends_with(".new") {
            return Self::Temporary;
        }
        let base = name.strip_prefix("base-").and_then(|rest| rest.split_once('-'));
        match base.map(|(generation, part)| (hex(generation), u32::from_str_radix(part, 16))) {
            Some((Some(generation), Ok(part))) => Self::Base(generation, part),
            _ => Self::Unknown,
        }
    }

    /// The name of a file of the log.
    pub(super) fn log(number: u64) -> String {
        format!("ack-{number:08x}")
    }

    /// The name of a part of a compaction.
    pub(super) fn base(generation: u64, part: u32) -> String {
        format!("base-{generation:08x}-{part:06x}")
    }
}

/// A file of the log as found.
#[derive(Clone, Debug)]
pub(super) struct LogFile {
    pub(super) number: u64,
    /// Bytes up to the end of its last frame.
    pub(super) used: u64,
    /// Bytes of the file.
    pub(super) len: u64,
    closed: bool,
}

/// What the files say beside the entries.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) logs: Vec<LogFile>,
    /// Names and bytes of all files of compactions.
    pub(super) bases: Vec<(String, u64)>,
    pub(super) temporary: Vec<String>,
    /// Highest generation of a compaction, whole or not.
    pub(super) generation: u64,
    /// Number of the next frame.
    pub(super) next: u64,
    pub(super) epoch: u64,
    pub(super) max_id: u64,
    /// Valid entries of damaged frames of the last file, which will not be read again.
    pub(super) salvaged: Vec<AckEntry>,
    /// A frame of another spool was seen.
    pub(super) foreign: bool,
    frames: u64,
}

/// Parts of one compaction while it is read.
#[derive(Default)]
struct Base {
    /// Number, first id, last id, epoch of each whole frame.
    frames: Vec<(u64, u64, u64, u64)>,
    end: Option<Frame>,
}

/// Reads everything whose name passes `wanted`.
pub(super) fn load(
    store: &mut impl LogStore,
    identity: u128,
    builder: &mut Builder,
    wanted: impl Fn(FileName) -> bool,
) -> io::Result<Loaded> {
    let mut loaded = Loaded { next: 1, ..Loaded::default() };
    let mut names: Vec<(FileName, String)> = Vec::new();
    for name in store.list()? {
        match FileName::parse(&name) {
            FileName::Unknown => builder.report.unknown_files += 1,
            FileName::Temporary => loaded.temporary.push(name),
            parsed if wanted(parsed) => names.push((parsed, name)),
            _ => {}
        }
    }
    names.sort();
    builder.report.files = names.len();
    let merged = load_bases(store, identity, builder, &names, &mut loaded);
    load_logs(store, identity, builder, &names, &mut loaded, merged);
    Ok(loaded)
}

/// Reads the compactions. Every valid entry in any of them is used; the highest whole one says up to where the log may
/// be missing. Returns that number.
fn load_bases(
    store: &mut impl LogStore,
    identity: u128,
    builder: &mut Builder,
    names: &[(FileName, String)],
    loaded: &mut Loaded,
) -> u64 {
    let mut bases: std::collections::BTreeMap<u64, Base> = std::collections::BTreeMap::new();
    for (parsed, name) in names {
        let FileName::Base(generation, _) = *parsed else { continue };
        loaded.generation = loaded.generation.max(generation);
        let bytes = store.read(name).unwrap_or_else(|_| {
            builder.lost(DamageCause::Unreadable, 0, u64::MAX, u64::MAX);
            Vec::new()
        });
        loaded.bases.push((name.clone(), bytes.len() as u64));
        let base = bases.entry(generation).or_default();
        scan(&bytes, |found| {
            let frame = found.frame;
            if frame.identity != identity {
                loaded.foreign = true;
                return;
            }
            note(loaded, builder, &frame);
            match frame.kind {
                FrameKind::BaseEnd => base.end = Some(frame),
                FrameKind::Damage => {
                    builder.lost(DamageCause::Noted, frame.first, frame.bound, frame.epoch.saturating_sub(1))
                }
                _ if found.whole => base.frames.push((frame.sequence, frame.first, frame.max_id, frame.epoch)),
                _ => {}
            }
            found.entries().for_each(|entry| builder.push(&entry, frame.epoch));
        });
    }
    let Some((base, end)) = bases.values().rev().find_map(|base| base.end.map(|end| (base, end))) else { return 0 };
    let (mut expected, mut last) = (0, 0);
    for &(number, first, max_id, epoch) in &base.frames {
        if number > expected {
            builder.lost(DamageCause::BaseDamaged, last, first, epoch);
        }
        (expected, last) = (number + 1, max_id);
    }
    if expected < end.sequence {
        builder.lost(DamageCause::BaseDamaged, last, end.max_id, end.epoch);
    }
    loaded.next = end.bound + 1;
    end.bound
}

fn load_logs(
    store: &mut impl LogStore,
    identity: u128,
    builder: &mut Builder,
    names: &[(FileName, String)],
    loaded: &mut Loaded,
    merged: u64,
) {
    let mut followed = merged == 0;
    let mut torn = false;
    for (parsed, name) in names {
        let FileName::Log(number) = *parsed else { continue };
        let bytes = store.read(name).unwrap_or_else(|_| {
            builder.lost(DamageCause::Unreadable, 0, u64::MAX, loaded.epoch);
            Vec::new()
        });
        loaded.salvaged.clear();
        let mut file = LogFile { number, used: 0, len: bytes.len() as u64, closed: false };
        let garbage = scan(&bytes, |found| {
            let frame = found.frame;
            if frame.identity != identity {
                loaded.foreign = true;
                return;
            }
            note(loaded, builder, &frame);
            if found.whole {
                file.used = found.end as u64;
                file.closed = frame.kind == FrameKind::Closed;
            }
            if frame.sequence > merged {
                followed |= found.whole;
                log_frame(loaded, builder, &frame, found.whole);
                found.entries().for_each(|entry| builder.push(&entry, frame.epoch));
                if !found.whole {
                    loaded.salvaged.extend(found.entries());
                }
            }
        });
        // A spare that was never written says nothing about the end of the log.
        if garbage || file.used > 0 {
            torn = garbage;
        }
        loaded.logs.push(file);
    }
    builder.report.torn_tail = torn;
    let cut = loaded.logs.last().is_some_and(|file| file.closed);
    if cut || !followed {
        builder.lost(DamageCause::EndMissing, 0, u64::MAX, loaded.epoch);
    }
}

fn note(loaded: &mut Loaded, builder: &mut Builder, frame: &Frame) {
    loaded.frames += 1;
    loaded.epoch = loaded.epoch.max(frame.epoch);
    loaded.max_id = loaded.max_id.max(frame.max_id);
    builder.report.frames += 1;
}

fn log_frame(loaded: &mut Loaded, builder: &mut Builder, frame: &Frame, whole: bool) {
    if frame.sequence > loaded.next {
        builder.lost(DamageCause::FramesMissing, 0, frame.max_id, frame.epoch);
        loaded.next = frame.sequence;
    }
    builder.enter(frame.epoch);
    if !whole {
        return;
    }
    match frame.kind {
        FrameKind::Closed => return,
        FrameKind::Damage => builder.lost(DamageCause::Noted, frame.first, frame.bound, frame.epoch),
        FrameKind::Settled => builder.settle(frame.bound),
        _ => {}
    }
    loaded.next = loaded.next.max(frame.sequence + 1);
}

impl Loaded {
    /// True when not one frame was found.
    pub(super) fn is_empty(&self) -> bool {
        self.frames == 0
    }
}
