//! Connections that are opened, greeted and then do nothing, to see what an idle one costs a server.

use super::conversation::Conversation;
use super::plan::{Options, Plan};
use anyhow::{Context, Result};
use clap::Parser;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Longest wait for one connection to be greeted.
const PATIENCE: Duration = Duration::from_secs(5);

/// Open connections; they close when this is dropped.
#[derive(Debug)]
pub struct Held {
    connections: Vec<Conversation>,
    _runtime: Runtime,
}

impl Held {
    /// How many are open.
    pub fn count(&self) -> usize {
        self.connections.len()
    }
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// Opens `count` connections to `to`, with STARTTLS if the server takes it. Says whether it did. The limit of open
/// files is raised as far as allowed.
pub fn hold(to: &str, count: usize) -> Result<(Held, bool)> {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let plan = |arguments: &[&str]| -> Result<Arc<Plan>> {
        let mut line = vec!["hold", "--to", to];
        line.extend_from_slice(arguments);
        Ok(Arc::new(Plan::new(&Line::try_parse_from(line)?.options)?))
    };
    let open = |plan: &Arc<Plan>| {
        let opened = async { tokio::time::timeout(PATIENCE, Conversation::open(plan.clone())).await };
        runtime.block_on(opened).unwrap_or_else(|_| Err(anyhow::anyhow!("no greeting within {PATIENCE:?}")))
    };
    let mut chosen = plan(&["--starttls"])?;
    let tls = open(&chosen).is_ok();
    if !tls {
        chosen = plan(&[])?;
    }
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        match open(&chosen) {
            Ok(conversation) => connections.push(conversation),
            Err(error) if connections.is_empty() => return Err(error).context("the first connection to hold"),
            Err(error) => {
                eprintln!("held {}: {error:#}", connections.len());
                break;
            }
        }
    }
    Ok((Held { connections, _runtime: runtime }, tls))
}

/// Sets the soft limit of open files to the hard one; many connections need it.
pub fn raise_file_limit() {
    use nix::sys::resource::{getrlimit, setrlimit, Resource};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
