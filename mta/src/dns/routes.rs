//! Static routes: domains an operator sends to named hosts instead of their MX hosts (D-27). Pure.
//!
//! The most exact rule wins: a rule for the tenant before one for all; within those an exact domain before the
//! longest `*.suffix`, before `*`. Two rules of equal rank: the first in the configuration.

use std::collections::HashMap;

use crate::config::resolved::Route as Rule;

/// The static routes of one configuration, ready for look-up.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    rules: Vec<Rule>,
    /// (tenant, pattern) -> index; patterns as written: a domain, `*.suffix`, `*`.
    by_pattern: HashMap<(String, String), usize>,
    /// Number of the first rule.
    first: usize,
}

impl Routes {
    /// Takes the rules of a configuration, in its order.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut by_pattern = HashMap::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let key = (rule.tenant.clone(), rule.domain.trim_end_matches('.').to_ascii_lowercase());
            by_pattern.entry(key).or_insert(index);
        }
        Self { rules, by_pattern, first: 0 }
    }

    /// Counts its rules on from where an earlier configuration ended, so that a number never means two rules.
    #[must_use]
    pub fn after(mut self, earlier: &Self) -> Self {
        self.first = earlier.first + earlier.rules.len();
        self
    }

    /// Every rule with its number.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, &Rule)> {
        self.rules.iter().enumerate().map(|(index, rule)| (self.first + index, rule))
    }

    /// The rule for a domain (lower-case A-labels) and tenant, with its number.
    #[must_use]
    pub fn find(&self, tenant: &str, domain: &str) -> Option<(usize, &Rule)> {
        if self.rules.is_empty() {
            return None;
        }
        let tenants = if tenant.is_empty() { &[""][..] } else { &[tenant, ""][..] };
        tenants.iter().find_map(|tenant| self.find_for(tenant, domain))
    }

    /// The rule of a number that [`Routes::find`] gave; `None` when the number is of another configuration.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<&Rule> {
        self.rules.get(number.checked_sub(self.first)?)
    }

    fn find_for(&self, tenant: &str, domain: &str) -> Option<(usize, &Rule)> {
        let at = |pattern: String| self.by_pattern.get(&(tenant.to_owned(), pattern)).copied();
        let mut found = at(domain.to_owned());
        let mut rest = domain;
        while let (None, Some((_, suffix))) = (found, rest.split_once('.')) {
            found = at(format!("*.{suffix}"));
            rest = suffix;
        }
        let index = found.or_else(|| at("*".to_owned()))?;
        Some((self.first + index, self.rules.get(index)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::resolved::RouteTls;

    fn rule(tenant: &str, domain: &str) -> Rule {
        Rule {
            domain: domain.into(),
            tenant: tenant.into(),
            to: vec![(format!("{tenant}-{domain}"), 2525)],
            lab: false,
            tls: RouteTls::Opportunistic,
            tls_pin: None,
            tls_ca: None,
            auth: None,
            connections: 0,
        }
    }

    fn found(routes: &Routes, tenant: &str, domain: &str) -> Option<String> {
        routes.find(tenant, domain).map(|(_, rule)| rule.to[0].0.clone())
    }

    #[test]
    fn d27_the_most_exact_rule_wins() {
        let routes = Routes::new(vec![
            rule("", "*"),
            rule("", "*.example"),
            rule("", "*.sub.example"),
            rule("", "Exact.sub.example"),
            rule("t", "*"),
        ]);
        let cases = [
            ("", "exact.sub.example", "-Exact.sub.example"),
            ("", "other.sub.example", "-*.sub.example"),
            ("", "sub.example", "-*.example"),
            ("", "example", "-*"),
            ("u", "a.b.c.example", "-*.example"),
            ("t", "exact.sub.example", "t-*"),
        ];
        for (tenant, domain, expected) in cases {
            assert_eq!(found(&routes, tenant, domain).as_deref(), Some(expected), "{tenant} {domain}");
        }
    }

    #[test]
    fn without_a_rule_the_mx_hosts_are_asked() {
        assert!(Routes::default().find("", "a.test").is_none());
        let routes = Routes::new(vec![rule("t", "a.test"), rule("", "*.b.test")]);
        assert_eq!(found(&routes, "", "a.test"), None);
        assert_eq!(found(&routes, "", "b.test"), None, "*.b.test is for names below b.test");
        assert_eq!(found(&routes, "t", "a.test").as_deref(), Some("t-a.test"));
    }

    #[test]
    fn the_first_of_two_equal_rules_counts() {
        let mut second = rule("", "a.test");
        second.to[0].0 = "second".into();
        let routes = Routes::new(vec![rule("", "a.test"), second]);
        assert_eq!(found(&routes, "", "a.test").as_deref(), Some("-a.test"));
    }
}
