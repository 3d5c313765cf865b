//! Login messages: PLAIN, SCRAM from both ends, verifiers as text. Only the right secret gets in.

use std::str::FromStr;
use std::sync::OnceLock;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::prelude::{Engine, BASE64_STANDARD};
use mta::smtp::sasl::{plain, ClientFirst, Exchange, ScramVerifier, Verifier};

use super::site;
use super::source::Source;
use super::{must, Verdict};

const EXPORTER: [u8; 32] = [7; 32];

pub(super) fn run(source: &mut Source<'_>) -> Verdict {
    match source.byte() % 4 {
        0 => plain_message(source),
        1 => verifier_text(source),
        _ => scram(source),
    }
}

fn plain_message(source: &mut Source<'_>) -> Verdict {
    let mut message = match source.byte() % 3 {
        0 => b"\0alice\0secret".to_vec(),
        1 => b"alice\0alice\0secret".to_vec(),
        _ => source.spicy(40),
    };
    source.damage(&mut message, 3);
    if let Some(login) = plain(&message) {
        let again = [&login.authzid, "\0", &login.name, "\0", login.password.reveal()].concat();
        must(again.as_bytes() == message, || format!("{} read as {login:?}", message.escape_ascii()))?;
        must(!login.name.is_empty() && !login.password.reveal().is_empty(), || "an empty part".to_owned())?;
    }
    Ok(())
}

fn verifier_text(source: &mut Source<'_>) -> Verdict {
    let mut text = match source.byte() % 3 {
        0 => Verifier::Scram(site::verifier()).to_string().into_bytes(),
        1 => b"$argon2id$v=19$m=4096,t=1,p=1$c2FsdHNhbHRzYWx0$c2FsdHNhbHRzYWx0c2FsdHNhbHRzYWx0c2E".to_vec(),
        _ => source.spicy(60),
    };
    if !source.one_in(8) {
        source.damage(&mut text, 3);
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    if let Ok(verifier) = Verifier::from_str(&text) {
        let again = Verifier::from_str(&verifier.to_string());
        must(again.as_ref().ok() == Some(&verifier), || format!("{text:?} does not come back"))?;
    }
    Ok(())
}

/// The salted password of "secret" under the verifier's salt, taken once.
fn client_key() -> [u8; 32] {
    static KEY: OnceLock<[u8; 32]> = OnceLock::new();
    *KEY.get_or_init(|| {
        let own: ScramVerifier = site::verifier();
        let mut salted = [0; 32];
        let rounds = std::num::NonZeroU32::new(own.iterations).expect("some iterations");
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &own.salt, b"secret", &mut salted);
        sign(&salted, b"Client Key")
    })
}

fn sign(key: &[u8], text: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    tag.as_ref().try_into().unwrap_or_default()
}

fn scram(source: &mut Source<'_>) -> Verdict {
    let plus = source.flip();
    let offered_plus = plus || source.flip();
    let header = if plus {
        "p=tls-exporter,,"
    } else if offered_plus {
        "n,,"
    } else {
        "y,,"
    };
    let bare = format!("n=alice,r={}", "abc".repeat(1 + source.below(5)));
    let mut first = format!("{header}{bare}").into_bytes();
    let intact = !source.one_in(3);
    if !intact {
        source.damage(&mut first, 3);
    }
    let parsed = match ClientFirst::parse(&first, plus, offered_plus) {
        Ok(parsed) => parsed,
        Err(error) => return must(!intact, || format!("{} refused: {error}", first.escape_ascii())),
    };
    let exchange = Exchange::new(parsed, site::verifier(), "server-nonce");
    let server_first = exchange.server_first().to_owned();
    let exporter = plus.then_some(&EXPORTER);
    // What an honest client answers to the first text it meant to send.
    let nonce = server_first.strip_prefix("r=").and_then(|rest| rest.split(',').next()).unwrap_or_default().to_owned();
    let mut binding = header.as_bytes().to_vec();
    binding.extend_from_slice(exporter.map_or(&[][..], |exporter| &exporter[..]));
    let without_proof = format!("c={},r={nonce}", BASE64_STANDARD.encode(binding));
    let signed = [&bare, &server_first, &without_proof].map(String::as_str).join(",");
    let stored = digest::digest(&digest::SHA256, &client_key());
    let mut proof = client_key();
    proof.iter_mut().zip(sign(stored.as_ref(), signed.as_bytes())).for_each(|(byte, other)| *byte ^= other);
    let last = format!("{without_proof},p={}", BASE64_STANDARD.encode(proof));
    let answer = exchange.finish(last.as_bytes(), exporter);
    if intact {
        must(answer.is_ok(), || format!("the right secret is refused: {answer:?}"))?;
    } else if answer.is_ok() {
        // Damage that hit nothing that counts leaves the text as it was.
        must(first == format!("{header}{bare}").as_bytes(), || {
            format!("{} was taken for {header}{bare}", first.escape_ascii())
        })?;
    }
    let mut bad = last.clone().into_bytes();
    source.damage(&mut bad, 3);
    let answer = exchange.finish(&bad, exporter);
    must(answer.is_err() || bad == last.as_bytes(), || format!("{} got in", bad.escape_ascii()))?;
    let other = exchange.finish(last.as_bytes(), Some(&[8; 32]));
    must(!plus || other.is_err(), || "the binding of another connection got in".to_owned())
}
