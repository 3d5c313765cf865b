//! The render pool: threads for what is too slow for an IO core (spool loads, signing, conversion, argon2).
//!
//! Bounded: at the bound the caller gets its job back and slows its reader. A job brings its own way back, a closure
//! that posts to the caller's mailbox. A job that panics ends alone; the thread goes on.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// One piece of work, completion included.
pub type Job = Box<dyn FnOnce() + Send>;

/// The pool is at its bound (or closing); the job comes back.
pub struct Full(pub Job);

impl std::fmt::Debug for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Full")
    }
}

struct State {
    waiting: VecDeque<Job>,
    closed: bool,
    panics: u64,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    capacity: usize,
}

impl Shared {
    // A panic is caught outside of the lock, so a poisoned lock still guards a sound queue.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fixed number of threads over one bounded queue.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` (at least one) threads; at most `capacity` (at least one) jobs wait.
    ///
    /// # Errors
    /// When the operating system gives no thread at all.
    pub fn start(threads: usize, capacity: usize) -> std::io::Result<Self> {
        let state = State { waiting: VecDeque::new(), closed: false, panics: 0 };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new(), capacity: capacity.max(1) });
        let mut pool = Self { shared, threads: Vec::new() };
        for number in 0..threads.max(1) {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(format!("render-{number}")).spawn(move || work(&shared))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// A pool for this machine: a thread per core, room for 256 jobs each.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn for_cores(cores: usize) -> std::io::Result<Self> {
        Self::start(cores, cores.max(1) * 256)
    }

    /// Hands over a job.
    ///
    /// # Errors
    /// [`Full`] with the job when too many wait.
    pub fn submit(&self, job: Job) -> Result<(), Full> {
        {
            let mut state = self.shared.lock();
            if state.closed || state.waiting.len() >= self.shared.capacity {
                return Err(Full(job));
            }
            state.waiting.push_back(job);
        }
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Jobs waiting now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting.len()
    }

    /// True when the next job would be refused.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting() >= self.shared.capacity
    }

    /// Jobs that panicked since start: each is a defect of ours.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.shared.lock().panics
    }
}

impl Drop for Pool {
    /// Finishes what waits, then ends the threads. When a job holds the last owner, its thread ends by itself.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        let me = std::thread::current().id();
        for thread in self.threads.drain(..).filter(|t| t.thread().id() != me) {
            // A worker catches the panics of jobs; there is nothing else to learn from its end.
            let _ = thread.join();
        }
    }
}

fn work(shared: &Shared) {
    loop {
        let job = {
            let mut state = shared.lock();
            loop {
                if let Some(job) = state.waiting.pop_front() {
                    break job;
                }
                if state.closed {
                    return;
                }
                state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        };
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            shared.lock().panics += 1;
            tracing::error!("a job of the render pool panicked; this is a defect, please report it");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_run_and_the_bound_holds() {
        let pool = Pool::start(1, 2).unwrap();
        let (started, on_started) = mpsc::channel();
        let (release, gate) = mpsc::channel::<()>();
        let blocker = Box::new(move || {
            started.send(()).unwrap();
            gate.recv().unwrap();
        });
        pool.submit(blocker).unwrap();
        on_started.recv().unwrap();
        let (done, on_done) = mpsc::channel();
        for number in 0..2 {
            let done = done.clone();
            pool.submit(Box::new(move || done.send(number).unwrap())).unwrap();
        }
        let Full(job) = pool.submit(Box::new(move || done.send(9).unwrap())).unwrap_err();
        drop(job);
        release.send(()).unwrap();
        drop(pool);
        assert_eq!(on_done.iter().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn a_panic_ends_one_job_only() {
        let pool = Pool::start(1, 4).unwrap();
        let (done, on_done) = mpsc::channel();
        pool.submit(Box::new(|| panic!("on purpose"))).unwrap();
        pool.submit(Box::new(move || done.send(()).unwrap())).unwrap();
        on_done.recv().unwrap();
        assert_eq!(pool.panics(), 1);
    }
}
