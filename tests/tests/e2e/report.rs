//! Delivery status notifications: when they are due, and when silence is.

use std::time::Duration;

use harness::client::message;
use harness::daemon::Setup;
use harness::receiver::{Act, Manners, Moment, Receiver, Transaction};

on_both!(r17_a_refusal_comes_back_as_a_report, r18_silence_where_nothing_was_asked_for, r17_success_and_delay);

/// Refuses `gone@`, defers `late@`, takes the rest.
fn manners() -> Manners {
    Manners::default().script(|moment| match moment {
        Moment::Rcpt(to) if to.starts_with("gone") => Act::Say("550 5.1.1 <gone> no such user here".into()),
        Moment::Rcpt(to) if to.starts_with("late") => Act::Say("450 4.2.1 not now".into()),
        _ => Act::Usual,
    })
}

fn reports(receiver: &Receiver) -> Vec<Transaction> {
    receiver.messages().into_iter().filter(|m| m.mail.starts_with("<>")).collect()
}

#[track_caller]
fn has(report: &Transaction, lines: &[&str]) {
    let text = report.text();
    for line in lines {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
}

fn r17_a_refusal_comes_back_as_a_report(driver: &str) {
    let receiver = Receiver::start(manners());
    let setup = Setup::to(driver, &receiver);
    let daemon = setup.start();
    let to = ["gone@inbox.test", "gone2@inbox.test", "b@inbox.test"].map(|a| format!("<{a}> ORCPT=rfc822;x+2B{a}"));
    let mut sent = message("lost", "the body stays here\r\n");
    sent.splice(0..0, b"Message-ID: <one@sender.test>\r\n".iter().copied());
    let reply = daemon.client().send_with("<a@sender.test> ENVID=E77 RET=HDRS", &to, &sent).unwrap();
    let id = reply.expect(250).queued_as();
    let messages = receiver.wait_messages(2);
    let report = messages.iter().find(|m| m.mail.starts_with("<>")).expect("a report").clone();
    assert_eq!(report.recipients(), ["a@sender.test"]);
    let kind = report.header("Content-Type").unwrap();
    assert!(kind.starts_with("multipart/report") && kind.contains("report-type=delivery-status"), "{kind}");
    assert_eq!(report.header("Auto-Submitted").as_deref(), Some("auto-replied"));
    assert_eq!(report.header("In-Reply-To").as_deref(), Some("<one@sender.test>"));
    has(
        &report,
        &[
            "Content-Type: message/delivery-status\r\n",
            "Reporting-MTA: dns; mta.sender.test\r\n",
            "Original-Envelope-Id: E77\r\n",
            "Arrival-Date: ",
            "Original-Recipient: rfc822; x+gone@inbox.test\r\n",
            "Final-Recipient: rfc822; gone@inbox.test\r\nAction: failed\r\nStatus: 5.1.1\r\n",
            "Final-Recipient: rfc822; gone2@inbox.test\r\nAction: failed\r\nStatus: 5.1.1\r\n",
            "Diagnostic-Code: smtp; 550 5.1.1 <gone> no such user here\r\n",
            "Subject: lost\r\n",
        ],
    );
    assert!(!report.text().contains("the body stays here"), "RET=HDRS returns the header alone");
    assert!(!report.text().contains("Final-Recipient: rfc822; b@inbox.test"));
    assert_eq!(reports(&receiver).len(), 1, "one report for both");
    daemon.wait_event("the report's own delivery", |e| {
        e["type"] == "Delivery" && e["meta"]["report_of"].as_str().is_some_and(|of| of.starts_with(&id))
    });
}

fn r18_silence_where_nothing_was_asked_for(driver: &str) {
    let receiver = Receiver::start(manners());
    let setup = Setup::to(driver, &receiver).with("[[domain]]\nname = \"bounce.sender.test\"\nreturn_path = true\n");
    let mut setup = setup;
    setup.change("");
    let daemon = setup.start();
    let mut client = daemon.client();
    let never = ["<gone@inbox.test> NOTIFY=NEVER".to_owned()];
    let success = ["<gone@inbox.test> NOTIFY=SUCCESS".to_owned()];
    let plain = ["<gone@inbox.test>".to_owned()];
    let mut ids = Vec::new();
    for (from, to) in [("<a@sender.test>", &never), ("<a@sender.test>", &success), ("<>", &plain)] {
        ids.push(client.send_with(from, to, &message("quiet", "x")).unwrap().expect(250).queued_as());
    }
    for id in &ids {
        let bounce = daemon.wait_for_type("Bounce", id);
        assert_eq!(bounce["response"]["enhanced_code"]["class"], 5, "{bounce}");
    }
    std::thread::sleep(Duration::from_millis(600));
    assert!(receiver.messages().is_empty(), "no report may leave");
    assert_eq!(daemon.events().iter().filter(|e| e["type"] == "Reception").count(), 3);
}

fn r17_success_and_delay(driver: &str) {
    let receiver = Receiver::start(manners());
    let dsn = Receiver::start(manners().and("DSN"));
    let setup = Setup::new(driver)
        .route("dsn.test", &[dsn.address()])
        .route("*", &[receiver.address()])
        .with("[delivery]\ndelay_report_s = 2\nretry_first_s = 1\nretry_max_s = 1\n");
    let daemon = setup.start();
    let mut client = daemon.client();
    let relayed = ["<b@inbox.test> NOTIFY=SUCCESS,FAILURE".to_owned()];
    client.send_with("<a@sender.test> ENVID=R1", &relayed, &message("relayed", "x")).unwrap().expect(250);
    let passed = ["<b@dsn.test> NOTIFY=SUCCESS ORCPT=rfc822;b@dsn.test".to_owned()];
    client.send_with("<a@sender.test> RET=FULL ENVID=P1", &passed, &message("passed", "x")).unwrap().expect(250);
    let late = ["<late@inbox.test> NOTIFY=DELAY".to_owned()];
    client.send_with("<a@sender.test> ENVID=D1", &late, &message("late", "x")).unwrap().expect(250);
    harness::wait_for(Duration::from_secs(20), "two reports", || (reports(&receiver).len() >= 2).then_some(()));
    let found = reports(&receiver);
    let find = |envid: &str| {
        let line = format!("Original-Envelope-Id: {envid}\r\n");
        found.iter().find(|r| r.text().contains(&line)).unwrap_or_else(|| panic!("no report about {envid}"))
    };
    has(find("R1"), &["Action: relayed\r\n", "Status: 2.", "Final-Recipient: rfc822; b@inbox.test\r\n"]);
    has(find("D1"), &["Action: delayed\r\n", "Status: 4.2.1\r\n", "Will-Retry-Until: "]);
    let passed = &dsn.wait_messages(1)[0];
    assert!(passed.mail.contains("RET=FULL") && passed.mail.contains("ENVID=P1"), "{}", passed.mail);
    assert!(passed.rcpts[0].0.contains("NOTIFY=SUCCESS"), "{}", passed.rcpts[0].0);
    assert!(passed.rcpts[0].0.contains("ORCPT=rfc822;b@dsn.test"), "{}", passed.rcpts[0].0);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(reports(&receiver).len(), 2, "no report about what a peer with DSN took, one about a delay");
}
