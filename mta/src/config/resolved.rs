//! The configuration as checked. Built only by [`resolve`].

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use queue::Class;

use super::network::{BadNetwork, Network};
use super::raw::{self, Raw};

/// Role of a listener: what its peers may do. There is no role that relays for strangers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Port 25: reports, complaints and mail to the operator.
    Mx,
    /// Port 587: submission, TLS by STARTTLS.
    Submission,
    /// Port 465: submission, TLS from the start (RFC 8314).
    Submissions,
    /// Port 2525: submission for places that block 587.
    Relay,
}

/// Which runtime carries the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverChoice {
    /// io_uring where the kernel allows it.
    Auto,
    /// io_uring or no start.
    IoUring,
    /// epoll.
    Epoll,
}

/// How TLS is used towards a static route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTls {
    /// Never.
    None,
    /// When offered, any certificate.
    Opportunistic,
    /// Always, by STARTTLS, with a certificate that a known authority signed (or pin or CA).
    Required,
    /// Always, from the first byte.
    Implicit,
}

/// One listener.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // as in `raw::Listener`
pub struct Listener {
    pub address: SocketAddr,
    pub role: Role,
    pub max_sessions: usize,
    pub max_sessions_per_address: usize,
    pub max_message: usize,
    pub max_recipients: usize,
    pub proxy_from: Vec<Network>,
    pub xclient_from: Vec<Network>,
}

/// One credential.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // as in `raw::Credential`
pub struct Credential {
    pub name: String,
    pub verifier: String,
    pub trusted_networks: Vec<Network>,
    pub networks: Vec<Network>,
    pub tenant: String,
    pub from_domains: Vec<String>,
    pub pools: Vec<String>,
    pub streams: Vec<String>,
    pub recipients_per_minute: u32,
}

/// One stream.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // as in `raw::Stream`
pub struct Stream {
    pub name: String,
    pub class: Class,
    pub ttl: Option<Duration>,
}

/// One egress source.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // as in `raw::Source`
pub struct Source {
    pub name: String,
    pub address: IpAddr,
    pub ehlo: String,
    pub weight: u32,
}

/// One pool; `sources` are indexes into [`Config::sources`].
#[derive(Debug, Clone)]
#[allow(missing_docs)] // as in `raw::Pool`
pub struct Pool {
    pub name: String,
    pub sources: Vec<usize>,
}

/// One static route.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // as in `raw::Route`
pub struct Route {
    pub domain: String,
    pub tenant: String,
    pub to: Vec<(String, u16)>,
    pub lab: bool,
    pub tls: RouteTls,
    pub tls_pin: Option<[u8; 32]>,
    pub tls_ca: Option<PathBuf>,
    pub auth: Option<(String, PathBuf)>,
    pub connections: u32,
}

/// One configuration, checked.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // as in `raw::Raw`
pub struct Config {
    pub hostname: String,
    pub operator: String,
    pub shards: usize,
    pub cores: Vec<usize>,
    pub driver: DriverChoice,
    pub lab: bool,
    pub hot_bytes: u64,
    pub spool: raw::Spool,
    pub events_dir: PathBuf,
    pub events_max: u64,
    pub tls: raw::Tls,
    pub dns: raw::Dns,
    pub dns_servers: Vec<SocketAddr>,
    pub delivery: raw::Delivery,
    pub control: Option<SocketAddr>,
    pub listeners: Vec<Listener>,
    pub domains: Vec<raw::Domain>,
    pub credentials: Vec<Credential>,
    pub streams: Vec<Stream>,
    pub sources: Vec<Source>,
    pub pools: Vec<Pool>,
    pub routes: Vec<Route>,
    pub dkim: Vec<raw::Dkim>,
    pub queues: Vec<raw::Queue>,
}

type Bad = (String, String);

fn bad<T>(setting: impl Into<String>, reason: impl Into<String>) -> Result<T, Bad> {
    Err((setting.into(), reason.into()))
}

fn networks(setting: &str, texts: &[String]) -> Result<Vec<Network>, Bad> {
    texts.iter().map(|text| text.parse().map_err(|e: BadNetwork| (setting.to_owned(), e.to_string()))).collect()
}

/// Checks every value and every reference from one table to another.
pub fn resolve(raw: Raw) -> Result<Config, Bad> {
    let hostname = if raw.server.hostname.is_empty() { machine_name() } else { raw.server.hostname.clone() };
    check_hostname("server.hostname", &hostname)?;
    check_server(&raw)?;
    let listeners = raw.listener.iter().enumerate().map(|(i, l)| listener(i, l)).collect::<Result<Vec<_>, _>>()?;
    let streams = raw.stream.iter().enumerate().map(|(i, s)| stream(i, s)).collect::<Result<Vec<_>, _>>()?;
    let sources =
        raw.source.iter().enumerate().map(|(i, s)| source(i, s, raw.server.lab)).collect::<Result<Vec<_>, _>>()?;
    let pools = raw.pool.iter().enumerate().map(|(i, p)| pool(i, p, &sources)).collect::<Result<Vec<_>, _>>()?;
    let credentials = raw
        .credential
        .iter()
        .enumerate()
        .map(|(i, c)| credential(i, c, &raw, &streams, &pools))
        .collect::<Result<Vec<_>, _>>()?;
    let routes =
        raw.route.iter().enumerate().map(|(i, r)| route(i, r, raw.server.lab)).collect::<Result<Vec<_>, _>>()?;
    let dns_servers = addresses("dns.servers", &raw.dns.servers)?;
    let control =
        if raw.control.listen.is_empty() { None } else { Some(loopback("control.listen", &raw.control.listen)?) };
    Ok(Config {
        hostname,
        operator: raw.server.operator,
        shards: raw.server.shards,
        cores: raw.server.cores,
        driver: driver(&raw.server.driver)?,
        lab: raw.server.lab,
        hot_bytes: raw.server.hot_mib.saturating_mul(1024 * 1024),
        spool: raw.spool,
        events_dir: PathBuf::from(raw.events.dir),
        events_max: raw.events.max_mib.saturating_mul(1024 * 1024),
        tls: raw.tls,
        dns: raw.dns,
        dns_servers,
        delivery: raw.delivery,
        control,
        listeners,
        domains: raw.domain,
        credentials,
        streams,
        sources,
        pools,
        routes,
        dkim: raw.dkim,
        queues: raw.queue,
    })
}

fn machine_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "localhost".into())
}

fn check_hostname(setting: &str, name: &str) -> Result<(), Bad> {
    let fine = !name.is_empty()
        && name.len() <= 255
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
    if fine {
        Ok(())
    } else {
        bad(setting, format!("`{name}` is no host name; write something like mail.example.com"))
    }
}

fn check_server(raw: &Raw) -> Result<(), Bad> {
    if !(16..=256).contains(&raw.spool.segment_mib) {
        return bad("spool.segment_mib", format!("{} is outside of 16 to 256", raw.spool.segment_mib));
    }
    if raw.spool.reserve_percent > 50 {
        return bad(
            "spool.reserve_percent",
            "more than half of the disk in reserve leaves no room for mail; at most 50",
        );
    }
    if raw.server.shards > 256 {
        return bad("server.shards", "more than 256; 0 takes one per core");
    }
    if !raw.server.operator.is_empty() && !raw.server.operator.contains('@') {
        return bad("server.operator", "is no address; write you@example.com");
    }
    if !matches!(raw.spool.writer.as_str(), "auto" | "ring" | "pwrite") {
        return bad("spool.writer", format!("`{}` is none of auto, ring, pwrite", raw.spool.writer));
    }
    if !matches!(raw.dns.mode.as_str(), "recursor" | "forward") {
        return bad("dns.mode", format!("`{}` is none of recursor, forward", raw.dns.mode));
    }
    if raw.dns.mode == "forward" && raw.dns.servers.is_empty() {
        return bad("dns.servers", "dns.mode = \"forward\" needs at least one address:port here");
    }
    if !(1..=3600).contains(&raw.dns.parked_check_s) {
        return bad("dns.parked_check_s", format!("{} is outside of 1 to 3600", raw.dns.parked_check_s));
    }
    if raw.delivery.retry_first_s == 0 || raw.delivery.retry_first_s > raw.delivery.retry_max_s {
        return bad("delivery.retry_first_s", "must be at least 1 and at most delivery.retry_max_s");
    }
    for (i, key) in raw.dkim.iter().enumerate() {
        check_hostname(&format!("dkim[{i}].domain"), &key.domain)?;
        check_hostname(&format!("dkim[{i}].selector"), &key.selector)?;
    }
    Ok(())
}

fn driver(text: &str) -> Result<DriverChoice, Bad> {
    match text {
        "auto" => Ok(DriverChoice::Auto),
        "io_uring" => Ok(DriverChoice::IoUring),
        "epoll" => Ok(DriverChoice::Epoll),
        _ => bad("server.driver", format!("`{text}` is none of auto, io_uring, epoll")),
    }
}

fn addresses(setting: &str, texts: &[String]) -> Result<Vec<SocketAddr>, Bad> {
    texts
        .iter()
        .map(|t| t.parse().map_err(|_| (setting.to_owned(), format!("`{t}` is no address:port; write 192.0.2.53:53"))))
        .collect()
}

fn loopback(setting: &str, text: &str) -> Result<SocketAddr, Bad> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(address),
        Ok(_) => bad(setting, "the status page has no login and may only listen on loopback"),
        Err(_) => bad(setting, format!("`{text}` is no address:port; write 127.0.0.1:8025")),
    }
}

fn listener(i: usize, raw: &raw::Listener) -> Result<Listener, Bad> {
    let at = |field: &str| format!("listener[{i}].{field}");
    let role = match raw.role.as_str() {
        "mx" => Role::Mx,
        "submission" => Role::Submission,
        "submissions" => Role::Submissions,
        "relay" => Role::Relay,
        other => return bad(at("role"), format!("`{other}` is none of mx, submission, submissions, relay")),
    };
    let address = match raw.address.parse() {
        Ok(address) => address,
        Err(_) => return bad(at("address"), format!("`{}` is no address:port; write 0.0.0.0:587", raw.address)),
    };
    if raw.max_message_mib == 0 || raw.max_message_mib > queue::limits::MESSAGE_MAX / (1024 * 1024) {
        return bad(at("max_message_mib"), "must be 1 to 50");
    }
    if raw.max_recipients < 100 || raw.max_recipients > queue::limits::RECIPIENTS_MAX {
        return bad(at("max_recipients"), "must be 100 (RFC 5321 4.5.3.1.8) to 10000");
    }
    Ok(Listener {
        address,
        role,
        max_sessions: raw.max_sessions,
        max_sessions_per_address: raw.max_sessions_per_address,
        max_message: raw.max_message_mib * 1024 * 1024,
        max_recipients: raw.max_recipients,
        proxy_from: networks(&at("proxy_from"), &raw.proxy_from)?,
        xclient_from: networks(&at("xclient_from"), &raw.xclient_from)?,
    })
}

fn stream(i: usize, raw: &raw::Stream) -> Result<Stream, Bad> {
    let class = match raw.class.as_str() {
        "critical" => Class::Critical,
        "transactional" => Class::Transactional,
        "bulk" => Class::Bulk,
        other => {
            return bad(format!("stream[{i}].class"), format!("`{other}` is none of critical, transactional, bulk"))
        }
    };
    let ttl = (raw.ttl_s > 0).then(|| Duration::from_secs(u64::from(raw.ttl_s)));
    Ok(Stream { name: raw.name.clone(), class, ttl })
}

fn source(i: usize, raw: &raw::Source, lab: bool) -> Result<Source, Bad> {
    let at = |field: &str| format!("source[{i}].{field}");
    let Ok(address) = raw.address.parse::<IpAddr>() else {
        return bad(at("address"), format!("`{}` is no address", raw.address));
    };
    if !raw.ehlo.is_empty() {
        check_hostname(&at("ehlo"), &raw.ehlo)?;
        if !lab {
            return bad(at("ehlo"), "only with server.lab; elsewhere the source's confirmed PTR name is used");
        }
    }
    if raw.weight == 0 || raw.weight > 1000 {
        return bad(at("weight"), "must be 1 to 1000");
    }
    Ok(Source { name: raw.name.clone(), address, ehlo: raw.ehlo.clone(), weight: raw.weight })
}

fn pool(i: usize, raw: &raw::Pool, sources: &[Source]) -> Result<Pool, Bad> {
    let mut indexes = Vec::new();
    for name in &raw.sources {
        match sources.iter().position(|s| s.name == *name) {
            Some(index) => indexes.push(index),
            None => return bad(format!("pool[{i}].sources"), format!("no [[source]] is named `{name}`")),
        }
    }
    if indexes.is_empty() {
        return bad(format!("pool[{i}].sources"), "a pool needs at least one source");
    }
    Ok(Pool { name: raw.name.clone(), sources: indexes })
}

fn credential(
    i: usize,
    raw: &raw::Credential,
    all: &Raw,
    streams: &[Stream],
    pools: &[Pool],
) -> Result<Credential, Bad> {
    let at = |field: &str| format!("credential[{i}].{field}");
    if raw.verifier.is_empty() && raw.trusted_networks.is_empty() {
        return bad(at("verifier"), "a credential needs a verifier or trusted_networks; see `ringpost hash-password`");
    }
    if raw.from_domains.is_empty() {
        return bad(at("from_domains"), "name the domains this credential may send from");
    }
    if raw.from_domains.iter().any(|d| d == "*") && !all.server.lab {
        return bad(at("from_domains"), "`*` needs server.lab; name the domains");
    }
    for name in &raw.streams {
        if !streams.iter().any(|s| s.name == *name) {
            return bad(at("streams"), format!("no [[stream]] is named `{name}`"));
        }
    }
    for name in &raw.pools {
        if !pools.iter().any(|p| p.name == *name) {
            return bad(at("pools"), format!("no [[pool]] is named `{name}`"));
        }
    }
    Ok(Credential {
        name: raw.name.clone(),
        verifier: raw.verifier.clone(),
        trusted_networks: networks(&at("trusted_networks"), &raw.trusted_networks)?,
        networks: networks(&at("networks"), &raw.networks)?,
        tenant: raw.tenant.clone(),
        from_domains: raw.from_domains.iter().map(|d| d.to_ascii_lowercase()).collect(),
        pools: raw.pools.clone(),
        streams: raw.streams.clone(),
        recipients_per_minute: raw.recipients_per_minute,
    })
}

fn route(i: usize, raw: &raw::Route, lab: bool) -> Result<Route, Bad> {
    let at = |field: &str| format!("route[{i}].{field}");
    if raw.lab && !lab {
        return bad(at("lab"), "a lab route needs server.lab = true");
    }
    let mut to = Vec::new();
    for text in &raw.to {
        match text.rsplit_once(':').and_then(|(host, port)| Some((host.trim_matches(['[', ']']), port.parse().ok()?))) {
            Some((host, port)) if !host.is_empty() => to.push((host.to_owned(), port)),
            _ => return bad(at("to"), format!("`{text}` is no host:port")),
        }
    }
    if to.is_empty() {
        return bad(at("to"), "name at least one host:port");
    }
    let tls = match raw.tls.as_str() {
        "none" => RouteTls::None,
        "" | "opportunistic" => RouteTls::Opportunistic,
        "required" => RouteTls::Required,
        "implicit" => RouteTls::Implicit,
        other => return bad(at("tls"), format!("`{other}` is none of none, opportunistic, required, implicit")),
    };
    let tls_pin = if raw.tls_pin.is_empty() {
        None
    } else {
        Some(pin(&raw.tls_pin).ok_or_else(|| (at("tls_pin"), "must be 64 hex digits (SHA-256)".to_owned()))?)
    };
    let auth = match (raw.user.is_empty(), raw.password_file.is_empty()) {
        (true, true) => None,
        (false, false) => Some((raw.user.clone(), PathBuf::from(&raw.password_file))),
        _ => return bad(at("user"), "user and password_file go together"),
    };
    if auth.is_some() && !matches!(tls, RouteTls::Required | RouteTls::Implicit) && !raw.lab {
        return bad(at("tls"), "a route with a password needs tls = \"required\" or \"implicit\"");
    }
    Ok(Route {
        domain: raw.domain.to_ascii_lowercase(),
        tenant: raw.tenant.clone(),
        to,
        lab: raw.lab,
        tls,
        tls_pin,
        tls_ca: (!raw.tls_ca.is_empty()).then(|| PathBuf::from(&raw.tls_ca)),
        auth,
        connections: raw.connections,
    })
}

fn pin(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0u8; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    fn refusal(text: &str) -> String {
        parse(text, "ringpost.toml").expect_err("must be refused").to_string()
    }

    #[test]
    fn an_empty_file_is_a_configuration() {
        let config = parse("", "x").expect("defaults");
        assert!(config.listeners.is_empty() && !config.lab);
    }

    #[test]
    fn a_bad_value_names_setting_and_remedy() {
        assert!(refusal("[spool]\nsegment_mib = 1").contains("spool.segment_mib: 1 is outside of 16 to 256"));
        assert!(refusal("[[listener]]\naddress='x'\nrole='mx'").contains("listener[0].address"));
        assert!(refusal("[[pool]]\nname='p'\nsources=['a']").contains("no [[source]] is named `a`"));
        assert!(refusal("[[credential]]\nname='u'\nfrom_domains=['a.test']").contains("credential[0].verifier"));
        assert!(refusal("[[route]]\ndomain='*'\nto=['h:25']\nlab=true").contains("server.lab"));
        assert!(refusal("[control]\nlisten='0.0.0.0:80'").contains("loopback"));
    }

    #[test]
    fn an_unknown_setting_names_its_line() {
        let text = refusal("[server]\nhostnam = 'x'\n");
        assert!(text.contains("line 2") && text.contains("hostnam"), "{text}");
    }
}
