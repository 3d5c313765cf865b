//! The client session: replies in, commands and results out. Pure; sockets, TLS and clocks are the caller's.
//!
//! The caller loops over [`Session::next`], does what the [`Action`] says, and feeds what it reads. One session is one
//! connection; it carries transactions one after another until either side has had enough.

mod capabilities;
mod content;
mod exchange;
mod session;
#[cfg(test)]
mod tests;
mod transaction;

use std::fmt;
use std::rc::Rc;

use queue::{Body, BounceClass, Outcome};

pub use capabilities::{PeerLimits, Unfit, RCPT_MAX_DEFAULT};
pub use session::Session;
pub use transaction::{DeliverBy, Transaction, TxRecipient};

use super::reply::Reply;

/// What the caller does next. Bytes in `out` are always written first.
#[derive(Debug)]
pub enum Action {
    /// Read and feed; give up after the time that belongs to what is awaited.
    Read(Wait),
    /// Write what is in `out` now, then ask again.
    Flush,
    /// Write these bytes after `out`, then ask again.
    Write(Body),
    /// Shake hands; then [`Session::encrypted`].
    StartTls,
    /// The last byte may leave next: record the intent for these positions, then [`Session::permit`] or
    /// [`Session::withhold`].
    Intent(Vec<usize>),
    /// A transaction has ended.
    Finished(Box<Finished>),
    /// Nothing to do: [`Session::begin`] or [`Session::quit`].
    Ready,
    /// The connection is of no more use; close it.
    Close(End),
}

/// What one transaction came to.
#[derive(Debug)]
pub struct Finished {
    /// As it was given.
    pub transaction: Transaction,
    /// Outcomes by position in its recipients. A position that is missing was not tried: the site takes fewer
    /// recipients at once; put it back, it costs no attempt.
    pub results: Vec<(usize, Outcome)>,
    /// The site answered the message itself, whatever it said.
    pub answered: bool,
}

/// What is awaited; each has its own time, RFC 5321 section 4.5.3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // named after the commands
pub enum Wait {
    Greeting,
    Hello,
    StartTls,
    Auth,
    Reset,
    Mail,
    Rcpt,
    Data,
    Content,
    Quit,
}

/// Where in the dialog a reply or a loss belongs; for classification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // named after the commands
pub enum Stage {
    Connect,
    Greeting,
    Hello,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Content,
    Idle,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "the connection",
            Self::Greeting => "the greeting",
            Self::Hello => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Content => "the message",
            Self::Idle => "waiting",
        })
    }
}

/// How a connection was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// The peer closed it.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer was silent for too long.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// Reading failed.
    #[error("the connection broke: {0}")]
    Read(String),
    /// Writing failed: the last bytes did not leave.
    #[error("the connection broke while sending: {0}")]
    Write(String),
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// We said QUIT.
    Quit,
    /// The peer said 421.
    PeerClosing(Reply),
    /// The peer refused before any transaction.
    Refused(Stage, Reply),
    /// The policy wants TLS and the peer does not offer it.
    NoTls,
    /// We are to log in and cannot: no mechanism we know, or no TLS.
    NoAuth,
    /// Bytes came behind the answer to STARTTLS, before the handshake: somebody injects commands.
    Injection,
    /// What came is no reply, or none that fits here.
    Protocol(String),
    /// The connection was lost.
    Lost(Stage, Loss),
    /// We stop: the intent could not be recorded.
    Stopped,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quit => f.write_str("we said QUIT"),
            Self::PeerClosing(reply) => write!(f, "the peer closes: {reply}"),
            Self::Refused(stage, reply) => write!(f, "refused at {stage}: {reply}"),
            Self::NoTls => f.write_str("TLS is required here, and the peer does not offer it"),
            Self::NoAuth => f.write_str("the peer offers no way to log in that we may use"),
            Self::Injection => f.write_str("bytes came between STARTTLS and the handshake"),
            Self::Protocol(what) => f.write_str(what),
            Self::Lost(stage, loss) => write!(f, "{loss} (at {stage})"),
            Self::Stopped => f.write_str("delivery stops here: the ack log cannot be written"),
        }
    }
}

/// Whether the session asks for TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Off,
    /// When offered.
    #[default]
    Opportunistic,
    /// No mail without.
    Required,
}

/// What we log in with at a smarthost.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Authentication identity.
    pub user: String,
    /// Password; never logged.
    pub password: String,
    /// Allowed without TLS (a smarthost on our own machine).
    pub without_tls: bool,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.user)
    }
}

/// Gives a reply its meaning: reply code (0 when there was none), enhanced code, text, and where it was said.
pub type Classify = Rc<dyn Fn(u16, [u16; 3], &str, Stage) -> BounceClass>;

/// How a session behaves.
#[derive(Clone)]
pub struct Config {
    /// Our name in EHLO; the PTR name of the source address.
    pub ehlo: String,
    /// Whether to ask for TLS.
    pub tls: TlsMode,
    /// Log in with this, or not at all.
    pub auth: Option<Credentials>,
    /// Most recipients of a transaction, when we know better than the site says.
    pub rcpt_max: Option<u32>,
    /// Meaning of replies.
    pub classify: Classify,
}
