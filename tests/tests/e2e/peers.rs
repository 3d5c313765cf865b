//! Receiving servers as they are: old ones, busy ones, dead ones.

use std::net::SocketAddr;

use harness::client::message;
use harness::daemon::Setup;
use harness::place;
use harness::receiver::{Act, Manners, Moment, Receiver};

on_both!(
    connections_are_used_again,
    a_peer_without_pipelining_gets_one_command_at_a_time,
    a_peer_that_knows_only_helo,
    a_busy_host_and_a_dead_one_lead_to_the_next,
);

fn connections_are_used_again(driver: &str) {
    let receiver = Receiver::start(Manners::default());
    let setup = Setup::new(driver)
        .with(&format!("[[route]]\ndomain = \"*\"\nto = [\"{}\"]\nlab = true\nconnections = 3\n", receiver.address()));
    let daemon = setup.start();
    let mut client = daemon.client();
    for n in 0..300 {
        client.deliver("a@sender.test", &["b@inbox.test"], &message(&n.to_string(), "x"));
    }
    assert_eq!(receiver.wait_messages(300).len(), 300);
    assert!(receiver.connections() <= 3, "{} connections for 300 messages", receiver.connections());
    assert!(receiver.open_max() <= 3);
}

fn a_peer_without_pipelining_gets_one_command_at_a_time(driver: &str) {
    let receiver = Receiver::start(Manners::default().offering(&["8BITMIME"]));
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let mut client = daemon.client();
    for n in 0..5 {
        client.deliver("a@sender.test", &["b@inbox.test", "c@inbox.test"], &message(&n.to_string(), "x"));
    }
    for arrived in receiver.wait_messages(5) {
        assert!(!arrived.pipelined && !arrived.bdat, "RFC 2920: only where it was offered");
        assert_eq!(arrived.recipients().len(), 2);
    }
}

fn a_peer_that_knows_only_helo(driver: &str) {
    let receiver = Receiver::start(Manners::default().offering(&[]).helo_only());
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    daemon.client().deliver("a@sender.test", &["b@inbox.test"], &message("old", "x"));
    let arrived = &receiver.wait_messages(1)[0];
    assert_eq!((arrived.verb.as_str(), arrived.hello.as_str()), ("HELO", "mta.sender.test"));
    assert!(!arrived.mail.contains("SIZE") && !arrived.mail.contains("BODY"), "{}", arrived.mail);
}

fn a_busy_host_and_a_dead_one_lead_to_the_next(driver: &str) {
    let busy = Receiver::start(Manners::default().script(|moment| match moment {
        Moment::Connected => Act::Say("421 4.3.2 too busy".into()),
        _ => Act::Usual,
    }));
    let good = Receiver::start(Manners::default());
    // Nobody listens at an address of its own.
    let dead = SocketAddr::from((place::address(), 2500));
    let setup = Setup::new(driver).route("*", &[dead, busy.address(), good.address()]);
    let daemon = setup.start();
    let id = daemon.client().deliver("a@sender.test", &["b@inbox.test"], &message("next", "x"));
    let event = daemon.wait_for_type("Delivery", &id);
    assert_eq!(event["num_attempts"], 1, "trying the next host is the same attempt");
    assert_eq!(good.messages().len(), 1);
    assert_eq!(busy.messages().len(), 0);
}
