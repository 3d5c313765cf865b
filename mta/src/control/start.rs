//! Assembles the process: spool, ledger, pool, shards, listeners; and takes it apart again in the right order.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use arc_swap::ArcSwap;
use queue::ack::{AckLog, AckOptions, AckPort, DirStore, Replay};
use queue::spool::{self, Recovery, Spool, WriterChoice};
use queue::SpoolId;

use super::{assemble, status};
use crate::config::resolved::DriverChoice;
use crate::config::Config;
use crate::dns::routes::Routes;
use crate::dns::Resolver;
use crate::egress::Egress;
use crate::message::render::Pool;
use crate::net::{self, Driver, Sender};
use crate::record::log::Sizes;
use crate::record::EventLog;
use crate::shard::acceptance::IngressPlan;
use crate::shard::driver::{wall, Links};
use crate::shard::jobs::RenderContext;
use crate::shard::ledger::{Ledger, LedgerState, NoteQueue};
use crate::shard::mail::ShardMail;
use crate::shard::outbound::{Fixed, Judges, Outbound};
use crate::shard::placement::Placement;
use crate::shard::policy::Policy;
use crate::shard::recovery::RecoveredMessage;
use crate::shard::reported::Reported;
use crate::shard::work::{self, ShardPlan};
use crate::tls;

/// Letters a shard's mailbox holds.
const MAILBOX: usize = 65_536;
/// A drain waits this long for transactions under way; RFC 5321 4.5.3.2.6 would allow ten minutes after the dot, and
/// what is not answered by then is Unknown, as after a crash.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// The running process.
pub struct Running {
    /// What listens where, for people.
    pub listening: Vec<String>,
    /// Remarks worth a line at start.
    pub remarks: Vec<String>,
    /// The spool.
    pub spool: Arc<Spool>,
    /// Mailboxes of the shards.
    pub mailboxes: Vec<Sender<ShardMail>>,
    /// The sources.
    pub egress: Egress,
    /// Done when everything on disk is scheduled.
    pub recovered: Arc<AtomicBool>,
    ledger: Option<Ledger>,
    shards: Vec<JoinHandle<()>>,
    live: Arc<work::Live>,
    control: Option<tokio::runtime::Runtime>,
    recovery: Option<JoinHandle<()>>,
    memory: Arc<Mutex<tls::Memory>>,
    memory_path: PathBuf,
    ingress: Arc<IngressPlan>,
    render: Arc<RenderContext>,
    outbound: Outbound,
}

/// Which driver the shards run on, and a remark when it is not the one wished for.
fn choose_driver(choice: DriverChoice) -> Result<(Driver, Option<String>)> {
    match (choice, net::probe()) {
        (DriverChoice::Epoll, _) => Ok((Driver::Epoll, None)),
        (_, Ok(())) => Ok((Driver::IoUring, None)),
        (DriverChoice::Auto, Err(why)) => Ok((Driver::Epoll, Some(format!("running on epoll: {why}")))),
        (DriverChoice::IoUring, Err(why)) => bail!("server.driver = \"io_uring\": {why}"),
    }
}

/// The cores shards are pinned to; empty when pinning makes no sense (one shard, no wish).
fn choose_cores(config: &Config) -> (usize, Vec<usize>) {
    let allowed = work::allowed_cores();
    let cores: Vec<usize> = if config.cores.is_empty() {
        allowed
    } else {
        config.cores.iter().copied().filter(|c| allowed.contains(c)).collect()
    };
    let shards = if config.shards == 0 { cores.len().max(1) } else { config.shards };
    (shards, cores)
}

/// Places where distributions keep the public certificate authorities.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The resolver's library insists on loading the machine's certificate authorities, though our DNS never speaks TLS.
/// Where there are none (bare containers, small images) it is pointed at our own certificate instead of refusing to
/// start. Our own verification uses the roots built in. Before any thread starts: the environment is not shared yet.
fn mind_missing_authorities(config: &Config) {
    let named = std::env::var_os("SSL_CERT_FILE").is_some() || std::env::var_os("SSL_CERT_DIR").is_some();
    if !named && !AUTHORITIES.iter().any(|path| Path::new(path).exists()) {
        std::env::set_var("SSL_CERT_FILE", &config.tls.certificate);
    }
}

/// Starts everything a configuration asks for.
pub fn start(config: &Config) -> Result<Running> {
    let mut remarks = Vec::new();
    let server_tls = assemble::server_tls(config)?;
    mind_missing_authorities(config);
    let (driver, remark) = choose_driver(config.driver)?;
    remarks.extend(remark);
    let (count, cores) = choose_cores(config);
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("starting the control thread")?;
    let resolver = Resolver::start(assemble::resolver(config), control.handle()).map_err(anyhow::Error::msg)?;
    let check_parked = Duration::from_secs(u64::from(config.dns.parked_check_s));
    let egress = Egress::start_checking(assemble::sources(config), resolver.clone(), check_parked, control.handle());
    let (spool, recovery) = open_spool(config)?;
    let status = spool.status();
    remarks.extend(status.reasons.iter().map(|r| format!("spool writer: {r}")));
    let (log, replay, ports) = open_ack_log(config, &spool, recovery.is_new(), count)?;
    let memory_path = PathBuf::from(&config.tls.memory);
    let memory = tls::Memory::load(&memory_path).with_context(|| {
        format!("tls.memory: {}: remove the file to start with an empty memory", memory_path.display())
    })?;
    let memory = Arc::new(Mutex::new(memory));
    let policy = Arc::new(Policy::new(config, count));
    let fixed = Fixed::new(&policy.routes).map_err(anyhow::Error::msg)?;
    let outbound = Outbound {
        egress: egress.clone(),
        fixed: Arc::new(ArcSwap::from_pointee([fixed.clone(), fixed])),
        judges: Judges::new()?,
        memory: Arc::clone(&memory),
        lab: config.lab,
    };
    let render =
        Arc::new(RenderContext::new(Arc::clone(&spool), assemble::dkim_keys(config)?, config.hostname.clone()));
    let pool = Arc::new(Pool::for_cores(cores.len().max(1)).context("starting the render pool")?);
    let (mailboxes, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| net::mailbox(MAILBOX)).unzip();
    let notes = Ledger::queues(count);
    let ledger = start_ledger(config, log, &notes, &mailboxes, &spool)?;
    let placement = Arc::new(Placement::new(count));
    let ingress = Arc::new(assemble::ingress(config, server_tls, &spool, count)?);
    let live = Arc::new(work::Live::default());
    let mut shards = Vec::new();
    let mut listening = Vec::new();
    for (id, (mailbox, port)) in receivers.into_iter().zip(ports).enumerate() {
        let links = Links {
            id: u16::try_from(id).context("too many shards")?,
            spool: Arc::clone(&spool),
            mailboxes: mailboxes.clone(),
            notes: notes[id].clone(),
            ledger: Arc::clone(&ledger.state),
            pool: Arc::clone(&pool),
            resolver: resolver.clone(),
            render: Arc::clone(&render),
            outbound: outbound.clone(),
        };
        let plan = ShardPlan {
            links,
            driver,
            cpu: cores.get(id % cores.len().max(1)).copied().filter(|_| !cores.is_empty()),
            policy: Arc::clone(&policy),
            placement: Arc::clone(&placement),
            acks: port,
            mailbox,
            ingress: Arc::clone(&ingress),
            live: Arc::clone(&live),
        };
        shards.push(work::start(plan, &mut listening)?);
    }
    if let Some(address) = config.control {
        let listener = control.block_on(status::bind(address))?;
        let sources = status::Sources {
            spool: Arc::clone(&spool),
            mailboxes: mailboxes.clone(),
            egress: egress.clone(),
            ledger: Arc::clone(&ledger.state),
        };
        control.spawn(status::serve(listener, sources));
        listening.push(format!("http://{address}/ status page"));
    }
    let recovered = Arc::new(AtomicBool::new(false));
    let recovery =
        start_recovery(recovery, replay, &spool, mailboxes.clone(), Arc::clone(&recovered), Arc::clone(&ledger.state))?;
    Ok(Running {
        listening,
        remarks,
        spool,
        mailboxes,
        egress,
        recovered,
        ledger: Some(ledger),
        shards,
        live,
        control: Some(control),
        recovery: Some(recovery),
        memory,
        memory_path,
        ingress,
        render,
        outbound,
    })
}

fn open_spool(config: &Config) -> Result<(Arc<Spool>, Recovery)> {
    let s = &config.spool;
    let mut settings = spool::Settings::new(PathBuf::from(&s.dir), rand::random());
    settings.segment_bytes = s.segment_mib * 1024 * 1024;
    settings.spares = s.spares;
    settings.reserve_bytes = s.reserve_mib.saturating_mul(1024 * 1024);
    settings.reserve_percent = s.reserve_percent;
    settings.writer = match s.writer.as_str() {
        "ring" => WriterChoice::Ring,
        "pwrite" => WriterChoice::Pwrite,
        _ => WriterChoice::Auto,
    };
    std::fs::create_dir_all(&s.dir)
        .with_context(|| format!("spool.dir: {}: create it and give it to the user that runs ringpost", s.dir))?;
    Ok(Spool::open(settings, wall())?)
}

type OpenedLog = (AckLog<DirStore>, Replay, Vec<AckPort>);

fn open_ack_log(config: &Config, spool: &Spool, is_new: bool, shards: usize) -> Result<OpenedLog> {
    let dir = PathBuf::from(&config.spool.dir).join("ack");
    let store = DirStore::open(&dir)
        .with_context(|| format!("{}: give the spool directory to the user that runs ringpost", dir.display()))?;
    let shm = Path::new(&config.spool.shm_dir);
    let (mut log, replay) = AckLog::open(store, shm, spool.identity(), is_new, AckOptions::default())
        .with_context(|| format!("the ack log in {}, with its rings in {}", dir.display(), shm.display()))?;
    let ports = (0..shards)
        .map(|shard| log.port(u16::try_from(shard).unwrap_or(u16::MAX)))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("spool.shm_dir: {}: it must be a tmpfs with some MiB free", shm.display()))?;
    Ok((log, replay, ports))
}

fn start_ledger(
    config: &Config,
    log: AckLog<DirStore>,
    notes: &[NoteQueue],
    mailboxes: &[Sender<ShardMail>],
    spool: &Arc<Spool>,
) -> Result<Ledger> {
    let sizes = Sizes::within(config.events_max);
    let (events, repair) = EventLog::open(&config.events_dir, sizes).with_context(|| {
        format!("events.dir: {}: give it to the user that runs ringpost", config.events_dir.display())
    })?;
    if repair.cut > 0 {
        tracing::info!(bytes = repair.cut, "the torn end of the event log was cut off");
    }
    let ends = notes.iter().cloned().zip(mailboxes.iter().cloned()).collect();
    let holder = Arc::clone(spool);
    let folder = PathBuf::from(&config.spool.dir).join("ack");
    let ledger = Ledger::start(log, events, ends, Arc::new(move |id| holder.may_hold(id)), &folder, &config.hostname)
        .context("starting the ledger thread")?;
    let state = Arc::clone(&ledger.state);
    spool.on_moved(Arc::new(move |moved| state.record_moves(moved.iter().map(|(id, ..)| *id), wall().secs())));
    Ok(ledger)
}

/// Tells the shards what is on disk, while they accept mail already.
fn start_recovery(
    recovery: Recovery,
    replay: Replay,
    spool: &Arc<Spool>,
    mailboxes: Vec<Sender<ShardMail>>,
    done: Arc<AtomicBool>,
    ledger: Arc<LedgerState>,
) -> Result<JoinHandle<()>> {
    let spool = Arc::clone(spool);
    let work = move || {
        let begin = Instant::now();
        let mut reported = Reported::default();
        let tell = |message: RecoveredMessage| {
            let shard = (message.id.0 as usize) % mailboxes.len().max(1);
            let mut letter = ShardMail::Recovered(Box::new(message));
            while let Err(back) = mailboxes[shard].send(letter) {
                letter = back;
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let mut highest = SpoolId(0);
        if replay.needs_settling() {
            tracing::error!(
                report = ?replay.report(),
                "the ack log is damaged: recipients it could have closed are held; release or bounce them"
            );
        }
        let report = recovery.run(&mut |found| {
            highest = highest.max(found.id);
            let message = RecoveredMessage::new(&found, |rcpt| replay.state(found.id, rcpt));
            if let Some(message) = reported.note(&found, message) {
                tell(message);
            }
        });
        reported.settle(&spool).into_iter().for_each(tell);
        for damage in &report.damage {
            tracing::error!(?damage, "the spool is damaged here; the bytes were kept aside, everything else goes on");
        }
        for mailbox in &mailboxes {
            while mailbox.send(ShardMail::RecoveryDone).is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if replay.needs_settling() {
            tracing::error!(held = replay.held_for_damage(), "recipients held because of the damaged ack log");
            ledger.settle(highest);
        }
        let seconds = begin.elapsed().as_secs_f64();
        tracing::info!(messages = report.messages, recipients = report.recipients, seconds, "the spool is read");
        done.store(true, Ordering::Release);
    };
    std::thread::Builder::new().name("recovery".into()).spawn(work).context("starting the recovery thread")
}

impl Running {
    /// Puts a checked configuration in force, as far as it can change while running; says what waits for a restart.
    /// False: it was refused, and nothing changed.
    pub fn reload(&self, old: &Config, new: &Config) -> bool {
        if old.sources != new.sources {
            // Pools count sources by their place in the table that is in use.
            tracing::error!("the configuration is refused, nothing changed: [[source]] takes effect at the next start");
            return false;
        }
        let mut policy = Policy::new(new, self.mailboxes.len());
        let [current, _] = &**self.outbound.fixed.load();
        policy.routes = Arc::new(Routes::new(new.routes.clone()).after(&current.routes));
        match Fixed::new(&policy.routes) {
            Ok(fixed) => self.outbound.replace(fixed),
            Err(error) => {
                tracing::error!(%error, "the configuration is refused; nothing changed");
                return false;
            }
        }
        let policy = Arc::new(policy);
        for mailbox in &self.mailboxes {
            let mut letter = ShardMail::Policy(Arc::clone(&policy));
            while let Err(back) = mailbox.send(letter) {
                letter = back;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if let Err(error) = assemble::replace_ingress(&self.ingress, new) {
            tracing::error!(%error, "listeners keep their old settings");
        }
        match assemble::dkim_keys(new) {
            Ok(keys) => self.render.keys.store(Arc::new(keys)),
            Err(error) => tracing::error!(error = format!("{error:#}"), "signing keys stay as they were"),
        }
        let same = old.spool.dir == new.spool.dir && old.shards == new.shards && old.cores == new.cores;
        if !same {
            tracing::warn!("spool.dir, server.shards and server.cores take effect at the next start");
        }
        tracing::info!("the configuration was read again");
        true
    }

    /// Stops in order: no new sessions, transactions under way end, everything noted is synced, the spool is sealed.
    pub fn stop(mut self) {
        self.live.stop_accepting();
        for mailbox in &self.mailboxes {
            // A full mailbox is read in a moment.
            while mailbox.send(ShardMail::Drain).is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let until = Instant::now() + DRAIN_MAX;
        while !self.live.is_idle() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(recovery) = self.recovery.take() {
            // It ends with the last message found; the shards still read.
            let _ = recovery.join();
        }
        // Two rounds of the ledger: the verdicts of the last transactions, then what followed from them.
        std::thread::sleep(Duration::from_millis(250));
        self.live.stop();
        for shard in self.shards.drain(..) {
            if shard.join().is_err() {
                tracing::error!("a shard ended in a panic");
            }
        }
        if let Some(ledger) = self.ledger.take() {
            ledger.stop();
        }
        self.spool.close();
        let memory = self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(error) = memory.save(&self.memory_path) {
            tracing::warn!(%error, path = %self.memory_path.display(), "the memory of TLS hosts was not saved");
        }
        drop(memory);
        if let Some(control) = self.control.take() {
            control.shutdown_background();
        }
    }
}
