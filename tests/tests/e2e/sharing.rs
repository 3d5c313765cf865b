//! Recipients of one message at one site share transactions, up to what the site takes at once.

use std::collections::HashSet;

use harness::client::message;
use harness::daemon::Setup;
use harness::receiver::{Manners, Receiver};

on_both!(a_thousand_recipients_go_in_ten_transactions, a_peers_limit_is_kept);

fn recipients(count: usize, domains: usize) -> Vec<String> {
    (0..count).map(|n| format!("u{n}@d{}.inbox.test", n % domains)).collect()
}

fn a_thousand_recipients_go_in_ten_transactions(driver: &str) {
    let receiver = Receiver::start(Manners::default());
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let all = recipients(1000, 3);
    let to: Vec<&str> = all.iter().map(String::as_str).collect();
    daemon.client().deliver("a@sender.test", &to, &message("many", "x"));
    let messages = receiver.wait_messages(10);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(receiver.transactions().len(), 10, "row m: 1,000 recipients in 3 domains on one site");
    let seen: HashSet<String> = messages.iter().flat_map(harness::receiver::Transaction::recipients).collect();
    assert_eq!(seen.len(), 1000);
    assert!(messages.iter().all(|m| m.recipients().len() == 100));
}

fn a_peers_limit_is_kept(driver: &str) {
    let narrow = Receiver::start(Manners::default().and("LIMITS RCPTMAX=7 RCPTDOMAINMAX=1"));
    let one = Receiver::start(Manners::default().and("LIMITS MAILMAX=2"));
    let setup = Setup::new(driver).route("*.inbox.test", &[narrow.address()]).route("*", &[one.address()]);
    let daemon = setup.start();
    let all = recipients(40, 2);
    let to: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut client = daemon.client();
    client.deliver("a@sender.test", &to, &message("narrow", "x"));
    let seen = harness::wait_for(std::time::Duration::from_secs(20), "40 recipients", || {
        let all: HashSet<String> = narrow.messages().iter().flat_map(|m| m.recipients()).collect();
        (all.len() == 40).then_some(narrow.messages())
    });
    for transaction in seen {
        let domains: HashSet<String> =
            transaction.recipients().iter().filter_map(|r| Some(r.split_once('@')?.1.to_owned())).collect();
        assert!(transaction.recipients().len() <= 7, "{:?}", transaction.recipients());
        assert_eq!(domains.len(), 1, "RCPTDOMAINMAX=1 (RFC 9422)");
    }
    for n in 0..6 {
        client.deliver("a@sender.test", &["b@other.test"], &message(&n.to_string(), "x"));
    }
    let messages = one.wait_messages(6);
    for connection in messages.iter().map(|m| m.connection) {
        assert!(messages.iter().filter(|m| m.connection == connection).count() <= 2, "MAILMAX=2 (RFC 9422)");
    }
}
