//! The spool under power cuts: say what is there, then accept messages and say each one that is durable.
//!
//! Runs as the one program of a guest whose disk forgets (`powercut --program spool_probe`). Lines on the console:
//! `got X` for every message recovered and read back whole, `bad ...` for whatever can't be right (damage, a wrong
//! body), `scanned`, then `ack X` when the spool answered and `free X` before a message is retired. X names spool id,
//! seed and length, so a message that comes back under another's name shows. Never cleans up: the next boot reads what
//! is left.
//!
//! `spool_probe DIR [break=PROTECTION] [live=N]`

use std::collections::VecDeque;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{mpsc, Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use queue::envelope::ENVELOPE_V1;
use queue::error::Refusal;
use queue::spool::{Answer, Commit, Labels, Port, RecordRef, Recovery, Settings, Spool};
use queue::{Body, EnvRecipient, Envelope, SpoolId, UnixMillis};

type Failure = Box<dyn std::error::Error>;

/// Messages said to be free that are not retired yet. The console buffers lines: what the witness has not heard may not
/// have happened.
const UNHEARD: usize = 400;
/// Messages handed in and not yet answered.
const IN_FLIGHT: usize = 48;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: spool_probe DIR [break=PROTECTION] [live=N]")?);
    let mut random = Random(u64::from_le_bytes(entropy()?));
    let identity = (u128::from(random.next()) << 64) | u128::from(random.next());
    let mut settings = Settings::new(dir, identity);
    settings.segment_bytes = 1 << 20;
    settings.reserve_bytes = 4 << 20;
    let mut live = 1500;
    for argument in arguments {
        match argument.split_once('=') {
            Some(("break", name)) => take_away(&mut settings, name)?,
            Some(("live", count)) => live = count.parse()?,
            _ => return Err(format!("unknown argument {argument}").into()),
        }
    }
    let (spool, recovery) = Spool::open(settings, now())?;
    let kept = look(&spool, recovery);
    println!("writer {:?} {:?}", spool.status().writer, spool.status().reasons);
    Intake::new(&spool, kept, random).run(live)
}

fn take_away(settings: &mut Settings, name: &str) -> Result<(), Failure> {
    let protections = &mut settings.protections;
    let place = match name {
        "sync_writes" => &mut protections.sync_writes,
        "ack_after_batch" => &mut protections.ack_after_batch,
        "prefix_order" => &mut protections.prefix_order,
        "check_epoch" => &mut protections.check_epoch,
        "check_crc" => &mut protections.check_crc,
        "footer_after_batches" => &mut protections.footer_after_batches,
        "honour_cutoffs" => &mut protections.honour_cutoffs,
        other => return Err(format!("no protection {other}").into()),
    };
    *place = false;
    Ok(())
}

/// Reads back and names everything recovered; oldest first.
fn look(spool: &Spool, recovery: Recovery) -> VecDeque<(SpoolId, RecordRef, String)> {
    let mut found = Vec::new();
    let report = recovery.run(&mut |message| found.push((message.id, message.at)));
    for damage in &report.damage {
        println!("bad damage segment {} offset {}: {}", damage.segment, damage.offset, damage.what);
    }
    found.sort_by_key(|(id, _)| id.0);
    let mut kept = VecDeque::new();
    for (id, at) in found {
        let whole = spool.load(id, at).map_err(|e| e.to_string()).and_then(|stored| {
            let seed = seed_of(&stored.body).ok_or("no seed in the body")?;
            let same = stored.body.as_ref() == body(seed, stored.body.len()).as_slice();
            let fits = stored.envelope.size as usize == stored.body.len();
            if same && fits {
                Ok(name(id, seed, stored.body.len()))
            } else {
                Err("not the bytes that were handed in".to_string())
            }
        });
        match whole {
            Ok(name) => {
                println!("got {name}");
                kept.push_back((id, at, name));
            }
            Err(why) => println!("bad message {}: {why}", id.0),
        }
    }
    println!(
        "recovered {} by footer {} by scan {}, dropped {} batches, {} duplicates",
        report.messages, report.by_footer, report.by_scan, report.dropped_batches, report.duplicates
    );
    println!("scanned");
    kept
}

struct Intake<'a> {
    spool: &'a Spool,
    port: Port,
    bell: mpsc::Receiver<()>,
    waiting: Vec<Option<(SpoolId, String)>>,
    kept: VecDeque<(SpoolId, RecordRef, String)>,
    freed: VecDeque<(SpoolId, RecordRef)>,
    random: Random,
}

impl<'a> Intake<'a> {
    fn new(spool: &'a Spool, kept: VecDeque<(SpoolId, RecordRef, String)>, random: Random) -> Self {
        let (ring, bell) = mpsc::channel();
        let ring = Mutex::new(ring);
        let port = spool.port(Arc::new(move || {
            if let Ok(ring) = ring.lock() {
                // Nobody listens any more when the program ends.
                let _ = ring.send(());
            }
        }));
        Self { spool, port, bell, waiting: vec![None; IN_FLIGHT], kept, freed: VecDeque::new(), random }
    }

    fn run(mut self, live: usize) -> Result<(), Failure> {
        loop {
            while let Some(free) = self.waiting.iter().position(Option::is_none) {
                if !self.hand_in(free)? {
                    break;
                }
            }
            // A second of silence is a refusal that asks for patience: try again.
            let _ = self.bell.recv_timeout(Duration::from_millis(200));
            let mut answers = Vec::new();
            self.port.drain(&mut answers);
            for (token, answer) in answers {
                self.answered(token as usize, answer)?;
            }
            while self.kept.len() > live {
                self.free_oldest();
            }
        }
    }

    fn free_oldest(&mut self) {
        let Some((id, at, name)) = self.kept.pop_front() else { return };
        println!("free {name}");
        self.freed.push_back((id, at));
        while self.freed.len() > UNHEARD {
            let Some((id, at)) = self.freed.pop_front() else { return };
            self.spool.retire(id, at);
        }
    }

    /// False when the spool asks to wait.
    fn hand_in(&mut self, token: usize) -> Result<bool, Failure> {
        let (id, seed) = (self.spool.next_id(), self.random.next());
        let len = 40 + (self.random.next() % 16_000) as usize;
        let envelope = Envelope {
            received: now(),
            reverse_path: "from@example.test".into(),
            recipients: vec![EnvRecipient { address: "to@example.test".into(), ..EnvRecipient::default() }],
            size: len as u32,
            ..Envelope::default()
        };
        let commit = Commit {
            id,
            version: ENVELOPE_V1,
            labels: Labels::of(&envelope),
            envelope: envelope.encode()?,
            body: Body::from(body(seed, len)),
        };
        match self.spool.submit(&self.port, token as u64, commit) {
            Ok(()) => {
                self.waiting[token] = Some((id, name(id, seed, len)));
                Ok(true)
            }
            Err((Refusal::Busy | Refusal::Full { .. }, _)) => Ok(false),
            Err((refusal, _)) => Err(refusal.into()),
        }
    }

    fn answered(&mut self, token: usize, answer: Answer) -> Result<(), Failure> {
        let Some((id, name)) = self.waiting.get_mut(token).and_then(Option::take) else {
            return Err("an answer nobody waits for".into());
        };
        match answer {
            Ok(at) => {
                println!("ack {name}");
                self.kept.push_back((id, at, name));
            }
            Err(Refusal::Full { .. } | Refusal::Busy) => {
                // Make room: the oldest quarter goes.
                for _ in 0..self.kept.len() / 4 {
                    self.free_oldest();
                }
            }
            Err(refusal) => println!("refused {refusal}"),
        }
        Ok(())
    }
}

fn name(id: SpoolId, seed: u64, len: usize) -> String {
    format!("{}-{seed:016x}-{len}", id.0)
}

/// Bytes that tell their seed and can be made again from it.
fn body(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = format!("X-Seed: {seed:016x}\r\n\r\n").into_bytes();
    let mut random = Random(seed | 1);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn seed_of(body: &[u8]) -> Option<u64> {
    let digits = body.strip_prefix(b"X-Seed: ")?.get(..16)?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn now() -> UnixMillis {
    UnixMillis(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64))
}

fn entropy() -> std::io::Result<[u8; 8]> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Xorshift (Marsaglia 2003); enough for sizes and fill.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = if self.0 == 0 { 1 } else { self.0 };
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
