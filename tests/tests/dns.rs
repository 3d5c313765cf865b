//! The resolver against real name servers on loopback that behave well, badly, and worse.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::dns::{anchors, DnsServer, Key, Quirk, Zone};
use hickory_proto::rr::RecordType;
use mta::dns::lookup::{Asked, LookupConfig};
use mta::dns::{Confirmation, Mismatch, Resolver, ResolverConfig, Route, RouteError, Security};

const A_TEST: &str = "
    @        MX 10 mx1
    @        MX 10 mx2
    @        MX 20 backup
    mx1      A 9.0.0.1
    mx2      A 9.0.0.2
    mx2      AAAA 2a00::2
    backup   A 9.0.0.3
    alone    A 9.0.0.4
    null     MX 0 .
    null     A 9.0.0.5
    aliased  MX 10 alias
    alias    CNAME real.b.test.
    round    MX 10 loop1
    loop1    CNAME loop2
    loop2    CNAME loop1
    nowhere  MX 10 missing
    nowhere  A 9.0.0.6
    inside   MX 10 private
    private  A 10.1.2.3
    private  AAAA ::1
    mute     TXT nothing here takes mail
    self     MX 5 mx1
    self     MX 10 us
    self     MX 20 backup
    us       A 9.9.9.9
    wide     MX 10 many
    _25._tcp.mx1 TLSA 3 1 1 00ff
    ";

fn zones() -> Vec<Zone> {
    let many: String = (0..40).map(|i| format!("many A 9.1.0.{i}\n")).collect();
    let texts: String = (0..20).map(|i| format!("big TXT \"{i}{}\"\n", "x".repeat(200))).collect();
    vec![
        Zone::parse("a.test.", &format!("{A_TEST}{many}{texts}")).unwrap(),
        Zone::parse("b.test.", "real A 9.0.1.1\nbücher TXT x".replace("bücher", "xn--bcher-kva").as_str()).unwrap(),
        Zone::parse("0.0.9.in-addr.arpa.", "1 PTR mx1.a.test.\n2 PTR mx1.a.test.\n4 PTR nowhere.at.all.test.").unwrap(),
        Zone::parse("test.", "").unwrap(),
    ]
}

fn config(asked: Asked) -> ResolverConfig {
    let mut config =
        ResolverConfig { lookup: LookupConfig { asked, dnssec: false, anchors: None }, ..ResolverConfig::default() };
    config.us.names = vec!["us.a.test".into()];
    config
}

fn resolver(server: &DnsServer) -> Resolver {
    let config = config(Asked::Forwarders(vec![server.address()]));
    Resolver::start(config, &tokio::runtime::Handle::current()).unwrap()
}

fn world() -> (DnsServer, Resolver) {
    let server = DnsServer::start("127.0.0.1:0", zones()).unwrap();
    let resolver = resolver(&server);
    (server, resolver)
}

fn names(route: &Route) -> Vec<&str> {
    route.hosts.iter().map(|host| host.name.as_str()).collect()
}

fn enhanced(result: Result<Arc<Route>, RouteError>) -> (bool, u16, [u16; 3]) {
    match result {
        Err(RouteError::Permanent { code, enhanced, .. }) => (true, code, enhanced),
        Err(RouteError::Temporary { code, enhanced, .. }) => (false, code, enhanced),
        Ok(route) => panic!("{route:?}"),
    }
}

#[tokio::test]
async fn r02_mx_hosts_by_preference_with_their_site() {
    let (_server, resolver) = world();
    let route = resolver.route("A.Test.").await.unwrap();
    assert_eq!(names(&route), ["mx1.a.test", "mx2.a.test", "backup.a.test"]);
    assert_eq!(route.site.as_str(), "(backup|mx1|mx2).a.test");
    assert_eq!(route.hosts[1].addresses.len(), 2, "both families");
    assert_eq!(route.hosts[0].port, 25);
    assert!(!route.hosts[0].secure);
    assert!(route.expires > Instant::now() + Duration::from_secs(200));
    assert_eq!(route.order(1).last(), Some(&2));
}

#[tokio::test]
async fn r02_implicit_mx_only_without_mx_records() {
    let (_server, resolver) = world();
    let route = resolver.route("alone.a.test").await.unwrap();
    assert_eq!(names(&route), ["alone.a.test"]);
    assert_eq!(enhanced(resolver.route("nowhere.a.test").await), (true, 550, [5, 4, 4]), "its A record is no way out");
    assert_eq!(enhanced(resolver.route("mute.a.test").await), (true, 550, [5, 4, 4]));
}

#[tokio::test]
async fn r20_null_mx_is_final_and_no_address_is_asked_for() {
    let (server, resolver) = world();
    assert_eq!(enhanced(resolver.route("null.a.test").await), (true, 556, [5, 1, 10]));
    assert_eq!(server.count("null.a.test.", RecordType::A) + server.count("null.a.test.", RecordType::AAAA), 0);
}

#[tokio::test]
async fn nxdomain_is_final_and_asked_once() {
    let (server, resolver) = world();
    for _ in 0..3 {
        assert_eq!(enhanced(resolver.route("no.such.test").await), (true, 550, [5, 1, 2]));
    }
    assert_eq!(server.count("no.such.test.", RecordType::MX), 1);
}

#[tokio::test]
async fn r16_u_labels_and_a_labels_are_one_domain() {
    let (server, resolver) = world();
    for form in ["bücher.b.test", "BÜCHER.b.test.", "xn--bcher-kva.b.test"] {
        assert_eq!(enhanced(resolver.route(form).await), (true, 550, [5, 4, 4]));
    }
    assert_eq!(server.count("xn--bcher-kva.b.test.", RecordType::MX), 1);
    assert_eq!(enhanced(resolver.route("a..test").await), (true, 550, [5, 1, 2]));
}

#[tokio::test]
async fn r02_an_mx_that_is_an_alias_is_followed() {
    let (_server, resolver) = world();
    let route = resolver.route("aliased.a.test").await.unwrap();
    assert_eq!(route.hosts[0].name, "alias.a.test");
    assert_eq!(route.hosts[0].canonical, "real.b.test");
    assert_eq!(route.hosts[0].addresses, ["9.0.1.1".parse::<IpAddr>().unwrap()]);
}

#[tokio::test]
async fn r34_a_cname_loop_ends_as_a_temporary_failure() {
    let (server, resolver) = world();
    let (permanent, _, _) = enhanced(resolver.route("round.a.test").await);
    assert!(!permanent);
    assert!(server.asked().len() < 100, "and asks for little: {}", server.asked().len());
}

#[tokio::test]
async fn r02_hosts_behind_ourselves_are_cut() {
    let (_server, resolver) = world();
    assert_eq!(names(&resolver.route("self.a.test").await.unwrap()), ["mx1.a.test"]);
}

#[tokio::test]
async fn d16_private_addresses_are_not_contacted() {
    let (_server, resolver) = world();
    assert_eq!(enhanced(resolver.route("inside.a.test").await), (true, 550, [5, 4, 4]));
    assert_eq!(enhanced(resolver.route("[127.0.0.1]").await), (true, 550, [5, 4, 4]));
    assert_eq!(names(&resolver.route("[9.0.0.9]").await.unwrap()), ["[9.0.0.9]"]);
}

#[tokio::test]
async fn addresses_of_one_host_are_bounded() {
    let (_server, resolver) = world();
    assert_eq!(resolver.route("wide.a.test").await.unwrap().hosts[0].addresses.len(), 5);
}

#[tokio::test]
async fn r34_a_truncated_answer_is_asked_for_over_tcp() {
    let (server, resolver) = world();
    server.quirk("a.test.", Some(RecordType::MX), Quirk::Truncate);
    assert!(resolver.route("a.test").await.is_ok());
    assert!(server.asked().iter().any(|asked| asked.tcp && asked.kind == RecordType::MX));
    let found = resolver.txt("big.a.test").await.unwrap();
    assert!(matches!(found, mta::dns::Found::Some { items, .. } if items.len() == 20));
}

#[tokio::test]
async fn servfail_and_refused_are_temporary_and_do_not_last() {
    for quirk in [Quirk::ServFail, Quirk::Lame] {
        let (server, resolver) = world();
        server.quirk("a.test.", None, quirk);
        let (permanent, code, _) = enhanced(resolver.route("a.test").await);
        assert_eq!((permanent, code), (false, 451), "{quirk:?}");
        server.behave();
        resolver.forget(Some("a.test")).await;
        assert!(resolver.route("a.test").await.is_ok(), "{quirk:?}");
    }
}

#[tokio::test]
async fn a_three_second_server_is_waited_for() {
    let (server, resolver) = world();
    server.quirk("a.test.", Some(RecordType::MX), Quirk::Delay(Duration::from_secs(3)));
    let start = Instant::now();
    assert!(resolver.route("a.test").await.is_ok());
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn one_failing_family_does_not_stop_the_other() {
    let (server, resolver) = world();
    server.quirk("a.test.", Some(RecordType::AAAA), Quirk::ServFail);
    assert_eq!(resolver.route("a.test").await.unwrap().hosts.len(), 3);
}

#[tokio::test]
async fn r34_a_wrong_case_in_the_echo_is_not_believed_over_udp() {
    let (server, resolver) = world();
    server.quirk("a.test.", Some(RecordType::MX), Quirk::WrongCase);
    assert!(resolver.route("a.test").await.is_ok(), "TCP can't be forged that way");
    assert!(server.asked().iter().any(|asked| asked.tcp));
}

#[tokio::test]
async fn many_askers_cause_one_look_up() {
    let (server, resolver) = world();
    server.quirk("a.test.", None, Quirk::Delay(Duration::from_millis(100)));
    let mut askers = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let resolver = resolver.clone();
        askers.spawn(async move { resolver.route("a.test").await.is_ok() });
    }
    assert!(askers.join_all().await.into_iter().all(|fine| fine));
    assert_eq!(server.count("a.test.", RecordType::MX), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_shard_on_another_thread_and_runtime_gets_its_answer() {
    let (_server, resolver) = world();
    let shard = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let local = tokio::task::LocalSet::new();
        let routes = mta::dns::resolver::LocalRoutes::new(resolver, 100);
        local.block_on(&runtime, async move {
            let first = routes.route("a.test", Instant::now()).await.unwrap();
            let again = routes.known("a.test", Instant::now()).unwrap();
            assert!(Arc::ptr_eq(&first, &again));
            assert!(routes.known("a.test", first.expires).is_none());
            first.hosts.len()
        })
    });
    assert_eq!(tokio::task::spawn_blocking(move || shard.join().unwrap()).await.unwrap(), 3);
}

#[tokio::test]
async fn r46_names_are_confirmed_both_ways() {
    let (server, resolver) = world();
    let confirm = |text: &str| {
        let (resolver, address) = (resolver.clone(), text.parse().unwrap());
        async move { resolver.confirm_name(address).await }
    };
    assert_eq!(confirm("9.0.0.1").await, Confirmation::Confirmed { name: "mx1.a.test".into() });
    let wrong = confirm("9.0.0.2").await;
    assert!(matches!(wrong, Confirmation::Mismatch { why: Mismatch::NotBack { .. } }), "{wrong:?}");
    let none = confirm("9.0.0.3").await;
    assert!(matches!(none, Confirmation::Mismatch { why: Mismatch::NoPtr { .. } }), "{none:?}");
    let dangling = confirm("9.0.0.4").await;
    assert!(matches!(dangling, Confirmation::Mismatch { why: Mismatch::NotBack { .. } }), "{dangling:?}");
    server.quirk("0.0.9.in-addr.arpa.", None, Quirk::ServFail);
    let unknown = confirm("9.0.0.77").await;
    assert!(matches!(unknown, Confirmation::Unknown { .. }), "{unknown:?}");
}

#[tokio::test]
async fn d27_static_routes_are_looked_up_and_named() {
    let (_server, resolver) = world();
    let mut rule = mta::config::resolved::Route {
        domain: "*".into(),
        tenant: String::new(),
        to: vec![("127.0.0.1".into(), 2525), ("mx1.a.test".into(), 587)],
        lab: true,
        tls: mta::config::resolved::RouteTls::None,
        tls_pin: None,
        tls_ca: None,
        auth: None,
        connections: 0,
    };
    let route = resolver.route_static(&rule).await.unwrap();
    assert_eq!(route.site.as_str(), "[127.0.0.1:2525 mx1.a.test:587 lab]");
    assert_eq!((route.hosts[0].port, route.hosts[1].port), (2525, 587));
    rule.lab = false;
    assert_eq!(names(&resolver.route_static(&rule).await.unwrap()), ["mx1.a.test"], "loopback only in a lab");
}

// ---- From the root down. ----

/// A root, a top-level domain and an operator's server, each at its own loopback address, on one port.
struct Tree {
    root: DnsServer,
    tld: DnsServer,
    auth: DnsServer,
    /// Knows no zone at all.
    _lame: DnsServer,
}

impl Tree {
    fn start(first: u8, key: Option<(&Arc<Key>, &Arc<Key>, &Arc<Key>)>) -> Self {
        let at = |last: u8| format!("127.0.{first}.{last}");
        let mut root = Zone::parse(
            ".",
            &format!("@ NS ns.root.\nns.root. A {}\ntest. NS ns.nic.test.\nns.nic.test. A {}", at(1), at(2)),
        )
        .unwrap();
        let cuts: String = ["good", "plain", "bogus", "other"]
            .iter()
            .map(|name| format!("{name} NS ns.{name}\nns.{name} A {}\n", at(3)))
            .collect();
        let others = format!(
            "@ NS ns.nic\nns.nic A {}\nns.dead A {}\nns.lost A {}\n\
             far NS ns.other\nround NS ns.good\nhalf NS ns.dead\nhalf NS ns.good\nlame NS ns.lost\nlame NS ns.good",
            at(2),
            at(9),
            at(4)
        );
        let mut tld = Zone::parse("test.", &format!("{cuts}{others}")).unwrap();
        let mail = format!("@ NS ns\nns A {}\n@ MX 10 mx\nmx A 9.0.0.1\n_25._tcp.mx TLSA 3 1 1 00ff", at(3));
        let zone = |name: &str| Zone::parse(name, &mail).unwrap();
        let (mut good, mut bogus) = (zone("good.test."), zone("bogus.test."));
        if let Some((root_key, tld_key, zone_key)) = key {
            root = root.with_ds("test.", tld_key).signed(root_key);
            tld = tld.with_ds("good.test.", zone_key).with_ds("bogus.test.", zone_key).signed(tld_key);
            good = good.signed(zone_key);
            bogus = bogus.signed(zone_key);
        }
        let far = Zone::parse("far.test.", "@ NS ns.other.test.\n@ MX 10 mx.good.test.").unwrap();
        let half = Zone::parse("half.test.", "@ NS ns.dead.test.\n@ NS ns.good.test.\n@ MX 10 mx.good.test.").unwrap();
        let lame = Zone::parse("lame.test.", "@ NS ns.lost.test.\n@ NS ns.good.test.\n@ MX 10 mx.good.test.").unwrap();
        let round = Zone::parse("round.test.", "@ NS ns.good.test.\n@ MX 1 a\na CNAME b\nb CNAME a").unwrap();
        let leaves = vec![good, bogus, zone("plain.test."), zone("other.test."), far, half, lame, round];
        // The recursor contacts all servers on one port.
        for _ in 0..20 {
            let root = DnsServer::start(&format!("{}:0", at(1)), vec![root.clone()]).unwrap();
            let port = root.address().port();
            let tld = DnsServer::start(&format!("{}:{port}", at(2)), vec![tld.clone()]);
            let auth = DnsServer::start(&format!("{}:{port}", at(3)), leaves.clone());
            let lame = DnsServer::start(&format!("{}:{port}", at(4)), vec![]);
            if let (Ok(tld), Ok(auth), Ok(_lame)) = (tld, auth, lame) {
                auth.quirk("bogus.test.", None, Quirk::BadSignature);
                return Self { root, tld, auth, _lame };
            }
        }
        panic!("no port free on three addresses");
    }

    fn resolver(&self, root_key: Option<&Key>) -> Resolver {
        let mut config = config(Asked::Recursor(vec![self.root.address()]));
        config.lookup.dnssec = root_key.is_some();
        config.lookup.anchors = root_key.map(anchors);
        Resolver::start(config, &tokio::runtime::Handle::current()).unwrap()
    }
}

#[tokio::test]
async fn the_recursor_walks_from_the_root() {
    let tree = Tree::start(101, None);
    let resolver = tree.resolver(None);
    let route = resolver.route("good.test").await.unwrap();
    assert_eq!(names(&route), ["mx.good.test"]);
    assert!(!tree.root.asked().is_empty() && !tree.tld.asked().is_empty() && !tree.auth.asked().is_empty());
    assert_eq!(enhanced(resolver.route("none.test").await), (true, 550, [5, 1, 2]));
}

#[tokio::test]
async fn the_recursor_finds_servers_without_glue() {
    let tree = Tree::start(102, None);
    tree.tld.quirk("far.test.", None, Quirk::NoGlue);
    let route = tree.resolver(None).route("far.test").await.unwrap();
    assert_eq!(names(&route), ["mx.good.test"]);
}

#[tokio::test]
async fn the_recursor_goes_round_a_dead_server() {
    let tree = Tree::start(103, None);
    let route = tree.resolver(None).route("half.test").await;
    assert_eq!(names(&route.unwrap()), ["mx.good.test"]);
}

#[tokio::test]
async fn the_recursor_goes_round_a_lame_server() {
    let tree = Tree::start(107, None);
    for _ in 0..4 {
        // Which server is asked first differs from run to run.
        let route = tree.resolver(None).route("lame.test").await;
        assert_eq!(names(&route.unwrap()), ["mx.good.test"]);
    }
}

#[tokio::test]
async fn r34_the_recursor_leaves_a_cname_loop() {
    let tree = Tree::start(108, None);
    let (permanent, ..) = enhanced(tree.resolver(None).route("round.test").await);
    assert!(!permanent);
    let asked = tree.auth.asked().len() + tree.tld.asked().len();
    assert!(asked < 100, "and asks for little: {asked}");
}

#[tokio::test]
async fn r35_signed_is_secure_and_unsigned_is_insecure() {
    let (root, tld, zone) = (Key::generate(), Key::generate(), Key::generate());
    let tree = Tree::start(104, Some((&root, &tld, &zone)));
    let resolver = tree.resolver(Some(&root));
    assert!(resolver.route("good.test").await.unwrap().hosts[0].secure);
    assert!(!resolver.route("plain.test").await.unwrap().hosts[0].secure);
    let tlsa = resolver.tlsa("_25._tcp.mx.good.test").await.unwrap();
    assert_eq!(tlsa.security(), Security::Secure);
    let tlsa = resolver.tlsa("_25._tcp.mx.plain.test").await.unwrap();
    assert_eq!(tlsa.security(), Security::Insecure);
    let none = resolver.tlsa("_26._tcp.mx.good.test").await.unwrap();
    assert!(matches!(none, mta::dns::Found::None { security: Security::Secure, .. }), "{none:?}");
    assert_eq!(enhanced(resolver.route("none.test").await), (true, 550, [5, 1, 2]));
}

#[tokio::test]
async fn r35_bogus_is_a_temporary_failure_not_no_record() {
    let (root, tld, zone) = (Key::generate(), Key::generate(), Key::generate());
    let tree = Tree::start(105, Some((&root, &tld, &zone)));
    let resolver = tree.resolver(Some(&root));
    let (permanent, code, _) = enhanced(resolver.route("bogus.test").await);
    assert_eq!((permanent, code), (false, 451));
    tree.auth.quirk("good.test.", None, Quirk::Unsigned);
    let (permanent, ..) = enhanced(resolver.route("good.test").await);
    assert!(!permanent, "stripped signatures are no insecure zone");
    let stripped = resolver.tlsa("_26._tcp.mx.good.test").await;
    assert!(stripped.is_err(), "nor is a stripped denial: {stripped:?}");
}

#[tokio::test]
async fn r35_an_insecure_zone_without_soa_is_undecided_and_mail_goes_on() {
    let (root, tld, zone) = (Key::generate(), Key::generate(), Key::generate());
    let tree = Tree::start(106, Some((&root, &tld, &zone)));
    tree.auth.quirk("plain.test.", None, Quirk::NoSoa);
    let resolver = tree.resolver(Some(&root));
    let route = resolver.route("plain.test").await.unwrap();
    assert_eq!(names(&route), ["mx.plain.test"]);
    let (permanent, ..) = enhanced(resolver.route("gone.plain.test").await);
    assert!(!permanent, "too little to end mail for good");
    let none = resolver.tlsa("_26._tcp.mx.plain.test").await.unwrap();
    assert!(matches!(none, mta::dns::Found::None { security: Security::Undecided, .. }), "{none:?}");
    assert!(resolver.seen().undecided.load(std::sync::atomic::Ordering::Relaxed) > 0);
}
