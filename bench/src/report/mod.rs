//! Results: written as JSON by every run, read back and drawn by `ringbench report`.

use anyhow::{Context, Result};
use serde::Serialize;
use std::fs::File;
use std::path::Path;

/// Writes a value as JSON to a file, or to standard output for `-`.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    if path == Path::new("-") {
        println!("{text}");
        return Ok(());
    }
    std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

/// Opens a ledger for appending.
pub fn append_to(path: &Path) -> Result<File> {
    File::options().append(true).create(true).open(path).with_context(|| format!("opening {}", path.display()))
}
