//! Labels: what recovery needs to schedule a message without reading its envelope.
//!
//! They stand between a record's header and its envelope, and once more in the footer of a sealed segment, where a
//! million of them are read in one go. Twin of `FORMAT.md`, section "Labels".

use std::collections::HashMap;

use super::layout::{put, u16_at, u32_at, u8_at};
use crate::envelope::{Class, Envelope};
use crate::limits::RECIPIENTS_MAX;
use crate::time::UnixSecs;

const FIXED: usize = 24;
/// From this many distinct names on, they are looked up by hash.
const FEW: usize = 12;

/// What recovery needs to schedule a message.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// When it was accepted.
    pub received: UnixSecs,
    /// Not attempted before.
    pub not_before: Option<UnixSecs>,
    /// Given up at.
    pub not_after: Option<UnixSecs>,
    /// Length of the stored message in bytes.
    pub size: u32,
    /// The stream's class.
    pub class: Class,
    /// RFC 6710 priority, -9 to 9.
    pub priority: i8,
    /// Egress pool; empty for the default. At most 255 bytes count.
    pub pool: String,
    names: Vec<String>,
    recipients: Vec<u16>,
    /// Made once there are many names.
    index: Option<HashMap<String, u16>>,
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        // The index is only a way to find names.
        (self.received, self.not_before, self.not_after, self.size, self.class, self.priority)
            == (other.received, other.not_before, other.not_after, other.size, other.class, other.priority)
            && self.pool == other.pool
            && self.names == other.names
            && self.recipients == other.recipients
    }
}

impl Labels {
    /// The labels of an envelope: its recipients' queue names in their order.
    #[must_use]
    pub fn of(envelope: &Envelope) -> Self {
        let mut labels = Self {
            received: envelope.received.secs(),
            not_before: envelope.not_before,
            not_after: envelope.not_after,
            size: envelope.size,
            class: envelope.class,
            priority: envelope.priority,
            pool: envelope.pool.clone(),
            ..Self::default()
        };
        for index in 0..envelope.recipients.len() {
            labels.push_recipient(&envelope.queue_name(index).to_string());
        }
        labels
    }

    /// Adds the next recipient with the text form of its queue name. Recipients past
    /// [`RECIPIENTS_MAX`] and bytes of a name past 65535 are not kept; both are refused long before.
    pub fn push_recipient(&mut self, queue_name: &str) {
        if self.recipients.len() >= RECIPIENTS_MAX {
            return;
        }
        let index = self.intern(queue_name);
        self.recipients.push(index);
    }

    fn intern(&mut self, name: &str) -> u16 {
        let names = &mut self.names;
        let next = names.len() as u16;
        if names.len() <= FEW {
            if let Some(found) = names.iter().position(|known| known == name) {
                return found as u16;
            }
        } else {
            let index = self.index.get_or_insert_with(|| {
                let known = names.iter().enumerate().map(|(at, name)| (name.clone(), at as u16));
                known.collect()
            });
            if let Some(found) = index.get(name) {
                return *found;
            }
            index.insert(name.to_owned(), next);
        }
        names.push(name.to_owned());
        next
    }

    /// Number of recipients.
    #[must_use]
    pub fn recipients(&self) -> usize {
        self.recipients.len()
    }

    /// Distinct queue names, in order of first use.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// For each recipient the place of its queue name in [`Labels::names`].
    #[must_use]
    pub fn name_indexes(&self) -> &[u16] {
        &self.recipients
    }

    /// Queue name of each recipient in order.
    pub fn queue_names(&self) -> impl Iterator<Item = &str> {
        self.recipients.iter().map(|index| self.names.get(usize::from(*index)).map_or("", String::as_str))
    }

    /// The bytes that go into the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let pool = cut(&self.pool, usize::from(u8::MAX));
        let names_len: usize = self.names.iter().map(|name| 2 + name.len().min(usize::from(u16::MAX))).sum();
        let mut out = Vec::with_capacity(FIXED + pool.len() + names_len + 2 * self.recipients.len());
        out.resize(FIXED, 0);
        put(&mut out, 0, &self.received.0.to_le_bytes());
        put(&mut out, 4, &self.not_before.map_or(0, |time| time.0).to_le_bytes());
        put(&mut out, 8, &self.not_after.map_or(0, |time| time.0).to_le_bytes());
        put(&mut out, 12, &self.size.to_le_bytes());
        put(&mut out, 16, &[self.class as u8, self.priority as u8, pool.len() as u8]);
        put(&mut out, 20, &(self.names.len() as u16).to_le_bytes());
        put(&mut out, 22, &(self.recipients.len() as u16).to_le_bytes());
        out.extend_from_slice(pool.as_bytes());
        for name in &self.names {
            let name = cut(name, usize::from(u16::MAX));
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        for index in &self.recipients {
            out.extend_from_slice(&index.to_le_bytes());
        }
        out
    }

    /// Reads the bytes of a record. `None` when they do not add up.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < FIXED {
            return None;
        }
        let time = |at| Some(u32_at(bytes, at)).filter(|secs| *secs != 0).map(UnixSecs);
        let mut at = FIXED;
        let mut text = |len: usize| -> Option<String> {
            let part = bytes.get(at..at + len)?;
            at += len;
            String::from_utf8(part.to_vec()).ok()
        };
        let pool = text(usize::from(u8_at(bytes, 18)))?;
        let count = u16_at(bytes, 20);
        let mut names = Vec::with_capacity(usize::from(count));
        let mut place = FIXED + pool.len();
        for _ in 0..count {
            let len = usize::from(u16::from_le_bytes(bytes.get(place..place + 2)?.try_into().ok()?));
            let name = bytes.get(place + 2..place + 2 + len)?;
            names.push(std::str::from_utf8(name).ok()?.to_owned());
            place += 2 + len;
        }
        let total = usize::from(u16_at(bytes, 22));
        let mut recipients = Vec::with_capacity(total);
        for index in 0..total {
            let at = place + 2 * index;
            let name = u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?);
            if name >= count {
                return None;
            }
            recipients.push(name);
        }
        Some(Self {
            received: UnixSecs(u32_at(bytes, 0)),
            not_before: time(4),
            not_after: time(8),
            size: u32_at(bytes, 12),
            class: Class::from_byte(u8_at(bytes, 16)),
            priority: u8_at(bytes, 17) as i8,
            pool,
            names,
            recipients,
            index: None,
        })
    }
}

/// At most `max` bytes of a text, cut between characters.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(distinct: usize, total: usize) -> Labels {
        let mut labels = Labels {
            received: UnixSecs(1000),
            not_after: Some(UnixSecs(5000)),
            size: 4096,
            class: Class::Bulk,
            priority: -9,
            pool: "warm".into(),
            ..Labels::default()
        };
        for index in 0..total {
            labels.push_recipient(&format!("c:t@d{}.test", index % distinct));
        }
        labels
    }

    #[test]
    fn round_trips_with_few_and_many_names() {
        for (distinct, total) in [(1, 1), (1, 500), (12, 40), (13, 40), (200, 1000), (1, 0)] {
            let labels = sample(distinct, total);
            let back = Labels::parse(&labels.encode()).unwrap();
            assert_eq!(back, labels, "{distinct} of {total}");
            assert_eq!(labels.names().len(), distinct.min(total));
            assert_eq!(back.queue_names().count(), total);
        }
    }

    #[test]
    fn cut_or_wrong_bytes_are_none() {
        let bytes = sample(3, 5).encode();
        for len in 0..bytes.len() {
            assert!(Labels::parse(&bytes[..len]).is_none(), "cut at {len}");
        }
        let mut bad = bytes.clone();
        let last = bad.len() - 1;
        bad[last] = 0xff;
        assert!(Labels::parse(&bad).is_none(), "a name that is not there");
    }
}
