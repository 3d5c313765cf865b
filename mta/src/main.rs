//! The binary `ringpost`: arguments, logs, and on to `control`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mta::control::{doctor, run, serve};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A sending mail server.
#[derive(Parser)]
#[command(name = "ringpost", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the mail transfer agent with a configuration, until SIGTERM.
    Mta {
        /// The configuration.
        #[arg(long, default_value = "ringpost.toml")]
        config: PathBuf,
    },
    /// Make a first configuration where there is none, run it, and send one message through.
    Run {
        /// Where configuration, keys, spool and events are kept.
        #[arg(long, default_value = "var")]
        dir: PathBuf,
        /// The `ringbench` binary: starts a receiving server for the domains under .test beside it.
        #[arg(long)]
        sink: Option<PathBuf>,
    },
    /// Write a first, commented configuration, unless there is one.
    Init {
        /// Where.
        #[arg(long, default_value = "var")]
        dir: PathBuf,
    },
    /// Check a configuration and say what it would do.
    Check {
        /// The configuration.
        #[arg(long, default_value = "ringpost.toml")]
        config: PathBuf,
    },
    /// Tell what this machine can do for mail, and what to change.
    Doctor {
        /// The configuration.
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Make a DKIM key and print the DNS record to publish.
    DkimKey {
        /// The file to write; it must not exist.
        #[arg(long)]
        out: PathBuf,
        /// Domain that signs.
        #[arg(long)]
        domain: String,
        /// Selector of the key.
        #[arg(long)]
        selector: String,
        /// `rsa` (2048 bits) or `ed25519`.
        #[arg(long, default_value = "rsa")]
        kind: String,
    },
    /// Turn a password (from standard input) into a verifier for `[[credential]]`.
    HashPassword {
        /// `scram` (serves every mechanism) or `argon2id` (PLAIN and LOGIN only).
        #[arg(long, default_value = "scram")]
        kind: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Mta { config } => {
            serve::log_json();
            serve::mta(&config)
        }
        Command::Run { dir, sink } => {
            serve::log_text();
            run::run(&dir, sink.as_deref())
        }
        Command::Init { dir } => run::init(&dir),
        Command::Check { config } => serve::check(&config),
        Command::Doctor { config } => doctor::doctor(config.as_deref()),
        Command::DkimKey { out, domain, selector, kind } => run::dkim_key(&out, &domain, &selector, &kind),
        Command::HashPassword { kind } => run::hash_password(&kind),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain in one line: what failed, why, and what to do.
            eprintln!("ringpost: {error:#}");
            ExitCode::FAILURE
        }
    }
}
