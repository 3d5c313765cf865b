//! A shard's thread: pinned first, then its runtime, its listeners, its tasks.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use queue::ack::AckPort;

use super::acceptance::{Acceptance, IngressPlan};
use super::core::{Core, Now};
use super::driver::{wall, Links, Shard};
use super::mail::ShardMail;
use super::placement::Placement;
use super::policy::Policy;
use crate::net::{self, Driver, Receiver, Signal};

/// Shared by all shards while they live.
#[derive(Default)]
pub struct Live {
    closed: AtomicBool,
    stopped: AtomicBool,
    busy: AtomicUsize,
}

impl Live {
    /// No new sessions from now on.
    pub fn stop_accepting(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// True once no new sessions are wanted.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends the shards.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// True when no shard has a transaction under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Acquire) == 0
    }
}

/// Everything one shard starts with.
pub struct ShardPlan {
    /// Its links to the rest.
    pub links: Links,
    /// Its driver.
    pub driver: Driver,
    /// Its core; `None` leaves it to the scheduler.
    pub cpu: Option<usize>,
    /// Settings of queues and delivery.
    pub policy: Arc<Policy>,
    /// Owners of paths.
    pub placement: Arc<Placement>,
    /// Its end of the ack log.
    pub acks: AckPort,
    /// Its mailbox.
    pub mailbox: Receiver<ShardMail>,
    /// What its listeners let in.
    pub ingress: Arc<IngressPlan>,
    /// Shared state.
    pub live: Arc<Live>,
}

/// The cores this process may use.
#[must_use]
pub fn allowed_cores() -> Vec<usize> {
    let Ok(set) = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)) else { return Vec::new() };
    (0..nix::sched::CpuSet::count()).filter(|c| set.is_set(*c).unwrap_or(false)).collect()
}

/// Starts a shard; returns when its listeners are bound. `listening` gets a line per listener, from the first shard.
///
/// Errors: an address is taken or not ours (operator), or no runtime could be built.
pub fn start(plan: ShardPlan, listening: &mut Vec<String>) -> anyhow::Result<JoinHandle<()>> {
    let (ready, wait) = mpsc::channel();
    let id = plan.links.id;
    let (driver, cpu) = (plan.driver, plan.cpu);
    let thread = std::thread::Builder::new().name(format!("shard-{id}")).spawn(move || {
        let failed = ready.clone();
        if let Err(error) = net::run(driver, cpu, work(plan, ready)) {
            // The starter has gone when this comes late; then the log has it.
            let _ = failed.send(Err(error.to_string()));
        }
    })?;
    match wait.recv() {
        Ok(Ok(lines)) => {
            if id == 0 {
                listening.extend(lines);
            }
            Ok(thread)
        }
        Ok(Err(why)) => Err(anyhow::anyhow!(why)),
        Err(_) => Err(anyhow::anyhow!("shard {id} ended at once")),
    }
}

async fn work(plan: ShardPlan, ready: mpsc::Sender<Result<Vec<String>, String>>) {
    let ShardPlan { links, policy, placement, acks, mailbox, ingress, live, .. } = plan;
    let millis = wall();
    let now = Now { wall: millis.secs(), millis, steady: std::time::Instant::now() };
    let id = links.id;
    let core = Core::new(id, policy, placement, now, rand::random());
    let (signal, waiter) = Signal::new();
    let port = links.spool.port(Arc::new(move || signal.notify()));
    let shard = Shard::new(links, core, acks, port);
    net::spawn_local(Rc::clone(&shard).run_pump());
    net::spawn_local(Rc::clone(&shard).run_commits(waiter));
    net::spawn_local(Rc::clone(&shard).run_mailbox(mailbox));
    let door = Acceptance::new(&shard, ingress, Arc::clone(&live));
    match door.open() {
        Ok(lines) => {
            // The starter waits for this.
            let _ = ready.send(Ok(lines));
        }
        Err(why) => {
            let _ = ready.send(Err(why));
            return;
        }
    }
    let mut counted = false;
    while !live.stopped.load(Ordering::Acquire) {
        net::sleep(Duration::from_millis(20)).await;
        let busy = shard.connections() > 0 || !shard.is_draining();
        if busy != counted {
            counted = busy;
            if busy {
                live.busy.fetch_add(1, Ordering::AcqRel);
            } else {
                live.busy.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
}
