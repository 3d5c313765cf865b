//! What one load consists of: the options as written on the command line, and the plan resolved from them.

use crate::message::Template;
use anyhow::{bail, Context, Result};
use base64::Engine;
use clap::Args;
use std::fs::File;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Command line of `ringbench inject`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Server under load, host:port
    #[arg(long, default_value = "127.0.0.1:2525")]
    pub to: String,
    /// Connections held at once
    #[arg(long, short = 'c', default_value_t = 50)]
    pub connections: usize,
    /// Messages to send in all (default 1000 unless --seconds is given)
    #[arg(long, short = 'm')]
    pub messages: Option<u64>,
    /// Stop after this many seconds
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Messages per second, on a schedule fixed ahead; without it as fast as the server takes them
    #[arg(long)]
    pub rate: Option<f64>,
    /// Size of a message, bytes
    #[arg(long, short = 'l', default_value_t = 4096)]
    pub size: usize,
    /// Recipients per message
    #[arg(long, default_value_t = 1)]
    pub rcpts: usize,
    /// Recipient domains, comma separated
    #[arg(long, value_delimiter = ',', default_value = "example.test")]
    pub domains: Vec<String>,
    /// This many generated domains d0.TLD, d1.TLD ... instead, TLD being the first of --domains
    #[arg(long, default_value_t = 0)]
    pub domain_count: u64,
    /// Local part of recipients; the number of the message and recipient is appended
    #[arg(long, default_value = "u")]
    pub rcpt_prefix: String,
    /// Reverse path; %d stands for the number of the message modulo --from-count
    #[arg(long, default_value = "sender@bench.test")]
    pub from: String,
    /// Different reverse paths behind %d
    #[arg(long, default_value_t = 1)]
    pub from_count: u64,
    /// Send MAIL, RCPT and DATA (or BDAT with the message) in one write, where the server offers PIPELINING
    #[arg(long)]
    pub pipelining: bool,
    /// Send messages with BDAT, where the server offers CHUNKING
    #[arg(long)]
    pub bdat: bool,
    /// Ask for STARTTLS
    #[arg(long)]
    pub starttls: bool,
    /// TLS from the first byte
    #[arg(long)]
    pub tls: bool,
    /// AUTH PLAIN with user:password
    #[arg(long)]
    pub auth: Option<String>,
    /// A new connection for each message
    #[arg(long)]
    pub no_reuse: bool,
    /// Close a connection after this many messages (0: never)
    #[arg(long, default_value_t = 0)]
    pub per_connection: u64,
    /// Speak HELO and one command per round trip, as Postfix's smtp-source does
    #[arg(long)]
    pub helo_only: bool,
    /// BODY parameter of MAIL: 7bit or 8bitmime
    #[arg(long)]
    pub body: Option<String>,
    /// Announce the SIZE of each message in MAIL
    #[arg(long)]
    pub announce_size: bool,
    /// Extra parameters of every MAIL command, as written
    #[arg(long)]
    pub mail_parameters: Option<String>,
    /// Extra header field of every message, as written (repeatable)
    #[arg(long)]
    pub header: Vec<String>,
    /// One body line in eight starts with a dot
    #[arg(long)]
    pub dots: bool,
    /// Name given in EHLO
    #[arg(long, default_value = "inject.bench.test")]
    pub helo: String,
    /// Number of the first message
    #[arg(long, default_value_t = 1)]
    pub first_id: u64,
    /// Append "id result microseconds" per message to this file as results come in
    #[arg(long)]
    pub ledger: Option<PathBuf>,
    /// Threads, one epoll loop each
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Write the result as JSON to this file (- for standard output)
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Give up a connection attempt or an awaited reply after this many seconds
    #[arg(long, default_value_t = 300.0)]
    pub timeout: f64,
    /// Keep reconnecting while nobody listens (crash tests); otherwise the load ends after 100 refused connections
    #[arg(long)]
    pub patient: bool,
    /// Fail unless every message was accepted
    #[arg(long)]
    pub strict: bool,
    /// Pin the process to these cores first, e.g. 1 or 1,2
    #[arg(long)]
    pub cores: Option<String>,
}

/// The checked form of `Options`; cannot hold a contradiction.
#[derive(Debug)]
pub struct Plan {
    /// Where to connect.
    pub to: SocketAddr,
    /// Name for SNI.
    pub server_name: String,
    /// Threads, at least one, at most one per connection.
    pub threads: usize,
    /// Connections over all threads.
    pub connections: usize,
    /// Numbers `first_id .. first_id + messages`; `u64::MAX` when only time ends the load.
    pub messages: u64,
    /// Number of the first message.
    pub first_id: u64,
    /// When the load ends whatever was sent.
    pub deadline: Option<Instant>,
    /// Distance of scheduled arrivals; `None` means as fast as possible.
    pub interval: Option<Duration>,
    /// Time of the first scheduled arrival.
    pub start: Instant,
    /// The message.
    pub template: Template,
    /// Recipients per message, at least one.
    pub rcpts: usize,
    /// Pipelining wanted.
    pub pipelining: bool,
    /// BDAT wanted.
    pub bdat: bool,
    /// STARTTLS wanted.
    pub starttls: bool,
    /// TLS settings when any TLS is wanted.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Base64 of the PLAIN initial response.
    pub auth: Option<String>,
    /// Messages per connection, 0 for no limit.
    pub per_connection: u64,
    /// HELO instead of EHLO and no extension.
    pub helo_only: bool,
    /// Everything behind the address in MAIL, with a leading blank, or empty.
    pub mail_tail: String,
    /// Name for HELO/EHLO.
    pub helo: String,
    /// Where results are appended.
    pub ledger: Option<File>,
    /// Longest wait for one reply.
    pub timeout: Duration,
    /// Go on while connections are refused.
    pub patient: bool,
    from: (String, Option<String>),
    from_count: u64,
    rcpt_prefix: String,
    domains: Domains,
}

#[derive(Debug)]
enum Domains {
    Listed(Vec<String>),
    Generated(u64, String),
}

impl Plan {
    /// Checks the options. Errors are the operator's: an address that does not resolve, a contradiction.
    pub fn new(options: &Options) -> Result<Self> {
        if options.tls && options.starttls {
            bail!("--tls and --starttls exclude each other");
        }
        if let Some(cores) = &options.cores {
            crate::process::pin_self(cores)?;
        }
        let to = options.to.to_socket_addrs().with_context(|| format!("resolving {}", options.to))?.next();
        let to = to.with_context(|| format!("{} has no address", options.to))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let eight_bit = options.body.as_deref().is_some_and(|body| body.eq_ignore_ascii_case("8bitmime"));
        let domains = match options.domain_count {
            0 => Domains::Listed(options.domains.clone()),
            count => Domains::Generated(count, options.domains.first().cloned().unwrap_or_default()),
        };
        let first_domain = options.domains.first().context("--domains is empty")?;
        let to_field = format!("list@{first_domain}");
        let date = crate::clock::rfc5322(now);
        let from_field = options.from.replace("%d", "0");
        let mut template = Template::new(options.size, options.dots, eight_bit, &date, &from_field, &to_field);
        if !options.header.is_empty() {
            template = template.with_fields(&options.header);
        }
        let start = Instant::now() + Duration::from_millis(if options.rate.is_some() { 50 } else { 0 });
        let connections = options.connections.max(1);
        Ok(Self {
            to,
            server_name: options.to.rsplit_once(':').map_or(options.to.clone(), |(host, _)| host.to_owned()),
            threads: options.threads.clamp(1, connections),
            connections,
            messages: options.messages.unwrap_or(if options.seconds.is_some() { u64::MAX } else { 1000 }),
            first_id: options.first_id,
            deadline: options.seconds.map(|seconds| start + Duration::from_secs_f64(seconds)),
            interval: options.rate.map(|rate| Duration::from_secs_f64(1.0 / rate.max(0.001))),
            start,
            mail_tail: mail_tail(options, template.stored_len()),
            template,
            rcpts: options.rcpts.max(1),
            pipelining: options.pipelining && !options.helo_only,
            bdat: options.bdat && !options.helo_only,
            starttls: options.starttls,
            tls: (options.tls || options.starttls).then(crate::stream::client_tls),
            auth: options.auth.as_deref().map(plain_response).transpose()?,
            per_connection: if options.no_reuse { 1 } else { options.per_connection },
            helo_only: options.helo_only,
            helo: options.helo.clone(),
            ledger: options.ledger.as_deref().map(crate::report::append_to).transpose()?,
            timeout: Duration::from_secs_f64(options.timeout.max(0.01)),
            patient: options.patient,
            from: match options.from.split_once("%d") {
                Some((before, after)) => (before.to_owned(), Some(after.to_owned())),
                None => (options.from.clone(), None),
            },
            from_count: options.from_count.max(1),
            rcpt_prefix: options.rcpt_prefix.clone(),
            domains,
        })
    }

    /// Appends the MAIL command of message `id`.
    pub fn write_mail(&self, id: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"MAIL FROM:<");
        out.extend_from_slice(self.from.0.as_bytes());
        if let Some(after) = &self.from.1 {
            push_number(id % self.from_count, out);
            out.extend_from_slice(after.as_bytes());
        }
        out.push(b'>');
        out.extend_from_slice(self.mail_tail.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// Appends the RCPT command of recipient `index` of message `id`.
    pub fn write_rcpt(&self, id: u64, index: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(b"RCPT TO:<");
        out.extend_from_slice(self.rcpt_prefix.as_bytes());
        push_number(id, out);
        if self.rcpts > 1 {
            out.push(b'x');
            push_number(index as u64, out);
        }
        out.push(b'@');
        let turn = id.wrapping_mul(self.rcpts as u64).wrapping_add(index as u64);
        match &self.domains {
            Domains::Listed(list) => {
                let at = (turn % list.len().max(1) as u64) as usize;
                out.extend_from_slice(list.get(at).map_or(b"example.test".as_slice(), |domain| domain.as_bytes()));
            }
            Domains::Generated(count, under) => {
                out.push(b'd');
                push_number(turn % count, out);
                out.push(b'.');
                out.extend_from_slice(under.as_bytes());
            }
        }
        out.extend_from_slice(b">\r\n");
    }
}

/// Appends a number in decimal.
pub fn push_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut rest = number;
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        used += 1;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

fn mail_tail(options: &Options, stored_len: usize) -> String {
    let mut tail = String::new();
    if let Some(body) = &options.body {
        tail.push_str(" BODY=");
        tail.push_str(&body.to_ascii_uppercase());
    }
    if options.announce_size {
        tail.push_str(&format!(" SIZE={stored_len}"));
    }
    if let Some(extra) = &options.mail_parameters {
        tail.push(' ');
        tail.push_str(extra);
    }
    tail
}

fn plain_response(pair: &str) -> Result<String> {
    let (user, password) = pair.split_once(':').context("--auth wants user:password")?;
    Ok(base64::engine::general_purpose::STANDARD.encode(format!("\0{user}\0{password}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: u64) -> String {
        let mut out = Vec::new();
        push_number(n, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_are_decimal() {
        assert_eq!((number(0), number(907), number(u64::MAX)), ("0".into(), "907".into(), u64::MAX.to_string()));
    }

    #[test]
    fn r4616_plain_response() {
        assert_eq!(plain_response("tim:tanstaaftanstaaf").unwrap(), "AHRpbQB0YW5zdGFhZnRhbnN0YWFm");
        assert!(plain_response("nobody").is_err());
    }
}
