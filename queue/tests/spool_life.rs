//! The life of a spool beside the plain round trip: failing and full disks, long messages, recycling, the door.

mod spool_support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::error::{OpenError, ReadError, Refusal};
use queue::spool::{compact, Settings, Spool, WriterChoice, WriterKind};
use queue::{Class, SpoolId};
use spool_support::memory::MemoryDisk;
use spool_support::{check, commit_of, open, put, settings, told, Desk, TempDir, NOW};

fn memory(segment_bytes: u64) -> (MemoryDisk, Arc<Spool>) {
    let disk = MemoryDisk::default();
    let settings = Settings { segment_bytes, ..settings(Path::new("memory"), WriterChoice::Pwrite) };
    let (spool, recovery) = Spool::open_on_disk(Arc::new(disk.clone()), settings, NOW).unwrap();
    told(recovery);
    (disk, spool)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} within 20 seconds");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_failed_write_refuses_what_it_held_and_the_spool_goes_on() {
    let (disk, spool) = memory(512 * 1024);
    let done = put(&spool, 0..5, 2000);
    disk.with(|platter| (platter.fail_after, platter.failures) = (Some(0), 1));
    let mut desk = Desk::new(&spool);
    spool.submit(&desk.port, 9, commit_of(spool.next_id(), 9, 2000)).unwrap();
    let answers = desk.wait(1);
    assert!(matches!(&answers[0].1, Err(Refusal::WriteFailed(_))), "{answers:?}");
    // The refusal was told after the next segment's superblock was durable, and nothing went to the failed one since.
    let log = disk.with(|platter| platter.log.clone());
    let failed = log.iter().position(|(_, _, failed)| *failed).unwrap();
    let slot = log[failed].0;
    assert!(log[failed + 1..].iter().all(|(other, _, _)| *other != slot), "{log:?}");
    assert!(log[failed + 1..].iter().filter(|(_, offset, _)| *offset < 8192).count() >= 2, "{log:?}");
    let more = put(&spool, 10..15, 2000);
    assert_ne!(more[0].2.segment, done[0].2.segment);
    for (id, number, at) in done.iter().chain(&more) {
        check(&spool, *id, *number, *at, 2000);
    }
    let status = spool.status();
    assert_eq!((status.counts.failures, status.messages), (1, 10));
    assert!(status.trouble.contains("ended"), "{}", status.trouble);
}

#[test]
fn without_any_writable_segment_refusals_are_told_at_once_and_mail_is_refused() {
    let (disk, spool) = memory(512 * 1024);
    until("a spare", || spool.status().spares >= 1);
    disk.with(|platter| {
        (platter.fail_after, platter.failures) = (Some(0), u32::MAX);
        platter.fail_superblocks = true;
        platter.full = true;
    });
    let mut desk = Desk::new(&spool);
    for number in 0..3 {
        spool.submit(&desk.port, number, commit_of(spool.next_id(), number, 2000)).unwrap();
    }
    let answers = desk.wait(3);
    assert!(answers.iter().all(|(_, answer)| answer.is_err()), "{answers:?}");
    // The disk comes back: mail is accepted again without a restart.
    disk.with(|platter| {
        platter.fail_after = None;
        platter.full = false;
    });
    until("acceptance", || {
        spool.submit(&desk.port, 7, commit_of(spool.next_id(), 7, 2000)).unwrap();
        desk.wait(1)[0].1.is_ok()
    });
}

#[test]
fn bulk_stops_first_when_the_disk_fills_and_all_come_back() {
    let disk = MemoryDisk::default();
    let tib = 1u64 << 40;
    let at = |reserve_bytes| Settings { reserve_bytes, ..settings(Path::new("memory"), WriterChoice::Pwrite) };
    for (reserve, bulk, others) in [(tib / 2, true, true), (tib * 3 / 4, false, true), (2 * tib, false, false)] {
        let (spool, _) = Spool::open_on_disk(Arc::new(disk.clone()), at(reserve), NOW).unwrap();
        assert_eq!(spool.admits(Class::Bulk).is_ok(), bulk, "{reserve}");
        assert_eq!(spool.admits(Class::Transactional).is_ok(), others, "{reserve}");
        assert_eq!(spool.admits(Class::Critical).is_ok(), others, "{reserve}");
    }
    let (spool, _) = Spool::open_on_disk(Arc::new(disk.clone()), at(tib / 2), NOW).unwrap();
    disk.with(|platter| platter.full = true);
    until("refusal", || matches!(spool.admits(Class::Critical), Err(Refusal::Full { .. })));
    disk.with(|platter| platter.full = false);
    until("return", || spool.admits(Class::Bulk).is_ok());
}

#[test]
fn messages_longer_than_a_batch_are_whole() {
    for writer in [WriterChoice::Pwrite, WriterChoice::Auto] {
        let dir = TempDir::new("long");
        let mut long = settings(&dir.0, writer);
        long.segment_bytes = 16 * 1024 * 1024;
        let (spool, recovery) = open(long.clone());
        told(recovery);
        let mut done = Vec::new();
        for (number, len) in [(1u64, 262_000usize), (2, 262_144), (3, 700_000), (4, 5_000_000), (5, 10)] {
            done.push((put(&spool, number..number + 1, len)[0], len));
        }
        for ((id, number, at), len) in &done {
            check(&spool, *id, *number, *at, *len);
        }
        spool.close();
        drop(spool);
        let (spool, recovery) = open(long);
        assert_eq!(told(recovery).0.len(), 5);
        for ((id, number, at), len) in &done {
            check(&spool, *id, *number, *at, *len);
        }
    }
}

#[test]
fn a_message_that_fits_no_segment_is_given_back() {
    let (_disk, spool) = memory(128 * 1024);
    let desk = Desk::new(&spool);
    let (refusal, back) = spool.submit(&desk.port, 1, commit_of(spool.next_id(), 1, 200_000)).unwrap_err();
    assert!(matches!(refusal, Refusal::TooLarge { .. }));
    assert_eq!(back.body.len(), 200_000);
    // The largest that is taken does fit.
    let mut low = 1000;
    let mut high = 200_000;
    let mut desk = Desk::new(&spool);
    while low + 1 < high {
        let len = (low + high) / 2;
        match spool.submit(&desk.port, 2, commit_of(spool.next_id(), 1, len)) {
            Ok(()) => {
                assert!(desk.wait(1)[0].1.is_ok(), "{len}");
                low = len;
            }
            Err(_) => high = len,
        }
    }
    assert!(low > 90_000, "{low}");
}

#[test]
fn retired_segments_are_used_again_and_forgotten() {
    for writer in [WriterChoice::Pwrite, WriterChoice::Auto] {
        let dir = TempDir::new("recycle");
        let (spool, recovery) = open(settings(&dir.0, writer));
        told(recovery);
        let mut files = 0;
        for round in 0..4 {
            let done = put(&spool, round * 1000..round * 1000 + 1000, 4000);
            // Reading them maps the sealed segments: recycling has to undo that.
            for (id, number, at) in &done {
                check(&spool, *id, *number, *at, 4000);
                assert!(spool.may_hold(*id));
            }
            for (id, _, at) in &done {
                spool.retire(*id, *at);
                spool.retire(*id, *at);
            }
            let sealed = done.iter().filter(|(_, _, at)| at.segment != done[999].2.segment).count();
            assert!(sealed > 300);
            until("recycling", || done.iter().filter(|(id, _, _)| spool.may_hold(*id)).count() <= 1000 - sealed);
            assert!(matches!(spool.load(done[0].0, done[0].2), Err(ReadError::Gone { .. })));
            let now = std::fs::read_dir(&dir.0).unwrap().count();
            if round >= 2 {
                assert!(now <= files + 1, "files are used again: {files} then {now}");
            }
            files = now;
        }
        assert!(spool.status().recycled >= 4);
        assert_eq!(spool.status().messages, 0);
        spool.close();
        drop(spool);
        let (_spool, recovery) = open(settings(&dir.0, writer));
        let (found, report) = told(recovery);
        assert!(found.len() < 1000, "recycled mail does not come back: {}", found.len());
        assert_eq!(report.damage, []);
    }
}

#[test]
fn an_idle_writer_records_how_far_it_is_durable() {
    let (_disk, spool) = memory(512 * 1024);
    put(&spool, 0..3, 1000);
    let batches = spool.status().counts.batches;
    until("an empty batch", || spool.status().counts.empty_batches == 1);
    std::thread::sleep(Duration::from_millis(1200));
    let counts = spool.status().counts;
    assert_eq!((counts.batches, counts.empty_batches), (batches, 1), "and only one");
}

#[test]
fn a_second_process_is_kept_out_and_a_closed_spool_refuses() {
    let dir = TempDir::new("lock");
    let (spool, _) = open(settings(&dir.0, WriterChoice::Auto));
    let second = Spool::open(settings(&dir.0, WriterChoice::Auto), NOW);
    assert!(matches!(second, Err(OpenError::Locked(_))));
    let desk = Desk::new(&spool);
    spool.close();
    let (refusal, _) = spool.submit(&desk.port, 1, commit_of(SpoolId(1), 1, 100)).unwrap_err();
    assert_eq!(refusal, Refusal::Closing);
    assert_eq!(spool.admits(Class::Critical), Err(Refusal::Closing));
    drop(spool);
    let (spool, _) = open(settings(&dir.0, WriterChoice::Auto));
    drop(spool);
}

#[test]
fn where_o_direct_is_missing_the_spool_says_so_and_works() {
    let shm = Path::new("/dev/shm");
    if !shm.is_dir() {
        return;
    }
    let dir = TempDir(shm.join(format!("ringpost-test-{}", std::process::id())));
    let (spool, recovery) = open(settings(&dir.0, WriterChoice::Auto));
    told(recovery);
    let done = put(&spool, 0..10, 4096);
    let status = spool.status();
    match status.writer {
        Some(WriterKind::Pwrite) => assert!(status.reasons[0].contains("put the spool on"), "{:?}", status.reasons),
        // Newer kernels give tmpfs O_DIRECT; then there is nothing to say.
        _ => assert!(status.reasons.is_empty()),
    }
    for (id, number, at) in &done {
        check(&spool, *id, *number, *at, 4096);
    }
}

#[test]
fn answers_of_many_threads_find_their_way() {
    let dir = TempDir::new("threads");
    let (spool, recovery) = open(settings(&dir.0, WriterChoice::Auto));
    told(recovery);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let spool = &spool;
            scope.spawn(move || {
                for round in 0..10 {
                    let first = thread * 1000 + round * 50;
                    for (id, number, at) in put(spool, first..first + 50, 1500) {
                        check(spool, id, number, at, 1500);
                    }
                }
            });
        }
    });
    assert_eq!(spool.status().messages, 2000);
}

#[test]
fn mail_nobody_accepts_pins_less_than_its_share_of_the_disk() {
    let disk = MemoryDisk::default();
    let policy = compact::Policy { min_age_ms: 0, ..compact::Policy::default() };
    let settings =
        Settings { segment_bytes: 512 * 1024, compact: policy, ..settings(Path::new("memory"), WriterChoice::Pwrite) };
    let (spool, recovery) = Spool::open_on_disk(Arc::new(disk.clone()), settings, NOW).unwrap();
    told(recovery);
    let moves = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&moves);
    spool.on_moved(Arc::new(move |moved| {
        count.fetch_add(moved.len(), std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }));
    // One message in twenty-five stays; the rest leaves as it comes.
    let mut stay = Vec::new();
    for round in 0..24 {
        for (id, number, at) in put(&spool, round * 500..(round + 1) * 500, 3000) {
            if number % 25 == 0 {
                stay.push((id, number, at));
            } else {
                spool.retire(id, at);
            }
        }
    }
    until("compaction to 40 % life", || {
        let status = spool.status();
        status.live_bytes * 100 >= status.used_bytes * 40
    });
    let status = spool.status();
    assert_eq!(status.messages, stay.len() as u64, "{status:?}");
    assert!(status.cold >= 1 && moves.load(std::sync::atomic::Ordering::SeqCst) > 0, "{status:?}");
    for (id, number, at) in &stay {
        check(&spool, *id, *number, *at, 3000);
    }
    // What was moved can be retired by its old place.
    for (id, _, at) in &stay {
        spool.retire(*id, *at);
    }
    assert_eq!(spool.status().messages, 0);
    spool.close();
}
