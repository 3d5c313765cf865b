//! Who goes first: critical before bulk, and MT-PRIORITY within a class.

use std::time::Duration;

use harness::client::message;
use harness::daemon::Setup;
use harness::receiver::{Act, Manners, Moment, Receiver};

on_both!(critical_mail_and_priorities_go_first);

fn critical_mail_and_priorities_go_first(driver: &str) {
    let slow = |moment: &Moment<'_>| match moment {
        Moment::Content(_) => Act::After(Duration::from_millis(30)),
        _ => Act::Usual,
    };
    let receiver = Receiver::start(Manners::default().script(slow));
    let setup = Setup::new(driver)
        .with(&format!("[[route]]\ndomain = \"*\"\nto = [\"{}\"]\nlab = true\nconnections = 1\n", receiver.address()));
    let daemon = setup.start();
    let mut client = daemon.logged_in();
    let to = ["<b@inbox.test>".to_owned()];
    let mail = |stream: &str, subject: &str| {
        let mut sent = format!("X-Ringpost-Stream: {stream}\r\n").into_bytes();
        sent.extend_from_slice(&message(subject, "x"));
        sent
    };
    for n in 0..40 {
        client.send_with("<a@sender.test>", &to, &mail("news", &format!("bulk {n}"))).unwrap().expect(250);
    }
    client.send_with("<a@sender.test> MT-PRIORITY=6", &to, &mail("news", "high")).unwrap().expect(250);
    client.send_with("<a@sender.test>", &to, &mail("otp", "critical")).unwrap().expect(250);
    let messages = receiver.wait_messages(42);
    let place =
        |subject: &str| messages.iter().position(|m| m.header("Subject").as_deref() == Some(subject)).expect(subject);
    let last = place("bulk 39");
    assert!(place("critical") < last && place("high") < last, "{} {} {last}", place("critical"), place("high"));
    assert!(place("critical") < 35 && place("high") < 38, "{} {}", place("critical"), place("high"));
    assert!(messages.iter().all(|m| m.header("X-Ringpost-Stream").is_none()), "headers that steer are taken out");
}
