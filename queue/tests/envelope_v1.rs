//! The archived envelope is frozen: a file written by the first release is read by every later one.

use std::path::PathBuf;

use queue::envelope::{EnvelopeError, ENVELOPE_V1};
use queue::{
    BodyFlags, BodyHash, Class, DsnRet, EnvRecipient, Envelope, MessageKind, Notify, SpoolId, UnixMillis, UnixSecs,
};

/// The envelope that `fixtures/envelope-v1.bin` holds.
fn sample() -> Envelope {
    Envelope {
        received: UnixMillis(1_763_679_600_123),
        kind: MessageKind::Dsn,
        reverse_path: "sender@example.test".into(),
        tenant: "acme".into(),
        campaign: "spring".into(),
        stream: "news".into(),
        class: Class::Bulk,
        pool: "warm".into(),
        credential: "acme-api".into(),
        priority: -3,
        not_before: Some(UnixSecs(1_763_680_000)),
        not_after: Some(UnixSecs(1_764_000_000)),
        deliver_by_notify: true,
        ret: DsnRet::Hdrs,
        envid: "QQ314159".into(),
        idempotency_key: "order-77".into(),
        routing_domain: "hub.test".into(),
        recipients: vec![
            EnvRecipient {
                address: "first@one.test".into(),
                orcpt: "rfc822;first+40one.test".into(),
                notify: Notify(Notify::FAILURE | Notify::DELAY),
            },
            EnvRecipient { address: "zweite.ä@two.test".into(), orcpt: String::new(), notify: Notify(Notify::NEVER) },
        ],
        flags: BodyFlags {
            dot_line: true,
            eight_bit: true,
            binary: false,
            smtputf8: true,
            longest_line: 998,
            header_len: 512,
        },
        body_hash: BodyHash { relaxed: [7; 32], simple: [9; 32] },
        size: 4096,
        peer: "192.0.2.7".into(),
        protocol: "ESMTPSA".into(),
        session: 42,
        report_of: Some((SpoolId(99), 3)),
    }
}

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/envelope-v1.bin")
}

#[test]
fn the_first_release_s_envelope_is_still_read() {
    if std::env::var_os("RINGPOST_WRITE_FIXTURES").is_some() {
        std::fs::write(fixture(), sample().encode().unwrap()).unwrap();
    }
    let bytes = std::fs::read(fixture()).unwrap();
    assert_eq!(Envelope::decode(ENVELOPE_V1, &bytes), Ok(sample()));
    assert_eq!(&sample().encode().unwrap()[..], &bytes[..], "and is written the same");
}

#[test]
fn an_unaligned_envelope_is_read_through_a_copy() {
    let bytes = sample().encode().unwrap();
    let mut shifted = vec![0u8; bytes.len() + 16];
    for shift in 0..16 {
        shifted[shift..shift + bytes.len()].copy_from_slice(&bytes);
        let part = &shifted[shift..shift + bytes.len()];
        assert_eq!(Envelope::decode(ENVELOPE_V1, part), Ok(sample()), "{shift}");
    }
}

#[test]
fn an_unknown_version_and_damaged_bytes_are_refused() {
    let bytes = sample().encode().unwrap();
    assert_eq!(Envelope::decode(2, &bytes), Err(EnvelopeError::UnknownVersion(2)));
    for cut in 0..bytes.len() {
        assert!(Envelope::decode(ENVELOPE_V1, &bytes[..cut]).is_err(), "cut at {cut}");
    }
    assert!(Envelope::decode(ENVELOPE_V1, &[0xff; 4096]).is_err());
}

#[test]
fn an_empty_envelope_round_trips() {
    let empty = Envelope::default();
    assert_eq!(Envelope::decode(ENVELOPE_V1, &empty.encode().unwrap()), Ok(empty));
}
