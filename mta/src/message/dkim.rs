//! DKIM signatures (RFC 6376, RFC 8463): relaxed/relaxed over the body hash taken while receiving.
//!
//! The signing library of the tree hashes the body anew for each signature and takes its own clock, so the header
//! form is built here; its verifier checks us in the tests. Deterministic: the same message, key and time give the
//! same bytes. Never `l=`, never SHA-1.

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use queue::UnixSecs;

use super::canonical::push_relaxed_field;
use super::header::Header;
use super::key::{DkimKey, KeyError};

/// Fields signed once more than they occur, so that nobody can add another one unseen (RFC 6376 section 5.4).
const OVERSIGNED: [&str; 13] = [
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "Sender",
    "In-Reply-To",
    "References",
    "Content-Type",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
];

/// Fields signed when they occur.
const SIGNED: [&str; 9] = [
    "MIME-Version",
    "Content-Transfer-Encoding",
    "List-Id",
    "List-Help",
    "List-Subscribe",
    "List-Post",
    "Feedback-ID",
    "CFBL-Address",
    "Auto-Submitted",
];

/// The complete `DKIM-Signature` field, CRLF included.
///
/// `message` starts with the header that `header` was scanned from; `body_hash` is the relaxed one of its body; `time`
/// is `t=`, the time of acceptance, so that every retry signs the same bytes.
///
/// # Errors
/// When the key can't sign.
pub fn sign(
    message: &[u8],
    header: &Header,
    body_hash: &[u8; 32],
    key: &DkimKey,
    time: UnixSecs,
) -> Result<Vec<u8>, KeyError> {
    let mut canonical = Vec::with_capacity(header.fields_len + 512);
    let names = canonical_fields(message, header, &mut canonical);
    let unsigned = unsigned_field(&names, body_hash, key, time);
    // RFC 6376 section 3.7: the signature's own field with an empty b=, without its CRLF, comes last.
    let value_at = "DKIM-Signature:".len();
    push_relaxed_field(&mut canonical, b"DKIM-Signature", &unsigned.as_bytes()[value_at..]);
    canonical.truncate(canonical.len() - 2);
    let signature = STANDARD.encode(key.sign(&canonical)?);
    let mut field = unsigned.into_bytes();
    push_folded(&mut field, &signature);
    field.extend_from_slice(b"\r\n");
    Ok(field)
}

/// Writes the signed fields in relaxed form and returns the names for `h=`. Of equal names the last field comes
/// first, RFC 6376 section 5.4.2.
fn canonical_fields(message: &[u8], header: &Header, out: &mut Vec<u8>) -> Vec<&'static str> {
    let mut names = Vec::with_capacity(32);
    let rows = OVERSIGNED.iter().map(|n| (*n, true)).chain(SIGNED.iter().map(|n| (*n, false)));
    for (name, over) in rows {
        for field in header.fields.iter().rev() {
            let written = field.name_bytes(message);
            if written.eq_ignore_ascii_case(name.as_bytes()) {
                push_relaxed_field(out, written, field.value(message));
                names.push(name);
            }
        }
        if over {
            names.push(name);
        }
    }
    names
}

fn unsigned_field(names: &[&str], body_hash: &[u8; 32], key: &DkimKey, time: UnixSecs) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(768);
    let _ = write!(
        out,
        "DKIM-Signature: v=1; a={}; c=relaxed/relaxed;\r\n\td={}; s={};\r\n\tt={};",
        key.algorithm(),
        key.domain,
        key.selector,
        time.0
    );
    if let Some(after) = key.expire_after.filter(|after| *after > 0) {
        let _ = write!(out, " x={};", time.0.saturating_add(after));
    }
    if let Some(identity) = key.identity.as_ref().filter(|i| i.is_ascii()) {
        let _ = write!(out, "\r\n\ti={identity};");
    }
    out.push_str("\r\n\th=");
    let mut column = 3;
    for (place, name) in names.iter().enumerate() {
        // A fold may stand around the colon, RFC 6376 section 3.5.
        if column + name.len() > 74 {
            out.push_str("\r\n\t ");
            column = 2;
        }
        out.push_str(name);
        out.push(if place + 1 == names.len() { ';' } else { ':' });
        column += name.len() + 1;
    }
    let _ = write!(out, "\r\n\tbh={};\r\n\tb=", STANDARD.encode(body_hash));
    out
}

fn push_folded(out: &mut Vec<u8>, base64: &str) {
    for (place, chunk) in base64.as_bytes().chunks(70).enumerate() {
        if place > 0 {
            out.extend_from_slice(b"\r\n\t ");
        }
        out.extend_from_slice(chunk);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::hash::Hash;
    use std::sync::{Arc, Mutex};

    use mail_auth::common::parse::TxtRecordParser;
    use mail_auth::common::verify::DomainKey;
    use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt};

    use super::super::{canonical, header, key};
    use super::*;

    /// Keys that need no DNS: the verifier looks here first.
    struct Records(Mutex<HashMap<Box<str>, Txt>>);

    impl ResolverCache<Box<str>, Txt> for Records {
        fn get<Q>(&self, name: &Q) -> Option<Txt>
        where
            Box<str>: std::borrow::Borrow<Q>,
            Q: Hash + Eq + ?Sized,
        {
            self.0.lock().unwrap().get(name).cloned()
        }
        fn remove<Q>(&self, _: &Q) -> Option<Txt>
        where
            Box<str>: std::borrow::Borrow<Q>,
            Q: Hash + Eq + ?Sized,
        {
            None
        }
        fn insert(&self, _: Box<str>, _: Txt, _: std::time::Instant) {}
    }

    fn verify(message: &[u8], keys: &[&DkimKey]) -> Vec<bool> {
        let records: HashMap<Box<str>, Txt> = keys
            .iter()
            .map(|k| {
                let name = format!("{}._domainkey.{}.", k.selector, k.domain);
                let record = DomainKey::parse(k.record().as_bytes()).unwrap();
                (name.into_boxed_str(), Txt::DomainKey(Arc::new(record)))
            })
            .collect();
        let records = Records(Mutex::new(records));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let authenticator = MessageAuthenticator::new_cloudflare().unwrap();
            let parsed = AuthenticatedMessage::parse(message).unwrap();
            authenticator
                .verify_dkim(Parameters::new(&parsed).with_txt_cache(&records))
                .await
                .iter()
                .map(|output| *output.result() == DkimResult::Pass)
                .collect()
        })
    }

    pub(crate) fn test_key(domain: &str, selector: &str, rsa: bool) -> DkimKey {
        let made = if rsa { key::generate_rsa() } else { key::generate_ed25519() };
        DkimKey::from_pem(domain, selector, &made.unwrap().pem).unwrap()
    }

    fn signed(message: &[u8], keys: &[&DkimKey]) -> Vec<u8> {
        let header = header::scan(message).unwrap();
        let hash = canonical::hash_relaxed(&message[header.len..]);
        let mut out = Vec::new();
        for key in keys {
            out.extend(sign(message, &header, &hash, key, UnixSecs(1_700_000_000)).unwrap());
        }
        out.extend_from_slice(message);
        out
    }

    const MESSAGE: &[u8] =
        b"Received: from x\r\n\tby y; z\r\nFrom: A <a@example.org>\r\nTo: one@b.test,\r\n\ttwo@b.test\r\n\
        Subject:  two   blanks \r\nDate: Fri, 20 Nov 2026 22:58:09 +0000\r\nMessage-ID: <1@example.org>\r\n\
        List-Unsubscribe: <https://u.test/1>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\n\
        Hello \t world \r\n\r\n.dot\r\n\r\n\r\n";

    #[test]
    fn r27_rsa_ed25519_and_both_verify() {
        let rsa = test_key("example.org", "r1", true);
        let ed = test_key("example.org", "e1", false);
        assert_eq!(verify(&signed(MESSAGE, &[&rsa]), &[&rsa, &ed]), [true]);
        assert_eq!(verify(&signed(MESSAGE, &[&ed]), &[&rsa, &ed]), [true]);
        assert_eq!(verify(&signed(MESSAGE, &[&ed, &rsa]), &[&rsa, &ed]), [true, true]);
        assert_eq!(verify(&signed(b"From: a@example.org\r\n\r\n", &[&ed]), &[&ed]), [true]);
        assert_eq!(verify(&signed(b"From: a@example.org\r\n\r\nno end", &[&ed]), &[&ed]), [true]);
    }

    #[test]
    fn r27_a_change_or_an_added_field_breaks_the_signature() {
        let ed = test_key("example.org", "e1", false);
        let good = String::from_utf8(signed(MESSAGE, &[&ed])).unwrap();
        for (from, to) in [
            ("Hello", "Hallo"),
            ("\r\nSubject: ", "\r\nSubject: x\r\nSubject: "),
            ("\r\nFrom: A", "\r\nFrom: evil@x.test\r\nFrom: A"),
            ("\r\nTo: one", "\r\nReply-To: x@y.test\r\nTo: one"),
            ("One-Click", "Two-Click"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good);
            assert_eq!(verify(bad.as_bytes(), &[&ed]), [false], "{from}");
        }
    }

    #[test]
    fn r27_tags_are_as_promised_and_bytes_repeat() {
        let mut ed = test_key("example.org", "e1", false);
        ed.expire_after = Some(3600);
        ed.identity = Some("@mail.example.org".to_owned());
        let one = signed(MESSAGE, &[&ed]);
        assert_eq!(one, signed(MESSAGE, &[&ed]));
        let text = String::from_utf8(one.clone()).unwrap();
        assert!(text.contains("t=1700000000; x=1700003600;"));
        assert!(text.contains("i=@mail.example.org;"));
        assert!(text.contains("h=From:From:To:To:Cc:Subject:Subject:"));
        assert!(!text.contains(" l="));
        assert!(text.lines().all(|line| line.len() <= 78), "{text}");
        ed.expire_after = None;
        assert_eq!(verify(&signed(MESSAGE, &[&ed]), &[&ed]), [true]);
        // Expired long ago: a verifier must say so.
        assert_eq!(verify(&one, &[&ed]), [false]);
    }
}
