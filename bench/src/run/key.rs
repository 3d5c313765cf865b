//! A DKIM key for a run: the private key and the key record as files, and what a library needs to sign with it.

use anyhow::{Context, Result};
use base64::Engine;
use mail_auth::common::crypto::{RsaKey, Sha256};
use mail_auth::common::headers::HeaderWriter;
use mail_auth::dkim::DkimSigner;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::PrivateKeyDer;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

/// Domain the key signs for; the default sender of the injector is in it.
pub const DOMAIN: &str = "bench.test";
/// Selector of the key.
pub const SELECTOR: &str = "bench";

/// Header fields that are signed.
const FIELDS: [&str; 7] = ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"];

/// Makes an RSA-2048 key in `dir` (`dkim.pem`, `dkim.txt`) and sets the placeholders.
pub fn write(dir: &Path, values: &mut BTreeMap<String, String>) -> Result<()> {
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?;
    let path = dir.join("dkim.pem");
    fs::write(&path, key.serialize_pem())?;
    let public = base64::engine::general_purpose::STANDARD.encode(rcgen::PublicKeyData::subject_public_key_info(&key));
    let record = format!("{SELECTOR}._domainkey.{DOMAIN} v=DKIM1; k=rsa; p={public}\n");
    fs::write(dir.join("dkim.txt"), record)?;
    values.insert("dkim_key".to_owned(), path.display().to_string());
    values.insert("dkim_keys".to_owned(), dir.join("dkim.txt").display().to_string());
    values.insert("dkim_domain".to_owned(), DOMAIN.to_owned());
    values.insert("dkim_selector".to_owned(), SELECTOR.to_owned());
    Ok(())
}

/// The `DKIM-Signature` field of `message` by the key in `dir`, with its line end.
#[cfg(test)]
pub fn sign(dir: &Path, message: &[u8]) -> Result<String> {
    let key = read(dir)?;
    let signer = DkimSigner::from_key(key).domain(DOMAIN).selector(SELECTOR).headers(FIELDS);
    Ok(signer.sign(message).map_err(|e| anyhow::anyhow!("signing: {e}"))?.to_header())
}

/// Microseconds the library needs to sign `message` with the key in `dir`, on these cores: median of 300.
pub fn signing_time_us(dir: &Path, cores: &str, message: &[u8]) -> Result<f64> {
    let (dir, cores, message) = (dir.to_owned(), cores.to_owned(), message.to_owned());
    // A thread of its own, because pinning stays with the thread.
    let timed = std::thread::spawn(move || -> Result<f64> {
        crate::process::pin_self(&cores)?;
        let signer = DkimSigner::from_key(read(&dir)?).domain(DOMAIN).selector(SELECTOR).headers(FIELDS);
        let mut times = Vec::new();
        for _ in 0..300 {
            let began = Instant::now();
            let signature = signer.sign(&message).map_err(|e| anyhow::anyhow!("signing: {e}"))?;
            std::hint::black_box(signature.to_header());
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().context("no samples")
    });
    timed.join().map_err(|_| anyhow::anyhow!("the signing thread died"))?
}

fn read(dir: &Path) -> Result<RsaKey<Sha256>> {
    let pem = fs::read_to_string(dir.join("dkim.pem"))?;
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).context("the key just written")?;
    RsaKey::<Sha256>::from_key_der(der).map_err(|e| anyhow::anyhow!("key: {e}"))
}
