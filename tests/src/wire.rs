//! A blocking connection that reads lines and counted bytes, with or without TLS: the ground of the scripted client and
//! of the scripted receiving server.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme};
use rustls::{Error, StreamOwned};

/// No test waits longer than this for one read.
const PATIENCE: Duration = Duration::from_secs(30);

enum Stream {
    Plain(TcpStream),
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
    /// While TLS is being put on.
    Gone,
}

/// One connection.
pub struct Wire {
    stream: Stream,
    buffer: Vec<u8>,
    start: usize,
}

impl Wire {
    /// Over a connected socket.
    pub fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: Stream::Plain(socket), buffer: Vec::new(), start: 0 })
    }

    /// The socket below.
    pub fn socket(&self) -> io::Result<&TcpStream> {
        match &self.stream {
            Stream::Plain(socket) => Ok(socket),
            Stream::Client(tls) => Ok(&tls.sock),
            Stream::Server(tls) => Ok(&tls.sock),
            Stream::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// True when TLS is on.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Client(_) | Stream::Server(_))
    }

    /// Puts TLS on as a client; any certificate will do.
    pub fn tls_client(&mut self) -> io::Result<()> {
        let name = ServerName::try_from("mta.sender.test").map_err(io::Error::other)?;
        let tls = ClientConnection::new(client_config(), name).map_err(io::Error::other)?;
        if let Stream::Plain(socket) = std::mem::replace(&mut self.stream, Stream::Gone) {
            let mut tls = StreamOwned::new(tls, socket);
            // The handshake now, so that its failure is seen here.
            tls.conn.complete_io(&mut tls.sock)?;
            self.stream = Stream::Client(Box::new(tls));
        }
        Ok(())
    }

    /// Puts TLS on as a server, with a certificate made for this process.
    pub fn tls_server(&mut self) -> io::Result<()> {
        let tls = ServerConnection::new(server_config()).map_err(io::Error::other)?;
        if let Stream::Plain(socket) = std::mem::replace(&mut self.stream, Stream::Gone) {
            let mut tls = StreamOwned::new(tls, socket);
            tls.conn.complete_io(&mut tls.sock)?;
            self.stream = Stream::Server(Box::new(tls));
        }
        Ok(())
    }

    /// Bytes that came in and were not read yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let mut chunk = [0_u8; 32 * 1024];
        let size = match &mut self.stream {
            Stream::Plain(socket) => socket.read(&mut chunk)?,
            Stream::Client(tls) => tls.read(&mut chunk)?,
            Stream::Server(tls) => tls.read(&mut chunk)?,
            Stream::Gone => 0,
        };
        if size == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&chunk[..size]);
        Ok(())
    }

    /// The next line, its end included. Errors: the peer closed, or said nothing for too long.
    pub fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut seen = self.start;
        loop {
            if let Some(at) = self.buffer[seen..].iter().position(|b| *b == b'\n') {
                let line = self.buffer[self.start..=seen + at].to_vec();
                self.start = seen + at + 1;
                return Ok(line);
            }
            seen = self.buffer.len() - self.start;
            self.fill()?;
        }
    }

    /// Exactly so many bytes.
    pub fn exact(&mut self, size: usize) -> io::Result<Vec<u8>> {
        while self.pending() < size {
            self.fill()?;
        }
        let bytes = self.buffer[self.start..self.start + size].to_vec();
        self.start += size;
        Ok(bytes)
    }

    /// Writes all of it.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(socket) => socket.write_all(bytes),
            Stream::Client(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
            Stream::Server(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
            Stream::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// Believes every certificate: tests look at what was agreed on, not at who signed it.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn client_config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let make = || {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has our versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider())))
            .with_no_client_auth();
        Arc::new(config)
    };
    Arc::clone(CONFIG.get_or_init(make))
}

/// SHA-256 of the public key that receivers show, in hex: what a pin is.
#[must_use]
pub fn server_pin() -> String {
    let (_, key) = server_identity();
    let key = rcgen::KeyPair::from_pem(key).expect("our own PEM");
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &rcgen::PublicKeyData::subject_public_key_info(&key));
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Certificate and key of all receivers of this process, PEM.
fn server_identity() -> &'static (String, String) {
    static IDENTITY: OnceLock<(String, String)> = OnceLock::new();
    IDENTITY.get_or_init(|| mta::tls::self_signed(&["mx.inbox.test".to_owned()]).expect("a certificate can be made"))
}

fn server_config() -> Arc<ServerConfig> {
    static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    let make = || {
        let (chain, key) = server_identity();
        let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).expect("our own PEM")];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("our own PEM");
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has our versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("key and certificate belong together");
        Arc::new(config)
    };
    Arc::clone(CONFIG.get_or_init(make))
}
