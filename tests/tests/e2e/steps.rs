//! Start, reload, stop, start again.

use std::time::{Duration, Instant};

use harness::client::{message, Client};
use harness::daemon::{Port, Setup};
use harness::receiver::{Act, Manners, Moment, Receiver};
use nix::sys::signal::Signal;

on_both!(a_second_start_finds_its_state, a_stop_lets_transactions_end, a_reload_takes_a_good_configuration_only);

fn a_second_start_finds_its_state(driver: &str) {
    let receiver = Receiver::start(Manners::default().script(|moment| match moment {
        Moment::Rcpt(_) => Act::Say("450 4.2.1 not now".into()),
        _ => Act::Usual,
    }));
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let mut client = daemon.client();
    let ids: Vec<String> =
        (0..10).map(|n| client.deliver("a@sender.test", &["b@inbox.test"], &message(&n.to_string(), "x"))).collect();
    daemon.wait_for_type("TransientFailure", &ids[9]);
    assert!(daemon.stop().success());
    receiver.set_manners(Manners::default());
    let daemon = setup.start();
    assert_eq!(receiver.wait_messages(10).len(), 10);
    for id in &ids {
        let delivery = daemon.wait_for_type("Delivery", id);
        assert!(delivery["num_attempts"].as_u64().is_some_and(|n| n >= 2), "attempts are counted on: {delivery}");
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(daemon.stop().success());
    let daemon = setup.start();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(receiver.messages().len(), 10, "what is done stays done");
    drop(daemon);
}

fn a_stop_lets_transactions_end(driver: &str) {
    let receiver = Receiver::start(Manners::default().script(|moment| match moment {
        Moment::Content(_) => Act::After(Duration::from_secs(1)),
        _ => Act::Usual,
    }));
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let mut client = daemon.client();
    let id = client.deliver("a@sender.test", &["b@inbox.test"], &message("slow", "x"));
    harness::wait_for(Duration::from_secs(10), "the content", || (!receiver.transactions().is_empty()).then_some(()));
    let began = Instant::now();
    let address = daemon.at(Port::Relay);
    let status = daemon.stop();
    assert!(status.success() && began.elapsed() < Duration::from_secs(10), "{status} after {:?}", began.elapsed());
    assert!(Client::open(address).is_err(), "nobody listens");
    let events = setup.events();
    assert!(events.iter().any(|e| e["type"] == "Delivery" && e["id"] == id.as_str()), "the reply was read");
    let daemon = setup.start();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(receiver.transactions().len(), 1, "and nothing is sent again");
    drop(daemon);
}

fn a_reload_takes_a_good_configuration_only(driver: &str) {
    let first = Receiver::start(Manners::default());
    let second = Receiver::start(Manners::default());
    let setup = Setup::to(driver, &first);
    let daemon = setup.start();
    let mut client = daemon.client();
    client.deliver("a@sender.test", &["b@inbox.test"], &message("one", "x"));
    let _ = first.wait_messages(1);

    let path = setup.dir().join("ringpost.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{good}\n[[pool]]\nname = \"odd\"\nsources = [\"nobody\"]\n")).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("no [[source]] is named `nobody`");
    client.deliver("a@sender.test", &["b@inbox.test"], &message("two", "x"));
    let _ = first.wait_messages(2);

    let other = good.replace(&first.address().to_string(), &second.address().to_string());
    std::fs::write(&path, other.replace("from_domains = [\"sender.test\"]", "from_domains = [\"new.test\"]")).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("the configuration was read again");
    // The open session keeps its credential; a new one has the new settings.
    let mut client = daemon.client();
    let reply = client.send_message("a@sender.test", &["b@inbox.test"], &message("old domain", "x")).unwrap();
    assert_eq!(reply.code / 100, 5, "{}", reply.text());
    client.deliver("a@new.test", &["b@inbox.test"], b"From: <a@new.test>\r\nSubject: three\r\n\r\nx\r\n");
    let _ = second.wait_messages(1);
    assert_eq!(first.messages().len(), 2);
}
