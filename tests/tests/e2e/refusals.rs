//! What can't be started is refused in words that say what is wrong and what to do.

use std::net::TcpListener;

use harness::daemon::{Port, Setup};

#[track_caller]
fn refusal(setup: &Setup, words: &[&str]) {
    let output = setup.refused();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_bad_setting_is_named_with_its_line_and_its_remedy() {
    let setup = Setup::new("epoll").with("[spool]\nsegment_mib = 3\n");
    refusal(&setup, &["spool.segment_mib", "16 to 256"]);
    let setup = Setup::new("epoll").with("[[listener]]\naddress = \"127.0.0.1:1\"\nrole = \"smtp\"\n");
    refusal(&setup, &["listener[4].role", "mx, submission, submissions, relay"]);
    let setup = Setup::new("epoll").with("[server]\nhostnam = \"x\"\n");
    refusal(&setup, &["ringpost.toml", "line", "hostnam"]);
    let setup = Setup::new("epoll").with("[[dkim]]\ndomain = \"d.test\"\nselector = \"s\"\nkey = \"@dir@/k.pem\"\n");
    std::fs::write(setup.dir().join("k.pem"), "no key").unwrap();
    refusal(&setup, &["dkim[0].key", "k.pem"]);
}

#[test]
fn a_taken_port_is_named() {
    let setup = Setup::new("epoll");
    let address = setup.address(Port::Submission);
    let _taken = TcpListener::bind(address).unwrap();
    refusal(&setup, &[&address.to_string(), "another program listens there"]);
}

#[test]
fn a_second_process_on_the_same_spool_is_refused() {
    let first = Setup::new("epoll");
    let _daemon = first.start();
    let spool = first.dir().join("spool");
    let second = Setup::new("epoll").with(&format!("[spool]\ndir = \"{}\"\n", spool.display()));
    refusal(&second, &["is in use by another process", "stop it first"]);
}

#[test]
fn a_directory_that_can_not_be_written_is_named() {
    let setup = Setup::new("epoll").with("[spool]\ndir = \"@dir@/ringpost.toml/spool\"\n");
    refusal(&setup, &["spool.dir", "give it to the user that runs ringpost"]);
    let setup = Setup::new("epoll").with("[events]\ndir = \"@dir@/ringpost.toml/events\"\n");
    refusal(&setup, &["events.dir", "give it to the user that runs ringpost"]);
    let setup = Setup::new("epoll");
    std::fs::create_dir_all(setup.dir().join("spool")).unwrap();
    std::fs::write(setup.dir().join("spool/ack"), "a file, no directory").unwrap();
    refusal(&setup, &["spool/ack", "give the spool directory to the user that runs ringpost"]);
    let setup = Setup::new("epoll").with("[spool]\nshm_dir = \"@dir@/ringpost.toml/shm\"\n");
    refusal(&setup, &["ringpost.toml/shm", "Not a directory"]);
}
