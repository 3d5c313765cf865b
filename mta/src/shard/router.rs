//! Where a queue's mail goes: static routes first, then what the DNS said. A cache with a list of open questions;
//! it asks nobody itself.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::QueueName;

use crate::config::resolved::{self, RouteTls};
use crate::dns::routes::Routes;
use crate::dns::{Route, RouteError, SiteName};
use crate::shaping::Limits;

use super::item::PathKey;

/// How a site is reached: the hosts and everything an operator said about it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the site: whoever shares it shares connections.
    pub site: SiteName,
    /// Hosts and site name.
    pub route: Arc<Route>,
    /// The static route it came from; `None` for MX routing.
    pub fixed: Option<Arc<resolved::Route>>,
    /// Its number in the configuration.
    pub index: Option<usize>,
}

impl Plan {
    /// The path from a source over this plan. Static routes with settings of their own are sites of their own.
    #[must_use]
    pub fn path(&self, source: u16) -> PathKey {
        PathKey { source, site: self.site.clone() }
    }

    /// True for a lab route: no limits.
    #[must_use]
    pub fn lab(&self) -> bool {
        self.fixed.as_ref().is_some_and(|r| r.lab)
    }

    /// The limits of paths over this plan.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let base = if self.lab() { Limits::lab() } else { Limits::for_provider(self.route.provider) };
        base.with_connections(self.fixed.as_ref().map_or(0, |r| r.connections))
    }

    /// What TLS is asked of the site.
    #[must_use]
    pub fn tls(&self) -> RouteTls {
        self.fixed.as_ref().map_or(RouteTls::Opportunistic, |r| r.tls.clone())
    }
}

/// Answer of [`Router::find`].
#[derive(Debug, Clone)]
pub enum Found {
    /// This way.
    Plan(Arc<Plan>),
    /// The DNS is being asked.
    Asking,
    /// No way, now or never.
    Refused(RouteError),
}

enum Entry {
    Known(Arc<Plan>, Instant),
    Asking,
    Refused(RouteError, Instant),
}

/// What must be asked: a domain to look up by MX, or the hosts of a static route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Question {
    /// MX look-up of a domain.
    Domain(String),
    /// Addresses of static route number so and so.
    Fixed(usize),
}

/// The cache. One per shard.
pub struct Router {
    routes: Arc<Routes>,
    entries: HashMap<Question, Entry>,
}

/// A refusal is believed for this long.
const REFUSAL_TTL: Duration = Duration::from_secs(60);
/// Most entries; beyond it expired ones are dropped, then all.
const ENTRIES_MAX: usize = 200_000;

impl Router {
    /// With these static routes.
    #[must_use]
    pub fn new(routes: Arc<Routes>) -> Self {
        Self { routes, entries: HashMap::new() }
    }

    /// What must be known for a queue.
    #[must_use]
    pub fn question(&self, name: &QueueName) -> Question {
        match self.routes.find(&name.tenant, name.target()) {
            Some((index, _)) => Question::Fixed(index),
            None => Question::Domain(name.target().to_owned()),
        }
    }

    /// The way for a queue. `ask` receives a question that nobody has asked yet.
    pub fn find(&mut self, name: &QueueName, now: Instant, ask: &mut dyn FnMut(Question)) -> Found {
        let question = self.question(name);
        match self.entries.get(&question) {
            Some(Entry::Known(plan, until)) if *until > now => return Found::Plan(Arc::clone(plan)),
            Some(Entry::Refused(error, until)) if *until > now => return Found::Refused(error.clone()),
            Some(Entry::Asking) => return Found::Asking,
            _ => {}
        }
        if self.entries.len() >= ENTRIES_MAX {
            self.shrink(now);
        }
        self.entries.insert(question.clone(), Entry::Asking);
        ask(question);
        Found::Asking
    }

    /// The answer to a question.
    pub fn answered(&mut self, question: Question, answer: Result<Arc<Route>, RouteError>, now: Instant) {
        let entry = match answer {
            Ok(route) => {
                let index = match &question {
                    Question::Fixed(index) => Some(*index),
                    Question::Domain(_) => None,
                };
                let fixed = index.and_then(|index| self.routes.get(index)).cloned().map(Arc::new);
                let until = route.expires;
                let site = site_of(&route, fixed.as_deref());
                Entry::Known(Arc::new(Plan { site, route, fixed, index }), until)
            }
            Err(error) => Entry::Refused(error, now + REFUSAL_TTL),
        };
        self.entries.insert(question, entry);
    }

    fn shrink(&mut self, now: Instant) {
        self.entries.retain(|_, entry| match entry {
            Entry::Known(_, until) | Entry::Refused(_, until) => *until > now,
            Entry::Asking => true,
        });
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.retain(|_, entry| matches!(entry, Entry::Asking));
        }
    }
}

/// The site's name. A static route that asks for more than its hosts, like a login or a pin, is a site of its own:
/// mail of another route must not go over its connections, nor its mail over theirs.
fn site_of(route: &Route, fixed: Option<&resolved::Route>) -> SiteName {
    let Some(fixed) = fixed else { return route.site.clone() };
    let mut own = String::new();
    // A write to a String can't fail.
    if fixed.tls != RouteTls::Opportunistic {
        let _ = write!(own, "+{:?}", fixed.tls);
    }
    if let Some(pin) = fixed.tls_pin {
        own.push_str("+pin-");
        pin.iter().for_each(|byte| {
            let _ = write!(own, "{byte:02x}");
        });
    }
    if let Some(authority) = &fixed.tls_ca {
        let _ = write!(own, "+ca-{}", authority.display());
    }
    if let Some((user, file)) = &fixed.auth {
        let _ = write!(own, "+login-{user}-{}", file.display());
    }
    if fixed.connections > 0 {
        let _ = write!(own, "+at-most-{}", fixed.connections);
    }
    if own.is_empty() {
        return route.site.clone();
    }
    SiteName::from_text(&format!("{}{own}", route.site.as_str()))
}
