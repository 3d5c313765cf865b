//! What a password is checked against: never the password, nothing it can be computed from.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use argon2::{Argon2, PasswordHash, PasswordVerifier};
use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine;

use super::secret::prepare;
use crate::smtp::limits::{SCRAM_ITERATIONS, SCRAM_ITERATIONS_MAX, SCRAM_ITERATIONS_MIN};

/// RFC 5802 section 3: what a SCRAM server keeps.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// Random, by credential.
    pub salt: Vec<u8>,
    /// At least [`SCRAM_ITERATIONS_MIN`].
    pub iterations: u32,
    /// SHA-256 of the client key.
    pub stored_key: [u8; 32],
    /// Signs what the server says.
    pub server_key: [u8; 32],
}

/// What a credential holds instead of a password.
#[derive(Clone, PartialEq, Eq)]
pub enum Verifier {
    /// No password is right.
    Nobody,
    /// `SCRAM-SHA-256$iterations:salt$stored:server`, all base64.
    Scram(ScramVerifier),
    /// `$argon2id$v=19$m=..,t=..,p=..$salt$hash`. Serves PLAIN and LOGIN only.
    Argon2(String),
}

/// Why a text is no verifier. The text itself is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadVerifier {
    /// Neither form.
    #[error("a verifier is SCRAM-SHA-256$iterations:salt$stored:server or an argon2id string")]
    Form,
    /// Too few or too many iterations.
    #[error("SCRAM iterations lie between 4096 and 10000000")]
    Iterations,
}

impl ScramVerifier {
    /// Derives a verifier: slow. None when the password can't be prepared (control characters).
    #[must_use]
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Option<Self> {
        let salted = salted_password(password, salt, iterations)?;
        let client_key = hmac_sha256(&salted, b"Client Key");
        Some(Self {
            salt: salt.to_vec(),
            iterations,
            stored_key: sha256(&client_key),
            server_key: hmac_sha256(&salted, b"Server Key"),
        })
    }

    /// One that no password fits and that looks the same each time a name is asked for, so that nobody learns which
    /// names exist.
    #[must_use]
    pub fn decoy(process_key: &[u8; 32], name: &str) -> Self {
        let part = |label: &str| hmac_sha256(process_key, [label, "\0", name].concat().as_bytes());
        Self {
            salt: part("decoy salt")[..16].to_vec(),
            iterations: SCRAM_ITERATIONS,
            stored_key: part("decoy stored key"),
            server_key: part("decoy server key"),
        }
    }
}

impl Verifier {
    /// An argon2id hash with the library's own costs (19 MiB, two passes). None for a password that has no prepared
    /// form.
    #[must_use]
    pub fn argon2(password: &str, salt: &[u8]) -> Option<Self> {
        use argon2::password_hash::{PasswordHasher, SaltString};
        let prepared = super::secret::prepare(password)?;
        let salt = SaltString::encode_b64(salt).ok()?;
        let hash = argon2::Argon2::default().hash_password(prepared.as_bytes(), &salt).ok()?;
        Some(Self::Argon2(hash.to_string()))
    }

    /// True when `password` is the one. Slow on purpose (milliseconds): run it on the pool.
    #[must_use]
    pub fn check(&self, password: &str) -> bool {
        match self {
            Self::Nobody => false,
            Self::Scram(own) => ScramVerifier::derive(password, &own.salt, own.iterations)
                .is_some_and(|given| same(&given.stored_key, &own.stored_key)),
            Self::Argon2(text) => {
                // Prepared as when it was hashed.
                let given = prepare(password).unwrap_or_default();
                let same = |hash| Argon2::default().verify_password(given.as_bytes(), &hash).is_ok();
                !given.is_empty() && PasswordHash::new(text).is_ok_and(same)
            }
        }
    }

    /// Bytes that differ between verifiers: a cached success dies with the password.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        match self {
            Self::Nobody => [0; 32],
            Self::Scram(own) => own.stored_key,
            Self::Argon2(text) => sha256(text.as_bytes()),
        }
    }
}

impl FromStr for Verifier {
    type Err = BadVerifier;

    fn from_str(text: &str) -> Result<Self, BadVerifier> {
        if text.starts_with("$argon2id$") {
            let whole = PasswordHash::new(text).is_ok_and(|hash| hash.hash.is_some());
            return whole.then(|| Self::Argon2(text.to_owned())).ok_or(BadVerifier::Form);
        }
        let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or(BadVerifier::Form)?;
        let (first, keys) = rest.split_once('$').ok_or(BadVerifier::Form)?;
        let (iterations, salt) = first.split_once(':').ok_or(BadVerifier::Form)?;
        let (stored, server) = keys.split_once(':').ok_or(BadVerifier::Form)?;
        let bytes = |text: &str| BASE64.decode(text).map_err(|_| BadVerifier::Form);
        let key = |text: &str| <[u8; 32]>::try_from(bytes(text)?).map_err(|_| BadVerifier::Form);
        let iterations: u32 = iterations.parse().map_err(|_| BadVerifier::Iterations)?;
        if !(SCRAM_ITERATIONS_MIN..=SCRAM_ITERATIONS_MAX).contains(&iterations) {
            return Err(BadVerifier::Iterations);
        }
        let salt = bytes(salt)?;
        if salt.is_empty() {
            return Err(BadVerifier::Form);
        }
        Ok(Self::Scram(ScramVerifier { salt, iterations, stored_key: key(stored)?, server_key: key(server)? }))
    }
}

impl fmt::Display for Verifier {
    /// The stored form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("!"),
            Self::Argon2(text) => f.write_str(text),
            Self::Scram(own) => write!(
                f,
                "SCRAM-SHA-256${}:{}${}:{}",
                own.iterations,
                BASE64.encode(&own.salt),
                BASE64.encode(own.stored_key),
                BASE64.encode(own.server_key)
            ),
        }
    }
}

impl fmt::Debug for Verifier {
    /// The kind alone: verifiers are no log material.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nobody => "Verifier::Nobody",
            Self::Scram(_) => "Verifier::Scram(..)",
            Self::Argon2(_) => "Verifier::Argon2(..)",
        })
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramVerifier(..)")
    }
}

/// RFC 5802 section 2.2 `Hi`.
fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Option<[u8; 32]> {
    let password = prepare(password)?;
    let mut out = [0; 32];
    let rounds = NonZeroU32::new(iterations)?;
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, password.as_bytes(), &mut out);
    Some(out)
}

/// HMAC-SHA-256.
pub(super) fn hmac_sha256(key: &[u8], data: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    let mut out = [0; 32];
    out.copy_from_slice(tag.as_ref());
    out
}

/// SHA-256.
pub(super) fn sha256(data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
    out
}

/// Compares without telling by time where the difference is.
pub(super) fn same(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r09_verifier_round_trips_and_checks() {
        let verifier = Verifier::Scram(ScramVerifier::derive("pencil", b"salt of 16 bytes", 4096).unwrap());
        assert_eq!(verifier.to_string().parse(), Ok(verifier.clone()));
        assert!(verifier.check("pencil") && !verifier.check("Pencil") && !verifier.check(""));
        assert_eq!(format!("{verifier:?}"), "Verifier::Scram(..)");
    }

    #[test]
    fn r08_argon2id_strings_check_plain_passwords() {
        // Smallest parameters, so that the test is fast.
        let text = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ";
        assert_eq!(text.parse::<Verifier>(), Err(BadVerifier::Form));
        let params = argon2::Params::new(8, 1, 1, None).unwrap();
        let hasher = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let salt = argon2::password_hash::SaltString::encode_b64(b"somesalt").unwrap();
        let hash = argon2::PasswordHasher::hash_password(&hasher, b"pencil", &salt).unwrap().to_string();
        let verifier: Verifier = hash.parse().unwrap();
        assert!(verifier.check("pencil") && !verifier.check("pencils"));
    }

    #[test]
    fn r08_non_ascii_passwords_are_prepared_on_both_sides() {
        let verifier = Verifier::argon2("p\u{aa}ss\u{a0}word", b"salt of 16 bytes").unwrap();
        assert!(verifier.check("p\u{aa}ss\u{a0}word") && verifier.check("pass word") && !verifier.check(""));
    }

    #[test]
    fn r09_fewer_than_4096_iterations_are_refused() {
        let keys = BASE64.encode([0; 32]);
        let text = |iterations: &str| format!("SCRAM-SHA-256${iterations}:c2FsdA==${keys}:{keys}");
        assert!(text("4096").parse::<Verifier>().is_ok());
        for iterations in ["4095", "0", "-1", "x", "10000001"] {
            assert_eq!(text(iterations).parse::<Verifier>(), Err(BadVerifier::Iterations));
        }
    }

    #[test]
    fn decoys_are_stable_and_fit_nothing() {
        let decoy = ScramVerifier::decoy(&[7; 32], "who");
        assert_eq!(decoy, ScramVerifier::decoy(&[7; 32], "who"));
        assert_ne!(decoy.salt, ScramVerifier::decoy(&[7; 32], "else").salt);
        assert!(!Verifier::Nobody.check(""));
    }
}
