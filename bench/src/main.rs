//! `ringbench`: injector, sink, scenarios and reports for any SMTP server. Speaks only the wire and links none of the
//! other crates, so a figure it prints owes nothing to the server it measures.

mod clock;
mod inject;
mod limits;
mod message;
mod process;
mod report;
mod run;
mod show;
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
    /// Run a scenario against a server and hold it against its bars
    Run(Box<run::Options>),
    /// Run the same scenario against several servers
    Compare(Box<run::Compare>),
    /// Draw results as a page and a table
    Report(report::Options),
    /// List the rows of the specification, or prove one
    Show(show::Options),
    /// Join control groups, pin, become the given command
    #[command(hide = true)]
    Launch(run::launch::Options),
    #[command(hide = true)]
    RawLoad(run::raw::Raw),
    #[command(hide = true)]
    RawMove(run::raw::Raw),
    #[command(hide = true)]
    RawSink(run::raw::Raw),
}

fn main() -> std::process::ExitCode {
    // Only the first call can win; there is only this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    inject::raise_file_limit();
    let done = match Line::parse().command {
        Command::Inject(options) => inject::command(&options),
        Command::Sink(options) => sink::command(&options),
        Command::Run(options) => run::command(&options),
        Command::Compare(options) => run::compare(&options),
        Command::Report(options) => report::command(&options),
        Command::Show(options) => show::command(&options),
        Command::Launch(options) => run::launch::command(&options),
        Command::RawLoad(raw) => run::raw::load(&raw),
        Command::RawMove(raw) => run::raw::moves(&raw),
        Command::RawSink(raw) => run::raw::sink(&raw),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringbench: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
