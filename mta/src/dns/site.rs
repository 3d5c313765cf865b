//! Names for sets of MX hosts, so that domains with the same hosts share connections and limits.
//!
//! `mx1.example.net` and `mx2.example.net` are the site `(mx1|mx2).example.net`, in whatever order and case the
//! DNS lists them. Above the site stands the provider: who runs the hosts, told by the end of their names.

use std::fmt;
use std::sync::Arc;

/// The stable name of a set of MX hosts. Cheap to clone; equal names mean equal sets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteName(Arc<str>);

impl SiteName {
    /// Names a set of hosts. Order, case, repeats and final dots don't matter.
    ///
    /// The common labels at the end stand once, what differs stands in brackets before them. The common end
    /// starts with a dot, so each host keeps a label inside the brackets, and different sets have different names.
    #[must_use]
    pub fn from_hosts<'a>(hosts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hosts: Vec<String> = hosts.into_iter().map(|h| h.trim_end_matches('.').to_ascii_lowercase()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        match hosts.as_slice() {
            [] => Self::from_text("(none)"),
            [only] => Self::from_text(only),
            [first, rest @ ..] => {
                let shared = rest.iter().fold(first.len(), |least, host| least.min(shared_end(first, host)));
                let (heads, tail): (Vec<&str>, &str) = (
                    hosts.iter().map(|host| host.get(..host.len() - shared).unwrap_or(host)).collect(),
                    first.get(first.len() - shared..).unwrap_or(""),
                );
                Self::from_text(&format!("({}){tail}", heads.join("|")))
            }
        }
    }

    /// The name of a static route: the rule's own name, apart from all MX sets by its brackets.
    #[must_use]
    pub fn for_static(name: &str) -> Self {
        Self::from_text(&format!("[{name}]"))
    }

    /// A name read back from a log or a command.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Bytes of the longest common end that starts with a dot and leaves something before it in both.
fn shared_end(a: &str, b: &str) -> usize {
    let same = a.bytes().rev().zip(b.bytes().rev()).take_while(|(x, y)| x == y).count();
    let end = a.get(a.len() - same..).unwrap_or("");
    end.find('.').map_or(0, |dot| same - dot)
}

/// Ends of host names by provider: features 4.1. An end with a leading dot matches hosts below it, one without
/// matches that host alone.
const PROVIDERS: &[(&str, &str)] = &[
    (".google.com", "google"),
    (".googlemail.com", "google"),
    (".yahoodns.net", "yahoo"),
    (".yahoo.co.jp", "yahoo_jp"),
    (".olc.protection.outlook.com", "outlook"),
    (".mail.protection.outlook.com", "office365"),
    (".mx.microsoft", "office365"),
    (".icloud.com", "apple"),
    (".comcast.net", "comcast"),
    (".mimecast.com", "mimecast"),
    (".mail.com", "mail_com"),
    (".gmx.net", "gmx"),
    (".gmx.com", "gmx"),
    (".web.de", "gmx"),
    (".orange.fr", "orange"),
    (".barracudanetworks.com", "barracuda"),
    (".kpnmail.nl", "kpn"),
    (".netvigator.com", "netvigator"),
    (".qq.com", "qq"),
    (".netease.com", "netease"),
    ("smtp.mailgun.com", "mailgun"),
];

/// Who runs a host.
#[must_use]
pub fn provider_of_host(host: &str) -> Option<&'static str> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    PROVIDERS
        .iter()
        .find(|(end, _)| if end.starts_with('.') { host.ends_with(end) } else { host == *end })
        .map(|(_, provider)| *provider)
}

/// Who runs a site: only when all its hosts are run by the same provider.
#[must_use]
pub fn provider_of<'a>(hosts: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    let mut hosts = hosts.into_iter();
    let first = provider_of_host(hosts.next()?)?;
    hosts.all(|host| provider_of_host(host) == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(hosts: &[&str]) -> String {
        SiteName::from_hosts(hosts.iter().copied()).to_string()
    }

    #[test]
    fn common_end_stands_once() {
        assert_eq!(name(&["mx1.example.net", "mx2.example.net"]), "(mx1|mx2).example.net");
        assert_eq!(name(&["mx.example.net"]), "mx.example.net");
        assert_eq!(name(&["a.one.test", "b.two.test"]), "(a.one|b.two).test");
        assert_eq!(name(&["a.example", "b.test"]), "(a.example|b.test)");
        assert_eq!(name(&[]), "(none)");
    }

    #[test]
    fn order_case_repeats_and_dots_do_not_matter() {
        let expected = name(&["mx1.example.net", "mx2.example.net"]);
        assert_eq!(name(&["MX2.example.net.", "mx1.Example.NET", "mx2.example.net"]), expected);
    }

    #[test]
    fn a_host_that_is_the_common_end_keeps_a_label() {
        assert_eq!(
            name(&["gmail-smtp-in.l.google.com", "alt1.gmail-smtp-in.l.google.com"]),
            "(alt1.gmail-smtp-in|gmail-smtp-in).l.google.com"
        );
        assert_eq!(name(&["example", "a.example"]), "(a.example|example)");
    }

    #[test]
    fn labels_are_not_cut_in_the_middle() {
        assert_eq!(name(&["a-mx.example.net", "b-mx.example.net"]), "(a-mx|b-mx).example.net");
        assert_eq!(name(&["xexample.net", "yexample.net"]), "(xexample|yexample).net");
    }

    #[test]
    fn different_sets_have_different_names() {
        let hosts = ["a.x.test", "b.x.test", "x.test", "a.y.test", "test", "c.b.x.test"];
        let mut seen = std::collections::HashMap::new();
        for bits in 1_u32..1 << hosts.len() {
            let set: Vec<&str> =
                hosts.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, h)| *h).collect();
            if let Some(other) = seen.insert(name(&set), set.clone()) {
                panic!("{set:?} and {other:?} share a name");
            }
        }
    }

    #[test]
    fn providers_are_told_by_the_end_of_all_hosts() {
        assert_eq!(provider_of(["aspmx.l.google.com", "alt1.aspmx.l.google.com"]), Some("google"));
        assert_eq!(provider_of(["aspmx.l.google.com", "mx.example.net"]), None);
        assert_eq!(provider_of(["a-com.mail.protection.outlook.com"]), Some("office365"));
        assert_eq!(provider_of(["notgoogle.com"]), None);
        assert_eq!(provider_of(["smtp.mailgun.com"]), Some("mailgun"));
        assert_eq!(provider_of(["x.smtp.mailgun.com"]), None);
        assert_eq!(provider_of([]), None);
    }
}
