//! Real clients and servers on both sides of Ringpost: everything arrives, byte for byte, inside TLS and without.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `place` | the private folder, ports, processes, certificate; packages unpacked without being installed |
//! | `ringpost` | the server under test with a listener for each way in and a route for each way out |
//! | `clients` | swaks, smtplib, smtp-source |
//! | `servers` | Postfix, Exim, smtp-sink, a receiver on the Python standard library |
//! | `letters` | the messages, and what may have become of them on the way |
//!
//! A pair whose program can't be had is a failure unless `--allow-missing` is given; nothing is skipped in silence.

mod clients;
mod letters;
mod place;
mod ringpost;
mod servers;

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;

use place::Place;
use ringpost::Ringpost;

/// How the bytes of one side travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// In clear.
    Clear,
    /// STARTTLS, RFC 3207.
    Starttls,
    /// From the first byte, RFC 8314.
    Implicit,
}

impl Tls {
    pub(crate) const ALL: [Self; 3] = [Self::Clear, Self::Starttls, Self::Implicit];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Starttls => "starttls",
            Self::Implicit => "implicit",
        }
    }
}

/// What came of one pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything arrived as it was sent.
    Exact(String),
    /// Something did not.
    Failed(String),
    /// The program is not on this machine and can't be fetched.
    Missing(String),
}

/// One line of the matrix.
#[derive(Clone, Debug)]
pub struct Row {
    /// Who sends to whom.
    pub pair: String,
    /// How.
    pub tls: Tls,
    /// What came of it.
    pub verdict: Verdict,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, text) = match &self.verdict {
            Verdict::Exact(text) => ("exact", text),
            Verdict::Failed(text) => ("FAILED", text),
            Verdict::Missing(text) => ("missing", text),
        };
        write!(f, "{:34} | {:8} | {word}: {text}", self.pair, self.tls.word())
    }
}

/// Which part of the matrix is played, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary under test.
    pub ringpost: PathBuf,
    /// Where packages are unpacked, kept from one run to the next.
    pub packages: PathBuf,
    /// Only pairs whose name contains this.
    pub only: Option<String>,
    /// Keep the folder of the run for a look.
    pub keep: bool,
}

impl Options {
    pub(crate) fn wants(&self, pair: &str) -> bool {
        self.only.as_ref().is_none_or(|only| pair.contains(only.as_str()))
    }
}

/// Plays the whole matrix; `each` is told every row as it is known.
pub fn run(options: &Options, each: &mut dyn FnMut(&Row)) -> Result<Vec<Row>> {
    let place = Place::new(options)?;
    let servers = servers::start(&place, options)?;
    let ringpost = Ringpost::start(&place, options, &servers)?;
    let mut rows = Vec::new();
    let mut tell = |row: Row| {
        each(&row);
        rows.push(row);
    };
    clients::play(&place, options, &ringpost, &servers, &mut tell);
    servers::play(&place, options, &ringpost, &servers, &mut tell);
    Ok(rows)
}

pub(crate) fn verdict(result: Result<String>) -> Verdict {
    match result {
        Ok(text) => Verdict::Exact(text),
        Err(error) => Verdict::Failed(format!("{error:#}").replace('\n', " / ")),
    }
}
