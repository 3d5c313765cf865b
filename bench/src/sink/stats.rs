//! Counters of the sink.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything the sink counts. Also the JSON of its page.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Connections accepted.
    pub connections: u64,
    /// Of them open now.
    pub open: u64,
    /// Most that were open at once.
    pub open_max: u64,
    /// TLS handshakes that worked.
    pub tls: u64,
    /// TLS handshakes that failed.
    pub tls_failed: u64,
    /// MAIL commands accepted.
    pub transactions: u64,
    /// Messages answered 250.
    pub messages: u64,
    /// Of them by DATA.
    pub by_data: u64,
    /// Of them by BDAT.
    pub by_bdat: u64,
    /// Recipients of accepted messages.
    pub recipients: u64,
    /// Bytes of accepted messages.
    pub bytes: u64,
    /// Replies 4xx.
    pub replies_4xx: u64,
    /// Replies 5xx.
    pub replies_5xx: u64,
    /// Times more than one command was waiting in one read: the peer pipelines.
    pub pipelined: u64,
    /// Connections closed on purpose.
    pub closed_on_purpose: u64,
    /// Messages whose X-Bench-Sum matched.
    pub content_exact: u64,
    /// Messages whose X-Bench-Sum did not match.
    pub content_damaged: u64,
    /// Messages without X-Bench-Sum (counted only when verifying).
    pub content_foreign: u64,
    /// Messages with a line end that is not CRLF (counted only when verifying).
    pub bare_line_ends: u64,
    /// Messages with a DKIM signature that passed.
    pub dkim_pass: u64,
    /// Messages with a DKIM signature and none that passed.
    pub dkim_fail: u64,
    /// Messages without a DKIM signature (counted only with keys given).
    pub dkim_none: u64,
    /// Wall clock of the first and last accepted message, microseconds since 1970.
    pub first_us: u64,
    /// See `first_us`.
    pub last_us: u64,
    /// Messages per second between them.
    pub rate: f64,
    /// CPU of the sink per accepted message, microseconds.
    pub own_cpu_us: f64,
    /// (second since the first message, accepted in it).
    pub per_second: BTreeMap<u64, u64>,
    /// Accepted messages by connecting address.
    pub by_peer: BTreeMap<String, u64>,
}

impl Stats {
    /// Fills in what is derived.
    pub fn finish(&mut self) {
        let seconds = self.last_us.saturating_sub(self.first_us) as f64 / 1e6;
        self.rate = if seconds > 0.0 { self.messages as f64 / seconds } else { 0.0 };
        self.own_cpu_us = crate::process::cpu_seconds() * 1e6 / self.messages.max(1) as f64;
    }

    /// Prints for people.
    pub fn print(&self) {
        println!(
            "messages {} (DATA {}, BDAT {}), recipients {}, bytes {}, {:.0} msg/s; \
             connections {} (most at once {}, TLS {})",
            self.messages,
            self.by_data,
            self.by_bdat,
            self.recipients,
            self.bytes,
            self.rate,
            self.connections,
            self.open_max,
            self.tls
        );
        println!(
            "4xx {} 5xx {}; content exact {} damaged {} foreign {}; DKIM pass {} fail {} none {}; \
             sink CPU {:.1} us per message",
            self.replies_4xx,
            self.replies_5xx,
            self.content_exact,
            self.content_damaged,
            self.content_foreign,
            self.dkim_pass,
            self.dkim_fail,
            self.dkim_none,
            self.own_cpu_us
        );
    }
}
