//! `powercut`: boot a guest, let a program write to a disk that forgets, cut the power, boot again, compare.
//!
//! Each boot first says what it found, which is the verdict on the cut before it, and then goes on writing until the
//! next cut. The disk lives in memory and is carried from cut to cut. Exit code 0: nothing acknowledged was lost;
//! with --expect-loss 0 means that a loss was noticed.

use anyhow::{ensure, Context, Result};
use clap::Parser;
use harness::nbd::server::Server;
use harness::nbd::volatile::{CutReport, Honesty, Volatile};
use harness::vm::guest::{Guest, Machine};
use harness::vm::kit::{Kit, Workplace};
use harness::vm::witness::{Verdict, Witness};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use sysimage::boot::FAILED;

/// Cut the power of a guest and see what is left.
#[derive(Parser)]
struct Cli {
    /// How many cuts.
    #[arg(long, default_value_t = 10)]
    cuts: u32,
    /// Decides moments and what survives; printed, so that a run can be repeated.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// MiB of the disk.
    #[arg(long, default_value_t = 64)]
    mib: u64,
    /// The longest time from ready to the cut, in milliseconds.
    #[arg(long, default_value_t = 1500)]
    longest_ms: u64,
    /// The most writes and flushes from ready to a cut that falls into one of them.
    #[arg(long, default_value_t = 400)]
    most_requests: u64,
    /// The longest time the disk takes to answer, in milliseconds; answers come out of order.
    #[arg(long, default_value_t = 0)]
    lag_ms: u64,
    /// A static program of the kit to run in the guest, beside sysimage.
    #[arg(long)]
    program: Option<String>,
    /// The command to run; the data file system is at /data, the disk is /dev/vda.
    #[arg(long, default_value = "/bin/sysimage durable-probe /data/blocks")]
    command: String,
    /// Do not make or mount a file system: the program uses the bare disk.
    #[arg(long)]
    bare: bool,
    /// The disk acknowledges flushes and ignores them.
    #[arg(long)]
    lying_disk: bool,
    /// Succeed only when a loss is noticed.
    #[arg(long)]
    expect_loss: bool,
}

#[derive(Default)]
struct Totals {
    cuts: u32,
    acked: usize,
    checked: usize,
    missing: usize,
    bad: usize,
    kept: usize,
    torn: usize,
    lost: usize,
}

impl Totals {
    fn add(&mut self, cut: CutReport) {
        self.kept += cut.kept;
        self.torn += cut.torn;
        self.lost += cut.lost;
    }
}

const BOOT: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let cli = Cli::parse();
    let kit = Kit::from_env().context("the kit is not set")?;
    let start = Instant::now();
    let totals = run(&cli, &kit)?;
    let Totals { cuts, acked, checked, missing, bad, kept, torn, lost } = totals;
    println!("volatile writes at the cuts: {kept} kept, {torn} torn, {lost} dropped");
    println!(
        "powercut: seed {}, {cuts} cuts, {acked} acknowledged, {checked} checks, {missing} lost, {bad} bad, {:.0} s",
        cli.seed,
        start.elapsed().as_secs_f64()
    );
    let loss = missing + bad > 0;
    ensure!(loss == cli.expect_loss, "{}", if loss { "acknowledged things were lost" } else { "no loss was noticed" });
    Ok(())
}

fn run(cli: &Cli, kit: &Kit) -> Result<Totals> {
    let place = Workplace::new("powercut")?;
    let socket = place.path().join("disk.sock");
    let honesty = if cli.lying_disk { Honesty::Lies } else { Honesty::Honest };
    let server = Server::start(
        Volatile::new(empty_disk(cli, place.path())?, honesty),
        &socket,
        Duration::from_millis(cli.lag_ms),
    )?;
    let mut programs = vec!["sysimage"];
    programs.extend(cli.program.as_deref());
    let data = if cli.bare { "none" } else { "/dev/vda" };
    let conf = format!("data = {data}\ntest = {}\n", cli.command);
    let made = kit.direct(&programs, &conf, place.path())?;
    let mut machine = Machine::new(1, 256);
    machine.direct(&made.kernel, &made.initramfs, "").nbd(&socket);
    let mut random = StdRng::seed_from_u64(cli.seed);
    let mut witness = Witness::default();
    let mut totals = Totals::default();
    for number in 0..=cli.cuts {
        let last = number == cli.cuts;
        let until_cut = Duration::from_millis(random.random_range(0..=cli.longest_ms));
        server.power_on();
        let mut guest = machine.start()?;
        witness.boot();
        // A cut while the machine still boots (journal replay) happens too, now and then.
        let early = !last && number > 0 && random.random_bool(0.15);
        let verdict = if early {
            read_for(&mut guest, &mut witness, until_cut + Duration::from_millis(800));
            Verdict::Open
        } else {
            judge(&mut guest, &mut witness, number)?
        };
        if let Verdict::Lost { .. } = verdict {
            let (name, log) = (format!("powercut-{}-boot-{number}.log", cli.seed), guest.log().join("\n"));
            let missing: Vec<&str> = witness.missing().take(5).collect();
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, log).context("keep the console")?;
            println!("boot {number} lacks {missing:?} ...; its console is in {}", path.display());
        }
        totals.judge(verdict, &mut witness);
        if last || guest.log().iter().any(|l| l.starts_with(FAILED)) {
            break;
        }
        let before = witness.heard();
        if !early {
            // Half of the cuts fall into the middle of a write or flush, the others at any moment.
            let requests = random.random_bool(0.5).then(|| random.random_range(1..=cli.most_requests));
            write_until_cut(&server, &mut guest, &mut witness, until_cut, requests);
        }
        let report = server.cut(random.random());
        for line in guest.kill() {
            witness.line(&line);
        }
        totals.add(report);
        totals.cuts += 1;
        let acks = witness.heard() - before;
        totals.acked += acks;
        println!("cut {number}: {verdict:?} of the cut before; {acks} acknowledged; {report:?}");
    }
    let counters = server.counters();
    let (writes, flushes) = (counters.writes.load(Ordering::Relaxed), counters.flushes.load(Ordering::Relaxed));
    let forced = counters.forced.load(Ordering::Relaxed);
    println!("disk: {writes} writes, {forced} of them forced, {flushes} flushes");
    Ok(totals)
}

impl Totals {
    fn judge(&mut self, verdict: Verdict, witness: &mut Witness) {
        match verdict {
            Verdict::Open => {}
            Verdict::Kept { checked } => self.checked += checked,
            Verdict::Lost { missing, bad } => {
                self.checked += witness.acked();
                self.missing += missing;
                self.bad += bad;
                witness.accept_loss();
            }
        }
    }
}

/// Read until the boot has said what it found. A machine that can't even mount its disk has lost everything.
fn judge(guest: &mut Guest, witness: &mut Witness, number: u32) -> Result<Verdict> {
    let end = Instant::now() + BOOT;
    while witness.verdict() == Verdict::Open {
        let Some(line) = guest.line(end.saturating_duration_since(Instant::now())) else {
            let log = guest.log().join("\n");
            anyhow::bail!("boot {number} never said what it found:\n{log}");
        };
        if line.starts_with(FAILED) {
            println!("boot {number}: {line}");
            return Ok(Verdict::Lost { missing: witness.acked(), bad: 1 });
        }
        witness.line(&line);
    }
    Ok(witness.verdict())
}

/// Listen until the moment of the cut: after `requests` of the disk, or after `time`.
fn write_until_cut(server: &Server, guest: &mut Guest, witness: &mut Witness, time: Duration, requests: Option<u64>) {
    let Some(requests) = requests else { return read_for(guest, witness, time) };
    let tripped = server.trip_after(requests);
    let end = Instant::now() + BOOT;
    while tripped.try_recv().is_err() && Instant::now() < end {
        read_for(guest, witness, Duration::from_millis(20));
    }
}

fn read_for(guest: &mut Guest, witness: &mut Witness, time: Duration) {
    let end = Instant::now() + time;
    while let Some(line) = guest.line(end.saturating_duration_since(Instant::now())) {
        witness.line(&line);
    }
}

/// A disk with an empty ext4, or all zeroes.
fn empty_disk(cli: &Cli, place: &Path) -> Result<Vec<u8>> {
    if cli.bare {
        return Ok(vec![0; (cli.mib << 20) as usize]);
    }
    let path = place.join("data.ext4");
    sysimage::disk::make_ext4(&path, cli.mib, [7; 16], sysimage::compose::DEFAULT_TIME)?;
    std::fs::read(&path).context("read the empty disk")
}
