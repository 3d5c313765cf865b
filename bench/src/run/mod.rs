//! `ringbench run` and `ringbench compare`: named scenarios against a server started from an adapter.

mod adapter;
mod backlog;
mod bed;
mod interrupt;
pub mod key;
mod latency;
pub mod launch;
pub mod machine;
mod meter;
pub mod raw;
mod relay;
pub mod result;
mod strace;

use anyhow::{bail, Context, Result};
use clap::Args;
use result::Outcome;
use std::path::{Path, PathBuf};

/// Command line of `ringbench run`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Scenario; without it the list is printed
    pub scenario: Option<String>,
    /// Adapter: a file, or a name in bench/adapters
    #[arg(long, short = 'a', default_value = "ringpost")]
    pub adapter: String,
    /// Messages per load
    #[arg(long, short = 'm', default_value_t = 20_000)]
    pub messages: u64,
    /// Recipients or names of the scenarios backlog and names
    #[arg(long, default_value_t = 1_000_000)]
    pub recipients: u64,
    /// Seconds of the scenario latency, per run
    #[arg(long, default_value_t = 210.0)]
    pub seconds: f64,
    /// Repetitions; the median counts (latency: the worst)
    #[arg(long, default_value_t = 3)]
    pub repeat: u32,
    /// Only this load of the scenario (1: smtp-source, 2: our injector with PIPELINING and CHUNKING)
    #[arg(long)]
    pub load: Option<u32>,
    /// Cores of the server under test
    #[arg(long, default_value = "0")]
    pub mta_cores: String,
    /// Cores of injector and sink
    #[arg(long, default_value = "1")]
    pub load_cores: String,
    /// Receive with Postfix's smtp-sink instead of our sink (cross-check)
    #[arg(long)]
    pub smtp_sink: bool,
    /// Count system calls in one more, smaller load
    #[arg(long)]
    pub strace: bool,
    /// Write the result to this file; default target/bench/SCENARIO-SERVER.json
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Keep the private folder of the run
    #[arg(long)]
    pub keep: bool,
}

/// Command line of `ringbench compare`.
#[derive(Args, Clone, Debug)]
pub struct Compare {
    /// The same as for `run`
    #[command(flatten)]
    pub run: Options,
    /// Adapters to compare
    #[arg(long, value_delimiter = ',', default_value = "ringpost,postfix")]
    pub with: Vec<String>,
}

struct Scenario {
    name: &'static str,
    row: &'static str,
    about: &'static str,
    run: fn(&Options) -> Result<Outcome>,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "relay-4k",
        row: "engine.a",
        about: "relay 4 KiB, 50 kept connections, durable, server alone on its core",
        run: relay::relay,
    },
    Scenario { name: "accept-only", row: "engine.b", about: "the same with delivery held", run: relay::accept_only },
    Scenario { name: "dkim", row: "engine.c", about: "relay with an RSA-2048 signature", run: relay::dkim },
    Scenario {
        name: "large-100k",
        row: "engine.d",
        about: "relay 100 KB against a program that only moves the bytes",
        run: relay::large,
    },
    Scenario { name: "backlog", row: "engine.e", about: "a destination that defers everything", run: backlog::backlog },
    Scenario { name: "names", row: "engine.f", about: "a queue name per recipient", run: backlog::names },
    Scenario {
        name: "latency",
        row: "engine.g",
        about: "a critical stream of 50/s beside saturating bulk",
        run: latency::latency,
    },
    Scenario { name: "idle", row: "engine.k", about: "idle inbound connections with TLS", run: latency::idle },
    Scenario {
        name: "rcpt-1000",
        row: "engine.m",
        about: "1,000 recipients in 3 domains on one site",
        run: relay::many_recipients,
    },
];

/// The subcommand `run`: exit code 1 when a bar is not met.
pub fn command(options: &Options) -> Result<()> {
    interrupt::watch()?;
    let Some(name) = &options.scenario else {
        for scenario in SCENARIOS {
            println!("{:12} {:10} {}", scenario.name, scenario.row, scenario.about);
        }
        return Ok(());
    };
    let outcome = run(name, options)?;
    for figure in &outcome.figures {
        println!("{}", figure.line());
    }
    if outcome.figures.iter().any(|figure| !figure.passed()) {
        bail!("a bar is not met");
    }
    Ok(())
}

fn run(name: &str, options: &Options) -> Result<Outcome> {
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name || scenario.row == name);
    let scenario = scenario.with_context(|| format!("no scenario {name}; `ringbench run` lists them"))?;
    println!("commit {}; {}", machine::commit(), machine::line());
    println!(
        "scenario {} ({}): {}; server {} on cores {}, load on cores {}",
        scenario.name, scenario.row, scenario.about, options.adapter, options.mta_cores, options.load_cores
    );
    let mut outcome = (scenario.run)(options)?;
    outcome.scenario = scenario.name.to_owned();
    outcome.commit = machine::commit();
    outcome.machine = machine::line();
    outcome.date = machine::date();
    for note in &outcome.notes {
        println!("note: {note}");
    }
    let path = options
        .json
        .clone()
        .unwrap_or_else(|| Path::new("target/bench").join(format!("{}-{}.json", scenario.name, outcome.server)));
    if let Some(folder) = path.parent() {
        let _ = std::fs::create_dir_all(folder);
    }
    crate::report::write_json(&path, &outcome)?;
    println!("result in {}", path.display());
    Ok(outcome)
}

/// The subcommand `compare`: the same scenario against each adapter, then a table. Bars don't matter here.
pub fn compare(options: &Compare) -> Result<()> {
    let name = options.run.scenario.clone().unwrap_or_else(|| "relay-4k".to_owned());
    interrupt::watch()?;
    let mut outcomes = Vec::new();
    for adapter in &options.with {
        let run_options = Options { adapter: adapter.clone(), json: None, ..options.run.clone() };
        match run(&name, &run_options) {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => println!("{adapter}: {error:#}"),
        }
    }
    println!("{}", crate::report::markdown(&outcomes));
    Ok(())
}
