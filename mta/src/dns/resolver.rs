//! The door of this module: shards ask, the control thread's tokio runtime answers.
//!
//! A [`Resolver`] is a cheap handle. Requests go through a bounded queue to one service task, which keeps the
//! cache and runs at most one look-up per key at a time, however many ask. The handle's futures need no tokio
//! runtime around them; a shard's local task can await them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, Semaphore};

use super::cache::{Answer, Cache};
use super::confirm::Confirmation;
use super::lookup::{Asked, Dns, Failure, Found, Seen, Tlsa};
use super::mx::Ourselves;
use super::name;
use super::route::{Route, RouteError};
use super::service::{serve, Inner, Key, Request};
pub use super::service::{Counters, ResolverConfig, RETRY_AFTER};
use crate::config::resolved::Route as StaticRoute;

/// Who is asked; see [`Asked`].
pub type Roots = Asked;

/// Handle to the resolver; clone it freely, send it anywhere.
#[derive(Clone)]
pub struct Resolver {
    requests: mpsc::Sender<Request>,
    inner: Arc<Inner>,
}

impl Resolver {
    /// Starts the service on `runtime` (the control thread's). Errors are settings that can't work.
    pub fn start(config: ResolverConfig, runtime: &tokio::runtime::Handle) -> Result<Self, String> {
        let (requests, queue) = mpsc::channel(config.waiting.clamp(16, 65_536));
        let inner = Arc::new(Inner {
            dns: Dns::new(&config.lookup)?,
            us: Mutex::new(Arc::new(config.us)),
            bounds: config.bounds,
            port: config.port,
            room: Arc::new(Semaphore::new(config.waiting.clamp(1, Semaphore::MAX_PERMITS))),
            slots: Semaphore::new(config.lookups.max(1)),
            runtime: runtime.clone(),
            counters: Counters::default(),
        });
        runtime.spawn(serve(inner.clone(), queue, Cache::new(config.cache), config.waiting.max(1)));
        Ok(Self { requests, inner })
    }

    /// The way to a domain (any form of name, or an address literal): MX hosts by RFC 5321 section 5.1.
    ///
    /// Waits while the queue is full. Never waits longer than the DNS time-outs.
    pub async fn route(&self, domain: &str) -> Result<Arc<Route>, RouteError> {
        if let Some(address) = name::literal(domain) {
            return self.inner.literal(domain, address).map(Arc::new);
        }
        let domain = name::to_ascii(domain).map_err(|error| RouteError::Permanent {
            code: 550,
            enhanced: [5, 1, 2],
            text: error.to_string(),
        })?;
        self.request(Key::Domain(domain)).await
    }

    /// The way over a static route: its hosts in the order of the configuration.
    pub async fn route_static(&self, rule: &StaticRoute) -> Result<Arc<Route>, RouteError> {
        self.request(Key::Hosts { to: rule.to.clone(), lab: rule.lab }).await
    }

    /// Does the PTR name of an address lead back to it? R-46.
    pub async fn confirm_name(&self, address: IpAddr) -> Confirmation {
        let unknown = || Confirmation::Unknown { text: Failure::Busy.to_string() };
        self.run(move |inner| async move { inner.confirm(address).await }).await.unwrap_or_else(unknown)
    }

    /// TXT records (policies, keys).
    pub async fn txt(&self, name: &str) -> Result<Found<Vec<u8>>, Failure> {
        let name = name.to_owned();
        self.run(move |inner| async move { inner.dns.txt(&name).await }).await.unwrap_or(Err(Failure::Busy))
    }

    /// TLSA records; only to be used when `security` is [`Security::Secure`].
    pub async fn tlsa(&self, name: &str) -> Result<Found<Tlsa>, Failure> {
        let name = name.to_owned();
        self.run(move |inner| async move { inner.dns.tlsa(&name).await }).await.unwrap_or(Err(Failure::Busy))
    }

    /// A and AAAA records of a name that is not a mail domain (blocklists, policy hosts).
    pub async fn addresses(&self, host: &str, v6: bool) -> Result<Found<IpAddr>, Failure> {
        let host = host.to_owned();
        self.run(move |inner| async move { inner.dns.addresses(&host, v6).await }).await.unwrap_or(Err(Failure::Busy))
    }

    /// Forgets one domain, or all: an operator knows better than the TTL.
    pub async fn forget(&self, domain: Option<&str>) {
        let domain = domain.map(|domain| name::to_ascii(domain).unwrap_or_else(|_| domain.to_owned()));
        // A service that has stopped has nothing to forget.
        let _ = self.requests.send(Request::Forget(domain)).await;
    }

    /// Replaces what we know about ourselves: sources come and go. Known routes are kept until their TTL ends.
    pub fn set_ourselves(&self, us: Ourselves) {
        *self.inner.us.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(us);
    }

    /// What has been done.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// What has been seen in answers.
    #[must_use]
    pub fn seen(&self) -> Arc<Seen> {
        self.inner.dns.seen.clone()
    }

    async fn request(&self, key: Key) -> Answer {
        let stopped = || RouteError::dns("the resolver has stopped".into(), RETRY_AFTER);
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Route { key, reply }).await.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Runs a question on the resolver's runtime, whatever thread asks. `None` when too many are waiting.
    async fn run<T, F>(&self, question: impl FnOnce(Arc<Inner>) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: std::future::Future<Output = T> + Send + 'static,
    {
        let room = self.inner.room.clone().try_acquire_owned().ok()?;
        let (reply, answer) = oneshot::channel();
        let (inner, question) = (self.inner.clone(), question(self.inner.clone()));
        self.inner.runtime.spawn(async move {
            let (_room, _slot) = (room, inner.slots.acquire().await);
            // The asker may have gone; then nobody wants the answer.
            let _ = reply.send(question.await);
        });
        answer.await.ok()
    }
}

/// The routes one shard has asked for lately, so that most questions cross no thread. For one thread.
pub struct LocalRoutes {
    resolver: Resolver,
    known: RefCell<HashMap<String, Arc<Route>>>,
    bound: usize,
}

impl LocalRoutes {
    /// An empty one for at most `bound` domains.
    #[must_use]
    pub fn new(resolver: Resolver, bound: usize) -> Self {
        Self { resolver, known: RefCell::default(), bound: bound.max(1) }
    }

    /// The route, when it is known here and still lives at `now`.
    #[must_use]
    pub fn known(&self, domain: &str, now: Instant) -> Option<Arc<Route>> {
        self.known.borrow().get(domain).filter(|route| now < route.expires).cloned()
    }

    /// As [`Resolver::route`], kept here too. `domain` is the key, so hand in one form of it.
    pub async fn route(&self, domain: &str, now: Instant) -> Answer {
        if let Some(route) = self.known(domain, now) {
            return Ok(route);
        }
        let route = self.resolver.route(domain).await?;
        let mut known = self.known.borrow_mut();
        if known.len() >= self.bound {
            known.retain(|_, route| now < route.expires);
            if known.len() >= self.bound {
                known.clear();
            }
        }
        known.insert(domain.to_owned(), route.clone());
        Ok(route)
    }

    /// The resolver behind it.
    #[must_use]
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }
}
