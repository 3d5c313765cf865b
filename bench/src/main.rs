//! `ringbench`: injector, sink, scenarios and reports for any SMTP server. Speaks only the wire and links none of the
//! other crates, so a figure it prints owes nothing to the server it measures.

mod clock;
mod inject;
mod limits;
mod message;
mod process;
mod report;
mod sink;
mod stream;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "ringbench", version, about = "Load tool and test sink for SMTP servers")]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send load
    Inject(Box<inject::Options>),
    /// Receive load
    Sink(Box<sink::Options>),
}

fn main() -> anyhow::Result<()> {
    // Only the first call can win; there is only this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match Line::parse().command {
        Command::Inject(options) => inject::command(&options),
        Command::Sink(options) => sink::command(&options),
    }
}
