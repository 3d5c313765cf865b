//! `fuzz NAME|all [--seed N] [--seconds S] [--jobs J]`: plays cases until the time is over or one goes wrong.
//!
//! A finding is printed with its seed and its input as hex, kept under `tests/fuzz-corpus/NAME/` with `--keep`, and
//! makes the exit status 1. `fuzz NAME --seed N --seconds 0` plays the one case of that seed; `--input HEX` or
//! `--file PATH` plays that one. `fuzz list` says what each target proves.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use clap::Parser;
use harness::fuzz::{campaign, kept, play, replay, target, unhex, Finding, Outcome, Target, TARGETS};

#[derive(Parser)]
#[command(about = "Play random cases against one part of the server, or against all")]
struct Arguments {
    /// A target's name, `all`, or `list`.
    name: String,
    /// First seed; without it the time of day.
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Targets played at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Play this case only, hex digits.
    #[arg(long)]
    input: Option<String>,
    /// Play this case only, from a file.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Write a finding to the corpus.
    #[arg(long)]
    keep: bool,
    /// The corpus.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz-corpus"))]
    corpus: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.name == "list" {
        for target in TARGETS {
            println!("{:16} {} ({} kept cases)", target.name, target.about, kept(target, &arguments.corpus).len());
        }
        return ExitCode::SUCCESS;
    }
    let chosen: Vec<&'static Target> = match (arguments.name.as_str(), target(&arguments.name)) {
        ("all", _) => TARGETS.iter().collect(),
        (_, Some(one)) => vec![one],
        (name, None) => {
            eprintln!("no target {name}: `fuzz list` names them");
            return ExitCode::from(2);
        }
    };
    match one_case(&arguments) {
        Ok(None) => campaigns(&arguments, &chosen),
        Ok(Some(input)) => {
            let verdicts = chosen.iter().map(|target| (target.name, play(target, &input)));
            let failed = verdicts.filter_map(|(name, verdict)| Some((name, verdict.err()?)));
            let failed: Vec<_> = failed.inspect(|(name, what)| println!("{name}: {what}")).collect();
            ExitCode::from(u8::from(!failed.is_empty()))
        }
        Err(what) => {
            eprintln!("{what}");
            ExitCode::from(2)
        }
    }
}

fn one_case(arguments: &Arguments) -> Result<Option<Vec<u8>>, String> {
    match (&arguments.input, &arguments.file) {
        (Some(text), _) => unhex(text).map(Some).ok_or_else(|| "--input takes hex digits".to_owned()),
        (None, Some(file)) => std::fs::read(file).map(Some).map_err(|error| format!("{}: {error}", file.display())),
        (None, None) => Ok(None),
    }
}

fn campaigns(arguments: &Arguments, chosen: &[&'static Target]) -> ExitCode {
    let time_of_day = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |time| time.as_secs());
    let seed = arguments.seed.unwrap_or(time_of_day.wrapping_mul(1_000_000_007));
    let time = Duration::try_from_secs_f64(arguments.seconds).unwrap_or_default();
    println!("{} targets, {} s each, from seed {seed}", chosen.len(), arguments.seconds);
    let (next, failed, played) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
    let work = || {
        while let Some(target) = chosen.get(next.fetch_add(1, Ordering::SeqCst)) {
            let (replayed, mut findings) = replay(target, &arguments.corpus);
            let Outcome { cases, finding } = campaign(target, seed, time);
            findings.extend(finding);
            let word = if findings.is_empty() { "ok" } else { "FOUND" };
            println!("{:16} {cases:>9} cases, {replayed:>3} kept   {word}", target.name);
            for finding in &findings {
                println!("{finding}");
                if arguments.keep && finding.seed.is_some() {
                    keep(&arguments.corpus, finding);
                }
            }
            failed.fetch_add(findings.len(), Ordering::SeqCst);
            played.fetch_add(cases, Ordering::SeqCst);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.clamp(1, 64) {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner();
    println!("{} cases, {failed} findings", played.into_inner());
    ExitCode::from(u8::from(failed > 0))
}

fn keep(corpus: &Path, finding: &Finding) {
    let folder = corpus.join(finding.target);
    let file = folder.join(format!("seed-{}.bin", finding.seed.unwrap_or(0)));
    let kept = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, &finding.input));
    match kept {
        Ok(()) => println!("  kept as {}", file.display()),
        Err(error) => eprintln!("  {}: {error}", file.display()),
    }
}
