//! DKIM verification of arrived mail with keys from a file, never from DNS.
//!
//! Lines of the file: `selector._domainkey.domain v=DKIM1; k=rsa; p=...`; empty lines and lines with `#` are skipped.
//! A name missing in the file makes the signature fail with that reason; no query leaves the machine.

use anyhow::{Context, Result};
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::{AuthenticatedMessage, DkimResult, DnsError, Error, MessageAuthenticator, Parameters};
use mail_auth::{RecordSet, ResolverCache, Txt, MX};
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What the signatures of one message say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signed {
    /// No signature.
    None,
    /// At least one passed; a line per signature.
    Pass(Vec<String>),
    /// None passed; a line per signature.
    Fail(Vec<String>),
}

/// Verifies against the keys of one file.
pub struct Verifier {
    authenticator: MessageAuthenticator,
    keys: Keys,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verifier with {} keys", self.keys.0.len())
    }
}

impl Verifier {
    /// Reads the key records. Errors are the operator's.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let mut keys = HashMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, record) = line.split_once(char::is_whitespace).context("a key line is: name record")?;
            let record = record.trim().trim_matches('"');
            let key = DomainKey::parse(record.as_bytes()).with_context(|| format!("key record of {name}"))?;
            keys.insert(key_name(name).into_boxed_str(), Txt::DomainKey(Arc::new(key)));
        }
        // The system configuration is read only because the library wants a resolver; `Keys` answers every question.
        let authenticator = MessageAuthenticator::new_system_conf().or_else(|_| MessageAuthenticator::new_google());
        Ok(Self { authenticator: authenticator.context("making the verifier")?, keys: Keys(keys) })
    }

    /// Verifies a complete message (dots unstuffed).
    pub async fn verify(&self, message: &[u8]) -> Signed {
        let Some(parsed) = AuthenticatedMessage::parse(message) else {
            return Signed::Fail(vec!["not a message".to_owned()]);
        };
        let parameters: Parameters<'_, _, Keys, Nothing, Nothing, Nothing, Nothing> = Parameters {
            params: &parsed,
            cache_txt: Some(&self.keys),
            cache_mx: None,
            cache_ptr: None,
            cache_ipv4: None,
            cache_ipv6: None,
        };
        let outputs = self.authenticator.verify_dkim(parameters).await;
        let lines: Vec<String> = outputs
            .iter()
            .map(|output| {
                let domain = output.signature().map_or("?", |signature| signature.d.as_str());
                format!("d={domain}: {:?}", output.result())
            })
            .collect();
        if outputs.is_empty() {
            Signed::None
        } else if outputs.iter().any(|output| *output.result() == DkimResult::Pass) {
            Signed::Pass(lines)
        } else {
            Signed::Fail(lines)
        }
    }
}

fn key_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    if name.ends_with('.') {
        name
    } else {
        format!("{name}.")
    }
}

/// Answers every TXT question: a known key, or "no such record".
struct Keys(HashMap<Box<str>, Txt>);

impl ResolverCache<Box<str>, Txt> for Keys {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let found = self.0.get(name);
        Some(match found {
            Some(key) => key.clone(),
            None => Txt::Error(Error::Dns(DnsError::InvalidRecordType)),
        })
    }
    fn remove<Q>(&self, _name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }
    fn insert(&self, _key: Box<str>, _value: Txt, _valid_until: Instant) {}
}

/// A cache that holds nothing, for questions DKIM does not ask.
struct Nothing;

macro_rules! holds_nothing {
    ($key:ty, $value:ty) => {
        impl ResolverCache<$key, $value> for Nothing {
            fn get<Q>(&self, _name: &Q) -> Option<$value>
            where
                $key: Borrow<Q>,
                Q: Hash + Eq + ?Sized,
            {
                None
            }
            fn remove<Q>(&self, _name: &Q) -> Option<$value>
            where
                $key: Borrow<Q>,
                Q: Hash + Eq + ?Sized,
            {
                None
            }
            fn insert(&self, _key: $key, _value: $value, _valid_until: Instant) {}
        }
    };
}

holds_nothing!(Box<str>, RecordSet<MX>);
holds_nothing!(Box<str>, RecordSet<Ipv4Addr>);
holds_nothing!(Box<str>, RecordSet<Ipv6Addr>);
holds_nothing!(IpAddr, RecordSet<Box<str>>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::key;
    use std::collections::BTreeMap;

    fn verify(verifier: &Verifier, message: &[u8]) -> Signed {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(verifier.verify(message))
    }

    #[test]
    fn r6376_signature_passes_until_the_body_changes() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = std::env::temp_dir().join(format!("ringbench-dkim-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        key::write(&dir, &mut BTreeMap::new()).unwrap();
        let message = b"From: a@bench.test\r\nTo: b@c.test\r\nSubject: x\r\n\r\nbody\r\n";
        let mut signed = key::sign(&dir, message).unwrap().into_bytes();
        signed.extend_from_slice(message);
        let verifier = Verifier::load(&dir.join("dkim.txt")).unwrap();
        assert!(matches!(verify(&verifier, &signed), Signed::Pass(_)));
        let at = signed.len() - 3;
        signed[at] = b'Y';
        assert!(matches!(verify(&verifier, &signed), Signed::Fail(_)));
        assert_eq!(verify(&verifier, message), Signed::None);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
