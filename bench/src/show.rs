//! `ringbench show`: the rows of the specification, and the proof of one.
//!
//! `bench/SPECIFICATION.md` is the one source; this reads its table and runs the command of a row in a shell.

use crate::run::machine;
use anyhow::{bail, Context, Result};
use clap::Args;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Command line of `ringbench show`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Row, such as engine.a; without it all rows are listed
    pub row: Option<String>,
    /// The specification
    #[arg(long, default_value = "bench/SPECIFICATION.md")]
    pub specification: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    id: String,
    promise: String,
    bar: String,
    command: String,
    status: String,
}

/// The subcommand.
pub fn command(options: &Options) -> Result<()> {
    let text = std::fs::read_to_string(&options.specification)
        .with_context(|| format!("reading {} (run from the top of the tree)", options.specification.display()))?;
    let rows = rows(&text);
    let Some(id) = &options.row else {
        for row in &rows {
            println!(
                "{:9} [{}] {}\n          bar: {}\n          {}",
                row.id, row.status, row.promise, row.bar, row.command
            );
        }
        return Ok(());
    };
    let row = rows.iter().find(|row| &row.id == id).with_context(|| format!("no row {id}"))?;
    println!(
        "commit  {}\nmachine {}\nload    {}\ncommand {}\n",
        machine::commit(),
        machine::line(),
        row.promise,
        row.command
    );
    let (met, last) = run(&row.command)?;
    println!("\nfigure  {last}\nbar     {}: {}", row.bar, if met { "met" } else { "NOT MET" });
    if !met {
        bail!("{id} is not met");
    }
    Ok(())
}

/// Runs a command, passing its output on; says whether it succeeded, and its last line.
fn run(command: &str) -> Result<(bool, String)> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .env("RINGBENCH", std::env::current_exe()?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the command")?;
    let mut last = String::new();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        println!("{line}");
        if !line.trim().is_empty() {
            last = line;
        }
    }
    Ok((child.wait()?.success(), last))
}

/// The rows of the first table whose first column is `id`.
fn rows(text: &str) -> Vec<Row> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        let cells = cells(line);
        match cells.as_slice() {
            [id, promise, bar, command, status] if inside => {
                if !id.starts_with("---") {
                    found.push(Row {
                        id: id.clone(),
                        promise: promise.clone(),
                        bar: bar.clone(),
                        command: command.trim_matches('`').to_owned(),
                        status: status.clone(),
                    });
                }
            }
            [id, ..] if id == "id" => inside = true,
            _ => inside = false,
        }
    }
    found
}

/// The cells of a table line; `\|` is a bar inside a cell.
fn cells(line: &str) -> Vec<String> {
    let Some(inner) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else { return Vec::new() };
    inner.replace("\\|", "\u{0}").split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_specification_has_every_row() {
        let text = include_str!("../SPECIFICATION.md");
        let ids: Vec<String> = rows(text).into_iter().map(|row| row.id).collect();
        let want: Vec<String> = ('a'..='o').map(|letter| format!("engine.{letter}")).collect();
        assert_eq!(ids, want);
        assert!(rows(text).iter().all(|row| ["measured", "pending"].contains(&row.status.as_str())));
        assert!(rows(text).iter().all(|row| !row.command.is_empty() && !row.bar.is_empty()));
    }

    #[test]
    fn bars_in_cells() {
        let text =
            "| id | promise | bar | command | status |\n|---|---|---|---|---|\n| x | p | b | `a \\| b` | pending |\n";
        assert_eq!(rows(text)[0].command, "a | b");
    }

    #[test]
    fn last_line_and_exit_code_are_told() {
        assert_eq!(run("echo a; echo 42 us; echo").unwrap(), (true, "42 us".to_owned()));
        assert!(!run("false").unwrap().0);
    }
}
