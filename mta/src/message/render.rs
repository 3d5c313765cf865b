//! Rendering: from what is stored to what is sent, the same bytes every time.
//!
//! Per-attempt fields (DKIM signatures) go into a short prefix; the stored body is sent from where it lies. Only a
//! site without 8BITMIME or BINARYMIME gets a converted copy, which is then signed over its own hash. Pure: time is
//! the time of acceptance from the envelope.

use std::sync::Arc;

use queue::{Body, BodyFlags, BounceClass, Envelope, Outcome, OutcomeKind};

use super::address;
use super::canonical;
use super::convert::{self, ConvertError};
use super::dkim;
use super::facts;
use super::header;
use super::key::DkimKey;

pub use super::pool::{Full, Job, Pool};

/// In which form the content goes to a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BodyForm {
    /// Byte for byte as stored.
    #[default]
    AsStored,
    /// Converted to 7 bits.
    SevenBit,
}

/// What a site offers that decides the form, from its last EHLO reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 3030.
    pub binary_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
}

/// What is sent for one attempt: `prefix`, then `body`.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// Fields put in front: the signatures. CRLF-terminated, 7-bit, no line starts with a dot.
    pub prefix: Vec<u8>,
    /// The stored message, or its conversion.
    pub body: Body,
    /// Facts about both together.
    pub flags: BodyFlags,
}

impl Rendered {
    /// Bytes on the wire before dot-stuffing.
    #[must_use]
    pub fn len(&self) -> usize {
        self.prefix.len() + self.body.len()
    }

    /// True when there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl BodyForm {
    /// The form for a site.
    ///
    /// # Errors
    /// RFC 6531 section 3.5: a message that needs SMTPUTF8 fails with 5.6.7 where it is not offered.
    pub fn for_site(flags: &BodyFlags, offer: Offer) -> Result<Self, Outcome> {
        if flags.smtputf8 && !offer.smtputf8 {
            return Err(not_ascii());
        }
        if (flags.eight_bit && !offer.eight_bit_mime) || (flags.binary && !offer.binary_mime) {
            return Ok(Self::SevenBit);
        }
        Ok(Self::AsStored)
    }
}

/// The domain of the author (From) in lower case, by which signing keys are chosen (DMARC aligns with it).
#[must_use]
pub fn author_domain(message: &[u8]) -> Option<String> {
    let header = header::scan(message).ok()?;
    let from = header.first(header::Name::From)?.text(message);
    let domain = address::domain(address::list(&from, 1).first()?);
    (!domain.is_empty()).then_some(domain)
}

/// Renders one stored message. `keys` sign in the given order, each on its own.
///
/// # Errors
/// The outcome for every recipient of the attempt: Failed when the content can't be converted, Deferred when the
/// machine can't sign now.
pub fn render(body: &Body, envelope: &Envelope, keys: &[Arc<DkimKey>], form: BodyForm) -> Result<Rendered, Outcome> {
    let (body, flags, stored_hash) = match form {
        BodyForm::AsStored => (body.clone(), envelope.flags, Some(envelope.body_hash.relaxed)),
        BodyForm::SevenBit => {
            let converted = convert::to_seven_bit(body).map_err(conversion_failed)?;
            let flags = converted_flags(&converted);
            (Body::from(converted), flags, None)
        }
    };
    let mut rendered = Rendered { prefix: Vec::new(), body, flags };
    if keys.is_empty() {
        return Ok(rendered);
    }
    let Ok(header) = header::scan(&rendered.body) else {
        // Only mail for our own addresses is accepted with such a header; it goes on unsigned.
        return Ok(rendered);
    };
    // Zeros mean that nobody took the hash while receiving.
    let hash = match stored_hash {
        Some(hash) if hash != [0; 32] => hash,
        _ => canonical::hash_relaxed(&rendered.body[header.len..]),
    };
    for key in keys {
        let field = dkim::sign(&rendered.body, &header, &hash, key, envelope.received.secs())
            .map_err(|error| deferred(format!("signing with {key:?} failed: {error}")))?;
        rendered.prefix.extend_from_slice(&field);
    }
    rendered.flags.longest_line = rendered.flags.longest_line.max(78);
    rendered.flags.header_len = (rendered.prefix.len() + header.len) as u32;
    Ok(rendered)
}

fn converted_flags(message: &[u8]) -> BodyFlags {
    let facts = facts::scan(message);
    BodyFlags {
        dot_line: facts.dot_line,
        eight_bit: facts.eight_bit,
        binary: false,
        smtputf8: false,
        longest_line: facts.longest_line,
        header_len: header::scan(message).map_or(0, |h| h.len as u32),
    }
}

fn conversion_failed(error: ConvertError) -> Outcome {
    match error {
        ConvertError::Header => not_ascii(),
        // RFC 3463: X.6.3, conversion required but not supported.
        ConvertError::Structure | ConvertError::Encoding => failed([5, 6, 3], error.to_string()),
    }
}

/// RFC 6531 section 3.5 and RFC 5248: X.6.7, non-ASCII where it is not permitted.
fn not_ascii() -> Outcome {
    failed([5, 6, 7], ConvertError::Header.to_string())
}

fn failed(enhanced: [u16; 3], text: String) -> Outcome {
    Outcome { kind: OutcomeKind::Failed, code: 554, enhanced, text, class: BounceClass::ProtocolErrors }
}

fn deferred(text: String) -> Outcome {
    Outcome { kind: OutcomeKind::Deferred, code: 451, enhanced: [4, 3, 0], text, class: BounceClass::TransientFailure }
}

#[cfg(test)]
mod tests {
    use queue::{BodyHash, UnixMillis};

    use super::super::key;
    use super::*;

    fn key_for_tests() -> Arc<DkimKey> {
        Arc::new(DkimKey::from_pem("b.test", "s", &key::generate_ed25519().unwrap().pem).unwrap())
    }

    fn envelope(message: &[u8]) -> Envelope {
        let header = header::scan(message).unwrap();
        Envelope {
            received: UnixMillis(1_700_000_000_000),
            flags: BodyFlags { eight_bit: !message.is_ascii(), ..BodyFlags::default() },
            body_hash: BodyHash { relaxed: canonical::hash_relaxed(&message[header.len..]), simple: [0; 32] },
            ..Envelope::default()
        }
    }

    #[test]
    fn the_stored_hash_is_used_and_every_rendering_is_equal() {
        let message = b"From: a@b.test\r\n\r\nHi\r\n";
        let (key, mut envelope) = (key_for_tests(), envelope(message));
        let body = Body::from(message.to_vec());
        let one = render(&body, &envelope, &[Arc::clone(&key)], BodyForm::AsStored).unwrap();
        let two = render(&body, &envelope, &[Arc::clone(&key)], BodyForm::AsStored).unwrap();
        assert_eq!(one.prefix, two.prefix);
        assert_eq!(one.body.as_ptr(), body.as_ptr());
        envelope.body_hash = BodyHash::default();
        assert_eq!(render(&body, &envelope, &[Arc::clone(&key)], BodyForm::AsStored).unwrap().prefix, one.prefix);
        envelope.body_hash.relaxed = [1; 32];
        assert_ne!(render(&body, &envelope, &[key], BodyForm::AsStored).unwrap().prefix, one.prefix);
    }

    #[test]
    fn r14_conversion_comes_before_signing() {
        let message = "From: a@b.test\r\n\r\nü\r\n".as_bytes();
        let envelope = envelope(message);
        let form = BodyForm::for_site(&envelope.flags, Offer::default()).unwrap();
        assert_eq!(form, BodyForm::SevenBit);
        let rendered = render(&Body::from(message.to_vec()), &envelope, &[key_for_tests()], form).unwrap();
        assert!(rendered.body.is_ascii() && !rendered.flags.eight_bit);
        let signature = String::from_utf8(rendered.prefix).unwrap();
        let hash = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, canonical::sha256(b"=C3=BC\r\n"));
        assert!(signature.contains(&format!("bh={hash};")), "{signature}");
    }

    #[test]
    fn r15_smtputf8_is_not_relayed_to_a_peer_without_it() {
        let flags = BodyFlags { smtputf8: true, eight_bit: true, ..BodyFlags::default() };
        let outcome = BodyForm::for_site(&flags, Offer { eight_bit_mime: true, ..Offer::default() }).unwrap_err();
        assert_eq!((outcome.kind, outcome.enhanced), (OutcomeKind::Failed, [5, 6, 7]));
        let all = Offer { eight_bit_mime: true, smtputf8: true, binary_mime: false };
        assert_eq!(BodyForm::for_site(&flags, all), Ok(BodyForm::AsStored));
        let binary = BodyFlags { binary: true, ..BodyFlags::default() };
        assert_eq!(BodyForm::for_site(&binary, all), Ok(BodyForm::SevenBit));
    }
}
