//! The last byte was sent and no answer came: nobody knows, and nobody guesses.

use std::time::Duration;

use harness::client::message;
use harness::daemon::Setup;
use harness::receiver::{Act, Manners, Moment, Receiver};

on_both!(r03_no_answer_after_the_last_byte_is_unknown);

fn r03_no_answer_after_the_last_byte_is_unknown(driver: &str) {
    let receiver = Receiver::start(Manners::default().script(|moment| match moment {
        Moment::Content(_) => Act::Close,
        _ => Act::Usual,
    }));
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let id = daemon.client().deliver("a@sender.test", &["b@inbox.test"], &message("perhaps", "x"));
    let event = daemon.wait_for_type("TransientFailure", &id);
    assert_eq!(event["possible_duplicate"], true, "{event}");
    // Retries come after a second or two here; an Unknown waits for half an hour.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(receiver.transactions().len(), 1);
    daemon.kill();
    receiver.set_manners(Manners::default());
    let daemon = setup.start();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(receiver.transactions().len(), 1, "a restart is no reason to try earlier");
    drop(daemon);
}
