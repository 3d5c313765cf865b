//! What a load achieved: counts, latencies, rate over time; and the report made of them.

use super::arrivals::Job;
use super::conversation::Ending;
use super::plan::Plan;
use crate::limits::{LATENCY_MAX_US, REFUSAL_TEXTS};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Running counts of one thread.
#[derive(Debug)]
pub struct Tally {
    accepted: u64,
    recipients: u64,
    deferred: u64,
    refused: u64,
    unknown: u64,
    unsent: u64,
    /// Connections that were greeted.
    pub connections: u64,
    /// Connection attempts that failed.
    pub failed_connections: u64,
    /// Connections that ended before their time.
    pub broken_connections: u64,
    latency: Histogram<u64>,
    service: Histogram<u64>,
    per_second: BTreeMap<u64, u64>,
    texts: BTreeMap<String, u64>,
    last: Option<Instant>,
    ledger_line: Vec<u8>,
}

/// Percentiles of one latency, microseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// How many were measured.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 90 of 100 were faster.
    pub p90: u64,
    /// 99 of 100 were faster.
    pub p99: u64,
    /// 999 of 1000 were faster.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
    /// (percentile, value) for plots.
    #[serde(default)]
    pub curve: Vec<(f64, u64)>,
}

impl Summary {
    /// Reads the percentiles off a histogram of microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let points = [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 100.0];
        Self {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
            curve: points.iter().map(|&p| (p, histogram.value_at_quantile(p / 100.0))).collect(),
        }
    }
}

/// The result of one load, as printed and as JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Messages that were to be sent (0 when only time ended the load).
    pub planned: u64,
    /// Messages answered 250.
    pub accepted: u64,
    /// Recipients in them.
    pub recipients: u64,
    /// Messages answered 4xx.
    pub deferred: u64,
    /// Messages answered 5xx.
    pub refused: u64,
    /// Messages whose last byte left and whose reply never came.
    pub unknown: u64,
    /// Messages whose last byte never left.
    pub unsent: u64,
    /// Connections greeted.
    pub connections: u64,
    /// Connection attempts that failed.
    pub failed_connections: u64,
    /// Connections that ended before their time.
    pub broken_connections: u64,
    /// First byte to last result, seconds.
    pub seconds: f64,
    /// Accepted messages per second.
    pub rate: f64,
    /// CPU of the injector per message tried, microseconds.
    pub own_cpu_us: f64,
    /// Size of a message, bytes.
    pub size: usize,
    /// From the scheduled time to the final reply, microseconds.
    pub latency: Summary,
    /// From the first byte of the message to the final reply, microseconds.
    pub service: Summary,
    /// (second, accepted in it).
    pub per_second: Vec<(u64, u64)>,
    /// Texts of refusals and failures, with counts.
    pub texts: BTreeMap<String, u64>,
}

impl Tally {
    /// Nothing counted.
    pub fn new() -> Self {
        let histogram = || Histogram::new_with_max(LATENCY_MAX_US, 3).unwrap_or_else(|_| empty_histogram());
        Self {
            accepted: 0,
            recipients: 0,
            deferred: 0,
            refused: 0,
            unknown: 0,
            unsent: 0,
            connections: 0,
            failed_connections: 0,
            broken_connections: 0,
            latency: histogram(),
            service: histogram(),
            per_second: BTreeMap::new(),
            texts: BTreeMap::new(),
            last: None,
            ledger_line: Vec::with_capacity(64),
        }
    }

    /// Counts the end of one message and writes it to the ledger.
    pub fn record(&mut self, plan: &Plan, job: Job, began: Instant, now: Instant, ending: Ending) {
        self.last = Some(now);
        let (word, text) = match ending {
            Ending::Accepted(recipients) => {
                self.accepted += 1;
                self.recipients += recipients as u64;
                self.latency.saturating_record(now.saturating_duration_since(job.scheduled).as_micros() as u64);
                self.service.saturating_record(now.saturating_duration_since(began).as_micros() as u64);
                *self.per_second.entry(now.saturating_duration_since(plan.start).as_secs()).or_default() += 1;
                (250, None)
            }
            Ending::Deferred(code, text) => {
                self.deferred += 1;
                (code, Some(format!("{code} {text}")))
            }
            Ending::Refused(code, text) => {
                self.refused += 1;
                (code, Some(format!("{code} {text}")))
            }
            Ending::Unknown(text) => {
                self.unknown += 1;
                (1, Some(text))
            }
            Ending::Unsent(text) => {
                self.unsent += 1;
                (0, Some(text))
            }
        };
        if let Some(text) = text {
            if self.texts.len() < REFUSAL_TEXTS || self.texts.contains_key(&text) {
                *self.texts.entry(text).or_default() += 1;
            }
        }
        self.write_ledger(plan, job.id, word);
    }

    /// One short append per result: a line is in the page cache before the next message starts.
    fn write_ledger(&mut self, plan: &Plan, id: u64, word: u16) {
        let Some(mut ledger) = plan.ledger.as_ref() else { return };
        self.ledger_line.clear();
        super::plan::push_number(id, &mut self.ledger_line);
        match word {
            0 => self.ledger_line.extend_from_slice(b" unsent "),
            1 => self.ledger_line.extend_from_slice(b" unknown "),
            code => {
                self.ledger_line.push(b' ');
                super::plan::push_number(u64::from(code), &mut self.ledger_line);
                self.ledger_line.push(b' ');
            }
        }
        super::plan::push_number(crate::clock::wall_us(), &mut self.ledger_line);
        self.ledger_line.push(b'\n');
        if let Err(error) = ledger.write_all(&self.ledger_line) {
            eprintln!("ledger: {error}");
        }
    }

    /// Adds the counts of another thread.
    pub fn merge(&mut self, other: &Tally) {
        self.accepted += other.accepted;
        self.recipients += other.recipients;
        self.deferred += other.deferred;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.unsent += other.unsent;
        self.connections += other.connections;
        self.failed_connections += other.failed_connections;
        self.broken_connections += other.broken_connections;
        // Both were made by `new`, with equal bounds: adding cannot fail.
        let _ = self.latency.add(&other.latency);
        let _ = self.service.add(&other.service);
        for (second, count) in &other.per_second {
            *self.per_second.entry(*second).or_default() += count;
        }
        for (text, count) in &other.texts {
            *self.texts.entry(text.clone()).or_default() += count;
        }
        self.last = self.last.max(other.last);
    }

    /// The report; `cpu` is the CPU time this process spent on the load, seconds.
    pub fn into_report(self, plan: &Plan, cpu: f64) -> Report {
        let seconds = self.last.map_or(0.0, |last| last.saturating_duration_since(plan.start).as_secs_f64());
        let tried = self.accepted + self.deferred + self.refused + self.unknown + self.unsent;
        Report {
            planned: if plan.messages == u64::MAX { 0 } else { plan.messages },
            accepted: self.accepted,
            recipients: self.recipients,
            deferred: self.deferred,
            refused: self.refused,
            unknown: self.unknown,
            unsent: self.unsent,
            connections: self.connections,
            failed_connections: self.failed_connections,
            broken_connections: self.broken_connections,
            seconds,
            rate: if seconds > 0.0 { self.accepted as f64 / seconds } else { 0.0 },
            own_cpu_us: cpu * 1e6 / tried.max(1) as f64,
            size: plan.template.stored_len(),
            latency: Summary::of(&self.latency),
            service: Summary::of(&self.service),
            per_second: self.per_second.into_iter().collect(),
            texts: self.texts,
        }
    }
}

fn empty_histogram() -> Histogram<u64> {
    let mut histogram = Histogram::<u64>::new(3).unwrap_or_else(|_| unreachable!("3 digits are a valid precision"));
    histogram.auto(true);
    histogram
}

impl Report {
    /// Prints the report for people.
    pub fn print(&self) {
        println!(
            "accepted {} ({} recipients) in {:.3} s = {:.0} msg/s; deferred {} refused {} unknown {} unsent {}",
            self.accepted,
            self.recipients,
            self.seconds,
            self.rate,
            self.deferred,
            self.refused,
            self.unknown,
            self.unsent
        );
        let l = &self.latency;
        println!(
            "latency us: p50 {} p90 {} p99 {} p99.9 {} max {} (from schedule); service p50 {} p99 {}",
            l.p50, l.p90, l.p99, l.p999, l.max, self.service.p50, self.service.p99
        );
        println!(
            "connections {} (failed {}, broken {}); injector CPU {:.1} us per message; message {} bytes; ended {}",
            self.connections,
            self.failed_connections,
            self.broken_connections,
            self.own_cpu_us,
            self.size,
            crate::clock::rfc5322(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
        );
        for (text, count) in &self.texts {
            println!("  {count} x {text}");
        }
    }
}
