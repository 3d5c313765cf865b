//! No listener relays for strangers.

use harness::client::{message, Client};
use harness::daemon::{Port, Setup, PORTS};
use harness::receiver::{Manners, Receiver};

on_both!(no_listener_relays_for_strangers, the_mx_port_takes_mail_to_the_operator);

fn no_listener_relays_for_strangers(driver: &str) {
    let receiver = Receiver::start(Manners::default());
    // Nobody is trusted for an address here.
    let setup = Setup::to(driver, &receiver).without("credential").with(
        "[[credential]]\nname = \"far\"\ntrusted_networks = [\"192.0.2.0/24\"]\nfrom_domains = [\"sender.test\"]\n",
    );
    let daemon = setup.start();
    for port in PORTS {
        for from in ["a@sender.test", "", "x@elsewhere.test"] {
            for to in ["b@inbox.test", "b%inbox.test@sender.test", "someone@sender.test", "\"b@inbox.test\""] {
                let mut client = match port {
                    Port::Submissions => Client::connect_tls(daemon.at(port)),
                    _ => Client::connect(daemon.at(port)),
                };
                let reply = client.send_message(from, &[to], &message("open", "x")).unwrap();
                assert!((500..600).contains(&reply.code), "{port:?} {from} -> {to}: {} {}", reply.code, reply.text());
            }
        }
    }
    assert!(receiver.transactions().is_empty());
    assert!(daemon.events().iter().all(|e| e["type"] != "Reception"));
}

fn the_mx_port_takes_mail_to_the_operator(driver: &str) {
    let receiver = Receiver::start(Manners::default());
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let mut client = Client::connect(daemon.at(Port::Mx));
    for (from, to) in [
        ("x@elsewhere.test", "postmaster@sender.test"),
        ("", "PostMaster@Sender.Test"),
        ("x@elsewhere.test", "abuse@sender.test"),
        ("x@elsewhere.test", "postmaster"),
    ] {
        client.deliver(from, &[to], &message("to the operator", "x"));
    }
    let reply = client.send_message("x@elsewhere.test", &["b@sender.test"], &message("no", "x")).unwrap();
    assert_eq!((reply.code, reply.text().contains("5.7.1")), (550, true), "{}", reply.text());
    for arrived in receiver.wait_messages(4) {
        assert_eq!(arrived.recipients(), ["operator@inbox.test"]);
    }
}
