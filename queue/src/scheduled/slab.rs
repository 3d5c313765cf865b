//! Chunked storage under `u32` keys: it grows by one chunk, so there is no moment with the old and the new copy of
//! everything in memory, and addresses of a hundred million recipients cost four bytes. Freed entries are linked
//! through themselves. Chunks are kept for the life of the slab: a queue that was long once will be long again.

/// No key: end of a list, absent link.
pub(crate) const NONE: u32 = u32::MAX;
/// Entries per chunk.
const CHUNK: usize = 1024;

/// What an entry offers so that the slab needs no memory of its own beside it.
pub(crate) trait Slot: Default + Clone {
    /// True when the entry holds nothing.
    fn is_free(&self) -> bool;
    /// The free entry after this free one.
    fn next_free(&self) -> u32;
    /// Become free, with `next` as the free entry after this one.
    fn set_free(&mut self, next: u32);
}

/// Entries of one type under `u32` keys.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Box<[T]>>,
    free: u32,
    /// Keys handed out at least once: `0..used`.
    used: u32,
    live: u32,
}

impl<T: Slot> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { chunks: Vec::new(), free: NONE, used: 0, live: 0 }
    }

    /// Stores `value`; `None` when all keys are out.
    pub(crate) fn insert(&mut self, value: T) -> Option<u32> {
        let key = if self.free == NONE {
            let key = self.used;
            if key == NONE {
                return None;
            }
            if key as usize == self.chunks.len() * CHUNK {
                self.chunks.push(vec![T::default(); CHUNK].into_boxed_slice());
            }
            self.used += 1;
            key
        } else {
            let key = self.free;
            self.free = self.get(key).map_or(NONE, Slot::next_free);
            key
        };
        self.live += 1;
        *self.slot(key)? = value;
        Some(key)
    }

    /// Frees the entry; a free or unknown key changes nothing.
    pub(crate) fn remove(&mut self, key: u32) {
        let next = self.free;
        if let Some(entry) = self.get_mut(key) {
            entry.set_free(next);
            self.free = key;
            self.live -= 1;
        }
    }

    fn slot(&mut self, key: u32) -> Option<&mut T> {
        self.chunks.get_mut(key as usize / CHUNK)?.get_mut(key as usize % CHUNK)
    }

    /// The entry under `key`; free ones come too while they are on the way out of [`Slab::insert`].
    pub(crate) fn get(&self, key: u32) -> Option<&T> {
        self.chunks.get(key as usize / CHUNK)?.get(key as usize % CHUNK)
    }

    /// The live entry under `key`.
    pub(crate) fn live(&self, key: u32) -> Option<&T> {
        self.get(key).filter(|entry| !entry.is_free())
    }

    /// The live entry under `key`, to change.
    pub(crate) fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.slot(key).filter(|entry| !entry.is_free())
    }

    /// Number of live entries.
    pub(crate) fn len(&self) -> usize {
        self.live as usize
    }

    /// Keys are below this.
    pub(crate) fn end(&self) -> u32 {
        self.used
    }

    /// All live entries in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..self.used).filter_map(|key| self.live(key).map(|entry| (key, entry)))
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<T>() + self.chunks.capacity() * size_of::<Box<[T]>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Entry {
        value: u32,
        free: bool,
    }

    impl Slot for Entry {
        fn is_free(&self) -> bool {
            self.free
        }
        fn next_free(&self) -> u32 {
            self.value
        }
        fn set_free(&mut self, next: u32) {
            *self = Self { value: next, free: true };
        }
    }

    #[test]
    fn keys_are_used_again_and_a_freed_key_holds_nothing() {
        let mut slab = Slab::new();
        let keys: Vec<u32> = (0..3000).filter_map(|value| slab.insert(Entry { value, free: false })).collect();
        assert_eq!(slab.len(), 3000);
        slab.remove(keys[7]);
        slab.remove(keys[7]);
        slab.remove(keys[2000]);
        assert_eq!(slab.len(), 2998);
        assert!(slab.live(keys[7]).is_none());
        assert_eq!(slab.insert(Entry { value: 1, free: false }), Some(keys[2000]));
        assert_eq!(slab.insert(Entry { value: 2, free: false }), Some(keys[7]));
        assert_eq!(slab.insert(Entry { value: 3, free: false }), Some(3000));
        assert_eq!(slab.iter().count(), 3001);
        assert!(slab.live(NONE).is_none());
    }
}
