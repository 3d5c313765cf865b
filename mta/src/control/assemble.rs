//! From the checked configuration to the settings of each part. Every part has its own; here they meet.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use queue::spool::Spool;

use crate::config::resolved::{self, Role};
use crate::config::{Config, Network};
use crate::dns::lookup::{Asked, LookupConfig};
use crate::dns::mx::Ourselves;
use crate::dns::{AddressPolicy, ResolverConfig};
use crate::egress::EgressSource;
use crate::ingress::Door;
use crate::message::key::{self, DkimKey, Keyring};
use crate::shard::acceptance::{IngressPlan, ListenerPlan};
use crate::smtp::sasl::Verifier;
use crate::smtp::server::{
    Credential, DomainRule, InboundKind, InboundRule, ListenerRole, LocalRule, ServerPolicy, SteerScope, TrustedNetwork,
};
use crate::tls;

use super::durable;

/// Settings of the resolver.
#[must_use]
pub fn resolver(config: &Config) -> ResolverConfig {
    let asked = match config.dns.mode.as_str() {
        "forward" => Asked::Forwarders(config.dns_servers.clone()),
        _ => Asked::Recursor(config.dns_servers.clone()),
    };
    let addresses = AddressPolicy {
        own: config.sources.iter().map(|s| s.address).collect(),
        lab: if config.lab { lab_networks() } else { Vec::new() },
    };
    ResolverConfig {
        lookup: LookupConfig { asked, dnssec: config.dns.dnssec, ..LookupConfig::default() },
        us: Ourselves { names: vec![config.hostname.to_ascii_lowercase()], addresses },
        port: config.delivery.port,
        ..ResolverConfig::default()
    }
}

/// Networks a lab may contact although they are special-purpose.
fn lab_networks() -> Vec<Network> {
    ["127.0.0.0/8", "10.0.0.0/8", "::1/128", "fd00::/8"].iter().filter_map(|n| n.parse().ok()).collect()
}

/// The egress sources.
#[must_use]
pub fn sources(config: &Config) -> Vec<EgressSource> {
    config
        .sources
        .iter()
        .map(|s| EgressSource {
            name: s.name.clone(),
            address: s.address,
            assumed_name: (!s.ehlo.is_empty()).then(|| s.ehlo.clone()),
            weight: s.weight,
        })
        .collect()
}

/// Our certificate; a self-signed one is made when there is none.
pub fn server_tls(config: &Config) -> Result<tls::Server> {
    let (certificate, key) = (Path::new(&config.tls.certificate), Path::new(&config.tls.key));
    if !certificate.exists() {
        let names = std::slice::from_ref(&config.hostname);
        // A key alone is what a power cut between the two files leaves.
        let chain = match std::fs::read_to_string(key) {
            Ok(secret) => tls::self_signed_for(names, &secret)
                .with_context(|| format!("tls.certificate: {} is missing", certificate.display()))?,
            Err(_) => {
                let (chain, secret) = tls::self_signed(names)?;
                write_secret(key, &secret)?;
                chain
            }
        };
        write_file(certificate, chain.as_bytes())?;
        let shown = certificate.display();
        tracing::warn!(certificate = %shown, "made a self-signed certificate; clients that verify refuse it");
    }
    let read = |setting: &str, path: &Path| {
        std::fs::read(path)
            .with_context(|| format!("{setting}: {}: give it to the user that runs ringpost", path.display()))
    };
    let chain = read("tls.certificate", certificate)?;
    let secret = read("tls.key", key)?;
    tls::Server::new(&chain, &secret).with_context(|| format!("tls.certificate: {}", certificate.display()))
}

/// The signing keys; one that is missing is made, in a lab.
pub fn dkim_keys(config: &Config) -> Result<Keyring> {
    let mut keys = Vec::new();
    for (i, setting) in config.dkim.iter().enumerate() {
        let path = Path::new(&setting.key);
        if !path.exists() && config.lab {
            let made = key::generate_rsa()?;
            write_secret(path, &made.pem)?;
            let record = format!("{}._domainkey.{} {}\n", setting.selector, setting.domain, made.record);
            write_file(&path.with_extension("dns.txt"), record.as_bytes())?;
        }
        let key = DkimKey::load(&setting.domain, &setting.selector, path)
            .with_context(|| format!("dkim[{i}].key: {}", setting.key))?;
        keys.push(key);
    }
    Ok(Keyring::new(keys))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    durable::write(path, bytes, 0o644).with_context(|| format!("writing {}", path.display()))
}

/// Writes a file only its owner may read.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    durable::write(path, text.as_bytes(), 0o600).with_context(|| format!("writing {}", path.display()))
}

/// What the listeners let in.
pub fn ingress(config: &Config, server_tls: tls::Server, spool: &Arc<Spool>, shards: usize) -> Result<IngressPlan> {
    let (credentials, trusted) = credentials(config)?;
    let process_key = rand::random();
    let listeners = config
        .listeners
        .iter()
        .map(|l| ListenerPlan {
            address: l.address,
            max_sessions: l.max_sessions,
            max_sessions_per_address: l.max_sessions_per_address,
            door: Arc::new(Door::new(
                server_policy(config, l, &credentials, &trusted, process_key),
                Some(server_tls.clone()),
            )),
        })
        .collect();
    Ok(IngressPlan {
        listeners,
        host: config.hostname.clone(),
        signs: !config.dkim.is_empty(),
        streams: config.streams.iter().map(|s| (s.name.clone(), (s.class, s.ttl))).collect(),
        spool: Arc::clone(spool),
        shards,
    })
}

/// Gives listeners the settings of a new configuration: those whose address is in both.
pub fn replace_ingress(plan: &IngressPlan, config: &Config) -> Result<()> {
    let (credentials, trusted) = credentials(config)?;
    for listener in &plan.listeners {
        let process_key = listener.door.policy.load().process_key;
        match config.listeners.iter().find(|l| l.address == listener.address) {
            Some(new) => listener.door.replace(server_policy(config, new, &credentials, &trusted, process_key)),
            None => tracing::warn!(address = %listener.address, "a listener is closed at the next start"),
        }
    }
    for new in &config.listeners {
        if !plan.listeners.iter().any(|l| l.address == new.address) {
            tracing::warn!(address = %new.address, "a listener is opened at the next start");
        }
    }
    Ok(())
}

type Credentials = (Vec<Arc<Credential>>, Vec<TrustedNetwork>);

fn credentials(config: &Config) -> Result<Credentials> {
    let streams: HashMap<&str, &resolved::Stream> = config.streams.iter().map(|s| (s.name.as_str(), s)).collect();
    let credentials: Vec<Arc<Credential>> =
        config.credentials.iter().map(|c| credential(c, &streams).map(Arc::new)).collect::<Result<_>>()?;
    let trusted = config
        .credentials
        .iter()
        .zip(&credentials)
        .flat_map(|(setting, credential)| {
            let networks = setting.trusted_networks.iter();
            networks.map(|network| TrustedNetwork { network: *network, credential: Arc::clone(credential) })
        })
        .collect();
    Ok((credentials, trusted))
}

fn server_policy(
    config: &Config,
    listener: &resolved::Listener,
    credentials: &[Arc<Credential>],
    trusted: &[TrustedNetwork],
    process_key: [u8; 32],
) -> ServerPolicy {
    let own = |d: &&crate::config::raw::Domain| d.return_path;
    ServerPolicy {
        role: match listener.role {
            Role::Mx => ListenerRole::Mx,
            Role::Submission => ListenerRole::Submission,
            Role::Submissions => ListenerRole::SubmissionTls,
            Role::Relay => ListenerRole::Relay,
        },
        hostname: config.hostname.clone(),
        domains: config.domains.iter().map(|d| d.name.to_ascii_lowercase()).collect(),
        operator: (!config.operator.is_empty()).then(|| config.operator.clone()),
        inbound: config
            .domains
            .iter()
            .filter(own)
            .map(|d| InboundRule {
                kind: InboundKind::ReturnPath,
                domain: d.name.to_ascii_lowercase(),
                local: LocalRule::Prefix(String::new()),
            })
            .collect(),
        credentials: credentials.iter().map(|c| (c.name.clone(), Arc::clone(c))).collect(),
        trusted: trusted.to_vec(),
        xclient_peers: listener.xclient_from.to_vec(),
        proxy_peers: listener.proxy_from.to_vec(),
        tls: true,
        lab_auth_in_clear: false,
        size_max: listener.max_message as u64,
        recipients_max: u32::try_from(listener.max_recipients).unwrap_or(u32::MAX),
        process_key,
        ..ServerPolicy::default()
    }
}

fn credential(setting: &resolved::Credential, streams: &HashMap<&str, &resolved::Stream>) -> Result<Credential> {
    let verifier = match setting.verifier.as_str() {
        "" => Verifier::Nobody,
        text => text.parse().with_context(|| format!("the verifier of credential `{}`", setting.name))?,
    };
    Ok(Credential {
        name: setting.name.clone(),
        verifier,
        tenant: setting.tenant.clone(),
        from_domains: setting.from_domains.iter().map(|d| DomainRule::parse(d)).collect(),
        pools: setting.pools.clone(),
        streams: setting
            .streams
            .iter()
            .filter_map(|name| streams.get(name.as_str()).map(|s| (name.clone(), s.class)))
            .collect(),
        steer: SteerScope { pool: true, campaign: true, stream: true, schedule: true, priority: true },
        networks: setting.networks.to_vec(),
        recipients_per_minute: (setting.recipients_per_minute > 0).then_some(setting.recipients_per_minute),
        ..Credential::default()
    })
}
