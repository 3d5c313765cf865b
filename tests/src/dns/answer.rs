//! What the test server answers: records, referrals, "no such record" with its proof.

use hickory_proto::dnssec::rdata::{DNSSECRData, NSEC};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::zone::Zone;
use super::Quirk;

/// Most CNAMEs chased for a forwarder's client.
const CHASE_MAX: usize = 10;

struct Writer<'a> {
    answer: &'a mut Message,
    dnssec: bool,
    spoil: bool,
    quirks: &'a [Quirk],
}

/// Fills in the answer to one question.
pub fn fill(answer: &mut Message, zones: &[Zone], name: &Name, kind: RecordType, dnssec: bool, quirks: &[Quirk]) {
    let recursive = answer.metadata.recursion_desired;
    let mut writer = Writer {
        answer,
        dnssec: dnssec && !quirks.contains(&Quirk::Unsigned),
        spoil: quirks.contains(&Quirk::BadSignature),
        quirks,
    };
    let mut at = name.clone();
    for _ in 0..CHASE_MAX {
        let Some(zone) = closest(zones, &at, kind) else {
            if at == *name {
                writer.answer.metadata.response_code = ResponseCode::Refused;
            }
            return;
        };
        match writer.one(zone, &at, kind, recursive) {
            Some(target) => at = target,
            None => return,
        }
    }
    // A chain without an end: real forwarders give up like this.
    writer.answer.answers.clear();
    writer.answer.metadata.response_code = ResponseCode::ServFail;
}

/// The zone with the longest name; for a DS record the one above the cut.
fn closest<'a>(zones: &'a [Zone], name: &Name, kind: RecordType) -> Option<&'a Zone> {
    let fits = |zone: &&Zone| zone.origin.zone_of(name) && (kind != RecordType::DS || zone.origin != *name);
    zones.iter().filter(fits).max_by_key(|zone| zone.origin.num_labels())
}

impl Writer<'_> {
    /// Answers from one zone; gives the CNAME's target when there is more to chase.
    fn one(&mut self, zone: &Zone, name: &Name, kind: RecordType, recursive: bool) -> Option<Name> {
        let cut = zone.cut(name).filter(|cut| !(kind == RecordType::DS && cut == name));
        if let (Some(cut), false) = (cut, recursive) {
            self.referral(zone, &cut);
            return None;
        }
        self.answer.metadata.authoritative = !recursive;
        if let Some(records) = zone.get(name, kind) {
            self.records(zone, records, false);
            return None;
        }
        if let Some(alias) = zone.get(name, RecordType::CNAME) {
            self.records(zone, alias, false);
            // RFC 1034 section 4.3.2 lets an authoritative server go on within its zone.
            return alias.first().and_then(|record| match &record.data {
                RData::CNAME(target) => Some(target.0.clone()),
                _ => None,
            });
        }
        self.nothing(zone, name);
        None
    }

    fn records(&mut self, zone: &Zone, records: &[Record], authority: bool) {
        let signature =
            zone.key.as_ref().filter(|_| self.dnssec).and_then(|key| key.sign(&zone.origin, records, self.spoil));
        let all = records.iter().cloned().chain(signature);
        if authority {
            self.answer.add_authorities(all);
        } else {
            self.answer.add_answers(all);
        }
    }

    fn referral(&mut self, zone: &Zone, cut: &Name) {
        let servers = zone.get(cut, RecordType::NS).cloned().unwrap_or_default();
        self.answer.add_authorities(servers.clone());
        match zone.get(cut, RecordType::DS) {
            Some(ds) => self.records(zone, ds, true),
            None => self.proof(zone, cut),
        }
        if self.quirks.contains(&Quirk::NoGlue) {
            return;
        }
        for server in &servers {
            let RData::NS(ns) = &server.data else { continue };
            for kind in [RecordType::A, RecordType::AAAA] {
                self.answer.add_additionals(zone.get(&ns.0, kind).cloned().unwrap_or_default());
            }
        }
    }

    /// No such record, or no such name: RFC 2308 section 2, with the proof of RFC 4035 section 3.1.3.
    fn nothing(&mut self, zone: &Zone, name: &Name) {
        let below = |owner: &Name| name.zone_of(owner);
        let exists = zone.records.keys().any(below);
        if !exists {
            self.answer.metadata.response_code = ResponseCode::NXDomain;
        }
        if self.quirks.contains(&Quirk::NoSoa) {
            return;
        }
        if let Some(soa) = zone.get(&zone.origin, RecordType::SOA) {
            self.records(zone, soa, true);
        }
        self.proof(zone, name);
        if !exists {
            let mut above = name.base_name();
            while !zone.records.keys().any(|owner| above.zone_of(owner)) {
                above = above.base_name();
            }
            if let Ok(wildcard) = above.prepend_label("*") {
                self.proof(zone, &wildcard);
            }
        }
    }

    /// The NSEC record at a name, or the one whose span holds it (RFC 4034 section 4).
    fn proof(&mut self, zone: &Zone, name: &Name) {
        if zone.key.is_none() || !self.dnssec {
            return;
        }
        let own: Vec<&Name> =
            zone.records.keys().filter(|owner| zone.cut(owner).is_none_or(|cut| cut == **owner)).collect();
        let Some(at) = own.iter().rposition(|owner| *owner <= name) else { return };
        let owner = own[at];
        let next = own.get(at + 1).copied().unwrap_or(&zone.origin);
        let kinds: Vec<RecordType> = zone
            .records
            .get(owner)
            .into_iter()
            .flat_map(|kinds| kinds.keys().copied())
            // Addresses at a cut are glue, not the parent's data.
            .filter(|kind| zone.cut(owner).is_none() || matches!(kind, RecordType::NS | RecordType::DS))
            .collect();
        let nsec = RData::DNSSEC(DNSSECRData::NSEC(NSEC::new_cover_self(next.clone(), kinds)));
        let record = Record::from_rdata(owner.clone(), 60, nsec);
        if !self.answer.authorities.contains(&record) {
            self.records(zone, &[record], true);
        }
    }
}
