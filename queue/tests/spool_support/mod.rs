//! A spool in a directory that goes away with the test, and messages for it.
#![allow(dead_code)] // each test file uses its part

pub mod memory;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc};
use std::time::Duration;

use queue::envelope::ENVELOPE_V1;
use queue::error::Refusal;
use queue::spool::{Answer, Commit, Labels, Port, RecordRef, Recovery, RecoveryReport, Settings, Spool, WriterChoice};
use queue::{Body, EnvRecipient, Envelope, SpoolId, UnixMillis};

pub const NOW: UnixMillis = UnixMillis(1_763_679_600_000);

pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let base = std::env::var_os("RINGPOST_TEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
        let dir = base.join(format!("spool-{name}-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn settings(dir: &Path, writer: WriterChoice) -> Settings {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let seed = u128::from(SEED.fetch_add(1, Ordering::SeqCst)) * 0x1234_5678_9abc_def0_1357;
    Settings {
        segment_bytes: 2 * 1024 * 1024,
        spares: 1,
        reserve_bytes: 0,
        reserve_percent: 0,
        writer,
        ..Settings::new(dir.to_owned(), seed)
    }
}

/// A body that tells its message.
pub fn body_of(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = format!("Subject: {number}\r\n\r\n").into_bytes();
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < len {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.push(b'a' + (word % 26) as u8);
    }
    bytes.truncate(len);
    bytes
}

pub fn envelope_of(number: u64, size: usize) -> Envelope {
    Envelope {
        received: NOW,
        reverse_path: format!("from{number}@example.test"),
        tenant: "t".into(),
        recipients: vec![EnvRecipient {
            address: format!("to{number}@d{}.test", number % 10),
            ..EnvRecipient::default()
        }],
        size: size as u32,
        ..Envelope::default()
    }
}

pub fn commit_of(id: SpoolId, number: u64, len: usize) -> Commit {
    let envelope = envelope_of(number, len);
    Commit {
        id,
        version: ENVELOPE_V1,
        labels: Labels::of(&envelope),
        envelope: envelope.encode().unwrap(),
        body: Body::from(body_of(number, len)),
    }
}

/// A port whose answers can be waited for.
pub struct Desk {
    pub port: Port,
    bell: mpsc::Receiver<()>,
    waiting: Vec<(u64, Answer)>,
}

impl Desk {
    pub fn new(spool: &Spool) -> Self {
        let (ring, bell) = mpsc::channel();
        let ring = std::sync::Mutex::new(ring);
        let port = spool.port(Arc::new(move || {
            let _ = ring.lock().unwrap().send(());
        }));
        Self { port, bell, waiting: Vec::new() }
    }

    pub fn wait(&mut self, count: usize) -> Vec<(u64, Answer)> {
        while self.waiting.len() < count {
            self.bell.recv_timeout(Duration::from_secs(20)).expect("an answer within 20 seconds");
            self.port.drain(&mut self.waiting);
        }
        std::mem::take(&mut self.waiting)
    }
}

/// Submits messages `numbers` and waits until all are answered.
pub fn put(spool: &Spool, numbers: std::ops::Range<u64>, len: usize) -> Vec<(SpoolId, u64, RecordRef)> {
    let mut desk = Desk::new(spool);
    let count = (numbers.end - numbers.start) as usize;
    let mut ids = std::collections::HashMap::new();
    for number in numbers {
        let id = spool.next_id();
        ids.insert(number, id);
        let mut commit = commit_of(id, number, len);
        loop {
            match spool.submit(&desk.port, number, commit) {
                Ok(()) => break,
                Err((Refusal::Busy, back)) => commit = back,
                Err((refusal, _)) => panic!("{refusal}"),
            }
            std::thread::yield_now();
        }
    }
    let answers = desk.wait(count);
    let mut done: Vec<_> =
        answers.into_iter().map(|(number, answer)| (ids[&number], number, answer.expect("accepted"))).collect();
    done.sort_by_key(|(_, number, _)| *number);
    done
}

pub fn open(settings: Settings) -> (Arc<Spool>, Recovery) {
    Spool::open(settings, NOW).unwrap()
}

/// Ids and places that recovery tells.
pub fn told(recovery: Recovery) -> (Vec<(SpoolId, RecordRef, Vec<String>)>, RecoveryReport) {
    let mut all = Vec::new();
    let report = recovery.run(&mut |found| {
        all.push((found.id, found.at, found.queue_names.iter().map(|name| (*name).to_owned()).collect()));
    });
    all.sort();
    (all, report)
}

pub fn check(spool: &Spool, id: SpoolId, number: u64, at: RecordRef, len: usize) {
    let stored = spool.load(id, at).unwrap_or_else(|error| panic!("message {number}: {error}"));
    assert_eq!(stored.envelope, envelope_of(number, len));
    assert!(stored.body[..] == body_of(number, len)[..], "body of {number}");
}
