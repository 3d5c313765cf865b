//! The configuration as written: one struct per table of `ringpost.toml`. Unknown keys are refused with their line.
//!
//! The doc comments here are the manual of the settings: name, default, limits, what it does to mail.

use serde::Deserialize;

/// The whole file.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    /// `[server]`
    pub server: Server,
    /// `[spool]`
    pub spool: Spool,
    /// `[events]`
    pub events: Events,
    /// `[tls]`
    pub tls: Tls,
    /// `[dns]`
    pub dns: Dns,
    /// `[delivery]`
    pub delivery: Delivery,
    /// `[control]`
    pub control: Control,
    /// `[[listener]]`
    pub listener: Vec<Listener>,
    /// `[[domain]]`
    pub domain: Vec<Domain>,
    /// `[[credential]]`
    pub credential: Vec<Credential>,
    /// `[[stream]]`
    pub stream: Vec<Stream>,
    /// `[[source]]`
    pub source: Vec<Source>,
    /// `[[pool]]`
    pub pool: Vec<Pool>,
    /// `[[route]]`
    pub route: Vec<Route>,
    /// `[[dkim]]`
    pub dkim: Vec<Dkim>,
    /// `[[queue]]`
    pub queue: Vec<Queue>,
}

/// `[server]`: who this machine is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Name in the greeting, in Received and in reports. Default: the machine's host name.
    pub hostname: String,
    /// Where mail to postmaster@ and abuse@ of our domains goes (RFC 5321 4.5.1). Default: none, such mail is deferred.
    pub operator: String,
    /// Number of shards; 0 means one per core. Takes effect at the next start.
    pub shards: usize,
    /// Cores the shards are pinned to; empty means all that the process may use. Takes effect at the next start.
    pub cores: Vec<usize>,
    /// `auto`, `io_uring` or `epoll`. Takes effect at the next start.
    pub driver: String,
    /// Lab switch: names of sources are taken as configured, special-purpose addresses may be contacted through
    /// lab routes, AUTH is allowed without TLS on loopback. Loud everywhere. Default: false.
    pub lab: bool,
    /// Bytes of freshly accepted mail kept in memory, in MiB. Default 256.
    pub hot_mib: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            operator: String::new(),
            shards: 0,
            cores: Vec::new(),
            driver: "auto".into(),
            lab: false,
            hot_mib: 256,
        }
    }
}

/// `[spool]`: where accepted mail is kept until it is done.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spool {
    /// Directory; ought to be on a disk of its own. Takes effect at the next start.
    pub dir: String,
    /// Size of a segment, 16 to 256 MiB. Default 64. Takes effect at the next start.
    pub segment_mib: u64,
    /// Pre-written segments kept ready. Default 2.
    pub spares: usize,
    /// MiB that stay free for reports, ack log and events. Default 256.
    pub reserve_mib: u64,
    /// The same in percent of the disk; the larger of both counts. Default 3.
    pub reserve_percent: u8,
    /// `auto`, `ring` or `pwrite`.
    pub writer: String,
    /// Directory of the ack rings; must be a tmpfs. Default `/dev/shm`.
    pub shm_dir: String,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            dir: "var/spool".into(),
            segment_mib: 64,
            spares: 2,
            reserve_mib: 256,
            reserve_percent: 3,
            writer: "auto".into(),
            shm_dir: "/dev/shm".into(),
        }
    }
}

/// `[events]`: the event log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// Directory. Default `var/events`.
    pub dir: String,
    /// Oldest files are removed past this many MiB. Default 1024.
    pub max_mib: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self { dir: "var/events".into(), max_mib: 1024 }
    }
}

/// `[tls]`: our certificate.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file with the chain; a self-signed one is made when it is absent.
    pub certificate: String,
    /// PEM file with the key.
    pub key: String,
    /// File that remembers which hosts have working or broken TLS.
    pub memory: String,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            certificate: "var/tls/cert.pem".into(),
            key: "var/tls/key.pem".into(),
            memory: "var/tls/hosts.txt".into(),
        }
    }
}

/// `[dns]`: how names are looked up.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// `recursor` asks from the root with DNSSEC validation; `forward` asks `servers`.
    pub mode: String,
    /// `address:port` of forwarders, or of the roots in `recursor` mode (empty: the real ones).
    pub servers: Vec<String>,
    /// Validate DNSSEC. Default true.
    pub dnssec: bool,
    /// Seconds after which the name of a parked source is checked again, 1 to 3600. Default 300. Takes effect at the
    /// next start.
    pub parked_check_s: u32,
}

impl Default for Dns {
    fn default() -> Self {
        Self { mode: "recursor".into(), servers: Vec::new(), dnssec: true, parked_check_s: 300 }
    }
}

/// `[delivery]`: what holds for all mail that leaves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delivery {
    /// False holds the whole queue: mail is accepted and kept. Default true.
    pub enabled: bool,
    /// Seconds before the second attempt; doubles after each. Default 1200.
    pub retry_first_s: u32,
    /// Longest interval between attempts, in seconds. Default 14400.
    pub retry_max_s: u32,
    /// Given up after this many seconds. Default 432000, five days (RFC 5321 4.5.4.1 asks for four to five).
    pub max_age_s: u32,
    /// A delay is reported, when asked for, after this many seconds. Default 14400.
    pub delay_report_s: u32,
    /// Seconds an idle connection is kept. Default 30.
    pub idle_s: u32,
    /// TCP port of MX hosts. Default 25; only for labs.
    pub port: u16,
    /// Recipients that may wait in one ready queue. Default 2000.
    pub ready_max: usize,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            enabled: true,
            retry_first_s: 1200,
            retry_max_s: 14_400,
            max_age_s: 432_000,
            delay_report_s: 14_400,
            idle_s: 30,
            port: 25,
            ready_max: 2000,
        }
    }
}

/// `[control]`: the status page.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// `address:port` of the plain status page; loopback only. Empty: none.
    pub listen: String,
}

impl Default for Control {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8025".into() }
    }
}

/// `[[listener]]`: one port.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `address:port`.
    pub address: String,
    /// `mx` (25), `submission` (587, STARTTLS), `submissions` (465, TLS from the start) or `relay` (2525).
    pub role: String,
    /// Most sessions at once. Default 10000.
    #[serde(default = "sessions")]
    pub max_sessions: usize,
    /// Most sessions from one address. Default 1000.
    #[serde(default = "sessions_per_address")]
    pub max_sessions_per_address: usize,
    /// Largest message in MiB. Default 50, the most.
    #[serde(default = "message_mib")]
    pub max_message_mib: usize,
    /// Most recipients of one message. Default 1000.
    #[serde(default = "recipients")]
    pub max_recipients: usize,
    /// Networks whose PROXY protocol header (v1 or v2) is required and believed.
    #[serde(default)]
    pub proxy_from: Vec<String>,
    /// Networks that may use XCLIENT.
    #[serde(default)]
    pub xclient_from: Vec<String>,
}

fn sessions() -> usize {
    10_000
}
fn sessions_per_address() -> usize {
    1000
}
fn message_mib() -> usize {
    50
}
fn recipients() -> usize {
    1000
}

/// `[[domain]]`: a domain that is ours: its postmaster@ and abuse@ reach the operator.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// The domain.
    pub name: String,
    /// True when it is our return-path domain: reports to it become events. Default false.
    #[serde(default)]
    pub return_path: bool,
}

/// `[[credential]]`: who may submit: after AUTH, or from trusted networks. Always bound to From domains.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// User name of AUTH, and the name in logs.
    pub name: String,
    /// A SCRAM verifier (`SCRAM-SHA-256$...`) or an argon2id hash (`$argon2id$...`), as `ringpost hash-password`
    /// prints them. Empty: no AUTH with this credential.
    #[serde(default)]
    pub verifier: String,
    /// Networks (CIDR) that may submit under this credential without AUTH.
    #[serde(default)]
    pub trusted_networks: Vec<String>,
    /// Networks (CIDR) AUTH may come from; empty for any.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Tenant its mail belongs to.
    #[serde(default)]
    pub tenant: String,
    /// Domains allowed in MAIL FROM and in the From header; `*` for any (lab only).
    pub from_domains: Vec<String>,
    /// Pools its headers may name; the first is its default.
    #[serde(default)]
    pub pools: Vec<String>,
    /// Streams its headers may name; the first is its default.
    #[serde(default)]
    pub streams: Vec<String>,
    /// Recipients a minute; 0 for no limit.
    #[serde(default)]
    pub recipients_per_minute: u32,
}

/// `[[stream]]`: a named stream of mail.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// `critical`, `transactional` or `bulk`.
    pub class: String,
    /// Given up after this many seconds; 0 for the general limit.
    #[serde(default)]
    pub ttl_s: u32,
}

/// `[[source]]`: an address mail leaves from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name in pools and logs.
    pub name: String,
    /// The local address.
    pub address: String,
    /// EHLO name; only for labs, elsewhere the confirmed PTR name is used.
    #[serde(default)]
    pub ehlo: String,
    /// Share within its pool. Default 1.
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

/// `[[pool]]`: sources that share mail by weight.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Its name; `default` is used where none is named.
    pub name: String,
    /// Names of its sources.
    pub sources: Vec<String>,
}

/// `[[route]]`: mail that doesn't follow MX records.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A domain, `*.suffix` or `*`.
    pub domain: String,
    /// Only for this tenant. Default: all.
    #[serde(default)]
    pub tenant: String,
    /// `host:port` or `address:port`, tried in order.
    pub to: Vec<String>,
    /// Lab route: no limits, special-purpose addresses allowed. Needs `server.lab`.
    #[serde(default)]
    pub lab: bool,
    /// `none`, `opportunistic` (default), `required` or `implicit`.
    #[serde(default)]
    pub tls: String,
    /// SHA-256 of the peer's public key info, in hex; the certificate must have it.
    #[serde(default)]
    pub tls_pin: String,
    /// PEM file of the authority that must have signed the peer's certificate.
    #[serde(default)]
    pub tls_ca: String,
    /// User name for AUTH at the smarthost.
    #[serde(default)]
    pub user: String,
    /// File with the password for AUTH at the smarthost.
    #[serde(default)]
    pub password_file: String,
    /// Most connections at once; 0 for the built-in limit (lab routes: 64).
    #[serde(default)]
    pub connections: u32,
}

/// `[[dkim]]`: a signing key. Several for one domain sign several times.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dkim {
    /// Domain in `d=`; mail from it and its subdomains is signed.
    pub domain: String,
    /// Selector in `s=`.
    pub selector: String,
    /// PEM file: RSA (2048 bits or more) or Ed25519, PKCS#8 or PKCS#1.
    pub key: String,
}

/// `[[queue]]`: an override for some queues.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Recipient domain, or empty for all.
    #[serde(default)]
    pub domain: String,
    /// Tenant, or empty for all.
    #[serde(default)]
    pub tenant: String,
    /// Seconds before the second attempt.
    #[serde(default)]
    pub retry_first_s: Option<u32>,
    /// Longest interval between attempts, in seconds.
    #[serde(default)]
    pub retry_max_s: Option<u32>,
    /// Given up after this many seconds.
    #[serde(default)]
    pub max_age_s: Option<u32>,
}
