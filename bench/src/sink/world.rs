//! What all connections of the sink share; one thread, so cells and no locks.

use super::dkim::Verifier;
use super::recent::Recent;
use super::rules::{Mode, Rules};
use super::stats::Stats;
use super::Options;
use crate::limits::{KEEP_HEAD, KEEP_PAGE, KEEP_VERIFY};
use anyhow::{bail, Result};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::sync::Arc;

/// How STARTTLS is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadTls {
    /// It works.
    No,
    /// 454 to STARTTLS.
    Refuse,
    /// 220, then bytes that are no TLS.
    Garbage,
    /// 220, then the connection closes.
    Close,
    /// The certificate ended long ago.
    Expired,
}

/// Limits announced and enforced (RFC 9422).
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Transactions per session.
    pub mail: Option<u64>,
    /// Recipients per transaction.
    pub rcpt: Option<u64>,
}

/// Settings, counters, ledger.
#[derive(Debug)]
pub struct World {
    /// As given.
    pub options: Options,
    /// From `--mode`.
    pub mode: Mode,
    /// From `--bad-tls`.
    pub bad_tls: BadTls,
    /// From `--limits`.
    pub limits: Limits,
    /// Lines of the EHLO reply, without and with TLS active.
    pub ehlo: [Vec<u8>; 2],
    /// TLS settings, unless TLS is off.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// From `--rules` and the mode.
    pub rules: RefCell<Rules>,
    /// Counters.
    pub stats: RefCell<Stats>,
    /// The last messages, when there is a page.
    pub recent: RefCell<Recent>,
    /// Keys for DKIM, when given.
    pub verifier: Option<Verifier>,
    /// Connections by peer address.
    pub open_by_peer: RefCell<HashMap<IpAddr, u64>>,
    /// Told when `--messages` have come.
    pub enough: tokio::sync::Notify,
    /// Bytes of each message to keep while it is received.
    pub keep: usize,
    /// Messages ended, for `drop-after-data`.
    pub ended: Cell<u64>,
    ledger: RefCell<Option<BufWriter<File>>>,
}

impl World {
    /// Checks the options and makes the certificate.
    pub fn new(options: &Options) -> Result<Self> {
        let mode: Mode = options.mode.parse()?;
        let bad_tls = match options.bad_tls.as_deref() {
            None => BadTls::No,
            Some("refuse") => BadTls::Refuse,
            Some("garbage") => BadTls::Garbage,
            Some("close") => BadTls::Close,
            Some("expired") => BadTls::Expired,
            Some(other) => bail!("unknown --bad-tls {other}"),
        };
        let tls = if options.no_tls {
            None
        } else {
            Some(crate::stream::server_tls(&options.name, bad_tls == BadTls::Expired)?)
        };
        let verifier = options.dkim_keys.as_deref().map(Verifier::load).transpose()?;
        let keep = if options.verify || verifier.is_some() {
            KEEP_VERIFY
        } else if options.http.is_some() {
            KEEP_PAGE
        } else {
            KEEP_HEAD
        };
        Ok(Self {
            mode,
            bad_tls,
            limits: parse_limits(options.limits.as_deref())?,
            ehlo: [ehlo(options, false), ehlo(options, true)],
            tls,
            rules: RefCell::new(Rules::load(options.rules.as_deref(), &mode, options.seed)?),
            stats: RefCell::new(Stats::default()),
            recent: RefCell::new(Recent::new(options.http.is_some())),
            verifier,
            open_by_peer: RefCell::new(HashMap::new()),
            enough: tokio::sync::Notify::new(),
            keep,
            ended: Cell::new(0),
            ledger: RefCell::new(
                options.ledger.as_deref().map(crate::report::append_to).transpose()?.map(BufWriter::new),
            ),
            options: options.clone(),
        })
    }

    /// Is a ledger kept?
    pub fn has_ledger(&self) -> bool {
        self.ledger.borrow().is_some()
    }

    /// Appends lines to the ledger; they reach the file within 100 ms.
    pub fn write_ledger(&self, lines: &[u8]) {
        if let Some(ledger) = self.ledger.borrow_mut().as_mut() {
            if let Err(error) = ledger.write_all(lines) {
                eprintln!("ledger: {error}");
            }
        }
    }

    /// Brings the ledger to the file.
    pub fn flush(&self) {
        if let Some(ledger) = self.ledger.borrow_mut().as_mut() {
            if let Err(error) = ledger.flush() {
                eprintln!("ledger: {error}");
            }
        }
    }
}

fn ehlo(options: &Options, encrypted: bool) -> Vec<u8> {
    let mut lines = vec![options.name.clone()];
    let mut offer = |yes: bool, line: &str| {
        if yes {
            lines.push(line.to_owned());
        }
    };
    offer(!options.no_pipelining, "PIPELINING");
    offer(true, &format!("SIZE {}", options.size));
    offer(!options.no_tls && !encrypted && !options.tls, "STARTTLS");
    offer(!options.no_8bitmime, "8BITMIME");
    offer(!options.no_chunking, "CHUNKING");
    offer(options.smtputf8, "SMTPUTF8");
    offer(true, "ENHANCEDSTATUSCODES");
    offer(options.limits.is_some(), &format!("LIMITS {}", options.limits.clone().unwrap_or_default()));
    let last = lines.len() - 1;
    let mut out = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        out.extend_from_slice(if at == last { b"250 ".as_slice() } else { b"250-" });
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn parse_limits(text: Option<&str>) -> Result<Limits> {
    let mut limits = Limits::default();
    for word in text.unwrap_or_default().split([' ', ',']).filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            Some(("MAILMAX", n)) => limits.mail = Some(n.parse()?),
            Some(("RCPTMAX", n)) => limits.rcpt = Some(n.parse()?),
            Some(("RCPTDOMAINMAX", _)) => {}
            _ => bail!("unknown limit {word}"),
        }
    }
    Ok(limits)
}
