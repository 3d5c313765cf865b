//! Scenarios in which mail goes through: relay, accept only, DKIM, large messages, many recipients.

use super::bed::Bed;
use super::result::{measure, median, Figure, Load, Outcome, Sent, UNMEASURED};
use super::{key, raw, strace, Options};
use anyhow::{Context, Result};
use std::time::Duration;

/// Arguments of our injector for load 2: grouped commands, chunks, kept connections.
const FAST: [&str; 4] = ["--pipelining", "--bdat", "--connections", "50"];
/// The sink of load 1 offers what smtp-sink offers.
const PLAIN_SINK: [&str; 2] = ["--no-chunking", "--no-tls"];
const FAST_SINK: [&str; 1] = ["--no-tls"];

fn outcome(bed: &Bed) -> Outcome {
    Outcome { server: bed.adapter.name.clone(), version: bed.version(), ..Outcome::default() }
}

fn wanted(options: &Options, load: u32) -> bool {
    options.load.is_none_or(|only| only == load)
}

fn fast<'a>(count: &'a str, size: &'a str) -> Vec<&'a str> {
    let mut arguments = FAST.to_vec();
    arguments.extend_from_slice(&["--messages", count, "--size", size]);
    arguments
}

/// Repeats a load of our injector after a warm-up, and keeps every repetition.
fn repeat_fast(bed: &Bed, options: &Options, name: &str, size: &str, relayed: bool) -> Result<Vec<Load>> {
    let warm = (options.messages / 10).max(200).to_string();
    let count = options.messages.to_string();
    measure(bed, &format!("{name} (warm-up)"), relayed, || Ok(bed.inject("warm", &fast(&warm, size))?.into()))?;
    (1..=options.repeat)
        .map(|turn| {
            measure(bed, &format!("{name} {turn}/{}", options.repeat), relayed, || {
                Ok(bed.inject("fast", &fast(&count, size))?.into())
            })
        })
        .collect()
}

fn repeat_source(bed: &Bed, options: &Options, name: &str, relayed: bool) -> Result<Vec<Load>> {
    let send = |messages: u64| {
        let seconds = bed.smtp_source(messages, 4096)?;
        Ok(Sent { accepted: messages, seconds, report: None })
    };
    measure(bed, &format!("{name} (warm-up)"), relayed, || send((options.messages / 10).max(200)))?;
    (1..=options.repeat)
        .map(|turn| measure(bed, &format!("{name} {turn}/{}", options.repeat), relayed, || send(options.messages)))
        .collect()
}

fn system_calls(bed: &Bed, options: &Options, loads: &mut [Load], fast_load: bool, relayed: bool) -> Result<()> {
    if !options.strace {
        return Ok(());
    }
    let count = (options.messages / 10).max(200);
    let calls = strace::per_message(bed, || {
        let before = bed.sink_messages()?;
        if fast_load {
            bed.inject("strace", &fast(&count.to_string(), "4096"))?;
        } else {
            bed.smtp_source(count, 4096)?;
        }
        if relayed {
            bed.wait_sink(before + count, Duration::from_secs(20))?;
        }
        Ok(count)
    })?;
    for load in loads {
        load.syscalls = Some(calls);
    }
    println!("system calls per message: {calls:.1}");
    Ok(())
}

/// Row a.
pub fn relay(options: &Options) -> Result<Outcome> {
    let mut result = Outcome::default();
    if wanted(options, 1) {
        let bed = Bed::new(options, "relay", &PLAIN_SINK)?;
        result = outcome(&bed);
        let mut loads = repeat_source(&bed, options, "smtp-source", true)?;
        system_calls(&bed, options, &mut loads, false, true)?;
        let figure = median(&loads).map_or(UNMEASURED, Load::all_cpu_us);
        let what = "CPU per relayed message, smtp-source, with kernel workers";
        result.figures.push(Figure::at_most("engine.a.1", what, figure, "us", 80.0, Some(45.0)));
        result.loads.append(&mut loads);
    }
    if wanted(options, 2) {
        let bed = Bed::new(options, "relay", &FAST_SINK)?;
        let (figures, earlier) = (std::mem::take(&mut result.figures), std::mem::take(&mut result.loads));
        result = Outcome { figures, loads: earlier, ..outcome(&bed) };
        let mut loads = repeat_fast(&bed, options, "PIPELINING+CHUNKING", "4096", true)?;
        system_calls(&bed, options, &mut loads, true, true)?;
        let figure = median(&loads).map_or(UNMEASURED, Load::all_cpu_us);
        let what = "CPU per relayed message, PIPELINING and CHUNKING, with kernel workers";
        result.figures.push(Figure::at_most("engine.a.2", what, figure, "us", 60.0, Some(30.0)));
        result.loads.append(&mut loads);
    }
    check_counts(&mut result, true);
    Ok(result)
}

/// Row b.
pub fn accept_only(options: &Options) -> Result<Outcome> {
    let bed = Bed::new(options, "accept", &FAST_SINK)?;
    let mut result = outcome(&bed);
    if wanted(options, 1) {
        let mut loads = repeat_source(&bed, options, "smtp-source, held", false)?;
        system_calls(&bed, options, &mut loads, false, false)?;
        let figure = median(&loads).map_or(UNMEASURED, Load::all_cpu_us);
        let what = "CPU per accepted message, smtp-source, with kernel workers";
        result.figures.push(Figure::at_most("engine.b.1", what, figure, "us", 45.0, Some(25.0)));
        result.loads.append(&mut loads);
    }
    if wanted(options, 2) {
        let mut loads = repeat_fast(&bed, options, "PIPELINING+CHUNKING, held", "4096", false)?;
        system_calls(&bed, options, &mut loads, true, false)?;
        let figure = median(&loads).map_or(UNMEASURED, Load::all_cpu_us);
        let what = "CPU per accepted message, PIPELINING and CHUNKING, with kernel workers";
        result.figures.push(Figure::at_most("engine.b.2", what, figure, "us", 25.0, Some(12.0)));
        result.loads.append(&mut loads);
    }
    if !options.smtp_sink && bed.sink_messages()? > 0 {
        result.notes.push("mail left although the queue was to be held".to_owned());
    }
    check_counts(&mut result, false);
    Ok(result)
}

/// Row c: what a signature adds, against what the library alone needs in the same run on the same core.
pub fn dkim(options: &Options) -> Result<Outcome> {
    let plain = {
        let bed = Bed::new(options, "relay", &FAST_SINK)?;
        repeat_fast(&bed, options, "unsigned", "4096", true)?
    };
    let bed = Bed::new(options, "dkim", &FAST_SINK)?;
    let mut result = outcome(&bed);
    let template =
        crate::message::Template::new(4096, false, false, &super::machine::date(), "sender@bench.test", "x@y.test");
    let mut message = Vec::new();
    template.write_head(1, &mut message);
    message.extend_from_slice(&template.plain);
    let library = key::signing_time_us(&bed.dir, &options.mta_cores, &message)?;
    println!("library signing time of this message on cores {}: {library:.1} us", options.mta_cores);
    let signed = repeat_fast(&bed, options, "signed", "4096", true)?;
    let cpu = |loads: &[Load]| median(loads).map_or(UNMEASURED, Load::all_cpu_us);
    let added = cpu(&signed) - cpu(&plain);
    let what =
        format!("CPU a signature adds ({:.1} us signed); bar is 1.1 x the library's {library:.1} us", cpu(&signed));
    result.figures.push(Figure::at_most("engine.c", &what, added, "us", 1.1 * library, None));
    drop(bed);
    result.figures.push(signatures_verify(options)?);
    result.loads.extend(plain);
    result.loads.extend(signed);
    check_counts(&mut result, true);
    Ok(result)
}

/// A small load of its own, because verifying would slow the sink.
fn signatures_verify(options: &Options) -> Result<Figure> {
    let bed = Bed::new(options, "dkim", &["--no-tls", "--dkim-keys", "{dkim_keys}"])?;
    let report = bed.inject("verify", &fast("500", "4096"))?;
    bed.wait_sink(report.accepted, Duration::from_secs(20))?;
    let stats = bed.sink_stats()?;
    let share = stats.dkim_pass as f64 / report.accepted.max(1) as f64;
    Ok(Figure::at_least("engine.c", "share of messages whose signature verifies at the sink", share, "", 1.0))
}

/// Row d.
pub fn large(options: &Options) -> Result<Outcome> {
    const SIZE: usize = 102_400;
    let options = Options { messages: (options.messages / 5).max(100), ..options.clone() };
    let base = raw::measure_baseline(&options, SIZE)?;
    println!("baseline: {:.1} us per {SIZE} bytes moved and made durable, {:.0}/s", base.cpu_us, base.rate);
    let bed = Bed::new(&options, "relay", &FAST_SINK)?;
    let mut result = outcome(&bed);
    let loads = repeat_fast(&bed, &options, "100 KB", &SIZE.to_string(), true)?;
    let figure = median(&loads).map_or(UNMEASURED, Load::all_cpu_us);
    let what = format!("CPU per 100 KB message; bar is 2 x the {:.1} us of moving the bytes", base.cpu_us);
    result.figures.push(Figure::at_most("engine.d", &what, figure, "us", 2.0 * base.cpu_us, None));
    result.loads = loads;
    check_counts(&mut result, true);
    Ok(result)
}

/// Row m: transactions are counted at the sink, by its ledger.
pub fn many_recipients(options: &Options) -> Result<Outcome> {
    let ledger = std::env::current_dir()?.join(format!("target/bench/ledger-{}", std::process::id()));
    if let Some(folder) = ledger.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let _ = std::fs::remove_file(&ledger);
    let bed = Bed::new(options, "relay", &["--no-tls", "--ledger", &ledger.display().to_string()])?;
    let mut result = outcome(&bed);
    let arguments = ["--messages", "1", "--connections", "1", "--rcpts", "1000", "--domains", "a.test,b.test,c.test"];
    let before = bed.read()?;
    let report = bed.inject("rcpts", &arguments)?;
    anyhow::ensure!(report.recipients == 1000, "only {} recipients were accepted", report.recipients);
    let arrived =
        super::bed::wait_for(Duration::from_secs(30), || bed.sink_stats().is_ok_and(|stats| stats.recipients >= 1000));
    std::thread::sleep(Duration::from_millis(500));
    let after = bed.read()?;
    let text = std::fs::read_to_string(&ledger).context("the sink's ledger")?;
    let _ = std::fs::remove_file(&ledger);
    let recipients: std::collections::BTreeSet<&str> = text.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    let transactions: std::collections::BTreeSet<(&str, &str)> =
        text.lines().filter_map(|line| Some((line.split(' ').nth(4)?, line.split(' ').nth(5)?))).collect();
    if arrived.is_err() {
        result.notes.push("not all recipients arrived".to_owned());
    }
    let lines = text.lines().count() as f64;
    result.figures = vec![
        Figure::at_least("engine.m", "different recipients at the sink", recipients.len() as f64, "", 1000.0),
        Figure::at_most("engine.m", "recipients at the sink, repetitions counted", lines, "", 1000.0, None),
        Figure::at_most("engine.m", "transactions to the site", transactions.len() as f64, "", 10.0, None),
    ];
    result.notes.push(format!("bytes read by the server from files and sockets: {}", after.read - before.read));
    Ok(result)
}

/// Everything accepted must have arrived, exactly.
fn check_counts(result: &mut Outcome, relayed: bool) {
    for load in &result.loads {
        if relayed && load.arrived != load.messages {
            result.figures.push(Figure::at_least(
                "counts",
                &format!("{}: accepted {}, arrived", load.name, load.messages),
                load.arrived as f64,
                "messages",
                load.messages as f64,
            ));
        }
        if load.noise_cores > 0.2 {
            let note = format!("{}: foreign load of {:.2} cores disturbed it", load.name, load.noise_cores);
            result.notes.push(note);
        }
    }
}
