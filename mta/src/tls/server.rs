//! The certificate we show, and its change while running.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection};

use super::{provider, Error};

/// TLS as we offer it; shared by all shards.
#[derive(Clone)]
pub struct Server {
    config: Arc<ServerConfig>,
    current: Arc<Current>,
}

/// Hands out whatever certificate is current.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Server {
    /// TLS with this certificate chain and key, both PEM.
    ///
    /// Errors: [`Error::Setting`] when they are unreadable or do not belong together (operator).
    pub fn new(chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let current = Arc::new(Current(ArcSwap::from_pointee(certified(chain, key)?)));
        let resolver: Arc<dyn ResolvesServerCert> = current.clone();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        // Tickets rather than a table: resumption works on every shard and costs no memory.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        Ok(Self { config: Arc::new(config), current })
    }

    /// Shows another certificate from the next handshake on.
    pub fn replace(&self, chain: &[u8], key: &[u8]) -> Result<(), Error> {
        self.current.0.store(Arc::new(certified(chain, key)?));
        Ok(())
    }

    /// The certificate in use, DER; for its expiry and fingerprint.
    #[must_use]
    pub fn certificate(&self) -> Vec<u8> {
        self.current.0.load().cert.first().map(|cert| cert.to_vec()).unwrap_or_default()
    }

    pub(super) fn connection(&self) -> Result<ServerConnection, Error> {
        Ok(ServerConnection::new(Arc::clone(&self.config))?)
    }
}

/// An ECDSA P-256 certificate for these names, signed by itself: what is shown until there is a better one. Returns the
/// certificate and the key, PEM.
pub fn self_signed(names: &[String]) -> Result<(String, String), Error> {
    let made = rcgen::generate_simple_self_signed(names)
        .map_err(|error| Error::Setting(format!("cannot make a certificate for {}: {error}", names.join(", "))))?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem()))
}

/// The same for a key that is there already. Returns the certificate, PEM.
pub fn self_signed_for(names: &[String], key: &str) -> Result<String, Error> {
    let bad = |error: rcgen::Error| Error::Setting(format!("cannot make a certificate for the key file: {error}"));
    let pair = rcgen::KeyPair::from_pem(key).map_err(bad)?;
    let certificate = rcgen::CertificateParams::new(names.to_vec()).and_then(|params| params.self_signed(&pair));
    Ok(certificate.map_err(bad)?.pem())
}

fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, Error> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::Setting(format!("the certificate file is not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(Error::Setting("the certificate file holds no certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| Error::Setting(format!("the key file holds no private key: {error}")))?;
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| Error::Setting(format!("certificate and key cannot be used: {error}")))
}
