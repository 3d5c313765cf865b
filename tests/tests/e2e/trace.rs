//! The Received field, and what is added where a client left it out.

use harness::client::{message, Client};
use harness::daemon::{Port, Setup, PASSWORD};
use harness::receiver::{Manners, Receiver};

on_both!(r26_the_trace_field_says_how_it_came);

fn r26_the_trace_field_says_how_it_came(driver: &str) {
    let receiver = Receiver::start(Manners::default());
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let plain = daemon.client().deliver("a@sender.test", &["b@inbox.test"], &message("plain", "x"));
    let mut client = Client::connect_tls(daemon.at(Port::Submissions));
    client.auth_plain("app", PASSWORD).expect(235);
    let secure = client.deliver("a@sender.test", &["b@inbox.test", "c@inbox.test"], &message("secure", "x"));
    let to_operator = b"From: <x@elsewhere.test>\r\nTo: postmaster\r\nDate: Fri, 20 Nov 2026 22:58:09 +0000\r\n\
        Message-ID: <1@elsewhere.test>\r\nSubject: mx\r\n\r\nhello\r\n";
    Client::connect(daemon.at(Port::Mx)).deliver("x@elsewhere.test", &["postmaster@sender.test"], to_operator);
    let messages = receiver.wait_messages(3);
    let received = |subject: &str| {
        let found = messages.iter().find(|m| m.header("Subject").as_deref() == Some(subject)).expect(subject);
        (found.header("Received").expect("a trace field"), found.header("Date"), found.header("Message-ID"))
    };
    let (trace, date, message_id) = received("plain");
    assert!(trace.starts_with("from submission by mta.sender.test with ESMTP id "), "{trace}");
    assert!(trace.contains(&plain) && trace.contains("for <b@inbox.test>;") && !trace.contains("127."), "{trace}");
    assert!(date.is_some() && message_id.is_some(), "missing fields are added on submission");
    let (trace, ..) = received("secure");
    assert!(trace.contains(&format!("with ESMTPSA id {secure}")) && !trace.contains(" for "), "{trace}");
    let (trace, ..) = received("mx");
    assert!(trace.starts_with("from client.sender.test ([127.0.0.1]) by mta.sender.test with ESMTP id "), "{trace}");
}
