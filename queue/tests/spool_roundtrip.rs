//! What was answered with a place can be read back: at once, after sealing, after closing and opening again.

mod spool_support;

use queue::spool::WriterChoice;
use spool_support::{check, open, put, settings, told, TempDir};

fn round_trip(writer: WriterChoice) {
    let dir = TempDir::new("roundtrip");
    let (spool, recovery) = open(settings(&dir.0, writer));
    assert_eq!(told(recovery).1.messages, 0);
    // Three segments of 2 MiB and more, so that some are sealed and one is active.
    let done = put(&spool, 0..1500, 4096);
    for (id, number, at) in &done {
        check(&spool, *id, *number, *at, 4096);
    }
    let status = spool.status();
    assert_eq!(status.messages, 1500, "{status:?}");
    assert!(status.sealed >= 2, "{status:?}");
    let next = spool.next_id();
    spool.close();
    drop(spool);

    let (spool, recovery) = open(settings(&dir.0, writer));
    assert!(spool.next_id() > next);
    let (found, report) = told(recovery);
    assert_eq!(report.damage, []);
    assert_eq!(report.by_scan, 0, "everything was sealed: {report:?}");
    assert_eq!(found.len(), 1500);
    for ((id, at, names), (done_id, number, done_at)) in found.iter().zip(&done) {
        assert_eq!((id, at), (done_id, done_at));
        assert_eq!(names, &[format!("t@d{}.test", number % 10)]);
        check(&spool, *id, *number, *at, 4096);
    }
}

#[test]
fn pwrite_keeps_what_it_acknowledged() {
    round_trip(WriterChoice::Pwrite);
}

#[test]
fn the_ring_keeps_what_it_acknowledged() {
    round_trip(WriterChoice::Ring);
}
