//! `ringbench sink`: a receiving server that takes everything, or misbehaves as told.
//!
//! One thread, one epoll loop. The protocol lives in `session` (bytes in, bytes out, no socket, no clock);
//! `connection` moves bytes. Keeps no mail: a message is looked at while it is in memory and counted.

mod connection;
mod dkim;
mod http;
mod page;
mod recent;
mod rules;
mod session;
mod stats;
mod world;

use anyhow::{Context, Result};
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

pub use stats::Stats;

/// Command line of `ringbench sink`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Address to listen on (repeatable)
    #[arg(long, short = 'L', default_value = "127.0.0.1:2526")]
    pub listen: Vec<SocketAddr>,
    /// accept | defer | refuse | slow | tarpit | close-after=N | drop-after-data=N
    #[arg(long, default_value = "accept")]
    pub mode: String,
    /// TOML file of rules: what to answer whom
    #[arg(long)]
    pub rules: Option<PathBuf>,
    /// Do not offer PIPELINING
    #[arg(long)]
    pub no_pipelining: bool,
    /// Do not offer CHUNKING
    #[arg(long)]
    pub no_chunking: bool,
    /// Do not offer 8BITMIME
    #[arg(long)]
    pub no_8bitmime: bool,
    /// Offer SMTPUTF8
    #[arg(long)]
    pub smtputf8: bool,
    /// Do not offer STARTTLS
    #[arg(long)]
    pub no_tls: bool,
    /// TLS from the first byte
    #[arg(long)]
    pub tls: bool,
    /// Offer STARTTLS and break it: refuse | garbage | close | expired
    #[arg(long)]
    pub bad_tls: Option<String>,
    /// Offer and enforce LIMITS (RFC 9422), e.g. "MAILMAX=20 RCPTMAX=100"
    #[arg(long)]
    pub limits: Option<String>,
    /// Size announced in EHLO, bytes; larger messages get 552
    #[arg(long, default_value_t = crate::limits::SINK_MESSAGE_MAX)]
    pub size: u64,
    /// Append a line per accepted recipient to this file
    #[arg(long)]
    pub ledger: Option<PathBuf>,
    /// Check X-Bench-Sum of every message that carries one
    #[arg(long)]
    pub verify: bool,
    /// Verify DKIM signatures with the key records of this file ("selector._domainkey.domain v=DKIM1; p=..." lines)
    #[arg(long, alias = "dkim-records")]
    pub dkim_keys: Option<PathBuf>,
    /// Serve counters and the last messages as a page on this address
    #[arg(long)]
    pub http: Option<SocketAddr>,
    /// Name in the greeting and the certificate
    #[arg(long, default_value = "sink.bench.test")]
    pub name: String,
    /// Stop after this many seconds
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Stop after this many accepted messages
    #[arg(long)]
    pub messages: Option<u64>,
    /// Milliseconds before each reply in the modes slow and tarpit
    #[arg(long, default_value_t = 1000)]
    pub delay: u64,
    /// Seed of the rules with a probability
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the counters as JSON to this file at the end (- for standard output)
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Pin the process to these cores first, e.g. 1
    #[arg(long)]
    pub cores: Option<String>,
}

/// Runs until told to stop (SIGINT, SIGTERM, --seconds, --messages); returns the counters.
pub fn run(options: &Options) -> Result<Stats> {
    if let Some(cores) = &options.cores {
        crate::process::pin_self(cores)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let world = Rc::new(world::World::new(options)?);
    let seconds = options.seconds;
    let served = world.clone();
    local.block_on(&runtime, async move {
        for address in &served.options.listen {
            let listener = listen(*address).with_context(|| format!("listening on {address}"))?;
            tokio::task::spawn_local(connection::accept(listener, served.clone()));
        }
        if let Some(address) = served.options.http {
            let listener = listen(address).with_context(|| format!("page on {address}"))?;
            println!("page on http://{}/", listener.local_addr()?);
            tokio::task::spawn_local(http::serve(listener, served.clone()));
        }
        println!("listening on {:?}", served.options.listen);
        tokio::task::spawn_local(flush(served.clone()));
        until_stopped(&served, seconds).await
    })?;
    world.flush();
    let mut stats = world.stats.borrow().clone();
    stats.finish();
    Ok(stats)
}

/// The subcommand: runs, prints, writes JSON.
pub fn command(options: &Options) -> Result<()> {
    let stats = run(options)?;
    stats.print();
    if let Some(path) = &options.json {
        crate::report::write_json(path, &stats)?;
    }
    Ok(())
}

fn listen(address: SocketAddr) -> Result<tokio::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(8192)?;
    Ok(tokio::net::TcpListener::from_std(socket.into())?)
}

async fn flush(world: Rc<world::World>) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.flush();
    }
}

async fn until_stopped(world: &world::World, seconds: Option<f64>) -> Result<()> {
    use tokio::signal::unix::{signal, SignalKind};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let end = async {
        match seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs_f64(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = end => {}
        () = world.enough.notified() => {
            // The last reply is still on its way out.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}
