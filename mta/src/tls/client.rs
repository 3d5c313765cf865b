//! How the certificate of a site is judged, and the sessions kept for resumption.

use std::cell::Cell;
use std::sync::Arc;

use aws_lc_rs::digest::{digest, SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{provider, Error};

/// Hosts whose sessions are kept: resuming halves our part of a handshake.
const SESSIONS: usize = 512;

/// Whose certificate is good enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Any: the mail would otherwise go in plain text. Whether it was valid is still noted.
    Anyone,
    /// Valid for the host's name under the public roots.
    PublicRoots,
    /// Valid for the host's name under these roots (PEM).
    Roots(Vec<u8>),
    /// The SHA-256 of the certificate's SubjectPublicKeyInfo is one of these; name and dates do not matter.
    Pins(Vec<[u8; 32]>),
}

/// TLS as we ask for it. One per shard and trust; it holds the session tickets.
#[derive(Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
}

impl Client {
    /// TLS with this trust.
    ///
    /// Errors: [`Error::Setting`] when roots or pins are empty or unreadable (operator).
    pub fn new(trust: &Trust) -> Result<Self, Error> {
        let verifier = Arc::new(Judge::new(trust)?);
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self { config: Arc::new(config) })
    }

    /// A connection to `host` (a name, or an address in text).
    pub(super) fn connection(&self, host: &str) -> Result<ClientConnection, Error> {
        let name = ServerName::try_from(host.trim_end_matches('.').to_owned())
            .map_err(|_| Error::Setting(format!("{host:?} is no host name TLS can ask for")))?;
        VERDICT.set(None);
        Ok(ClientConnection::new(Arc::clone(&self.config), name)?)
    }
}

thread_local! {
    /// What the judge said last on this thread. rustls asks it in the middle of `process_new_packets` and has no place
    /// for a milder answer than an error; a judge per connection would prevent resumption.
    static VERDICT: Cell<Option<bool>> = const { Cell::new(None) };
}

/// The verdict of the `process_new_packets` that has just returned, if it judged.
pub(super) fn take_verdict() -> Option<bool> {
    VERDICT.take()
}

/// Judges certificates by a trust.
#[derive(Debug)]
struct Judge {
    chain: Option<Arc<WebPkiServerVerifier>>,
    pins: Vec<[u8; 32]>,
    anyone: bool,
}

impl Judge {
    fn new(trust: &Trust) -> Result<Self, Error> {
        let (roots, pins) = match trust {
            Trust::Anyone | Trust::PublicRoots => {
                let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
                (Some(roots), Vec::new())
            }
            Trust::Roots(pem) => (Some(read_roots(pem)?), Vec::new()),
            Trust::Pins(pins) if pins.is_empty() => return Err(Error::Setting("no pin is given".to_owned())),
            Trust::Pins(pins) => (None, pins.clone()),
        };
        let chain = match roots {
            Some(roots) => Some(
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
                    .build()
                    .map_err(|error| Error::Setting(format!("the root certificates cannot be used: {error}")))?,
            ),
            None => None,
        };
        Ok(Self { chain, pins, anyone: *trust == Trust::Anyone })
    }

    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        if self.pins.iter().any(|pin| digest(&SHA256, &key).as_ref() == pin) {
            return Ok(());
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    /// Anyone's signature may be odd as well; it is noted as not verified.
    fn lenient(
        &self,
        result: Result<HandshakeSignatureValid, rustls::Error>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match result {
            Err(_) if self.anyone => {
                VERDICT.set(Some(false));
                Ok(HandshakeSignatureValid::assertion())
            }
            result => result,
        }
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let result = match &self.chain {
            Some(chain) => {
                chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now).map(|_| ())
            }
            None => self.is_pinned(end_entity),
        };
        VERDICT.set(Some(result.is_ok()));
        match result {
            Err(error) if !self.anyone => Err(error),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        self.lenient(rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        self.lenient(rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn read_roots(pem: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| Error::Setting(format!("the roots file is not PEM: {error}")))?;
        roots
            .add(certificate)
            .map_err(|error| Error::Setting(format!("a certificate of the roots file cannot be used: {error}")))?;
    }
    if roots.is_empty() {
        return Err(Error::Setting("the roots file holds no certificate".to_owned()));
    }
    Ok(roots)
}
