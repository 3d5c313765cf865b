//! Which message comes next, and when it was due.
//!
//! Closed loop: the next number at once. Open loop: numbers are released when their scheduled time comes, by one
//! timerfd per thread (the runtime's own timers count whole milliseconds, too coarse for latency).

use super::plan::Plan;
use anyhow::Result;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::cell::Cell;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

/// One message to send.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Its number.
    pub id: u64,
    /// When it should have been sent; latency counts from here.
    pub scheduled: Instant,
}

/// The numbers of one thread: `index`, `index + threads`, ... below the planned count.
#[derive(Debug)]
pub struct Arrivals {
    plan: Arc<Plan>,
    next: Cell<u64>,
    released: Rc<Semaphore>,
    stopped: Cell<bool>,
}

impl Arrivals {
    /// Nothing is due before `release` runs.
    pub fn new(plan: Arc<Plan>, index: usize) -> Self {
        Self { plan, next: Cell::new(index as u64), released: Rc::new(Semaphore::new(0)), stopped: Cell::new(false) }
    }

    /// The next message, `None` when the load is over.
    pub async fn next(&self) -> Option<Job> {
        if self.plan.interval.is_some() {
            // The permit stands for one released number.
            self.released.acquire().await.ok()?.forget();
        }
        let now = Instant::now();
        let number = self.next.get();
        let late = self.plan.deadline.is_some_and(|deadline| now >= deadline);
        if number >= self.plan.messages || self.stopped.get() || late {
            return None;
        }
        self.next.set(number + self.plan.threads as u64);
        let scheduled = self.plan.interval.map_or(now, |interval| due(self.plan.start, interval, number));
        Some(Job { id: self.plan.first_id + number, scheduled })
    }

    /// Ends the load early.
    pub fn stop(&self) {
        self.stopped.set(true);
        self.released.close();
    }

    /// Open loop only: releases numbers as their time comes, then ends the load.
    pub async fn release(&self, index: usize) -> Result<()> {
        let Some(interval) = self.plan.interval else { return Ok(()) };
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // The same timer twice: one handle to set it, one for the event loop to own.
        #[expect(deprecated, reason = "the unsafe successor buys nothing for an OwnedFd that lives in the AsyncFd")]
        let ready = AsyncFd::new(timer.as_fd().try_clone_to_owned()?)?;
        let mut number = index as u64;
        while number < self.plan.messages {
            let when = due(self.plan.start, interval, number);
            if self.plan.deadline.is_some_and(|deadline| when >= deadline) {
                break;
            }
            let wait = when.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                self.released.add_permits(1);
                number += self.plan.threads as u64;
                continue;
            }
            let wait = TimeSpec::from_duration(wait.max(Duration::from_nanos(1)));
            timer.set(Expiration::OneShot(wait), TimerSetTimeFlags::empty())?;
            let mut guard = ready.readable().await?;
            let _ = timer.wait();
            guard.clear_ready();
        }
        // Those already released are still to be sent: wait until they are taken, then end the load.
        while self.released.available_permits() > 0 && !self.stopped.get() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.stop();
        Ok(())
    }
}

fn due(start: Instant, interval: Duration, number: u64) -> Instant {
    start + Duration::from_nanos((interval.as_nanos() as u64).saturating_mul(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_is_fixed_ahead() {
        let start = Instant::now();
        assert_eq!(due(start, Duration::from_millis(2), 500) - start, Duration::from_secs(1));
    }
}
