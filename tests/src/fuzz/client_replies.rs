//! The client session against a site that says anything.
//!
//! One half of the cases has a site that keeps the protocol and answers as it likes: there the harness knows what
//! became of every recipient, and the session must say the same. The other half has bytes.

use std::rc::Rc;

use mta::smtp::client::{
    Action, Config, Credentials, DeliverBy, End, Finished, Loss, Session, Stage, TlsMode, Transaction, TxRecipient,
};
use queue::{Body, BodyFlags, BounceClass, DsnRet, Notify, OutcomeKind, UnixSecs};

use super::client_site::{greeting, Hearing, Site};
use super::source::Source;
use super::{must, Verdict};

const NOW: UnixSecs = UnixSecs(1_800_000_000);
/// Calls of `next` between two reads that no transaction of this size needs.
const STEPS_MAX: usize = 400;
const TURNS_MAX: usize = 4000;

pub(super) fn run(source: &mut Source<'_>) -> Verdict {
    let config = Config {
        ehlo: "out.test".into(),
        tls: [TlsMode::Off, TlsMode::Opportunistic, TlsMode::Required][source.below(3)],
        auth: source.one_in(4).then(|| Credentials {
            user: "u".into(),
            password: "p".into(),
            without_tls: source.flip(),
        }),
        rcpt_max: source.one_in(4).then(|| source.u32() % 4),
        classify: Rc::new(|code, enhanced, text, _: Stage| mta::bounce::classify::classify(code, enhanced, text)),
    };
    let honest = source.flip();
    let mut play = Play::new(config, honest);
    play.run(source)
}

struct Play {
    session: Session,
    site: Site,
    honest: bool,
    /// Transactions handed in whose end has not been told.
    open: bool,
    permitted: bool,
    wire: Vec<u8>,
    said_two: bool,
    withheld: bool,
}

impl Play {
    fn new(config: Config, honest: bool) -> Self {
        Self {
            session: Session::new(config),
            site: Site::default(),
            honest,
            open: false,
            permitted: false,
            wire: Vec::new(),
            said_two: false,
            withheld: false,
        }
    }

    fn run(&mut self, source: &mut Source<'_>) -> Verdict {
        let mut begun = 0;
        if self.honest {
            self.site.replies.push_back(greeting(source));
        }
        for _ in 0..TURNS_MAX {
            match self.pump(source, &mut begun)? {
                Turn::Read => self.answer(source)?,
                Turn::Over(end) => {
                    must(!self.open, || format!("over ({end:?}) with a transaction open"))?;
                    // Asked again, it says the same.
                    let again = self.session.next(&mut self.wire);
                    return must(matches!(again, Action::Close(_)), || format!("{again:?} behind the end"));
                }
            }
        }
        Err("the session does not come to an end".to_owned())
    }

    fn pump(&mut self, source: &mut Source<'_>, begun: &mut u32) -> Result<Turn, String> {
        for _ in 0..STEPS_MAX {
            match self.session.next(&mut self.wire) {
                Action::Read(_) => {
                    self.hear(source)?;
                    return Ok(Turn::Read);
                }
                Action::Flush => {
                    must(!self.wire.is_empty(), || "nothing to flush".to_owned())?;
                    self.hear(source)?;
                }
                Action::Write(piece) => {
                    self.wire.extend_from_slice(&piece);
                    self.hear(source)?;
                }
                Action::StartTls => {
                    self.hear(source)?;
                    self.session.encrypted();
                    self.site.tls = true;
                }
                Action::Intent(positions) => {
                    let count = self.session.transaction().map_or(0, |transaction| transaction.recipients.len());
                    must(positions.iter().all(|p| *p < count), || "an intent for nobody".to_owned())?;
                    if source.one_in(16) {
                        self.withheld = true;
                        self.session.withhold("the ack log is full");
                    } else {
                        self.permitted = true;
                        self.session.permit();
                    }
                }
                Action::Finished(finished) => {
                    must(self.open, || "an end without a beginning".to_owned())?;
                    self.open = false;
                    self.finished(&finished)?;
                }
                Action::Ready => {
                    must(!self.open, || "ready inside a transaction".to_owned())?;
                    self.hear(source)?;
                    if *begun >= 4 || !self.session.takes_more() || source.one_in(8) || source.is_empty() {
                        self.session.quit();
                        continue;
                    }
                    *begun += 1;
                    let transaction = transaction(source);
                    self.site.begin(&transaction);
                    (self.open, self.permitted, self.said_two, self.withheld) = (true, false, false, false);
                    self.session.begin(transaction, NOW);
                }
                Action::Close(end) => return Ok(Turn::Over(end)),
            }
        }
        Err("the session spins".to_owned())
    }

    /// Hands what was said to the site.
    fn hear(&mut self, source: &mut Source<'_>) -> Verdict {
        let said = std::mem::take(&mut self.wire);
        if std::env::var_os("FUZZ_TRACE").is_some() {
            eprintln!("C: {}", said.escape_ascii());
        }
        if !self.honest {
            return Ok(());
        }
        self.site.hear(&said, source)
    }

    /// The site speaks, or goes away.
    fn answer(&mut self, source: &mut Source<'_>) -> Verdict {
        if source.is_empty() || source.one_in(40) {
            self.session.closed(match source.byte() % 3 {
                0 => Loss::Closed,
                1 => Loss::TimedOut,
                _ => Loss::Write("broken pipe".into()),
            });
            return Ok(());
        }
        if !self.honest {
            let said = noise(source);
            self.said_two |= said.contains(&b'2');
            self.session.feed(&said);
            return Ok(());
        }
        let Some(reply) = self.site.replies.pop_front() else {
            if self.site.state == Hearing::Closed {
                self.session.closed(Loss::Closed);
                return Ok(());
            }
            return Err("the session waits for a reply that nobody owes".to_owned());
        };
        let mut bytes = reply.text;
        if source.one_in(4) {
            // Several at once: what is owed, not more.
            while let Some(more) = self.site.replies.pop_front() {
                self.site.told(reply.about);
                bytes.extend_from_slice(&more.text);
                self.site.told(more.about);
            }
        }
        self.site.told(reply.about);
        if std::env::var_os("FUZZ_TRACE").is_some() {
            eprintln!("S: {}", bytes.escape_ascii());
        }
        for piece in source.pieces(&bytes) {
            self.session.feed(piece);
        }
        Ok(())
    }

    fn finished(&mut self, finished: &Finished) -> Verdict {
        let count = finished.transaction.recipients.len();
        let mut seen = vec![None; count];
        for (position, outcome) in &finished.results {
            let slot = seen.get_mut(*position).ok_or("an outcome for nobody")?;
            must(slot.is_none(), || format!("two outcomes for {position}"))?;
            *slot = Some(outcome.kind);
            must(outcome.text.len() <= 2 * queue::limits::REPLY_TEXT_MAX, || "an endless text".to_owned())?;
            let code = outcome.code;
            match outcome.kind {
                OutcomeKind::Delivered => {
                    must((200..300).contains(&code), || format!("delivered by {code}"))?;
                    must(self.permitted, || "delivered without an intent".to_owned())?;
                    must(self.honest || self.said_two, || "delivered and no 2xx was said".to_owned())?;
                }
                OutcomeKind::Failed => must(code == 0 || code >= 500, || format!("failed by {code}"))?,
                OutcomeKind::Unknown => must(self.permitted, || "unknown without an intent".to_owned())?,
                OutcomeKind::Deferred => must(outcome.class != BounceClass::None, || "deferred, no class".to_owned())?,
                OutcomeKind::Suppressed => return Err("a session does not suppress".to_owned()),
            }
        }
        must(seen.first().is_some_and(Option::is_some), || "nothing about the first recipient".to_owned())?;
        let missing = seen.iter().filter(|kind| kind.is_none()).count();
        let limits = self.session.limits();
        let limited = limits.rcpt_max.is_some() || limits.rcpt_domain_max.is_some();
        must(missing == 0 || limited, || format!("{missing} recipients forgotten"))?;
        if self.honest {
            self.site.judge(finished, &seen)?;
        }
        Ok(())
    }
}

enum Turn {
    Read,
    Over(End),
}

/// Replies and what is none.
fn noise(source: &mut Source<'_>) -> Vec<u8> {
    const SAID: &[&[u8]] = &[
        b"220 site.test\r\n",
        b"250-site.test\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 DSN\r\n",
        b"250-site.test\r\n250-STARTTLS\r\n250 LIMITS RCPTMAX=1\r\n",
        b"250 site.test\r\n",
        b"250 2.0.0 ok\r\n",
        b"354 go\r\n",
        b"451 4.3.0 later\r\n",
        b"550-5.1.1 no\r\n550 5.1.1 never\r\n",
        b"421 4.3.2 bye\r\n",
        b"250\r\n",
        b"250-\r\n",
        b"25",
        b"999 x\r\n",
        b"\r\n",
    ];
    let mut said = source.pick(SAID).to_vec();
    match source.byte() % 10 {
        0 => source.damage(&mut said, 3),
        1 => said = source.spicy(60),
        2 => said = said.repeat(source.below(300)),
        3 => said.extend(std::iter::repeat_n(b'x', source.below(20_000))),
        _ => {}
    }
    said
}

fn transaction(source: &mut Source<'_>) -> Transaction {
    let mut body: Vec<u8> = b"Received: x\r\n\r\n".to_vec();
    for _ in 0..source.below(8) {
        body.extend_from_slice(source.pick(&[&b".\r\n"[..], b"..a\r\n", b"text\r\n", b"\r\n", b"\xc3\xbc\r\n", b".x"]));
    }
    if source.one_in(16) {
        let line = b"a long line of a large message that goes in pieces\r\n.\r\n".repeat(source.range(1..9000));
        body.extend_from_slice(&line);
    }
    let lines = body.split(|byte| *byte == b'\n');
    let flags = BodyFlags {
        dot_line: lines.clone().any(|line| line.first() == Some(&b'.')),
        eight_bit: !body.is_ascii(),
        binary: source.one_in(12),
        smtputf8: source.one_in(12),
        longest_line: lines.map(|line| line.len() as u32).max().unwrap_or(0),
        header_len: 15,
    };
    let count = 1 + source.below(6);
    let recipients: Vec<_> = (0..count)
        .map(|number| TxRecipient {
            index: number as u16,
            address: match source.byte() % 16 {
                0 => format!("{}@b.test", source.text(12).replace(['<', '>'], "")),
                1 => format!("\u{fc}{number}@b.test"),
                other => format!("r{number}@d{}.test", other % 3),
            },
            orcpt: if source.one_in(6) { "rfc822;x".into() } else { String::new() },
            notify: Notify(source.byte() % 16),
        })
        .collect();
    Transaction {
        reverse_path: if source.flip() { "s@a.test".into() } else { String::new() },
        recipients,
        prefix: if source.flip() { b"DKIM-Signature: x\r\n\t.y\r\n".to_vec() } else { Vec::new() },
        body: Body::from(body),
        flags,
        envid: if source.one_in(6) { "e".into() } else { String::new() },
        ret: [DsnRet::Unset, DsnRet::Full, DsnRet::Hdrs][source.below(3)],
        deliver_by: source
            .one_in(8)
            .then(|| DeliverBy { until: UnixSecs(NOW.0.wrapping_add(source.u32() % 500)), notify: source.flip() }),
        hold_last: source.flip(),
        ..Transaction::default()
    }
}
