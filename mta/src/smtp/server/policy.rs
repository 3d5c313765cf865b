//! Who may send what: plain values that the configuration fills in and sessions share.

use std::collections::HashMap;
use std::sync::Arc;

use queue::{Class, UnixSecs};

use crate::config::Network;
use crate::smtp::limits;
use crate::smtp::sasl::Verifier;

/// What a listener is for. A violation of the role is impossible by configuration: the role decides, not a switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ListenerRole {
    /// Port 25: mail to our own addresses only.
    Mx,
    /// Port 587: STARTTLS, then AUTH.
    #[default]
    Submission,
    /// Port 465: TLS from the first byte, then AUTH (RFC 8314).
    SubmissionTls,
    /// Port 2525: as 587.
    Relay,
}

impl ListenerRole {
    /// Only credentials (and networks bound to one) may send here.
    #[must_use]
    pub fn is_submission(self) -> bool {
        self != Self::Mx
    }
}

/// Domains a credential may send from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainRule {
    /// Every domain: the operator's own credential.
    Any,
    /// This domain.
    Exact(String),
    /// Domains below this one, not the domain itself.
    Below(String),
}

impl DomainRule {
    /// `*`, `example.com` or `*.example.com`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix("*.") {
            _ if text == "*" => Self::Any,
            Some(parent) => Self::Below(parent.to_owned()),
            None => Self::Exact(text),
        }
    }

    /// `domain` in lower-case A-labels.
    #[must_use]
    pub fn covers(&self, domain: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(own) => own == domain,
            Self::Below(parent) => {
                domain.strip_suffix(parent.as_str()).is_some_and(|head| head.len() > 1 && head.ends_with('.'))
            }
        }
    }
}

/// What headers of a submitted message may steer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerScope {
    /// The egress pool, among the credential's pools.
    pub pool: bool,
    /// The campaign.
    pub campaign: bool,
    /// The stream, among the credential's streams.
    pub stream: bool,
    /// A later time.
    pub schedule: bool,
    /// The priority.
    pub priority: bool,
}

/// One user or application that may send. Never holds a password.
#[derive(Clone, Debug)]
pub struct Credential {
    /// User name of AUTH.
    pub name: String,
    /// What a password is checked against.
    pub verifier: Verifier,
    /// Who sends.
    pub tenant: String,
    /// Domains of MAIL FROM and of the From field; empty means none.
    pub from_domains: Vec<DomainRule>,
    /// Egress pools it may use, the default first; empty means the operator's default.
    pub pools: Vec<String>,
    /// Streams it may use with their classes, the default first.
    pub streams: Vec<(String, Class)>,
    /// What headers may steer.
    pub steer: SteerScope,
    /// Where it may come from; empty means anywhere.
    pub networks: Vec<Network>,
    /// Recipients a minute; none means no limit.
    pub recipients_per_minute: Option<u32>,
    /// Most recipients of one transaction, when less than the policy's.
    pub recipients_max: Option<u32>,
    /// Largest message in bytes, when less than the policy's.
    pub size_max: Option<u64>,
    /// Not valid from this time on.
    pub expires: Option<UnixSecs>,
}

impl Default for Credential {
    fn default() -> Self {
        Self {
            name: String::new(),
            verifier: Verifier::Nobody,
            tenant: String::new(),
            from_domains: Vec::new(),
            pools: Vec::new(),
            streams: Vec::new(),
            steer: SteerScope::default(),
            networks: Vec::new(),
            recipients_per_minute: None,
            recipients_max: None,
            size_max: None,
            expires: None,
        }
    }
}

impl Credential {
    /// True when it may send from `domain` (lower-case A-labels). The one check for MAIL FROM and the From field.
    #[must_use]
    pub fn may_send_from(&self, domain: &str) -> bool {
        self.from_domains.iter().any(|rule| rule.covers(domain))
    }

    /// Class of its default stream.
    #[must_use]
    pub fn class(&self) -> Class {
        self.streams.first().map_or_else(Class::default, |(_, class)| *class)
    }

    /// Past its end.
    #[must_use]
    pub fn is_expired(&self, now: UnixSecs) -> bool {
        self.expires.is_some_and(|end| now >= end)
    }
}

/// Peers that need no AUTH on submission ports: always bound to a credential, so to a tenant and its domains.
#[derive(Clone, Debug)]
pub struct TrustedNetwork {
    /// Where they are.
    pub network: Network,
    /// As whom they send.
    pub credential: Arc<Credential>,
}

/// What an address of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InboundKind {
    /// postmaster@ and abuse@: goes on to the operator.
    Operator,
    /// Bounces to a return path of ours.
    ReturnPath,
    /// Complaints (RFC 5965).
    Feedback,
    /// One-click unsubscribe by mail.
    Unsubscribe,
    /// DMARC and TLS reports.
    Report,
}

/// Which local parts a rule covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalRule {
    /// This one, case not counted.
    Exact(String),
    /// All that begin so, case not counted: `bounce+` for return paths with a key in them.
    Prefix(String),
}

impl LocalRule {
    fn covers(&self, local: &str) -> bool {
        match self {
            Self::Exact(own) => own.eq_ignore_ascii_case(local),
            Self::Prefix(prefix) => {
                local.as_bytes().get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
            }
        }
    }
}

/// An address (or family of addresses) of ours that takes mail on port 25.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundRule {
    /// What it is for.
    pub kind: InboundKind,
    /// Lower-case A-labels.
    pub domain: String,
    /// Local parts.
    pub local: LocalRule,
}

/// Everything a session decides by. Swapped whole when the configuration changes.
#[derive(Clone, Debug)]
pub struct ServerPolicy {
    /// What this listener is for.
    pub role: ListenerRole,
    /// Our name in the greeting and EHLO reply.
    pub hostname: String,
    /// Our domains, lower-case A-labels: where postmaster@ and abuse@ exist.
    pub domains: Vec<String>,
    /// Where postmaster@ and abuse@ go on to; none until set up.
    pub operator: Option<String>,
    /// Our other addresses that take mail.
    pub inbound: Vec<InboundRule>,
    /// By user name.
    pub credentials: HashMap<String, Arc<Credential>>,
    /// Peers that need no AUTH.
    pub trusted: Vec<TrustedNetwork>,
    /// Peers that may use XCLIENT.
    pub xclient_peers: Vec<Network>,
    /// Peers that must begin with a PROXY header.
    pub proxy_peers: Vec<Network>,
    /// A certificate is there: STARTTLS is offered.
    pub tls: bool,
    /// Lab only: AUTH without TLS. Said loudly at start; no appliance sets it.
    pub lab_auth_in_clear: bool,
    /// Recipients at address literals are relayed on submission.
    pub relay_to_literals: bool,
    /// Largest message in bytes.
    pub size_max: u64,
    /// Most recipients of one transaction; RFC 9422 RCPTMAX.
    pub recipients_max: u32,
    /// Most transactions of one session; RFC 9422 MAILMAX.
    pub transactions_max: u32,
    /// Most recipient domains of one session; RFC 9422 RCPTDOMAINMAX. Not limited and not offered when none.
    pub recipient_domains_max: Option<u32>,
    /// Refused or unknown commands before the session is closed.
    pub errors_max: u32,
    /// Longest hold in seconds; RFC 4865.
    pub hold_max: u32,
    /// Shortest BY time in seconds; RFC 2852.
    pub by_min: u32,
    /// Random for the life of the process: nonces and decoys derive from it.
    pub process_key: [u8; 32],
}

impl Default for ServerPolicy {
    fn default() -> Self {
        Self {
            role: ListenerRole::default(),
            hostname: "localhost".to_owned(),
            domains: Vec::new(),
            operator: None,
            inbound: Vec::new(),
            credentials: HashMap::new(),
            trusted: Vec::new(),
            xclient_peers: Vec::new(),
            proxy_peers: Vec::new(),
            tls: false,
            lab_auth_in_clear: false,
            relay_to_literals: false,
            size_max: limits::SIZE_DEFAULT,
            recipients_max: limits::RECIPIENTS_DEFAULT,
            transactions_max: limits::TRANSACTIONS_DEFAULT,
            recipient_domains_max: None,
            errors_max: limits::ERRORS_DEFAULT,
            hold_max: limits::HOLD_DEFAULT,
            by_min: limits::DELIVER_BY_DEFAULT,
            process_key: [0; 32],
        }
    }
}

impl ServerPolicy {
    /// What an address of ours is for; none when it is not ours. `local` as given, quotes included, so that no
    /// other spelling of an address (percent hack, quoted at sign) is ever taken apart here.
    #[must_use]
    pub fn inbound_kind(&self, local: &str, domain: &str) -> Option<InboundKind> {
        let role_address = ["postmaster", "abuse"].iter().any(|name| name.eq_ignore_ascii_case(local));
        if role_address && (self.hostname.eq_ignore_ascii_case(domain) || self.is_own(domain)) {
            return Some(InboundKind::Operator);
        }
        self.inbound.iter().find(|rule| rule.domain == domain && rule.local.covers(local)).map(|rule| rule.kind)
    }

    fn is_own(&self, domain: &str) -> bool {
        self.domains.iter().any(|own| own == domain) || self.inbound.iter().any(|rule| rule.domain == domain)
    }

    /// The credential a peer's network is bound to.
    #[must_use]
    pub fn trusted_as(&self, address: std::net::IpAddr) -> Option<&Arc<Credential>> {
        self.trusted.iter().find(|trusted| trusted.network.contains(address)).map(|trusted| &trusted.credential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r05_domain_rules() {
        assert!(DomainRule::parse("*").covers("any.test"));
        assert!(DomainRule::parse("A.test").covers("a.test"));
        assert!(!DomainRule::parse("a.test").covers("b.a.test"));
        let below = DomainRule::parse("*.a.test");
        assert!(below.covers("b.a.test") && below.covers("c.b.a.test"));
        assert!(!below.covers("a.test") && !below.covers("xa.test") && !below.covers(".a.test"));
    }

    #[test]
    fn r01_own_addresses() {
        let policy = ServerPolicy {
            hostname: "mx.own.test".into(),
            domains: vec!["own.test".into()],
            inbound: vec![InboundRule {
                kind: InboundKind::ReturnPath,
                domain: "rp.own.test".into(),
                local: LocalRule::Prefix("b+".into()),
            }],
            ..ServerPolicy::default()
        };
        for (local, domain, kind) in [
            ("PostMaster", "own.test", Some(InboundKind::Operator)),
            ("abuse", "rp.own.test", Some(InboundKind::Operator)),
            ("postmaster", "mx.own.test", Some(InboundKind::Operator)),
            ("B+key", "rp.own.test", Some(InboundKind::ReturnPath)),
            ("b", "rp.own.test", None),
            ("b+key", "own.test", None),
            ("postmaster", "other.test", None),
            ("x%other.test", "own.test", None),
            ("\"postmaster\"", "own.test", None),
        ] {
            assert_eq!(policy.inbound_kind(local, domain), kind, "{local}@{domain}");
        }
    }
}
