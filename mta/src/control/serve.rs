//! `ringpost mta`: a configuration, started, watched for signals, stopped.

use std::path::Path;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

use super::start::{self, Running};
use crate::config;

/// Logs as JSON lines on standard error. The level comes from RINGPOST_LOG (default `info`).
pub fn log_json() {
    tracing_subscriber::fmt().json().with_env_filter(filter()).with_writer(std::io::stderr).init();
}

/// Logs as text, for a person at a terminal. Warnings and worse, unless RINGPOST_LOG says otherwise.
pub fn log_text() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("RINGPOST_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt().compact().with_env_filter(filter).with_writer(std::io::stderr).init();
}

fn filter() -> tracing_subscriber::EnvFilter {
    // The resolver's own chatter is not an operator's business.
    tracing_subscriber::EnvFilter::try_from_env("RINGPOST_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,hickory_resolver=error,hickory_net=error"))
}

/// The signals that mean something to us. Blocked in every thread, waited for in one.
fn signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set
}

/// Runs until SIGTERM or SIGINT. SIGHUP reads the configuration again; a bad one changes nothing.
pub fn mta(path: &Path) -> Result<()> {
    let mut config = config::load(path)?;
    let signals = signals();
    signals.thread_block().context("blocking signals")?;
    let running = start::start(&config)?;
    announce(&running);
    while signals.wait().context("waiting for a signal")? == Signal::SIGHUP {
        match config::load(path) {
            Ok(new) => {
                if running.reload(&config, &new) {
                    config = new;
                }
            }
            Err(error) => tracing::error!(%error, "the configuration is refused; nothing changed"),
        }
    }
    tracing::info!("stopping: transactions under way end first");
    running.stop();
    Ok(())
}

fn announce(running: &Running) {
    for line in &running.listening {
        tracing::info!(listener = line, "listening");
    }
    for remark in &running.remarks {
        tracing::warn!("{remark}");
    }
}

/// Checks a configuration and prints what it would do.
pub fn check(path: &Path) -> Result<()> {
    let config = config::load(path)?;
    println!("{} is fine", path.display());
    for listener in &config.listeners {
        println!("  listens on {} as {:?}", listener.address, listener.role);
    }
    println!(
        "  {} credentials, {} sources in {} pools",
        config.credentials.len(),
        config.sources.len(),
        config.pools.len()
    );
    println!("  {} static routes, {} DKIM keys", config.routes.len(), config.dkim.len());
    if config.lab {
        println!("  LAB: names of sources are believed and lab routes are allowed; not for the internet");
    }
    Ok(())
}

/// Blocks the signals we wait for, for callers that start threads before they wait.
pub fn block_signals() -> Result<SigSet> {
    let signals = signals();
    signals.thread_block().context("blocking signals")?;
    Ok(signals)
}
