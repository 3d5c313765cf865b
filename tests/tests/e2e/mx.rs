//! MX routing over a name server of the test: order, null MX, dead hosts, loops, and a TLS-less detour.

use std::net::SocketAddr;

use harness::client::message;
use harness::daemon::Setup;
use harness::dns::{DnsServer, Zone};
use harness::place;
use harness::receiver::{Act, Manners, Moment, Receiver};

on_both!(
    r02_hosts_are_tried_by_preference,
    r20_a_null_mx_is_a_bounce_and_nobody_is_connected_to,
    r02_a_loop_ends_as_a_bounce_not_as_traffic,
    two_domains_on_one_site_share_a_transaction,
);

/// Port of every MX host here; each has an address of its own.
const PORT: u16 = 2500;

struct World {
    setup: Setup,
    _dns: DnsServer,
}

fn world(driver: &str, zone: &str) -> World {
    let setup = Setup::new(driver);
    let at = SocketAddr::from((place::address(), 5353));
    let zones = vec![Zone::parse("inbox.test.", zone).unwrap(), Zone::parse("test.", "").unwrap()];
    let dns = DnsServer::start(&at.to_string(), zones).unwrap();
    let setup = setup.with(&format!("[dns]\nservers = [\"{at}\"]\n[delivery]\nport = {PORT}\n"));
    World { setup, _dns: dns }
}

fn host(manners: Manners) -> Receiver {
    Receiver::at(SocketAddr::from((place::address(), PORT)), manners)
}

fn r02_hosts_are_tried_by_preference(driver: &str) {
    let first = host(Manners::default());
    let second = host(Manners::default().script(|moment| match moment {
        Moment::Connected => Act::Say("421 4.3.2 busy".into()),
        _ => Act::Usual,
    }));
    let third = host(Manners::default());
    let dead = place::address();
    let world = world(
        driver,
        &format!(
            "usual MX 10 a\nusual MX 20 c\nbusy MX 5 dead\nbusy MX 10 b\nbusy MX 20 c\nalone A {a}\n\
             a A {a}\nb A {b}\nc A {c}\ndead A {dead}\n",
            a = first.address().ip(),
            b = second.address().ip(),
            c = third.address().ip()
        ),
    );
    let daemon = world.setup.start();
    let mut client = daemon.client();
    let usual = client.deliver("a@sender.test", &["b@usual.inbox.test"], &message("usual", "x"));
    let busy = client.deliver("a@sender.test", &["b@busy.inbox.test"], &message("busy", "x"));
    let alone = client.deliver("a@sender.test", &["b@alone.inbox.test"], &message("alone", "x"));
    let peer = |id: &str| daemon.wait_for_type("Delivery", id)["peer_address"]["addr"].clone();
    let ip = |receiver: &Receiver| serde_json::Value::from(receiver.address().ip().to_string());
    let (usual, busy, alone) = (peer(&usual), peer(&busy), peer(&alone));
    let is = |said: &serde_json::Value, wanted: serde_json::Value| {
        let (said, wanted) = (said.as_str().unwrap_or_default(), wanted.as_str().unwrap_or_default().to_owned());
        assert!(said.starts_with(&wanted), "{said} is not {wanted}");
    };
    is(&usual, ip(&first));
    is(&busy, ip(&third));
    is(&alone, ip(&first));
    assert_eq!(second.messages().len(), 0);
}

fn r20_a_null_mx_is_a_bounce_and_nobody_is_connected_to(driver: &str) {
    let receiver = host(Manners::default());
    let world = world(driver, &format!("null MX 0 .\nnull A {}\n", receiver.address().ip()));
    let daemon = world.setup.start();
    let mut client = daemon.client();
    let null = client.send_with("<>", &["<b@null.inbox.test>".to_owned()], &message("null", "x")).unwrap().queued_as();
    let none = client.send_with("<>", &["<b@no.such.inbox.test>".to_owned()], &message("no", "x")).unwrap().queued_as();
    let bounce = daemon.wait_for_type("Bounce", &null);
    assert_eq!(bounce["response"]["code"], 556, "RFC 7505 section 4.2: {bounce}");
    let enhanced = &bounce["response"]["enhanced_code"];
    assert_eq!((&enhanced["class"], &enhanced["subject"], &enhanced["detail"]), (&5.into(), &1.into(), &10.into()));
    let bounce = daemon.wait_for_type("Bounce", &none);
    assert_eq!(bounce["bounce_classification"], "BadDomain", "{bounce}");
    assert_eq!(receiver.connections(), 0);
}

fn r02_a_loop_ends_as_a_bounce_not_as_traffic(driver: &str) {
    let world = world(driver, "self MX 10 mta.sender.test.\n");
    let daemon = world.setup.start();
    let id = daemon
        .client()
        .send_with("<>", &["<b@self.inbox.test>".to_owned()], &message("loop", "x"))
        .unwrap()
        .expect(250)
        .queued_as();
    let bounce = daemon.wait_for_type("Bounce", &id);
    let enhanced = &bounce["response"]["enhanced_code"];
    assert_eq!((&enhanced["class"], &enhanced["subject"]), (&5.into(), &4.into()), "{bounce}");
}

fn two_domains_on_one_site_share_a_transaction(driver: &str) {
    let receiver = host(Manners::default());
    let zone = format!("one MX 10 mx\ntwo MX 10 mx\nthree MX 10 mx\nmx A {}\n", receiver.address().ip());
    let world = world(driver, &zone);
    let daemon = world.setup.start();
    let mut client = daemon.client();
    // The answers of the DNS come one by one; only what is known at once can share.
    for domain in ["one", "two", "three"] {
        client.deliver("a@sender.test", &[&format!("b@{domain}.inbox.test")], &message("ask", "x"));
    }
    let _ = receiver.wait_messages(3);
    receiver.forget();
    let all: Vec<String> = (0..90).map(|n| format!("u{n}@{}.inbox.test", ["one", "two", "three"][n % 3])).collect();
    let to: Vec<&str> = all.iter().map(String::as_str).collect();
    client.deliver("a@sender.test", &to, &message("site", "x"));
    let messages = receiver.wait_messages(1);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let count: usize = messages.iter().map(|m| m.recipients().len()).sum();
    assert_eq!((receiver.transactions().len(), count), (1, 90), "the site is what counts, not the domain");
}
