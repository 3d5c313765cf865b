//! What a run found: loads with their costs, and figures held against bars. Written as JSON, read by `report`.

use super::bed::Bed;
use super::meter::Reading;
use crate::inject::Report;
use anyhow::Result;
use nix::sys::resource::{getrusage, UsageWho};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Stands in a figure for what could not be measured: meets no bar, and unlike NaN survives JSON.
pub const UNMEASURED: f64 = 1e12;

/// One run of one scenario.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Name of the scenario.
    pub scenario: String,
    /// Name of the adapter.
    pub server: String,
    /// What the server said its version is.
    pub version: String,
    /// Commit of this tree.
    pub commit: String,
    /// Machine in one line.
    pub machine: String,
    /// When, RFC 5322.
    pub date: String,
    /// Every load that was measured, all repetitions.
    pub loads: Vec<Load>,
    /// Figures against bars.
    pub figures: Vec<Figure>,
    /// Remarks, such as parts the adapter could not do.
    pub notes: Vec<String>,
}

/// One measured load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Load {
    /// Which load.
    pub name: String,
    /// Messages the server accepted.
    pub messages: u64,
    /// Messages that arrived at the sink meanwhile.
    pub arrived: u64,
    /// CPU of the server per message, microseconds.
    pub cpu_us: f64,
    /// CPU of kernel workers per message, microseconds.
    pub workers_us: f64,
    /// Messages accepted per second.
    pub accept_rate: f64,
    /// Messages per second from the first byte in to the last message out.
    pub relay_rate: f64,
    /// Anonymous memory of the server at the end, bytes.
    pub anon: u64,
    /// Growth of it during the load, bytes.
    pub anon_growth: i64,
    /// Bytes written to disks of the machine, per message.
    pub disk_bytes: f64,
    /// Flushes of disks of the machine, per message.
    pub flushes: f64,
    /// Cores used meanwhile by processes that are no part of the run.
    pub noise_cores: f64,
    /// System calls per message, when strace was asked for.
    pub syscalls: Option<f64>,
    /// Report of our injector, when it made the load.
    pub inject: Option<Report>,
}

/// A figure and its bar.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figure {
    /// Row of the specification with the part behind it, such as `engine.a.1`.
    pub row: String,
    /// What it is.
    pub what: String,
    /// The figure.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// At most (or at least, see `at_least`) this.
    pub bar: f64,
    /// The bar is a lower one.
    #[serde(default)]
    pub at_least: bool,
    /// What we would like.
    pub aim: Option<f64>,
}

impl Figure {
    /// A figure that must not be above its bar.
    pub fn at_most(row: &str, what: &str, value: f64, unit: &str, bar: f64, aim: Option<f64>) -> Self {
        Self { row: row.into(), what: what.into(), value, unit: unit.into(), bar, aim, at_least: false }
    }

    /// A figure that must not be below its bar.
    pub fn at_least(row: &str, what: &str, value: f64, unit: &str, bar: f64) -> Self {
        Self { at_least: true, ..Self::at_most(row, what, value, unit, bar, None) }
    }

    /// Is the bar met?
    pub fn passed(&self) -> bool {
        // A figure that is no number met nothing.
        if self.at_least {
            self.value >= self.bar
        } else {
            self.value <= self.bar
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let sign = if self.at_least { ">=" } else { "<=" };
        let aim = self.aim.map_or(String::new(), |aim| format!(" aim {aim}"));
        let verdict = if self.passed() { "met" } else { "NOT MET" };
        if self.value == UNMEASURED {
            return format!("{} {}: not measured (bar {sign} {:.1}) NOT MET", self.row, self.what, self.bar);
        }
        format!(
            "{} {}: {:.1} {} (bar {sign} {:.1}{aim}) {verdict}",
            self.row, self.what, self.value, self.unit, self.bar
        )
    }
}

/// What a load generator says.
#[derive(Debug, Default)]
pub struct Sent {
    /// Messages accepted.
    pub accepted: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Our injector's report.
    pub report: Option<Report>,
}

impl From<Report> for Sent {
    fn from(report: Report) -> Self {
        Sent { accepted: report.accepted, seconds: report.seconds, report: Some(report) }
    }
}

/// Runs a load and reads the meter around it. With `relayed`, waits until the sink has everything.
pub fn measure(bed: &Bed, name: &str, relayed: bool, run: impl FnOnce() -> Result<Sent>) -> Result<Load> {
    let sink_before = if relayed { bed.sink_messages()? } else { 0 };
    let (own_before, sink_cpu) = (children_ns(), bed.sink_cpu_ns());
    let before = bed.read()?;
    let began = Instant::now();
    let sent = run()?;
    if relayed && !bed.wait_sink(sink_before + sent.accepted, Duration::from_secs(20))? {
        let arrived = bed.sink_messages()? - sink_before;
        eprintln!("{name}: only {arrived} of {} messages arrived", sent.accepted);
    }
    let relay_seconds = began.elapsed().as_secs_f64();
    // What a server does a little later (acknowledging, retiring) is part of the price.
    std::thread::sleep(Duration::from_millis(300));
    let after = bed.read()?;
    let seconds = began.elapsed().as_secs_f64();
    let arrived = if relayed { bed.sink_messages()?.saturating_sub(sink_before) } else { 0 };
    let ours = children_ns() - own_before + (bed.sink_cpu_ns() - sink_cpu);
    let mut load = costs(&before, &after, sent.accepted, ours, seconds);
    load.name = name.to_owned();
    load.arrived = arrived;
    load.accept_rate = sent.accepted as f64 / sent.seconds.max(1e-9);
    load.relay_rate = if relayed { arrived as f64 / relay_seconds } else { 0.0 };
    load.inject = sent.report;
    println!("{}", load.line());
    Ok(load)
}

fn costs(before: &Reading, after: &Reading, messages: u64, ours_ns: u64, seconds: f64) -> Load {
    let per = messages.max(1) as f64;
    let cpu_ns = after.cpu_ns.saturating_sub(before.cpu_ns);
    let workers_ns = after.workers_since(before);
    let foreign = after.busy_ns.saturating_sub(before.busy_ns).saturating_sub(cpu_ns + workers_ns + ours_ns);
    Load {
        messages,
        cpu_us: cpu_ns as f64 / 1000.0 / per,
        workers_us: workers_ns as f64 / 1000.0 / per,
        anon: after.anon,
        anon_growth: after.anon as i64 - before.anon as i64,
        disk_bytes: after.disk_bytes.saturating_sub(before.disk_bytes) as f64 / per,
        flushes: after.flushes.saturating_sub(before.flushes) as f64 / per,
        noise_cores: foreign as f64 / 1e9 / seconds.max(1e-9),
        ..Load::default()
    }
}

impl Load {
    /// CPU of the server and of kernel workers per message, microseconds.
    pub fn all_cpu_us(&self) -> f64 {
        self.cpu_us + self.workers_us
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let syscalls = self.syscalls.map_or(String::new(), |n| format!(", {n:.1} system calls"));
        format!(
            "{}: {} accepted, {} arrived; CPU {:.1} us + kernel workers {:.1} us per message; accepted {:.0}/s, \
             end to end {:.0}/s; anon {:.1} MiB; disk {:.0} bytes and {:.3} flushes per message{syscalls}; \
             foreign load {:.2} cores",
            self.name,
            self.messages,
            self.arrived,
            self.cpu_us,
            self.workers_us,
            self.accept_rate,
            self.relay_rate,
            self.anon as f64 / 1_048_576.0,
            self.disk_bytes,
            self.flushes,
            self.noise_cores
        )
    }
}

/// CPU time of children that ended and were waited for, nanoseconds.
fn children_ns() -> u64 {
    getrusage(UsageWho::RUSAGE_CHILDREN)
        .map_or(0, |usage| (usage.user_time().num_nanoseconds() + usage.system_time().num_nanoseconds()) as u64)
}

/// The repetition in the middle, by CPU.
pub fn median(loads: &[Load]) -> Option<&Load> {
    let mut order: Vec<&Load> = loads.iter().collect();
    order.sort_by(|a, b| a.all_cpu_us().total_cmp(&b.all_cpu_us()));
    order.get(order.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_both_ways() {
        assert!(Figure::at_most("a", "x", 80.0, "us", 80.0, None).passed());
        assert!(!Figure::at_most("a", "x", f64::NAN, "us", 80.0, None).passed());
        assert!(!Figure::at_least("a", "x", 0.89, "", 0.9).passed());
    }

    #[test]
    fn costs_are_differences_per_message() {
        let before = Reading { cpu_ns: 1_000, anon: 100, ..Reading::default() };
        let after = Reading { cpu_ns: 201_000, anon: 50, flushes: 5, busy_ns: 1_000_000_000, ..Reading::default() };
        let load = costs(&before, &after, 10, 0, 1.0);
        assert_eq!((load.cpu_us, load.anon_growth, load.flushes), (20.0, -50, 0.5));
        assert!(load.noise_cores > 0.99);
    }
}
