//! Delivery: one task per outbound connection, fed by the shard.
//!
//! [`connection::run`] walks the hosts of a site until one takes mail, then asks its [`Feed`] for one transaction after
//! the other until there is no more work or the site has had enough. What to send, how many connections, when to try
//! again: all of that is the shard's. Nothing here decides about a queue.

pub mod connection;
mod link;
mod open;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use queue::Outcome;

pub use crate::smtp::client::{
    Classify, Credentials, DeliverBy, End, Loss, PeerLimits, Stage, TlsMode, Transaction, TxRecipient, Unfit,
};

use crate::net::LocalFuture;
use crate::tls;

/// Names one connection task; given by the shard, unique in the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// One exchanger of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name: SNI, certificate check and TLS memory go by it.
    pub name: String,
    /// Its addresses, in the order to try.
    pub addresses: Vec<IpAddr>,
    /// TCP port; hosts of a static route may each have their own.
    pub port: u16,
}

/// How long each answer may take, in seconds. The defaults are the floors of RFC 5321 section 4.5.3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Connection request to one address.
    pub connect: u32,
    /// The greeting.
    pub greeting: u32,
    /// EHLO, STARTTLS with its handshake, AUTH, RSET.
    pub hello: u32,
    /// MAIL.
    pub mail: u32,
    /// RCPT.
    pub rcpt: u32,
    /// DATA until 354.
    pub data: u32,
    /// Each block of the message.
    pub block: u32,
    /// The last byte until the answer; RFC 1047: too short makes duplicates.
    pub content: u32,
    /// QUIT.
    pub quit: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: 30,
            greeting: 300,
            hello: 300,
            mail: 300,
            rcpt: 300,
            data: 120,
            block: 180,
            content: 600,
            quit: 5,
        }
    }
}

/// What a connection task needs to know before it starts.
#[derive(Clone)]
pub struct ConnectJob {
    /// Its name.
    pub conn: ConnId,
    /// Address to send from; `None` lets the kernel choose.
    pub source: Option<IpAddr>,
    /// Our name in EHLO: the PTR name of `source`.
    pub ehlo: String,
    /// The site, for logs.
    pub site: String,
    /// Exchangers in the order to try.
    pub hosts: Vec<Host>,
    /// Whether to ask for TLS.
    pub tls: TlsMode,
    /// TLS from the first byte (a smarthost on port 465).
    pub implicit_tls: bool,
    /// How certificates are judged; one per shard and policy, it holds the session tickets.
    pub client_tls: Arc<tls::Client>,
    /// Which exchangers have working or broken TLS. Locked for an instant once per connection.
    pub tls_memory: Arc<Mutex<tls::Memory>>,
    /// Login, for smarthosts.
    pub auth: Option<Credentials>,
    /// Most messages on this connection: configured, or learned from silent closes.
    pub messages_max: Option<u32>,
    /// Most recipients of a transaction: configured, or learned.
    pub rcpt_max: Option<u32>,
    /// Times.
    pub timeouts: Timeouts,
    /// Meaning of replies.
    pub classify: Classify,
}

/// A connection that is ready for mail.
#[derive(Clone, Debug)]
pub struct Connected {
    /// The exchanger.
    pub host: String,
    /// Its address.
    pub address: SocketAddr,
    /// Our end, as the kernel chose it.
    pub local: Option<SocketAddr>,
    /// First line of the greeting.
    pub greeting: String,
    /// What the site offers; without DSN there, a wanted success report is ours to write as "relayed" (RFC 3461).
    pub peer: Rc<PeerLimits>,
    /// Protocol, cipher and certificate verdict, when encrypted.
    pub tls: Option<tls::Info>,
    /// The handshake failed before, and policy let mail go on without TLS.
    pub downgraded: bool,
}

/// One try at one address that did not lead to a usable connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFailure {
    /// The exchanger.
    pub host: String,
    /// The address tried; `None` when it has none.
    pub address: Option<SocketAddr>,
    /// How far it came.
    pub stage: Stage,
    /// What it means for mail that needs this host.
    pub outcome: Outcome,
}

/// No host of the site could be used.
#[derive(Clone, Debug)]
pub struct ConnectFailure {
    /// What it means for the mail: the worst that is still true of all hosts, so `Failed` only when every one of them
    /// said that it takes no mail at all (RFC 7504).
    pub outcome: Outcome,
    /// Every try, in order.
    pub tries: Vec<HostFailure>,
}

/// A connection that was open is closed.
#[derive(Clone, Debug)]
pub struct Closed {
    /// Messages whose final reply was read, whatever it said.
    pub messages: u32,
    /// Why.
    pub how: End,
}

impl Closed {
    /// The site closed without a word (no 421, no protocol error): when it does so after the same number of messages
    /// again and again, that number is its limit.
    #[must_use]
    pub fn unexplained(&self) -> bool {
        matches!(&self.how, End::Lost(_, Loss::Closed | Loss::Read(_) | Loss::Write(_)))
    }
}

/// The intent could not be recorded: the message must not leave.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Stopped(pub String);

/// The shard, as a connection sees it. All calls come from the shard's own thread.
pub trait Feed {
    /// The next transaction for this connection; waits while there may be more work, and answers `None` to close.
    ///
    /// The future is dropped when the site closes meanwhile: a transaction is taken from its queue only in the poll
    /// that returns it. `peer` says how many recipients are taken ([`PeerLimits::recipients`]) and what the message
    /// must be converted for ([`PeerLimits::fits`]).
    fn next<'a>(&'a self, conn: ConnId, peer: &'a PeerLimits) -> LocalFuture<'a, Option<Transaction>>;

    /// The last byte of this message may leave next, for the recipients at these positions.
    fn intent(&self, conn: ConnId, transaction: &Transaction, positions: &[usize]) -> Result<(), Stopped>;

    /// A transaction has ended. Outcomes by position in its recipients; a position that is missing was not tried and
    /// costs no attempt.
    fn finished(&self, conn: ConnId, transaction: Transaction, results: Vec<(usize, Outcome)>);

    /// The connection is ready; `next` follows.
    fn connected(&self, conn: ConnId, connected: &Connected);

    /// No connection could be made; the task ends. No transaction was taken.
    fn connect_failed(&self, conn: ConnId, failure: &ConnectFailure);

    /// The connection has ended; the task ends. Every transaction taken was finished before.
    fn closed(&self, conn: ConnId, closed: &Closed);

    /// Seconds since 1970, for DELIVERBY and the TLS memory.
    fn now(&self) -> queue::UnixSecs;
}
