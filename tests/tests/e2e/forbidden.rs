//! Places that forbid io_uring or locked memory: mail goes on over the fallbacks, and what to change is said.

use harness::client::message;
use harness::daemon::Setup;
use harness::receiver::{Manners, Receiver};

const WRAPPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/without_io_uring.py");
const EPERM: &str = "1";

#[test]
fn io_uring_forbidden_by_seccomp_means_epoll_and_pwrite() {
    let receiver = Receiver::start(Manners::default());
    let setup = Setup::to("auto", &receiver).under(&["python3", WRAPPER, EPERM]);
    let daemon = setup.start();
    daemon.wait_log("running on epoll: io_uring is not available");
    daemon.wait_log("a seccomp profile forbids io_uring");
    let log = setup.log();
    assert!(log.contains("spool writer: "), "the writer says what it runs on:\n{log}");
    let id = daemon.client().deliver("a@sender.test", &["b@inbox.test"], &message("fallback", "x"));
    daemon.wait_for_type("Delivery", &id);
    daemon.kill();
    let daemon = setup.start();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(receiver.messages().len(), 1, "the fallback is as durable");
    drop(daemon);

    let setup = Setup::to("io_uring", &receiver).under(&["python3", WRAPPER, EPERM]);
    let output = setup.refused();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("server.driver = \"io_uring\"") && text.contains("allow its three calls"), "{text}");
}

#[test]
fn too_little_locked_memory_means_pwrite() {
    if mta::net::probe().is_err() {
        eprintln!("left out: there is no io_uring here");
        return;
    }
    let receiver = Receiver::start(Manners::default());
    let mut wrapper = vec!["prlimit", "--memlock=65536:65536"];
    if nix::unistd::geteuid().is_root() {
        // Root may lock what it likes, unless that right is taken from it.
        wrapper.splice(0..0, ["setpriv", "--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock"]);
    }
    let setup = Setup::to("auto", &receiver).under(&wrapper);
    let daemon = setup.start();
    let id = daemon.client().deliver("a@sender.test", &["b@inbox.test"], &message("memlock", "x"));
    daemon.wait_for_type("Delivery", &id);
    daemon.wait_log("LimitMEMLOCK");
}
