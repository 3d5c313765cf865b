//! What happened, line by line: hashed always, kept or printed when somebody wants to read it.

use std::fmt::{self, Write};

/// Where the lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Only into the hash.
    Nothing,
    /// To standard output, too.
    Print,
}

/// The trace of one run.
pub struct Trace {
    show: Show,
    hash: u64,
    lines: u64,
    line: String,
}

impl Trace {
    /// An empty trace.
    pub fn new(show: Show) -> Self {
        Self { show, hash: 0xcbf2_9ce4_8422_2325, lines: 0, line: String::new() }
    }

    /// Adds a line that happened `now` milliseconds after the beginning.
    pub fn line(&mut self, now: u64, what: fmt::Arguments<'_>) {
        self.line.clear();
        // Writing to a string does not fail.
        let _ = write!(self.line, "{:>10}.{:03} {what}", now / 1000, now % 1000);
        for byte in self.line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines += 1;
        if self.show == Show::Print {
            println!("{}", self.line);
        }
    }

    /// A number that differs when any line differs (FNV-1a).
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Lines so far.
    pub fn lines(&self) -> u64 {
        self.lines
    }
}
