//! What a look-up of a domain comes to: a [`Route`], or why there is none.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::mx;
use super::site::SiteName;

/// One host that takes mail for a domain, with the addresses that may be contacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MxHost {
    /// Lower is tried first, RFC 5321 section 5.1.
    pub preference: u16,
    /// Its name in A-labels (or the address, when the route names one). Certificates are checked against this.
    pub name: String,
    /// What the name is an alias of, when it is one (RFC 5321 section 5.1 follows CNAME targets); else the name.
    pub canonical: String,
    /// Where to connect, both families, special-purpose and own addresses already taken out. Never empty.
    pub addresses: Vec<IpAddr>,
    /// TCP port; 25 but for static routes and labs.
    pub port: u16,
    /// The MX answer and the address answers were validated: RFC 7672 section 2.2 may look for TLSA here.
    pub secure: bool,
}

/// The way to a domain. Shared between threads, never changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name of the set of hosts, the same for all domains that share it.
    pub site: SiteName,
    /// By preference; equals in a stable order. [`Route::order`] shuffles them for one attempt.
    pub hosts: Vec<MxHost>,
    /// Who runs the hosts, when it is one we know.
    pub provider: Option<&'static str>,
    /// When it must be asked for again (monotonic).
    pub expires: Instant,
    /// True when the answer is older than its time to live, because no newer one was to be had.
    pub stale: bool,
}

impl Route {
    /// The order of hosts for one attempt, as indexes into `hosts`: RFC 5321 section 5.1, by preference, equals
    /// shuffled by `random`.
    #[must_use]
    pub fn order(&self, random: u64) -> Vec<usize> {
        mx::order(self.hosts.iter().map(|host| host.preference), random)
    }

    /// True when some host has an address of the family.
    #[must_use]
    pub fn has_family(&self, v6: bool) -> bool {
        self.hosts.iter().any(|host| host.addresses.iter().any(|a| a.is_ipv6() == v6))
    }
}

/// Why a domain has no route now, or never. Carries what a report says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Tried again by the retry schedule: the DNS did not answer, or its answer failed validation.
    #[error("{code} {}.{}.{} {text}", enhanced[0], enhanced[1], enhanced[2])]
    Temporary {
        /// SMTP reply code of the same meaning.
        code: u16,
        /// RFC 3463 enhanced code.
        enhanced: [u16; 3],
        /// What happened, for logs and reports.
        text: String,
        /// Asking again earlier is useless.
        retry_after: Duration,
    },
    /// Final: the domain does not exist or takes no mail.
    #[error("{code} {}.{}.{} {text}", enhanced[0], enhanced[1], enhanced[2])]
    Permanent {
        /// SMTP reply code of the same meaning.
        code: u16,
        /// RFC 3463 enhanced code.
        enhanced: [u16; 3],
        /// What happened, for logs and reports.
        text: String,
    },
}

impl RouteError {
    /// RFC 7505 section 4.2 (and RFC 7504 for the code): the domain says that it takes no mail.
    #[must_use]
    pub fn null_mx(domain: &str) -> Self {
        Self::Permanent { code: 556, enhanced: [5, 1, 10], text: format!("{domain} takes no mail (null MX)") }
    }

    /// RFC 3463 section 3.2, X.1.2: the domain does not exist.
    #[must_use]
    pub fn no_domain(domain: &str) -> Self {
        Self::Permanent { code: 550, enhanced: [5, 1, 2], text: format!("{domain} does not exist") }
    }

    /// RFC 3463 section 3.5, X.4.4: the domain names no host that can be contacted.
    #[must_use]
    pub fn unroutable(text: String) -> Self {
        Self::Permanent { code: 550, enhanced: [5, 4, 4], text }
    }

    /// RFC 3463 section 3.5, X.4.6: the best host for the domain is this machine.
    #[must_use]
    pub fn loops_back(domain: &str) -> Self {
        Self::Permanent { code: 554, enhanced: [5, 4, 6], text: format!("mail for {domain} loops back to this host") }
    }

    /// RFC 3463 section 3.5, X.4.3: the DNS gave no usable answer.
    #[must_use]
    pub fn dns(text: String, retry_after: Duration) -> Self {
        Self::Temporary { code: 451, enhanced: [4, 4, 3], text, retry_after }
    }

    /// True when the retry schedule goes on.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Temporary { .. })
    }
}
