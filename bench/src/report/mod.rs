//! Results: written as JSON by every run, read back and drawn by `ringbench report`.

mod html;
mod svg;

use crate::run::result::Outcome;
use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Command line of `ringbench report`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Result files of `ringbench run`; default all in target/bench
    pub results: Vec<PathBuf>,
    /// The page to write
    #[arg(long, default_value = "target/bench/report.html")]
    pub html: PathBuf,
    /// The Markdown table to write (- for standard output)
    #[arg(long, default_value = "-")]
    pub markdown: PathBuf,
    /// Leave out the bars of peers measured elsewhere
    #[arg(long)]
    pub no_peers: bool,
}

/// The subcommand.
pub fn command(options: &Options) -> Result<()> {
    let mut files = options.results.clone();
    if files.is_empty() {
        let folder = std::fs::read_dir("target/bench").context("no results in target/bench")?;
        files.extend(
            folder.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json")),
        );
        files.sort();
    }
    let mut outcomes = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        outcomes.push(serde_json::from_str(&text).with_context(|| format!("in {}", file.display()))?);
    }
    std::fs::write(&options.html, html::page(&outcomes, !options.no_peers))
        .with_context(|| format!("writing {}", options.html.display()))?;
    let table = markdown(&outcomes);
    if options.markdown == Path::new("-") {
        println!("{table}");
    } else {
        std::fs::write(&options.markdown, table)?;
    }
    println!("page in {}", options.html.display());
    Ok(())
}

/// Writes a value as JSON to a file, or to standard output for `-`.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    if path == Path::new("-") {
        println!("{text}");
        return Ok(());
    }
    std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

/// Opens a ledger for appending.
pub fn append_to(path: &Path) -> Result<File> {
    File::options().append(true).create(true).open(path).with_context(|| format!("opening {}", path.display()))
}

/// A Markdown table: a line per load, then a line per figure.
pub fn markdown(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| server | load | messages | CPU us | kernel workers us | accepted/s | end to end/s | anon MiB | flushes \
         | foreign cores |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for outcome in outcomes {
        for load in &outcome.loads {
            text.push_str(&format!(
                "| {} | {} | {} | {:.1} | {:.1} | {:.0} | {:.0} | {:.1} | {:.3} | {:.2} |\n",
                outcome.server,
                load.name,
                load.messages,
                load.cpu_us,
                load.workers_us,
                load.accept_rate,
                load.relay_rate,
                load.anon as f64 / 1_048_576.0,
                load.flushes,
                load.noise_cores
            ));
        }
    }
    text.push_str("\n| row | server | figure | value | bar | |\n| --- | --- | --- | --- | --- | --- |\n");
    for outcome in outcomes {
        for figure in &outcome.figures {
            text.push_str(&format!(
                "| {} | {} | {} | {:.1} {} | {} {:.1} | {} |\n",
                figure.row,
                outcome.server,
                figure.what,
                figure.value,
                figure.unit,
                if figure.at_least { ">=" } else { "<=" },
                figure.bar,
                if figure.passed() { "met" } else { "not met" }
            ));
        }
    }
    text
}
