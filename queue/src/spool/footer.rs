//! The footer of a sealed segment: all labels in one place, and the trailer that says where.
//!
//! Recovery of a sealed segment reads these bytes and no record. The footer is written after every batch before it
//! is durable, the trailer after the footer is. Twin of `FORMAT.md`, sections "Footer" and "Trailer".

use std::collections::HashMap;

use super::labels::Labels;
use super::layout::{align_up, put, u16_at, u32_at, u64_at, u8_at};
use crate::envelope::Class;
use crate::limits::{BLOCK, RECORD_ALIGN};
use crate::time::UnixSecs;

/// Bytes of the footer's header.
pub const FOOTER_HEADER: usize = 64;
/// Bytes of one message in the footer.
pub const ENTRY: usize = 40;

const FOOTER_MAGIC: u32 = u32::from_le_bytes(*b"RPFT");
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"RPTR");
const VERSION: u32 = 1;
const HEADER_CRC_AT: usize = 60;

/// Gathers the footer while a segment is written.
#[derive(Clone, Debug, Default)]
pub struct FooterBuilder {
    entries: Vec<u8>,
    indexes: Vec<u32>,
    names: HashMap<String, u32>,
    order: Vec<String>,
    strings: usize,
    min_id: u64,
    max_id: u64,
}

impl FooterBuilder {
    /// Bytes of footer and trailer if a message with these labels were added.
    #[must_use]
    pub fn room_with(&self, labels: &Labels) -> u64 {
        // Counts every name as new: a bound is all that is asked for.
        let strings: usize = labels.names().iter().map(String::len).sum::<usize>() + labels.pool.len();
        let names = labels.names().len() + 1;
        let content = self.content_len() + ENTRY + 4 * (labels.recipients() + 1) + 2 * names + strings;
        align_up((FOOTER_HEADER + content) as u64, BLOCK as u64) + BLOCK as u64
    }

    /// Bytes of footer and trailer as they stand.
    #[must_use]
    pub fn room(&self) -> u64 {
        align_up((FOOTER_HEADER + self.content_len()) as u64, BLOCK as u64) + BLOCK as u64
    }

    fn content_len(&self) -> usize {
        self.entries.len() + 4 * self.indexes.len() + 2 * self.order.len() + self.strings
    }

    fn intern(&mut self, name: &str) -> u32 {
        if let Some(found) = self.names.get(name) {
            return *found;
        }
        let index = self.order.len() as u32;
        self.names.insert(name.to_owned(), index);
        self.order.push(name.to_owned());
        self.strings += name.len();
        index
    }

    /// Adds a message whose record of `len` bytes (padding included) lies at `offset`.
    pub fn add(&mut self, id: u64, offset: u64, len: u64, version: u8, labels: &Labels) {
        let first = self.entries.is_empty();
        self.min_id = if first { id } else { self.min_id.min(id) };
        self.max_id = self.max_id.max(id);
        let pool = self.intern(&labels.pool);
        self.indexes.push(pool);
        let known: Vec<u32> = labels.names().iter().map(|name| self.intern(name)).collect();
        let indexes = labels.name_indexes().iter();
        self.indexes.extend(indexes.filter_map(|index| known.get(usize::from(*index)).copied()));
        let mut entry = [0u8; ENTRY];
        put(&mut entry, 0, &id.to_le_bytes());
        put(&mut entry, 8, &((offset / RECORD_ALIGN as u64) as u32).to_le_bytes());
        put(&mut entry, 12, &((len / RECORD_ALIGN as u64) as u32).to_le_bytes());
        put(&mut entry, 16, &labels.received.0.to_le_bytes());
        put(&mut entry, 20, &labels.not_before.map_or(0, |time| time.0).to_le_bytes());
        put(&mut entry, 24, &labels.not_after.map_or(0, |time| time.0).to_le_bytes());
        put(&mut entry, 28, &labels.size.to_le_bytes());
        put(&mut entry, 32, &(labels.recipients() as u16).to_le_bytes());
        put(&mut entry, 34, &[labels.class as u8, labels.priority as u8, version]);
        self.entries.extend_from_slice(&entry);
    }

    /// Messages added.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.entries.len() / ENTRY
    }

    /// The footer's bytes, padded to 4 KiB, and the trailer block, for a segment whose batches end at `data_end`.
    #[must_use]
    pub fn finish(&self, epoch: u64, number: u32, data_end: u64, segment_bytes: u64) -> (Vec<u8>, [u8; BLOCK]) {
        let len = FOOTER_HEADER + self.content_len();
        let padded = align_up(len as u64, BLOCK as u64);
        let mut out = Vec::with_capacity(padded as usize);
        out.resize(FOOTER_HEADER, 0);
        out.extend_from_slice(&self.entries);
        for index in &self.indexes {
            out.extend_from_slice(&index.to_le_bytes());
        }
        for name in &self.order {
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        }
        for name in &self.order {
            out.extend_from_slice(name.as_bytes());
        }
        let crc = crc32c::crc32c(&out[FOOTER_HEADER..]);
        put(&mut out, 0, &FOOTER_MAGIC.to_le_bytes());
        put(&mut out, 4, &VERSION.to_le_bytes());
        put(&mut out, 8, &epoch.to_le_bytes());
        put(&mut out, 16, &number.to_le_bytes());
        put(&mut out, 20, &(self.messages() as u32).to_le_bytes());
        put(&mut out, 24, &(self.indexes.len() as u32).to_le_bytes());
        put(&mut out, 28, &(self.order.len() as u32).to_le_bytes());
        put(&mut out, 32, &data_end.to_le_bytes());
        put(&mut out, 40, &(len as u64).to_le_bytes());
        put(&mut out, 48, &crc.to_le_bytes());
        let head = crc32c::crc32c(&out[..HEADER_CRC_AT]);
        put(&mut out, HEADER_CRC_AT, &head.to_le_bytes());
        out.resize(padded as usize, 0);
        let trailer = Trailer {
            epoch,
            number,
            messages: self.messages() as u32,
            data_end,
            footer_len: padded,
            min_id: self.min_id,
            max_id: self.max_id,
            segment_bytes,
        };
        (out, trailer.encode())
    }
}

/// The last block of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Epoch of the use it closes.
    pub epoch: u64,
    /// Logical number of the segment.
    pub number: u32,
    /// Messages in the footer.
    pub messages: u32,
    /// Where the batches end and the footer starts.
    pub data_end: u64,
    /// Bytes of the footer, padding included.
    pub footer_len: u64,
    /// Lowest spool id in the segment.
    pub min_id: u64,
    /// Highest spool id in the segment.
    pub max_id: u64,
    /// Length of the file.
    pub segment_bytes: u64,
}

impl Trailer {
    /// The block on disk.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK] {
        let mut out = [0u8; BLOCK];
        put(&mut out, 0, &TRAILER_MAGIC.to_le_bytes());
        put(&mut out, 4, &VERSION.to_le_bytes());
        put(&mut out, 8, &self.epoch.to_le_bytes());
        put(&mut out, 16, &self.number.to_le_bytes());
        put(&mut out, 20, &self.messages.to_le_bytes());
        put(&mut out, 24, &self.data_end.to_le_bytes());
        put(&mut out, 32, &self.footer_len.to_le_bytes());
        put(&mut out, 40, &self.min_id.to_le_bytes());
        put(&mut out, 48, &self.max_id.to_le_bytes());
        put(&mut out, 56, &self.segment_bytes.to_le_bytes());
        let crc = crc32c::crc32c(&out[..64]);
        put(&mut out, 64, &crc.to_le_bytes());
        out
    }

    /// Reads the block of a segment used under `epoch`. `None` when it is not the trailer of this use.
    #[must_use]
    pub fn parse(block: &[u8], epoch: u64, check_epoch: bool) -> Option<Self> {
        let crc = crc32c::crc32c(block.get(..64)?);
        if u32_at(block, 0) != TRAILER_MAGIC || u32_at(block, 4) != VERSION || u32_at(block, 64) != crc {
            return None;
        }
        let trailer = Self {
            epoch: u64_at(block, 8),
            number: u32_at(block, 16),
            messages: u32_at(block, 20),
            data_end: u64_at(block, 24),
            footer_len: u64_at(block, 32),
            min_id: u64_at(block, 40),
            max_id: u64_at(block, 48),
            segment_bytes: u64_at(block, 56),
        };
        let fits = trailer.data_end.checked_add(trailer.footer_len)? <= trailer.segment_bytes
            && trailer.data_end.is_multiple_of(BLOCK as u64)
            && trailer.footer_len.is_multiple_of(BLOCK as u64);
        (fits && (!check_epoch || trailer.epoch == epoch)).then_some(trailer)
    }
}

/// One message as a footer tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Key of the message.
    pub id: u64,
    /// Offset of its record in units of 16 bytes.
    pub offset16: u32,
    /// Length of its record in units of 16 bytes.
    pub len16: u32,
    /// When it was accepted.
    pub received: UnixSecs,
    /// Not attempted before.
    pub not_before: Option<UnixSecs>,
    /// Given up at.
    pub not_after: Option<UnixSecs>,
    /// Length of the stored message.
    pub size: u32,
    /// Number of recipients.
    pub recipients: u16,
    /// The stream's class.
    pub class: Class,
    /// RFC 6710 priority.
    pub priority: i8,
    /// Version of the envelope.
    pub version: u8,
}

/// A footer read back; borrows its bytes.
#[derive(Debug)]
pub struct Footer<'a> {
    entries: &'a [u8],
    indexes: &'a [u8],
    names: Vec<&'a str>,
}

impl<'a> Footer<'a> {
    /// Reads a footer. `None` when it is not the one that the trailer announced, or not whole.
    #[must_use]
    pub fn parse(bytes: &'a [u8], trailer: &Trailer) -> Option<Self> {
        let header = bytes.get(..FOOTER_HEADER)?;
        let ours = u32_at(header, 0) == FOOTER_MAGIC
            && u32_at(header, 4) == VERSION
            && u64_at(header, 8) == trailer.epoch
            && u32_at(header, 16) == trailer.number
            && u64_at(header, 32) == trailer.data_end
            && u32_at(header, HEADER_CRC_AT) == crc32c::crc32c(header.get(..HEADER_CRC_AT)?);
        let len = usize::try_from(u64_at(header, 40)).ok()?;
        let content = bytes.get(FOOTER_HEADER..len)?;
        if !ours || crc32c::crc32c(content) != u32_at(header, 48) {
            return None;
        }
        let entries_len = ENTRY * u32_at(header, 20) as usize;
        let (entries, rest) = content.split_at_checked(entries_len)?;
        let (indexes, rest) = rest.split_at_checked(4 * u32_at(header, 24) as usize)?;
        let (lens, mut strings) = rest.split_at_checked(2 * u32_at(header, 28) as usize)?;
        let mut names = Vec::with_capacity(lens.len() / 2);
        for at in (0..lens.len()).step_by(2) {
            let (name, rest) = strings.split_at_checked(usize::from(u16_at(lens, at)))?;
            names.push(std::str::from_utf8(name).ok()?);
            strings = rest;
        }
        Some(Self { entries, indexes, names })
    }

    /// Messages in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() / ENTRY
    }

    /// True when it lists no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Calls `visit` with each message, its pool and its recipients' queue names, in order of their records.
    /// False when the indexes do not add up, which a whole footer never has.
    pub fn each(&self, mut visit: impl FnMut(&Entry, &'a str, &[&'a str])) -> bool {
        let mut at = 0;
        let mut queue_names: Vec<&str> = Vec::new();
        let name = |at: usize| -> Option<&'a str> {
            let index = u32::from_le_bytes(self.indexes.get(4 * at..4 * at + 4)?.try_into().ok()?);
            self.names.get(index as usize).copied()
        };
        for bytes in self.entries.chunks_exact(ENTRY) {
            let entry = Entry::parse(bytes);
            let Some(pool) = name(at) else { return false };
            queue_names.clear();
            for place in 0..usize::from(entry.recipients) {
                let Some(queue_name) = name(at + 1 + place) else { return false };
                queue_names.push(queue_name);
            }
            at += 1 + queue_names.len();
            visit(&entry, pool, &queue_names);
        }
        true
    }

    /// The messages without their names.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.entries.chunks_exact(ENTRY).map(Entry::parse)
    }
}

impl Entry {
    fn parse(bytes: &[u8]) -> Self {
        let time = |at| Some(u32_at(bytes, at)).filter(|secs| *secs != 0).map(UnixSecs);
        Self {
            id: u64_at(bytes, 0),
            offset16: u32_at(bytes, 8),
            len16: u32_at(bytes, 12),
            received: UnixSecs(u32_at(bytes, 16)),
            not_before: time(20),
            not_after: time(24),
            size: u32_at(bytes, 28),
            recipients: u16_at(bytes, 32),
            class: Class::from_byte(u8_at(bytes, 34)),
            priority: u8_at(bytes, 35) as i8,
            version: u8_at(bytes, 36),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(index: u64) -> Labels {
        let mut labels = Labels::default();
        labels.received = UnixSecs(1_000_000 + index as u32);
        labels.not_after = (index.is_multiple_of(2)).then_some(UnixSecs(9));
        labels.size = 100 + index as u32;
        labels.pool = if index.is_multiple_of(3) { "warm".into() } else { String::new() };
        labels.priority = -2;
        for place in 0..index % 4 {
            labels.push_recipient(&format!("t@d{}.test", (index + place) % 7));
        }
        labels
    }

    fn built(count: u64) -> (Vec<u8>, Trailer) {
        let mut builder = FooterBuilder::default();
        for index in 0..count {
            let bound = builder.room_with(&labels(index));
            builder.add(100 + index, 8192 + 64 * index, 64, 1, &labels(index));
            assert!(builder.room() <= bound);
        }
        let (footer, trailer) = builder.finish(5, 6, 65536, 1 << 20);
        assert_eq!(footer.len() as u64 + BLOCK as u64, builder.room());
        (footer, Trailer::parse(&trailer, 5, true).unwrap())
    }

    #[test]
    fn round_trips() {
        let (bytes, trailer) = built(300);
        assert_eq!((trailer.min_id, trailer.max_id, trailer.messages), (100, 399, 300));
        let footer = Footer::parse(&bytes, &trailer).unwrap();
        let mut index = 0;
        assert!(footer.each(|entry, pool, names| {
            let expect = labels(index);
            assert_eq!((entry.id, entry.offset16), (100 + index, (512 + 4 * index) as u32));
            assert_eq!((entry.received, entry.not_after, entry.size), (expect.received, expect.not_after, expect.size));
            assert_eq!((pool, entry.priority), (expect.pool.as_str(), -2));
            assert!(expect.queue_names().eq(names.iter().copied()));
            index += 1;
        }));
        assert_eq!((index, footer.len()), (300, 300));
    }

    #[test]
    fn any_damage_is_noticed() {
        let (bytes, trailer) = built(20);
        let used = u64_at(&bytes, 40) as usize;
        for at in 0..used {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(Footer::parse(&bad, &trailer).is_none(), "byte {at}");
        }
        assert!(Footer::parse(&bytes[..used - 1], &trailer).is_none());
        let block = trailer.encode();
        assert!(Trailer::parse(&block, 6, true).is_none(), "another epoch");
        for at in 0..68 {
            let mut bad = block;
            bad[at] ^= 4;
            assert!(Trailer::parse(&bad, 5, true).is_none(), "byte {at}");
        }
    }

    #[test]
    fn an_empty_segment_has_an_empty_footer() {
        let (bytes, trailer) = built(0);
        assert!(Footer::parse(&bytes, &trailer).unwrap().is_empty());
    }
}
