//! The place server sessions are fuzzed at: roles, credentials, own addresses; and facts counted the slow way.

use std::sync::{Arc, OnceLock};

use mta::smtp::sasl::{ScramVerifier, Verifier};
use mta::smtp::server::{
    Credential, DomainRule, InboundKind, InboundRule, ListenerRole, LocalRule, Peer, ServerPolicy, TlsFacts,
    TrustedNetwork,
};
use queue::BodyFlags;

use super::source::Source;

/// A policy and who connects.
#[derive(Clone)]
pub(super) struct Scene {
    pub policy: Arc<ServerPolicy>,
    pub peer: Peer,
}

/// A finished handshake.
pub(super) fn tls() -> TlsFacts {
    TlsFacts { version: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256".to_owned(), exporter: Some([7; 32]) }
}

/// A verifier for "secret"; deriving one takes milliseconds, so there is one.
pub(super) fn verifier() -> ScramVerifier {
    static VERIFIER: OnceLock<ScramVerifier> = OnceLock::new();
    let derive = || ScramVerifier::derive("secret", b"0123456789abcdef", 4096).expect("4096 iterations will do");
    VERIFIER.get_or_init(derive).clone()
}

pub(super) fn scene(source: &mut Source<'_>) -> Scene {
    let role = [
        ListenerRole::Mx,
        ListenerRole::Submission,
        ListenerRole::SubmissionTls,
        ListenerRole::Relay,
        ListenerRole::Mx,
        ListenerRole::Submission,
    ][source.below(6)];
    let bits = source.byte();
    let credential = |name: &str| {
        Arc::new(Credential {
            name: name.to_owned(),
            verifier: Verifier::Scram(verifier()),
            from_domains: vec![DomainRule::parse("client.test"), DomainRule::parse("*.client.test")],
            ..Credential::default()
        })
    };
    let inbound = |kind, domain: &str, local| InboundRule { kind, domain: domain.to_owned(), local };
    let mut policy = ServerPolicy {
        role,
        hostname: "mx.own.test".to_owned(),
        domains: vec!["own.test".to_owned()],
        operator: Some("op@operator.test".to_owned()),
        inbound: vec![
            inbound(InboundKind::ReturnPath, "rp.own.test", LocalRule::Prefix("b+".to_owned())),
            inbound(InboundKind::Unsubscribe, "rp.own.test", LocalRule::Prefix("u+".to_owned())),
            inbound(InboundKind::Feedback, "own.test", LocalRule::Exact("fbl".to_owned())),
        ],
        credentials: [("alice".to_owned(), credential("alice"))].into(),
        trusted: vec![TrustedNetwork {
            network: "10.1.0.0/16".parse().expect("a network"),
            credential: credential("trusted"),
        }],
        tls: bits & 1 == 0,
        lab_auth_in_clear: bits & 2 != 0,
        relay_to_literals: bits & 4 != 0,
        recipients_max: if bits & 8 == 0 { 1000 } else { 2 },
        size_max: if bits & 16 == 0 { 1 << 20 } else { 40 },
        recipient_domains_max: (bits & 32 != 0).then_some(2),
        transactions_max: if bits & 64 == 0 { 1000 } else { 2 },
        errors_max: if bits & 128 == 0 { 1000 } else { 3 },
        process_key: [3; 32],
        ..ServerPolicy::default()
    };
    let trusted = source.one_in(3);
    if source.one_in(4) {
        policy.xclient_peers.push("192.0.2.0/24".parse().expect("a network"));
    }
    let address = if trusted { "10.1.2.3:4321" } else { "192.0.2.7:4321" };
    let mut peer = Peer::new(address.parse().expect("an address"), "198.51.100.1:25".parse().expect("an address"));
    if role == ListenerRole::SubmissionTls {
        peer.tls = Some(tls());
    }
    Scene { policy: Arc::new(policy), peer }
}

/// Facts of content without bare line ends, counted line by line.
pub(super) fn facts(content: &[u8]) -> BodyFlags {
    let text: Vec<&[u8]> = content.split(|byte| *byte == b'\n').collect();
    let lines: Vec<&[u8]> = text.iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    let mut header = 0;
    for (index, line) in text.iter().enumerate() {
        header += line.len() + 1;
        if *line == b"\r" && index + 1 < text.len() {
            break;
        }
    }
    BodyFlags {
        dot_line: lines.iter().any(|line| line.first() == Some(&b'.')),
        eight_bit: !content.is_ascii(),
        longest_line: lines.iter().map(|line| line.len() as u32).max().unwrap_or(0),
        header_len: header.min(content.len()) as u32,
        ..BodyFlags::default()
    }
}
