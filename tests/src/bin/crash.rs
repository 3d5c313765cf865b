//! `crash`: kill -9 at random moments under load, restart, and compare the books (see `harness::crash`).
//!
//! Prints its figures, and exits with an error when anything was lost, sent twice, or kept from its sender.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use harness::crash::ledger::{Figures, Ledger};
use harness::crash::load::{self, Clients};
use harness::crash::queued::queued;
use harness::daemon::{Daemon, Port, Setup};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Kill -9 under load, and compare ledgers.
#[derive(Parser)]
struct Arguments {
    /// How often.
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Moments and messages derive from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Clients that send at once.
    #[arg(long, default_value_t = 4)]
    clients: u64,
    /// Average pause of a client between two messages, in milliseconds.
    #[arg(long, default_value_t = 4)]
    gap_ms: u64,
    /// Longest life of a server, in milliseconds.
    #[arg(long, default_value_t = 900)]
    life_ms: u64,
    /// `io_uring`, `epoll`, or `both`: one after the other on the same spool.
    #[arg(long, default_value = "both")]
    driver: String,
}

const SEGMENT_BYTES: u64 = 16 << 20;
/// Nothing came for so long: all that is due has been tried.
const SILENCE: Duration = Duration::from_secs(5);
/// A run that is not silent by then has failed.
const SILENCE_MAX: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(figures) => {
            print(&figures);
            if figures.agree() {
                println!("{} kills: 0 lost, 0 duplicates", arguments.kills);
                ExitCode::SUCCESS
            } else {
                println!("{} kills: the books do not agree", arguments.kills);
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("crash: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Figures> {
    let mut random = StdRng::seed_from_u64(arguments.seed);
    let ledger = Arc::new(Ledger::default());
    let receiver = load::receiver(&ledger);
    let mut setup = Setup::to("auto", &receiver)
        .with("[server]\nshards = 2\n[spool]\nspares = 2\n[delivery]\nretry_first_s = 1\nretry_max_s = 2\n");
    let address = setup.address(Port::Relay);
    let gap = Duration::from_millis(arguments.gap_ms);
    let clients = Clients::start(arguments.clients, address, &ledger, arguments.seed, gap);
    let began = Instant::now();
    for kill in 1..=arguments.kills {
        choose_driver(&mut setup, &arguments.driver, kill);
        one_life(&setup, &mut random, arguments.life_ms);
        if kill % 50 == 0 {
            let seconds = began.elapsed().as_secs();
            println!("{kill} kills in {seconds} s, {} recipients accepted", ledger.accepted());
        }
    }
    clients.stop();
    let daemon = setup.start();
    let began = Instant::now();
    while ledger.silence() < SILENCE || began.elapsed() < SILENCE {
        anyhow::ensure!(began.elapsed() < SILENCE_MAX, "mail still moves after {SILENCE_MAX:?}:\n{}", daemon.tail());
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = daemon.stop();
    anyhow::ensure!(status.success(), "the last stop: {status}");
    let queued = queued(&setup.dir().join("spool"), setup.shm(), SEGMENT_BYTES)?;
    let figures = ledger.compare(&queued);
    if !figures.agree() {
        let kept = std::env::temp_dir().join(format!("ringpost-crash-{}", std::process::id()));
        // The evidence is worth more than a tidy directory.
        let copied = std::process::Command::new("cp").arg("-r").arg(setup.dir()).arg(&kept).status();
        println!("spool, events and log were kept in {} ({copied:?})", kept.display());
    }
    Ok(figures)
}

fn choose_driver(setup: &mut Setup, wanted: &str, kill: u32) {
    let driver = match wanted {
        "both" if kill.is_multiple_of(2) => "epoll",
        "both" => "auto",
        one => one,
    };
    setup.change(&format!("[server]\ndriver = \"{driver}\"\n"));
}

/// Starts a server and kills it: mostly under load, sometimes while it starts, sometimes while it stops.
fn one_life(setup: &Setup, random: &mut StdRng, life_ms: u64) {
    let daemon: Daemon = setup.launch();
    let sort = random.random_range(0..10);
    if sort == 0 {
        std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
        return daemon.kill();
    }
    let daemon = daemon.ready();
    std::thread::sleep(Duration::from_millis(random.random_range(0..life_ms.max(1))));
    if sort == 1 {
        daemon.signal(Signal::SIGTERM);
        std::thread::sleep(Duration::from_millis(random.random_range(0..400)));
    }
    daemon.kill();
}

fn print(figures: &Figures) {
    println!("accepted                     {:>8} recipients", figures.accepted);
    println!("  delivered                  {:>8}", figures.delivered);
    println!("  bounced                    {:>8}", figures.bounced);
    println!("  still queued               {:>8}", figures.queued);
    println!("  Unknown after a kill       {:>8}", figures.unknown);
    println!("accepted, client not told    {:>8} of {} cut off", figures.not_told_but_taken, figures.not_told);
    println!("refused at the door          {:>8}", figures.refused);
    println!("deferrals                    {:>8}", figures.deferrals);
    println!("reports                      {:>8}", figures.reports);
    for (what, list) in [
        ("lost", &figures.lost),
        ("delivered twice", &figures.twice),
        ("delivered, and to be sent again", &figures.again),
        ("refused at the door, and taken", &figures.ghosts),
        ("bounced, and nobody told", &figures.unreported),
        ("held without damage", &figures.held),
        ("reports under one Message-ID that came twice", &figures.reports_twice),
    ] {
        if !list.is_empty() {
            let shown: Vec<&str> = list.iter().take(10).map(String::as_str).collect();
            println!("{what}: {} ({} ...)", list.len(), shown.join(", "));
        }
    }
}
