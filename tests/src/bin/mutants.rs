//! `mutants`: a check proves that it can fail. One protection is taken away at a time, and the simulator must notice
//! within a bounded number of seeds. Exit code 1 when a mutant survives.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::Instant;

use clap::Parser;
use harness::sim::{mutants, run, Outcome, Protections, Show};

/// Takes one protection away at a time; the simulator must notice each.
#[derive(Parser)]
struct Cli {
    /// Most seeds for one mutant.
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    /// Only mutants whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Threads, each with seeds of its own.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let start = Instant::now();
    let mut survivors = 0;
    let mut count = 0;
    println!("{:<34} | {:>5} | noticed because", "mutant", "seed");
    for (name, protections) in mutants::all().into_iter().filter(|(name, _)| name.contains(&cli.only)) {
        count += 1;
        match noticed(protections, cli.seeds, cli.threads) {
            Some(outcome) => {
                println!("{name:<34} | {:>5} | {}", outcome.seed, outcome.broken.unwrap_or_default());
            }
            None => {
                survivors += 1;
                println!("{name:<34} |     - | SURVIVED {} seeds", cli.seeds);
            }
        }
    }
    println!("{count} mutants, {survivors} survived, {:.1} s", start.elapsed().as_secs_f64());
    if survivors > 0 || count == 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The lowest seed found that breaks a promise without this protection.
fn noticed(protections: Protections, seeds: u64, threads: usize) -> Option<Outcome> {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let found: Mutex<Option<Outcome>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds || stop.load(Ordering::Relaxed) {
                    return;
                }
                let outcome = run(seed, protections, Show::Nothing);
                if outcome.broken.is_some() {
                    stop.store(true, Ordering::Relaxed);
                    let mut found = found.lock().expect("no thread panics");
                    if found.as_ref().is_none_or(|f| f.seed > outcome.seed) {
                        *found = Some(outcome);
                    }
                }
            });
        }
    });
    found.into_inner().expect("no thread panics")
}
