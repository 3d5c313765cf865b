//! What one mail of 4 KiB costs the server session over HELO without pipelining: `cargo run --release -p ringpost-mta
//! --example session_cost`. No socket, no disk: the protocol alone.

use std::sync::Arc;
use std::time::Instant;

use mta::smtp::server::{Credential, DomainRule, ListenerRole, Now, OpenGate, Peer, ServerPolicy, Session, Step};

const ROUNDS: u32 = 200_000;

fn main() {
    let credential = Credential { from_domains: vec![DomainRule::Any], ..Credential::default() };
    let trusted = mta::smtp::server::TrustedNetwork {
        network: "192.0.2.0/24".parse().expect("a network"),
        credential: Arc::new(credential),
    };
    let policy = ServerPolicy { role: ListenerRole::Relay, trusted: vec![trusted], ..ServerPolicy::default() };
    let peer = Peer::new("192.0.2.7:1".parse().expect("an address"), "192.0.2.1:25".parse().expect("an address"));
    let mut session = Session::new(Arc::new(policy), peer, 1);
    let body = [&b"x".repeat(76), b"\r\n".as_slice()].concat().repeat(52);
    let content = [b"Subject: x\r\n\r\n", body.as_slice(), b".\r\n"].concat();
    let (now, mut out, mut mails) = (Now::default(), Vec::new(), 0);
    session.feed(b"HELO c.test\r\n", now, &mut OpenGate, &mut out);
    let start = Instant::now();
    for _ in 0..ROUNDS {
        for piece in [&b"MAIL FROM:<a@b.test>\r\n"[..], b"RCPT TO:<c@d.test>\r\n", b"DATA\r\n", &content] {
            out.clear();
            let (_, step) = session.feed(piece, now, &mut OpenGate, &mut out);
            if let Step::Received(mail) = step {
                std::hint::black_box(mail);
                mails += 1;
                session.resume_received(Ok("queued as 0000000000000".to_owned()), &mut out);
            }
        }
        // The default allows 100000 transactions; a new session costs next to nothing.
        if mails % 50_000 == 0 {
            let (policy, peer) = (session.policy(), session.peer().clone());
            session = Session::new(policy, peer, 1);
            session.feed(b"HELO c.test\r\n", now, &mut OpenGate, &mut out);
        }
    }
    println!(
        "{mails} mails of {} bytes, {:?} each, session of {} bytes",
        content.len(),
        start.elapsed() / ROUNDS,
        size_of::<Session>()
    );
}
