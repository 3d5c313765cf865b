//! Handshakes and data over loopback, on both drivers.

use std::time::Duration;

use aws_lc_rs::digest::{digest, SHA256};
use queue::Body;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;

use super::*;
use crate::net::tests::{on_both, pair};
use crate::net::{sleep, spawn_local};

fn server(name: &str) -> (Server, String) {
    let (chain, key) = self_signed(&[name.to_owned()]).expect("a certificate");
    (Server::new(chain.as_bytes(), key.as_bytes()).expect("usable"), chain)
}

fn pin(server: &Server) -> [u8; 32] {
    let der = CertificateDer::from(server.certificate());
    let key = ParsedCertificate::try_from(&der).expect("a certificate").subject_public_key_info();
    digest(&SHA256, &key).as_ref().try_into().expect("32 bytes")
}

/// Both ends after a handshake, or why there was none.
async fn shake(server: &Server, client: &Client, host: &str) -> (Result<Transport, Error>, Result<Transport, Error>) {
    let (near, far) = pair().await;
    let server = server.clone();
    let task = spawn_local(async move { Transport::Plain(far).accept(&server).await });
    let client = Transport::Plain(near).connect(client, host).await;
    (client, task.await.expect("no panic"))
}

async fn read_exactly(transport: &mut Transport, size: usize) -> Vec<u8> {
    let mut buf = Vec::with_capacity(16 * 1024);
    while buf.len() < size {
        let (result, back) = transport.read(buf).await;
        buf = back;
        assert!(result.expect("read") > 0, "ended after {} bytes", buf.len());
        if buf.capacity() == buf.len() {
            buf.reserve(16 * 1024);
        }
    }
    buf
}

#[test]
fn data_goes_both_ways_and_sessions_are_resumed() {
    on_both(|| async {
        let (server, _) = server("mx.test");
        let client = Client::new(&Trust::Anyone).expect("a client");
        let body: Vec<u8> = (0..500_000u32).map(|n| (n % 251) as u8).collect();
        for round in 0..2 {
            let (near, far) = shake(&server, &client, "mx.test").await;
            let (mut near, mut far) = (near.expect("client"), far.expect("server"));
            let sent = Body::from(body.clone());
            let task = spawn_local(async move {
                let (result, head) = near.write_parts(b"head".to_vec(), sent).await;
                result.expect("write");
                assert_eq!(head, b"head");
                assert_eq!(read_exactly(&mut near, 5).await, b"reply");
                near.close().await;
                near
            });
            let got = read_exactly(&mut far, body.len() + 4).await;
            assert!(got.starts_with(b"head") && got[4..] == body);
            far.write_all(b"reply".to_vec()).await.0.expect("write");
            let near = task.await.expect("no panic");
            assert_eq!(far.read(Vec::new()).await.0.expect("the end"), 0);
            let info = near.info().expect("encrypted");
            assert_eq!(info.protocol, "TLSv1.3");
            assert!(info.cipher.starts_with("TLS_AES_"), "{}", info.cipher);
            assert_eq!((info.resumed, info.verified), if round == 0 { (false, Some(false)) } else { (true, None) });
            assert_eq!(far.info().expect("encrypted").name.as_deref(), Some("mx.test"));
            assert_eq!(near.exporter(CHANNEL_BINDING), far.exporter(CHANNEL_BINDING));
            assert_ne!(near.exporter(CHANNEL_BINDING), near.exporter(b"other"));
        }
    });
}

#[test]
fn trust_decides() {
    on_both(|| async {
        let (server, chain) = server("mx.test");
        let roots = Trust::Roots(chain.into_bytes());
        let cases = [
            (Trust::Anyone, "mx.test", Some(false)),
            (Trust::Anyone, "127.0.0.1", Some(false)),
            (Trust::PublicRoots, "mx.test", None),
            (roots.clone(), "mx.test", Some(true)),
            (roots, "other.test", None),
            (Trust::Pins(vec![[0; 32], pin(&server)]), "other.test", Some(true)),
            (Trust::Pins(vec![[0; 32]]), "mx.test", None),
        ];
        for (trust, host, verified) in cases {
            let client = Client::new(&trust).expect("a client");
            let (near, far) = shake(&server, &client, host).await;
            match verified {
                Some(_) => assert_eq!(near.expect("client").info().expect("encrypted").verified, verified),
                None => {
                    assert!(matches!(near, Err(Error::Tls(_))), "{trust:?}");
                    // TLS 1.3: the server may have finished before it hears of the refusal.
                    if let Ok(mut far) = far {
                        assert!(far.read(Vec::new()).await.0.is_err(), "the alert arrives");
                    }
                }
            }
        }
    });
}

#[test]
fn the_certificate_changes_while_running() {
    on_both(|| async {
        let (server, _) = server("mx.test");
        let old = Client::new(&Trust::Pins(vec![pin(&server)])).expect("a client");
        let (chain, key) = self_signed(&["mx.test".to_owned()]).expect("a certificate");
        server.replace(chain.as_bytes(), key.as_bytes()).expect("usable");
        assert!(shake(&server, &old, "mx.test").await.0.is_err());
        let new = Client::new(&Trust::Pins(vec![pin(&server)])).expect("a client");
        assert!(shake(&server, &new, "mx.test").await.0.is_ok());
    });
}

#[test]
fn an_idle_wait_survives_tickets_and_being_dropped() {
    on_both(|| async {
        let (server, _) = server("mx.test");
        let client = Client::new(&Trust::Anyone).expect("a client");
        let (near, far) = shake(&server, &client, "mx.test").await;
        let (mut near, mut far) = (near.expect("client"), far.expect("server"));
        for round in 0..3 {
            // In the first round the server's ticket is there: bytes, but nothing for us.
            let waited = tokio::time::timeout(Duration::from_millis(20), near.readable()).await;
            assert!(waited.is_err(), "nothing was said in round {round}");
            near.shrink();
            far.write_all(b"hello".to_vec()).await.0.expect("write");
            near.readable().await.expect("bytes");
            assert_eq!(read_exactly(&mut near, 5).await, b"hello");
            near.write_all(b"world".to_vec()).await.0.expect("write");
            assert_eq!(read_exactly(&mut far, 5).await, b"world");
        }
        far.close().await;
        drop(far);
        near.readable().await.expect("the end");
        assert_eq!(near.read(Vec::new()).await.0.expect("the end"), 0);
    });
}

#[test]
fn nonsense_instead_of_a_handshake_is_an_error() {
    on_both(|| async {
        let (server, _) = server("mx.test");
        let (near, far) = pair().await;
        near.write_all(b"EHLO me\r\nMAIL FROM:<a@b>\r\n".to_vec()).await.0.expect("write");
        assert!(matches!(Transport::Plain(far).accept(&server).await, Err(Error::Tls(_))));
        let (near, far) = pair().await;
        let client = Client::new(&Trust::Anyone).expect("a client");
        far.write_all(b"502 what is this\r\n".to_vec()).await.0.expect("write");
        assert!(matches!(Transport::Plain(near).connect(&client, "mx.test").await, Err(Error::Tls(_))));
        let (near, far) = pair().await;
        spawn_local(async move {
            sleep(Duration::from_millis(5)).await;
            drop(far);
        });
        assert!(matches!(Transport::Plain(near).connect(&client, "mx.test").await, Err(Error::Io(_))));
    });
}

#[test]
fn unusable_settings_are_named() {
    let (chain, key) = self_signed(&["a.test".to_owned()]).expect("a certificate");
    let (_, other_key) = self_signed(&["a.test".to_owned()]).expect("a certificate");
    let none = Trust::Roots(b"nothing".to_vec());
    let errors = [
        Server::new(b"", key.as_bytes()).err(),
        Server::new(chain.as_bytes(), b"").err(),
        Server::new(chain.as_bytes(), other_key.as_bytes()).err(),
        Client::new(&none).err(),
        Client::new(&Trust::Pins(vec![])).err(),
    ];
    for error in errors {
        assert!(matches!(error, Some(Error::Setting(_))), "{error:?}");
    }
}
