//! What a seed chooses before a run: how much mail, which peers, what goes wrong and when.

use queue::spool::writer::Protections as SpoolProtections;
use queue::{ack, Class, Notify};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Protections that a run may go without.
#[derive(Clone, Copy, Debug, Default)]
pub struct Protections {
    /// Of the spool.
    pub spool: SpoolProtections,
    /// Of the ack log.
    pub ack: ack::Protections,
    /// Of the shard core.
    pub core: mta::shard::core::Protections,
    /// Of wide limits.
    pub lease: mta::shaping::lease::LeaseMutants,
}

/// One recipient of a submission.
#[derive(Clone, Debug)]
pub struct PlannedRcpt {
    /// Address.
    pub address: String,
    /// RFC 3461 NOTIFY.
    pub notify: Notify,
}

/// One submission.
#[derive(Clone, Debug)]
pub struct PlannedMail {
    /// When, in milliseconds after the beginning.
    pub at: u64,
    /// Bytes of its body.
    pub len: usize,
    /// Reverse path.
    pub from: String,
    /// Class.
    pub class: Class,
    /// RFC 6710 priority.
    pub priority: i8,
    /// Not before, seconds after submission.
    pub wait_s: Option<u32>,
    /// Time to live in seconds.
    pub ttl_s: Option<u32>,
    /// Some byte is above 127.
    pub eight_bit: bool,
    /// Recipients.
    pub rcpts: Vec<PlannedRcpt>,
}

/// How a peer behaves; chances in 1000 unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// A connection fails.
    pub no_connection: u32,
    /// It closes before any reply to the transaction.
    pub close_first: u32,
    /// A recipient is deferred.
    pub defer_rcpt: u32,
    /// A recipient is refused.
    pub refuse_rcpt: u32,
    /// The message is deferred after its last byte.
    pub defer_data: u32,
    /// The message is refused after its last byte.
    pub refuse_data: u32,
    /// It closes after the last byte without a reply.
    pub close_last: u32,
    /// Of those closes, in 1000: it has taken the message.
    pub taken_at_close: u32,
    /// A reply takes minutes.
    pub slow: u32,
    /// Offers DSN.
    pub dsn: bool,
    /// Offers 8BITMIME.
    pub eight_bit: bool,
    /// Recipients it takes in one transaction.
    pub rcpt_max: usize,
    /// Belongs to a provider with a limit over all its sites.
    pub provider: bool,
}

/// Something that goes wrong, or is done by an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The process is killed; true for a power cut.
    Crash(bool),
    /// The crash falls in the midst of a call, after so many changes of the disk.
    Trip(u32, bool),
    /// A graceful stop and start.
    Drain,
    /// Writes of the spool fail with this chance in 1000, for so many ms.
    WriteErrors(u32, u64),
    /// Reads of the spool fail.
    ReadErrors(u32, u64),
    /// The spool's disk is full for so many ms.
    Full(u64),
    /// The ack log's folder takes nothing.
    AckErrors(u64),
    /// The event log takes nothing.
    EventErrors(u64),
    /// Spool writes take up to so many ms, for so many ms.
    Slow(u64, u64),
    /// The wall clock jumps by so many seconds.
    Jump(i64),
    /// The clock loses its keeper for so many ms.
    Unsynced(u64),
    /// Mail to this domain is held for so many ms.
    Hold(usize, u64),
    /// A source may not send for so many ms.
    NoSource(usize, u64),
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Shards.
    pub shards: usize,
    /// Egress sources.
    pub sources: usize,
    /// Domains; domain `n` is at site `n % sites`.
    pub domains: usize,
    /// How each site behaves until [`Plan::good_from`].
    pub sites: Vec<Manner>,
    /// What is submitted.
    pub mail: Vec<PlannedMail>,
    /// What goes wrong, with its time.
    pub mishaps: Vec<(u64, Mishap)>,
    /// From here on nothing goes wrong and every peer behaves.
    pub good_from: u64,
    /// Seconds before the second attempt.
    pub retry_first_s: u32,
    /// Seconds after which a recipient is given up.
    pub max_age_s: u32,
    /// Protections.
    pub protections: Protections,
}

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

impl Plan {
    /// What this seed chooses.
    pub fn of_seed(seed: u64, protections: Protections) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let shards = random.random_range(1..=2);
        let sources = random.random_range(1..=3);
        let domains = random.random_range(3..=8);
        let site_count = random.random_range(2..=domains);
        let sites = (0..site_count).map(|_| manner(&mut random)).collect();
        let span = *pick(&mut random, &[2 * MINUTE, 20 * MINUTE, 2 * HOUR]);
        let count = random.random_range(200..260);
        let mut mail: Vec<PlannedMail> = (0..count).map(|n| submission(&mut random, n, span, domains)).collect();
        mail.sort_by_key(|one| one.at);
        let long = random.random_bool(0.3);
        let end = span + if long { 6 * HOUR } else { 40 * MINUTE };
        Self {
            shards,
            sources,
            domains,
            sites,
            mishaps: mishaps(&mut random, &mail, end, domains, sources),
            mail,
            good_from: end,
            retry_first_s: *pick(&mut random, &[60, 300, 1200]),
            max_age_s: *pick(&mut random, &[4 * 3600, 86_400, 432_000]),
            protections,
        }
    }
}

fn pick<'a, T>(random: &mut StdRng, from: &'a [T]) -> &'a T {
    &from[random.random_range(0..from.len())]
}

fn manner(random: &mut StdRng) -> Manner {
    let bad = random.random_bool(0.6);
    let mut chance = |most: u32| if bad && random.random_bool(0.5) { random.random_range(0..most) } else { 0 };
    let (no_connection, close_first, defer_rcpt, refuse_rcpt) = (chance(400), chance(200), chance(400), chance(100));
    let (defer_data, refuse_data, close_last, slow) = (chance(200), chance(100), chance(300), chance(100));
    Manner {
        no_connection,
        close_first,
        defer_rcpt,
        refuse_rcpt,
        defer_data,
        refuse_data,
        close_last,
        taken_at_close: random.random_range(0..=1000),
        slow,
        dsn: random.random(),
        eight_bit: random.random_bool(0.8),
        rcpt_max: *pick(random, &[1, 2, 10, 100]),
        provider: random.random_bool(0.4),
    }
}

fn submission(random: &mut StdRng, number: usize, span: u64, domains: usize) -> PlannedMail {
    let len = match random.random_range(0..40) {
        0 => random.random_range(20_000..70_000),
        1..=5 => random.random_range(4000..9000),
        _ => random.random_range(120..4000),
    };
    let rcpt_count = match random.random_range(0..10) {
        0 => random.random_range(5..20),
        1..=3 => random.random_range(2..5),
        _ => 1,
    };
    let rcpts = (0..rcpt_count)
        .map(|index| {
            let user = if random.random_bool(0.06) { "no" } else { "to" };
            let domain = if random.random_bool(0.01) { 999 } else { random.random_range(0..domains) };
            let notify = *pick(random, &[0, 0, 0, 0, Notify::NEVER, Notify::FAILURE, Notify::SUCCESS, 6, 14, 8]);
            PlannedRcpt { address: format!("{user}{number}x{index}@d{domain}.test"), notify: Notify(notify) }
        })
        .collect();
    PlannedMail {
        at: random.random_range(0..span),
        len,
        from: if random.random_bool(0.05) { String::new() } else { format!("from{number}@d0.test") },
        class: *pick(random, &[Class::Critical, Class::Transactional, Class::Transactional, Class::Bulk]),
        priority: random.random_range(-3..=3),
        wait_s: random.random_bool(0.03).then(|| random.random_range(1..3600)),
        ttl_s: random.random_bool(0.05).then(|| random.random_range(600..20_000)),
        eight_bit: random.random_bool(0.05),
        rcpts,
    }
}

fn mishaps(random: &mut StdRng, mail: &[PlannedMail], end: u64, domains: usize, sources: usize) -> Vec<(u64, Mishap)> {
    let mut all = Vec::new();
    let span = mail.last().map_or(1, |last| last.at + 1);
    let crashes = random.random_range(0..7);
    for _ in 0..crashes {
        let power = random.random();
        let what = match random.random_range(0..10) {
            0..=3 => Mishap::Trip(random.random_range(0..40), power),
            4 => Mishap::Drain,
            _ => Mishap::Crash(power),
        };
        // Most fall while much is under way: just after a submission, with a disk that takes its time.
        let at = match random.random_range(0..10) {
            0..=4 => pick(random, mail).at + random.random_range(0..60),
            5..=7 => random.random_range(0..span),
            _ => random.random_range(0..end),
        };
        if random.random_bool(0.4) {
            let slow = Mishap::Slow(random.random_range(50..800), 2500);
            all.push((at.saturating_sub(2000), slow));
        }
        all.push((at, what));
        // Two in a row: what the first left behind has to bear the second.
        if random.random_bool(0.3) {
            let power = random.random_bool(0.7);
            all.push((at + random.random_range(1000..40_000), Mishap::Crash(power)));
        }
    }
    for _ in 0..random.random_range(0..5) {
        let while_ms = random.random_range(200..60_000);
        let what = match random.random_range(0..11) {
            0 | 1 => Mishap::WriteErrors(*pick(random, &[20, 100, 500]), while_ms),
            2 => Mishap::ReadErrors(*pick(random, &[50, 300]), while_ms),
            3 => Mishap::Full(while_ms),
            4 => Mishap::AckErrors(while_ms),
            5 => Mishap::EventErrors(while_ms),
            6 => Mishap::Slow(random.random_range(10..1500), while_ms),
            7 => Mishap::Jump(*pick(random, &[-7200, -200, -20, 20, 200, 1000, 90_000, 10_000_000])),
            8 => Mishap::Unsynced(while_ms * 10),
            9 => Mishap::Hold(random.random_range(0..domains), while_ms * 20),
            _ => Mishap::NoSource(random.random_range(0..sources), while_ms),
        };
        let until = if random.random_bool(0.6) { span } else { end };
        all.push((random.random_range(0..until), what));
    }
    all.sort_by_key(|(at, _)| *at);
    all
}
