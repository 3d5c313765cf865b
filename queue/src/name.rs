//! Queue names: `campaign:tenant@domain!routing_domain`, the grammar of the field.

use std::fmt;

/// Names one scheduled queue. Two recipients with equal names wait in the same queue.
///
/// Text form: `[campaign:][tenant@]domain[!routing_domain]`, the domain in lower-case A-labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName {
    /// Which mailing; empty when the client named none.
    pub campaign: String,
    /// Who sends; empty for the operator's own mail.
    pub tenant: String,
    /// The recipient's domain (or an address literal in brackets).
    pub domain: String,
    /// Where the mail goes when not to `domain`; empty otherwise.
    pub routing_domain: String,
}

impl QueueName {
    /// The domain that is looked up for MX hosts.
    #[must_use]
    pub fn target(&self) -> &str {
        if self.routing_domain.is_empty() {
            &self.domain
        } else {
            &self.routing_domain
        }
    }

    /// Reads the text form.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (rest, routing_domain) = text.split_once('!').unwrap_or((text, ""));
        let (rest, domain) = rest.rsplit_once('@').unwrap_or(("", rest));
        // The tenant, when there is one, stands between the colon and the at sign.
        let (campaign, tenant) = rest.split_once(':').unwrap_or(("", rest));
        let (campaign, domain) = match (campaign.is_empty(), rest.is_empty(), domain.split_once(':')) {
            (true, true, Some((campaign, domain))) => (campaign, domain),
            _ => (campaign, domain),
        };
        Self {
            campaign: campaign.to_owned(),
            tenant: tenant.to_owned(),
            domain: domain.to_owned(),
            routing_domain: routing_domain.to_owned(),
        }
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.campaign.is_empty() {
            write!(f, "{}:", self.campaign)?;
        }
        if !self.tenant.is_empty() {
            write!(f, "{}@", self.tenant)?;
        }
        f.write_str(&self.domain)?;
        if !self.routing_domain.is_empty() {
            write!(f, "!{}", self.routing_domain)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        for text in ["a.test", "t@a.test", "c:t@a.test", "c:a.test", "c:t@a.test!hub.test", "a.test!hub.test"] {
            assert_eq!(QueueName::parse(text).to_string(), text);
        }
        assert_eq!(QueueName::parse("c:t@a.test!hub.test").target(), "hub.test");
    }
}
