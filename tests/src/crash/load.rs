//! The two sides of a crash run: clients that send without pause, and a receiving server that answers in every way.
//! Which message gets which treatment derives from its number, so that a run can be told again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::ledger::{Ledger, Told};
use crate::client::Client;
use crate::receiver::{Act, Manners, Moment, Receiver, Transaction};

/// What happens to a recipient at the receiving server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Taken,
    /// 450 to RCPT, twice.
    DeferredAtRcpt,
    /// 452 after the content, once.
    DeferredAtEnd,
    /// 550 to RCPT.
    Refused,
    /// Taken, slowly.
    Slow,
}

/// The number in `m<number>x<index>@...`.
fn number(address: &str) -> Option<(u64, u64)> {
    let (number, index) = address.strip_prefix('m')?.split('@').next()?.split_once('x')?;
    Some((number.parse().ok()?, index.parse().ok()?))
}

fn fate(address: &str) -> Fate {
    let Some((number, index)) = number(address) else { return Fate::Taken };
    match (number * 7 + index) % 40 {
        0 | 1 => Fate::DeferredAtRcpt,
        2 | 3 => Fate::Refused,
        4..=7 => Fate::Slow,
        // The whole message, so all its recipients or none.
        _ if number.is_multiple_of(23) => Fate::DeferredAtEnd,
        _ => Fate::Taken,
    }
}

/// The receiving server.
#[must_use]
pub fn receiver(ledger: &Arc<Ledger>) -> Receiver {
    let ledger = Arc::clone(ledger);
    let manners = Manners::default().forgetting().script(move |moment| match moment {
        Moment::Rcpt(to) => match fate(to) {
            Fate::DeferredAtRcpt if ledger.deferrals(to) < 2 => {
                ledger.deferred(to);
                Act::Say("450 4.2.1 not now".into())
            }
            Fate::Refused => {
                ledger.bounced(to);
                Act::Say("550 5.1.1 no such user".into())
            }
            _ => Act::Usual,
        },
        Moment::Content(transaction) => content(&ledger, transaction),
        _ => Act::Usual,
    });
    Receiver::start(manners)
}

fn content(ledger: &Ledger, transaction: &Transaction) -> Act {
    let recipients = transaction.recipients();
    if transaction.mail.starts_with("<>") {
        for to in &recipients {
            ledger.reported(to, &transaction.header("Message-ID").unwrap_or_default());
        }
        return Act::Usual;
    }
    if recipients.iter().any(|to| fate(to) == Fate::DeferredAtEnd && ledger.deferrals(to) == 0) {
        recipients.iter().for_each(|to| {
            ledger.deferred(to);
        });
        return Act::Say("452 4.3.1 later".into());
    }
    if recipients.iter().any(|to| fate(to) == Fate::Slow) {
        std::thread::sleep(Duration::from_millis(40));
    }
    // Before the reply: a recipient we said 250 to is delivered, whether that is heard or not.
    recipients.iter().for_each(|to| ledger.delivered(to));
    Act::Usual
}

/// Clients at work; dropped, they stop.
pub struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts so many clients of the server at `address`; each waits about `gap` between messages.
    #[must_use]
    pub fn start(count: u64, address: SocketAddr, ledger: &Arc<Ledger>, seed: u64, gap: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let next = Arc::new(AtomicU64::new(1));
        let threads = (0..count)
            .map(|client| {
                let (stop, next) = (Arc::clone(&stop), Arc::clone(&next));
                let ledger = Arc::clone(ledger);
                let mut random = StdRng::seed_from_u64(seed ^ (client << 32));
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Acquire) {
                        // A server that is down, or goes away, is what this is about.
                        let _ = session(address, &ledger, &next, &stop, &mut random, gap);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                })
            })
            .collect();
        Self { stop, threads }
    }

    /// Ends them, and waits for their last replies.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client does not panic");
        }
    }
}

/// One connection, until it or the run ends.
fn session(
    address: SocketAddr,
    ledger: &Ledger,
    next: &AtomicU64,
    stop: &AtomicBool,
    random: &mut StdRng,
    gap: Duration,
) -> std::io::Result<()> {
    let (mut client, greeting) = Client::open(address)?;
    if greeting.code != 220 || client.try_say("EHLO client.sender.test")?.code != 250 {
        return Ok(());
    }
    while !stop.load(Ordering::Acquire) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let from = format!("s{number}@sender.test");
        let count = if number.is_multiple_of(5) { random.random_range(2..=6) } else { 1 };
        let to: Vec<String> = (0..count).map(|k| format!("m{number}x{k}@d{}.inbox.test", k % 3)).collect();
        let size = if number.is_multiple_of(97) { 300_000 } else { random.random_range(100..8_000) };
        let line = "all work and no play makes a dull test, says everyone who has read one\r\n";
        let content = format!(
            "From: <{from}>\r\nTo: <b@inbox.test>\r\nSubject: {number}\r\n\r\n{}",
            line.repeat(size / line.len() + 1)
        );
        let paths: Vec<String> = to.iter().map(|to| format!("<{to}>")).collect();
        let reply = client.send_with(&format!("<{from}>"), &paths, content.as_bytes());
        let told = match &reply {
            Ok(reply) if reply.code == 250 => Told::Accepted,
            Ok(_) => Told::Refused,
            Err(_) => Told::Nothing,
        };
        ledger.sent(&from, &to, told);
        reply?;
        std::thread::sleep(gap.mul_f64(random.random_range(0.0..2.0)));
    }
    Ok(())
}
