//! From a list of exchangers to a connection that takes mail: addresses in order, TLS by policy, without it once when
//! the handshake fails and policy allows.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use queue::{BounceClass, Outcome, OutcomeKind};

use super::link::{Event, Link};
use super::{ConnectFailure, ConnectJob, Connected, End, Feed, Host, HostFailure, Stage, TlsMode};
use crate::net::Stream;
use crate::smtp::client::Config;
use crate::smtp::reply::Reply;
use crate::tls::{self, Transport};

/// Most addresses tried for one connection; a site with dozens of dead ones must not hold the slot for an hour.
const TRIES_MAX: usize = 8;
/// RFC 7504: the host takes no mail, now or later.
const TAKES_NO_MAIL: u16 = 521;

/// A connection that is ready for mail.
pub(super) struct Open {
    pub(super) link: Link,
    pub(super) connected: Connected,
}

/// Walks the hosts, RFC 5321 section 5.1: the next address when one cannot be reached or refuses at its greeting.
pub(super) async fn open(job: &ConnectJob, feed: &dyn Feed) -> Result<Open, ConnectFailure> {
    let mut tries = Vec::new();
    'hosts: for host in &job.hosts {
        let ours = |address: &&std::net::IpAddr| job.source.is_none_or(|s| s.is_ipv4() == address.is_ipv4());
        if !host.addresses.iter().any(|address| ours(&address)) {
            let text = format!("{} has no address that {} can reach", host.name, family(job));
            tries.push(failure(host, None, Stage::Connect, BounceClass::RoutingErrors, text));
        }
        for address in host.addresses.iter().filter(ours) {
            if tries.len() >= TRIES_MAX {
                break 'hosts;
            }
            match reach(job, host, SocketAddr::new(*address, host.port), feed).await {
                Ok(open) => return Ok(open),
                Err(Refusal { failure, host_is_done }) => {
                    tries.push(failure);
                    if host_is_done {
                        break;
                    }
                }
            }
        }
    }
    let outcome = summary(job, &tries);
    Err(ConnectFailure { outcome, tries })
}

/// A try that failed.
struct Refusal {
    failure: HostFailure,
    /// Its other addresses would say the same.
    host_is_done: bool,
}

/// One address: with TLS as the policy wants, and once more without when the handshake fails and that is allowed.
async fn reach(job: &ConnectJob, host: &Host, address: SocketAddr, feed: &dyn Feed) -> Result<Open, Refusal> {
    let opportunistic = job.tls == TlsMode::Opportunistic && !job.implicit_tls;
    let known_broken = opportunistic && memory(job).is_broken(&host.name, feed.now());
    let mode = if known_broken { TlsMode::Off } else { job.tls };
    let error = match dial(job, host, address, mode, feed).await {
        Ok(mut open) => {
            open.connected.downgraded = known_broken;
            return Ok(open);
        }
        Err(Failed::Refused(refusal)) => return Err(*refusal),
        Err(Failed::Handshake(error)) => error,
    };
    let mut plain_allowed = false;
    if opportunistic {
        let mut memory = memory(job);
        plain_allowed = memory.may_go_plain(&host.name, feed.now());
        // A network that went silent in the middle of it says nothing about their TLS.
        if !matches!(&error, tls::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut) {
            memory.broken(&host.name, feed.now());
        }
    }
    if plain_allowed {
        return match dial(job, host, address, TlsMode::Off, feed).await {
            Ok(mut open) => {
                open.connected.downgraded = true;
                Ok(open)
            }
            Err(Failed::Refused(refusal)) => Err(*refusal),
            Err(Failed::Handshake(error)) => Err(no_tls(host, address, &error, opportunistic)),
        };
    }
    Err(no_tls(host, address, &error, opportunistic))
}

enum Failed {
    Handshake(tls::Error),
    Refused(Box<Refusal>),
}

/// One connection, up to the point where it takes mail.
async fn dial(
    job: &ConnectJob,
    host: &Host,
    address: SocketAddr,
    mode: TlsMode,
    feed: &dyn Feed,
) -> Result<Open, Failed> {
    let refused = |failure, host_is_done| Failed::Refused(Box::new(Refusal { failure, host_is_done }));
    let timeout = Duration::from_secs(u64::from(job.timeouts.connect));
    let stream = Stream::connect(job.source, address, timeout)
        .await
        .map_err(|error| refused(unreachable(host, address, &error), false))?;
    let local = stream.local_addr().ok();
    let mut transport = Transport::Plain(stream);
    if job.implicit_tls {
        transport.stream().set_deadline(Some(job.timeouts.hello));
        transport = transport.connect(&job.client_tls, &host.name).await.map_err(Failed::Handshake)?;
    }
    let config = Config {
        ehlo: job.ehlo.clone(),
        tls: if job.implicit_tls { TlsMode::Off } else { mode },
        auth: job.auth.clone(),
        rcpt_max: job.rcpt_max,
        classify: job.classify.clone(),
    };
    let mut link = Link::new(transport, config, job.timeouts);
    if job.implicit_tls {
        link.session.encrypted_from_start();
    }
    loop {
        match link.step().await {
            Event::Ready => break,
            Event::StartTls => {
                let Some(transport) = link.take_transport() else { continue };
                let transport = transport.connect(&job.client_tls, &host.name).await.map_err(Failed::Handshake)?;
                memory(job).worked(&host.name, feed.now());
                link.encrypted(transport);
            }
            Event::Close(end) => {
                link.close().await;
                let host_is_done = matches!(&end, End::Refused(_, reply) if reply.code == TAKES_NO_MAIL);
                return Err(refused(ended(job, host, address, &end), host_is_done));
            }
            // Nothing was begun, so neither can come.
            Event::Intent(_) | Event::Finished(_) => {}
        }
    }
    let connected = Connected {
        host: host.name.clone(),
        address,
        local,
        greeting: link.session.greeting().to_owned(),
        peer: Rc::clone(link.session.limits()),
        tls: link.transport().and_then(Transport::info),
        downgraded: false,
    };
    Ok(Open { link, connected })
}

/// The memory is a hint; a thread that died with it in hand has left it whole enough.
fn memory(job: &ConnectJob) -> MutexGuard<'_, tls::Memory> {
    job.tls_memory.lock().unwrap_or_else(PoisonError::into_inner)
}

fn family(job: &ConnectJob) -> String {
    job.source.map_or_else(|| "this machine".to_owned(), |source| source.to_string())
}

fn unreachable(host: &Host, address: SocketAddr, error: &io::Error) -> HostFailure {
    let class = match error.kind() {
        // The source address is not ours: the operator's to mend, and no host will do.
        io::ErrorKind::AddrNotAvailable => BounceClass::RoutingErrors,
        _ => BounceClass::NoAnswerFromHost,
    };
    let text = format!("cannot connect to {} [{}]: {error}", host.name, address.ip());
    failure(host, Some(address), Stage::Connect, class, text)
}

fn no_tls(host: &Host, address: SocketAddr, error: &tls::Error, opportunistic: bool) -> Refusal {
    let why = if opportunistic {
        "; TLS has worked here for long, so nothing is sent without it"
    } else {
        "; TLS is required here"
    };
    let text = format!("{} [{}]: {error}{why}", host.name, address.ip());
    let failure = failure(host, Some(address), Stage::StartTls, BounceClass::PolicyRelated, text);
    Refusal { failure, host_is_done: false }
}

/// A session that ended before it took mail.
fn ended(job: &ConnectJob, host: &Host, address: SocketAddr, end: &End) -> HostFailure {
    let place = format!("{} [{}]", host.name, address.ip());
    let said = |stage: Stage, reply: &Reply| {
        let text = reply.words();
        let class = (job.classify)(reply.code, reply.enhanced, &text, stage);
        let kind = if reply.code == TAKES_NO_MAIL { OutcomeKind::Failed } else { OutcomeKind::Deferred };
        let outcome = Outcome { kind, code: reply.code, enhanced: reply.enhanced, text, class };
        HostFailure { host: host.name.clone(), address: Some(address), stage, outcome }
    };
    let (stage, class) = match end {
        End::Refused(stage, reply) => return said(*stage, reply),
        End::PeerClosing(reply) => return said(Stage::Hello, reply),
        End::NoTls => (Stage::StartTls, BounceClass::PolicyRelated),
        End::NoAuth => (Stage::Auth, BounceClass::AuthenticationFailed),
        End::Lost(stage, _) => (*stage, BounceClass::BadConnection),
        End::Injection => (Stage::StartTls, BounceClass::ProtocolErrors),
        End::Protocol(_) | End::Quit | End::Stopped => (Stage::Hello, BounceClass::ProtocolErrors),
    };
    failure(host, Some(address), stage, class, format!("{place}: {end}"))
}

fn failure(host: &Host, address: Option<SocketAddr>, stage: Stage, class: BounceClass, text: String) -> HostFailure {
    let outcome = Outcome { kind: OutcomeKind::Deferred, code: 0, enhanced: [4, 4, 1], text, class };
    HostFailure { host: host.name.clone(), address, stage, outcome }
}

/// What the tries mean together. A refusal in the site's own words says more than a silence.
fn summary(job: &ConnectJob, tries: &[HostFailure]) -> Outcome {
    let mut open = tries.iter().filter(|one| one.outcome.kind != OutcomeKind::Failed);
    let best = match open.clone().find(|one| one.outcome.code != 0) {
        Some(said) => Some(said),
        None => open.next_back().or(tries.last()),
    };
    match best {
        Some(one) => one.outcome.clone(),
        None => Outcome {
            kind: OutcomeKind::Deferred,
            code: 0,
            enhanced: [4, 4, 4],
            text: format!("{} has no host to try", job.site),
            class: BounceClass::RoutingErrors,
        },
    }
}
