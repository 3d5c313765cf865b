//! An address that vanishes from the machine takes its source out of the pool within a second (D-01), and a source
//! sends only under a name that leads back to it (D-02). In a network namespace of its own; without the right to make
//! one the test says so and passes.

use std::process::Command;
use std::time::{Duration, Instant};

use harness::dns::{DnsServer, Zone};
use mta::dns::lookup::{Asked, LookupConfig};
use mta::dns::{Resolver, ResolverConfig};
use mta::egress::source::Parked;
use mta::egress::{Egress, EgressSource, Standing};

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status();
    assert!(done.is_ok_and(|status| status.success()), "ip {arguments}");
}

fn source(name: &str, address: &str, assumed: Option<&str>) -> EgressSource {
    EgressSource {
        name: name.into(),
        address: address.parse().unwrap(),
        assumed_name: assumed.map(str::to_owned),
        weight: 1,
    }
}

async fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

#[test]
fn d01_d02_sources_follow_addresses_and_names() {
    let inside = std::thread::spawn(|| {
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
            eprintln!("skipped: no right to make a network namespace");
            return;
        }
        ip("link set lo up");
        ip("addr add 192.0.2.1/32 dev lo");
        ip("addr add 192.0.2.2/32 dev lo");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(scenario());
    });
    inside.join().unwrap();
}

async fn scenario() {
    let zones = vec![
        Zone::parse("2.0.192.in-addr.arpa.", "1 PTR m1.a.test.\n2 PTR m2.a.test.").unwrap(),
        Zone::parse("a.test.", "m1 A 192.0.2.1\nm2 A 192.0.2.99").unwrap(),
    ];
    let server = DnsServer::start("127.0.0.1:0", zones).unwrap();
    let here = tokio::runtime::Handle::current();
    let lookup = LookupConfig { asked: Asked::Forwarders(vec![server.address()]), dnssec: false, anchors: None };
    let resolver = Resolver::start(ResolverConfig { lookup, ..Default::default() }, &here).unwrap();
    let sources = vec![
        source("good", "192.0.2.1", None),
        source("wrong", "192.0.2.2", None),
        source("absent", "192.0.2.3", None),
        source("lab", "127.0.0.7", Some("lab.test")),
    ];
    let egress = Egress::start(sources, resolver, &here);
    let standing = |index: usize| egress.table().entries[index].standing.clone();

    assert!(!egress.table().usable(0), "nothing goes before it is checked");
    within(Duration::from_secs(5), || egress.table().usable(0)).await;
    assert_eq!(egress.table().entries[0].ehlo(), Some("m1.a.test"));
    within(Duration::from_secs(5), || matches!(standing(1), Standing::Parked(Parked::Mismatch(_)))).await;
    assert_eq!(standing(2), Standing::Parked(Parked::Unplumbed));
    assert_eq!(standing(3), Standing::Usable { ehlo: "lab.test".into(), assumed: true });

    ip("addr del 192.0.2.1/32 dev lo");
    let took = within(Duration::from_secs(1), || !egress.table().usable(0)).await;
    println!("an address that went left the pool after {took:?}");
    assert_eq!(standing(0), Standing::Parked(Parked::Unplumbed));

    ip("addr add 192.0.2.1/32 dev lo");
    within(Duration::from_secs(1), || egress.table().usable(0)).await;
    ip("addr add 192.0.2.3/32 dev lo");
    within(Duration::from_secs(1), || standing(2) != Standing::Parked(Parked::Unplumbed)).await;
}
