//! `sim`: run the simulator. `sim --seed 7` prints the trace of one run; `sim --seeds 1000` or `sim --seeds 500..900`
//! runs many and stops at the first that breaks a promise.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use harness::sim::{run, Outcome, Protections, Show};

/// Does the process keep its promises, whatever goes wrong?
#[derive(Parser)]
struct Cli {
    /// One seed, with its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// No trace, only how it ended.
    #[arg(long)]
    quiet: bool,
    /// Many seeds: a number, or first..last.
    #[arg(long, default_value = "1000")]
    seeds: String,
    /// Go on after a broken promise, and tell each.
    #[arg(long)]
    all: bool,
    /// Threads, each with seeds of its own.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    match work(&Cli::parse()) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(outcome)) => {
            println!("BROKEN by seed {}: {}", outcome.seed, outcome.broken.unwrap_or_default());
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The first run that broke a promise.
fn work(cli: &Cli) -> Result<Option<Outcome>> {
    if let Some(seed) = cli.seed {
        let show = if cli.quiet { Show::Nothing } else { Show::Print };
        let outcome = run(seed, Protections::default(), show);
        println!("{}", told(&outcome));
        return Ok(Some(outcome).filter(|o| o.broken.is_some()));
    }
    let (first, last) = match cli.seeds.split_once("..") {
        Some((first, last)) => (first.parse().context("first seed")?, last.parse().context("last seed")?),
        None => (0, cli.seeds.parse().context("number of seeds")?),
    };
    Ok(many(first, last, cli))
}

fn told(o: &Outcome) -> String {
    let [recycled, compacted, ack_compactions] = o.recycled;
    format!(
        "seed {}: hash {:016x}, {} lines, {} s simulated, {} accepted, {} starts, {} crashes, {} unknown, \
         {} sent again, {recycled} segments recycled, {compacted} records compacted, {ack_compactions} compactions of \
         the ack log",
        o.seed, o.hash, o.lines, o.seconds, o.accepted, o.starts, o.crashes, o.unknowns, o.duplicates
    )
}

fn many(first: u64, last: u64, cli: &Cli) -> Option<Outcome> {
    let start = Instant::now();
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let failed: Mutex<Option<Outcome>> = Mutex::new(None);
    let totals = Mutex::new([0u64; 9]);
    std::thread::scope(|scope| {
        for _ in 0..cli.threads.max(1) {
            scope.spawn(|| loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= last || stop.load(Ordering::Relaxed) {
                    return;
                }
                let outcome = run(seed, Protections::default(), Show::Nothing);
                add(&mut totals.lock().expect("no thread panics"), &outcome);
                let done = seed - first + 1;
                if done.is_multiple_of(100) {
                    println!("{done} seeds, {:.1} s", start.elapsed().as_secs_f64());
                }
                if let Some(broken) = &outcome.broken {
                    println!("seed {seed}: {broken}");
                    stop.store(!cli.all, Ordering::Relaxed);
                    let mut failed = failed.lock().expect("no thread panics");
                    if failed.as_ref().is_none_or(|f| f.seed > outcome.seed) {
                        *failed = Some(outcome);
                    }
                }
            });
        }
    });
    let totals = totals.into_inner().expect("no thread panics");
    let [seeds, seconds, accepted, crashes, unknowns, again, recycled, compacted, ack] = totals;
    let wall = start.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds in {wall:.1} s ({:.1} ms each): {:.1} days simulated, {accepted} messages accepted, {crashes} \
         crashes, {unknowns} unknown outcomes, {again} sent again, {recycled} segments recycled, {compacted} records \
         compacted, {ack} compactions of the ack log",
        wall * 1000.0 / seeds.max(1) as f64,
        seconds as f64 / 86_400.0
    );
    let failed = failed.into_inner().expect("no thread panics");
    if failed.is_none() {
        println!("every promise was kept");
    }
    failed
}

fn add(totals: &mut [u64; 9], o: &Outcome) {
    let [recycled, compacted, ack] = o.recycled;
    let crashes = u64::from(o.crashes);
    let more = [1, o.seconds, o.accepted as u64, crashes, o.unknowns, o.duplicates, recycled, compacted, ack];
    totals.iter_mut().zip(more).for_each(|(total, more)| *total += more);
}
