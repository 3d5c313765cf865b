//! Keys for signed test zones (Ed25519), made anew for every run.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hickory_proto::dnssec::crypto::Ed25519SigningKey;
use hickory_proto::dnssec::rdata::{DNSSECRData, SigInput, DNSKEY, DS, RRSIG};
use hickory_proto::dnssec::{DigestType, SigningKey, TrustAnchors, TBS};
use hickory_proto::rr::{DNSClass, Name, RData, Record};

/// A zone's one key, which signs everything in it.
pub struct Key {
    signing: Ed25519SigningKey,
    dnskey: DNSKEY,
}

impl Key {
    /// A new key.
    #[must_use]
    pub fn generate() -> Arc<Self> {
        let der = Ed25519SigningKey::generate_pkcs8().expect("a key can be made");
        let signing = Ed25519SigningKey::from_pkcs8(&der).expect("our own key can be read");
        let public = signing.to_public_key().expect("a key has a public part");
        Arc::new(Self { signing, dnskey: DNSKEY::from_key(&public) })
    }

    pub(super) fn dnskey(&self) -> RData {
        RData::DNSSEC(DNSSECRData::DNSKEY(self.dnskey.clone()))
    }

    pub(super) fn ds(&self, zone: &Name) -> RData {
        let public = self.dnskey.public_key();
        let ds = DS::from_key(public, zone, DigestType::SHA256).expect("a digest can be made");
        RData::DNSSEC(DNSSECRData::DS(ds))
    }

    /// The signature over one record set (all of one name and type), RFC 4034 section 3.
    pub(super) fn sign(&self, zone: &Name, records: &[Record], spoil: bool) -> Option<Record> {
        let first = records.first()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs() as u32;
        let input = SigInput {
            type_covered: first.record_type(),
            algorithm: self.signing.algorithm(),
            num_labels: first.name.num_labels(),
            original_ttl: first.ttl,
            sig_expiration: (now + 86_400).into(),
            sig_inception: (now - 3600).into(),
            key_tag: self.dnskey.calculate_key_tag().ok()?,
            signer_name: zone.clone(),
        };
        let signed = TBS::from_input(&first.name, DNSClass::IN, &input, records.iter()).ok()?;
        let mut signature = self.signing.sign(&signed).ok()?;
        if spoil {
            signature[0] ^= 0xff;
        }
        let rrsig = RData::DNSSEC(DNSSECRData::RRSIG(RRSIG::from_sig(input, signature)));
        Some(Record::from_rdata(first.name.clone(), first.ttl, rrsig))
    }
}

/// Trusts this key for the root, as a resolver's built-in anchors do for the real one.
#[must_use]
pub fn anchors(root: &Key) -> Arc<TrustAnchors> {
    let mut anchors = TrustAnchors::empty();
    anchors.insert(root.dnskey.public_key());
    Arc::new(anchors)
}
