//! Clients behind something: PROXY v1 and v2, XCLIENT.

use harness::client::{message, Client};
use harness::daemon::{Port, Setup};
use harness::receiver::{Manners, Receiver};

on_both!(proxy_headers_say_who_the_client_is, r45_xclient_from_listed_peers_only);

/// Version 2, TCP over IPv4.
fn v2(source: [u8; 4], port: u16) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    header.extend_from_slice(&source);
    header.extend_from_slice(&[192, 0, 2, 25]);
    header.extend_from_slice(&port.to_be_bytes());
    header.extend_from_slice(&25_u16.to_be_bytes());
    header
}

fn proxy_headers_say_who_the_client_is(driver: &str) {
    let receiver = Receiver::start(Manners::default());
    let setup = Setup::to(driver, &receiver).without("listener");
    let relay = setup.address(Port::Relay);
    let mx = setup.address(Port::Mx);
    let setup = setup.with(&format!(
        "[[listener]]\naddress = \"{relay}\"\nrole = \"relay\"\nproxy_from = [\"127.0.0.0/8\"]\n\
         [[listener]]\naddress = \"{mx}\"\nrole = \"mx\"\nproxy_from = [\"127.0.0.0/8\"]\n"
    ));
    let daemon = setup.start();
    for (header, client_address) in [
        (b"PROXY TCP4 198.51.100.7 192.0.2.25 4711 25\r\n".to_vec(), "198.51.100.7"),
        (v2([198, 51, 100, 8], 4712), "198.51.100.8"),
    ] {
        let mut client = Client::silent(daemon.at(Port::Mx)).unwrap();
        client.send_raw(&header).unwrap();
        client.read().unwrap().expect(220);
        client.say("EHLO client.elsewhere.test").expect(250);
        client.deliver("x@elsewhere.test", &["postmaster@sender.test"], &message(client_address, "x"));
        // The network that is trusted is the client's, not the balancer's.
        let mut client = Client::silent(daemon.at(Port::Relay)).unwrap();
        client.send_raw(&header).unwrap();
        client.read().unwrap().expect(220);
        client.say("EHLO client.elsewhere.test").expect(250);
        let reply = client.send_message("a@sender.test", &["b@inbox.test"], &message("no", "x")).unwrap();
        assert_eq!(reply.code / 100, 5, "{}", reply.text());
    }
    for arrived in receiver.wait_messages(2) {
        let address = arrived.header("Subject").unwrap();
        assert!(arrived.header("Received").unwrap().contains(&format!("([{address}])")), "{}", arrived.text());
    }
    let mut bare = Client::silent(daemon.at(Port::Mx)).unwrap();
    bare.send_raw(b"EHLO client.elsewhere.test\r\n").unwrap();
    assert!(bare.read().is_err(), "without its header a balancer is not talked to");
}

fn r45_xclient_from_listed_peers_only(driver: &str) {
    let receiver = Receiver::start(Manners::default());
    let setup = Setup::to(driver, &receiver).without("listener");
    let (relay, mx) = (setup.address(Port::Relay), setup.address(Port::Mx));
    let setup = setup.with(&format!(
        "[[listener]]\naddress = \"{mx}\"\nrole = \"mx\"\nxclient_from = [\"127.0.0.0/8\"]\n\
         [[listener]]\naddress = \"{relay}\"\nrole = \"relay\"\nxclient_from = [\"192.0.2.0/24\"]\n"
    ));
    let daemon = setup.start();
    let mut client = Client::connect(daemon.at(Port::Mx));
    client.say("XCLIENT ADDR=203.0.113.9 NAME=[UNAVAILABLE] HELO=far.test").expect(220);
    client.say("EHLO far.test").expect(250);
    client.deliver("x@elsewhere.test", &["postmaster@sender.test"], &message("xclient", "x"));
    let trace = receiver.wait_messages(1)[0].header("Received").unwrap();
    assert!(trace.starts_with("from far.test ([203.0.113.9])"), "{trace}");
    let mut stranger = Client::connect(daemon.at(Port::Relay));
    let reply = stranger.say("XCLIENT ADDR=203.0.113.9");
    assert_eq!(reply.code, 550, "{}", reply.text());
}
