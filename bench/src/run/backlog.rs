//! Scenarios about a queue that does not empty: memory per queued recipient and per queue name, accept rate on top of
//! it, and the restart.

use super::bed::Bed;
use super::result::{measure, Figure, Load, Outcome, UNMEASURED};
use super::Options;
use anyhow::Result;
use std::time::{Duration, Instant};

const SINK: [&str; 3] = ["--no-tls", "--mode", "defer"];

struct Filled {
    bytes_each: f64,
    rate_kept: f64,
    greeting: f64,
    scheduled: Option<f64>,
    loads: Vec<Load>,
}

/// Row e: single-recipient messages of 512 bytes, and messages of 1,000 recipients.
pub fn backlog(options: &Options) -> Result<Outcome> {
    let mut result = Outcome::default();
    let limit = if options.recipients > 2_000_000 { 60.0 } else { 10.0 };
    for (load, name, rcpts) in [(1, "512 B, 1 recipient", 1u64), (2, "512 B, 1000 recipients", 1000)] {
        if options.load.is_some_and(|only| only != load) {
            continue;
        }
        let mut bed = Bed::new(options, backlog_variant(options)?, &SINK)?;
        result.server = bed.adapter.name.clone();
        result.version = bed.version();
        let filled = fill_and_restart(&mut bed, options, name, rcpts, &["--domains", "deferring.test"])?;
        let mut figure = |what: &str, value: f64, unit: &str, bar: f64| {
            result.figures.push(Figure::at_most("engine.e", &format!("{what} ({name})"), value, unit, bar, None));
        };
        figure("anonymous memory per queued recipient", filled.bytes_each, "bytes", 100.0);
        figure("restart to accepting", filled.greeting, "s", 2.0);
        match filled.scheduled {
            Some(seconds) => figure("restart to all scheduled", seconds, "s", limit),
            None => result
                .notes
                .push(format!("{name}: the adapter tells no queue length; scheduling after restart unmeasured")),
        }
        let what = format!("accept rate with {} queued, as share of empty ({name})", options.recipients);
        result.figures.push(Figure::at_least("engine.e", &what, filled.rate_kept, "", 0.9));
        result.loads.extend(filled.loads);
    }
    Ok(result)
}

/// Row f: a queue name per recipient, against one name for all.
pub fn names(options: &Options) -> Result<Outcome> {
    let mut result = Outcome::default();
    let count = options.recipients.to_string();
    let mut grown = Vec::new();
    for (name, extra) in [
        ("one name", vec!["--domains", "deferring.test"]),
        ("a name each", vec!["--domains", "deferring.test", "--domain-count", &count]),
    ] {
        let bed = Bed::new(options, backlog_variant(options)?, &SINK)?;
        result.server = bed.adapter.name.clone();
        result.version = bed.version();
        let load = fill(&bed, options.recipients, 1, name, &extra)?;
        grown.push(load.anon_growth as f64 / load.messages.max(1) as f64);
        result.loads.push(load);
    }
    let each = grown.get(1).copied().unwrap_or(UNMEASURED) - grown.first().copied().unwrap_or(UNMEASURED);
    let what = format!("anonymous memory a queue name adds ({count} names)");
    result.figures.push(Figure::at_most("engine.f", &what, each, "bytes", 150.0, None));
    Ok(result)
}

fn backlog_variant(options: &Options) -> Result<&'static str> {
    Ok(if super::adapter::Adapter::load(&options.adapter)?.has_variant("backlog") { "backlog" } else { "relay" })
}

fn arguments<'a>(messages: &'a str, rcpts: &'a str, extra: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["--pipelining", "--bdat", "--connections", "50", "--size", "512"];
    all.extend_from_slice(&["--messages", messages, "--rcpts", rcpts]);
    all.extend_from_slice(extra);
    all
}

fn fill(bed: &Bed, recipients: u64, rcpts: u64, name: &str, extra: &[&str]) -> Result<Load> {
    let messages = (recipients / rcpts).max(1).to_string();
    let rcpts = rcpts.to_string();
    measure(bed, name, false, || Ok(bed.inject("fill", &arguments(&messages, &rcpts, extra))?.into()))
}

fn fill_and_restart(bed: &mut Bed, options: &Options, name: &str, rcpts: u64, extra: &[&str]) -> Result<Filled> {
    // The first load warms up (buffers, connections, caches are no queue) and gives the rate of an empty queue.
    let probe = (options.recipients / 50).clamp(rcpts * 20, 50_000.max(rcpts * 20));
    fill(bed, probe, rcpts, &format!("{name}, warm-up"), extra)?;
    let empty = fill(bed, probe, rcpts, &format!("{name}, empty queue"), extra)?;
    let full = fill(bed, options.recipients, rcpts, &format!("{name}, filling"), extra)?;
    let on_top = fill(bed, probe, rcpts, &format!("{name}, on top"), extra)?;
    let queued = full.messages * rcpts + on_top.messages * rcpts + empty.messages * rcpts;
    bed.stop_server();
    let words = bed.scheduled_words();
    let began = Instant::now();
    let greeting = bed.start_server()?;
    println!("{name}: accepting {greeting:.2} s after restart");
    let scheduled = wait_scheduled(bed, queued, words, began);
    Ok(Filled {
        bytes_each: full.anon_growth as f64 / (full.messages * rcpts).max(1) as f64,
        rate_kept: on_top.accept_rate / empty.accept_rate.max(1e-9),
        greeting,
        scheduled,
        loads: vec![empty, full, on_top],
    })
}

/// Seconds from `began` until everything is scheduled again: by the queue length the server tells, or else by one more
/// mention in its log per start (`words` counts those of the first start). `None` when the adapter knows neither.
fn wait_scheduled(bed: &Bed, queued: u64, words: Option<usize>, began: Instant) -> Option<f64> {
    let by_length = bed.queued().is_some();
    let done = || match words {
        _ if by_length => bed.queued().unwrap_or(0) >= queued,
        Some(before) => bed.scheduled_words().unwrap_or(0) >= 2 * before.max(1),
        None => true,
    };
    if !by_length && words.is_none() {
        return None;
    }
    while began.elapsed() < Duration::from_secs(300) {
        if done() {
            return Some(began.elapsed().as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(UNMEASURED)
}
