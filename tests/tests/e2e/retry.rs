//! A deferral is tried again and delivered; each attempt has its event.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use harness::client::message;
use harness::daemon::Setup;
use harness::receiver::{Act, Manners, Moment, Receiver};

on_both!(a_deferred_recipient_is_tried_again, only_who_was_deferred_is_tried_again, no_reply_at_all_is_a_deferral);

fn a_deferred_recipient_is_tried_again(driver: &str) {
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    let receiver = Receiver::start(Manners::default().script(move |moment| match moment {
        Moment::Content(_) if count.fetch_add(1, Ordering::AcqRel) < 2 => Act::Say("452 4.2.2 mailbox full".into()),
        _ => Act::Usual,
    }));
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let id = daemon.client().deliver("a@sender.test", &["b@inbox.test"], &message("again", "x"));
    let delivery = daemon.wait_for_type("Delivery", &id);
    assert_eq!(delivery["num_attempts"], 3);
    assert_eq!(receiver.transactions().len(), 3);
    let contents: Vec<_> = receiver.transactions().into_iter().map(|t| t.content).collect();
    assert!(contents.iter().all(|c| *c == contents[0]), "every attempt sends the same bytes");
    let deferred: Vec<_> = daemon.events().into_iter().filter(|e| e["type"] == "TransientFailure").collect();
    assert_eq!(deferred.len(), 2);
    assert_eq!(deferred[0]["response"]["code"], 452);
    assert_eq!(deferred[0]["response"]["content"], "mailbox full", "{}", deferred[0]["response"]);
}

fn only_who_was_deferred_is_tried_again(driver: &str) {
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    let receiver = Receiver::start(Manners::default().script(move |moment| match moment {
        Moment::Rcpt("late@inbox.test") if count.fetch_add(1, Ordering::AcqRel) < 1 => {
            Act::Say("450 4.2.1 not now".into())
        }
        Moment::Rcpt("gone@inbox.test") => Act::Say("550 5.1.1 no such user".into()),
        _ => Act::Usual,
    }));
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let to = ["now@inbox.test", "late@inbox.test", "gone@inbox.test"];
    let id = daemon.client().send_message("a@sender.test", &to, &message("mixed", "x")).unwrap().queued_as();
    let messages = receiver.wait_messages(2);
    assert_eq!(messages[0].recipients(), ["now@inbox.test"]);
    daemon.wait_event("the second delivery", |e| {
        e["type"] == "Delivery" && e["id"] == id.as_str() && e["recipient"] == "late@inbox.test"
    });
    let of = |name: &str| receiver.transactions().iter().filter(|t| t.recipients().contains(&name.to_owned())).count();
    assert_eq!((of("now@inbox.test"), of("late@inbox.test")), (1, 1));
    let bounces: Vec<_> = daemon.events().into_iter().filter(|e| e["type"] == "Bounce").collect();
    assert_eq!(bounces.len(), 1);
    assert_eq!((&bounces[0]["recipient"], &bounces[0]["response"]["code"]), (&"gone@inbox.test".into(), &550.into()));
}

fn no_reply_at_all_is_a_deferral(driver: &str) {
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    let receiver = Receiver::start(Manners::default().script(move |moment| match moment {
        Moment::Mail(_) if count.fetch_add(1, Ordering::AcqRel) < 1 => Act::Close,
        _ => Act::Usual,
    }));
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let id = daemon.client().deliver("a@sender.test", &["b@inbox.test"], &message("closed", "x"));
    let delivery = daemon.wait_for_type("Delivery", &id);
    assert!(delivery["possible_duplicate"].is_null(), "{delivery}");
    assert_eq!(receiver.messages().len(), 1);
}
