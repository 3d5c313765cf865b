//! One question to the DNS, and how far its answer is to be trusted (RFC 4035 section 4.3). Runs on tokio.
//!
//! By default we are our own recursor: blocklists refuse shared resolvers, and a hoster's resolver may strip
//! signatures. Forwarders are asked only when the configuration names them. Validation, case randomisation,
//! random ports and ids, TCP after truncation and the bound on NSEC3 iterations (RFC 9276) are hickory's work;
//! what an answer means for mail is decided here.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::recursor::RecursorError;

use super::name;
use super::upstream::Backend;
pub use super::upstream::{Asked, LookupConfig};

/// Longest one question may take, all servers and retries together.
pub const QUESTION: Duration = Duration::from_secs(25);
/// How often a question is put before its failure is believed.
pub const TRIES: usize = 3;
/// Longest CNAME chain that is followed.
pub const CHAIN_MAX: usize = 8;

/// How far an answer is to be trusted, RFC 4035 section 4.3. Bogus is no answer but a [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Security {
    /// Could not be told: counts as insecure, and is counted. Known cause: insecure zones whose servers leave out
    /// the SOA record.
    Undecided,
    /// Proven to lie in an unsigned zone, or validation is off.
    Insecure,
    /// Signed, with an unbroken chain from the root.
    Secure,
}

/// Why there is no answer now. Always temporary (R-35: bogus is never "no record").
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The answer failed DNSSEC validation. The zone's operator (or someone on the way) is to blame.
    #[error("DNSSEC validation failed: {0}")]
    Bogus(String),
    /// No server answered in time.
    #[error("timeout")]
    Timeout,
    /// Servers answered with errors, or not in a usable way.
    #[error("{0}")]
    Server(String),
    /// More is being looked up than may be at once.
    #[error("the resolver is busy")]
    Busy,
    /// The name can't be asked for.
    #[error("not a domain name")]
    Name,
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// Records exist.
    Some {
        /// Their data.
        items: Vec<T>,
        /// The end of the CNAME chain, lower-case A-labels; the name itself without one.
        canonical: String,
        /// How far to be trusted, the chain included.
        security: Security,
        /// Smallest time to live on the way.
        ttl: Duration,
    },
    /// No such record.
    None {
        /// Not even the name exists.
        nxdomain: bool,
        /// How far to be trusted.
        security: Security,
        /// RFC 2308 section 5: the SOA's minimum or its TTL, the smaller; `None` without an SOA record.
        ttl: Option<Duration>,
    },
}

impl<T> Found<T> {
    /// The same answer with other data; items that `f` drops are left out.
    pub fn map<U>(self, f: impl FnMut(T) -> Option<U>) -> Found<U> {
        match self {
            Self::Some { items, canonical, security, ttl } => {
                Found::Some { items: items.into_iter().filter_map(f).collect(), canonical, security, ttl }
            }
            Self::None { nxdomain, security, ttl } => Found::None { nxdomain, security, ttl },
        }
    }

    /// How far to be trusted.
    #[must_use]
    pub fn security(&self) -> Security {
        match self {
            Self::Some { security, .. } | Self::None { security, .. } => *security,
        }
    }
}

/// One TLSA record, RFC 6698 section 2.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlsa {
    /// Certificate usage.
    pub usage: u8,
    /// Selector.
    pub selector: u8,
    /// Matching type.
    pub matching: u8,
    /// Certificate association data.
    pub data: Vec<u8>,
}

/// What has been seen, for metrics.
#[derive(Debug, Default)]
pub struct Seen {
    /// Questions asked.
    pub questions: AtomicU64,
    /// Answers that failed validation.
    pub bogus: AtomicU64,
    /// Answers whose security could not be told.
    pub undecided: AtomicU64,
    /// Questions without an answer, bogus ones apart.
    pub failures: AtomicU64,
}

/// Asks the DNS.
pub struct Dns {
    backend: Backend,
    dnssec: bool,
    /// What has been seen.
    pub seen: Arc<Seen>,
}

impl Dns {
    /// Builds the resolver; nothing is asked yet. Errors are the operator's (a setting) or ours.
    pub fn new(config: &LookupConfig) -> Result<Self, String> {
        let backend = Backend::new(config)?;
        Ok(Self { backend, dnssec: config.dnssec, seen: Arc::default() })
    }

    /// MX records, as (preference, exchange); the root as exchange is the empty string. Exchanges that are no
    /// host name are left out.
    pub async fn mx(&self, domain: &str) -> Result<Found<super::mx::MxRecord>, Failure> {
        Ok(self.ask(domain, RecordType::MX).await?.map(|data| match data {
            RData::MX(mx) => {
                let exchange = if mx.exchange.is_root() { Some(String::new()) } else { host_name(&mx.exchange) };
                exchange.map(|exchange| super::mx::MxRecord { preference: mx.preference, exchange })
            }
            _ => None,
        }))
    }

    /// A or AAAA records.
    pub async fn addresses(&self, host: &str, v6: bool) -> Result<Found<IpAddr>, Failure> {
        let kind = if v6 { RecordType::AAAA } else { RecordType::A };
        Ok(self.ask(host, kind).await?.map(|data| data.ip_addr()))
    }

    /// PTR names of an address.
    pub async fn ptr(&self, address: IpAddr) -> Result<Found<String>, Failure> {
        let name = Name::from(address.to_canonical());
        Ok(self.ask_name(name, RecordType::PTR).await?.map(|data| match data {
            RData::PTR(ptr) => host_name(&ptr.0),
            _ => None,
        }))
    }

    /// TXT records, the strings of each joined.
    pub async fn txt(&self, name: &str) -> Result<Found<Vec<u8>>, Failure> {
        Ok(self.ask(name, RecordType::TXT).await?.map(|data| match data {
            RData::TXT(txt) => Some(txt.txt_data.concat()),
            _ => None,
        }))
    }

    /// TLSA records, for `_25._tcp.host` (RFC 7672 section 2.2).
    pub async fn tlsa(&self, name: &str) -> Result<Found<Tlsa>, Failure> {
        Ok(self.ask(name, RecordType::TLSA).await?.map(|data| match data {
            RData::TLSA(tlsa) => Some(Tlsa {
                usage: tlsa.cert_usage.into(),
                selector: tlsa.selector.into(),
                matching: tlsa.matching.into(),
                data: tlsa.cert_data.clone(),
            }),
            _ => None,
        }))
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Result<Found<RData>, Failure> {
        let ascii = name::to_ascii(name).map_err(|_| Failure::Name)?;
        let mut name = Name::from_ascii(&ascii).map_err(|_| Failure::Name)?;
        name.set_fqdn(true);
        self.ask_name(name, kind).await
    }

    async fn ask_name(&self, name: Name, kind: RecordType) -> Result<Found<RData>, Failure> {
        self.seen.questions.fetch_add(1, Ordering::Relaxed);
        let answer = match tokio::time::timeout(QUESTION, self.persistent(&name, kind)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Timeout),
        };
        let counter = match &answer {
            Ok(found) if found.security() == Security::Undecided => &self.seen.undecided,
            Ok(_) => return answer,
            Err(Failure::Bogus(_)) => &self.seen.bogus,
            Err(_) => &self.seen.failures,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        answer
    }

    /// Asks again after a failure. One dead server of a zone can use up the time hickory gives a question; it is
    /// ranked down for that, so that the next try begins with another one.
    async fn persistent(&self, name: &Name, kind: RecordType) -> Result<Found<RData>, Failure> {
        let mut answer = self.validated(name, kind).await;
        for _ in 1..TRIES {
            if !matches!(answer, Err(Failure::Timeout | Failure::Server(_))) {
                break;
            }
            answer = self.validated(name, kind).await;
        }
        answer
    }

    async fn validated(&self, name: &Name, kind: RecordType) -> Result<Found<RData>, Failure> {
        let raw = self.raw(name, kind).await?;
        match raw {
            // "No such record" without a proof: an insecure zone whose servers leave out the SOA looks like a
            // signed zone with a stripped proof. The zone's own NS records tell them apart.
            Raw::Unproven { nxdomain, ttl } => {
                if self.dnssec && self.zone_is_signed(name).await? {
                    return Err(Failure::Bogus(format!("no proof that {name} has no {kind} record")));
                }
                Ok(Found::None { nxdomain, security: Security::Undecided, ttl })
            }
            Raw::None { nxdomain, security, ttl } => Ok(Found::None { nxdomain, security: self.capped(security), ttl }),
            Raw::Records(records) => {
                let found = follow(name, kind, &records)?;
                Ok(match found {
                    Found::Some { items, canonical, security, ttl } => {
                        Found::Some { items, canonical, security: self.capped(security), ttl }
                    }
                    none @ Found::None { .. } => none,
                })
            }
        }
    }

    /// Without validation nothing is undecided: it is insecure by choice.
    fn capped(&self, security: Security) -> Security {
        if self.dnssec {
            security
        } else {
            Security::Insecure
        }
    }

    /// True when the closest enclosing zone that shows NS records is signed (or when nothing can be shown).
    async fn zone_is_signed(&self, name: &Name) -> Result<bool, Failure> {
        let mut zone = name.clone();
        while !zone.is_root() {
            if let Ok(Raw::Records(records)) = self.raw(&zone, RecordType::NS).await {
                let ns = records.iter().find(|r| r.record_type() == RecordType::NS && r.name == zone);
                if let Some(ns) = ns {
                    return Ok(!matches!(ns.proof, Proof::Insecure));
                }
            }
            zone = zone.base_name();
        }
        Ok(true)
    }

    async fn raw(&self, name: &Name, kind: RecordType) -> Result<Raw, Failure> {
        match &self.backend {
            Backend::Recursor(recursor) => {
                let query = Query::query(name.clone(), kind);
                match recursor.resolve(query, Instant::now(), self.dnssec).await {
                    Ok(message) => Ok(positive(message.answers)),
                    Err(RecursorError::Negative(data)) => Ok(negative(
                        data.is_nx_domain(),
                        data.soa.as_deref().map(soa_facts),
                        data.authorities.as_deref().unwrap_or_default(),
                    )),
                    Err(RecursorError::Net(error)) => from_net(error),
                    Err(RecursorError::Timeout) => Err(Failure::Timeout),
                    Err(other) => Err(Failure::Server(bounded(&other.to_string()))),
                }
            }
            Backend::Forwarders(resolver) => match resolver.lookup(name.clone(), kind).await {
                Ok(lookup) => Ok(positive(lookup.answers().to_vec())),
                Err(error) => from_net(error),
            },
        }
    }
}

/// An answer before its chain is followed.
enum Raw {
    Records(Vec<Record>),
    None {
        nxdomain: bool,
        security: Security,
        ttl: Option<Duration>,
    },
    /// Negative, and nothing that proves it.
    Unproven {
        nxdomain: bool,
        ttl: Option<Duration>,
    },
}

fn positive(records: Vec<Record>) -> Raw {
    if records.is_empty() {
        Raw::Unproven { nxdomain: false, ttl: None }
    } else {
        Raw::Records(records)
    }
}

/// TTL by RFC 2308 section 5, and the proof of an SOA record.
fn soa_facts(soa: &Record<hickory_resolver::proto::rr::rdata::SOA>) -> (Duration, Proof) {
    (Duration::from_secs(u64::from(soa.ttl.min(soa.data.minimum))), soa.proof)
}

fn negative(nxdomain: bool, soa: Option<(Duration, Proof)>, authorities: &[Record]) -> Raw {
    let ttl = soa.map(|(ttl, _)| ttl);
    let proofs = soa
        .iter()
        .map(|(_, proof)| *proof)
        .chain(authorities.iter().filter(|r| r.record_type() != RecordType::RRSIG).map(|r| r.proof));
    match proofs.map(security_of).min() {
        Some(security) => Raw::None { nxdomain, security: security.unwrap_or(Security::Undecided), ttl },
        None => Raw::Unproven { nxdomain, ttl },
    }
}

/// `None` is bogus, which orders below all others.
fn security_of(proof: Proof) -> Option<Security> {
    match proof {
        Proof::Secure => Some(Security::Secure),
        Proof::Insecure => Some(Security::Insecure),
        Proof::Indeterminate => Some(Security::Undecided),
        Proof::Bogus => None,
    }
}

fn from_net(error: NetError) -> Result<Raw, Failure> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => Ok(negative(
            none.response_code == ResponseCode::NXDomain,
            none.soa.as_deref().map(soa_facts),
            none.authorities.as_deref().unwrap_or_default(),
        )),
        NetError::Dns(DnsError::Nsec { query, response, proof, .. }) => {
            let nxdomain = response.response_code == ResponseCode::NXDomain;
            let soa = response.authorities.iter().find_map(|r| match &r.data {
                RData::SOA(soa) => Some(Duration::from_secs(u64::from(r.ttl.min(soa.minimum)))),
                _ => None,
            });
            match proof {
                Proof::Secure => Ok(Raw::None { nxdomain, security: Security::Secure, ttl: soa }),
                Proof::Insecure => Ok(Raw::None { nxdomain, security: Security::Insecure, ttl: soa }),
                // Nothing signed came along: see `Raw::Unproven`.
                _ if !has_denial(&response.authorities) => Ok(Raw::Unproven { nxdomain, ttl: soa }),
                _ => Err(Failure::Bogus(format!("{} {}", query.name(), query.query_type()))),
            }
        }
        NetError::Dns(DnsError::DnssecBogus) => Err(Failure::Bogus("no unbroken chain of signatures".into())),
        NetError::Timeout => Err(Failure::Timeout),
        NetError::Busy => Err(Failure::Busy),
        other => Err(Failure::Server(bounded(&other.to_string()))),
    }
}

fn has_denial(authorities: &[Record]) -> bool {
    authorities.iter().any(|r| matches!(r.record_type(), RecordType::NSEC | RecordType::NSEC3))
}

/// Error texts can quote whole answers; reports have no room for that.
fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Walks the CNAME chain from `name` to the records of `kind`, RFC 1034 section 3.6.2, bounded.
fn follow(name: &Name, kind: RecordType, records: &[Record]) -> Result<Found<RData>, Failure> {
    let mut at = name.clone();
    let mut security = Security::Secure;
    let mut ttl = u32::MAX;
    for _ in 0..=CHAIN_MAX {
        let here: Vec<&Record> = records.iter().filter(|r| r.name == at && r.record_type() == kind).collect();
        let alias = records.iter().find_map(|r| match &r.data {
            RData::CNAME(target) if r.name == at && here.is_empty() => Some((r, target.0.clone())),
            _ => None,
        });
        let used = here.iter().copied().chain(alias.iter().map(|(r, _)| *r));
        for record in used {
            let Some(of_record) = security_of(record.proof) else {
                return Err(Failure::Bogus(format!("{} {}", record.name, record.record_type())));
            };
            security = security.min(of_record);
            ttl = ttl.min(record.ttl);
        }
        if !here.is_empty() {
            return Ok(Found::Some {
                items: here.iter().map(|r| r.data.clone()).collect(),
                canonical: host_name(&at).unwrap_or_default(),
                security,
                ttl: Duration::from_secs(u64::from(ttl)),
            });
        }
        match alias {
            Some((_, target)) => at = target,
            // The chain ends at a name without such a record.
            None => return Ok(Found::None { nxdomain: false, security: Security::Undecided, ttl: None }),
        }
    }
    Err(Failure::Server(format!("the CNAME chain of {name} is too long or has no end")))
}

fn host_name(name: &Name) -> Option<String> {
    name::to_ascii(&name.to_ascii()).ok()
}
