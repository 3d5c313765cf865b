//! One test per letter of the decision table in `spool/recover.rs`.

mod spool_support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::error::{OpenError, ReadError, Refusal};
use queue::spool::superblock::{Parsed, State, Superblock};
use queue::spool::writer::Protections;
use queue::spool::{compact, RecordRef, Recovery, RecoveryReport, Settings, Spool, WriterChoice};
use queue::SpoolId;
use spool_support::memory::MemoryDisk;
use spool_support::{check, commit_of, put, settings, told, Desk, TempDir, NOW};

const SEGMENT: u64 = 512 * 1024;
const LEN: usize = 3000;

fn memory_settings() -> Settings {
    Settings { segment_bytes: SEGMENT, ..settings(Path::new("memory"), WriterChoice::Pwrite) }
}

fn open_with(disk: &MemoryDisk, settings: Settings) -> (Arc<Spool>, Recovery) {
    Spool::open_on_disk(Arc::new(disk.clone()), settings, NOW).unwrap()
}

fn open(disk: &MemoryDisk) -> (Arc<Spool>, Recovery) {
    open_with(disk, memory_settings())
}

type Put = Vec<(SpoolId, u64, RecordRef)>;

/// `batches` batches of `each` messages, each batch durable before the next.
fn batches(spool: &Spool, batches: u64, each: u64) -> Put {
    (0..batches).flat_map(|batch| put(spool, batch * each..(batch + 1) * each, LEN)).collect()
}

/// A disk as a power cut leaves it after these batches, and what was acknowledged.
fn cut_after(count: u64, each: u64) -> (MemoryDisk, Put) {
    let disk = MemoryDisk::default();
    let (spool, recovery) = open(&disk);
    told(recovery);
    let done = batches(&spool, count, each);
    (disk.snapshot(), done)
}

/// Slot of the only segment in use.
fn used_slot(disk: &MemoryDisk) -> u32 {
    let blocks = superblocks(disk);
    blocks.iter().find(|(_, block)| block.state == State::InUse).expect("a segment in use").0
}

fn superblocks(disk: &MemoryDisk) -> Vec<(u32, Superblock)> {
    disk.with(|platter| {
        let newest = platter.slots.iter().filter_map(|(slot, bytes)| {
            match Superblock::choose(Superblock::parse(&bytes[..4096]), Superblock::parse(&bytes[4096..8192])) {
                Parsed::Valid(block) => Some((*slot, block)),
                _ => None,
            }
        });
        newest.collect()
    })
}

/// Opens, recovers, and compares ids and places with what is expected; every message can be read.
fn expect(disk: &MemoryDisk, expected: &[&(SpoolId, u64, RecordRef)]) -> RecoveryReport {
    let (spool, recovery) = open(disk);
    let (found, report) = told(recovery);
    let ids: Vec<_> = found.iter().map(|(id, at, _)| (*id, *at)).collect();
    let wanted: Vec<_> = expected.iter().map(|(id, _, at)| (*id, *at)).collect();
    assert_eq!(ids, wanted, "{report:?}");
    for (id, number, at) in expected {
        check(&spool, *id, *number, *at, LEN);
    }
    report
}

fn all(done: &Put) -> Vec<&(SpoolId, u64, RecordRef)> {
    done.iter().collect()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} within 20 seconds");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_a_sealed_segment_is_read_by_its_footer_alone() {
    let disk = MemoryDisk::default();
    let (spool, _) = open(&disk);
    let done = batches(&spool, 3, 5);
    spool.close();
    let report = expect(&disk.snapshot(), &all(&done));
    assert_eq!((report.by_footer, report.by_scan, report.messages, report.recipients), (1, 0, 15, 15));
}

#[test]
fn b_d_without_a_footer_every_whole_batch_is_read() {
    let (disk, done) = cut_after(3, 5);
    let report = expect(&disk, &all(&done));
    assert_eq!((report.by_footer, report.by_scan, report.damage), (0, 1, vec![]));
}

#[test]
fn c_a_damaged_footer_costs_only_time() {
    let disk = MemoryDisk::default();
    let (spool, _) = open(&disk);
    let done = batches(&spool, 3, 5);
    spool.close();
    let disk = disk.snapshot();
    let slot = used_slot(&disk);
    // The footer follows the last batch: the first block behind that is no batch.
    let footer = disk.with(|platter| {
        let bytes = &platter.slots[&slot];
        (8192..bytes.len()).step_by(4096).find(|at| bytes[*at..].starts_with(b"RPFT")).unwrap()
    });
    disk.flip(slot, footer as u64 + 80);
    let report = expect(&disk, &all(&done));
    assert_eq!((report.by_footer, report.by_scan, report.damage.len()), (0, 1, 1));
}

#[test]
fn e_an_unacknowledged_tail_is_dropped() {
    let (disk, done) = cut_after(6, 1);
    let slot = used_slot(&disk);
    // No later batch says that the last one was durable: it may never have been acknowledged.
    disk.flip(slot, done[5].2.offset() + 500);
    let report = expect(&disk, &done[..5].iter().collect::<Vec<_>>());
    assert_eq!((report.dropped_batches, report.dropped_records, report.damage.len()), (1, 1, 0));
    // Now it has a footer: the next start reads that, and finds the same.
    let report = expect(&disk, &done[..5].iter().collect::<Vec<_>>());
    assert_eq!((report.by_scan, report.dropped_batches), (0, 0));
}

#[test]
fn e_h_what_one_start_dropped_stays_dropped() {
    let (disk, done) = cut_after(6, 1);
    let slot = used_slot(&disk);
    disk.flip(slot, done[5].2.offset() + 500);
    // Stopped again before it could be given a footer: the cut-off is all there is.
    let (spool, recovery) = open(&disk);
    until("a superblock with the cut-off", || superblocks(&disk).iter().any(|(_, block)| !block.cut_offs.is_empty()));
    let disk = disk.snapshot();
    drop((spool, recovery));
    // This time the disk reads the bytes as they were written.
    disk.flip(slot, done[5].2.offset() + 500);
    let report = expect(&disk, &done[..5].iter().collect::<Vec<_>>());
    assert_eq!(report.dropped_batches, 1);
}

#[test]
fn damage_is_reported_once_and_then_the_segment_has_a_footer_without_it() {
    let (disk, done) = cut_after(6, 2);
    disk.flip(used_slot(&disk), done[3].2.offset() + 1500);
    let expected: Vec<_> = done.iter().filter(|(_, number, _)| *number != 3).collect();
    assert_eq!(expect(&disk, &expected).damage.len(), 1);
    let report = expect(&disk, &expected);
    assert_eq!((report.damage, report.by_scan), (vec![], 0));
}

#[test]
fn f_damage_in_acknowledged_data_is_kept_aside_and_reading_goes_on() {
    let (disk, done) = cut_after(4, 5);
    let slot = used_slot(&disk);
    disk.flip(slot, done[7].2.offset() + 1500);
    let expected: Vec<_> = done.iter().filter(|(_, number, _)| *number != 7).collect();
    let report = expect(&disk, &expected);
    assert_eq!((report.dropped_batches, report.damage.len()), (0, 1));
    assert_eq!(report.damage[0].id, Some(done[7].0));
    assert_eq!(report.damage[0].offset, done[7].2.offset());
    let kept = disk.with(|platter| platter.kept.clone());
    assert_eq!(kept.len(), 1);
    assert!(kept[0].1 <= done[7].2.offset() && kept[0].2 >= LEN, "{kept:?}");
}

#[test]
fn f_a_damaged_record_header_costs_one_message() {
    let (disk, done) = cut_after(4, 5);
    disk.flip(used_slot(&disk), done[7].2.offset() + 9);
    let expected: Vec<_> = done.iter().filter(|(_, number, _)| *number != 7).collect();
    let report = expect(&disk, &expected);
    assert_eq!((report.dropped_batches, report.damage.len()), (0, 1));
}

/// A disk whose only segment in use was used before, and what the present use holds.
fn recycled() -> (MemoryDisk, Put) {
    let disk = MemoryDisk::default();
    let (spool, recovery) = open(&disk);
    told(recovery);
    let old = put(&spool, 0..400, LEN);
    for (id, _, at) in &old {
        spool.retire(*id, *at);
    }
    until("recycling", || spool.status().recycled >= 2);
    // Goes on until a file that held something holds something new.
    let mut number = 1000;
    let mut done: Put = Vec::new();
    until("a second use", || {
        let more = put(&spool, number..number + 40, LEN);
        number += 40;
        for (id, _, at) in &done {
            spool.retire(*id, *at);
        }
        done = more;
        superblocks(&disk).iter().any(|(_, block)| block.state == State::InUse && block.generation > 5)
            && done.windows(2).all(|pair| pair[0].2.segment == pair[1].2.segment)
            && superblocks(&disk).iter().any(|(_, block)| block.generation > 5 && block.number == done[0].2.segment)
    });
    (disk.snapshot(), done)
}

#[test]
fn g_what_an_earlier_use_left_is_not_seen() {
    let (disk, done) = recycled();
    let (spool, recovery) = open(&disk.snapshot());
    let (found, report) = told(recovery);
    let last = done[0].2.segment;
    let here: Vec<_> = found.iter().filter(|(_, at, _)| at.segment == last).map(|(id, at, _)| (*id, *at)).collect();
    let mut wanted: Vec<_> = done.iter().map(|(id, _, at)| (*id, *at)).collect();
    wanted.sort();
    assert!(wanted.iter().all(|one| here.contains(one)), "{report:?}");
    assert_eq!(report.damage, []);
    drop(spool);
    // Without the protection the old use is seen: the check can fail.
    let careless =
        Settings { protections: Protections { check_epoch: false, ..Protections::default() }, ..memory_settings() };
    let (_spool, recovery) = open_with(&disk, careless);
    assert!(told(recovery).0.len() > found.len(), "old records come back without check_epoch");
}

/// A disk on which a write was reported as failed though its bytes arrived.
fn failed_write() -> (MemoryDisk, Put) {
    let disk = MemoryDisk::default();
    let (spool, recovery) = open(&disk);
    told(recovery);
    let done = batches(&spool, 3, 4);
    disk.with(|platter| (platter.fail_after, platter.failures) = (Some(0), 1));
    let mut desk = Desk::new(&spool);
    let id = spool.next_id();
    spool.submit(&desk.port, 77, commit_of(id, 77, LEN)).unwrap();
    let answers = desk.wait(1);
    assert!(matches!(answers[0].1, Err(Refusal::WriteFailed(_))), "{answers:?}");
    (disk.snapshot(), done)
}

#[test]
fn h_what_lies_behind_a_cut_off_is_ignored_however_whole() {
    let (disk, done) = failed_write();
    let report = expect(&disk, &all(&done));
    assert_eq!((report.dropped_batches, report.damage.len()), (1, 0));
    let careless =
        Settings { protections: Protections { honour_cutoffs: false, ..Protections::default() }, ..memory_settings() };
    let (_spool, recovery) = open_with(&disk, careless);
    assert_eq!(told(recovery).0.len(), done.len() + 1, "the refused message comes back without honour_cutoffs");
}

#[test]
fn i_the_higher_generation_of_two_superblocks_holds() {
    let (disk, done) = cut_after(1, 3);
    let slot = used_slot(&disk);
    disk.with(|platter| {
        let bytes = &platter.slots[&slot];
        let (Parsed::Valid(one), Parsed::Valid(two)) =
            (Superblock::parse(&bytes[..4096]), Superblock::parse(&bytes[4096..8192]))
        else {
            panic!("both copies are valid")
        };
        let newest = if one.generation > two.generation { one.clone() } else { two.clone() };
        assert_eq!(one.generation.abs_diff(two.generation), 1);
        assert_eq!(Superblock::choose(Parsed::Valid(one), Parsed::Valid(two)), Parsed::Valid(newest));
    });
    expect(&disk, &all(&done));
}

#[test]
fn j_either_superblock_may_be_lost() {
    for copy in [0, 4096] {
        let (disk, done) = cut_after(2, 3);
        disk.flip(used_slot(&disk), copy + 40);
        let report = expect(&disk, &all(&done));
        assert_eq!(report.damage, [], "copy at {copy}");
    }
}

#[test]
fn k_a_file_without_a_valid_superblock_is_set_aside_and_reported() {
    let (disk, _) = cut_after(2, 3);
    let slot = used_slot(&disk);
    disk.flip(slot, 40);
    disk.flip(slot, 4096 + 40);
    let report = expect(&disk, &[]);
    assert_eq!((report.damage.len(), report.damage[0].slot), (1, slot));
    assert_eq!(disk.with(|platter| platter.set_aside.clone()).len(), 1);
}

#[test]
fn l_a_half_created_segment_is_removed() {
    let dir = TempDir::new("half");
    let (spool, _) = spool_support::open(settings(&dir.0, WriterChoice::Pwrite));
    let done = put(&spool, 0..5, LEN);
    spool.close();
    drop(spool);
    std::fs::write(dir.0.join("new-0099"), [7; 9000]).unwrap();
    let (_spool, recovery) = spool_support::open(settings(&dir.0, WriterChoice::Pwrite));
    let (found, report) = told(recovery);
    assert_eq!((found.len(), report.damage.len()), (done.len(), 0));
    assert!(!dir.0.join("new-0099").exists());
}

#[test]
fn m_spares_are_used_again_and_those_of_another_size_removed() {
    let disk = MemoryDisk::default();
    let (spool, _) = open(&disk);
    until("a spare", || spool.status().spares >= 1);
    spool.close();
    drop(spool);
    let slots = disk.with(|platter| platter.slots.len());
    let (spool, _) = open(&disk);
    let done = put(&spool, 0..3, LEN);
    assert!(disk.with(|platter| platter.slots.len()) <= slots + 1);
    spool.close();
    drop(spool);
    let larger = Settings { segment_bytes: 2 * SEGMENT, ..memory_settings() };
    let (spool, recovery) = open_with(&disk, larger);
    assert_eq!(told(recovery).0.len(), done.len());
    let more = put(&spool, 10..13, LEN);
    check(&spool, more[0].0, 10, more[0].2, LEN);
    for (slot, block) in superblocks(&disk) {
        let len = disk.with(|platter| platter.slots[&slot].len() as u64);
        assert!(block.state == State::InUse || len == 2 * SEGMENT, "seg-{slot}: {len}");
    }
}

#[test]
fn n_the_same_spool_id_twice_is_one_message() {
    let disk = MemoryDisk::default();
    let eager = compact::Policy { min_age_ms: 0, ..compact::Policy::default() };
    let (spool, recovery) = open_with(&disk, Settings { compact: eager, ..memory_settings() });
    told(recovery);
    let done = put(&spool, 0..600, LEN);
    let survivors: Vec<_> = done.iter().filter(|(_, number, _)| number % 20 == 0).copied().collect();
    for (id, number, at) in &done {
        if number % 20 != 0 {
            spool.retire(*id, *at);
        }
    }
    // At the moment the hook is called both copies are durable.
    let seen = Arc::new(std::sync::Mutex::new(None));
    let (keep, watched) = (Arc::clone(&seen), disk.clone());
    spool.on_moved(Arc::new(move |moves| {
        assert!(!moves.is_empty());
        keep.lock().unwrap().get_or_insert_with(|| watched.snapshot());
        Ok(())
    }));
    until("compaction", || spool.status().compacted > 0);
    for (id, number, at) in &survivors {
        check(&spool, *id, *number, *at, LEN);
    }
    let moved = survivors.iter().filter(|(id, _, at)| spool.resolve(*id, *at) != *at).count();
    assert!(moved > 0);
    drop(spool);
    let disk = seen.lock().unwrap().take().unwrap();
    let (spool, recovery) = open(&disk);
    let (found, report) = told(recovery);
    assert!(report.duplicates > 0, "{report:?}");
    let mut ids: Vec<_> = found.iter().map(|(id, _, _)| *id).collect();
    ids.dedup();
    assert_eq!(ids.len(), found.len(), "each id once");
    for (id, number, _) in &survivors {
        let (_, at, _) = found.iter().find(|(found, _, _)| found == id).expect("a survivor");
        check(&spool, *id, *number, *at, LEN);
    }
}

#[test]
fn o_format_one_of_the_first_release_is_read() {
    // Until there is a second format this is the present one; `spool_format_v1.rs` reads its frozen fixture.
    let (disk, done) = cut_after(1, 3);
    assert_eq!(queue::spool::superblock::FORMAT_OLDEST, 1);
    expect(&disk, &all(&done));
}

#[test]
fn p_a_newer_format_is_refused_with_both_numbers() {
    let (disk, _) = cut_after(1, 3);
    let slot = used_slot(&disk);
    disk.with(|platter| {
        let block = &mut platter.slots.get_mut(&slot).unwrap()[..4096];
        block[8..12].copy_from_slice(&2u32.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..]);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    let error = Spool::open_on_disk(Arc::new(disk), memory_settings(), NOW).err().unwrap();
    assert!(matches!(error, OpenError::TooNew { found: 2, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("format 2"), "{error}");
}

#[test]
fn q_a_segment_of_another_spool_is_refused() {
    let (one, _) = cut_after(1, 3);
    let (two, _) = cut_after(1, 3);
    let stranger = two.with(|platter| platter.slots.values().next().unwrap().clone());
    one.with(|platter| platter.slots.insert(999, stranger));
    let error = Spool::open_on_disk(Arc::new(one), memory_settings(), NOW).err().unwrap();
    assert!(error.to_string().contains("another spool"), "{error}");
}

#[test]
fn r_blocks_that_can_t_be_read_cost_only_what_is_in_them() {
    let (disk, done) = cut_after(4, 5);
    let slot = used_slot(&disk);
    let block = (done[7].2.offset() + 1500) / 4096;
    disk.with(|platter| platter.unreadable.insert((slot, block)));
    let (spool, recovery) = open(&disk);
    let (found, report) = told(recovery);
    let lost = |at: RecordRef| at.offset() < (block + 1) * 4096 && at.offset() + LEN as u64 + 600 > block * 4096;
    for (id, number, at) in &done {
        let there = found.iter().any(|(other, _, _)| other == id);
        assert!(there || lost(*at), "message {number} is lost: {report:?}");
        if there {
            check(&spool, *id, *number, *at, LEN);
        }
    }
    assert!(found.len() >= done.len() - 3 && found.len() < done.len());
    assert!(!report.damage.is_empty());
}

#[test]
fn s_a_lost_batch_header_costs_no_message() {
    let (disk, done) = cut_after(4, 5);
    let slot = used_slot(&disk);
    let header = done[5].2.offset() - 64;
    assert_eq!(header % 4096, 0);
    disk.flip(slot, header + 8);
    let report = expect(&disk, &all(&done));
    assert_eq!(report.damage.len(), 1, "{report:?}");
}

#[test]
fn t_a_bad_record_of_a_sealed_segment_is_damaged_and_alone() {
    let disk = MemoryDisk::default();
    let (spool, _) = open(&disk);
    let done = batches(&spool, 2, 5);
    spool.close();
    drop(spool);
    disk.flip(used_slot(&disk), done[3].2.offset() + 2000);
    let (spool, recovery) = open(&disk);
    let (found, report) = told(recovery);
    assert_eq!((found.len(), report.damage.len()), (10, 0), "the footer still tells it");
    for (id, number, at) in &done {
        if *number == 3 {
            let error = spool.load(*id, *at).unwrap_err();
            assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
            assert!(spool.load_envelope(*id, *at).is_ok(), "who it is from can still be told");
        } else {
            check(&spool, *id, *number, *at, LEN);
        }
    }
}
