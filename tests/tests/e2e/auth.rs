//! Who may submit: the mechanisms, wrong passwords, and the pause after them.

use std::time::{Duration, Instant};

use base64::prelude::{Engine, BASE64_STANDARD};
use harness::client::{message, Client};
use harness::daemon::{Port, Setup, PASSWORD};
use harness::receiver::{Manners, Receiver};

on_both!(r09_every_mechanism_lets_the_right_password_in, r09_a_wrong_password_is_refused_and_slows_down);

/// RFC 5802 section 3, the client's side.
fn scram(client: &mut Client, user: &str, password: &str) -> Result<(), String> {
    use aws_lc_rs::{digest, hmac, pbkdf2};
    let bare = format!("n={user},r=fyko+d2lbbFgONRv9qkxdawL");
    let reply = client.say(&format!("AUTH SCRAM-SHA-256 {}", BASE64_STANDARD.encode(format!("n,,{bare}"))));
    if reply.code != 334 {
        return Err(reply.text());
    }
    let first = String::from_utf8(BASE64_STANDARD.decode(reply.text()).unwrap()).unwrap();
    let value = |text: &str, key: &str| {
        let found = text.split(',').find_map(|part| part.strip_prefix(&format!("{key}=")).map(str::to_owned));
        found.unwrap_or_else(|| panic!("{key} in {text}"))
    };
    let salt = BASE64_STANDARD.decode(value(&first, "s")).unwrap();
    let iterations = value(&first, "i").parse().unwrap();
    let mut salted = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
    let mac = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    let client_key = mac(&salted, b"Client Key");
    let stored = digest::digest(&digest::SHA256, client_key.as_ref());
    let without_proof = format!("c=biws,r={}", value(&first, "r"));
    let signed = format!("{bare},{first},{without_proof}");
    let signature = mac(stored.as_ref(), signed.as_bytes());
    let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
    let last = format!("{without_proof},p={}", BASE64_STANDARD.encode(proof));
    let mut reply = client.say(&BASE64_STANDARD.encode(last));
    if reply.code == 334 {
        let shown = String::from_utf8(BASE64_STANDARD.decode(reply.text()).unwrap()).unwrap();
        let server_key = mac(&salted, b"Server Key");
        let expected = BASE64_STANDARD.encode(mac(server_key.as_ref(), signed.as_bytes()));
        assert_eq!(value(&shown, "v"), expected, "the server proves that it knows the password, too");
        reply = client.say("");
    }
    if reply.code == 235 {
        Ok(())
    } else {
        Err(reply.text())
    }
}

fn r09_every_mechanism_lets_the_right_password_in(driver: &str) {
    let receiver = Receiver::start(Manners::default());
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let open = || Client::connect_starttls(daemon.at(Port::Submission));
    let mut plain = open();
    plain.auth_plain("app", PASSWORD).expect(235);
    let mut login = open();
    login.auth_login("app", PASSWORD).expect(235);
    let mut challenge = open();
    scram(&mut challenge, "app", PASSWORD).expect("SCRAM-SHA-256");
    for (subject, client) in [("plain", &mut plain), ("login", &mut login), ("scram", &mut challenge)] {
        client.deliver("a@sender.test", &["b@inbox.test"], &message(subject, "x"));
        let reply = client.send_message("a@other.test", &["b@inbox.test"], &message("other", "x")).unwrap();
        assert_eq!(reply.code / 100, 5, "a credential is bound to its domains: {}", reply.text());
    }
    let _ = receiver.wait_messages(3);
    harness::wait_for(Duration::from_secs(10), "three receptions of app", || {
        let of_app = |e: &&serde_json::Value| e["type"] == "Reception" && e["meta"]["credential"] == "app";
        (daemon.events().iter().filter(of_app).count() == 3).then_some(())
    });
}

fn r09_a_wrong_password_is_refused_and_slows_down(driver: &str) {
    let setup = Setup::new(driver);
    let daemon = setup.start();
    let clear = Client::connect(daemon.at(Port::Submission)).say("AUTH PLAIN AGFwcAB4");
    assert!(clear.code >= 500, "never in clear: {}", clear.text());
    let mut client = Client::connect_starttls(daemon.at(Port::Submission));
    client.auth_plain("app", "wrong").expect(535);
    let mut other = Client::connect_starttls(daemon.at(Port::Submission));
    assert!(scram(&mut other, "app", "wrong").is_err());
    let mut nobody = Client::connect_starttls(daemon.at(Port::Submission));
    nobody.auth_login("nobody", PASSWORD).expect(535);
    // Each failure makes the next answer slower, until the address is turned away.
    let began = Instant::now();
    let mut turned_away = false;
    for _ in 0..12 {
        let refused = match Client::open(daemon.at(Port::Submission)) {
            Ok((mut client, greeting)) if greeting.code == 220 => {
                client.say("EHLO client.sender.test");
                client.say("STARTTLS").code != 220
            }
            _ => true,
        };
        if refused || began.elapsed().as_secs() > 4 {
            turned_away = true;
            break;
        }
        let mut client = Client::connect_starttls(daemon.at(Port::Submission));
        let reply = client.auth_plain("app", "wrong");
        turned_away |= reply.code != 535;
        if turned_away {
            break;
        }
    }
    assert!(turned_away || began.elapsed().as_secs() >= 2, "twelve wrong passwords in {:?}", began.elapsed());
}
