//! The task of one outbound connection.
//!
//! Everything it learns it says to its [`Feed`] at once: ready, each transaction's results, the end. It holds no queue
//! and no timer of its own but the deadlines of the dialog.

use std::future::{poll_fn, Future};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use super::link::{Event, Link};
use super::open::{open, Open};
use super::{Closed, ConnId, ConnectJob, End, Feed, Transaction};

/// Runs one connection from the first address to the last QUIT.
pub async fn run(job: ConnectJob, feed: Rc<dyn Feed>) {
    // In a box of its own: opening needs far more room than serving, and an idle connection would keep it.
    match Box::pin(open(&job, &*feed)).await {
        Ok(Open { mut link, connected }) => {
            feed.connected(job.conn, &connected);
            drop(connected);
            let mut carried = Carried { most: job.messages_max, ..Carried::default() };
            let how = serve(job.conn, &mut link, &*feed, &mut carried).await;
            feed.closed(job.conn, &Closed { messages: carried.messages, how });
            link.close().await;
        }
        Err(failure) => feed.connect_failed(job.conn, &failure),
    }
}

/// How much the connection has carried.
#[derive(Default)]
struct Carried {
    /// Messages whose final reply was read.
    messages: u32,
    most: Option<u32>,
    /// No further message may leave.
    stopped: bool,
}

impl Carried {
    fn is_full(&self) -> bool {
        self.stopped || self.most.is_some_and(|most| self.messages >= most)
    }
}

async fn serve(conn: ConnId, link: &mut Link, feed: &dyn Feed, carried: &mut Carried) -> End {
    loop {
        match link.step().await {
            Event::Ready if carried.is_full() || !link.session.takes_more() => link.session.quit(),
            Event::Ready => match work(conn, link, feed).await {
                Work::Transaction(transaction) => link.session.begin(*transaction, feed.now()),
                Work::None => link.session.quit(),
                Work::SiteSpeaks => link.listen().await,
            },
            Event::Intent(positions) => {
                let Some(transaction) = link.session.transaction() else { continue };
                match feed.intent(conn, transaction, &positions) {
                    Ok(()) => link.session.permit(),
                    Err(stopped) => {
                        carried.stopped = true;
                        link.session.withhold(&stopped.to_string());
                    }
                }
            }
            Event::Finished(finished) => {
                carried.messages += u32::from(finished.answered);
                feed.finished(conn, finished.transaction, finished.results);
            }
            Event::Close(end) => return end,
            // Only asked for before the first transaction.
            Event::StartTls => return End::Protocol("a second STARTTLS".to_owned()),
        }
    }
}

/// What ends a wait for work.
enum Work {
    Transaction(Box<Transaction>),
    None,
    /// The site said something, or closed.
    SiteSpeaks,
}

/// Asks for work. When there is none at once, the connection idles without buffers and listens for the site.
async fn work(conn: ConnId, link: &mut Link, feed: &dyn Feed) -> Work {
    let limits = Rc::clone(link.session.limits());
    let mut next = feed.next(conn, &limits);
    let found = |found: Option<Transaction>| found.map_or(Work::None, |found| Work::Transaction(Box::new(found)));
    let at_once = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
    if let Poll::Ready(transaction) = at_once {
        return found(transaction);
    }
    link.shrink();
    let mut site = pin!(link.site_speaks());
    poll_fn(|cx| {
        if let Poll::Ready(transaction) = next.as_mut().poll(cx) {
            return Poll::Ready(found(transaction));
        }
        site.as_mut().poll(cx).map(|()| Work::SiteSpeaks)
    })
    .await
}
