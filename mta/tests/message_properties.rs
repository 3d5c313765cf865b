//! What must hold for any message a client can send: nothing panics, what was accepted can be rendered and reported
//! about, conversion leaves 7 bits, trace fields of others stay. Messages are put together from pieces by a seed.

use mta::bounce::consequence::Action;
use mta::bounce::dsn::{compose, Report, Reported};
use mta::message::accept::{self, Incoming};
use mta::message::hygiene::Role;
use mta::message::render::{render, BodyForm};
use mta::message::steer::{Presets, Scope};
use mta::message::{canonical, convert, facts, header};
use queue::{BounceClass, DsnRet, EnvRecipient, Envelope, Outcome, OutcomeKind, SpoolId, UnixMillis, UnixSecs};

/// A small generator (xorshift): the seed is the bug report.
struct Seed(u64);

impl Seed {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as usize
    }
}

const PIECES: [&[u8]; 40] = [
    b"From: a@b.test\r\n",
    b"From: A B <a@b.test>\r\n",
    b"To: c@d.test\r\n",
    b"Received: from x\r\n\tby y; z\r\n",
    b"X-Job: j\r\n",
    b"x-virtual-mta: p\r\n",
    b"X-Tenant: t\r\n",
    b"Bcc: s@b.test\r\n",
    b"Subject: \xc3\xbc\r\n",
    b"Subject: plain\r\n",
    b"MIME-Version: 1.0\r\n",
    b"Content-Type: multipart/mixed; boundary=b\r\n",
    b"Content-Type: message/rfc822\r\n",
    b"Content-Type: text/plain; charset=\"x\r\n",
    b"Content-Type: application/x\r\n",
    b"Content-Transfer-Encoding: 8bit\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
    b"\r\n",
    b"\r\n",
    b"--b\r\n",
    b"--b\r\n",
    b"--b--\r\n",
    b"text \r\n",
    b"\t\r\n",
    b".dot\r\n",
    b"\xff\xfe\r\n",
    b"\xc3\xbc \r\n",
    b"\0",
    b"\n",
    b"\r",
    b":",
    b" fold\r\n",
    b"=",
    b"Message-ID: <1@b.test>\r\n",
    b"Date: x\r\n",
    b"Reply-To: \"x, (\r\n",
    b"<",
    b"x-schedule: {\"first_attempt\": 1}\r\n",
    b"word",
    b"                                                                                   ",
];

fn message(seed: &mut Seed) -> Vec<u8> {
    let mut out = Vec::new();
    if seed.next(4) > 0 {
        out.extend_from_slice(PIECES[0]);
    }
    for _ in 0..seed.next(24) {
        out.extend_from_slice(PIECES[seed.next(PIECES.len())]);
    }
    if seed.next(8) == 0 && !out.is_empty() {
        let at = seed.next(out.len());
        out[at] = seed.next(256) as u8;
    }
    out
}

fn incoming(content: &[u8], seed: &mut Seed) -> Incoming<'static> {
    let headroom = [0, 1, 100, accept::HEADROOM][seed.next(4)];
    let mut buffer = vec![b'#'; headroom];
    buffer.extend_from_slice(content);
    Incoming {
        buffer,
        headroom,
        facts: None,
        role: [Role::Submission, Role::Relay, Role::Inbound][seed.next(3)],
        binary: seed.next(4) == 0,
        smtputf8: seed.next(4) == 0,
        utf8_addresses: false,
        peer: Some("192.0.2.1".parse().expect("an address")),
        helo: "h",
        protocol: "ESMTP",
        host: "mx.test",
        single_recipient: None,
        scope: Scope::everything(),
        presets: Presets { powermta: true, kumomta: true },
        spool_id: SpoolId(1),
        now: UnixMillis(1_700_000_000_000),
        want_hash: true,
        want_simple: true,
    }
}

fn check_report(finished: &accept::Finished, envelope: &Envelope, seed: u64) {
    let text = String::from_utf8_lossy(&finished.body).into_owned();
    let outcome = Outcome {
        kind: OutcomeKind::Failed,
        code: 550,
        enhanced: [5, 1, 1],
        text,
        class: BounceClass::InvalidRecipient,
    };
    let row = Reported {
        recipient: 0,
        action: Action::Failed,
        outcome: &outcome,
        remote_mta: Some("mx"),
        last_attempt: UnixSecs(1),
        will_retry_until: None,
    };
    let dsn = compose(&Report {
        envelope,
        spool_id: SpoolId(1),
        attempt: 1,
        host: "mx.test",
        now: UnixMillis(2000),
        recipients: &[row],
        original: &finished.body,
    });
    let facts = facts::scan(&dsn.body);
    let text = String::from_utf8_lossy(&dsn.body);
    assert!(!facts.eight_bit && !facts.bare && facts.longest_line <= 998, "seed {seed}: {facts:?}\n{text:?}");
}

#[test]
fn any_message_is_refused_or_goes_the_whole_way() {
    let (mut accepted, mut converted) = (0, 0);
    for start in 1..60_000u64 {
        let mut seed = Seed(start.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let content = message(&mut seed);
        let _ = convert::to_seven_bit(&content);
        let input = incoming(&content, &mut seed);
        let (role, headroom) = (input.role, input.headroom);
        let Ok(finished) = accept::finish(input) else { continue };
        accepted += 1;
        let stored = &finished.body;
        let header = header::scan(stored).expect("what is stored has a header");
        assert_eq!(header.len, finished.flags.header_len as usize, "seed {start}");
        assert_eq!(finished.body_hash.relaxed, canonical::hash_relaxed(&stored[header.len..]), "seed {start}");
        let old = header::scan(&content).unwrap_or_default();
        assert_eq!(header.hops(), old.hops() + 1, "seed {start} {role:?} {headroom}");
        assert!(content.ends_with(&stored[header.len..]), "seed {start}");
        let envelope = Envelope {
            reverse_path: "s@b.test".to_owned(),
            ret: [DsnRet::Full, DsnRet::Hdrs][seed.next(2)],
            recipients: vec![EnvRecipient { address: "r@b.test".to_owned(), ..EnvRecipient::default() }],
            flags: finished.flags,
            body_hash: finished.body_hash,
            size: finished.size,
            ..Envelope::default()
        };
        check_report(&finished, &envelope, start);
        if let Ok(rendered) = render(stored, &envelope, &[], BodyForm::SevenBit) {
            converted += 1;
            let facts = facts::scan(&rendered.body);
            assert!(!facts.eight_bit, "seed {start}");
            let again = convert::to_seven_bit(&rendered.body).expect("converted once, converts again");
            assert_eq!(again, &rendered.body[..], "seed {start}");
        }
    }
    // The generator must reach the code it is for.
    assert!(accepted > 3000 && converted > 2000, "{accepted} accepted, {converted} converted");
}
