//! Configuration: as written ([`raw`]), as checked ([`resolved`]).
//!
//! The resolved form cannot hold a bad value: whoever has one needs no further check. A bad file is refused with
//! line, setting and reason, and changes nothing.

pub mod network;
pub mod raw;
pub mod resolved;

pub use network::Network;
pub use resolved::Config;

use std::path::Path;

/// Why a configuration is refused. The operator is to blame, and the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{path}: {source}; `ringpost init` writes a commented example")]
    Read {
        /// The file.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Not TOML, or a setting that is not known or of the wrong type. The text names line and column.
    #[error("{path}: {text}")]
    Syntax {
        /// The file.
        path: String,
        /// Line, column and reason.
        text: String,
    },
    /// A value out of its range, or two values that contradict each other.
    #[error("{path}: {setting}: {reason}")]
    Value {
        /// The file.
        path: String,
        /// Which setting, as a path (`listener[2].role`).
        setting: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// Reads and checks a configuration file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: shown.clone(), source })?;
    parse(&text, &shown)
}

/// Checks a configuration text; `path` is only for the messages.
pub fn parse(text: &str, path: &str) -> Result<Config, ConfigError> {
    let raw: raw::Raw = toml::from_str(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        text: error.to_string().trim_end().to_owned(),
    })?;
    resolved::resolve(raw).map_err(|(setting, reason)| ConfigError::Value { path: path.to_owned(), setting, reason })
}
