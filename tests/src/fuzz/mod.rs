//! Fuzz programs: plain functions of bytes, run by seed with the ordinary toolchain.
//!
//! A case is a string of bytes. The target draws everything it decides from them through a [`Source`], so that the
//! bytes alone reproduce a finding: they are printed as hex, shrunk, and kept in `tests/fuzz-corpus/<target>/*.bin`,
//! which `cargo test` replays. A target says what must hold by returning an error or by panicking; both are findings.
//!
//! With `FUZZ_TRACE` in the environment the two sessions print their dialogs; with `FUZZ_LOUD`, panics print theirs.
//!
//! Nothing here reads a clock or draws a random number but [`campaign`], which counts its time.

mod ack;
mod client_replies;
mod client_site;
mod config;
mod dns;
mod dsn;
mod events;
mod headers;
mod platter;
mod proxy;
mod records;
mod recovery;
mod sasl;
mod server_commands;
mod site;
mod source;
mod wheel;

use std::fmt::Write as _;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use source::{Dice, Source};

/// What a target found wrong, in words.
pub type Verdict = Result<(), String>;

/// One fuzz program.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name on the command line and its folder in the corpus.
    pub name: &'static str,
    /// What must hold.
    pub about: &'static str,
    /// Plays one case.
    pub run: fn(&mut Source<'_>) -> Verdict,
    /// Most bytes of a case.
    pub longest: usize,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "server-commands",
        about: "a server session answers every command once, well-formed, however bytes arrive",
        run: server_commands::run,
        longest: 4096,
    },
    Target {
        name: "client-replies",
        about: "a client session ends every transaction truthfully, whatever the site says",
        run: client_replies::run,
        longest: 2048,
    },
    Target {
        name: "records",
        about: "damaged records, batches, footers, superblocks and envelopes are refused or read as written",
        run: records::run,
        longest: 1024,
    },
    Target {
        name: "recovery",
        about: "a damaged spool opens, and every undamaged message comes back",
        run: recovery::run,
        longest: 256,
    },
    Target { name: "ack", about: "a damaged ack log is reported, never believed", run: ack::run, longest: 512 },
    Target {
        name: "headers",
        about: "header scan, hygiene, steering, acceptance and conversion take any bytes and keep the content",
        run: headers::run,
        longest: 4096,
    },
    Target {
        name: "wheel",
        about: "the backlog gives out what a plain list would, when it would",
        run: wheel::run,
        longest: 2048,
    },
    Target {
        name: "dns",
        about: "any set of answers leads to a route or a true refusal",
        run: dns::run,
        longest: 1024,
    },
    Target {
        name: "sasl",
        about: "login messages are parsed or refused; no wrong secret gets in",
        run: sasl::run,
        longest: 1024,
    },
    Target {
        name: "config",
        about: "a bad configuration is refused with the setting or the line that is wrong",
        run: config::run,
        longest: 1024,
    },
    Target {
        name: "proxy",
        about: "PROXY headers are read, awaited or refused, never guessed",
        run: proxy::run,
        longest: 512,
    },
    Target { name: "dsn", about: "every report is a well-formed multipart/report", run: dsn::run, longest: 2048 },
    Target {
        name: "events",
        about: "an event survives its line; any other line is refused",
        run: events::run,
        longest: 1024,
    },
];

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// A case that went wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which target.
    pub target: &'static str,
    /// The seed that made the case; none for a case from a file.
    pub seed: Option<u64>,
    /// The case.
    pub input: Vec<u8>,
    /// What was wrong.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seed = self.seed.map_or(String::new(), |seed| format!(", seed {seed}"));
        write!(f, "{}{seed}: {}\n  input {}", self.target, self.what, hex(&self.input))
    }
}

/// What a campaign came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Cases played.
    pub cases: u64,
    /// The first finding, which ends a campaign.
    pub finding: Option<Finding>,
}

/// The case that belongs to a seed.
#[must_use]
pub fn case(target: &Target, seed: u64) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    // Most cases are short; a few use all the length there is.
    let most = target.longest >> dice.below(5);
    let len = 1 + dice.below(most.max(1) as u64) as usize;
    (0..len).map(|_| dice.next() as u8).collect()
}

/// Plays cases from `seed` on until the time is over or one goes wrong; at least one. A finding is shrunk.
#[must_use]
pub fn campaign(target: &'static Target, seed: u64, time: Duration) -> Outcome {
    let start = Instant::now();
    let mut outcome = Outcome::default();
    loop {
        let number = seed.wrapping_add(outcome.cases);
        let input = case(target, number);
        outcome.cases += 1;
        if let Err(what) = play(target, &input) {
            let (input, what) = shrink(target, input, what);
            outcome.finding = Some(Finding { target: target.name, seed: Some(number), input, what });
            return outcome;
        }
        if start.elapsed() >= time {
            return outcome;
        }
    }
}

/// Plays one case. A panic is a verdict, too.
pub fn play(target: &Target, input: &[u8]) -> Verdict {
    quiet_panics();
    let began = Instant::now();
    let mut source = Source::new(input);
    let verdict = catch_unwind(AssertUnwindSafe(|| (target.run)(&mut source)));
    let verdict = verdict.unwrap_or_else(|_| Err(format!("panicked: {}", last_panic())));
    match verdict {
        Ok(()) if began.elapsed() > SLOWEST => Err(format!("took {:.1} s", began.elapsed().as_secs_f32())),
        verdict => verdict,
    }
}

/// A case that takes longer than this does work that no input of its size may cause.
const SLOWEST: Duration = Duration::from_secs(20);

/// Replays the kept cases of a target; gives the number played and what went wrong.
#[must_use]
pub fn replay(target: &'static Target, corpus: &Path) -> (usize, Vec<Finding>) {
    let files = kept(target, corpus);
    let mut findings = Vec::new();
    for file in &files {
        let input = std::fs::read(file).unwrap_or_default();
        if let Err(what) = play(target, &input) {
            let what = format!("{}: {what}", file.display());
            findings.push(Finding { target: target.name, seed: None, input, what });
        }
    }
    (files.len(), findings)
}

/// The files of a target in the corpus.
#[must_use]
pub fn kept(target: &Target, corpus: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(corpus.join(target.name)) else { return Vec::new() };
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "bin"));
    files.sort();
    files
}

/// Makes a failing case shorter while it still fails; bounded in tries and time.
fn shrink(target: &Target, mut input: Vec<u8>, mut what: String) -> (Vec<u8>, String) {
    let start = Instant::now();
    let mut size = input.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < input.len() && start.elapsed() < Duration::from_secs(10) {
            let end = (at + size).min(input.len());
            let shorter = [&input[..at], &input[end..]].concat();
            match play(target, &shorter) {
                Err(still) => (input, what) = (shorter, still),
                Ok(()) => at = end,
            }
        }
        size /= 2;
    }
    (input, what)
}

static PANIC: Mutex<String> = Mutex::new(String::new());

/// Keeps the words of a panic instead of printing them; once for the process.
fn quiet_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
            if std::env::var_os("FUZZ_LOUD").is_some() {
                usual(info);
            }
        }));
    });
}

fn last_panic() -> String {
    PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Bytes as hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads hex digits back.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Fails with words when a condition does not hold.
pub(crate) fn must(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds {
        Ok(())
    } else {
        Err(what())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds_a_seven(source: &mut Source<'_>) -> Verdict {
        while !source.is_empty() {
            must(source.byte() != 7, || "a seven".to_owned())?;
        }
        Ok(())
    }

    fn panics_at_nine(source: &mut Source<'_>) -> Verdict {
        assert!(source.byte() != 9, "a nine");
        Ok(())
    }

    const SEVEN: Target = Target { name: "seven", about: "", run: finds_a_seven, longest: 4096 };
    const NINE: Target = Target { name: "nine", about: "", run: panics_at_nine, longest: 8 };

    #[test]
    fn a_finding_is_shrunk_and_reproduces() {
        let outcome = campaign(&SEVEN, 0, Duration::from_secs(60));
        let finding = outcome.finding.expect("a seven is found");
        assert_eq!(finding.input, [7]);
        assert!(play(&SEVEN, &case(&SEVEN, finding.seed.unwrap())).is_err());
        assert_eq!(unhex(&hex(&finding.input)), Some(finding.input));
    }

    #[test]
    fn a_panic_is_a_finding() {
        let verdict = play(&NINE, &[9]);
        assert!(verdict.unwrap_err().contains("a nine"));
        assert_eq!(play(&NINE, &[8]), Ok(()));
    }
}
