//! TLS on both sides: STARTTLS and implicit in, opportunistic out.

use std::time::Duration;

use harness::client::{message, Client};
use harness::daemon::{Port, Setup, PASSWORD};
use harness::receiver::{Manners, Receiver};

on_both!(
    starttls_and_implicit_in,
    r05_what_is_sent_behind_starttls_is_refused,
    opportunistic_out,
    broken_tls_is_no_reason_not_to_deliver,
    a_smarthost_is_pinned_and_logged_in_to
);

fn starttls_and_implicit_in(driver: &str) {
    let receiver = Receiver::start(Manners::default());
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    for (subject, mut client) in [
        ("starttls", Client::connect_starttls(daemon.at(Port::Submission))),
        ("implicit", Client::connect_tls(daemon.at(Port::Submissions))),
    ] {
        let again = client.say("EHLO client.sender.test");
        assert!(!again.offers("STARTTLS") && again.offers("AUTH"), "{}", again.text());
        client.auth_plain("app", PASSWORD).expect(235);
        client.deliver("a@sender.test", &["b@inbox.test"], &message(subject, &"and so on\r\n".repeat(20_000)));
        client.say("QUIT").expect(221);
    }
    for arrived in receiver.wait_messages(2) {
        assert!(arrived.header("Received").unwrap().contains("with ESMTPSA"));
        assert!(arrived.content.len() > 200_000);
    }
}

fn r05_what_is_sent_behind_starttls_is_refused(driver: &str) {
    let setup = Setup::new(driver);
    let daemon = setup.start();
    let mut client = Client::connect(daemon.at(Port::Submission));
    client.send_raw(b"STARTTLS\r\nMAIL FROM:<a@sender.test>\r\n").unwrap();
    let reply = client.read().expect("a refusal in clear");
    assert!(reply.code >= 500, "{}", reply.text());
    assert!(client.is_closed());
}

fn opportunistic_out(driver: &str) {
    let with = Receiver::start(Manners::default().with_tls());
    let without = Receiver::start(Manners::default());
    let setup = Setup::new(driver).route("tls.test", &[with.address()]).route("*", &[without.address()]);
    let daemon = setup.start();
    let id = daemon.client().deliver("a@sender.test", &["b@tls.test", "b@plain.test"], &message("out", "x"));
    assert!(with.wait_messages(1)[0].tls);
    assert!(!without.wait_messages(1)[0].tls);
    let secure = harness::wait_for(Duration::from_secs(10), "the delivery under TLS", || {
        daemon
            .events()
            .into_iter()
            .find(|e| e["type"] == "Delivery" && e["id"] == id.as_str() && e["recipient"] == "b@tls.test")
    });
    assert!(secure["tls_cipher"].as_str().is_some_and(|c| !c.is_empty()), "{secure}");
}

fn broken_tls_is_no_reason_not_to_deliver(driver: &str) {
    let receiver = Receiver::start(Manners::default().with_broken_tls());
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let id = daemon.client().deliver("a@sender.test", &["b@inbox.test"], &message("plain", "x"));
    let delivery = daemon.wait_for_type("Delivery", &id);
    assert_eq!(delivery["num_attempts"], 1, "opportunistic means: without it, at once");
    assert!(!receiver.messages()[0].tls);
    // Where TLS is required nothing is sent in clear.
    let setup = Setup::new(driver).with(&format!(
        "[[route]]\ndomain = \"*\"\nto = [\"{}\"]\nlab = true\ntls = \"required\"\n",
        receiver.address()
    ));
    let daemon = setup.start();
    let id = daemon.client().deliver("a@sender.test", &["b@inbox.test"], &message("secret", "x"));
    let failure = daemon.wait_for_type("TransientFailure", &id);
    assert!(failure["response"]["content"].as_str().is_some_and(|text| text.contains("TLS")), "{failure}");
    assert_eq!(receiver.messages().len(), 1);
}

fn a_smarthost_is_pinned_and_logged_in_to(driver: &str) {
    let receiver = Receiver::start(Manners::default().with_tls().with_login("relay", "open sesame"));
    let route = |domain: &str, pin: &str| {
        format!(
            "[[route]]\ndomain = \"{domain}\"\nto = [\"{}\"]\nlab = true\ntls = \"required\"\ntls_pin = \"{pin}\"\n\
             user = \"relay\"\npassword_file = \"@dir@/password\"\n",
            receiver.address()
        )
    };
    let right = harness::wire::server_pin();
    let setup = Setup::new(driver).with(&route("inbox.test", &right)).with(&route("wrong.test", &"0".repeat(64)));
    std::fs::write(setup.dir().join("password"), "open sesame\n").unwrap();
    let daemon = setup.start();
    let mut client = daemon.client();
    let before = client.deliver("a@sender.test", &["b@wrong.test"], &message("wrong pin", "x"));
    client.deliver("a@sender.test", &["b@inbox.test"], &message("smarthost", "x"));
    let arrived = &receiver.wait_messages(1)[0];
    assert!(arrived.tls && arrived.logged_in);
    // The connection of the other route idles now, to the same host: nothing of this one may go over it.
    let after = client.deliver("a@sender.test", &["b@wrong.test"], &message("wrong pin", "x"));
    for id in [before, after] {
        daemon.wait_for_type("TransientFailure", &id);
    }
    assert_eq!(receiver.messages().len(), 1, "nothing goes to a host with another key");
}
