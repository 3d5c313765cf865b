//! The only unsafe code of this crate: mapped segments, and the writer's ring.
//!
//! Everything here has a safe face. A map is only made of files that nobody shortens; the ring owns each buffer from
//! the submission of an operation to its completion, so that nobody can touch memory the kernel reads.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use memmap2::{Advice, Mmap};

/// A whole segment file mapped for reading.
pub struct FileMap {
    map: Mmap,
}

impl FileMap {
    /// Maps all of `file` and tells the kernel that it is read here and there.
    pub fn new(file: &File) -> io::Result<Self> {
        // SAFETY: segment files belong to this process alone (the spool directory is locked), they keep their length
        // for as long as they exist, and the spool maps only segments that are no longer written until the last
        // clone of the map is gone.
        let map = unsafe { Mmap::map(file.as_raw_fd())? };
        // Read-ahead would bring in pages nobody asked for; being refused only costs memory.
        let _ = map.advise(Advice::Random);
        Ok(Self { map })
    }

    /// All bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Brings a range into memory. Waits for the disk.
    pub fn populate(&self, offset: usize, len: usize) -> io::Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > self.map.len()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a range outside of the map"));
        }
        let page = 4096;
        let start = offset / page * page;
        self.map.advise_range(Advice::PopulateRead, start, offset + len - start)
    }

    /// Pages of the file that are in memory.
    pub fn resident_pages(&self) -> io::Result<usize> {
        let page = 4096;
        let mut pages = vec![0u8; self.map.len().div_ceil(page)];
        // SAFETY: the address and length are those of a live mapping, and `pages` has one byte for each of its pages.
        let done = unsafe { libc::mincore(self.map.as_ptr().cast_mut().cast(), self.map.len(), pages.as_mut_ptr()) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(pages.iter().filter(|page| **page & 1 != 0).count())
    }
}
