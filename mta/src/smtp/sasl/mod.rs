//! SASL mechanisms (RFC 4422) as pure values: PLAIN (RFC 4616), LOGIN, SCRAM-SHA-256 and -PLUS (RFC 5802, RFC 7677)
//! bound to the TLS channel by `tls-exporter` (RFC 9266).
//!
//! Passwords are never stored: a [`Verifier`] is a SCRAM verifier or an argon2id string. Checking a password against
//! one is slow on purpose and belongs on the pool; checking a SCRAM proof is not.

mod cache;
mod plain;
mod scram;
mod secret;
mod verifier;

pub use cache::{CacheKey, RecentSuccesses};
pub use plain::{plain, PlainLogin};
pub use scram::{ChannelBinding, ClientFirst, Exchange, ScramError};
pub use secret::{prepare, Secret};
pub use verifier::{BadVerifier, ScramVerifier, Verifier};

/// What a client may choose in AUTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// Never standardised, still spoken.
    Login,
    /// RFC 7677.
    ScramSha256,
    /// RFC 7677 with channel binding.
    ScramSha256Plus,
}

impl Mechanism {
    /// By its registered name, case not counted.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Plain, Self::Login, Self::ScramSha256, Self::ScramSha256Plus]
            .into_iter()
            .find(|mechanism| mechanism.name().eq_ignore_ascii_case(name))
    }

    /// The registered name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
        }
    }
}
