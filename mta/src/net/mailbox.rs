//! Between threads: bounded mailboxes and wake-ups. No lock; a burst of sends costs one wake.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::Poll;

use atomic_waker::AtomicWaker;
use crossbeam_queue::ArrayQueue;

struct Shared<T> {
    letters: ArrayQueue<T>,
    waker: AtomicWaker,
}

/// The sending end; any thread, any number of copies.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The receiving end, on one shard.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

/// A mailbox that holds up to `capacity` letters.
#[must_use]
pub fn mailbox<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let letters = ArrayQueue::new(capacity.max(1));
    let shared = Arc::new(Shared { letters, waker: AtomicWaker::new() });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared })
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Sender<T> {
    /// Puts a letter in and wakes the receiver; gives it back when the mailbox is full.
    pub fn send(&self, letter: T) -> Result<(), T> {
        self.shared.letters.push(letter)?;
        // Does nothing unless the receiver sleeps: the first letter of a burst takes the waker away.
        self.shared.waker.wake();
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// Waits for letters and appends all that are there to `into`; at least one. May be dropped and called again.
    pub async fn recv_many(&mut self, into: &mut Vec<T>) {
        poll_fn(|cx| {
            if self.take(into) {
                return Poll::Ready(());
            }
            self.shared.waker.register(cx.waker());
            // A letter sent between the look and the registration woke nobody.
            if self.take(into) {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }

    /// Takes what is there without waiting; true when there was something.
    pub fn take(&mut self, into: &mut Vec<T>) -> bool {
        let before = into.len();
        // No more than one mailbox full, so that fast senders cannot keep us here.
        for _ in 0..self.shared.letters.capacity() {
            match self.shared.letters.pop() {
                Some(letter) => into.push(letter),
                None => break,
            }
        }
        into.len() > before
    }
}

#[derive(Default)]
struct Flag {
    raised: AtomicBool,
    waker: AtomicWaker,
}

/// Wakes one task of a shard from any thread; for callbacks that carry no letter.
#[derive(Clone, Default)]
pub struct Signal {
    flag: Arc<Flag>,
}

/// The task's end of a [`Signal`]; there is one.
pub struct Waiter {
    flag: Arc<Flag>,
}

impl Signal {
    /// A signal and the end to wait on.
    #[must_use]
    pub fn new() -> (Self, Waiter) {
        let flag = Arc::new(Flag::default());
        (Self { flag: Arc::clone(&flag) }, Waiter { flag })
    }

    /// Raises the signal; more raises before it is seen are one.
    pub fn notify(&self) {
        if !self.flag.raised.swap(true, Ordering::AcqRel) {
            self.flag.waker.wake();
        }
    }
}

impl Waiter {
    /// Waits until the signal is raised, and lowers it. May be dropped and called again.
    pub async fn wait(&mut self) {
        poll_fn(|cx| {
            if self.flag.raised.swap(false, Ordering::AcqRel) {
                return Poll::Ready(());
            }
            self.flag.waker.register(cx.waker());
            if self.flag.raised.swap(false, Ordering::AcqRel) {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }
}
