//! What each crash, and each loss, leads to. Letters name the points.
//!
//! - A: death of the process between an append and the next sync: nothing is lost.
//! - B: power cut between an append and the next sync: what the last sync had is there, the rest is open (or unknown).
//! - C: death in the midst of an append: the torn slot is no entry and no damage.
//! - D: power cut in the midst of a sync: the torn frame is no damage; what was durable before is there.
//! - E: a frame in the midst of the log is damaged: whom it could have closed is held, later messages are not.
//! - F: a whole file is missing: likewise.
//! - G: the last file is missing: every message known by then is held.
//! - H: the log is missing altogether while the spool is not new: every message is held, until `settle` bounds it.
//! - I: a ring of an earlier process lies about: ignored and removed.
//! - J: rings of another spool lie about: ignored and kept.
//! - K: a compaction is interrupted at each of its steps, by death or by power cut: nothing changes.
//! - L: the disk refuses: ports refuse, nothing is lost, a later sync goes on in another file.
//! - M: a part of a compaction is damaged: only its range of ids is held.
//! - N: the disk fails at each operation of a long run with compactions, then the power goes: no durable verdict is
//!   lost.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rand::{rngs::StdRng, Rng, SeedableRng};

use super::*;
use crate::{HoldReason, OutcomeKind, SpoolId, UnixMillis, UnixSecs};

const IDENTITY: u128 = 0x1234_5678_9abc_def0;
const DELIVERED: AckKind = AckKind::Verdict(OutcomeKind::Delivered);
const DEFERRED: AckKind = AckKind::Verdict(OutcomeKind::Deferred);
const HELD: RcptState = RcptState::Held(HoldReason::AckLogDamage);
const FRESH: RcptState = RcptState::Open { attempts: 0, unknowns: 0, due: None };

/// A folder for rings, gone with the test.
struct Shm(PathBuf);

impl Shm {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ringpost-ack-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let list = std::fs::read_dir(&self.0).unwrap();
        list.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// What a power cut does to tmpfs.
    fn clear(&self) {
        for name in self.names() {
            std::fs::remove_file(self.0.join(name)).unwrap();
        }
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn entry(id: u64, kind: AckKind, attempt: u16) -> AckEntry {
    AckEntry { id: SpoolId(id), rcpt: 0, kind, attempt, unknowns: 0, code: 250, time: UnixSecs(1000), due: UnixSecs(0) }
}

fn options() -> AckOptions {
    AckOptions { file_bytes: 64 * 1024, ring_entries: 256, compact_min: 1, ..AckOptions::default() }
}

type Opened = (AckLog<MemoryStore>, Replay);

fn open(store: MemoryStore, shm: &Shm, new: bool) -> Opened {
    AckLog::open(store, &shm.0, IDENTITY, new, options()).unwrap()
}

fn sync(log: &mut AckLog<MemoryStore>) {
    log.sync(UnixMillis(1)).unwrap();
}

fn is_decided(replay: &Replay, id: u64) -> bool {
    matches!(replay.state(SpoolId(id), 0), RcptState::Decided { kind: OutcomeKind::Delivered, .. })
}

/// A log in which messages 1 to `count` were delivered, each verdict in a frame of its own.
fn delivered(shm: &Shm, count: u64) -> MemoryStore {
    let (mut log, _) = open(MemoryStore::default(), shm, true);
    let mut port = log.port(0).unwrap();
    for id in 1..=count {
        port.append(&entry(id, AckKind::Intent, 1)).unwrap();
        port.append(&entry(id, DELIVERED, 1)).unwrap();
        sync(&mut log);
    }
    log.into_store()
}

#[test]
fn a_death_before_the_sync_loses_nothing() {
    let shm = Shm::new();
    let (mut log, replay) = open(MemoryStore::default(), &shm, true);
    assert_eq!(replay.report().damage, []);
    let mut ports = [log.port(0).unwrap(), log.port(1).unwrap()];
    assert!(log.port(1).is_err(), "one producer each");
    ports[0].append(&entry(1, DELIVERED, 1)).unwrap();
    sync(&mut log);
    ports[0].append(&entry(2, AckKind::Intent, 1)).unwrap();
    ports[1].append(&entry(3, AckKind::Intent, 1)).unwrap();
    ports[1].append(&entry(3, DELIVERED, 1)).unwrap();
    drop(ports);
    let (log, replay) = open(log.into_store(), &shm, false);
    assert!(is_decided(&replay, 1) && is_decided(&replay, 3));
    let unknown = RcptState::Unknown { attempts: 1, unknowns: 1, since: UnixSecs(1000), due: None };
    assert_eq!(replay.state(SpoolId(2), 0), unknown);
    assert_eq!((replay.report().damage.len(), replay.report().rings), (0, 2));
    assert_eq!(shm.names().len(), 0, "the old rings are in the files and gone");
    // And once more, without any ring: what was absorbed is durable.
    let mut store = log.into_store();
    store.cut_power(|| false);
    let (_, replay) = open(store, &shm, false);
    assert!(is_decided(&replay, 3));
    assert_eq!(replay.state(SpoolId(2), 0), unknown);
}

#[test]
fn b_power_cut_before_the_sync_loses_only_what_was_not_synced() {
    let shm = Shm::new();
    let (mut log, _) = open(MemoryStore::default(), &shm, true);
    let mut port = log.port(0).unwrap();
    port.append(&entry(1, DELIVERED, 1)).unwrap();
    let intent = port.append(&entry(2, AckKind::Intent, 1)).unwrap();
    let synced = log.sync(UnixMillis(77)).unwrap();
    assert_eq!(synced.ports, [(0, intent)]);
    assert_eq!((port.durable(), port.lag(UnixMillis(177))), (intent, 100));
    port.append(&entry(2, DELIVERED, 1)).unwrap();
    port.append(&entry(3, DELIVERED, 1)).unwrap();
    let mut store = log.into_store();
    store.cut_power(|| false);
    shm.clear();
    let (_, replay) = open(store, &shm, false);
    assert!(is_decided(&replay, 1));
    assert!(matches!(replay.state(SpoolId(2), 0), RcptState::Unknown { .. }), "never plainly resent");
    assert_eq!(replay.state(SpoolId(3), 0), FRESH);
    assert_eq!(replay.report().damage, []);
}

#[test]
fn c_death_in_an_append_leaves_no_entry_and_no_damage() {
    let shm = Shm::new();
    let (mut log, _) = open(MemoryStore::default(), &shm, true);
    let mut port = log.port(0).unwrap();
    port.append(&entry(1, DELIVERED, 1)).unwrap();
    port.append(&entry(2, DELIVERED, 1)).unwrap();
    drop(port);
    let ring = shm.0.join(&shm.names()[0]);
    let mut bytes = std::fs::read(&ring).unwrap();
    bytes[ring::RING_HEADER + ENTRY + 20..ring::RING_HEADER + 2 * ENTRY].fill(0);
    std::fs::write(&ring, &bytes).unwrap();
    let store = log.into_store();
    let (_, replay) = open(store.clone(), &shm, false);
    assert!(is_decided(&replay, 1));
    assert_eq!(replay.state(SpoolId(2), 0), FRESH);
    assert_eq!((replay.report().ring_torn, replay.report().damage.len()), (1, 0));
    // Two torn slots can't come from one death.
    bytes[ring::RING_HEADER + 5] ^= 1;
    std::fs::write(&ring, &bytes).unwrap();
    let (_, replay) = open(store, &shm, false);
    assert_eq!(replay.state(SpoolId(1), 0), HELD);
    assert_eq!(replay.report().damage[0].cause, DamageCause::RingDamaged);
}

#[test]
fn d_power_cut_in_a_sync_is_no_damage() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let shm = Shm::new();
        let (mut log, _) = open(MemoryStore::default(), &shm, true);
        let mut port = log.port(0).unwrap();
        let durable = random.random_range(0..40);
        for id in 1..=durable {
            port.append(&entry(id, DELIVERED, 1)).unwrap();
            if random.random_bool(0.2) || id == durable {
                sync(&mut log);
            }
        }
        for id in 100..300 {
            port.append(&entry(id, DELIVERED, 1)).unwrap();
        }
        // The write reaches the disk in part, its sync never.
        log.store.fuse = Some(1);
        assert_eq!(log.sync(UnixMillis(2)), Err(AckStop::Disk));
        let mut store = log.into_store();
        store.cut_power(|| random.random());
        shm.clear();
        for round in 0..2 {
            let (log, replay) = open(store, &shm, false);
            assert_eq!(replay.report().damage, [], "seed {seed} round {round}");
            assert!((1..=durable).all(|id| is_decided(&replay, id)), "seed {seed} round {round}");
            store = log.into_store();
            store.cut_power(|| false);
        }
    }
}

#[test]
fn e_damaged_middle_frame_holds_whom_it_could_have_closed() {
    let shm = Shm::new();
    let store = delivered(&shm, 9);
    shm.clear();
    // Frame 1 begins the epoch, frame 1 + id holds intent and verdict of message id: its header, then its verdict.
    for place in [4 * 4096 + 10, 4 * 4096 + 96 + 40] {
        let mut store = store.clone();
        store.damage("ack-00000001", |bytes| bytes[place] ^= 0x40);
        let (mut log, replay) = open(store, &shm, false);
        let damage = Damage { cause: DamageCause::FramesMissing, first: SpoolId(0), last: SpoolId(5) };
        assert_eq!(replay.report().damage, [damage]);
        for id in 1..=9 {
            assert!(is_decided(&replay, id) || (id == 4 && replay.state(SpoolId(4), 0) == HELD), "{id}");
        }
        assert_eq!(replay.state(SpoolId(5), 3), HELD, "another recipient of a message of that time");
        assert_eq!(replay.state(SpoolId(6), 3), FRESH, "no frame that is lost could know it");
        // The operator releases; that stands at the next start.
        let mut port = log.port(0).unwrap();
        port.append(&entry(4, AckKind::Released, 1)).unwrap();
        port.append(&AckEntry { rcpt: 3, ..entry(5, DEFERRED, 1) }).unwrap();
        sync(&mut log);
        let (_, replay) = open(log.into_store(), &shm, false);
        assert_eq!(replay.state(SpoolId(4), 0), RcptState::Open { attempts: 1, unknowns: 0, due: None });
        assert_eq!(replay.state(SpoolId(5), 3), RcptState::Open { attempts: 1, unknowns: 0, due: None });
        assert_eq!(replay.state(SpoolId(5), 4), HELD);
    }
}

#[test]
fn f_missing_file_holds_whom_it_could_have_closed() {
    let shm = Shm::new();
    let mut store = delivered(&shm, 40);
    shm.clear();
    let files: Vec<String> = store.list().unwrap();
    assert!(files.len() >= 4, "{files:?}");
    store.remove(&files[1]).unwrap();
    let (_, replay) = open(store, &shm, false);
    let bound = replay.report().damage[0].last.0;
    assert_eq!(replay.report().damage.len(), 1);
    assert!(bound < 40, "{bound}");
    let held: Vec<u64> = (1..=41).filter(|id| replay.state(SpoolId(*id), 0) == HELD).collect();
    assert!(!held.is_empty() && held.iter().all(|id| *id <= bound), "{held:?}");
    assert!((1..=40).all(|id| is_decided(&replay, id) || held.contains(&id)), "none is resent");
    assert_eq!(replay.state(SpoolId(41), 0), FRESH);
}

#[test]
fn g_missing_last_file_holds_everything() {
    let shm = Shm::new();
    let mut store = delivered(&shm, 20);
    shm.clear();
    let files = store.list().unwrap();
    for name in &files[1..] {
        store.remove(name).unwrap();
    }
    let (log, replay) = open(store, &shm, false);
    assert_eq!(replay.report().damage[0].cause, DamageCause::EndMissing);
    assert!((1..=20).all(|id| is_decided(&replay, id) || replay.state(SpoolId(id), 0) == HELD));
    // The loss is remembered although the files now have an end again.
    let (_, replay) = open(log.into_store(), &shm, false);
    assert!((1..=20).all(|id| is_decided(&replay, id) || replay.state(SpoolId(id), 0) == HELD));
}

#[test]
fn h_missing_log_holds_everything_until_settled() {
    let shm = Shm::new();
    let (log, replay) = open(MemoryStore::default(), &shm, false);
    assert_eq!(replay.report().damage[0].cause, DamageCause::LogMissing);
    assert_eq!(replay.state(SpoolId(7), 0), HELD);
    assert!(replay.needs_settling());
    let (mut log, replay) = open(log.into_store(), &shm, false);
    assert_eq!(replay.state(SpoolId(7), 0), HELD, "a second start does not forget");
    log.settle(SpoolId(50)).unwrap();
    let mut port = log.port(0).unwrap();
    port.append(&entry(8, AckKind::Released, 0)).unwrap();
    sync(&mut log);
    let (mut log, replay) = open(log.into_store(), &shm, false);
    assert!(!replay.needs_settling());
    let check = |replay: &Replay| {
        assert_eq!(replay.state(SpoolId(7), 0), HELD);
        assert_eq!(replay.state(SpoolId(8), 0), FRESH);
        assert_eq!(replay.state(SpoolId(51), 0), FRESH);
    };
    check(&replay);
    assert!(log.compact_if_needed(&|_| true).unwrap());
    let (_, replay) = open(log.into_store(), &shm, false);
    check(&replay);
    // Without the protection the check would notice.
    let protections = Protections { hold_on_damage: false, ..Protections::default() };
    let options = AckOptions { protections, ..options() };
    let (_, replay) = AckLog::open(MemoryStore::default(), &shm.0, IDENTITY, false, options).unwrap();
    assert_eq!(replay.state(SpoolId(7), 0), FRESH);
}

#[test]
fn i_old_ring_is_ignored_and_removed() {
    let shm = Shm::new();
    let (mut log, _) = open(MemoryStore::default(), &shm, true);
    let mut port = log.port(0).unwrap();
    port.append(&entry(1, AckKind::Intent, 1)).unwrap();
    let name = shm.names().remove(0);
    let ring = std::fs::read(shm.0.join(&name)).unwrap();
    let (mut log, _) = open(log.into_store(), &shm, false);
    let mut port = log.port(0).unwrap();
    port.append(&entry(1, DEFERRED, 1)).unwrap();
    std::fs::write(shm.0.join(&name), &ring).unwrap();
    std::fs::write(shm.0.join("ring-0000000000000002-0009"), [0; 9000]).unwrap();
    let (_, replay) = open(log.into_store(), &shm, false);
    let report = replay.report();
    assert_eq!((report.rings, report.rings_stale, report.damage.len()), (1, 2, 0));
    assert_eq!(shm.names().len(), 0);
}

#[test]
fn j_files_of_another_spool_are_never_taken_for_ours() {
    let shm = Shm::new();
    let (mut log, _) = open(MemoryStore::default(), &shm, true);
    let mut port = log.port(0).unwrap();
    port.append(&entry(1, DELIVERED, 1)).unwrap();
    let store = log.into_store();
    let other = AckLog::open(store, &shm.0, IDENTITY + 1, false, options());
    assert!(matches!(other, Err(AckOpenError::Foreign)));
    let (_, replay) = AckLog::open(MemoryStore::default(), &shm.0, IDENTITY + 1, true, options()).unwrap();
    assert_eq!(replay.report().rings_foreign, 1);
    assert_eq!(replay.state(SpoolId(1), 0), FRESH);
    assert_eq!(shm.names().len(), 1, "the ring is somebody's");
}

#[test]
fn k_compaction_interrupted_at_each_step_changes_nothing() {
    let shm = Shm::new();
    let first = {
        let mut store = delivered(&shm, 30);
        shm.clear();
        let (mut log, _) = open(store, &shm, false);
        assert!(log.compact_if_needed(&|_| true).unwrap());
        let mut port = log.port(0).unwrap();
        for id in 31..=120 {
            port.append(&entry(id, if id % 2 == 0 { DELIVERED } else { DEFERRED }, 1)).unwrap();
            sync(&mut log);
        }
        store = log.into_store();
        shm.clear();
        store
    };
    let deferred = RcptState::Open { attempts: 1, unknowns: 0, due: None };
    let check = |replay: &Replay, what: &str| {
        assert_eq!(replay.report().damage, [], "{what}");
        for id in 1..=120 {
            let want = id <= 30 || id % 2 == 0;
            assert_eq!(is_decided(replay, id), want, "{what}: {id}");
            assert!(want || replay.state(SpoolId(id), 0) == deferred, "{what}: {id}");
        }
    };
    let mut steps = 0;
    loop {
        let mut done = false;
        for power in [false, true] {
            let (mut log, _) = open(first.clone(), &shm, false);
            log.store.fuse = Some(steps);
            done = log.compact_if_needed(&|_| true).is_ok();
            let mut store = log.into_store();
            store.fuse = None;
            if power {
                store.cut_power(|| steps % 2 == 0);
            }
            for _ in 0..2 {
                let (mut log, replay) = open(store, &shm, false);
                check(&replay, &format!("step {steps}, power {power}"));
                log.compact_if_needed(&|_| true).unwrap();
                store = log.into_store();
            }
        }
        steps += 1;
        if done {
            break;
        }
    }
    assert!(steps > 12, "{steps} steps");
}

#[test]
fn compaction_drops_what_no_segment_holds_and_halves_its_trigger() {
    let shm = Shm::new();
    let store = delivered(&shm, 200);
    let (mut log, _) = open(store, &shm, false);
    let before = log.bytes();
    assert!(log.compact_if_needed(&|id| id.0 > 150).unwrap());
    assert!(log.bytes() * 10 < before, "{} of {before}", log.bytes());
    let (_, replay) = open(log.into_store(), &shm, false);
    assert_eq!(replay.report().recipients, 50);
    assert!(is_decided(&replay, 151));
    assert_eq!(replay.state(SpoolId(150), 0), FRESH);
}

#[test]
fn l_disk_that_refuses_stops_delivery_and_loses_nothing() {
    let shm = Shm::new();
    let (mut log, _) = open(MemoryStore::default(), &shm, true);
    let mut port = log.port(0).unwrap();
    port.append(&entry(1, DELIVERED, 1)).unwrap();
    sync(&mut log);
    port.append(&entry(2, DELIVERED, 1)).unwrap();
    log.store.fuse = Some(0);
    for _ in 0..3 {
        assert_eq!(log.sync(UnixMillis(5)), Err(AckStop::Disk));
        assert_eq!(port.append(&entry(3, AckKind::Intent, 1)), Err(AckStop::Disk));
    }
    assert!(log.last_error().is_some());
    log.store.fuse = None;
    sync(&mut log);
    port.append(&entry(3, DELIVERED, 1)).unwrap();
    sync(&mut log);
    let mut store = log.into_store();
    assert_eq!(port.append(&entry(4, AckKind::Intent, 1)), Err(AckStop::Disk), "no ledger, no delivery");
    assert!(store.list().unwrap().len() <= 3, "a failing disk is not filled");
    store.cut_power(|| false);
    shm.clear();
    let (_, replay) = open(store, &shm, false);
    assert!((1..=3).all(|id| is_decided(&replay, id)));
    assert_eq!(replay.report().damage, []);
}

#[test]
fn a_full_ring_refuses() {
    let shm = Shm::new();
    let (mut log, _) = open(MemoryStore::default(), &shm, true);
    let mut port = log.port(0).unwrap();
    for id in 0..256 {
        assert_eq!(port.room(), 256 - id);
        port.append(&entry(id, AckKind::Intent, 1)).unwrap();
    }
    assert_eq!(port.append(&entry(256, AckKind::Intent, 1)), Err(AckStop::Full));
    sync(&mut log);
    assert_eq!(port.append(&entry(256, AckKind::Intent, 1)), Ok(AckSeq(257)));
}

#[test]
fn m_damaged_part_of_a_compaction_holds_only_its_range() {
    let shm = Shm::new();
    let (mut log, _) = open(MemoryStore::default(), &shm, true);
    for id in 1..=20_000 {
        log.append(entry(id, DELIVERED, 1));
    }
    sync(&mut log);
    let big = AckOptions { file_bytes: 4 * 1024 * 1024, ..options() };
    let (mut log, _) = AckLog::open(log.into_store(), &shm.0, IDENTITY, false, big).unwrap();
    assert!(log.compact_if_needed(&|_| true).unwrap());
    let mut store = log.into_store();
    let base = store.list().unwrap().into_iter().find(|name| name.starts_with("base-")).unwrap();
    // The header of the third of five frames of 4093 entries.
    store.damage(&base, |bytes| bytes[2 * 131_072 + 50] ^= 1);
    let (_, replay) = open(store, &shm, false);
    assert_eq!(replay.report().damage[0].cause, DamageCause::BaseDamaged);
    let held: Vec<u64> = (1..=20_001).filter(|id| replay.state(SpoolId(*id), 0) == HELD).collect();
    assert_eq!((held.first(), held.last(), held.len()), (Some(&8187), Some(&12_279), 4093));
    assert!((1..=20_000).all(|id| is_decided(&replay, id) || held.contains(&id)));
}

#[test]
fn n_no_durable_verdict_is_lost_wherever_the_disk_fails() {
    for fuse in 0..160 {
        let mut random = StdRng::seed_from_u64(fuse as u64);
        let shm = Shm::new();
        let (mut log, _) = open(MemoryStore::default(), &shm, true);
        let mut ports = [log.port(0).unwrap(), log.port(1).unwrap()];
        let mut waiting: BTreeMap<u64, (usize, AckSeq)> = BTreeMap::new();
        log.store.fuse = Some(fuse);
        let mut next = 1;
        for _ in 0..60 {
            for _ in 0..random.random_range(0..30) {
                let shard = random.random_range(0..2);
                if let Ok(seq) = ports[shard].append(&entry(next, DELIVERED, 1)) {
                    waiting.insert(next, (shard, seq));
                }
                next += 1;
            }
            let _ = log.sync(UnixMillis(1));
            if random.random_bool(0.1) {
                let _ = log.compact_if_needed(&|_| true);
            }
        }
        let durable: Vec<u64> =
            waiting.iter().filter(|(_, (shard, seq))| ports[*shard].durable() >= *seq).map(|(id, _)| *id).collect();
        let mut store = log.into_store();
        let power = random.random_bool(0.7);
        if power {
            store.cut_power(|| random.random());
            shm.clear();
        }
        store.fuse = None;
        let (_, replay) = open(store, &shm, false);
        assert_eq!(replay.report().damage, [], "fuse {fuse}");
        assert!(durable.iter().all(|id| is_decided(&replay, *id)), "fuse {fuse}");
        assert!(power || waiting.keys().all(|id| is_decided(&replay, *id)), "fuse {fuse}: rings hold the rest");
    }
}

#[test]
fn each_protection_is_missed_when_it_is_gone() {
    let lost = |protections: Protections, power: bool| {
        let shm = Shm::new();
        let options = AckOptions { protections, ..options() };
        let open = |store, new| AckLog::open(store, &shm.0, IDENTITY, new, options).unwrap();
        let (mut log, _) = open(MemoryStore::default(), true);
        let mut port = log.port(0).unwrap();
        port.append(&entry(1, DELIVERED, 1)).unwrap();
        if power {
            log.sync(UnixMillis(1)).unwrap();
            shm.clear();
        }
        let mut store = log.into_store();
        if power {
            store.cut_power(|| false);
        }
        !is_decided(&open(store, false).1, 1)
    };
    let all = Protections::default();
    assert!(!lost(all, false) && !lost(all, true));
    assert!(lost(Protections { replay_acks: false, ..all }, true));
    assert!(lost(Protections { replay_rings: false, ..all }, false));
    assert!(lost(Protections { sync_files: false, ..all }, true));
}

#[test]
fn the_same_on_a_real_disk_with_threads() {
    let shm = Shm::new();
    let dir = Shm::new();
    let open = |new| AckLog::open(DirStore::open(&dir.0).unwrap(), &shm.0, IDENTITY, new, options()).unwrap();
    let (mut log, _) = open(true);
    let shards: Vec<_> = (0..2u64)
        .map(|shard| {
            let mut port = log.port(shard as u16).unwrap();
            std::thread::spawn(move || {
                for number in 0..5000 {
                    let id = number * 2 + shard;
                    while port.room() < 2 {
                        std::thread::yield_now();
                    }
                    port.append(&entry(id, AckKind::Intent, 1)).unwrap();
                    port.append(&entry(id, DELIVERED, 1)).unwrap();
                }
            })
        })
        .collect();
    while !shards.iter().all(std::thread::JoinHandle::is_finished) {
        log.sync(UnixMillis(1)).unwrap();
        log.compact_if_needed(&|_| true).unwrap();
    }
    drop(log);
    let (_, replay) = open(false);
    assert_eq!(replay.report().damage, []);
    assert!((0..10_000).all(|id| is_decided(&replay, id)));
}
