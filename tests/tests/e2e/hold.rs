//! Mail that waits: released in the future, held by a switch, kept over a restart.

use std::time::{Duration, Instant};

use harness::client::message;
use harness::daemon::Setup;
use harness::receiver::{Manners, Receiver};
use nix::sys::signal::Signal;

on_both!(future_release_holds_until_its_time, a_queue_that_is_off_keeps_its_mail);

fn future_release_holds_until_its_time(driver: &str) {
    let receiver = Receiver::start(Manners::default());
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let sent = Instant::now();
    let to = ["<b@inbox.test>".to_owned()];
    let mut client = daemon.logged_in();
    client.send_with("<a@sender.test> HOLDFOR=3", &to, &message("later", "x")).unwrap().expect(250);
    client.send_with("<a@sender.test>", &to, &message("now", "x")).unwrap().expect(250);
    let first = &receiver.wait_messages(1)[0];
    assert_eq!(first.header("Subject").as_deref(), Some("now"));
    let both = receiver.wait_messages(2);
    let waited = both[1].at.expect("it came").duration_since(sent);
    assert!(waited >= Duration::from_millis(2000) && waited < Duration::from_secs(8), "{waited:?}");
}

fn a_queue_that_is_off_keeps_its_mail(driver: &str) {
    let receiver = Receiver::start(Manners::default());
    let mut setup = Setup::to(driver, &receiver).with("[delivery]\nenabled = false\n");
    let daemon = setup.start();
    let mut ids = Vec::new();
    let mut client = daemon.client();
    for n in 0..20 {
        ids.push(client.deliver("a@sender.test", &["b@inbox.test"], &message(&n.to_string(), "held")));
    }
    std::thread::sleep(Duration::from_millis(300));
    daemon.kill();
    let daemon = setup.start();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(receiver.connections(), 0, "nothing leaves while the switch is off");
    setup.change("[delivery]\nenabled = true\n");
    setup.write();
    daemon.signal(Signal::SIGHUP);
    let messages = receiver.wait_messages(20);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(receiver.messages().len(), 20, "each once");
    let mut subjects: Vec<u32> = messages.iter().map(|m| m.header("Subject").unwrap().parse().unwrap()).collect();
    subjects.sort_unstable();
    assert_eq!(subjects, (0..20).collect::<Vec<_>>());
    for id in &ids {
        daemon.wait_for_type("Delivery", id);
    }
}
