//! How long a start takes: fills a spool with small messages, closes it, opens it again and times both halves.
//!
//! `spool_restart <dir> [messages] [recipient domains]`. Reads go past the page cache, so every start is a cold one.

use std::path::PathBuf;
use std::sync::{mpsc, Arc, Mutex};
use std::time::Instant;

use queue::envelope::ENVELOPE_V1;
use queue::error::Refusal;
use queue::spool::{Commit, Labels, Settings, Spool};
use queue::{Body, EnvRecipient, Envelope, UnixMillis};

const NOW: UnixMillis = UnixMillis(1_763_679_600_000);
const BODY: usize = 256;
const OUTSTANDING: u64 = 1024;

fn fill(spool: &Spool, total: u64, domains: u64) {
    let (ring, bell) = mpsc::channel();
    let ring = Mutex::new(ring);
    let port = spool.port(Arc::new(move || {
        let _ = ring.lock().map(|ring| ring.send(()));
    }));
    let body = Body::from(vec![b'x'; BODY]);
    let (mut sent, mut done) = (0u64, 0u64);
    let mut answers = Vec::new();
    while done < total {
        while sent < total && sent - done < OUTSTANDING {
            let address = format!("someone@domain{}.example", sent % domains);
            let envelope = Envelope {
                recipients: vec![EnvRecipient { address, ..EnvRecipient::default() }],
                ..Envelope::default()
            };
            let commit = Commit {
                id: spool.next_id(),
                version: ENVELOPE_V1,
                labels: Labels::of(&envelope),
                envelope: envelope.encode().expect("an envelope"),
                body: body.clone(),
            };
            match spool.submit(&port, sent, commit) {
                Ok(()) => sent += 1,
                Err((Refusal::Busy, _)) => std::thread::yield_now(),
                Err((refusal, _)) => panic!("{refusal}"),
            }
        }
        bell.recv().expect("the writer rings");
        port.drain(&mut answers);
        done += answers.len() as u64;
        answers.drain(..).for_each(|(_, answer)| assert!(answer.is_ok(), "{answer:?}"));
    }
}

fn resident_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) / 256
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let dir = PathBuf::from(args.get(1).expect("a directory"));
    let number = |at: usize, other: u64| args.get(at).and_then(|text| text.parse().ok()).unwrap_or(other);
    let (total, domains) = (number(2, 1_000_000), number(3, 10_000));
    let settings = Settings { spares: 4, ..Settings::new(dir, 0x1234_5678 << 70 | 99) };
    let (spool, recovery) = Spool::open(settings.clone(), NOW).expect("a spool");
    recovery.run(&mut |_| {});
    let start = Instant::now();
    fill(&spool, total, domains);
    println!("filled {total} in {:.2} s: {:?}", start.elapsed().as_secs_f64(), spool.status().writer);
    spool.close();
    drop(spool);

    let before = resident_mib();
    let start = Instant::now();
    let (spool, recovery) = Spool::open(settings, NOW).expect("a spool");
    let opened = start.elapsed();
    let mut bytes = 0;
    let report = recovery.run(&mut |found| bytes += found.queue_names.iter().map(|name| name.len()).sum::<usize>());
    let told = start.elapsed();
    println!(
        "ready to accept after {:.3} s, {} messages told after {:.3} s ({} segments by footer, {} read through)",
        opened.as_secs_f64(),
        report.messages,
        told.as_secs_f64(),
        report.by_footer,
        report.by_scan
    );
    println!("memory grew by {} MiB; {} MiB of names", resident_mib().saturating_sub(before), bytes >> 20);
    println!("{:?}", spool.status());
}
