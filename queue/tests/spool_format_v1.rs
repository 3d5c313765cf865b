//! Format 1 is frozen: a segment written by the first release is read by every later one. The fixture is a sealed
//! segment of 128 KiB with its zeros left out.

mod spool_support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use queue::spool::inspect::Inspector;
use queue::spool::writer::Protections;
use queue::spool::{Settings, Spool, WriterChoice};
use queue::{SpoolId, UnixSecs};
use spool_support::memory::MemoryDisk;
use spool_support::{body_of, envelope_of, put, settings, told, NOW};

const SEGMENT: u64 = 128 * 1024;

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/segment-v1.bin")
}

/// Blocks that are not zero, each behind its number (4 bytes).
fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, block) in bytes.chunks(512).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            out.extend_from_slice(&(index as u32).to_le_bytes());
            out.extend_from_slice(block);
        }
    }
    out
}

fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut out = vec![0; SEGMENT as usize];
    for part in packed.chunks(516) {
        let at = u32::from_le_bytes(part[..4].try_into().unwrap()) as usize * 512;
        out[at..at + 512].copy_from_slice(&part[4..]);
    }
    out
}

fn write_fixture() {
    let disk = MemoryDisk::default();
    let settings =
        Settings { segment_bytes: SEGMENT, spares: 0, ..settings(Path::new("memory"), WriterChoice::Pwrite) };
    let (spool, recovery) = Spool::open_on_disk(Arc::new(disk.clone()), settings, NOW).unwrap();
    told(recovery);
    put(&spool, 1..4, 600);
    put(&spool, 4..6, 600);
    spool.close();
    let bytes = disk.with(|platter| platter.slots.values().next().unwrap().clone());
    std::fs::write(fixture(), pack(&bytes)).unwrap();
}

fn read(bytes: Vec<u8>) -> (Inspector, Vec<(SpoolId, queue::spool::RecordRef)>, queue::spool::RecoveryReport) {
    let disk = MemoryDisk::default();
    disk.with(|platter| platter.slots.insert(0, bytes));
    let mut spool = Inspector::open(Arc::new(disk), SEGMENT, Protections::default()).unwrap();
    let mut found = Vec::new();
    let report = spool.each(&mut |message| {
        assert_eq!((message.size, message.received, message.version), (600, UnixSecs(1_763_679_600), 1));
        assert_eq!(message.queue_names.len(), 1);
        found.push((message.id, message.at));
    });
    (spool, found, report)
}

#[test]
fn o_a_segment_of_the_first_release_is_read_by_footer_and_batch_by_batch() {
    if std::env::var_os("RINGPOST_WRITE_FIXTURES").is_some() {
        write_fixture();
    }
    let bytes = unpack(&std::fs::read(fixture()).unwrap());
    let mut unsealed = bytes.clone();
    let end = unsealed.len();
    unsealed[end - 4096..].fill(0);
    for (bytes, by_footer) in [(bytes, 1), (unsealed, 0)] {
        let (spool, found, report) = read(bytes);
        assert_eq!((report.by_footer, report.by_scan, report.damage.len()), (by_footer, 1 - by_footer, 0));
        assert_eq!(found.len(), 5);
        for (number, (id, at)) in (1..).zip(found) {
            let stored = spool.load(id, at).unwrap();
            assert_eq!(stored.envelope, envelope_of(number, 600));
            assert!(stored.body[..] == body_of(number, 600)[..]);
        }
    }
}
