//! A zone for tests, read from a few lines of text.
//!
//! One record per line: `owner [ttl] TYPE data`. Names without a final dot are relative to the zone, `@` is the zone
//! itself, `;` starts a comment. SOA and NS of the zone are made up where the text has none.

use std::collections::BTreeMap;
use std::sync::Arc;

use hickory_proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, PTR, SOA, TLSA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::key::Key;

/// Seconds, where a line gives none.
const TTL: u32 = 300;

/// One zone.
#[derive(Clone)]
pub struct Zone {
    pub(super) origin: Name,
    pub(super) records: BTreeMap<Name, BTreeMap<RecordType, Vec<Record>>>,
    pub(super) key: Option<Arc<Key>>,
}

impl Zone {
    /// Reads a zone. The error names the line.
    pub fn parse(origin: &str, text: &str) -> Result<Self, String> {
        let origin = Name::from_ascii(origin).map_err(|e| e.to_string())?.to_lowercase();
        let mut zone = Self { origin: origin.clone(), records: BTreeMap::new(), key: None };
        for line in text.lines() {
            let line = line.split(';').next().unwrap_or("").trim();
            if !line.is_empty() {
                zone.line(line).map_err(|why| format!("{line}: {why}"))?;
            }
        }
        let ns = Name::from_ascii("ns").and_then(|ns| ns.append_domain(&origin)).map_err(|e| e.to_string())?;
        if !zone.has(&origin, RecordType::SOA) {
            let soa = SOA::new(ns.clone(), ns.clone(), 1, 3600, 600, 86_400, 60);
            zone.add(origin.clone(), TTL, RData::SOA(soa));
        }
        if !zone.has(&origin, RecordType::NS) {
            zone.add(origin, TTL, RData::NS(NS(ns)));
        }
        Ok(zone)
    }

    /// Signs it: every answer carries signatures and proofs made with this key.
    #[must_use]
    pub fn signed(mut self, key: &Arc<Key>) -> Self {
        self.add(self.origin.clone(), TTL, key.dnskey());
        self.key = Some(key.clone());
        self
    }

    /// Puts the DS record for a signed child here.
    #[must_use]
    pub fn with_ds(mut self, child: &str, key: &Key) -> Self {
        let child = Name::from_ascii(child).expect("a test writes a name").to_lowercase();
        self.add(child.clone(), TTL, key.ds(&child));
        self
    }

    /// Adds one record.
    pub fn add(&mut self, owner: Name, ttl: u32, data: RData) {
        let record = Record::from_rdata(owner.clone(), ttl, data);
        self.records.entry(owner).or_default().entry(record.record_type()).or_default().push(record);
    }

    pub(super) fn has(&self, name: &Name, kind: RecordType) -> bool {
        self.get(name, kind).is_some()
    }

    pub(super) fn get(&self, name: &Name, kind: RecordType) -> Option<&Vec<Record>> {
        self.records.get(name)?.get(&kind)
    }

    /// The delegation that `name` lies at or under, if any.
    pub(super) fn cut(&self, name: &Name) -> Option<Name> {
        let mut found = None;
        let mut at = name.clone();
        while at != self.origin && !at.is_root() {
            if self.has(&at, RecordType::NS) {
                found = Some(at.clone());
            }
            at = at.base_name();
        }
        found
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let owner = self.name(words.next().ok_or("no owner")?)?;
        let mut kind = words.next().ok_or("no type")?;
        let mut ttl = TTL;
        if let Ok(seconds) = kind.parse::<u32>() {
            ttl = seconds;
            kind = words.next().ok_or("no type")?;
        }
        let data: Vec<&str> = words.collect();
        let data = self.data(kind, &data, line)?;
        self.add(owner, ttl, data);
        Ok(())
    }

    fn name(&self, text: &str) -> Result<Name, String> {
        if text == "@" {
            return Ok(self.origin.clone());
        }
        let name = Name::from_ascii(text).map_err(|e| e.to_string())?.to_lowercase();
        if text.ends_with('.') {
            return Ok(name);
        }
        name.append_domain(&self.origin).map_err(|e| e.to_string())
    }

    fn data(&self, kind: &str, data: &[&str], line: &str) -> Result<RData, String> {
        let word = |at: usize| data.get(at).copied().ok_or("data is missing");
        let number = |at: usize| word(at)?.parse::<u32>().map_err(|e| e.to_string());
        let small = |at: usize| word(at)?.parse::<u8>().map_err(|e| e.to_string());
        Ok(match kind {
            "A" => RData::A(A(word(0)?.parse().map_err(|_| "no address")?)),
            "AAAA" => RData::AAAA(AAAA(word(0)?.parse().map_err(|_| "no address")?)),
            "MX" => {
                let preference = u16::try_from(number(0)?).map_err(|e| e.to_string())?;
                RData::MX(MX::new(preference, self.name(word(1)?)?))
            }
            "NS" => RData::NS(NS(self.name(word(0)?)?)),
            "CNAME" => RData::CNAME(CNAME(self.name(word(0)?)?)),
            "PTR" => RData::PTR(PTR(self.name(word(0)?)?)),
            "SOA" => {
                let seconds = |at| number(at).and_then(|n| i32::try_from(n).map_err(|e| e.to_string()));
                let (primary, mailbox) = (self.name(word(0)?)?, self.name(word(1)?)?);
                RData::SOA(SOA::new(primary, mailbox, number(2)?, seconds(3)?, seconds(4)?, seconds(5)?, number(6)?))
            }
            "TXT" => {
                let text = line.split_once('"').map_or_else(|| data.join(" "), |(_, rest)| rest.replace('"', ""));
                RData::TXT(TXT::new(vec![text]))
            }
            "TLSA" => RData::TLSA(TLSA::new(
                CertUsage::from(small(0)?),
                Selector::from(small(1)?),
                Matching::from(small(2)?),
                hex(word(3)?)?,
            )),
            other => return Err(format!("type {other} is not known here")),
        })
    }
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    if digits.len() != text.len() || !digits.len().is_multiple_of(2) {
        return Err("no hex".into());
    }
    Ok(digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}
