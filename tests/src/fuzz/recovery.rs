//! A sealed spool, damaged at any place, opened: nothing panics, and every message whose bytes are whole comes back.
//!
//! What must come back is worked out here from the undamaged image: a record whose bytes are whole, in a segment with
//! a superblock of its use, acknowledged by a trailer, a cut-off or a later batch that is whole. What can't be told
//! may come back or not; but whatever comes back is what was written.

use std::collections::BTreeMap;
use std::sync::{mpsc, Arc, Mutex, OnceLock};
use std::time::Duration;

use queue::envelope::ENVELOPE_V1;
use queue::spool::footer::Trailer;
use queue::spool::records::BatchHeader;
use queue::spool::superblock::{Parsed, State, Superblock, DATA_START};
use queue::spool::{Commit, Labels, RecordRef, Settings, Spool, WriterChoice};
use queue::{Body, EnvRecipient, Envelope, SpoolId, UnixMillis};

use super::platter::{Content, Platter};
use super::source::{Dice, Source};
use super::{must, Verdict};

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
/// A start is later than the one before.
const LATER: UnixMillis = UnixMillis(1_800_000_001_000);
const BLOCK: usize = queue::limits::BLOCK;

/// One message of the image.
#[derive(Clone)]
struct Written {
    id: SpoolId,
    at: RecordRef,
    envelope: Envelope,
    body: Vec<u8>,
}

/// A spool in memory with what is in it.
struct Image {
    content: Content,
    messages: Vec<Written>,
}

/// Where the parts of a segment lie, read from the undamaged image.
struct Segment {
    slot: u32,
    superblocks: Vec<(usize, Superblock)>,
    epoch: u64,
    batches: Vec<BatchHeader>,
    trailer_at: usize,
    sealed: bool,
}

pub(super) fn run(source: &mut Source<'_>) -> Verdict {
    let images = images();
    let image = &images[source.below(images.len())];
    let mut content = image.content.clone();
    let hits = damage(source, &mut content);
    let disk = Platter::new(content);
    let opened = Spool::open_on_disk(Arc::clone(&disk) as Arc<_>, settings(source.u64().into()), LATER);
    let (spool, recovery) = opened.map_err(|error| format!("does not open: {error} (damaged: {hits:?})"))?;
    let mut told: BTreeMap<u64, RecordRef> = BTreeMap::new();
    let mut twice = None;
    let report = recovery.run(&mut |found| {
        if told.insert(found.id.0, found.at).is_some() {
            twice = Some(found.id);
        }
        let _ = found.queue_names.len();
    });
    must(twice.is_none(), || format!("{twice:?} told twice"))?;
    for written in &image.messages {
        let sure = must_come_back(image, written, &hits);
        let Some(at) = told.remove(&written.id.0) else {
            must(!sure, || format!("{} is lost, its bytes are whole; damaged {hits:?}; {report:?}", written.id))?;
            continue;
        };
        match spool.load(written.id, at) {
            Ok(stored) => {
                let same = stored.envelope == written.envelope && stored.body[..] == written.body[..];
                must(same, || format!("{} is another message now", written.id))?;
            }
            Err(error) => must(!sure, || format!("{} can't be read: {error}; damaged {hits:?}", written.id))?,
        }
    }
    must(told.is_empty(), || format!("told and never written: {told:?}"))?;
    let trouble = spool.status().trouble;
    must(!trouble.contains("panicked"), || trouble.clone())?;
    let fresh = spool.next_id();
    must(image.messages.iter().all(|written| written.id < fresh), || "an id is given out again".to_owned())?;
    spool.close();
    Ok(())
}

/// Byte ranges of slots that are not as they were.
type Hits = Vec<(u32, std::ops::Range<usize>)>;

fn damage(source: &mut Source<'_>, content: &mut Content) -> Hits {
    let slots: Vec<u32> = content.slots.keys().copied().collect();
    let mut hits = Hits::new();
    for _ in 0..source.range(1..7) {
        let slot = slots[source.below(slots.len())];
        let Some(bytes) = content.slots.get_mut(&slot) else { continue };
        let len = bytes.len();
        let start = match source.byte() % 6 {
            0 => source.below(2 * BLOCK),
            1 => len - BLOCK + source.below(BLOCK),
            2 => len - source.below(len / 4) - 1,
            3 => (DATA_START as usize + source.below(len / BLOCK - 3) * BLOCK).min(len - BLOCK),
            _ => source.below(len),
        };
        let hit = match source.byte() % 5 {
            0 => start..start + 1,
            1 => start..(start + 1 + source.below(600)).min(len),
            2 => start / 512 * 512..(start / 512 * 512 + 512).min(len),
            3 => start / BLOCK * BLOCK..start / BLOCK * BLOCK + BLOCK,
            _ => start / BLOCK * BLOCK..(start / BLOCK * BLOCK + 4 * BLOCK).min(len),
        };
        match source.byte() % 5 {
            0 => {
                let bit = source.byte() % 8;
                bytes[hit.clone()].iter_mut().for_each(|byte| *byte ^= 1 << bit);
            }
            1 => bytes[hit.clone()].fill(0),
            2 => {
                let mut dice = Dice::new(source.u64());
                bytes[hit.clone()].iter_mut().for_each(|byte| *byte = dice.next() as u8);
            }
            3 => {
                // What another place held.
                let from = source.below(len - hit.len()) / 16 * 16;
                bytes.copy_within(from..from + hit.len(), hit.start);
            }
            _ => {
                let first = hit.start / BLOCK;
                let last = (hit.end - 1) / BLOCK;
                content.unreadable.extend((first..=last).map(|block| (slot, block as u64)));
                hits.push((slot, first * BLOCK..(last + 1) * BLOCK));
                continue;
            }
        }
        hits.push((slot, hit));
    }
    hits
}

fn must_come_back(image: &Image, written: &Written, hits: &Hits) -> bool {
    let segments = segments(&image.content);
    let Some(segment) = segments.iter().find(|one| one.superblocks.iter().any(|(_, b)| b.number == written.at.segment))
    else {
        return false;
    };
    let hit = |from: usize, to: usize| {
        hits.iter().any(|(slot, range)| *slot == segment.slot && range.start < to && from < range.end)
    };
    let start = written.at.offset() as usize;
    let bytes = &image.content.slots[&segment.slot];
    let len = queue::spool::records::RecordHeader::peek(&bytes[start..]).map_or(0, |header| header.shape().len);
    // Both copies tell the use: one is enough.
    let of_use = |block: &Superblock| block.state == State::InUse && block.epoch == segment.epoch;
    let superblock = segment.superblocks.iter().any(|(at, block)| of_use(block) && !hit(*at, at + BLOCK));
    let trailer = segment.sealed && !hit(segment.trailer_at, segment.trailer_at + BLOCK);
    let evidence = segment.batches.iter().filter(|batch| !hit(batch.offset as usize, batch.offset as usize + 64));
    let durable = evidence.map(|batch| batch.durable).max().unwrap_or(0);
    let calm = |batch: &&BatchHeader| !hit(batch.offset as usize, (batch.offset + batch.padded()) as usize);
    let before = segment.batches.iter().filter(|batch| batch.offset as usize <= start);
    superblock && !hit(start, start + len) && (trailer || (start as u64) < durable || before.clone().all(|b| calm(&b)))
}

fn segments(content: &Content) -> Vec<Segment> {
    let read = |(slot, bytes): (&u32, &Vec<u8>)| {
        let copies = [0, BLOCK].map(|at| (at, Superblock::parse(&bytes[at..at + BLOCK])));
        let superblocks: Vec<(usize, Superblock)> = copies
            .into_iter()
            .filter_map(|(at, parsed)| match parsed {
                Parsed::Valid(block) => Some((at, block)),
                _ => None,
            })
            .collect();
        let newest = superblocks.iter().map(|(_, block)| block).max_by_key(|block| block.generation)?;
        if newest.state != State::InUse {
            return None;
        }
        let epoch = newest.epoch;
        let starts = (DATA_START as usize..bytes.len()).step_by(BLOCK);
        let batches = starts.filter_map(|at| {
            BatchHeader::parse(&bytes[at..], true).filter(|batch| batch.epoch == epoch && batch.offset == at as u64)
        });
        let trailer_at = bytes.len() - BLOCK;
        let sealed = Trailer::parse(&bytes[trailer_at..], epoch, true).is_some();
        Some(Segment { slot: *slot, epoch, batches: batches.collect(), superblocks, trailer_at, sealed })
    };
    let all: Vec<Segment> = content.slots.iter().filter_map(read).collect();
    debug_assert!(all.iter().all(|segment| segment.epoch != 0));
    all
}

fn settings(random: u128) -> Settings {
    Settings {
        segment_bytes: 256 * 1024,
        spares: 1,
        reserve_bytes: 0,
        reserve_percent: 0,
        writer: WriterChoice::Pwrite,
        ..Settings::new("unused".into(), random | 1)
    }
}

/// Images made once: few and many messages, closed in good order and left as a killed process leaves them.
fn images() -> &'static [Image] {
    static IMAGES: OnceLock<Vec<Image>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let shapes = [(3, 300, true), (40, 2000, true), (40, 2000, false), (300, 600, true), (6, 60_000, false)];
        shapes.iter().enumerate().map(|(number, (count, len, close))| image(number, *count, *len, *close)).collect()
    })
}

fn image(number: usize, count: u64, len: usize, close: bool) -> Image {
    let disk = Platter::new(Content::default());
    let opened = Spool::open_on_disk(Arc::clone(&disk) as Arc<_>, settings(77 + number as u128), NOW);
    let (spool, recovery) = opened.expect("an empty disk opens");
    recovery.run(&mut |_| {});
    let (ring, bell) = mpsc::channel();
    let ring = Mutex::new(ring);
    let port = spool.port(Arc::new(move || {
        let _ = ring.lock().map(|ring| ring.send(()));
    }));
    let mut messages = Vec::new();
    for number in 0..count {
        let (id, envelope, body) = (spool.next_id(), envelope_of(number, len), body_of(number, len));
        let commit = Commit {
            id,
            version: ENVELOPE_V1,
            labels: Labels::of(&envelope),
            envelope: envelope.encode().expect("an envelope"),
            body: Body::from(body.clone()),
        };
        assert!(spool.submit(&port, number, commit).is_ok(), "an empty spool takes mail");
        let mut answers = Vec::new();
        while answers.is_empty() {
            bell.recv_timeout(Duration::from_secs(20)).expect("an answer");
            port.drain(&mut answers);
        }
        let at = answers.pop().and_then(|(_, answer)| answer.ok()).expect("accepted");
        messages.push(Written { id, at, envelope, body });
    }
    let content = if close {
        spool.close();
        disk.content().clone()
    } else {
        let content = disk.content().clone();
        spool.close();
        content
    };
    Image { content, messages }
}

fn envelope_of(number: u64, size: usize) -> Envelope {
    let recipient =
        |index: u64| EnvRecipient { address: format!("to{index}@d{}.test", index % 3), ..Default::default() };
    Envelope {
        received: NOW,
        reverse_path: format!("from{number}@example.test"),
        tenant: "t".into(),
        recipients: (0..1 + number % 4).map(recipient).collect(),
        size: size as u32,
        ..Envelope::default()
    }
}

fn body_of(number: u64, len: usize) -> Vec<u8> {
    let mut dice = Dice::new(number);
    let mut bytes = format!("Subject: {number}\r\n\r\n").into_bytes();
    bytes.extend((0..len).map(|_| b'a' + (dice.next() % 26) as u8));
    bytes
}
