//! What accepting and rendering one message costs, in microseconds of one core. Run: `cargo run --release --example
//! accept_cost`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use mta::bounce;
use mta::message::accept::{self, Incoming};
use mta::message::hygiene::Role;
use mta::message::key::{self, DkimKey};
use mta::message::render::{render, BodyForm};
use mta::message::steer::{Presets, Scope};
use mta::record;
use queue::{Envelope, SpoolId, UnixMillis};

fn incoming(buffer: Vec<u8>, want_hash: bool) -> Incoming<'static> {
    Incoming {
        buffer,
        headroom: accept::HEADROOM,
        facts: None,
        role: Role::Submission,
        binary: false,
        smtputf8: false,
        utf8_addresses: false,
        peer: None,
        helo: "client.test",
        protocol: "ESMTPSA",
        host: "mx.test",
        single_recipient: Some("r@b.test"),
        scope: Scope::everything(),
        presets: Presets { powermta: true, kumomta: true },
        spool_id: SpoolId(7),
        now: UnixMillis(1_700_000_000_000),
        want_hash,
        want_simple: false,
    }
}

fn buffer(size: usize) -> Vec<u8> {
    let mut buffer = vec![0; accept::HEADROOM];
    buffer.extend_from_slice(
        b"From: A <a@example.org>\r\nTo: r@b.test\r\nSubject: a letter\r\nMIME-Version: 1.0\r\n\
          Content-Type: text/plain; charset=utf-8\r\nX-Ringpost-Campaign: spring\r\nList-Id: <l.example.org>\r\n\
          List-Unsubscribe: <https://u.test/1>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\n",
    );
    while buffer.len() < accept::HEADROOM + size {
        buffer.extend_from_slice(b"The quick brown fox jumps over the lazy dog and then sleeps in the sun.\r\n");
    }
    buffer
}

/// Best of five rounds, microseconds a call; `make` is not counted.
fn cost<T, R>(rounds: usize, mut make: impl FnMut() -> T, mut run: impl FnMut(T) -> R) -> f64 {
    (0..5)
        .map(|_| {
            let inputs: Vec<T> = (0..rounds).map(|_| make()).collect();
            let start = Instant::now();
            let results: Vec<R> = inputs.into_iter().map(|input| black_box(run(input))).collect();
            let spent = start.elapsed();
            drop(results);
            spent.as_secs_f64() * 1e6 / rounds as f64
        })
        .fold(f64::INFINITY, f64::min)
}

fn main() {
    for size in [1024, 4096, 32_768] {
        let template = buffer(size);
        for want_hash in [false, true] {
            let us = cost(1000, || incoming(template.clone(), want_hash), accept::finish);
            println!("accept {size} bytes, hash {want_hash}: {us:.2} us");
        }
    }
    let made = [key::generate_ed25519(), key::generate_rsa()].map(|k| k.expect("randomness"));
    let finished = accept::finish(incoming(buffer(4096), true)).expect("in order");
    let envelope = Envelope {
        flags: finished.flags,
        body_hash: finished.body_hash,
        size: finished.size,
        reverse_path: "s@a.test".to_owned(),
        recipients: vec![queue::EnvRecipient { address: "r@b.test".to_owned(), ..Default::default() }],
        ..Envelope::default()
    };
    for (name, made) in ["ed25519", "rsa-2048"].iter().zip(&made) {
        let keys = [Arc::new(DkimKey::from_pem("example.org", "s", &made.pem).expect("own key"))];
        let us = cost(200, || (), |()| render(&finished.body, &envelope, &keys, BodyForm::AsStored));
        println!("render 4096 bytes, {name}: {us:.1} us");
    }
    let us = cost(1000, || (), |()| bounce::classify(550, [5, 9, 9], "nothing of the table stands in this reply"));
    println!("classify: {us:.2} us");
    let mut line = Vec::with_capacity(1 << 20);
    let us = cost(
        1000,
        || record::reception(&envelope, SpoolId(1), "queued", "n"),
        |event| {
            line.clear();
            record::json::push_line(&mut line, &event);
        },
    );
    println!("event line of {} bytes: {us:.2} us", line.len());
}
