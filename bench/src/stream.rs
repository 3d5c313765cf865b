//! A byte stream that is plain or TLS, either side, and the TLS settings of a load tool.
//!
//! The injector trusts any certificate: it measures servers, it does not protect mail. The sink makes its own
//! certificate at start. Never reads certificate stores and never touches keys of others.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// One connection.
#[derive(Debug)]
pub enum Stream {
    /// As it came from the socket.
    Plain(TcpStream),
    /// Behind a TLS handshake we asked for.
    Client(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// Behind a TLS handshake a peer asked for.
    Server(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

impl Stream {
    /// Version and cipher suite as one word pair, empty without TLS.
    pub fn tls_name(&self) -> String {
        let connection: &rustls::CommonState = match self {
            Stream::Plain(_) => return String::new(),
            Stream::Client(stream) => stream.get_ref().1,
            Stream::Server(stream) => stream.get_ref().1,
        };
        let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
        match (connection.protocol_version(), suite) {
            (Some(version), Some(suite)) => {
                format!("{} {}", version.as_str().unwrap_or("TLS"), suite.as_str().unwrap_or("?"))
            }
            _ => "TLS".to_owned(),
        }
    }

    /// Writes both parts, with as few calls as the socket allows.
    pub async fn write_both(&mut self, first: &[u8], second: &[u8]) -> io::Result<()> {
        let (mut a, mut b) = (first, second);
        while !a.is_empty() && !b.is_empty() {
            let written = self.write_vectored(&[IoSlice::new(a), IoSlice::new(b)]).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let of_first = written.min(a.len());
            a = a.get(of_first..).unwrap_or_default();
            b = b.get(written - of_first..).unwrap_or_default();
        }
        if !a.is_empty() {
            self.write_all(a).await?;
        }
        if !b.is_empty() {
            self.write_all(b).await?;
        }
        match self {
            Stream::Plain(_) => Ok(()),
            _ => self.flush().await,
        }
    }
}

macro_rules! each {
    ($me:expr, $inner:ident => $call:expr) => {
        match $me.get_mut() {
            Stream::Plain($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Stream::Client($inner) => {
                let $inner = Pin::new(&mut **$inner);
                $call
            }
            Stream::Server($inner) => {
                let $inner = Pin::new(&mut **$inner);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => inner.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, inner => inner.poll_write(cx, buf))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, inner => inner.poll_write_vectored(cx, bufs))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => inner.poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => inner.poll_shutdown(cx))
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// TLS settings of the injector: any certificate will do.
pub fn client_tls() -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.enable_sni = true;
    Arc::new(config)
}

/// TLS settings of the sink: a fresh ECDSA P-256 certificate for `name`; `expired` makes one that ended long ago.
pub fn server_tls(name: &str, expired: bool) -> anyhow::Result<Arc<ServerConfig>> {
    let key = rcgen::KeyPair::generate()?;
    let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()])?;
    if expired {
        parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2002, 1, 1);
    }
    let certificate = parameters.self_signed(&key)?;
    let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private)?;
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
