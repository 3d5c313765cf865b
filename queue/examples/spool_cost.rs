//! What a durable message costs: CPU per message by driver, and kernel workers over recycled segments.
//!
//! `spool_cost <dir> [ring|pwrite] [messages] [outstanding]`. The directory must be on the disk to be measured. Figures
//! are of this process (getrusage) and of the writer's thread (schedstat); kernel threads outside are not in them.

use std::path::PathBuf;
use std::sync::{mpsc, Arc, Mutex};
use std::time::Instant;

use queue::envelope::ENVELOPE_V1;
use queue::error::Refusal;
use queue::spool::{Commit, Labels, Port, RecordRef, Settings, Spool, WriterChoice};
use queue::{Body, EnvRecipient, Envelope, SpoolId, UnixMillis};

const BODY: usize = 4096;

struct Bench {
    spool: Arc<Spool>,
    port: Port,
    bell: mpsc::Receiver<()>,
    body: Body,
    envelope: Envelope,
    labels: Labels,
}

impl Bench {
    fn submit(&self, token: u64) -> SpoolId {
        let id = self.spool.next_id();
        let mut commit = Commit {
            id,
            version: ENVELOPE_V1,
            labels: self.labels.clone(),
            envelope: self.envelope.encode().expect("an envelope"),
            body: self.body.clone(),
        };
        loop {
            match self.spool.submit(&self.port, token, commit) {
                Ok(()) => return id,
                Err((Refusal::Busy, back)) => commit = back,
                Err((refusal, _)) => panic!("{refusal}"),
            }
            std::thread::yield_now();
        }
    }

    /// Keeps `outstanding` messages on their way until `total` are durable. Retires them as they come back.
    fn run(&self, total: u64, outstanding: u64) {
        let mut ids = vec![SpoolId(0); total as usize];
        let (mut sent, mut done) = (0, 0);
        let mut answers: Vec<(u64, Result<RecordRef, Refusal>)> = Vec::new();
        while done < total {
            while sent < total && sent - done < outstanding {
                ids[sent as usize] = self.submit(sent);
                sent += 1;
            }
            self.bell.recv().expect("the writer rings");
            self.port.drain(&mut answers);
            done += answers.len() as u64;
            for (token, answer) in answers.drain(..) {
                self.spool.retire(ids[token as usize], answer.expect("accepted"));
            }
        }
    }
}

fn cpu_us() -> u64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).expect("getrusage");
    let us = |time: nix::sys::time::TimeVal| time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64;
    us(usage.user_time()) + us(usage.system_time())
}

/// Nanoseconds on a CPU of this process's threads whose name starts with `name`, and how many there are.
fn threads(name: &str) -> (u64, usize) {
    let mut all = (0, 0);
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").starts_with(name) {
            all.0 += read("schedstat").split(' ').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            all.1 += 1;
        }
    }
    all
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let dir = PathBuf::from(args.get(1).expect("a directory"));
    let writer = match args.get(2).map(String::as_str) {
        Some("ring") => WriterChoice::Ring,
        Some("pwrite") => WriterChoice::Pwrite,
        _ => WriterChoice::Auto,
    };
    let total: u64 = args.get(3).and_then(|text| text.parse().ok()).unwrap_or(50_000);
    let outstanding: u64 = args.get(4).and_then(|text| text.parse().ok()).unwrap_or(256);
    let settings =
        Settings { writer, spares: 6, segment_bytes: 32 << 20, ..Settings::new(dir, 0x1234_5678 << 70 | 99) };
    let (spool, recovery) = Spool::open(settings, UnixMillis(1_763_679_600_000)).expect("a spool");
    recovery.run(&mut |_| {});
    let (ring, bell) = mpsc::channel();
    let ring = Mutex::new(ring);
    let port = spool.port(Arc::new(move || {
        let _ = ring.lock().map(|ring| ring.send(()));
    }));
    let envelope = Envelope {
        reverse_path: "sender@example.test".into(),
        recipients: vec![EnvRecipient { address: "someone@example.org".into(), ..EnvRecipient::default() }],
        size: BODY as u32,
        ..Envelope::default()
    };
    let labels = Labels::of(&envelope);
    let bench = Bench { spool, port, bell, body: Body::from(vec![b'x'; BODY]), envelope, labels };

    // Uses every file once, so that the measured part runs on recycled segments.
    while bench.spool.status().spares < 6 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    bench.run(70_000, outstanding);
    std::thread::sleep(std::time::Duration::from_millis(600));

    let before = bench.spool.status();
    let (start, cpu, (thread, _)) = (Instant::now(), cpu_us(), threads("spool writer"));
    bench.run(total, outstanding);
    let (took, cpu, thread) = (start.elapsed(), cpu_us() - cpu, threads("spool writer").0 - thread);
    let after = bench.spool.status();
    let per = |value: f64| value / total as f64;
    let batches = after.counts.batches - before.counts.batches;
    println!("writer {:?} {:?}", after.writer, after.reasons);
    println!(
        "{total} messages of {BODY} bytes, {outstanding} outstanding, {:.1} per batch: {:.0} messages/s",
        total as f64 / batches.max(1) as f64,
        total as f64 / took.as_secs_f64()
    );
    println!("CPU per message: process {:.2} us, writer thread {:.2} us", per(cpu as f64), per(thread as f64 / 1000.0));
    println!(
        "recycled {}, batches to unwritten space {}, io-wq workers {}",
        after.recycled,
        after.counts.unwritten - before.counts.unwritten,
        threads("iou-wrk").1
    );
    println!("trouble: {:?}", after.trouble);
}
