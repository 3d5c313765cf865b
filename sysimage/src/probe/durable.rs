//! `sysimage durable-probe`: append numbered blocks, say `ack N` after each, and on the next start say which are there.
//!
//! The console is the witness: whoever cuts the power compares the last `ack` it read with the `have` line after the
//! next boot. Every acknowledged block must be whole. Without sync (`sync = false`) blocks are acknowledged too early
//! on purpose: then the witness must find a loss, or it finds none ever.

use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of a block; also the alignment that direct writes want.
pub const BLOCK: usize = 4096;
const MAGIC: u64 = 0x5250_4455_5241_424c;

/// The block numbered `number`: magic, number, and words derived from both, so that a torn one shows.
pub fn block(number: u64) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    let mut word = MAGIC;
    for (index, place) in bytes.chunks_exact_mut(8).enumerate() {
        let value = match index {
            0 => MAGIC,
            1 => number,
            _ => {
                // A multiplicative step (Knuth's 64-bit constants): cheap, and different in every word.
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(number | 1);
                word
            }
        };
        place.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// Whole blocks from the start without a gap.
    pub whole: u64,
    /// Whole blocks behind the first gap.
    pub beyond: u64,
}

/// Count the whole blocks of a file. A read behind the end of a device or file ends the count; after `GAP` bad
/// blocks nothing more is looked for.
pub fn contents(file: &File) -> io::Result<Contents> {
    const GAP: u64 = 1024;
    let mut found = Contents { whole: 0, beyond: 0 };
    let mut bytes = [0; BLOCK];
    let (mut number, mut bad) = (0, 0);
    while bad < GAP {
        match file.read_exact_at(&mut bytes, number * BLOCK as u64) {
            Ok(()) if bytes == block(number) => {
                if bad == 0 {
                    found.whole += 1;
                } else {
                    found.beyond += 1;
                }
            }
            Ok(()) => bad += 1,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(e),
        }
        number += 1;
    }
    Ok(found)
}

/// How to run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Blocks to append.
    pub count: u64,
    /// Make each durable before it is acknowledged.
    pub sync: bool,
    /// Only say what is there.
    pub look_only: bool,
}

/// Say what is at `path` (a file or a block device), then append.
pub fn run(path: &Path, options: Options) -> Result<()> {
    let name = path.display();
    let existing = match File::open(path) {
        Ok(file) => contents(&file).with_context(|| format!("read {name}"))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Contents { whole: 0, beyond: 0 },
        Err(e) => return Err(e).with_context(|| format!("open {name}")),
    };
    println!("have {} beyond {}", existing.whole, existing.beyond);
    if options.look_only {
        return Ok(());
    }
    let file = open(path, options.sync).with_context(|| format!("open {name} for direct writing"))?;
    let mut out = io::stdout().lock();
    for number in existing.whole..existing.whole.saturating_add(options.count) {
        append(&file, number).with_context(|| format!("write block {number} of {name}"))?;
        writeln!(out, "ack {number}").context("the console is gone")?;
    }
    writeln!(out, "done").context("the console is gone")
}

fn open(path: &Path, sync: bool) -> io::Result<File> {
    let device = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device());
    let durable = if sync { libc::O_DSYNC } else { 0 };
    let file = OpenOptions::new()
        .write(true)
        .create(!device)
        .truncate(false)
        .custom_flags(libc::O_DIRECT | durable)
        .open(path)?;
    if sync && !device {
        // The file's name must be as durable as its blocks.
        file.sync_all()?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
    }
    Ok(file)
}

/// One direct write; the buffer is aligned as the disk wants it.
fn append(file: &File, number: u64) -> io::Result<()> {
    let mut room = vec![0u8; 2 * BLOCK];
    let skip = room.as_ptr().align_offset(BLOCK);
    let aligned = room.get_mut(skip..skip + BLOCK).ok_or(io::ErrorKind::InvalidInput)?;
    aligned.copy_from_slice(&block(number));
    file.write_all_at(aligned, number * BLOCK as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_or_foreign_block_is_not_whole() {
        let path = std::env::temp_dir().join(format!("sysimage-durable-{}", std::process::id()));
        let mut bytes = Vec::new();
        for number in 0..6 {
            bytes.extend_from_slice(&block(number));
        }
        std::fs::write(&path, &bytes).unwrap();
        let look = || contents(&File::open(&path).unwrap()).unwrap();
        assert_eq!(look(), Contents { whole: 6, beyond: 0 });
        bytes[3 * BLOCK + 512..3 * BLOCK + 1024].fill(0);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(look(), Contents { whole: 3, beyond: 2 });
        let moved = block(1);
        bytes[..BLOCK].copy_from_slice(&moved);
        std::fs::write(&path, &bytes[..5 * BLOCK + 100]).unwrap();
        assert_eq!(look(), Contents { whole: 0, beyond: 3 });
        std::fs::remove_file(&path).unwrap();
    }
}
