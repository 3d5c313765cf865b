//! `ringbench inject`: an SMTP load generator.
//!
//! Threads each run one epoll loop and own a share of the connections; message numbers are dealt to threads by
//! remainder, so nothing is shared while the load runs. With `--rate` the arrival times are fixed before the first
//! message and latency counts from the scheduled time, so a server that stalls cannot hide its stall (no coordinated
//! omission). Never resends: one number is tried once, and its end is written to the ledger.

mod arrivals;
mod conversation;
mod hold;
mod plan;
mod tally;
mod worker;

pub use hold::{hold, raise_file_limit};
pub use plan::Options;
pub use tally::Report;

use anyhow::{Context, Result};
use std::sync::Arc;

/// Runs the load to its end and returns what happened.
pub fn run(options: &Options) -> Result<Report> {
    let plan = Arc::new(plan::Plan::new(options)?);
    let mut threads = Vec::new();
    let cpu_before = crate::process::cpu_seconds();
    for index in 0..plan.threads {
        let plan = plan.clone();
        let thread = std::thread::Builder::new()
            .name(format!("inject-{index}"))
            .spawn(move || worker::run(plan, index))
            .context("starting an injector thread")?;
        threads.push(thread);
    }
    let mut tally = tally::Tally::new();
    for thread in threads {
        let part = thread.join().map_err(|_| anyhow::anyhow!("an injector thread died"))??;
        tally.merge(&part);
    }
    Ok(tally.into_report(&plan, crate::process::cpu_seconds() - cpu_before))
}

/// The subcommand: runs, prints, writes the JSON result.
pub fn command(options: &Options) -> Result<()> {
    let report = run(options)?;
    report.print();
    if let Some(path) = &options.json {
        crate::report::write_json(path, &report)?;
    }
    anyhow::ensure!(
        !options.strict || report.accepted == report.planned,
        "not every message was accepted ({} of {})",
        report.accepted,
        report.planned
    );
    Ok(())
}
