//! One event per disposition, in a log that stays within its bounds.

use std::collections::HashMap;
use std::time::Duration;

use harness::client::message;
use harness::daemon::Setup;
use harness::receiver::{Act, Manners, Moment, Receiver};

on_both!(one_event_for_each_disposition);

fn one_event_for_each_disposition(driver: &str) {
    let receiver = Receiver::start(Manners::default().script(|moment| match moment {
        Moment::Rcpt(to) if to.starts_with("gone") => Act::Say("550 5.1.1 no such user".into()),
        _ => Act::Usual,
    }));
    let setup = Setup::to(driver, &receiver).with("[server]\nshards = 2\n");
    let daemon = setup.start();
    let mut client = daemon.client();
    for n in 0..60 {
        let to = [format!("a{n}@inbox.test"), format!("b{n}@other.test"), format!("gone{n}@inbox.test")];
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        client.deliver("a@sender.test", &to, &message(&n.to_string(), "x"));
    }
    // 60 receptions, 120 deliveries, 60 bounces, 60 reports delivered.
    let events = harness::wait_for(Duration::from_secs(20), "300 events", || {
        let events = daemon.events();
        (events.len() >= 300).then_some(events)
    });
    std::thread::sleep(Duration::from_millis(400));
    assert!(daemon.stop().success());
    assert_eq!(setup.events().len(), events.len());
    let mut ids: HashMap<String, usize> = HashMap::new();
    let mut kinds: HashMap<String, usize> = HashMap::new();
    for event in &events {
        *ids.entry(event["event_id"].as_str().unwrap().to_owned()).or_default() += 1;
        *kinds.entry(event["type"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert!(ids.values().all(|n| *n == 1), "ids are stable and unique");
    assert_eq!((kinds["Reception"], kinds["Delivery"], kinds["Bounce"]), (60, 180, 60), "{kinds:?}");
}

#[test]
fn the_log_stays_within_its_bound() {
    let receiver = Receiver::start(Manners::default());
    let setup = Setup::to("epoll", &receiver).with("[events]\nmax_mib = 4\n");
    let daemon = setup.start();
    let mut client = daemon.client();
    // Each message has an event of about 3 KiB per hundred recipients.
    let long = "x".repeat(60);
    let all: Vec<String> = (0..1000).map(|n| format!("u{n}{long}@inbox.test")).collect();
    let to: Vec<&str> = all.iter().map(String::as_str).collect();
    for n in 0..12 {
        client.deliver("a@sender.test", &to, &message(&n.to_string(), "x"));
    }
    let _ = receiver.wait_messages(120);
    let folder = setup.dir().join("events");
    let size_now = || -> u64 {
        let entries = std::fs::read_dir(&folder).unwrap().flatten();
        let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("ev-"));
        ours.filter_map(|entry| entry.metadata().ok()).map(|m| m.len()).sum()
    };
    // More was written than may stay, and the log is never seen above its bound.
    harness::wait_for(Duration::from_secs(30), "two MiB of events", || (size_now() > 2 << 20).then_some(()));
    std::thread::sleep(Duration::from_millis(500));
    let size = size_now();
    assert!(size <= 5 << 20, "{size} bytes of events, 4 MiB were allowed");
}
