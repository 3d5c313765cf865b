//! The network: sockets, time and wake-ups of one shard, on one of two drivers chosen at run time.
//!
//! io_uring (through tokio-uring) is what Ringpost is built for; epoll (plain tokio) is there for places that forbid
//! io_uring, and as the second opinion in tests. Both give the same few calls: accept, connect from a chosen source
//! address, read, write, a coarse deadline. Everything here lives on one thread and is `Rc`; only [`mailbox`] and
//! [`Signal`] reach across threads.
//!
//! What it never does: drop an operation that the kernel still works on and forget its socket (tokio-uring has no
//! cancel, the socket and its buffer would stay until the peer closes), resolve names, or speak a protocol.

mod deadline;
mod listener;
mod mailbox;
mod stream;
mod sys;
#[cfg(test)]
pub(crate) mod tests;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

pub use listener::{ListenOptions, Listener};
pub use mailbox::{mailbox, Receiver, Sender, Signal, Waiter};
pub use stream::Stream;
pub use sys::{clock_synchronised, inherited_listener};

/// A future of this thread, boxed.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Submission entries of a shard's ring; the ring flushes itself when they run out.
const RING_ENTRIES: u32 = 2048;
/// Completion entries: four times the submissions, so that a burst of idle sessions waking does not overflow.
const RING_COMPLETIONS: u32 = 4 * RING_ENTRIES;

/// How a shard talks to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// tokio-uring, cooperative task work, single issuer.
    IoUring,
    /// tokio's own epoll.
    Epoll,
}

thread_local! {
    static DRIVER: Cell<Driver> = const { Cell::new(Driver::Epoll) };
}

/// The driver this thread runs on.
pub(crate) fn driver() -> Driver {
    DRIVER.get()
}

/// The ring of a shard. The default flags cost 15-90 % more CPU (interrupts for task work), and DEFER_TASKRUN hangs
/// tokio-uring.
fn ring() -> io_uring_06::Builder {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun().setup_single_issuer().setup_cqsize(RING_COMPLETIONS);
    ring
}

/// Whether io_uring works here; otherwise why not and what to do about it, in one line for the operator.
pub fn probe() -> Result<(), String> {
    match ring().build(8) {
        Ok(_) => Ok(()),
        Err(error) => Err(refusal(&error)),
    }
}

/// The likely cause of a refused ring, and the remedy.
fn refusal(error: &io::Error) -> String {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let cause = match (error.raw_os_error(), setting.trim()) {
        (Some(libc::EPERM), "1") => {
            "sysctl kernel.io_uring_disabled is 1; set it to 0, or put this user into kernel.io_uring_group"
        }
        (Some(libc::EPERM), "2") => "sysctl kernel.io_uring_disabled is 2; set it to 0",
        (Some(libc::EPERM | libc::EACCES), _) => {
            "a seccomp profile forbids io_uring (containers do by default); allow its three calls, io_uring_setup, \
             io_uring_enter and io_uring_register, in it"
        }
        (Some(libc::EINVAL), _) => "the kernel's io_uring is too old; Linux 6.1 or newer is needed",
        (Some(libc::ENOSYS), _) => "the kernel has no io_uring (or a sandbox hides it); Linux 6.1 or newer is needed",
        (Some(libc::ENOMEM), _) => "not enough locked memory; raise LimitMEMLOCK (ulimit -l)",
        _ => "not a known cause; the epoll driver works without io_uring",
    };
    format!("io_uring is not available ({error}): {cause}")
}

/// Runs `main` as a shard on this thread, and blocks until it ends. The thread is pinned to `cpu` first, so that the
/// ring and all that is touched first lies on that core's memory node. Tasks that still run when `main` ends are
/// dropped.
///
/// Errors: the core does not exist or is not ours (operator), or no ring could be built (see [`probe`]).
pub fn run<F: Future>(driver: Driver, cpu: Option<usize>, main: F) -> io::Result<F::Output> {
    if let Some(cpu) = cpu {
        pin(cpu)?;
    }
    DRIVER.set(driver);
    let main = async {
        tokio::task::spawn_local(deadline::tick());
        main.await
    };
    match driver {
        Driver::IoUring => {
            let mut builder = tokio_uring::builder();
            builder.entries(RING_ENTRIES).uring_builder(&ring());
            let runtime =
                tokio_uring::Runtime::new(&builder).map_err(|error| io::Error::new(error.kind(), refusal(&error)))?;
            Ok(runtime.block_on(main))
        }
        Driver::Epoll => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(tokio::task::LocalSet::new().block_on(&runtime, main))
        }
    }
}

/// Binds this thread to one core.
fn pin(cpu: usize) -> io::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).map_err(|errno| {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("cannot pin a shard to core {cpu}: {error}"))
    })
}

/// Starts a task on this shard.
pub fn spawn_local<F: Future + 'static>(task: F) -> tokio::task::JoinHandle<F::Output>
where
    F::Output: 'static,
{
    tokio::task::spawn_local(task)
}

/// Waits; for backing off and pacing. Sessions use [`Stream::set_deadline`], which is far cheaper.
pub async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}
