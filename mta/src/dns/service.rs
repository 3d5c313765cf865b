//! The service behind [`super::resolver`]: one task with the cache, single flight and bounds, and the look-ups it
//! starts. Runs on the control thread.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, Semaphore};
use tokio::task::JoinSet;

use super::cache::{Answer, Cache};
use super::confirm::{self, Back, Confirmation};
use super::lookup::{Dns, Failure, Found, LookupConfig, Security};
use super::mx::{self, Bounds, MxRecord, Ourselves, Plan, Resolved, Unsettled};
use super::route::{MxHost, Route, RouteError};
use super::site::{self, SiteName};
use super::special::Refused;

/// After a failed look-up the domain is asked for again no sooner.
pub const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Settings of the resolver.
#[derive(Clone)]
pub struct ResolverConfig {
    /// Who is asked, and whether answers are validated.
    pub lookup: LookupConfig,
    /// Our names and addresses, and which addresses may be contacted.
    pub us: Ourselves,
    /// How far a route may spread.
    pub bounds: Bounds,
    /// Port of MX hosts; 25 but for labs.
    pub port: u16,
    /// Most routes kept.
    pub cache: usize,
    /// Most look-ups at once.
    pub lookups: usize,
    /// Most requests waiting for the service task, and most callers waiting for look-ups.
    pub waiting: usize,
}

impl Default for ResolverConfig {
    fn default() -> Self {
        Self {
            lookup: LookupConfig::default(),
            us: Ourselves::default(),
            bounds: Bounds::default(),
            port: 25,
            cache: 200_000,
            lookups: 256,
            waiting: 65_536,
        }
    }
}

/// What has been done, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Routes asked for.
    pub asked: AtomicU64,
    /// Of those, answered from the cache.
    pub hits: AtomicU64,
    /// Of those, joined to a look-up under way.
    pub joined: AtomicU64,
    /// Stale routes given out.
    pub stale: AtomicU64,
    /// Refused because too many waited.
    pub busy: AtomicU64,
}

/// What a handle asks of the service task.
pub(super) enum Request {
    Route { key: Key, reply: oneshot::Sender<Answer> },
    Forget(Option<String>),
}

/// What is looked up, and under which text it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Domain(String),
    Hosts { to: Vec<(String, u16)>, lab: bool },
}

impl Key {
    fn text(&self) -> String {
        match self {
            Self::Domain(domain) => domain.clone(),
            Self::Hosts { to, lab } => {
                let hosts: Vec<String> = to.iter().map(|(host, port)| format!("{host}:{port}")).collect();
                format!("[{}{}]", hosts.join(" "), if *lab { " lab" } else { "" })
            }
        }
    }
}

/// What handles and look-ups share.
pub(super) struct Inner {
    pub(super) dns: Dns,
    pub(super) us: Mutex<Arc<Ourselves>>,
    pub(super) bounds: Bounds,
    pub(super) port: u16,
    pub(super) slots: Semaphore,
    /// Room for questions that are no routes.
    pub(super) room: Arc<Semaphore>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) counters: Counters,
}

/// The service task: cache, single flight, bounds. Ends when the last handle is dropped.
pub(super) async fn serve(
    inner: Arc<Inner>,
    mut queue: mpsc::Receiver<Request>,
    mut cache: Cache,
    most_waiting: usize,
) {
    let mut flights: JoinSet<(Key, Looked)> = JoinSet::new();
    let mut callers: HashMap<Key, Vec<oneshot::Sender<Answer>>> = HashMap::new();
    let mut waiting = 0_usize;
    loop {
        tokio::select! {
            request = queue.recv() => match request {
                None => return,
                Some(Request::Forget(domain)) => cache.forget(domain.as_deref()),
                Some(Request::Route { key, reply }) => {
                    inner.counters.asked.fetch_add(1, Ordering::Relaxed);
                    if let Some(answer) = cache.get(&key.text(), Instant::now()) {
                        inner.counters.hits.fetch_add(1, Ordering::Relaxed);
                        let _ = reply.send(answer);
                    } else if waiting >= most_waiting {
                        inner.counters.busy.fetch_add(1, Ordering::Relaxed);
                        let _ = reply.send(Err(RouteError::dns(Failure::Busy.to_string(), RETRY_AFTER)));
                    } else {
                        waiting += 1;
                        let joined = callers.entry(key.clone()).or_default();
                        joined.push(reply);
                        if joined.len() > 1 {
                            inner.counters.joined.fetch_add(1, Ordering::Relaxed);
                        } else {
                            let inner = inner.clone();
                            flights.spawn(async move {
                                let looked = inner.look_up(&key).await;
                                (key, looked)
                            });
                        }
                    }
                }
            },
            Some(landed) = flights.join_next(), if !flights.is_empty() => {
                // It panicked, and which key it had is lost: whoever waits is told to come back later.
                let Ok((key, looked)) = landed else {
                    tracing::error!("a look-up ended in a defect of ours");
                    callers.clear();
                    waiting = 0;
                    continue;
                };
                let answer = cache.put(&key.text(), looked.answer, looked.life, Instant::now());
                if answer.as_ref().is_ok_and(|route| route.stale) {
                    inner.counters.stale.fetch_add(1, Ordering::Relaxed);
                }
                for reply in callers.remove(&key).unwrap_or_default() {
                    waiting = waiting.saturating_sub(1);
                    let _ = reply.send(answer.clone());
                }
            }
        }
    }
}

/// An answer and how long it may be kept.
struct Looked {
    answer: Answer,
    life: Option<Duration>,
}

impl Looked {
    fn failed(failure: &Failure) -> Self {
        Self { answer: Err(failure_error(failure, None)), life: None }
    }

    fn without(error: RouteError, life: Option<Duration>) -> Self {
        Self { answer: Err(error), life }
    }
}

fn failure_error(failure: &Failure, host: Option<&str>) -> RouteError {
    let text = host.map_or_else(|| failure.to_string(), |host| format!("{host}: {failure}"));
    match failure {
        // RFC 7672 section 2.1.1 and RFC 3463: validation failures are a security matter that may pass.
        Failure::Bogus(_) => RouteError::Temporary { code: 451, enhanced: [4, 7, 0], text, retry_after: RETRY_AFTER },
        _ => RouteError::dns(text, RETRY_AFTER),
    }
}

impl Inner {
    fn us(&self) -> Arc<Ourselves> {
        self.us.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn look_up(self: &Arc<Self>, key: &Key) -> Looked {
        let _slot = self.slots.acquire().await;
        match key {
            Key::Domain(domain) => self.look_up_domain(domain).await,
            Key::Hosts { to, lab } => self.look_up_hosts(&key.text(), to, *lab).await,
        }
    }

    async fn look_up_domain(self: &Arc<Self>, domain: &str) -> Looked {
        let (records, mx_secure, mut life) = match self.dns.mx(domain).await {
            // Exchanges that are no host names were left out; with none left there is still no implicit MX.
            Ok(Found::Some { items, .. }) if items.is_empty() => {
                return Looked::without(RouteError::unroutable(format!("{domain} names no usable mail host")), None);
            }
            Ok(Found::Some { items, security, ttl, .. }) => (items, security == Security::Secure, Some(ttl)),
            // "Does not exist" from servers that leave out the SOA record is too little to end mail for good.
            Ok(Found::None { nxdomain: true, security: Security::Undecided, .. }) => {
                let text = format!("{domain} may not exist: its name servers give no SOA record");
                return Looked::without(RouteError::dns(text, RETRY_AFTER), None);
            }
            Ok(Found::None { nxdomain: true, ttl, .. }) => return Looked::without(RouteError::no_domain(domain), ttl),
            Ok(Found::None { security, ttl, .. }) => (Vec::new(), security == Security::Secure, ttl),
            Err(failure) => return Looked::failed(&failure),
        };
        let implicit = records.is_empty();
        let asked = match mx::plan(records, self.bounds) {
            // RFC 7505 section 4: no address is asked for.
            Plan::Null => return Looked::without(RouteError::null_mx(domain), life),
            Plan::Implicit => vec![MxRecord { preference: 0, exchange: domain.to_owned() }],
            Plan::Hosts(hosts) => hosts,
        };
        let (found, ttl) = self.resolve_hosts(asked).await;
        life = shorter(life, ttl);
        match mx::settle(domain, found, mx_secure, self.port, &self.us(), self.bounds) {
            Ok(hosts) => Looked { answer: Ok(Arc::new(route_of(hosts, None))), life },
            Err(Unsettled::Later(text)) => Looked { answer: Err(RouteError::dns(text, RETRY_AFTER)), life: None },
            Err(Unsettled::Never(_)) if implicit && ttl.is_none() => {
                Looked::without(RouteError::unroutable(format!("{domain} has neither mail hosts nor an address")), life)
            }
            Err(Unsettled::Never(error)) => Looked::without(error, life),
        }
    }

    /// The addresses of several hosts, asked for side by side, and the smallest TTL of those that have some.
    async fn resolve_hosts(self: &Arc<Self>, hosts: Vec<MxRecord>) -> (Vec<(MxRecord, Resolved)>, Option<Duration>) {
        let mut asked = JoinSet::new();
        for (place, record) in hosts.into_iter().enumerate() {
            let inner = self.clone();
            asked.spawn(async move {
                let (resolved, ttl) = inner.resolve_host(&record.exchange).await;
                (place, record, resolved, ttl)
            });
        }
        let mut found = Vec::new();
        while let Some(one) = asked.join_next().await {
            found.extend(one.ok());
        }
        found.sort_by_key(|(place, ..)| *place);
        let ttl = found.iter().filter_map(|(_, _, _, ttl)| *ttl).min();
        (found.into_iter().map(|(_, record, resolved, _)| (record, resolved)).collect(), ttl)
    }

    async fn resolve_host(&self, host: &str) -> (Resolved, Option<Duration>) {
        let (v4, v6) = tokio::join!(self.dns.addresses(host, false), self.dns.addresses(host, true));
        let (mut addresses, mut canonical, mut secure, mut ttl) = (Vec::new(), None, true, None);
        let mut failure = None;
        for one in [v4, v6] {
            match one {
                Ok(Found::Some { items, canonical: end, security, ttl: life }) => {
                    addresses.extend(items);
                    canonical.get_or_insert(end);
                    secure &= security == Security::Secure;
                    ttl = shorter(ttl, Some(life));
                }
                // RFC 7672 section 2.2.2: an insecure "no AAAA" can hide addresses but not forge one.
                Ok(Found::None { .. }) => {}
                Err(why) => failure = failure.or(Some(why)),
            }
        }
        match (canonical, failure) {
            // One family is enough to go on with.
            (Some(canonical), _) => (Resolved::Found { addresses, canonical, secure }, ttl),
            (None, Some(why)) => (Resolved::Failed(why.to_string()), None),
            (None, None) => (Resolved::Nothing, None),
        }
    }

    async fn look_up_hosts(self: &Arc<Self>, key: &str, to: &[(String, u16)], lab: bool) -> Looked {
        let (mut hosts, mut life, mut why) = (Vec::new(), None, None);
        let us = self.us();
        for (place, (host, port)) in to.iter().take(self.bounds.hosts.max(1)).enumerate() {
            let (resolved, ttl) = match host.parse::<IpAddr>() {
                Ok(address) => {
                    let one = Resolved::Found { addresses: vec![address], canonical: host.clone(), secure: false };
                    (one, None)
                }
                Err(_) => self.resolve_host(host).await,
            };
            life = shorter(life, ttl);
            match resolved {
                Resolved::Found { mut addresses, canonical, secure } => {
                    // In the lab, and only there, the sink may live on our own machine.
                    addresses.retain(|a| lab || us.addresses.check(*a).is_ok());
                    addresses.truncate(2 * self.bounds.addresses.max(1));
                    if addresses.is_empty() {
                        why = why.or(Some(RouteError::unroutable(format!("{host} has only addresses not contacted"))));
                        continue;
                    }
                    let preference = u16::try_from(place).unwrap_or(u16::MAX);
                    let name = host.trim_end_matches('.').to_ascii_lowercase();
                    hosts.push(MxHost { preference, name, canonical, addresses, port: *port, secure });
                }
                Resolved::Nothing => why = why.or(Some(RouteError::unroutable(format!("{host} has no address")))),
                Resolved::Failed(text) => why = Some(RouteError::dns(format!("{host}: {text}"), RETRY_AFTER)),
            }
        }
        if hosts.is_empty() {
            let why = why.unwrap_or_else(|| RouteError::unroutable("the static route names no host".into()));
            return Looked::without(why, None);
        }
        // Hosts given by address never change.
        let life = life.or(Some(super::cache::TTL_MAX));
        Looked { answer: Ok(Arc::new(route_of(hosts, Some(SiteName::from_text(key))))), life }
    }

    pub(super) fn literal(&self, domain: &str, address: IpAddr) -> Result<Route, RouteError> {
        match self.us().addresses.check(address) {
            Ok(()) => {}
            Err(Refused::Own) => return Err(RouteError::loops_back(domain)),
            Err(Refused::Special(range)) => {
                return Err(RouteError::unroutable(format!("{domain} is not contacted ({range})")));
            }
        }
        let host = MxHost {
            preference: 0,
            name: domain.to_ascii_lowercase(),
            canonical: domain.to_ascii_lowercase(),
            addresses: vec![address],
            port: self.port,
            secure: false,
        };
        let mut route = route_of(vec![host], None);
        route.expires = Instant::now() + super::cache::TTL_MAX;
        Ok(route)
    }

    pub(super) async fn confirm(&self, address: IpAddr) -> Confirmation {
        /// More PTR names than any sane address has; the rest is not looked at.
        const NAMES_MAX: usize = 5;
        let names = match self.dns.ptr(address).await {
            Ok(Found::Some { items, .. }) if items.is_empty() => {
                return Confirmation::Mismatch { why: confirm::Mismatch::BadName { address } };
            }
            Ok(Found::Some { mut items, .. }) => {
                items.sort();
                items.truncate(NAMES_MAX);
                items
            }
            Ok(Found::None { .. }) => Vec::new(),
            Err(failure) => return Confirmation::Unknown { text: failure.to_string() },
        };
        let mut looked = Vec::with_capacity(names.len());
        for name in names {
            let back = match self.dns.addresses(&name, address.to_canonical().is_ipv6()).await {
                Ok(Found::Some { items, .. }) => Back::Addresses(items),
                Ok(Found::None { .. }) => Back::Addresses(Vec::new()),
                Err(failure) => Back::Failed(failure.to_string()),
            };
            looked.push((name, back));
        }
        confirm::decide(address, looked)
    }
}

fn route_of(hosts: Vec<MxHost>, site: Option<SiteName>) -> Route {
    let names = || hosts.iter().map(|host| host.name.as_str());
    Route {
        site: site.unwrap_or_else(|| SiteName::from_hosts(names())),
        provider: site::provider_of(names()),
        hosts,
        // The cache knows the time and sets it.
        expires: Instant::now(),
        stale: false,
    }
}

fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
