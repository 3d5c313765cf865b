//! The task on the control thread that keeps the table of sources up to date: addresses, names, doubts.
//!
//! Shards read [`SourceTable`], swapped whole at every change; nothing on their path waits for this task.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::plumb::{self, Plumbed, Watcher};
use super::source::{EgressSource, SourceState, Standing, CHECK_PARKED};
use crate::dns::{Confirmation, Resolver};

/// All addresses are read again this often, should the kernel's messages have been missed.
const READ_AGAIN: Duration = Duration::from_secs(60);
/// Most replies waiting to be looked at; more say nothing new.
const REPLIES_MAX: usize = 1024;

/// One source as shards see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As configured.
    pub source: EgressSource,
    /// How it stands.
    pub standing: Standing,
}

impl Entry {
    /// The EHLO name, when the source may send.
    #[must_use]
    pub fn ehlo(&self) -> Option<&str> {
        match &self.standing {
            Standing::Usable { ehlo, .. } => Some(ehlo),
            Standing::Parked(_) => None,
        }
    }
}

/// All sources, in the order of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceTable {
    /// By index as in pools.
    pub entries: Vec<Entry>,
}

impl SourceTable {
    /// True when source `index` may send.
    #[must_use]
    pub fn usable(&self, index: usize) -> bool {
        self.entries.get(index).is_some_and(|entry| entry.ehlo().is_some())
    }
}

/// Handle to the sources; clone it freely.
#[derive(Clone)]
pub struct Egress {
    table: Arc<ArcSwap<SourceTable>>,
    replies: mpsc::Sender<(usize, [u16; 3])>,
}

impl Egress {
    /// Starts the task on `runtime`. Until the first checks are done no source may send (but assumed ones).
    pub fn start(sources: Vec<EgressSource>, resolver: Resolver, runtime: &tokio::runtime::Handle) -> Self {
        Self::start_checking(sources, resolver, CHECK_PARKED, runtime)
    }

    /// As [`Egress::start`]; a source whose name is wrong is checked again after `check_parked`.
    pub fn start_checking(
        sources: Vec<EgressSource>,
        resolver: Resolver,
        check_parked: Duration,
        runtime: &tokio::runtime::Handle,
    ) -> Self {
        let now = Instant::now();
        let plumbed = read_or_keep(&Plumbed::default());
        let states: Vec<SourceState> = sources
            .into_iter()
            .map(|source| {
                if let Some(name) = &source.assumed_name {
                    tracing::warn!(
                        source = source.name, address = %source.address, name,
                        "LAB: the EHLO name of this source is assumed, nobody checks it; not for mail to the internet"
                    );
                }
                let there = plumbed.has(source.address);
                SourceState::new(source, there, now).checked_again_after(check_parked)
            })
            .collect();
        let table = Arc::new(ArcSwap::from_pointee(table_of(&states, now)));
        let (replies, queue) = mpsc::channel(REPLIES_MAX);
        let task = Task { states, plumbed, resolver, table: table.clone() };
        runtime.spawn(task.run(queue));
        Self { table, replies }
    }

    /// The sources as they stand now.
    #[must_use]
    pub fn table(&self) -> Arc<SourceTable> {
        self.table.load_full()
    }

    /// Hands in a receiver's reply to a source; those that doubt its name bring a check within a minute.
    pub fn report_reply(&self, source: usize, enhanced: [u16; 3]) {
        if super::source::doubts_name(enhanced) {
            // When the queue is full a check is on its way already.
            let _ = self.replies.try_send((source, enhanced));
        }
    }
}

struct Task {
    states: Vec<SourceState>,
    plumbed: Plumbed,
    resolver: Resolver,
    table: Arc<ArcSwap<SourceTable>>,
}

impl Task {
    async fn run(mut self, mut replies: mpsc::Receiver<(usize, [u16; 3])>) {
        let watcher = Watcher::open()
            .inspect_err(|error| tracing::error!(%error, "no netlink socket; addresses are only read once a minute"))
            .ok();
        let mut checks: JoinSet<(usize, Confirmation)> = JoinSet::new();
        let mut read_again = tokio::time::interval(READ_AGAIN);
        loop {
            let now = Instant::now();
            self.start_checks(&mut checks, now);
            self.publish(now);
            // A confirmed name can outlive its grace without any event: look at least that often.
            let next = self.states.iter().filter_map(SourceState::next_check).min().unwrap_or(now + READ_AGAIN);
            tokio::select! {
                changes = next_changes(watcher.as_ref()) => self.plumbed_changed(changes),
                _ = read_again.tick() => self.read_again(),
                Some(done) = checks.join_next(), if !checks.is_empty() => {
                    if let Ok((index, confirmation)) = done {
                        self.confirmed(index, confirmation);
                    }
                }
                reply = replies.recv() => match reply {
                    // All handles are gone: nobody sends any more.
                    None => return,
                    Some((index, enhanced)) => {
                        if let Some(state) = self.states.get_mut(index) {
                            state.on_reply(enhanced, Instant::now());
                        }
                    }
                },
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    fn start_checks(&mut self, checks: &mut JoinSet<(usize, Confirmation)>, now: Instant) {
        for (index, state) in self.states.iter_mut().enumerate() {
            if state.start_check(now) {
                let (resolver, address) = (self.resolver.clone(), state.source().address);
                checks.spawn(async move { (index, resolver.confirm_name(address).await) });
            }
        }
    }

    fn confirmed(&mut self, index: usize, confirmation: Confirmation) {
        let Some(state) = self.states.get_mut(index) else { return };
        let change = state.on_confirmation(confirmation, Instant::now());
        if let Some(change) = change {
            tell(state, &change);
        }
    }

    fn plumbed_changed(&mut self, changes: Vec<plumb::Change>) {
        let mut lost = false;
        for change in changes {
            lost |= !self.plumbed.apply(change);
        }
        if lost {
            self.plumbed = read_or_keep(&self.plumbed);
        }
        self.compare();
    }

    fn read_again(&mut self) {
        self.plumbed = read_or_keep(&self.plumbed);
        self.compare();
    }

    fn compare(&mut self) {
        let now = Instant::now();
        for state in &mut self.states {
            let there = self.plumbed.has(state.source().address);
            if let Some(change) = state.on_plumbed(there, now) {
                tell(state, &change);
            }
        }
    }

    fn publish(&self, now: Instant) {
        let table = table_of(&self.states, now);
        if **self.table.load() != table {
            self.table.store(Arc::new(table));
        }
    }
}

fn table_of(states: &[SourceState], now: Instant) -> SourceTable {
    let entry = |state: &SourceState| Entry { source: state.source().clone(), standing: state.standing(now) };
    SourceTable { entries: states.iter().map(entry).collect() }
}

fn tell(state: &SourceState, change: &Standing) {
    let (source, address): (_, IpAddr) = (&state.source().name, state.source().address);
    match change {
        Standing::Usable { ehlo, .. } => tracing::info!(source, %address, ehlo, "egress source may send"),
        Standing::Parked(why) => tracing::error!(source, %address, ?why, "egress source is parked"),
    }
}

fn read_or_keep(known: &Plumbed) -> Plumbed {
    plumb::read_all().unwrap_or_else(|error| {
        tracing::error!(%error, "the machine's addresses can't be read");
        known.clone()
    })
}

async fn next_changes(watcher: Option<&Watcher>) -> Vec<plumb::Change> {
    match watcher {
        Some(watcher) => match watcher.next().await {
            Ok(changes) => changes,
            Err(error) => {
                tracing::error!(%error, "the netlink socket failed");
                tokio::time::sleep(Duration::from_secs(1)).await;
                vec![plumb::Change::Lost]
            }
        },
        None => std::future::pending().await,
    }
}
