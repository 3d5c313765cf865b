//! Whom [`super::lookup`] asks: our own recursor from the root, or forwarders; and how connections to name servers
//! are made.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{Map, StreamExt};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::DnsExchange;
use hickory_resolver::net::{DnsHandle, NetError};
use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::proto::op::{DnsRequest, DnsResponse, ResponseCode};
use hickory_resolver::recursor::{DnssecConfig, DnssecPolicy, Recursor, RecursorOptions};
use hickory_resolver::{ConnectionProvider, PoolContext};

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// From the root down. With addresses given (labs) those are the roots, special-purpose name servers are
    /// allowed, and every name server is contacted on the first one's port.
    Recursor(Vec<SocketAddr>),
    /// These forwarders.
    Forwarders(Vec<SocketAddr>),
}

/// Settings of [`Dns`].
#[derive(Clone)]
pub struct LookupConfig {
    /// Who is asked.
    pub asked: Asked,
    /// Validate DNSSEC.
    pub dnssec: bool,
    /// Keys trusted for the root; `None` for the built-in ones.
    pub anchors: Option<Arc<TrustAnchors>>,
}

impl Default for LookupConfig {
    fn default() -> Self {
        Self { asked: Asked::Recursor(Vec::new()), dnssec: true, anchors: None }
    }
}

/// Opens name-server connections; in labs on one other port than 53.
#[derive(Clone)]
pub(super) struct Ports {
    inner: TokioRuntimeProvider,
    lab_port: Option<u16>,
}

/// A connection whose useless answers look like a dead server, so that the next server of the zone is asked.
///
/// hickory ends a look-up at the first REFUSED or SERVFAIL. A zone with one lame server out of four would then fail
/// whenever that one is asked first.
#[derive(Clone)]
pub(super) struct Conn(DnsExchange<TokioRuntimeProvider>);

type Reply = Result<DnsResponse, NetError>;

impl DnsHandle for Conn {
    type Response = Map<<DnsExchange<TokioRuntimeProvider> as DnsHandle>::Response, fn(Reply) -> Reply>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        self.0.send(request).map(pass_over_useless)
    }
}

fn pass_over_useless(reply: Reply) -> Reply {
    let response = reply?;
    match response.response_code {
        code @ (ResponseCode::Refused | ResponseCode::ServFail | ResponseCode::NotImp) => {
            Err(NetError::Io(Arc::new(std::io::Error::other(format!("the name server answered: {code}")))))
        }
        _ => Ok(response),
    }
}

impl ConnectionProvider for Ports {
    type Conn = Conn;
    type FutureConn = Pin<Box<dyn Future<Output = Result<Self::Conn, NetError>> + Send + 'static>>;
    type RuntimeProvider = TokioRuntimeProvider;

    fn new_connection(
        &self,
        ip: IpAddr,
        config: &ConnectionConfig,
        cx: &PoolContext,
    ) -> Result<Self::FutureConn, NetError> {
        let mut config = config.clone();
        config.port = self.lab_port.unwrap_or(config.port);
        let connection = self.inner.new_connection(ip, &config, cx)?;
        Ok(Box::pin(async move { Ok(Conn(connection.await?)) }))
    }

    fn runtime_provider(&self) -> &Self::RuntimeProvider {
        &self.inner
    }
}

/// One of the two.
pub(super) enum Backend {
    Recursor(Box<Recursor<Ports>>),
    Forwarders(Box<hickory_resolver::Resolver<Ports>>),
}

impl Backend {
    /// Builds it; nothing is asked yet.
    pub(super) fn new(config: &LookupConfig) -> Result<Self, String> {
        Ok(match &config.asked {
            Asked::Recursor(roots) => Self::Recursor(Box::new(recursor(config, roots)?)),
            Asked::Forwarders(servers) => Self::Forwarders(Box::new(forwarders(config, servers)?)),
        })
    }
}

/// The root name servers, IANA "root hints".
const ROOTS: [IpAddr; 26] = [
    IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4)),
    IpAddr::V4(Ipv4Addr::new(170, 247, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(192, 33, 4, 12)),
    IpAddr::V4(Ipv4Addr::new(199, 7, 91, 13)),
    IpAddr::V4(Ipv4Addr::new(192, 203, 230, 10)),
    IpAddr::V4(Ipv4Addr::new(192, 5, 5, 241)),
    IpAddr::V4(Ipv4Addr::new(192, 112, 36, 4)),
    IpAddr::V4(Ipv4Addr::new(198, 97, 190, 53)),
    IpAddr::V4(Ipv4Addr::new(192, 36, 148, 17)),
    IpAddr::V4(Ipv4Addr::new(192, 58, 128, 30)),
    IpAddr::V4(Ipv4Addr::new(193, 0, 14, 129)),
    IpAddr::V4(Ipv4Addr::new(199, 7, 83, 42)),
    IpAddr::V4(Ipv4Addr::new(202, 12, 27, 33)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30)),
    IpAddr::V6(Ipv6Addr::new(0x2801, 0x1b8, 0x10, 0, 0, 0, 0, 0xb)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x500, 2, 0, 0, 0, 0, 0xc)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x500, 0x2d, 0, 0, 0, 0, 0xd)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x500, 0xa8, 0, 0, 0, 0, 0xe)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x500, 0x2f, 0, 0, 0, 0, 0xf)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x500, 0x12, 0, 0, 0, 0, 0xd0d)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x500, 1, 0, 0, 0, 0, 0x53)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x7fe, 0, 0, 0, 0, 0, 0x53)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x503, 0xc27, 0, 0, 0, 2, 0x30)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x7fd, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x500, 0x9f, 0, 0, 0, 0, 0x42)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdc3, 0, 0, 0, 0, 0, 0x35)),
];

fn recursor(config: &LookupConfig, roots: &[SocketAddr]) -> Result<Recursor<Ports>, String> {
    let mut options = RecursorOptions {
        ns_cache_size: 16_384,
        response_cache_size: 131_072,
        // the case of the letters in a question is random and must come back, which a forger has to guess.
        case_randomization: true,
        ..RecursorOptions::default()
    };
    let mut addresses = ROOTS.to_vec();
    let mut lab_port = None;
    if let Some(first) = roots.first() {
        addresses = roots.iter().map(SocketAddr::ip).collect();
        lab_port = Some(first.port());
        options.deny_server.clear();
    }
    let policy = if config.dnssec {
        let mut dnssec = DnssecConfig::default();
        dnssec.trust_anchor = config.anchors.clone();
        DnssecPolicy::ValidateWithStaticKey(dnssec)
    } else {
        DnssecPolicy::SecurityUnaware
    };
    let ports = Ports { inner: TokioRuntimeProvider::new(), lab_port };
    Recursor::new(&addresses, policy, None, options, ports).map_err(|error| error.to_string())
}

fn forwarders(config: &LookupConfig, servers: &[SocketAddr]) -> Result<hickory_resolver::Resolver<Ports>, String> {
    let servers = servers
        .iter()
        .map(|server| {
            let mut one = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut one.connections {
                connection.port = server.port();
            }
            one
        })
        .collect();
    let ports = Ports { inner: TokioRuntimeProvider::new(), lab_port: None };
    let mut builder =
        hickory_resolver::Resolver::builder_with_config(ResolverConfig::from_parts(None, Vec::new(), servers), ports);
    let options = builder.options_mut();
    options.ndots = 0;
    options.validate = config.dnssec;
    options.case_randomization = true;
    options.preserve_intermediates = true;
    options.use_hosts_file = ResolveHosts::Never;
    if let (true, Some(anchors)) = (config.dnssec, &config.anchors) {
        builder = builder.with_trust_anchor(anchors.clone());
    }
    builder.build().map_err(|error| error.to_string())
}
