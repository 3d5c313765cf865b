//! Dialogs with scripted sites, each played whole and byte by byte.

use std::collections::VecDeque;
use std::rc::Rc;

use queue::OutcomeKind::{self, Deferred, Delivered, Failed, Unknown};
use queue::{Body, BodyFlags, BounceClass, UnixSecs};

use super::*;

/// A caller of the session without a socket.
struct Play {
    session: Session,
    wire: Vec<u8>,
    waiting: VecDeque<Transaction>,
    finished: Vec<Finished>,
    intents: Vec<Vec<usize>>,
    withhold: bool,
    quit: bool,
    handshakes: u32,
    end: Option<End>,
}

impl Play {
    fn new(config: Config, waiting: Vec<Transaction>) -> Self {
        Self {
            session: Session::new(config),
            wire: Vec::new(),
            waiting: waiting.into(),
            finished: Vec::new(),
            intents: Vec::new(),
            withhold: false,
            quit: true,
            handshakes: 0,
            end: None,
        }
    }

    fn pump(&mut self) {
        while self.end.is_none() {
            match self.session.next(&mut self.wire) {
                Action::Read(_) => return,
                Action::Flush => {}
                Action::Write(piece) => self.wire.extend_from_slice(&piece),
                Action::StartTls => {
                    self.handshakes += 1;
                    self.session.encrypted();
                }
                Action::Intent(positions) => {
                    self.intents.push(positions);
                    if self.withhold {
                        self.session.withhold("no room in the ack log");
                    } else {
                        self.session.permit();
                    }
                }
                Action::Finished(finished) => self.finished.push(*finished),
                Action::Ready if !self.session.takes_more() => self.session.quit(),
                Action::Ready => match self.waiting.pop_front() {
                    Some(transaction) => self.session.begin(transaction, UnixSecs(1000)),
                    None if self.quit => self.session.quit(),
                    None => return,
                },
                Action::Close(end) => self.end = Some(end),
            }
        }
    }

    /// Plays lines `C: ` (what must come from us, without line end) and `S: ` (what the site says), and `X: closed`,
    /// `X: silent`, `X: write fails`.
    fn play(mut self, script: &str, bytewise: bool) -> Self {
        self.pump();
        for line in script.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
            let (who, text) = line.split_at(3);
            match who {
                "C: " => {
                    let expected = format!("{text}\r\n");
                    let got = self.wire.get(..expected.len()).map(String::from_utf8_lossy);
                    let wire = String::from_utf8_lossy(&self.wire);
                    assert_eq!(got.as_deref(), Some(expected.as_str()), "wire: {wire:?}, bytewise: {bytewise}");
                    self.wire.drain(..expected.len());
                }
                "S: " => {
                    assert!(self.wire.is_empty() || !text.starts_with("220 mx"), "we spoke before the greeting");
                    let said = format!("{text}\r\n").into_bytes();
                    for part in said.chunks(if bytewise { 1 } else { said.len() }) {
                        self.session.feed(part);
                        self.pump();
                    }
                }
                _ => {
                    self.session.closed(match text {
                        "closed" => Loss::Closed,
                        "silent" => Loss::TimedOut,
                        _ => Loss::Write("broken pipe".into()),
                    });
                    self.pump();
                }
            }
        }
        assert_eq!(String::from_utf8_lossy(&self.wire), "", "said more than the script has");
        self
    }

    /// Kinds of the outcomes of the `n`th transaction by position, `None` when not tried.
    fn kinds(&self, n: usize) -> Vec<Option<OutcomeKind>> {
        let finished = &self.finished[n];
        let mut kinds = vec![None; finished.transaction.recipients.len()];
        for (position, outcome) in &finished.results {
            kinds[*position] = Some(outcome.kind);
        }
        kinds
    }

    fn outcome(&self, n: usize, position: usize) -> &queue::Outcome {
        &self.finished[n].results.iter().find(|(p, _)| *p == position).expect("an outcome").1
    }
}

fn config() -> Config {
    let classify: Classify = Rc::new(|_, _, _, _| BounceClass::PolicyRelated);
    Config { ehlo: "out.test".into(), tls: TlsMode::Off, auth: None, rcpt_max: None, classify }
}

fn message(recipients: &[&str], text: &str) -> Transaction {
    let recipients = recipients.iter().enumerate();
    Transaction {
        reverse_path: "s@a.test".into(),
        recipients: recipients
            .map(|(index, address)| TxRecipient {
                index: index as u16,
                address: (*address).into(),
                ..Default::default()
            })
            .collect(),
        body: Body::from(text.as_bytes().to_vec()),
        ..Transaction::default()
    }
}

/// Plays a script both ways and hands both to `check`.
fn dialog(make: impl Fn() -> Play, script: &str, check: impl Fn(&Play)) {
    for bytewise in [false, true] {
        check(&make().play(script, bytewise));
    }
}

const OPEN: &str = "S: 220 mx.test ESMTP
    C: EHLO out.test\n";

fn hello(extensions: &str) -> String {
    let mut script = OPEN.to_owned();
    let all: Vec<&str> = extensions.split_whitespace().collect();
    script.push_str(if all.is_empty() { "S: 250 mx.test\n" } else { "S: 250-mx.test\n" });
    for (n, extension) in all.iter().enumerate() {
        let mark = if n + 1 == all.len() { ' ' } else { '-' };
        script.push_str(&format!("S: 250{mark}{}\n", extension.replace('+', " ")));
    }
    script
}

#[test]
fn everything_in_one_flight_and_the_connection_is_used_again() {
    let make =
        || Play::new(config(), vec![message(&["r@b.test"], ".one\r\n"), message(&["q@b.test", "p@b.test"], "two\r\n")]);
    let script = hello("PIPELINING CHUNKING SIZE+1000")
        + "C: MAIL FROM:<s@a.test> SIZE=6
           C: RCPT TO:<r@b.test>
           C: BDAT 6 LAST
           C: .one
           S: 250 2.1.0 ok
           S: 250 2.1.5 ok
           S: 250 2.0.0 queued as 1
           C: MAIL FROM:<s@a.test> SIZE=5
           C: RCPT TO:<q@b.test>
           C: RCPT TO:<p@b.test>
           C: BDAT 5 LAST
           C: two
           S: 250 ok
           S: 550-5.1.1 no
           S: 550 5.1.1 such user
           S: 250 ok
           S: 250 2.0.0 queued as 2
           C: QUIT
           S: 221 bye";
    dialog(make, &script, |play| {
        assert_eq!(play.kinds(0), [Some(Delivered)]);
        assert_eq!(play.outcome(0, 0).text, "queued as 1");
        assert_eq!(play.kinds(1), [Some(Failed), Some(Delivered)]);
        let failed = play.outcome(1, 0);
        assert_eq!((failed.code, failed.enhanced, failed.text.as_str()), (550, [5, 1, 1], "no such user"));
        assert_eq!(failed.class, BounceClass::PolicyRelated);
        assert_eq!(play.intents, [vec![0], vec![0, 1]]);
        assert_eq!(play.end, Some(End::Quit));
    });
}

#[test]
fn r12_data_ends_the_group_and_dots_are_stuffed() {
    let make = || {
        let mut transaction = message(&["r@b.test", "q@b.test"], "A: b\r\n\r\n.dot\r\n");
        transaction.flags = BodyFlags { dot_line: true, ..BodyFlags::default() };
        transaction.prefix = b"DKIM-Signature: x\r\n".to_vec();
        Play::new(config(), vec![transaction])
    };
    let script = hello("PIPELINING")
        + "C: MAIL FROM:<s@a.test>
           C: RCPT TO:<r@b.test>
           C: RCPT TO:<q@b.test>
           C: DATA
           S: 250 ok
           S: 250 ok
           S: 450 4.2.1 later
           S: 354 go
           C: DKIM-Signature: x
           C: A: b
           C: \r\n           C: ..dot
           C: .
           S: 250 done
           C: QUIT
           S: 221 bye";
    let script = script.replace("C: \r\n", "C: \n");
    dialog(make, &script, |play| {
        assert_eq!(play.kinds(0), [Some(Delivered), Some(Deferred)]);
        assert_eq!(play.intents, [vec![0]], "only who was accepted");
    });
}

#[test]
fn a_site_without_extensions_is_asked_step_by_step() {
    let make = || Play::new(config(), vec![message(&["r@b.test", "q@b.test"], "x\r\n")]);
    let script = OPEN.to_owned()
        + "S: 502 what?
           C: HELO out.test
           S: 250 mx.test
           C: MAIL FROM:<s@a.test>
           S: 250 ok
           C: RCPT TO:<r@b.test>
           S: 250 ok
           C: RCPT TO:<q@b.test>
           S: 250 ok
           C: DATA
           S: 354 go
           C: x
           C: .
           S: 250 done
           C: QUIT
           S: 221 bye";
    dialog(make, &script, |play| assert_eq!(play.kinds(0), [Some(Delivered), Some(Delivered)]));
}

#[test]
fn step_by_step_a_refusal_ends_the_transaction_at_once() {
    let make = || Play::new(config(), vec![message(&["r@b.test"], "x\r\n"); 3]);
    let script = hello("CHUNKING")
        + "C: MAIL FROM:<s@a.test>
           S: 450 4.7.1 not you
           C: MAIL FROM:<s@a.test>
           S: 250 ok
           C: RCPT TO:<r@b.test>
           S: 550 no
           C: RSET
           S: 250 ok
           C: MAIL FROM:<s@a.test>
           S: 250 ok
           C: RCPT TO:<r@b.test>
           S: 251 will forward
           C: BDAT 3 LAST
           C: x
           S: 599 odd
           C: QUIT
           S: 221 bye";
    dialog(make, &script, |play| {
        assert_eq!(play.kinds(0), [Some(Deferred)]);
        assert_eq!(play.kinds(1), [Some(Failed)]);
        assert_eq!(play.kinds(2), [Some(Failed)]);
        assert_eq!(play.intents, [vec![0]]);
    });
}

#[test]
fn r12_a_lone_dot_when_data_is_taken_without_recipients() {
    let make = || Play::new(config(), vec![message(&["r@b.test"], "x\r\n"); 2]);
    let script = hello("PIPELINING")
        + "C: MAIL FROM:<s@a.test>
           C: RCPT TO:<r@b.test>
           C: DATA
           S: 250 ok
           S: 550 no
           S: 354 go
           C: .
           S: 554 no recipients
           C: MAIL FROM:<s@a.test>
           C: RCPT TO:<r@b.test>
           C: DATA
           S: 250 ok
           S: 550 no
           S: 503 no recipients
           C: QUIT
           S: 221 bye";
    dialog(make, &script, |play| {
        assert_eq!((play.kinds(0), play.kinds(1)), (vec![Some(Failed)], vec![Some(Failed)]));
        assert!(play.intents.is_empty(), "nothing was about to leave");
    });
}

#[test]
fn r13_a_refused_chunk_is_followed_by_rset() {
    let make = || Play::new(config(), vec![message(&["r@b.test"], "x\r\n"); 2]);
    let script = hello("PIPELINING CHUNKING")
        + "C: MAIL FROM:<s@a.test>
           C: RCPT TO:<r@b.test>
           C: BDAT 3 LAST
           C: x
           S: 552 5.3.4 sender over limit
           S: 503 no MAIL
           S: 503 no RCPT
           C: RSET
           C: MAIL FROM:<s@a.test>
           C: RCPT TO:<r@b.test>
           C: BDAT 3 LAST
           C: x
           S: 250 reset
           S: 250 ok
           S: 250 ok
           S: 250 done
           C: QUIT
           S: 221 bye";
    dialog(make, &script, |play| {
        assert_eq!(play.kinds(0), [Some(Failed)]);
        assert_eq!(play.outcome(0, 0).code, 552, "the reply to MAIL counts, not those behind it");
        assert_eq!(play.kinds(1), [Some(Delivered)]);
    });
}

#[test]
fn a_held_message_leaves_only_after_the_recipients_are_answered() {
    let make = || {
        let mut transaction = message(&["r@b.test", "q@b.test"], "x\r\n");
        transaction.hold_last = true;
        Play::new(config(), vec![transaction])
    };
    let script = hello("PIPELINING CHUNKING")
        + "C: MAIL FROM:<s@a.test>
           C: RCPT TO:<r@b.test>
           C: RCPT TO:<q@b.test>
           S: 250 ok
           S: 550 no
           S: 250 ok
           C: BDAT 3 LAST
           C: x
           S: 250 done
           C: QUIT
           S: 221 bye";
    dialog(make, &script, |play| {
        assert_eq!(play.kinds(0), [Some(Failed), Some(Delivered)]);
        assert_eq!(play.intents, [vec![1]]);
    });
}

#[test]
fn r02_who_comes_behind_one_too_many_is_named_all_the_same() {
    let script = hello("")
        + "C: MAIL FROM:<s@a.test>
           S: 250 ok
           C: RCPT TO:<r0@b.test>
           S: 250 ok
           C: RCPT TO:<r1@b.test>
           S: 452 4.5.3 too many recipients
           C: RCPT TO:<r2@b.test>
           S: 250 ok
           C: RCPT TO:<r3@b.test>
           S: 250 ok
           C: DATA
           S: 354 go
           C: text
           C: .
           S: 250 ok
           C: QUIT
           S: 221 bye";
    let recipients = ["r0@b.test", "r1@b.test", "r2@b.test", "r3@b.test"];
    let make = || Play::new(config(), vec![message(&recipients, "text\r\n")]);
    dialog(make, &script, |play| {
        assert_eq!(play.kinds(0), [Some(Delivered), None, Some(Delivered), Some(Delivered)]);
    });
}

#[test]
fn r02_552_to_rcpt_is_read_as_452_and_too_many_costs_no_attempt() {
    let make = || Play::new(config(), vec![message(&["a@b.test", "b@b.test", "c@b.test"], "x\r\n")]);
    let script = hello("PIPELINING CHUNKING")
        + "C: MAIL FROM:<s@a.test>
           C: RCPT TO:<a@b.test>
           C: RCPT TO:<b@b.test>
           C: RCPT TO:<c@b.test>
           C: BDAT 3 LAST
           C: x
           S: 250 ok
           S: 552 5.2.2 mailbox full
           S: 250 ok
           S: 452 4.5.3 too many recipients
           S: 250 done
           C: QUIT
           S: 221 bye";
    dialog(make, &script, |play| {
        assert_eq!(play.kinds(0), [Some(Deferred), Some(Delivered), None]);
        assert_eq!(play.outcome(0, 0).code, 552);
        assert_eq!(play.session.limits().rcpt_max, Some(1));
    });
}

#[test]
fn r25_limits_of_the_site_are_obeyed() {
    let make = || Play::new(config(), vec![message(&["a@b.test", "b@b.test"], "x\r\n"); 2]);
    let script = hello("PIPELINING CHUNKING LIMITS+RCPTMAX=1+MAILMAX=1")
        + "C: MAIL FROM:<s@a.test>
           C: RCPT TO:<a@b.test>
           C: BDAT 3 LAST
           C: x
           S: 250 ok
           S: 250 ok
           S: 250 done
           C: QUIT
           S: 221 bye";
    dialog(make, &script, |play| {
        assert_eq!(play.kinds(0), [Some(Delivered), None]);
        assert_eq!(play.waiting.len(), 1, "the second message waits for another connection");
    });
}

#[test]
fn r11_r14_a_message_that_does_not_fit_is_never_started() {
    let make = || {
        let mut eight = message(&["a@b.test"], "\u{fc}\r\n");
        eight.flags.eight_bit = true;
        Play::new(config(), vec![message(&["a@b.test", "b@b.test"], "too long\r\n"), eight])
    };
    let script = hello("PIPELINING SIZE+5") + "C: QUIT\nS: 221 bye";
    dialog(make, &script, |play| {
        assert_eq!(play.kinds(0), [Some(Failed), Some(Failed)]);
        assert_eq!((play.outcome(0, 0).enhanced, play.outcome(0, 0).class), ([5, 3, 4], BounceClass::SizeLimit));
        assert_eq!(play.outcome(1, 0).enhanced, [5, 6, 3]);
    });
}

#[test]
fn r02_r20_refused_greetings_end_the_session() {
    for (greeting, code) in [("421 busy", 421), ("450 wait", 450), ("521 no mail here", 521), ("554 go away", 554)] {
        let make = || Play::new(config(), vec![message(&["a@b.test"], "x\r\n")]);
        dialog(make, &format!("S: {greeting}"), |play| {
            let Some(End::Refused(Stage::Greeting, reply)) = &play.end else { panic!("{:?}", play.end) };
            assert_eq!(reply.code, code);
            assert_eq!(play.waiting.len(), 1, "nothing was started");
        });
    }
}

fn with_tls(tls: TlsMode) -> Play {
    Play::new(Config { tls, ..config() }, vec![])
}

#[test]
fn r07_after_the_handshake_everything_is_asked_again() {
    let script = hello("STARTTLS SIZE+10")
        + "C: STARTTLS
           S: 220 go
           C: EHLO out.test
           S: 250-mx.test
           S: 250-STARTTLS
           S: 250 PIPELINING
           C: QUIT
           S: 221 bye";
    dialog(
        || with_tls(TlsMode::Required),
        &script,
        |play| {
            assert_eq!(play.handshakes, 1);
            let limits = play.session.limits();
            assert!(limits.tls && limits.pipelining && limits.size.is_none());
        },
    );
}

#[test]
fn r07_bytes_before_the_handshake_are_an_attack() {
    let mut play = with_tls(TlsMode::Opportunistic).play(&(hello("STARTTLS") + "C: STARTTLS"), false);
    play.session.feed(b"220 go\r\n250 injected\r\n");
    play.pump();
    assert_eq!((play.end, play.handshakes), (Some(End::Injection), 0));
}

#[test]
fn r07_refused_or_missing_starttls_by_policy() {
    let refused = hello("STARTTLS") + "C: STARTTLS\nS: 454 4.7.0 not now\n";
    dialog(
        || with_tls(TlsMode::Opportunistic),
        &(refused.clone() + "C: QUIT\nS: 221 bye"),
        |play| {
            assert_eq!((play.handshakes, play.end.clone()), (0, Some(End::Quit)));
        },
    );
    dialog(
        || with_tls(TlsMode::Required),
        &refused,
        |play| {
            assert!(matches!(play.end, Some(End::Refused(Stage::StartTls, _))));
        },
    );
    dialog(|| with_tls(TlsMode::Required), &hello(""), |play| assert_eq!(play.end, Some(End::NoTls)));
    dialog(
        || with_tls(TlsMode::Off),
        &(hello("STARTTLS") + "C: QUIT\nS: 221 bye"),
        |play| {
            assert_eq!(play.handshakes, 0);
        },
    );
}

fn with_login(without_tls: bool) -> Play {
    let credentials = Credentials { user: "me".into(), password: "secret".into(), without_tls };
    Play::new(Config { auth: Some(credentials), ..config() }, vec![])
}

#[test]
fn logs_in_at_a_smarthost() {
    let plain = hello("AUTH+LOGIN+PLAIN") + "C: AUTH PLAIN AG1lAHNlY3JldA==\nS: 235 ok\nC: QUIT\nS: 221 bye";
    dialog(|| with_login(true), &plain, |play| assert_eq!(play.end, Some(End::Quit)));
    let login = hello("AUTH+LOGIN LIMITS+RCPTMAX=2")
        + "C: AUTH LOGIN
           S: 334 VXNlcm5hbWU6
           C: bWU=
           S: 334 UGFzc3dvcmQ6
           C: c2VjcmV0
           S: 235 ok
           C: EHLO out.test
           S: 250-mx.test
           S: 250 LIMITS RCPTMAX=500
           C: QUIT
           S: 221 bye";
    dialog(|| with_login(true), &login, |play| assert_eq!(play.session.limits().rcpt_max, Some(500)));
    let refused = hello("AUTH+PLAIN") + "C: AUTH PLAIN AG1lAHNlY3JldA==\nS: 535 5.7.8 wrong";
    dialog(
        || with_login(true),
        &refused,
        |play| {
            assert!(matches!(&play.end, Some(End::Refused(Stage::Auth, reply)) if reply.code == 535));
        },
    );
    dialog(|| with_login(false), &hello("AUTH+PLAIN"), |play| assert_eq!(play.end, Some(End::NoAuth)));
    dialog(|| with_login(true), &hello("AUTH+GSSAPI"), |play| assert_eq!(play.end, Some(End::NoAuth)));
}

/// R-03 and the rule "Unknown has an end": what each loss means.
#[test]
fn r03_unknown_only_after_an_answer_and_the_last_byte() {
    let flight = "C: MAIL FROM:<s@a.test>\nC: RCPT TO:<r@b.test>\nC: RCPT TO:<q@b.test>\nC: BDAT 3 LAST\nC: x\n";
    let held = "C: MAIL FROM:<s@a.test>\nC: RCPT TO:<r@b.test>\nC: RCPT TO:<q@b.test>\n";
    let last = "C: BDAT 3 LAST\nC: x\n";
    let (ok, no) = ("S: 250 ok\n", "S: 550 no\n");
    let (unknown, deferred) = (Some(Unknown), Some(Deferred));
    let cases = [
        (false, format!("{flight}X: closed"), [deferred, deferred]),
        (false, format!("{flight}X: write fails"), [deferred, deferred]),
        (false, format!("{flight}{ok}{ok}X: closed"), [unknown, unknown]),
        (false, format!("{flight}{ok}{ok}{no}X: silent"), [unknown, Some(Failed)]),
        (false, format!("{flight}{ok}{ok}{ok}S: 421 closing\nX: closed"), [deferred, deferred]),
        (false, format!("{flight}{ok}{ok}S: 421 closing\nX: closed"), [deferred, deferred]),
        (true, format!("{held}X: closed"), [deferred, deferred]),
        (true, format!("{held}{ok}{ok}X: closed"), [deferred, deferred]),
        (true, format!("{held}{ok}{ok}{no}{last}X: closed"), [unknown, Some(Failed)]),
        (true, format!("{held}{ok}{ok}{no}{last}X: write fails"), [deferred, Some(Failed)]),
        (true, format!("{held}{ok}{ok}{ok}{last}S: 250 done\nC: QUIT\nX: closed"), [Some(Delivered), Some(Delivered)]),
    ];
    for (hold_last, script, expected) in cases {
        let make = || {
            let mut transaction = message(&["r@b.test", "q@b.test"], "x\r\n");
            transaction.hold_last = hold_last;
            Play::new(config(), vec![transaction])
        };
        let script = hello("PIPELINING CHUNKING") + &script;
        dialog(make, &script, |play| {
            assert_eq!(play.kinds(0), expected, "{script}");
            if expected.contains(&unknown) {
                assert_eq!(play.outcome(0, 0).class, BounceClass::PossibleDuplicate);
            }
        });
    }
}

#[test]
fn r03_an_unanswered_dot_is_unknown() {
    let make = || Play::new(config(), vec![message(&["r@b.test"], "x\r\n")]);
    let script =
        hello("") + "C: MAIL FROM:<s@a.test>\nS: 250 ok\nC: RCPT TO:<r@b.test>\nS: 250 ok\nC: DATA\nS: 354 go\n";
    dialog(make, &(script.clone() + "C: x\nC: .\nX: silent"), |play| {
        assert_eq!(play.kinds(0), [Some(Unknown)]);
        assert_eq!(play.end, Some(End::Lost(Stage::Content, Loss::TimedOut)));
    });
    dialog(make, &(script + "C: x\nC: .\nX: write fails"), |play| assert_eq!(play.kinds(0), [Some(Deferred)]));
}

#[test]
fn a_withheld_message_does_not_leave() {
    let withheld = || {
        let mut play = Play::new(config(), vec![message(&["r@b.test"], "x\r\n")]);
        play.withhold = true;
        play
    };
    dialog(withheld, &(hello("PIPELINING CHUNKING") + "C: QUIT\nS: 221 bye"), |play| {
        assert_eq!(play.kinds(0), [Some(Deferred)]);
    });
    let script = hello("PIPELINING")
        + "C: MAIL FROM:<s@a.test>\nC: RCPT TO:<r@b.test>\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 354 go";
    dialog(withheld, &script, |play| {
        assert_eq!((play.kinds(0), play.end.clone()), (vec![Some(Deferred)], Some(End::Stopped)));
    });
}

#[test]
fn an_idle_connection_notices_what_the_site_says() {
    let idle = || {
        let mut play = Play::new(config(), vec![]);
        play.quit = false;
        play
    };
    dialog(idle, &(hello("") + "S: 421 4.4.2 idle too long"), |play| {
        assert!(matches!(&play.end, Some(End::PeerClosing(reply)) if reply.code == 421));
    });
    dialog(idle, &(hello("") + "S: 250 what"), |play| assert!(matches!(play.end, Some(End::Protocol(_)))));
    dialog(idle, &(hello("") + "X: closed"), |play| {
        assert_eq!(play.end, Some(End::Lost(Stage::Idle, Loss::Closed)));
    });
}

#[test]
fn nonsense_from_the_site_is_its_fault_and_nothing_final() {
    let make = || Play::new(config(), vec![message(&["r@b.test"], "x\r\n")]);
    let flight = "C: MAIL FROM:<s@a.test>\nC: RCPT TO:<r@b.test>\nC: BDAT 3 LAST\nC: x\n";
    let script = hello("PIPELINING CHUNKING") + flight + "S: hello?";
    dialog(make, &script, |play| {
        assert_eq!(play.kinds(0), [Some(Deferred)]);
        assert_eq!(play.outcome(0, 0).class, BounceClass::ProtocolErrors);
    });
    let script = hello("PIPELINING CHUNKING") + flight + "S: 250 ok\nS: 250 ok\nS: 354 what\nC: RSET";
    let two = || Play::new(config(), vec![message(&["r@b.test"], "x\r\n"); 1]);
    let script = script.replace("C: RSET", "C: QUIT");
    dialog(two, &script, |play| assert_eq!(play.kinds(0), [Some(Deferred)]));
}

#[test]
fn large_messages_wait_for_the_recipients_and_leave_in_pieces() {
    let text = "0123456789abcd\r\n".repeat(64 * 1024);
    let mut play = Play::new(config(), vec![message(&["r@b.test"], &text)])
        .play(&(hello("PIPELINING CHUNKING") + "C: MAIL FROM:<s@a.test>\nC: RCPT TO:<r@b.test>"), false);
    play.session.feed(b"250 ok\r\n250 ok\r\n");
    play.pump();
    let head = format!("BDAT {} LAST\r\n", text.len());
    assert!(play.wire.starts_with(head.as_bytes()));
    assert!(play.wire.get(head.len()..) == Some(text.as_bytes()));
}
