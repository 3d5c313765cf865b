//! The server side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS: RFC 5802, RFC 7677, RFC 9266.
//!
//! Four texts: client first, server first, client final, server final. No password crosses the wire and the verifier
//! alone can't log in. The gs2 flag tells a downgrade: a client that says `y` was shown no -PLUS although we offer it.

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine;

use super::secret::prepare;
use super::verifier::{hmac_sha256, same, sha256, ScramVerifier};
use crate::smtp::limits::SECRET_MAX;

/// What the client says about channel binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// `n`: it can't.
    Unsupported,
    /// `y`: it can, and thinks we can't.
    NotOffered,
    /// `p=tls-exporter`.
    TlsExporter,
}

/// Why an exchange failed. All but `Syntax` look the same on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// Malformed text.
    #[error("malformed SCRAM message")]
    Syntax,
    /// `y` although -PLUS was offered: someone took it off the list.
    #[error("channel binding was offered and the client did not see it")]
    Downgrade,
    /// Another binding than `tls-exporter`, or one that does not fit the mechanism.
    #[error("unsupported channel binding")]
    Binding,
    /// The proof is wrong: password or name.
    #[error("wrong proof")]
    Proof,
}

/// The first text of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFirst {
    /// The gs2 flag.
    pub binding: ChannelBinding,
    /// As whom it wants to act; empty means as itself.
    pub authzid: String,
    /// Who it says it is, prepared.
    pub name: String,
    nonce: String,
    gs2_header: String,
    bare: String,
}

impl ClientFirst {
    /// Reads the decoded text. `plus` tells which mechanism was chosen, `offered_plus` whether EHLO offered -PLUS.
    pub fn parse(message: &[u8], plus: bool, offered_plus: bool) -> Result<Self, ScramError> {
        let text = std::str::from_utf8(message).map_err(|_| ScramError::Syntax)?;
        let mut parts = text.splitn(3, ',');
        let (flag, authzid, bare) = match (parts.next(), parts.next(), parts.next()) {
            (Some(flag), Some(authzid), Some(bare)) => (flag, authzid, bare),
            _ => return Err(ScramError::Syntax),
        };
        let binding = binding(flag, plus, offered_plus)?;
        let authzid = match authzid {
            "" => String::new(),
            _ => name(authzid.strip_prefix("a=").ok_or(ScramError::Syntax)?)?,
        };
        // RFC 5802 section 5.1: a mandatory extension we don't know fails the exchange.
        let mut attributes = bare.split(',');
        let user = attributes.next().and_then(|part| part.strip_prefix("n=")).ok_or(ScramError::Syntax)?;
        let nonce = attributes.next().and_then(|part| part.strip_prefix("r=")).ok_or(ScramError::Syntax)?;
        let printable = nonce.bytes().all(|byte| matches!(byte, b'!'..=b'~') && byte != b',');
        if nonce.is_empty() || nonce.len() > SECRET_MAX || !printable {
            return Err(ScramError::Syntax);
        }
        let name = prepare(&name(user)?).filter(|name| !name.is_empty()).ok_or(ScramError::Syntax)?;
        Ok(Self {
            binding,
            authzid,
            name,
            nonce: nonce.to_owned(),
            gs2_header: text[..text.len() - bare.len()].to_owned(),
            bare: bare.to_owned(),
        })
    }
}

fn binding(flag: &str, plus: bool, offered_plus: bool) -> Result<ChannelBinding, ScramError> {
    match (flag, plus) {
        ("n", false) => Ok(ChannelBinding::Unsupported),
        ("y", false) if offered_plus => Err(ScramError::Downgrade),
        ("y", false) => Ok(ChannelBinding::NotOffered),
        ("p=tls-exporter", true) => Ok(ChannelBinding::TlsExporter),
        ("n" | "y", true) => Err(ScramError::Binding),
        _ if flag.starts_with("p=") => Err(ScramError::Binding),
        _ => Err(ScramError::Syntax),
    }
}

/// RFC 5802 section 5.1: `=2C` is a comma, `=3D` an equals sign, nothing else may follow one.
fn name(text: &str) -> Result<String, ScramError> {
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split('=');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        if let Some(rest) = part.strip_prefix("2C") {
            out.push(',');
            out.push_str(rest);
        } else {
            let rest = part.strip_prefix("3D").ok_or(ScramError::Syntax)?;
            out.push('=');
            out.push_str(rest);
        }
    }
    if out.is_empty() || out.len() > SECRET_MAX || out.contains('\0') {
        return Err(ScramError::Syntax);
    }
    Ok(out)
}

/// An exchange between server first and client final.
#[derive(Clone, Debug)]
pub struct Exchange {
    first: ClientFirst,
    nonce: String,
    server_first: String,
    verifier: ScramVerifier,
}

impl Exchange {
    /// `server_nonce` must be printable, unique and not to be guessed. For an unknown name pass a decoy.
    #[must_use]
    pub fn new(first: ClientFirst, verifier: ScramVerifier, server_nonce: &str) -> Self {
        let nonce = [first.nonce.as_str(), server_nonce].concat();
        let salt = BASE64.encode(&verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", verifier.iterations);
        Self { first, nonce, server_first, verifier }
    }

    /// The text to send as a challenge (before base64).
    #[must_use]
    pub fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Who the client says it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.first.name
    }

    /// Checks the client's final text; gives the server's final one. `exporter` is the binding of this TLS session.
    pub fn finish(&self, message: &[u8], exporter: Option<&[u8; 32]>) -> Result<String, ScramError> {
        let text = std::str::from_utf8(message).map_err(|_| ScramError::Syntax)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(ScramError::Syntax)?;
        let mut attributes = without_proof.split(',');
        let channel = attributes.next().and_then(|part| part.strip_prefix("c=")).ok_or(ScramError::Syntax)?;
        let nonce = attributes.next().and_then(|part| part.strip_prefix("r=")).ok_or(ScramError::Syntax)?;
        let decode = |text: &str| BASE64.decode(text).map_err(|_| ScramError::Syntax);
        let proof = <[u8; 32]>::try_from(decode(proof)?).map_err(|_| ScramError::Syntax)?;
        let channel = decode(channel)?;
        let mut expected = self.first.gs2_header.clone().into_bytes();
        if self.first.binding == ChannelBinding::TlsExporter {
            expected.extend_from_slice(exporter.ok_or(ScramError::Binding)?);
        }
        if !same(&channel, &expected) {
            return Err(ScramError::Binding);
        }
        if nonce != self.nonce {
            return Err(ScramError::Proof);
        }
        let signed = [self.first.bare.as_str(), &self.server_first, without_proof].join(",");
        let signature = hmac_sha256(&self.verifier.stored_key, signed.as_bytes());
        let mut client_key = proof;
        client_key.iter_mut().zip(signature).for_each(|(byte, other)| *byte ^= other);
        if !same(&sha256(&client_key), &self.verifier.stored_key) {
            return Err(ScramError::Proof);
        }
        let signature = hmac_sha256(&self.verifier.server_key, signed.as_bytes());
        Ok(format!("v={}", BASE64.encode(signature)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677 section 3.
    const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn pencil() -> ScramVerifier {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        ScramVerifier::derive("pencil", &salt, 4096).unwrap()
    }

    fn exchange() -> Exchange {
        Exchange::new(ClientFirst::parse(FIRST, false, false).unwrap(), pencil(), SERVER_NONCE)
    }

    #[test]
    fn r09_vector_of_rfc_7677_section_3() {
        let exchange = exchange();
        assert_eq!(
            exchange.server_first(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        assert_eq!(
            exchange.finish(FINAL.as_bytes(), None).as_deref(),
            Ok("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
        );
    }

    #[test]
    fn r09_any_changed_byte_fails() {
        let exchange = exchange();
        for at in 0..FINAL.len() {
            let mut text = FINAL.as_bytes().to_vec();
            text[at] ^= 1;
            assert!(exchange.finish(&text, None).is_err(), "{at}");
        }
        assert_eq!(exchange.finish(b"", None), Err(ScramError::Syntax));
    }

    #[test]
    fn r09_downgrade_by_the_y_flag_is_detected() {
        let first = b"y,,n=user,r=abc";
        assert_eq!(ClientFirst::parse(first, false, true), Err(ScramError::Downgrade));
        assert!(ClientFirst::parse(first, false, false).is_ok());
        assert_eq!(ClientFirst::parse(first, true, true), Err(ScramError::Binding));
    }

    #[test]
    fn r09_plus_is_bound_to_the_tls_exporter() {
        let first = ClientFirst::parse(b"p=tls-exporter,,n=user,r=abc", true, true).unwrap();
        let exchange = Exchange::new(first, pencil(), "xyz");
        let exporter = [9u8; 32];
        let channel = [b"p=tls-exporter,,".as_slice(), &exporter].concat();
        let without = format!("c={},r=abcxyz", BASE64.encode(channel));
        let signed = ["n=user,r=abc", exchange.server_first(), &without].join(",");
        let salted = {
            let mut out = [0; 32];
            let rounds = std::num::NonZeroU32::new(4096).unwrap();
            let algorithm = aws_lc_rs::pbkdf2::PBKDF2_HMAC_SHA256;
            aws_lc_rs::pbkdf2::derive(algorithm, rounds, &pencil().salt, b"pencil", &mut out);
            out
        };
        let mut proof = hmac_sha256(&salted, b"Client Key");
        let signature = hmac_sha256(&sha256(&proof), signed.as_bytes());
        proof.iter_mut().zip(signature).for_each(|(byte, other)| *byte ^= other);
        let text = format!("{without},p={}", BASE64.encode(proof));
        assert!(exchange.finish(text.as_bytes(), Some(&exporter)).is_ok());
        assert_eq!(exchange.finish(text.as_bytes(), Some(&[8; 32])), Err(ScramError::Binding));
        assert_eq!(exchange.finish(text.as_bytes(), None), Err(ScramError::Binding));
    }

    #[test]
    fn r09_malformed_first_texts() {
        for text in [
            &b""[..],
            b"n",
            b"n,,",
            b"n,,n=user",
            b"n,,r=a,n=user",
            b"x,,n=user,r=a",
            b"n,b,n=user,r=a",
            b"n,,n=,r=a",
            b"n,,n=us=er,r=a",
            b"n,,n=user,r=",
            b"n,,n=user,r=a\x01",
            b"n,,m=1,n=user,r=a",
            b"\xff",
        ] {
            assert_eq!(ClientFirst::parse(text, false, true), Err(ScramError::Syntax), "{text:?}");
        }
        for flag in ["p=tls-unique", "p=tls-server-end-point"] {
            let text = format!("{flag},,n=user,r=a");
            assert_eq!(ClientFirst::parse(text.as_bytes(), true, true), Err(ScramError::Binding));
        }
        assert_eq!(ClientFirst::parse(b"n,,n=a=2Cb=3Dc,r=a", false, true).unwrap().name, "a,b=c");
    }
}
