//! what we sign verifies with an implementation that shares no code with ours (dkimpy), over messages that went
//! the whole way: accept, store, render. Without dkimpy on the machine the test says so and passes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use mta::message::accept::{self, Incoming};
use mta::message::hygiene::Role;
use mta::message::key::{self, DkimKey};
use mta::message::render::{render, BodyForm};
use mta::message::steer::{Presets, Scope};
use queue::{Envelope, SpoolId, UnixMillis};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn accepted(content: &[u8]) -> accept::Finished {
    let mut buffer = vec![0; accept::HEADROOM];
    buffer.extend_from_slice(content);
    accept::finish(Incoming {
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
        presets: Presets::default(),
        spool_id: SpoolId(7),
        now: NOW,
        want_hash: true,
        want_simple: false,
    })
    .expect("the messages of this test are in order")
}

fn contents() -> Vec<Vec<u8>> {
    let header = "From: A <a@example.org>\r\nTo: r@b.test,\r\n\tq@b.test\r\nSubject:  two  blanks \r\n";
    let text = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\nMIME-Version: 1.0\r\n";
    [
        format!("{header}\r\nHello \t world \r\n\r\n.dot\r\n \r\n\r\n"),
        format!("{header}\r\n"),
        format!("{header}\r\n\r\n\r\n"),
        format!("{header}{text}\r\nGr\u{fc}\u{df}e  \r\n"),
        format!("{header}List-Unsubscribe: <https://u.test/1>\r\nReceived: old\r\n\r\nno line end"),
        format!("{header}\r\n{}\r\n", "many words \t and blanks   ".repeat(30)),
        format!("{header}\r\n{}\r\n", "0123456789abcdef\t \r\n".repeat(200)),
    ]
    .into_iter()
    .map(String::into_bytes)
    .collect()
}

fn write_all(dir: &Path) {
    let rsa = key::generate_rsa().expect("randomness");
    let ed = key::generate_ed25519().expect("randomness");
    let load = |selector: &str, pem: &str| Arc::new(DkimKey::from_pem("example.org", selector, pem).expect("own key"));
    let keys = [load("rsa", &rsa.pem), load("ed", &ed.pem)];
    let records = format!("rsa._domainkey.example.org\t{}\ned._domainkey.example.org\t{}\n", rsa.record, ed.record);
    fs::write(dir.join("records.txt"), records).expect("temporary folder");
    for (number, content) in contents().iter().enumerate() {
        let finished = accepted(content);
        let envelope = Envelope {
            received: NOW,
            flags: finished.flags,
            body_hash: finished.body_hash,
            size: finished.size,
            ..Envelope::default()
        };
        for (form, name) in [(BodyForm::AsStored, "stored"), (BodyForm::SevenBit, "seven")] {
            let rendered = render(&finished.body, &envelope, &keys, form).expect("renders");
            let mut message = rendered.prefix.clone();
            message.extend_from_slice(&rendered.body);
            fs::write(dir.join(format!("{number}-{name}.eml")), message).expect("temporary folder");
        }
    }
}

#[test]
fn r27_signatures_verify_with_dkimpy() {
    let dir = std::env::temp_dir().join(format!("ringpost-dkimpy-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("temporary folder");
    write_all(&dir);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dkimpy.py");
    let output = Command::new("python3").arg(&script).arg(&dir).output();
    let _ = fs::remove_dir_all(&dir);
    let Ok(output) = output else {
        eprintln!("skipped: no python3 on this machine");
        return;
    };
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(77) {
        eprintln!("skipped: {text}");
        return;
    }
    println!("{text}");
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches(": pass").count(), 2 * 2 * contents().len(), "{text}");
}
