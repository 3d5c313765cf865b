//! `peers`: real clients into Ringpost, Ringpost into real servers. Prints a row for each pair; exit status 1 when one
//! failed or could not be played.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use harness::peers::{run, Options, Verdict};

#[derive(Parser)]
#[command(about = "Play the matrix of real clients and servers")]
struct Arguments {
    /// The binary under test; without it the one beside this program.
    #[arg(long)]
    ringpost: Option<PathBuf>,
    /// Where packages are unpacked.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers"))]
    packages: PathBuf,
    /// Only pairs whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Pairs whose program can't be fetched are no failure.
    #[arg(long)]
    allow_missing: bool,
    /// Keep the folder of the run.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name("ringpost"));
    let Some(ringpost) = arguments.ringpost.or(beside).filter(|path| path.exists()) else {
        eprintln!("no ringpost binary: cargo build -p ringpost-mta, or --ringpost PATH");
        return ExitCode::from(2);
    };
    let options = Options { ringpost, packages: arguments.packages, only: arguments.only, keep: arguments.keep };
    let rows = match run(&options, &mut |row| println!("{row}")) {
        Ok(rows) => rows,
        Err(error) => {
            eprintln!("peers: {error:#}");
            return ExitCode::from(2);
        }
    };
    let bad = rows.iter().filter(|row| match row.verdict {
        Verdict::Exact(_) => false,
        Verdict::Failed(_) => true,
        Verdict::Missing(_) => !arguments.allow_missing,
    });
    let bad = bad.count();
    println!("{} pairs, {bad} not as they should be", rows.len());
    ExitCode::from(u8::from(bad > 0 || rows.is_empty()))
}
