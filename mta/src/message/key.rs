//! DKIM keys: read from PEM files, made, and published as TXT records.
//!
//! RSA of at least 2048 bits and Ed25519 (RFC 8301, RFC 8463). A key that verifiers would refuse is refused here,
//! with the remedy in the error.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, RsaKeyPair, RSA_PKCS1_SHA256};
use base64::engine::general_purpose::STANDARD;
use base64::Engine;

/// Smallest RSA modulus in bytes: RFC 8301 section 3.2 wants 2048 bits.
const RSA_MIN: usize = 256;
/// Largest key file read.
const FILE_MAX: u64 = 64 * 1024;

/// Why a key can't be used; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can't be read.
    #[error("the DKIM key {path} can't be read: {source}; check the path and that the mta process may read it")]
    Io {
        /// Which file.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It is no PEM file.
    #[error("the DKIM key is not PEM: {0}; it should start with -----BEGIN PRIVATE KEY-----")]
    NotPem(&'static str),
    /// It is encrypted.
    #[error("the DKIM key is encrypted; decrypt it with `openssl pkey -in key.pem -out plain.pem`")]
    Encrypted,
    /// PEM, but no key of a kind DKIM knows.
    #[error("the DKIM key is neither RSA nor Ed25519 ({0}); make one with `ringpost dkim generate`")]
    Kind(String),
    /// Too small.
    #[error("the DKIM key has {0} bits; providers want RSA of 2048 bits or more")]
    Small(usize),
    /// Domain or selector can't stand in a signature.
    #[error("{0:?} is not a domain or selector in A-label form")]
    Name(String),
    /// The machine could not make a key.
    #[error("the operating system gave no randomness for a key")]
    Random,
}

/// The private part.
enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Ed25519KeyPair),
}

/// A signing key with the names a signature carries.
pub struct DkimKey {
    /// `d=`: the domain that signs, in A-labels, lower case.
    pub domain: String,
    /// `s=`: which key of that domain.
    pub selector: String,
    /// `i=`: the agent, when it shall be named; must be under `domain`.
    pub identity: Option<String>,
    /// `x=` is this many seconds after `t=`; none when absent.
    pub expire_after: Option<u32>,
    pair: Pair,
}

impl std::fmt::Debug for DkimKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DkimKey({} {}._domainkey.{})", self.algorithm(), self.selector, self.domain)
    }
}

/// All keys of this machine, found by the domain of the author.
#[derive(Debug, Default)]
pub struct Keyring {
    by_domain: HashMap<String, Vec<Arc<DkimKey>>>,
}

impl Keyring {
    /// A ring of these keys; of one domain they sign in this order.
    #[must_use]
    pub fn new(keys: Vec<DkimKey>) -> Self {
        let mut ring = Self::default();
        for key in keys {
            ring.by_domain.entry(key.domain.clone()).or_default().push(Arc::new(key));
        }
        ring
    }

    /// True when nothing is signed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_domain.is_empty()
    }

    /// The keys for an author's domain (lower case): its own, or those of the closest parent, which still aligns in
    /// the relaxed mode of DMARC. Never a sibling's.
    #[must_use]
    pub fn for_author(&self, domain: &str) -> &[Arc<DkimKey>] {
        let mut name = domain;
        loop {
            if let Some(keys) = self.by_domain.get(name) {
                return keys;
            }
            match name.split_once('.') {
                Some((_, parent)) if parent.contains('.') => name = parent,
                _ => return &[],
            }
        }
    }
}

/// A key just made: what goes into a file and what goes into the DNS.
#[derive(Clone, Debug)]
pub struct Generated {
    /// PKCS#8 PEM; keep it secret.
    pub pem: String,
    /// Content of the TXT record at `<selector>._domainkey.<domain>`.
    pub record: String,
}

impl DkimKey {
    /// Reads a key from the text of a PEM file (PKCS#8, or PKCS#1 for RSA).
    ///
    /// # Errors
    /// Says what is wrong with the file and what to do.
    pub fn from_pem(domain: &str, selector: &str, pem: &str) -> Result<Self, KeyError> {
        for name in [domain, selector] {
            if !is_name(name) {
                return Err(KeyError::Name(name.to_owned()));
            }
        }
        Ok(Self {
            domain: domain.to_ascii_lowercase(),
            selector: selector.to_owned(),
            identity: None,
            expire_after: None,
            pair: read_pair(pem)?,
        })
    }

    /// Reads a key from a file.
    ///
    /// # Errors
    /// As [`Self::from_pem`], and when the file can't be read.
    pub fn load(domain: &str, selector: &str, path: &Path) -> Result<Self, KeyError> {
        use std::io::Read;
        let io = |source| KeyError::Io { path: path.display().to_string(), source };
        let mut text = String::new();
        std::fs::File::open(path).map_err(io)?.take(FILE_MAX).read_to_string(&mut text).map_err(io)?;
        Self::from_pem(domain, selector, &text)
    }

    /// `a=`, RFC 6376 section 3.3 and RFC 8463 section 3.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "rsa-sha256",
            Pair::Ed25519(_) => "ed25519-sha256",
        }
    }

    /// Content of the TXT record that verifiers look up, RFC 6376 section 3.6.1.
    #[must_use]
    pub fn record(&self) -> String {
        match &self.pair {
            Pair::Rsa(pair) => {
                let der: Result<PublicKeyX509Der<'_>, _> = pair.public_key().as_der();
                let key = der.map(|der| STANDARD.encode(der.as_ref())).unwrap_or_default();
                format!("v=DKIM1; k=rsa; p={key}")
            }
            Pair::Ed25519(pair) => format!("v=DKIM1; k=ed25519; p={}", STANDARD.encode(pair.public_key().as_ref())),
        }
    }

    /// Signs the canonical header. RFC 8463 section 3: Ed25519 signs the SHA-256 of it, not the text itself.
    pub(super) fn sign(&self, canonical: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), canonical, &mut signature)
                    .map_err(|_| KeyError::Random)?;
                Ok(signature)
            }
            Pair::Ed25519(pair) => Ok(pair.sign(&super::canonical::sha256(canonical)).as_ref().to_vec()),
        }
    }
}

/// Makes an RSA key of 2048 bits. Takes some 100 ms: never on an IO core.
///
/// # Errors
/// When the machine has no randomness.
pub fn generate_rsa() -> Result<Generated, KeyError> {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| KeyError::Random)?;
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError::Random)?;
    generated(der.as_ref())
}

/// Makes an Ed25519 key.
///
/// # Errors
/// When the machine has no randomness.
pub fn generate_ed25519() -> Result<Generated, KeyError> {
    let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Random)?;
    let der = pair.to_pkcs8v1().map_err(|_| KeyError::Random)?;
    generated(der.as_ref())
}

fn generated(der: &[u8]) -> Result<Generated, KeyError> {
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    for line in STANDARD.encode(der).as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    let record = DkimKey::from_pem("example.org", "s", &pem)?.record();
    Ok(Generated { pem, record })
}

/// Letters, digits, hyphen, underscore and inner dots.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

fn read_pair(pem: &str) -> Result<Pair, KeyError> {
    let (label, der) = decode_pem(pem)?;
    let pair = match label {
        "RSA PRIVATE KEY" => {
            RsaKeyPair::from_der(&der).map(|rsa| Pair::Rsa(Box::new(rsa))).map_err(|e| KeyError::Kind(e.to_string()))?
        }
        "PRIVATE KEY" => match Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
            Ok(ed) => Pair::Ed25519(ed),
            Err(_) => RsaKeyPair::from_pkcs8(&der)
                .map(|rsa| Pair::Rsa(Box::new(rsa)))
                .map_err(|e| KeyError::Kind(e.to_string()))?,
        },
        "ENCRYPTED PRIVATE KEY" => return Err(KeyError::Encrypted),
        other => return Err(KeyError::Kind(other.to_owned())),
    };
    match &pair {
        Pair::Rsa(rsa) if rsa.public_modulus_len() < RSA_MIN => Err(KeyError::Small(rsa.public_modulus_len() * 8)),
        _ => Ok(pair),
    }
}

/// The first private block of a PEM text (RFC 7468): label and DER.
fn decode_pem(pem: &str) -> Result<(&str, Vec<u8>), KeyError> {
    if pem.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(KeyError::Encrypted);
    }
    let mut rest = pem;
    loop {
        let (_, after) = rest.split_once("-----BEGIN ").ok_or(KeyError::NotPem("no private key block"))?;
        let (label, after) = after.split_once("-----").ok_or(KeyError::NotPem("the first line is cut off"))?;
        let (body, after) = after.split_once("-----END ").ok_or(KeyError::NotPem("the last line is missing"))?;
        if label.ends_with("PRIVATE KEY") {
            let text: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            let der = STANDARD.decode(text).map_err(|_| KeyError::NotPem("the block is not base64"))?;
            return Ok((label, der));
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_keys_read_back() {
        let ed = generate_ed25519().unwrap();
        let key = DkimKey::from_pem("Example.ORG", "s1", &ed.pem).unwrap();
        assert_eq!((key.algorithm(), key.domain.as_str()), ("ed25519-sha256", "example.org"));
        assert_eq!(key.record(), ed.record);
        assert_eq!(ed.record.len(), "v=DKIM1; k=ed25519; p=".len() + 44);
        let rsa = generate_rsa().unwrap();
        let key = DkimKey::from_pem("example.org", "s1", &rsa.pem).unwrap();
        assert_eq!(key.algorithm(), "rsa-sha256");
        assert!(rsa.record.starts_with("v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA"));
    }

    #[test]
    fn r29_the_ring_finds_aligned_keys_only() {
        let pem = generate_ed25519().unwrap().pem;
        let key = |domain: &str, selector: &str| DkimKey::from_pem(domain, selector, &pem).unwrap();
        let ring = Keyring::new(vec![key("example.org", "a"), key("example.org", "b"), key("eu.example.org", "c")]);
        let selectors =
            |domain: &str| -> Vec<String> { ring.for_author(domain).iter().map(|k| k.selector.clone()).collect() };
        assert_eq!(selectors("example.org"), ["a", "b"]);
        assert_eq!(selectors("mail.example.org"), ["a", "b"]);
        assert_eq!(selectors("x.eu.example.org"), ["c"]);
        for other in ["example.com", "org", "", "notexample.org"] {
            assert!(selectors(other).is_empty(), "{other}");
        }
    }

    #[test]
    fn errors_name_the_remedy() {
        let bad = |pem: &str| DkimKey::from_pem("example.org", "s", pem).unwrap_err().to_string();
        assert!(bad("hello").contains("not PEM"));
        assert!(bad("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END x").contains("openssl pkey"));
        assert!(bad("-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END x").contains("neither RSA nor Ed25519"));
        assert!(bad("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END x").contains("neither RSA nor Ed25519"));
        assert!(bad("-----BEGIN PRIVATE KEY-----\n!!\n-----END x").contains("base64"));
        let ed = generate_ed25519().unwrap();
        assert!(DkimKey::from_pem("exämple.org", "s", &ed.pem).is_err());
        assert!(DkimKey::from_pem("a.org; x=1", "s", &ed.pem).is_err());
        assert!(DkimKey::load("a.org", "s", Path::new("/nonexistent/k.pem"))
            .unwrap_err()
            .to_string()
            .contains("k.pem"));
    }
}
