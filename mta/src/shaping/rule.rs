//! Which limits hold for a site, and the names by which they are shown: built-in caution, a table by provider
//! (facts of the field; an operator's own limits go on top), and the lab, where nothing holds.

use std::fmt;
use std::time::Duration;

/// So many in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; at least 1.
    pub count: u32,
    /// In which time.
    pub per: Duration,
}

impl Rate {
    /// So many in a second.
    #[must_use]
    pub const fn per_second(count: u32) -> Self {
        Self { count, per: Duration::from_secs(1) }
    }

    /// So many in a minute.
    #[must_use]
    pub const fn per_minute(count: u32) -> Self {
        Self { count, per: Duration::from_secs(60) }
    }

    /// Time between two at this rate.
    #[must_use]
    pub fn interval(self) -> Duration {
        self.per / self.count.max(1)
    }

    /// How many may go at once after a pause: a second's worth, at least one.
    #[must_use]
    pub fn burst(self) -> u32 {
        let per_second = u128::from(self.count) * 1_000_000_000 / self.per.as_nanos().max(1);
        u32::try_from(per_second).unwrap_or(u32::MAX).max(1)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.per.as_secs() {
            1 => write!(f, "{}/s", self.count),
            60 => write!(f, "{}/min", self.count),
            3600 => write!(f, "{}/h", self.count),
            secs => write!(f, "{}/{secs}s", self.count),
        }
    }
}

/// What a limit is counted over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// One egress source to one site.
    Site,
    /// One egress source to all sites of a provider.
    Provider,
    /// One egress source to everywhere.
    Source,
    /// One tenant.
    Tenant,
    /// All sources of a netblock.
    Netblock,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Connections at once.
    Connections(u32),
    /// New connections.
    ConnectionRate(Rate),
    /// Messages.
    MessageRate(Rate),
    /// The site complained; see [`super::caution`].
    Caution,
    /// A reply asked for less; see [`super::reaction`].
    Reaction,
    /// The share lent by the owner of a wider limit is used up.
    Lease,
}

/// The rule that holds something back: shown to whoever asks why a message has not left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Over what it counts.
    pub scope: Scope,
    /// What it limits.
    pub what: What,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = match self.scope {
            Scope::Site => "site",
            Scope::Provider => "provider",
            Scope::Source => "egress source",
            Scope::Tenant => "tenant",
            Scope::Netblock => "netblock",
        };
        match self.what {
            What::Connections(most) => write!(f, "{scope}: {most} connections at once"),
            What::ConnectionRate(rate) => write!(f, "{scope}: {rate} new connections"),
            What::MessageRate(rate) => write!(f, "{scope}: {rate} messages"),
            What::Caution => write!(f, "{scope}: careful after a complaint"),
            What::Reaction => write!(f, "{scope}: slower after a reply"),
            What::Lease => write!(f, "{scope}: share of a wider limit"),
        }
    }
}

/// What a provider asks of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsDemand {
    /// When offered.
    #[default]
    Opportunistic,
    /// Always, with a certificate that holds.
    Required,
    /// Always, whatever the certificate.
    RequiredInsecure,
}

/// The limits of one path (egress source, site).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: u32,
    /// New connections.
    pub connection_rate: Option<Rate>,
    /// Messages on one connection, then it is closed.
    pub messages_per_connection: u32,
    /// Messages.
    pub message_rate: Option<Rate>,
    /// Connections at once to all sites of the provider, from one source.
    pub provider_connections: Option<u32>,
    /// What is asked of TLS.
    pub tls: TlsDemand,
    /// Failed connections in a row before the queue waits.
    pub failures: u32,
    /// An idle connection is kept this long.
    pub idle: Duration,
    /// False in the lab: complaints change nothing.
    pub careful: bool,
    /// Whose limits these are; its replies are known (see [`super::reaction`]).
    pub provider: Option<&'static str>,
}

impl Limits {
    /// What holds for a site nothing is known about.
    #[must_use]
    pub const fn builtin() -> Self {
        Self {
            connections: 10,
            connection_rate: Some(Rate::per_minute(100)),
            messages_per_connection: 50,
            message_rate: Some(Rate::per_second(100)),
            provider_connections: None,
            tls: TlsDemand::Opportunistic,
            failures: 100,
            idle: Duration::from_secs(60),
            careful: true,
            provider: None,
        }
    }

    /// What holds on a lab route: nothing but a number of connections.
    #[must_use]
    pub const fn lab() -> Self {
        Self {
            connections: 64,
            connection_rate: None,
            messages_per_connection: u32::MAX,
            message_rate: None,
            provider_connections: None,
            tls: TlsDemand::Opportunistic,
            failures: u32::MAX,
            idle: Duration::from_secs(60),
            careful: false,
            provider: None,
        }
    }

    /// What holds for a site of a provider (as named by [`crate::dns::site::provider_of`]).
    #[must_use]
    pub fn for_provider(provider: Option<&str>) -> Self {
        provider
            .and_then(|name| PROVIDERS.iter().find(|row| row.name == name))
            .map_or_else(Self::builtin, ProviderRow::limits)
    }

    /// An operator's own number of connections (0: keep), as in `[[route]] connections`.
    #[must_use]
    pub fn with_connections(mut self, connections: u32) -> Self {
        if connections > 0 {
            self.connections = connections;
        }
        self
    }
}

/// One row of the table: what differs from [`Limits::builtin`].
#[derive(Clone, Copy, Debug)]
pub struct ProviderRow {
    /// As in the site's roll-up.
    pub name: &'static str,
    connections: Option<u32>,
    provider_connections: Option<u32>,
    messages_per_connection: Option<u32>,
    message_rate: Option<Rate>,
    connection_rate_free: bool,
    tls: TlsDemand,
    failures: Option<u32>,
    idle: Option<Duration>,
}

const fn row(name: &'static str) -> ProviderRow {
    ProviderRow {
        name,
        connections: None,
        provider_connections: None,
        messages_per_connection: None,
        message_rate: None,
        connection_rate_free: false,
        tls: TlsDemand::Opportunistic,
        failures: None,
        idle: None,
    }
}

impl ProviderRow {
    const fn at_once(mut self, connections: u32) -> Self {
        self.connections = Some(connections);
        self
    }

    const fn over_provider(mut self, connections: u32) -> Self {
        self.provider_connections = Some(connections);
        self
    }

    const fn each(mut self, messages: u32) -> Self {
        self.messages_per_connection = Some(messages);
        self
    }

    const fn tls(mut self, tls: TlsDemand) -> Self {
        self.tls = tls;
        self
    }

    const fn limits(&self) -> Limits {
        let mut limits = Limits::builtin();
        if let Some(n) = self.connections {
            limits.connections = n;
        }
        if let Some(n) = self.messages_per_connection {
            limits.messages_per_connection = n;
        }
        if let Some(rate) = self.message_rate {
            limits.message_rate = Some(rate);
        }
        if self.connection_rate_free {
            limits.connection_rate = None;
        }
        if let Some(n) = self.failures {
            limits.failures = n;
        }
        if let Some(idle) = self.idle {
            limits.idle = idle;
        }
        limits.provider_connections = self.provider_connections;
        limits.tls = self.tls;
        limits.provider = Some(self.name);
        limits
    }
}

/// Limits by provider, from the shaping files of the field (features 4.1).
pub const PROVIDERS: &[ProviderRow] = &[
    ProviderRow { failures: Some(5), ..row("google").over_provider(5).each(50).tls(TlsDemand::Required) },
    row("yahoo").each(20),
    ProviderRow { message_rate: Some(Rate::per_second(10)), ..row("yahoo_jp").at_once(2).each(20) },
    row("outlook").over_provider(5).each(50),
    row("office365").over_provider(5).each(50),
    row("apple").over_provider(10).each(5),
    ProviderRow {
        failures: Some(24),
        idle: Some(Duration::from_secs(30)),
        ..row("comcast").at_once(25).each(1000).tls(TlsDemand::Required)
    },
    row("mimecast").at_once(10).each(100),
    row("mail_com").each(100),
    row("gmx").at_once(4).each(20).tls(TlsDemand::Required),
    row("orange").over_provider(2).each(100).tls(TlsDemand::Required),
    row("barracuda").at_once(10).each(15).tls(TlsDemand::Required),
    row("kpn").at_once(10).each(10),
    row("netvigator").at_once(5).each(10),
    row("qq").at_once(4).each(8),
    row("netease").at_once(4).each(7).tls(TlsDemand::RequiredInsecure),
    ProviderRow { connection_rate_free: true, ..row("mailgun").at_once(7000).each(3) },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d06_unknown_sites_get_the_built_in_caution() {
        let limits = Limits::for_provider(None);
        assert_eq!(limits.connections, 10);
        assert_eq!(limits.messages_per_connection, 50);
        assert_eq!(limits.message_rate, Some(Rate::per_second(100)));
        assert_eq!(limits.connection_rate, Some(Rate::per_minute(100)));
        assert_eq!(Limits::for_provider(Some("nobody")), limits);
    }

    #[test]
    fn d06_providers_have_their_row() {
        let google = Limits::for_provider(Some("google"));
        assert_eq!(google.provider_connections, Some(5));
        assert_eq!(google.tls, TlsDemand::Required);
        assert_eq!(google.failures, 5);
        assert_eq!(Limits::for_provider(Some("yahoo")).messages_per_connection, 20);
        assert_eq!(Limits::for_provider(Some("netease")).tls, TlsDemand::RequiredInsecure);
        for row in PROVIDERS {
            let limits = row.limits();
            assert!(limits.connections > 0 && limits.messages_per_connection > 0 && limits.careful, "{}", row.name);
        }
    }

    #[test]
    fn every_row_is_reached_by_some_host() {
        let hosts = [
            "mx.l.google.com",
            "mta5.am0.yahoodns.net",
            "mx1.mail.yahoo.co.jp",
            "a.olc.protection.outlook.com",
            "a.mail.protection.outlook.com",
            "mx01.mail.icloud.com",
            "mx1.comcast.net",
            "us-smtp-inbound-1.mimecast.com",
            "mx00.mail.com",
            "mx00.gmx.net",
            "smtp-in.orange.fr",
            "d1.ess.barracudanetworks.com",
            "mx.kpnmail.nl",
            "mx.netvigator.com",
            "mx1.qq.com",
            "163mx01.mxmail.netease.com",
            "smtp.mailgun.com",
        ];
        let reached: Vec<_> = hosts.iter().filter_map(|host| crate::dns::site::provider_of_host(host)).collect();
        for row in PROVIDERS {
            assert!(reached.contains(&row.name), "{}", row.name);
        }
    }

    #[test]
    fn rates_and_rules_are_shown() {
        assert_eq!(Rate::per_minute(100).burst(), 1);
        assert_eq!(Rate::per_second(100).burst(), 100);
        assert_eq!(Rate::per_second(100).interval(), Duration::from_millis(10));
        let rule = Rule { scope: Scope::Site, what: What::MessageRate(Rate::per_second(100)) };
        assert_eq!(rule.to_string(), "site: 100/s messages");
    }
}
