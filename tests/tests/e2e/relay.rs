//! What comes in goes out, byte for byte, below our own Received field.

use harness::client::message;
use harness::daemon::Setup;
use harness::receiver::{Manners, Receiver, Transaction};

on_both!(dots_and_long_bodies, by_bdat, eight_bit_to_an_old_peer, binary_to_a_peer_without_it);

/// What was submitted, and what follows our own trace field at the receiver.
#[track_caller]
fn same_below_the_trace(arrived: &Transaction, sent: &[u8]) {
    let at = arrived.content.windows(6).position(|w| w == b"From: ").expect("a From field");
    let head = String::from_utf8_lossy(&arrived.content[..at]).into_owned();
    assert!(head.starts_with("Received: "), "{head}");
    // Missing Date and Message-ID were put in front; what the client wrote is untouched.
    assert!(arrived.content[at..] == *sent, "{} bytes arrived, {} sent", arrived.content.len() - at, sent.len());
}

fn dots_and_long_bodies(driver: &str) {
    let receiver = Receiver::start(Manners::default().offering(&["PIPELINING", "8BITMIME"]));
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let mut client = daemon.client();
    let dots = message("dots", ".\r\n..\r\n.leading\r\nin . between\r\n...\r\n\r\n.");
    let line = "x".repeat(998);
    let long = message("long", &vec![line.as_str(); 5 * 1024 * 1024 / 1000].join("\r\n"));
    client.deliver("a@sender.test", &["b@inbox.test"], &dots);
    client.deliver("a@sender.test", &["b@inbox.test"], &long);
    let messages = receiver.wait_messages(2);
    let find = |subject: &str| messages.iter().find(|m| m.header("Subject").as_deref() == Some(subject));
    let arrived = find("dots").expect("the dotted message");
    assert!(!arrived.bdat);
    same_below_the_trace(arrived, &dots);
    same_below_the_trace(find("long").expect("the long message"), &long);
}

fn by_bdat(driver: &str) {
    let receiver = Receiver::start(Manners::default());
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let sent = message("chunks", ".dot\r\n.\r\nend");
    let (first, rest) = sent.split_at(21);
    let reply = daemon.client().send_chunks("<a@sender.test>", &["b@inbox.test"], &[first, rest, b""]).unwrap();
    reply.expect(250);
    let messages = receiver.wait_messages(1);
    assert!(messages[0].bdat, "CHUNKING was offered and is used");
    same_below_the_trace(&messages[0], &sent);
}

fn eight_bit_to_an_old_peer(driver: &str) {
    let receiver = Receiver::start(Manners::default().offering(&["8BITMIME"]));
    let old = Receiver::start(Manners::default().offering(&[]));
    let setup = Setup::new(driver).route("old.test", &[old.address()]).route("*", &[receiver.address()]);
    let daemon = setup.start();
    let mut sent = b"From: <a@sender.test>\r\nTo: <b@inbox.test>\r\nSubject: eight\r\nMIME-Version: 1.0\r\n".to_vec();
    sent.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n");
    sent.extend_from_slice("Gr\u{fc}\u{df}e\r\n".as_bytes());
    let to = ["<b@inbox.test>".to_owned(), "<b@old.test>".to_owned()];
    let reply = daemon.client().send_with("<a@sender.test> BODY=8BITMIME", &to, &sent).unwrap();
    reply.expect(250);
    let arrived = &receiver.wait_messages(1)[0];
    assert!(arrived.mail.contains("BODY=8BITMIME"), "{}", arrived.mail);
    same_below_the_trace(arrived, &sent);
    let converted = &old.wait_messages(1)[0];
    assert!(converted.content.is_ascii(), "r45: nothing of eight bits goes to a site without 8BITMIME");
    assert!(!converted.mail.contains("BODY="));
    assert_eq!(converted.header("Content-Transfer-Encoding").as_deref(), Some("quoted-printable"));
    assert!(String::from_utf8_lossy(converted.body()).contains("Gr=C3=BC=C3=9Fe"));
}

fn binary_to_a_peer_without_it(driver: &str) {
    let receiver = Receiver::start(Manners::default().offering(&["PIPELINING", "8BITMIME", "CHUNKING"]));
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let mut sent = b"From: <a@sender.test>\r\nTo: <b@inbox.test>\r\nSubject: raw\r\nMIME-Version: 1.0\r\n".to_vec();
    sent.extend_from_slice(b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n");
    let raw: Vec<u8> = (0..=255u8).cycle().take(3000).collect();
    sent.extend_from_slice(&raw);
    let reply =
        daemon.client().send_chunks("<a@sender.test> BODY=BINARYMIME", &["b@inbox.test"], &[&sent[..]]).unwrap();
    reply.expect(250);
    let arrived = &receiver.wait_messages(1)[0];
    assert!(arrived.content.is_ascii() && !arrived.mail.contains("BINARYMIME"), "{}", arrived.mail);
    let encoding = arrived.header("Content-Transfer-Encoding");
    assert_eq!(encoding.as_deref(), Some("base64"), "{}", arrived.text());
    let text: String = String::from_utf8_lossy(arrived.body()).split_whitespace().collect();
    use base64::prelude::{Engine, BASE64_STANDARD};
    assert_eq!(BASE64_STANDARD.decode(text).unwrap(), raw);
}
