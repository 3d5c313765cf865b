//! Scenarios about waiting: a critical stream beside saturating bulk, and connections that do nothing.
//!
//! The time from acceptance to the first byte out is taken from two ledgers written on one machine by one clock: when
//! the injector read the 250, and when the sink read the MAIL command of the transaction that carried the message.

use super::bed::{wait_for, Bed};
use super::result::{Figure, Outcome, UNMEASURED};
use super::Options;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// Messages of the critical stream have numbers from here, those of bulk from 1.
const CRITICAL_FROM: u64 = 1_000_000_000_000;

/// Row g.
pub fn latency(options: &Options) -> Result<Outcome> {
    let mut result = Outcome::default();
    let mut worst: f64 = 0.0;
    let mut fewest = u64::MAX;
    for turn in 1..=options.repeat {
        let samples = one_run(options, &mut result)?;
        let p99 = at(&samples, 0.99) as f64 / 1000.0;
        println!(
            "run {turn}: {} samples, accept to first byte out ms: p50 {:.2} p99 {p99:.2} p99.9 {:.2} max {:.2}",
            samples.len(),
            at(&samples, 0.5) as f64 / 1000.0,
            at(&samples, 0.999) as f64 / 1000.0,
            at(&samples, 1.0) as f64 / 1000.0
        );
        worst = worst.max(if samples.is_empty() { UNMEASURED } else { p99 });
        fewest = fewest.min(samples.len() as u64);
    }
    let what = format!("p99 accept to first byte out, worst of {} runs", options.repeat);
    result.figures.push(Figure::at_most("engine.g", &what, worst, "ms", 50.0, None));
    result.figures.push(Figure::at_least("engine.g", "samples in the smallest run", fewest as f64, "", 10_000.0));
    Ok(result)
}

/// Microseconds of every critical message, sorted.
fn one_run(options: &Options, result: &mut Outcome) -> Result<Vec<u64>> {
    let variant =
        if super::adapter::Adapter::load(&options.adapter)?.has_variant("latency") { "latency" } else { "relay" };
    let bed = Bed::new(options, variant, &["--no-tls", "--ledger", "{dir}/sink.ledger"])?;
    result.server = bed.adapter.name.clone();
    result.version = bed.version();
    let seconds = options.seconds.to_string();
    let bulk_seconds = (options.seconds + 4.0).to_string();
    let mut bulk = vec!["--pipelining", "--bdat", "--connections", "50", "--seconds", &bulk_seconds];
    bulk.extend_from_slice(&["--domains", "bulk.test", "--from", "bulk@bench.test"]);
    bulk.extend(bed.adapter.bulk.iter().map(String::as_str));
    let bulk = bed.start_inject("bulk", &bulk)?;
    std::thread::sleep(Duration::from_secs(2));
    let ledger = bed.dir.join("critical.ledger");
    let (first, ledger_path) = (CRITICAL_FROM.to_string(), ledger.display().to_string());
    let mut critical = vec!["--pipelining", "--bdat", "--connections", "8", "--rate", "50", "--seconds", &seconds];
    critical.extend_from_slice(&["--domains", "critical.test", "--from", "critical@bench.test", "--first-id", &first]);
    critical.extend_from_slice(&["--ledger", &ledger_path]);
    critical.extend(bed.adapter.critical.iter().map(String::as_str));
    let report = bed.inject("critical", &critical)?;
    let bulk = bulk.wait()?;
    println!(
        "critical: accepted {} (p99 of accepting {:.1} ms); bulk beside it: accepted {} at {:.0}/s",
        report.accepted,
        report.latency.p99 as f64 / 1000.0,
        bulk.accepted,
        bulk.rate
    );
    let sink = bed.dir.join("sink.ledger");
    let _ = wait_for(Duration::from_secs(20), || {
        arrivals(&sink).is_ok_and(|arrived| arrived.len() as u64 >= report.accepted)
    });
    let arrived = arrivals(&sink)?;
    let mut samples = Vec::new();
    for (id, accepted_us) in accepted(&ledger)? {
        match arrived.get(&id) {
            Some(out_us) => samples.push(out_us.saturating_sub(accepted_us)),
            None => result.notes.push(format!("critical message {id} never left")),
        }
    }
    samples.sort_unstable();
    Ok(samples)
}

fn accepted(ledger: &Path) -> Result<Vec<(u64, u64)>> {
    let text = std::fs::read_to_string(ledger).context("the injector's ledger")?;
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (id, code, us) = (words.next()?, words.next()?, words.next()?);
        (code == "250").then_some((id.parse().ok()?, us.parse().ok()?))
    };
    Ok(text.lines().filter_map(line).collect())
}

fn arrivals(ledger: &Path) -> Result<HashMap<u64, u64>> {
    let text = std::fs::read_to_string(ledger).context("the sink's ledger")?;
    let line = |line: &str| {
        let mut words = line.split(' ');
        let id = words.next()?.parse().ok().filter(|id| *id >= CRITICAL_FROM)?;
        Some((id, words.nth(5)?.parse().ok()?))
    };
    Ok(text.lines().filter_map(line).collect())
}

fn at(sorted: &[u64], share: f64) -> u64 {
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(index.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0)
}

/// Row k, its inbound half: idle connections after STARTTLS and EHLO.
pub fn idle(options: &Options) -> Result<Outcome> {
    let bed = Bed::new(options, "relay", &["--no-tls"])?;
    let mut result = Outcome { server: bed.adapter.name.clone(), version: bed.version(), ..Outcome::default() };
    bed.inject("warm", &["--messages", "500"])?;
    let before = bed.read()?;
    let (held, tls) = crate::inject::hold(&bed.smtp(), 10_000)?;
    std::thread::sleep(Duration::from_secs(1));
    let after = bed.read()?;
    let each = (after.anon as f64 - before.anon as f64) / 1024.0 / (held.count() as f64).max(1.0);
    if !tls {
        result.notes.push("the server offers no STARTTLS here: connections are held in plain".to_owned());
    }
    let what = "anonymous memory per idle inbound connection";
    result.figures.push(Figure::at_most("engine.k", what, each, "KiB", 20.0, None));
    result.figures.push(Figure::at_least("engine.k", "connections held", held.count() as f64, "", 10_000.0));
    result.notes.push("20,000 idle outbound connections are not covered by this scenario".to_owned());
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_samples() {
        let samples: Vec<u64> = (1..=1000).collect();
        assert_eq!((at(&samples, 0.5), at(&samples, 0.99), at(&samples, 1.0)), (500, 990, 1000));
        assert_eq!(at(&[], 0.99), 0);
    }
}
