//! TLS: rustls with aws-lc-rs, driven over our own sockets.
//!
//! [`Transport`] is a connection with or without TLS; sessions on both sides use nothing else. [`Server`] holds the
//! certificate we show and can change it while running; [`Client`] says how a peer's certificate is judged; [`Memory`]
//! remembers which exchangers have working TLS. Protocol versions: TLS 1.2 and 1.3. Never: kTLS, early data, client
//! certificates.

mod client;
mod memory;
mod server;
#[cfg(test)]
mod tests;
mod transport;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use client::{Client, Trust};
pub use memory::Memory;
pub use server::{self_signed, self_signed_for, Server};
pub use transport::Transport;

/// What was agreed on, for logs and trace fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// `TLSv1.3` or `TLSv1.2`.
    pub protocol: &'static str,
    /// The cipher suite by its IANA name.
    pub cipher: String,
    /// An earlier session was resumed; certificates are not judged again then.
    pub resumed: bool,
    /// The peer's certificate is valid for its name, or matches the pin. `None`: resumed, or we are the server.
    pub verified: Option<bool>,
    /// The name the client asked for (we are the server), or the name we asked for.
    pub name: Option<String>,
}

/// Why TLS failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer's or our TLS refuses: certificate, protocol, alert.
    #[error("TLS failed: {0}")]
    Tls(#[from] rustls::Error),
    /// The connection broke during the handshake.
    #[error("the connection broke during the TLS handshake: {0}")]
    Io(#[from] std::io::Error),
    /// A certificate, key, pin or root that we were given is not usable (operator).
    #[error("{0}")]
    Setting(String),
}

/// Label of RFC 9266: what SCRAM-PLUS binds to the channel with.
pub const CHANNEL_BINDING: &[u8] = b"EXPORTER-Channel-Binding";

fn provider() -> Arc<CryptoProvider> {
    // One for the process: building it is not free, and a shard asks for every connection policy.
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}
