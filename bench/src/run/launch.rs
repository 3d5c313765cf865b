//! `ringbench launch`: joins control groups, pins itself, then becomes the given command. Lets a server be counted from
//! its first instruction without any code between fork and exec.

use anyhow::{Context, Result};
use clap::Args;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

/// Command line of `ringbench launch`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Cores to pin to
    #[arg(long)]
    pub cores: Option<String>,
    /// `cgroup.procs` files to join
    #[arg(long)]
    pub join: Vec<PathBuf>,
    /// The command
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Does not return unless something fails.
pub fn command(options: &Options) -> Result<()> {
    // A run that is killed takes its server and its loads with it.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM).context("tying to the parent")?;
    for door in &options.join {
        std::fs::write(door, std::process::id().to_string()).with_context(|| format!("joining {}", door.display()))?;
    }
    if let Some(cores) = &options.cores {
        crate::process::pin_self(cores)?;
    }
    let (program, arguments) = options.command.split_first().context("no command")?;
    Err(std::process::Command::new(program).args(arguments).exec()).context("starting the command")
}
