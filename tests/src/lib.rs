//! The harness: everything the tests of more than one crate share.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`daemon`] | how the real binary is set up, started, ended and read |
//! | [`client`] | how a test talks SMTP to it |
//! | [`receiver`] | what arrives, and how a receiving server misbehaves |
//! | [`crash`] | is anything lost or doubled when the server is killed |
//! | [`dns`] | what does the DNS say, and how does it misbehave |
//! | [`sim`] | does the process keep its promises whatever goes wrong |
//! | [`tidy`] | does the tree keep its habits |
//! | [`nbd`] | what is on a disk after the power was cut |
//! | [`fuzz`] | does any string of bytes break a promise |
//! | [`peers`] | do real clients and servers get along with us |
//! | [`vm`] | how a guest is booted and read |

pub mod client;
pub mod crash;
pub mod daemon;
pub mod dns;
pub mod fuzz;
pub mod nbd;
pub mod peers;
pub mod place;
pub mod receiver;
pub mod sim;
pub mod tidy;
pub mod vm;
pub mod wire;

use std::time::{Duration, Instant};

/// Asks again and again until there is an answer; fails the test, saying what it waited for, when none comes in time.
#[track_caller]
pub fn wait_for<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited {patience:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
