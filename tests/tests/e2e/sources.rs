//! Eight sources with names in the DNS, and what becomes of one whose name is wrong (row n).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use harness::client::message;
use harness::daemon::{Daemon, Setup};
use harness::dns::{DnsServer, Zone};
use harness::place::{in_own_network, ip};
use harness::receiver::{Manners, Receiver};

on_both!(only_the_source_with_a_wrong_name_is_parked, an_address_that_vanishes_is_left_at_once);

/// Names forwards and backwards; the PTR record of source `wrong` points elsewhere.
fn zones(addresses: &[Ipv4Addr], wrong: Option<usize>) -> Vec<Zone> {
    let mut forward = String::new();
    let mut reverse = String::new();
    for (n, address) in addresses.iter().enumerate() {
        let [_, b, c, d] = address.octets();
        forward.push_str(&format!("out{n} 1 A {address}\n"));
        let name = if wrong == Some(n) { "somebody.else.test.".to_owned() } else { format!("out{n}.sender.test.") };
        reverse.push_str(&format!("{d}.{c}.{b} 1 PTR {name}\n"));
    }
    vec![
        Zone::parse("sender.test.", &forward).unwrap(),
        Zone::parse("203.in-addr.arpa.", &reverse).unwrap(),
        Zone::parse("test.", "").unwrap(),
    ]
}

/// Sends one message at a time until `count` have arrived; gives how often each address was seen.
fn spread(daemon: &Daemon, receiver: &Receiver, count: usize) -> HashMap<IpAddr, usize> {
    receiver.forget();
    let mut client = daemon.client();
    for n in 0..count {
        client.deliver("a@sender.test", &["b@inbox.test"], &message(&n.to_string(), "x"));
    }
    let mut seen = HashMap::new();
    for arrived in receiver.wait_messages(count) {
        *seen.entry(arrived.peer.expect("a peer has an address")).or_default() += 1;
    }
    seen
}

/// TEST-NET-3; loopback addresses won't do, because resolvers answer for their names themselves (RFC 6303).
fn eight() -> Vec<Ipv4Addr> {
    (1..=8).map(|n| Ipv4Addr::new(203, 0, 113, n)).collect()
}

fn eight_sources(driver: &str, addresses: &[Ipv4Addr], dns: &DnsServer, receiver: &Receiver) -> Setup {
    let mut text = format!("[dns]\nservers = [\"{}\"]\nparked_check_s = 1\n", dns.address());
    for (n, address) in addresses.iter().enumerate() {
        text.push_str(&format!("[[source]]\nname = \"s{n}\"\naddress = \"{address}\"\n"));
    }
    let names: Vec<String> = (0..addresses.len()).map(|n| format!("s{n}")).collect();
    text.push_str(&format!("[[pool]]\nname = \"default\"\nsources = {names:?}\n"));
    Setup::to(driver, receiver).without("source").without("pool").with(&text)
}

fn only_the_source_with_a_wrong_name_is_parked(driver: &str) {
    let addresses = eight();
    let ips: Vec<IpAddr> = addresses.iter().map(|a| IpAddr::V4(*a)).collect();
    in_own_network(&ips, || {
        let dns = DnsServer::start("127.0.0.1:0", zones(&addresses, Some(4))).unwrap();
        let receiver = Receiver::start(Manners::default());
        let setup = eight_sources(driver, &addresses, &dns, &receiver);
        let daemon = setup.start();

        let seen = spread(&daemon, &receiver, 140);
        assert_eq!(seen.len(), 7, "{seen:?}");
        assert!(!seen.contains_key(&ips[4]), "the fifth is parked: {seen:?}");
        assert!(seen.values().all(|n| (15..=25).contains(n)), "equal weights, equal shares: {seen:?}");

        // The record is mended, and nobody tells us.
        dns.set_zones(zones(&addresses, None));
        harness::wait_for(Duration::from_secs(20), "the fifth source", || {
            spread(&daemon, &receiver, 16).contains_key(&ips[4]).then_some(())
        });
        for (peer, name) in receiver.hellos() {
            let peer = peer.expect("a peer has an address");
            let n = ips.iter().position(|a| *a == peer).expect("one of the sources");
            assert_eq!(name, format!("out{n}.sender.test"), "EHLO is the confirmed name of {peer}");
        }
    });
}

fn an_address_that_vanishes_is_left_at_once(driver: &str) {
    let addresses = eight();
    let ips: Vec<IpAddr> = addresses.iter().map(|a| IpAddr::V4(*a)).collect();
    in_own_network(&ips, || {
        let dns = DnsServer::start("127.0.0.1:0", zones(&addresses, None)).unwrap();
        let receiver = Receiver::start(Manners::default());
        let setup = eight_sources(driver, &addresses, &dns, &receiver);
        let daemon = setup.start();
        assert_eq!(spread(&daemon, &receiver, 32).len(), 8);
        ip(&["address", "del", "203.0.113.3/32", "dev", "lo"]).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let seen = spread(&daemon, &receiver, 35);
        assert_eq!((seen.len(), seen.contains_key(&ips[2])), (7, false), "D-01: within a second: {seen:?}");
        assert!(daemon.events().iter().all(|e| e["type"] != "TransientFailure"), "and no attempt was wasted on it");
        ip(&["address", "add", "203.0.113.3/32", "dev", "lo"]).unwrap();
        harness::wait_for(Duration::from_secs(10), "the third source", || {
            spread(&daemon, &receiver, 16).contains_key(&ips[2]).then_some(())
        });
    });
}
