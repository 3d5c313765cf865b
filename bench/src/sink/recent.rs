//! The last messages that arrived, for people who look at the page.

use super::dkim::Signed;
use crate::limits::RECENT_MESSAGES;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// One arrived message.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Running number.
    pub number: u64,
    /// When its last byte came, microseconds since 1970.
    pub at_us: u64,
    /// Who connected.
    pub peer: SocketAddr,
    /// Name given in EHLO or HELO.
    pub helo: String,
    /// TLS version and suite, empty without TLS.
    pub tls: String,
    /// Reverse path.
    pub from: String,
    /// The first recipients.
    pub recipients: Vec<String>,
    /// How many there were.
    pub recipient_count: usize,
    /// Size as received, bytes.
    pub size: u64,
    /// Its beginning, up to the limit of the page.
    pub content: Vec<u8>,
    /// Is `content` the whole message?
    pub whole: bool,
    /// What DKIM said, when keys were given.
    pub dkim: Option<Signed>,
    /// Connection and transaction in which it came.
    pub place: (u64, u64),
}

/// The list; empty for ever when there is no page.
#[derive(Debug)]
pub struct Recent {
    wanted: bool,
    next: u64,
    list: VecDeque<Arrived>,
}

impl Recent {
    /// An empty list.
    pub fn new(wanted: bool) -> Self {
        Self { wanted, next: 1, list: VecDeque::new() }
    }

    /// Is anybody going to look?
    pub fn wanted(&self) -> bool {
        self.wanted
    }

    /// Adds one, forgets the oldest. The number is given here.
    pub fn push(&mut self, mut arrived: Arrived) {
        arrived.number = self.next;
        self.next += 1;
        if self.list.len() >= RECENT_MESSAGES {
            self.list.pop_front();
        }
        self.list.push_back(arrived);
    }

    /// Newest first.
    pub fn newest(&self) -> impl Iterator<Item = &Arrived> {
        self.list.iter().rev()
    }

    /// One by its number.
    pub fn find(&self, number: u64) -> Option<&Arrived> {
        self.list.iter().find(|arrived| arrived.number == number)
    }
}
