//! The writer against a disk that reorders, tears and fails: random runs cut at a random moment, then recovered.
//!
//! What must hold after every cut: each acknowledged message is there with its bytes; each message whose refusal was
//! told is not; nothing else comes back. And the check proves itself: with any one protection taken away, some run
//! notices.

mod spool_support;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use queue::disk::{Buffer, Space};
use queue::error::Refusal;
use queue::spool::inspect::Inspector;
use queue::spool::superblock::{Heat, State, Superblock};
use queue::spool::writer::{Event, Protections, Spare, WriteOp, Writer, WriterConfig, BUFFERS};
use queue::spool::Prepared;
use queue::SpoolId;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use spool_support::memory::MemoryDisk;
use spool_support::{body_of, commit_of, envelope_of};

const SEGMENT: u64 = 512 * 1024;
const IDENTITY: u128 = 5;
const SLOTS: u32 = 5;

struct Run {
    rng: SmallRng,
    writer: Writer<u64>,
    slots: BTreeMap<u32, Vec<u8>>,
    spares: VecDeque<Spare>,
    pending: Vec<WriteOp>,
    /// Complete, but not known to be durable.
    volatile: Vec<(u32, u64, Vec<u8>)>,
    waiting: Option<Prepared<u64>>,
    lens: BTreeMap<u64, usize>,
    acked: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    now: u64,
    next: u64,
    fail_chance: f64,
}

impl Run {
    fn new(seed: u64, protections: Protections, slots: BTreeMap<u32, Vec<u8>>, first: u64, epoch: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let config = WriterConfig { identity: IDENTITY, heat: Heat::Hot, segment_bytes: SEGMENT, protections };
        let spares = slots
            .keys()
            .map(|slot| Spare {
                slot: *slot,
                number: first as u32 + *slot,
                epoch: epoch + u64::from(*slot) * 7919,
                generation: epoch,
                id_floor: 1,
                created: 0,
                space: Space::Written,
            })
            .collect();
        let fail_chance = if rng.random_bool(0.5) { 0.03 } else { 0.0 };
        Self {
            rng,
            writer: Writer::new(config, Buffer::pool(BUFFERS), Vec::new()),
            slots,
            spares,
            pending: Vec::new(),
            volatile: Vec::new(),
            waiting: None,
            lens: BTreeMap::new(),
            acked: BTreeSet::new(),
            refused: BTreeSet::new(),
            now: 0,
            next: first,
            fail_chance,
        }
    }

    fn step(&mut self) {
        if self.writer.wants_spare() {
            match self.spares.pop_front() {
                Some(spare) => self.writer.add_spare(spare),
                None => {
                    self.writer.deny();
                    self.drain(true);
                }
            }
        }
        match self.rng.random_range(0..10) {
            0..5 => self.push(),
            5..7 => {
                if let Some(op) = self.writer.next_op(self.now) {
                    self.pending.push(op);
                }
            }
            7..9 => self.finish_one(),
            _ => self.now += self.rng.random_range(0..400),
        }
        self.drain(false);
    }

    fn push(&mut self) {
        let item = self.waiting.take().unwrap_or_else(|| {
            let number = self.next;
            self.next += 1;
            let len = match self.rng.random_range(0..40) {
                0 => 300_000,
                1..6 => 30_000,
                _ => self.rng.random_range(100..5000),
            };
            self.lens.insert(number, len);
            Prepared::new(number, commit_of(SpoolId(number), number, len), SEGMENT).unwrap()
        });
        self.waiting = self.writer.push(item).err();
    }

    fn finish_one(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.pending.len());
        let op = self.pending.swap_remove(index);
        let fails = self.rng.random_bool(self.fail_chance);
        let bytes = op.buffer.bytes()[..op.len].to_vec();
        if fails {
            match self.rng.random_range(0..3) {
                0 => {}
                1 => self.tear(op.slot, op.offset, &bytes),
                _ => self.apply(op.slot, op.offset, &bytes),
            }
        } else if op.sync {
            self.apply(op.slot, op.offset, &bytes);
        } else {
            self.volatile.push((op.slot, op.offset, bytes));
        }
        let result = if fails { Err("the disk said no".to_owned()) } else { Ok(()) };
        self.writer.complete(op.id, result, op.buffer);
    }

    fn apply(&mut self, slot: u32, offset: u64, bytes: &[u8]) {
        let all = self.slots.get_mut(&slot).unwrap();
        all[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// Some sectors of the write arrive.
    fn tear(&mut self, slot: u32, offset: u64, bytes: &[u8]) {
        let keep = self.rng.random_range(0.0..1.0);
        for (index, sector) in bytes.chunks(512).enumerate() {
            if self.rng.random_bool(keep) {
                self.apply(slot, offset + 512 * index as u64, sector);
            }
        }
    }

    fn drain(&mut self, denied: bool) {
        while let Some(event) = self.writer.next_event() {
            match event {
                Event::Acked { ticket, id, .. } => {
                    assert_eq!(ticket, id.0);
                    assert!(self.acked.insert(ticket), "acknowledged twice");
                }
                Event::Refused { ticket, refusal, .. } => {
                    assert!(matches!(refusal, Refusal::WriteFailed(_)));
                    // Without a segment to write the cut-off to, a refused message may come back.
                    if !denied {
                        self.refused.insert(ticket);
                    }
                }
                _ => {}
            }
        }
    }

    fn cut_power(&mut self) {
        for op in std::mem::take(&mut self.pending) {
            let bytes = op.buffer.bytes()[..op.len].to_vec();
            match self.rng.random_range(0..3) {
                0 => {}
                1 => self.tear(op.slot, op.offset, &bytes),
                _ => self.apply(op.slot, op.offset, &bytes),
            }
        }
        for (slot, offset, bytes) in std::mem::take(&mut self.volatile) {
            if self.rng.random_bool(0.5) {
                self.apply(slot, offset, &bytes);
            }
        }
    }
}

/// Segment files whose superblocks say "spare" over whatever they hold.
fn as_spares(mut slots: BTreeMap<u32, Vec<u8>>, generation: u64) -> BTreeMap<u32, Vec<u8>> {
    for bytes in slots.values_mut() {
        for generation in [generation - 1, generation] {
            let block = Superblock {
                identity: IDENTITY,
                generation,
                epoch: 0,
                number: 0,
                state: State::Spare,
                heat: Heat::Hot,
                created: 0,
                id_floor: 1,
                segment_bytes: SEGMENT,
                cut_offs: Vec::new(),
            };
            let place = block.place() as usize;
            bytes[place..place + 4096].copy_from_slice(&block.encode());
        }
    }
    slots
}

/// One run: an earlier use fills the files, the second use is cut; what recovery gets wrong.
fn violation(seed: u64, protections: Protections) -> Option<String> {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0xabcd);
    let fresh = (0..SLOTS).map(|slot| (slot, vec![0; SEGMENT as usize])).collect();
    let whole = Protections::default();
    let mut earlier = Run::new(seed, whole, as_spares(fresh, 2), 1, 2);
    for _ in 0..rng.random_range(0..600) {
        earlier.step();
    }
    earlier.cut_power();
    let mut run = Run::new(seed ^ 1, protections, as_spares(earlier.slots, 20), 100_000, 20);
    for _ in 0..rng.random_range(1..800) {
        run.step();
    }
    run.cut_power();

    judge(&run, protections).err()
}

/// What recovery makes of the disk after a cut; an error when it is not what the clients were told.
fn judge(run: &Run, protections: Protections) -> Result<Inspector, String> {
    let disk = MemoryDisk::default();
    disk.with(|platter| platter.slots = run.slots.clone());
    let mut spool = Inspector::open(Arc::new(disk), SEGMENT, protections).unwrap();
    let mut found = Vec::new();
    let report = spool.each(&mut |message| found.push((message.id, message.at)));
    let ids: BTreeSet<u64> = found.iter().map(|(id, _)| id.0).collect();
    if let Some(lost) = run.acked.difference(&ids).next() {
        return Err(format!("acknowledged {lost} is lost: {report:?}"));
    }
    if let Some(back) = run.refused.intersection(&ids).next() {
        return Err(format!("refused {back} is back"));
    }
    for (id, at) in found {
        let Some(len) = run.lens.get(&id.0) else { return Err(format!("{} is of an earlier use", id.0)) };
        match spool.load(id, at) {
            Err(error) => return Err(format!("{} can't be read: {error}", id.0)),
            Ok(stored) if stored.body[..] != body_of(id.0, *len)[..] => return Err(format!("{} is other mail", id.0)),
            Ok(stored) if stored.envelope != envelope_of(id.0, *len) => return Err(format!("{} is other mail", id.0)),
            Ok(_) => {}
        }
    }
    Ok(spool)
}

/// Several cuts, each run going on from what the one before left, with what recovery tells the next writer.
#[test]
fn many_cuts_in_a_row_lose_nothing() {
    for seed in 0..40 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let fresh = (0..24).map(|slot| (slot, vec![0; SEGMENT as usize])).collect();
        let mut run = Run::new(seed, Protections::default(), as_spares(fresh, 2), 1, 2);
        for round in 0..5 {
            for _ in 0..rng.random_range(1..300) {
                run.step();
            }
            run.cut_power();
            let spool = judge(&run, Protections::default()).unwrap_or_else(|what| panic!("{seed}, {round}: {what}"));
            let (first, number, _) = spool.next();
            let config = WriterConfig {
                identity: IDENTITY,
                heat: Heat::Hot,
                segment_bytes: SEGMENT,
                protections: Protections::default(),
            };
            run.writer = Writer::new(config, Buffer::pool(BUFFERS), spool.cut_offs().to_vec());
            let spares = (number..).zip(spool.spares()).map(|(number, (slot, generation))| Spare {
                slot: *slot,
                number,
                epoch: rng.random(),
                generation: *generation,
                id_floor: first,
                created: 0,
                space: Space::Written,
            });
            run.spares = spares.collect();
            run.waiting = None;
            assert!(run.acked.last().is_none_or(|last| first > *last), "ids only rise");
            run.next = first;
        }
    }
}

const RUNS: u64 = 150;

#[test]
fn no_cut_loses_what_was_acknowledged_or_brings_back_what_was_refused() {
    for seed in 0..RUNS {
        if let Some(what) = violation(seed, Protections::default()) {
            panic!("seed {seed}: {what}");
        }
    }
}

/// Taking one protection away must be noticed by some run.
fn is_noticed(protections: Protections) {
    let noticed = (0..10 * RUNS).find_map(|seed| Some((seed, violation(seed, protections)?)));
    let (seed, what) = noticed.expect("some run notices");
    println!("{protections:?}: seed {seed}: {what}");
}

#[test]
fn missing_sync_writes_is_noticed() {
    is_noticed(Protections { sync_writes: false, ..Protections::default() });
}

#[test]
fn missing_ack_after_batch_is_noticed() {
    is_noticed(Protections { ack_after_batch: false, ..Protections::default() });
}

#[test]
fn missing_prefix_order_is_noticed() {
    is_noticed(Protections { prefix_order: false, ..Protections::default() });
}

#[test]
fn missing_check_epoch_is_noticed() {
    is_noticed(Protections { check_epoch: false, ..Protections::default() });
}

#[test]
fn missing_check_crc_is_noticed() {
    is_noticed(Protections { check_crc: false, ..Protections::default() });
}

#[test]
fn missing_footer_after_batches_is_noticed() {
    is_noticed(Protections { footer_after_batches: false, ..Protections::default() });
}

#[test]
fn missing_honour_cutoffs_is_noticed() {
    is_noticed(Protections { honour_cutoffs: false, ..Protections::default() });
}
