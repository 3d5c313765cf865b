//! The disk fills up: bulk is turned away first, then everything, nothing accepted is lost, and with room back
//! everything goes on by itself.

use std::collections::HashSet;
use std::time::Duration;

use harness::client::{Client, Reply};
use harness::daemon::{verifier, Daemon, Port, Setup, PASSWORD};
use harness::place::on_small_disk;
use harness::receiver::{Manners, Receiver};

on_both!(a_full_disk_turns_bulk_away_first);

fn sender(daemon: &Daemon, user: &str) -> Client {
    let mut client = Client::connect_starttls(daemon.at(Port::Submission));
    client.auth_plain(user, PASSWORD).expect(235);
    client
}

fn send(client: &mut Client, subject: usize, lines: usize) -> Reply {
    let body = "0123456789012345678901234567890123456789012345678901234567890123456789012345678\r\n".repeat(lines);
    let content = format!("From: <a@sender.test>\r\nTo: <b@inbox.test>\r\nSubject: {subject}\r\n\r\n{body}");
    client.send_message("a@sender.test", &["b@inbox.test"], content.as_bytes()).expect("a reply, not a broken line")
}

fn a_full_disk_turns_bulk_away_first(driver: &str) {
    let receiver = Receiver::start(Manners::default());
    let mut setup = Setup::to(driver, &receiver).with(&format!(
        "[spool]\nreserve_mib = 32\n[delivery]\nenabled = false\n[events]\nmax_mib = 16\n\
         [[credential]]\nname = \"bulk\"\nverifier = \"{}\"\nfrom_domains = [\"sender.test\"]\nstreams = [\"news\"]\n",
        verifier()
    ));
    let dir = setup.dir().to_owned();
    on_small_disk(&dir, 160, || {
        let daemon = setup.start();
        let (mut bulk, mut other) = (sender(&daemon, "bulk"), sender(&daemon, "app"));
        let mut accepted = HashSet::new();
        let fill = |client: &mut Client, accepted: &mut HashSet<usize>| {
            for _ in 0..300 {
                let subject = accepted.len();
                let reply = send(client, subject, 12_000);
                if reply.code != 250 {
                    return reply;
                }
                accepted.insert(subject);
                // The room is looked at a few times a second.
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("300 MB on a disk of 160 MiB");
        };
        let refusal = fill(&mut bulk, &mut accepted);
        assert!(refusal.code == 452 && refusal.text().contains("4.3.1"), "{} {}", refusal.code, refusal.text());
        let bulk_only = accepted.len();
        let refusal = fill(&mut other, &mut accepted);
        assert!(refusal.code == 452 && refusal.text().contains("4.3.1"), "{} {}", refusal.code, refusal.text());
        assert!(accepted.len() > bulk_only, "what is not bulk was taken for longer");
        assert_eq!(send(&mut bulk, 9999, 1).code, 452);

        // A restart on the full disk finds everything.
        daemon.kill();
        setup.change("[delivery]\nenabled = true\n");
        let daemon = setup.start();
        let messages = receiver.wait_messages(accepted.len());
        let seen: HashSet<usize> = messages.iter().filter_map(|m| m.header("Subject")?.parse().ok()).collect();
        assert_eq!(seen, accepted, "everything that was accepted, and nothing else");
        // Room comes back without anybody's help.
        let mut bulk = sender(&daemon, "bulk");
        harness::wait_for(Duration::from_secs(20), "room for bulk", || {
            (send(&mut bulk, 10_000, 1).code == 250).then_some(())
        });
    });
}
