//! Seeds that once broke a promise. Each names what it found.

/// Run by every `cargo test`.
pub const FOUND: &[(u64, &str)] = &[];
