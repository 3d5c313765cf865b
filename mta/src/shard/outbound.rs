//! What connections of a shard need besides work: names and addresses of sources, TLS settings, times.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use crate::bounce::classify::classify;
use crate::config::resolved::{self, RouteTls};
use crate::delivery::{Classify, ConnId, ConnectJob, Credentials, Host, Timeouts, TlsMode};
use crate::dns::routes::Routes;
use crate::dns::{Resolver, Route, RouteError};
use crate::egress::Egress;
use crate::shaping::TlsDemand;
use crate::tls::{self, Trust};

use super::item::PathKey;
use super::router::{Plan, Question};

/// Shared by all shards; everything in it is read-mostly.
#[derive(Clone)]
pub struct Outbound {
    /// The sources as they stand.
    pub egress: Egress,
    /// Static routes of the configuration in force, and of the one before, whose questions may be under way.
    pub fixed: Arc<ArcSwap<[Fixed; 2]>>,
    /// How certificates are judged elsewhere.
    pub judges: Judges,
    /// Which hosts have working or broken TLS.
    pub memory: Arc<Mutex<tls::Memory>>,
    /// In a lab the clock is taken as it is.
    pub lab: bool,
}

/// The static routes of one configuration, with what they need.
#[derive(Clone, Default)]
pub struct Fixed {
    /// As the router numbers them.
    pub routes: Arc<Routes>,
    /// How certificates are judged there, and passwords.
    clients: Arc<Clients>,
}

impl Fixed {
    /// From the static routes of a configuration. Errors name the file that can't be used.
    pub fn new(routes: &Arc<Routes>) -> Result<Self, String> {
        Ok(Self { routes: Arc::clone(routes), clients: Arc::new(Clients::new(routes)?) })
    }
}

/// One client TLS per demand: each holds its own session tickets.
#[derive(Default)]
struct Clients {
    fixed: HashMap<usize, Arc<tls::Client>>,
    passwords: HashMap<usize, Credentials>,
}

impl Clients {
    fn new(routes: &Routes) -> Result<Self, String> {
        let mut clients = Self::default();
        for (number, route) in routes.numbered() {
            if let Some(trust) = trust_of(route)? {
                clients.fixed.insert(number, Arc::new(tls::Client::new(&trust).map_err(|e| e.to_string())?));
            }
            if let Some((user, file)) = &route.auth {
                let password = std::fs::read_to_string(file)
                    .map_err(|e| format!("route `{}`, password_file: {}: {e}", route.domain, file.display()))?;
                let credentials = Credentials {
                    user: user.clone(),
                    password: password.trim_end().to_owned(),
                    without_tls: route.lab,
                };
                clients.passwords.insert(number, credentials);
            }
        }
        Ok(clients)
    }
}

/// How certificates are judged where no static route says: nothing of it changes while running.
#[derive(Clone)]
pub struct Judges {
    opportunistic: Arc<tls::Client>,
    required: Arc<tls::Client>,
}

impl Judges {
    /// Anybody's certificate, and those that a public authority signed.
    pub fn new() -> Result<Self, tls::Error> {
        let client = |trust: &Trust| tls::Client::new(trust).map(Arc::new);
        Ok(Self { opportunistic: client(&Trust::Anyone)?, required: client(&Trust::PublicRoots)? })
    }
}

fn trust_of(route: &resolved::Route) -> Result<Option<Trust>, String> {
    if let Some(pin) = route.tls_pin {
        return Ok(Some(Trust::Pins(vec![pin])));
    }
    if let Some(path) = &route.tls_ca {
        let pem = std::fs::read(path).map_err(|e| format!("tls_ca: {}: {e}", path.display()))?;
        return Ok(Some(Trust::Roots(pem)));
    }
    Ok(match route.tls {
        RouteTls::Required | RouteTls::Implicit if !route.lab => Some(Trust::PublicRoots),
        _ => None,
    })
}

impl Outbound {
    /// Puts the static routes of another configuration in force.
    pub fn replace(&self, fixed: Fixed) {
        let [current, _] = <[Fixed; 2]>::clone(&self.fixed.load());
        self.fixed.store(Arc::new([fixed, current]));
    }

    /// Answers a question of the router.
    pub async fn route(&self, resolver: &Resolver, question: &Question) -> Result<Arc<Route>, RouteError> {
        match question {
            Question::Domain(domain) => resolver.route(domain).await,
            Question::Fixed(number) => match self.fixed.load().iter().find_map(|f| f.routes.get(*number)).cloned() {
                Some(rule) => resolver.route_static(&rule).await,
                None => Err(RouteError::dns("the static route is gone".into(), std::time::Duration::from_secs(1))),
            },
        }
    }

    /// True when the wall clock may be believed: the kernel says that something keeps it right, or this is a lab.
    #[must_use]
    pub fn clock_synced(&self) -> bool {
        self.lab || crate::net::clock_synchronised()
    }

    /// The job of a connection on a path; `None` when its source may not send any more.
    #[must_use]
    pub fn job(&self, conn: ConnId, path: &PathKey, plan: &Plan, random: u64) -> Option<(ConnectJob, String)> {
        let table = self.egress.table();
        let entry = table.entries.get(usize::from(path.source))?;
        let ehlo = entry.ehlo()?.to_owned();
        let limits = plan.limits();
        let hosts = hosts_of(plan, entry.source.address, random);
        let (tls, client) = self.tls_of(plan, limits.tls);
        let implicit_tls = plan.tls() == RouteTls::Implicit;
        let classify: Classify = Rc::new(|code, enhanced, text, _| classify(code, enhanced, text));
        let job = ConnectJob {
            conn,
            source: Some(entry.source.address),
            ehlo,
            site: path.site.as_str().to_owned(),
            hosts,
            tls,
            implicit_tls,
            client_tls: client,
            tls_memory: Arc::clone(&self.memory),
            auth: plan.index.and_then(|number| {
                self.fixed.load().iter().find_map(|fixed| fixed.clients.passwords.get(&number).cloned())
            }),
            messages_max: (limits.messages_per_connection != u32::MAX).then_some(limits.messages_per_connection),
            rcpt_max: None,
            timeouts: Timeouts::default(),
            classify,
        };
        Some((job, entry.source.name.clone()))
    }

    fn tls_of(&self, plan: &Plan, demand: TlsDemand) -> (TlsMode, Arc<tls::Client>) {
        let clients = &self.judges;
        let fixed = plan.index.and_then(|number| {
            self.fixed.load().iter().find_map(|fixed| fixed.clients.fixed.get(&number).map(Arc::clone))
        });
        match plan.tls() {
            RouteTls::None => (TlsMode::Off, Arc::clone(&clients.opportunistic)),
            RouteTls::Required | RouteTls::Implicit => {
                let otherwise = if plan.lab() { &clients.opportunistic } else { &clients.required };
                (TlsMode::Required, fixed.unwrap_or_else(|| Arc::clone(otherwise)))
            }
            RouteTls::Opportunistic => match demand {
                TlsDemand::Opportunistic => {
                    (TlsMode::Opportunistic, fixed.unwrap_or_else(|| Arc::clone(&clients.opportunistic)))
                }
                TlsDemand::RequiredInsecure => (TlsMode::Required, Arc::clone(&clients.opportunistic)),
                TlsDemand::Required => (TlsMode::Required, Arc::clone(&clients.required)),
            },
        }
    }
}

/// Hosts in the order to try, with the addresses a source of this family can reach.
fn hosts_of(plan: &Plan, source: IpAddr, random: u64) -> Vec<Host> {
    plan.route
        .order(random)
        .into_iter()
        .filter_map(|at| plan.route.hosts.get(at))
        .filter_map(|host| {
            let addresses: Vec<IpAddr> =
                host.addresses.iter().copied().filter(|a| a.is_ipv6() == source.is_ipv6()).collect();
            (!addresses.is_empty()).then(|| Host { name: host.name.clone(), addresses, port: host.port })
        })
        .collect()
}
