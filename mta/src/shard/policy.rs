//! What the configuration says about queues and delivery, in the form the core asks for. Swapped whole on reload.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use queue::scheduled::retry::{RetryOverride, RetrySchedule};
use queue::{Class, Envelope, QueueName, UnixSecs};

use crate::config::raw;
use crate::config::resolved::{self, Config};
use crate::dns::routes::Routes;
use crate::egress::pool::Member;

/// Settings of queues and delivery.
#[derive(Debug)]
pub struct Policy {
    /// False holds everything in the queue.
    pub enabled: bool,
    /// True when there are DKIM keys: every message goes over the pool.
    pub signs: bool,
    /// The general retry schedule.
    pub retry: RetrySchedule,
    /// Number of shards.
    pub shards: u16,
    /// Recipients that may wait in one ready queue.
    pub ready_max: usize,
    /// Longest time an idle connection is kept; a provider's rule may say less.
    pub idle_max: Duration,
    /// Bytes of fresh mail one shard keeps in memory.
    pub fresh_bytes: u64,
    /// Age at which a delay is reported.
    pub delay_report_s: u32,
    /// Static routes.
    pub routes: Arc<Routes>,
    /// The pools by number: name and members.
    pub pools: Vec<(String, Vec<Member>)>,
    /// Domains whose mail we read ourselves: reports to them become events.
    pub return_domains: Vec<String>,
    queues: Vec<raw::Queue>,
    clock_trusted: AtomicBool,
}

impl Policy {
    /// From a checked configuration, for one of `shards` shards.
    #[must_use]
    pub fn new(config: &Config, shards: usize) -> Self {
        let d = &config.delivery;
        let seconds = |s: u32| Duration::from_secs(u64::from(s));
        Self {
            enabled: d.enabled,
            signs: !config.dkim.is_empty(),
            retry: RetrySchedule {
                greylist: seconds(d.retry_first_s.min(600)),
                base: seconds(d.retry_first_s),
                max: seconds(d.retry_max_s),
                max_age: seconds(d.max_age_s),
                ..RetrySchedule::default()
            },
            shards: u16::try_from(shards).unwrap_or(u16::MAX),
            ready_max: d.ready_max,
            idle_max: seconds(d.idle_s),
            fresh_bytes: config.hot_bytes / shards.max(1) as u64,
            delay_report_s: d.delay_report_s,
            routes: Arc::new(Routes::new(config.routes.clone())),
            pools: config.pools.iter().map(|p| (p.name.clone(), members(p, config))).collect(),
            return_domains: config.domains.iter().filter(|d| d.return_path).map(|d| d.name.clone()).collect(),
            queues: config.queues.clone(),
            clock_trusted: AtomicBool::new(false),
        }
    }

    /// Number of a pool; the one called `default`, or the first, when the name is empty or unknown.
    #[must_use]
    pub fn pool_number(&self, name: &str) -> u16 {
        let find = |wanted: &str| self.pools.iter().position(|(name, _)| name == wanted);
        let at = if name.is_empty() { find("default") } else { find(name).or_else(|| find("default")) };
        u16::try_from(at.unwrap_or(0)).unwrap_or(0)
    }

    /// The retry schedule of a queue: the first override that matches, over the general one.
    #[must_use]
    pub fn retry_of(&self, name: &QueueName) -> RetrySchedule {
        let matching = self.queues.iter().find(|q| {
            (q.domain.is_empty() || q.domain == name.domain) && (q.tenant.is_empty() || q.tenant == name.tenant)
        });
        let seconds = |s: u32| Duration::from_secs(u64::from(s));
        matching.map_or(self.retry, |q| {
            self.retry.with(RetryOverride {
                base: q.retry_first_s.map(seconds),
                max: q.retry_max_s.map(seconds),
                max_age: q.max_age_s.map(seconds),
            })
        })
    }

    /// Recipients of one class that a home may have on one path and not yet settled: less urgent classes leave room
    /// for those before them.
    #[must_use]
    pub fn window(&self, class: Class) -> usize {
        match class {
            Class::Critical => self.ready_max,
            Class::Transactional => self.ready_max * 4 / 5,
            Class::Bulk => self.ready_max * 3 / 5,
        }
        .max(1)
    }

    /// When trying ends for a message.
    #[must_use]
    pub fn give_up(&self, envelope: &Envelope) -> UnixSecs {
        let end = envelope.received.secs().plus(self.retry.max_age);
        envelope.not_after.map_or(end, |at| at.min(end))
    }

    /// True while the clock may end a recipient.
    #[must_use]
    pub fn clock_trusted(&self) -> bool {
        self.clock_trusted.load(Ordering::Relaxed)
    }

    /// Says what the clock is worth.
    pub fn set_clock_trusted(&self, trusted: bool) {
        self.clock_trusted.store(trusted, Ordering::Relaxed);
    }
}

fn members(pool: &resolved::Pool, config: &Config) -> Vec<Member> {
    let member = |index: usize| {
        let source = config.sources.get(index)?;
        Some(Member { source: index, address: source.address, weight: source.weight })
    };
    pool.sources.iter().filter_map(|index| member(*index)).collect()
}
