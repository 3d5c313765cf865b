//! The scheduled queues themselves: one record of 96 bytes per distinct name, its text in an arena, and a hash index
//! that points at the records and stores no text a second time.

use std::collections::BTreeMap;

use super::slab::{Slab, Slot, NONE};

/// Number of classes.
pub(crate) const CLASSES: usize = 3;
/// Due lists per class, by priority.
pub(crate) const BANDS: usize = 3;
/// Longest name, in bytes. Longer ones are cut by the caller's limits long before.
pub const NAME_MAX: usize = 4096;

/// A rule suspends the queue.
pub(crate) const SUSPENDED: u8 = 1;
/// The caller asked to pass over it for this class: one bit per class from here on.
pub(crate) const STALLED: u8 = 2;
/// All three stall bits.
pub(crate) const STALLED_ANY: u8 = STALLED | STALLED << 1 | STALLED << 2;

/// One scheduled queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    name: u32,
    name_len: u16,
    pub(crate) flags: u8,
    /// Bit per class: linked in that class's ring of active queues, or of parked ones.
    pub(crate) ringed: u8,
    hash: u32,
    chain: u32,
    /// Recipients in this queue in any state, and the rings it is linked in; 0 marks a free entry.
    pub(crate) refs: u32,
    /// Version of the hold rules that `flags` knows of.
    pub(crate) rules_seen: u32,
    /// Last entries of the due lists, by class and band.
    pub(crate) tails: [[u32; BANDS]; CLASSES],
    pub(crate) due: [u32; CLASSES],
    pub(crate) taken: u32,
    pub(crate) held: u32,
    /// The next queue in the ring, by class.
    pub(crate) ring: [u32; CLASSES],
    pub(crate) stalled_until: u32,
}

const _: () = assert!(size_of::<Queue>() <= 96);

impl Slot for Queue {
    fn is_free(&self) -> bool {
        self.refs == 0
    }
    fn next_free(&self) -> u32 {
        self.chain
    }
    fn set_free(&mut self, next: u32) {
        *self = Self { chain: next, ..Self::default() };
    }
}

/// All queues by key and by name.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) slab: Slab<Queue>,
    buckets: Vec<u32>,
    arena: Arena,
}

impl Queues {
    pub(crate) fn new() -> Self {
        Self { slab: Slab::new(), buckets: vec![NONE; 64], arena: Arena::default() }
    }

    /// The queue of this name.
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        let hash = hash_of(name);
        let mut at = self.buckets[hash as usize & (self.buckets.len() - 1)];
        while let Some(queue) = self.slab.live(at) {
            if queue.hash == hash && self.text(queue) == name {
                return Some(at);
            }
            at = queue.chain;
        }
        None
    }

    /// The queue of this name, made when there is none, with one reference more.
    pub(crate) fn acquire(&mut self, name: &str) -> Option<u32> {
        if let Some(key) = self.find(name) {
            self.slab.get_mut(key)?.refs += 1;
            return Some(key);
        }
        let name = cut(name);
        let hash = hash_of(name);
        if self.slab.len() >= self.buckets.len() * 2 {
            self.grow();
        }
        let bucket = hash as usize & (self.buckets.len() - 1);
        let place = self.arena.store(name.as_bytes())?;
        let key = self.slab.insert(Queue {
            name: place,
            name_len: name.len() as u16,
            hash,
            chain: self.buckets[bucket],
            refs: 1,
            tails: [[NONE; BANDS]; CLASSES],
            ring: [NONE; CLASSES],
            ..Queue::default()
        })?;
        self.buckets[bucket] = key;
        Some(key)
    }

    /// The last reference goes, and the queue with it.
    pub(crate) fn remove(&mut self, key: u32) {
        let Some(queue) = self.slab.get(key) else { return };
        let (hash, after, place, len) = (queue.hash, queue.chain, queue.name, queue.name_len);
        let bucket = hash as usize & (self.buckets.len() - 1);
        let mut at = self.buckets[bucket];
        if at == key {
            self.buckets[bucket] = after;
        } else {
            while let Some(queue) = self.slab.get_mut(at) {
                if queue.chain == key {
                    queue.chain = after;
                    break;
                }
                at = queue.chain;
            }
        }
        self.arena.release(place, len);
        self.slab.remove(key);
    }

    fn grow(&mut self) {
        let mut buckets = vec![NONE; self.buckets.len() * 2];
        for key in 0..self.slab.end() {
            if let Some(queue) = self.slab.get_mut(key) {
                let bucket = queue.hash as usize & (buckets.len() - 1);
                queue.chain = buckets[bucket];
                buckets[bucket] = key;
            }
        }
        self.buckets = buckets;
    }

    /// The name of a queue.
    pub(crate) fn name(&self, key: u32) -> Option<&str> {
        self.slab.live(key).map(|queue| self.text(queue))
    }

    fn text(&self, queue: &Queue) -> &str {
        std::str::from_utf8(self.arena.get(queue.name, queue.name_len)).unwrap_or("")
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.slab.bytes() + self.buckets.capacity() * 4 + self.arena.bytes()
    }
}

/// The longest beginning that fits.
fn cut(name: &str) -> &str {
    let mut end = name.len().min(NAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// FNV-1a with a final mix. Names come from clients, so the index must survive unlucky names, not malicious
/// collisions: a chain costs time in proportion to the queues one tenant may open, which is limited elsewhere.
fn hash_of(name: &str) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in cut(name).bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    (hash ^ (hash >> 29) ^ (hash >> 47)) as u32
}

/// Short texts one after the other. The room of a released text serves the next text of the same length.
#[derive(Debug, Default)]
struct Arena {
    chunks: Vec<Box<[u8]>>,
    used: usize,
    holes: BTreeMap<u16, Vec<u32>>,
}

/// Bytes of one chunk. No text crosses its end.
const CHUNK: usize = 64 * 1024;

impl Arena {
    fn store(&mut self, text: &[u8]) -> Option<u32> {
        let hole = u16::try_from(text.len()).ok().and_then(|len| self.holes.get_mut(&len)?.pop());
        let place = match hole {
            Some(place) => place as usize,
            None => {
                if self.used % CHUNK + text.len() > CHUNK {
                    self.used = self.used.next_multiple_of(CHUNK);
                }
                let place = self.used;
                self.used += text.len();
                if self.used > self.chunks.len() * CHUNK {
                    self.chunks.push(vec![0; CHUNK].into_boxed_slice());
                }
                place
            }
        };
        self.chunks.get_mut(place / CHUNK)?.get_mut(place % CHUNK..place % CHUNK + text.len())?.copy_from_slice(text);
        u32::try_from(place).ok()
    }

    fn release(&mut self, place: u32, len: u16) {
        self.holes.entry(len).or_default().push(place);
    }

    fn get(&self, place: u32, len: u16) -> &[u8] {
        let place = place as usize;
        self.chunks
            .get(place / CHUNK)
            .and_then(|chunk| chunk.get(place % CHUNK..place % CHUNK + usize::from(len)))
            .unwrap_or(&[])
    }

    fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK + self.holes.values().map(|list| list.capacity() * 4).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_queue_until_its_last_reference_goes() {
        let mut queues = Queues::new();
        let mut keys = Vec::new();
        for number in 0..5000 {
            keys.push(queues.acquire(&format!("c{number}:t@d{number}.test")).unwrap());
        }
        for (number, key) in keys.iter().enumerate() {
            let name = format!("c{number}:t@d{number}.test");
            assert_eq!(queues.find(&name), Some(*key));
            assert_eq!(queues.name(*key), Some(name.as_str()));
            assert_eq!(queues.acquire(&name), Some(*key));
        }
        let before = queues.bytes();
        for key in &keys[..2500] {
            queues.remove(*key);
            assert_eq!(queues.name(*key), None);
        }
        for number in 0..2500 {
            assert_eq!(queues.find(&format!("c{number}:t@d{number}.test")), None);
            assert!(queues.acquire(&format!("x{number}:t@e{number}.test")).is_some());
        }
        assert!(queues.bytes() <= before + 20_000, "rooms of released names are used again");
        assert_eq!(queues.find("c4000:t@d4000.test"), Some(keys[4000]));
    }

    #[test]
    fn an_endless_name_is_cut_at_a_character() {
        let mut queues = Queues::new();
        let long = "ü".repeat(NAME_MAX);
        let key = queues.acquire(&long).unwrap();
        assert_eq!(queues.name(key).unwrap().len(), NAME_MAX);
    }
}
