//! The ack log: a life of verdicts on a disk in memory, damaged, and replayed.
//!
//! A damaged log may know less, and must say so: a recipient whose verdict was durable is decided or held, never open
//! again; one that never had a verdict is never decided.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use queue::ack::ring::read_slots;
use queue::ack::{AckEntry, AckKind, AckLog, AckOptions, LogStore, MemoryStore, RcptState};
use queue::{HoldReason, OutcomeKind, SpoolId, UnixMillis, UnixSecs};

use super::source::Source;
use super::{must, Verdict};

const IDENTITY: u128 = 0x7269_6e67;

pub(super) fn run(source: &mut Source<'_>) -> Verdict {
    match source.byte() % 4 {
        0 => entries(source),
        _ => life(source),
    }
}

fn entry(source: &mut Source<'_>) -> AckEntry {
    let kind = AckKind::from_byte(source.byte()).unwrap_or(AckKind::Intent);
    AckEntry {
        id: SpoolId(source.number()),
        rcpt: source.number() as u16,
        kind,
        attempt: source.number() as u16,
        unknowns: source.byte(),
        code: source.number() as u16,
        time: UnixSecs(source.u32()),
        due: UnixSecs(source.u32()),
    }
}

fn entries(source: &mut Source<'_>) -> Verdict {
    let (one, sequence, salt) = (entry(source), source.u32(), source.u32());
    let good = one.encode(sequence, salt);
    must(AckEntry::decode(&good, salt) == Some((one, sequence)), || format!("{one:?} does not come back"))?;
    let mut bad = good.to_vec();
    source.damage(&mut bad, 3);
    let read = AckEntry::decode(&bad, salt);
    must(read.is_none_or(|read| read == (one, sequence)), || format!("{one:?} became {read:?}"))?;
    let mut slots = source.raw(200);
    slots.extend_from_slice(&good);
    slots.extend(source.raw(100));
    let content = read_slots(&slots, salt);
    must(content.entries.iter().all(|found| *found == one), || "an entry out of nowhere".to_owned())
}

/// What is certain about a recipient.
#[derive(Clone, Copy, Debug, Default)]
struct Truth {
    attempts: u16,
    decided: Option<OutcomeKind>,
    done: bool,
    durable: bool,
}

struct Shm(PathBuf);

impl Shm {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("ringpost-fuzz-ack-{}-{number}", std::process::id())))
    }

    fn clear(&self) {
        for file in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn options() -> AckOptions {
    AckOptions { file_bytes: 64 * 1024, ring_entries: 256, compact_min: 1, ..AckOptions::default() }
}

fn life(source: &mut Source<'_>) -> Verdict {
    let shm = Shm::new();
    let opened = AckLog::open(MemoryStore::default(), &shm.0, IDENTITY, true, options());
    let (mut log, _) = opened.map_err(|error| error.to_string())?;
    let mut port = log.port(0).map_err(|error| error.to_string())?;
    let mut truths: BTreeMap<(u64, u16), Truth> = BTreeMap::new();
    let mut pending: Vec<(u64, u16)> = Vec::new();
    for _ in 0..source.below(120) {
        let at = (1 + source.below(20) as u64, source.below(3) as u16);
        let truth = truths.entry(at).or_default();
        if truth.done || port.room() < 4 {
            continue;
        }
        let mut put = |kind: AckKind, attempt: u16| {
            let (id, rcpt) = (SpoolId(at.0), at.1);
            let (time, due) = (UnixSecs(1000), UnixSecs(2000));
            let entry = AckEntry { id, rcpt, kind, attempt, unknowns: 0, code: 250, time, due };
            port.append(&entry).map_err(|error| error.to_string())
        };
        if truth.decided.is_some() {
            truth.done = source.flip();
            if truth.done {
                put(AckKind::Done, truth.attempts)?;
            }
        } else {
            truth.attempts += 1;
            put(AckKind::Intent, truth.attempts)?;
            let kinds = [OutcomeKind::Delivered, OutcomeKind::Deferred, OutcomeKind::Failed, OutcomeKind::Deferred];
            let kind = kinds[source.below(4)];
            put(AckKind::Verdict(kind), truth.attempts)?;
            truth.decided = kind.is_final().then_some(kind);
        }
        truth.durable = false;
        pending.push(at);
        if source.one_in(3) {
            log.sync(UnixMillis(1)).map_err(|error| error.to_string())?;
            pending.drain(..).for_each(|at| truths.entry(at).or_default().durable = true);
        }
        if source.one_in(40) {
            log.compact_if_needed(&|_| true).map_err(|error| error.to_string())?;
        }
    }
    // Half a second without entries: an empty frame shows that the one before it was durable. Without one, a damaged
    // last frame can't be told from one that was never finished, which nobody had been told of.
    let calm = source.flip();
    for _ in 0..if calm { 6 } else { 0 } {
        log.sync(UnixMillis(1)).map_err(|error| error.to_string())?;
        pending.drain(..).for_each(|at| truths.entry(at).or_default().durable = true);
    }
    drop(port);
    let mut store = log.into_store();
    // Half of the time the power goes, and with it what was not synchronised.
    if source.flip() {
        shm.clear();
        store.cut_power(|| source.flip());
    } else {
        truths.values_mut().for_each(|truth| truth.durable = true);
    }
    let damaged = damage(source, &mut store, &shm)?;
    let end_known = calm && !damaged.end;
    judge(store, &shm, &truths, damaged.any, end_known)
}

/// What was changed.
#[derive(Clone, Copy, Debug, Default)]
struct Damaged {
    any: bool,
    /// The last frame, or a file that may have held it.
    end: bool,
}

/// Changes files of the log and rings.
fn damage(source: &mut Source<'_>, store: &mut MemoryStore, shm: &Shm) -> Result<Damaged, String> {
    let names = store.list().map_err(|error| error.to_string())?;
    let mut damaged = Damaged::default();
    for _ in 0..source.below(4) {
        let Some(name) = names.get(source.below(names.len())) else { continue };
        if source.one_in(8) {
            damaged.any |= store.remove(name).is_ok();
            continue;
        }
        let (share, len, with) = (source.u32(), 1 + source.below(5000), source.byte());
        store.damage(name, |bytes| {
            // What was written lies at the front.
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
            let at = share as usize % used;
            let end = (at + len).min(bytes.len());
            for byte in &mut bytes[at..end] {
                *byte ^= with | 1;
            }
            damaged.any = true;
            damaged.end |= end > used.saturating_sub(queue::limits::BLOCK);
        });
    }
    if source.one_in(4) {
        for file in std::fs::read_dir(&shm.0).into_iter().flatten().flatten() {
            let mut bytes = std::fs::read(file.path()).map_err(|error| error.to_string())?;
            source.damage(&mut bytes, 3);
            std::fs::write(file.path(), bytes).map_err(|error| error.to_string())?;
            (damaged.any, damaged.end) = (true, true);
        }
    }
    Ok(damaged)
}

fn judge(
    store: MemoryStore,
    shm: &Shm,
    truths: &BTreeMap<(u64, u16), Truth>,
    damaged: bool,
    end_known: bool,
) -> Verdict {
    let (_, replay) = match AckLog::open(store, &shm.0, IDENTITY, false, options()) {
        Ok(opened) => opened,
        Err(error) => return must(damaged, || format!("an undamaged log does not open: {error}")),
    };
    let report = replay.report().clone();
    must(damaged || report.damage.is_empty(), || format!("damage where there is none: {report:?}"))?;
    for ((id, rcpt), truth) in truths {
        let state = replay.state(SpoolId(*id), *rcpt);
        let held = state == RcptState::Held(HoldReason::AckLogDamage);
        must(!held || !report.damage.is_empty(), || format!("{id}/{rcpt} is held and nothing was reported"))?;
        match state {
            RcptState::Decided { kind, .. } => {
                must(Some(kind) == truth.decided, || format!("{id}/{rcpt} is {state:?}, not {truth:?}"))?;
            }
            RcptState::Done => must(truth.done, || format!("{id}/{rcpt} is done, not {truth:?}"))?,
            RcptState::Held(_) => {}
            RcptState::Open { .. } | RcptState::Unknown { .. } => {
                let lost = truth.decided.is_some() && truth.durable && (end_known || !damaged);
                must(!lost, || format!("{id}/{rcpt} would be sent again: {truth:?} {state:?}; {report:?}"))?;
            }
        }
    }
    Ok(())
}
