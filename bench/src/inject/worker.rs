//! One thread of the injector: an epoll loop, its connections, its tally.

use super::arrivals::{Arrivals, Job};
use super::conversation::{Conversation, Ending};
use super::plan::Plan;
use super::tally::Tally;
use anyhow::Result;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connection attempts in a row that may fail before an impatient load ends.
const REFUSED_CONNECTIONS_MAX: u32 = 100;

struct Worker {
    plan: Arc<Plan>,
    arrivals: Arrivals,
    tally: RefCell<Tally>,
    failures: std::cell::Cell<u32>,
}

/// Runs the share of thread `index` to its end.
pub fn run(plan: Arc<Plan>, index: usize) -> Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let worker = Rc::new(Worker {
        arrivals: Arrivals::new(plan.clone(), index),
        tally: RefCell::new(Tally::new()),
        failures: std::cell::Cell::new(0),
        plan,
    });
    let done = worker.clone();
    local.block_on(&runtime, async move {
        let mut tasks = Vec::new();
        let threads = worker.plan.threads;
        for _ in (index..worker.plan.connections).step_by(threads) {
            tasks.push(tokio::task::spawn_local(connection(worker.clone())));
        }
        let open_loop = async {
            worker.arrivals.release(index).await?;
            for task in tasks {
                task.await?;
            }
            anyhow::Ok(())
        };
        match worker.plan.deadline {
            // A server that answers nothing must not keep the load alive for ever.
            Some(deadline) => match tokio::time::timeout_at((deadline + worker.plan.timeout).into(), open_loop).await {
                Ok(ended) => ended,
                Err(_) => Ok(()),
            },
            None => open_loop.await,
        }
    })?;
    let tally = done.tally.replace(Tally::new());
    Ok(tally)
}

async fn connection(worker: Rc<Worker>) {
    let mut open: Option<Conversation> = None;
    while let Some(job) = worker.arrivals.next().await {
        let limit = worker.plan.per_connection;
        if open.as_ref().is_some_and(|conversation| conversation.used >= if limit == 0 { u64::MAX } else { limit }) {
            if let Some(conversation) = open.take() {
                conversation.quit().await;
            }
        }
        let mut conversation = match open.take() {
            Some(conversation) => conversation,
            None => match connect(&worker).await {
                Ok(conversation) => conversation,
                Err(error) => {
                    worker.finish(job, Instant::now(), Ending::Unsent(format!("{error:#}")));
                    continue;
                }
            },
        };
        let began = Instant::now();
        let ending = match tokio::time::timeout(worker.plan.timeout, conversation.send(job.id)).await {
            Ok(ending) => ending,
            Err(_) => Ending::Unknown("no reply in time".to_owned()),
        };
        let keep = ending.keeps_connection();
        worker.finish(job, began, ending);
        if keep {
            open = Some(conversation);
        } else {
            worker.tally.borrow_mut().broken_connections += 1;
        }
    }
    if let Some(conversation) = open {
        let _ = tokio::time::timeout(Duration::from_secs(1), conversation.quit()).await;
    }
}

async fn connect(worker: &Worker) -> Result<Conversation> {
    loop {
        let attempt = tokio::time::timeout(worker.plan.timeout, Conversation::open(worker.plan.clone())).await;
        match attempt.unwrap_or_else(|_| Err(anyhow::anyhow!("no greeting in time"))) {
            Ok(conversation) => {
                worker.failures.set(0);
                worker.tally.borrow_mut().connections += 1;
                return Ok(conversation);
            }
            Err(error) => {
                worker.failures.set(worker.failures.get() + 1);
                worker.tally.borrow_mut().failed_connections += 1;
                let over = worker.plan.deadline.is_some_and(|deadline| Instant::now() >= deadline);
                if !worker.plan.patient && worker.failures.get() >= REFUSED_CONNECTIONS_MAX {
                    worker.arrivals.stop();
                    return Err(error);
                }
                if over {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

impl Worker {
    fn finish(&self, job: Job, began: Instant, ending: Ending) {
        let now = Instant::now();
        self.tally.borrow_mut().record(&self.plan, job, began, now, ending);
    }
}
