//! The status page: what is queued, where it waits and why, in JSON for programs and as a plain page for people. On
//! loopback only, without a login; it changes nothing.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::Html;
use axum::routing::get;
use axum::{Json, Router};
use queue::spool::Spool;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::egress::Egress;
use crate::net::Sender;
use crate::shard::core::Core;
use crate::shard::ledger::LedgerState;
use crate::shard::mail::ShardMail;

/// Paths listed at most, those with the most waiting first.
const PATHS_MAX: usize = 200;
/// A shard that does not answer for this long is left out.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the page looks at.
#[derive(Clone)]
pub struct Sources {
    /// The spool.
    pub spool: Arc<Spool>,
    /// Mailboxes of the shards.
    pub mailboxes: Vec<Sender<ShardMail>>,
    /// Egress sources.
    pub egress: Egress,
    /// The ledger.
    pub ledger: Arc<LedgerState>,
}

/// Everything, at one moment.
#[derive(Serialize, Default)]
struct Status {
    version: &'static str,
    queued_messages: usize,
    queued_recipients: usize,
    scheduled: usize,
    due: usize,
    in_flight: usize,
    held: usize,
    queues: usize,
    backlog_bytes: usize,
    connections: u32,
    stopped: bool,
    spool: SpoolNumbers,
    sources: Vec<SourceLine>,
    paths: Vec<PathLine>,
}

#[derive(Serialize, Default)]
struct SpoolNumbers {
    writer: String,
    messages: u64,
    live_bytes: u64,
    used_bytes: u64,
    segments: usize,
    spares: usize,
    recycled: u64,
    compacted: u64,
    free_bytes: u64,
    reserve_bytes: u64,
    trouble: String,
}

#[derive(Serialize)]
struct SourceLine {
    name: String,
    address: String,
    standing: String,
}

#[derive(Serialize, Clone)]
struct PathLine {
    source: u16,
    site: String,
    waiting: usize,
    connections: u32,
    idle: u32,
    held_by: Option<String>,
    held_ms: u64,
}

/// Serves the page until the runtime ends.
pub async fn serve(listener: tokio::net::TcpListener, sources: Sources) {
    let page = sources.clone();
    let app = Router::new()
        .route("/", get(move || async move { Html(html(&look(&page).await)) }))
        .route("/status.json", get(move || async move { Json(look(&sources).await) }));
    if let Err(error) = axum::serve(listener, app).await {
        tracing::error!(%error, "the status page ended");
    }
}

/// Binds the page's port.
///
/// Errors: the port is taken; says what to do.
pub async fn bind(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address).await.map_err(|error| {
        std::io::Error::new(
            error.kind(),
            format!("control.listen: {address}: {error}; choose another port or leave it empty"),
        )
    })
}

async fn look(sources: &Sources) -> Status {
    let mut status = Status { version: env!("CARGO_PKG_VERSION"), ..Status::default() };
    for mailbox in &sources.mailboxes {
        let (answer, wait) = oneshot::channel();
        let question = Box::new(move |core: &mut Core| {
            // Whoever asked may have gone.
            let _ = answer.send(shard_of(core));
        });
        if mailbox.send(ShardMail::Inspect(question)).is_err() {
            continue;
        }
        if let Ok(Ok(shard)) = tokio::time::timeout(PATIENCE, wait).await {
            add(&mut status, shard);
        }
    }
    status.paths.sort_by_key(|path| std::cmp::Reverse(path.waiting));
    status.paths.truncate(PATHS_MAX);
    status.stopped = sources.ledger.stopped.load(Ordering::Acquire);
    status.spool = spool_of(&sources.spool);
    status.sources = sources_of(&sources.egress);
    status
}

fn shard_of(core: &mut Core) -> Status {
    let totals = core.backlog().totals();
    let now = Instant::now();
    let paths: Vec<PathLine> = core
        .owner()
        .0
        .paths()
        .map(|path| {
            let held = path.held().filter(|(until, _)| *until > now && path.waiting() > 0);
            PathLine {
                source: path.key.source,
                site: path.key.site.as_str().to_owned(),
                waiting: path.waiting(),
                connections: path.connections(),
                idle: path.idle,
                held_by: held.map(|(_, rule)| format!("{rule:?}")),
                held_ms: held.map_or(0, |(until, _)| (until - now).as_millis() as u64),
            }
        })
        .collect();
    Status {
        queued_messages: totals.messages,
        queued_recipients: totals.recipients,
        scheduled: totals.scheduled,
        due: totals.due,
        in_flight: totals.taken,
        held: totals.held,
        queues: totals.queues,
        backlog_bytes: totals.bytes,
        connections: paths.iter().map(|p| p.connections).sum(),
        paths,
        ..Status::default()
    }
}

fn add(status: &mut Status, shard: Status) {
    status.queued_messages += shard.queued_messages;
    status.queued_recipients += shard.queued_recipients;
    status.scheduled += shard.scheduled;
    status.due += shard.due;
    status.in_flight += shard.in_flight;
    status.held += shard.held;
    status.queues += shard.queues;
    status.backlog_bytes += shard.backlog_bytes;
    status.connections += shard.connections;
    status.paths.extend(shard.paths);
}

fn spool_of(spool: &Spool) -> SpoolNumbers {
    let s = spool.status();
    SpoolNumbers {
        writer: s.writer.map_or_else(String::new, |w| format!("{w:?}")),
        messages: s.messages,
        live_bytes: s.live_bytes,
        used_bytes: s.used_bytes,
        segments: s.segments,
        spares: s.spares,
        recycled: s.recycled,
        compacted: s.compacted,
        free_bytes: s.room.free,
        reserve_bytes: s.reserve,
        trouble: s.trouble,
    }
}

fn sources_of(egress: &Egress) -> Vec<SourceLine> {
    egress
        .table()
        .entries
        .iter()
        .map(|entry| SourceLine {
            name: entry.source.name.clone(),
            address: entry.source.address.to_string(),
            standing: match entry.ehlo() {
                Some(name) => format!("sends as {name}"),
                None => format!("parked: {:?}", entry.standing),
            },
        })
        .collect()
}

fn html(s: &Status) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta http-equiv=refresh content=5>\
         <meta name=viewport content=\"width=device-width\"><title>Ringpost</title><style>body{font:15px/1.5 \
         system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}\
         table{border-collapse:collapse;width:100%}\
         td,th{text-align:left;padding:.2rem .6rem;border-bottom:1px solid #ddd}td.n{text-align:right}\
         .bad{color:#a11}</style></head><body>",
    );
    let _ = write!(
        page,
        "<h1>Ringpost {}</h1><p>{} recipients of {} messages queued: {} due, {} in flight, {} scheduled, {} held. \
         {} connections out.</p>",
        s.version, s.queued_recipients, s.queued_messages, s.due, s.in_flight, s.scheduled, s.held, s.connections
    );
    if s.stopped {
        page.push_str("<p class=bad>The ack log or the event log can't be written: nothing is accepted or sent.</p>");
    }
    let p = &s.spool;
    let _ = write!(
        page,
        "<h2>Spool</h2><p>{} MiB live of {} MiB in {} segments, {} spare; {} MiB free on the disk, {} MiB kept in \
         reserve. Writer: {}. {}</p><h2>Sources</h2><table>",
        p.live_bytes >> 20,
        p.used_bytes >> 20,
        p.segments,
        p.spares,
        p.free_bytes >> 20,
        p.reserve_bytes >> 20,
        escape(&p.writer),
        escape(&p.trouble)
    );
    for line in &s.sources {
        let _ =
            write!(page, "<tr><td>{}<td>{}<td>{}", escape(&line.name), escape(&line.address), escape(&line.standing));
    }
    page.push_str("</table><h2>Paths</h2><table><tr><th>Source<th>Site<th>Waiting<th>Connections<th>Held by");
    for path in &s.paths {
        let _ = write!(
            page,
            "<tr><td>{}<td>{}<td class=n>{}<td class=n>{}<td>{}",
            path.source,
            escape(&path.site),
            path.waiting,
            path.connections,
            escape(path.held_by.as_deref().unwrap_or_default())
        );
    }
    page.push_str("</table><p><a href=/status.json>The same as JSON</a></p></body></html>");
    page
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
