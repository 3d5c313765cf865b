//! The only unsafe code of this crate: mapped segments, and the writer's ring.
//!
//! Everything here has a safe face. A map is only made of files that nobody shortens; the ring owns each buffer from
//! the submission of an operation to its completion, so that nobody can touch memory the kernel reads.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{opcode, types, IoUring};
use memmap2::{Advice, Mmap};
use nix::sys::eventfd::EventFd;

use crate::disk::Buffer;

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
        match self.map.advise_range(Advice::PopulateRead, start, offset + len - start) {
            // A kernel before 5.14 does not know it: the pages come in when they are touched.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
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

/// Files the ring knows by number at once: the segment being written, the one being sealed, and the ones before.
const FILES: usize = 4;
/// Entries of the submission queue: every buffer of the writer and the bell fit several times.
const ENTRIES: u32 = 32;
/// Marks the completion of the bell's read; the writer's own numbers start at zero and never get there.
const BELL: u64 = u64::MAX;

/// Why a ring could not be made: what failed, and what the operating system said.
#[derive(Debug)]
pub struct RingError {
    /// Which step failed.
    pub step: RingStep,
    /// What the operating system said.
    pub source: io::Error,
}

/// The steps of making a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingStep {
    /// Making the ring itself.
    Setup,
    /// Registering the buffers, which counts against the limit of locked memory.
    Buffers,
    /// Registering the file table.
    Files,
}

/// A write that came to its end: its number, its result, its buffer.
pub type Written = (u64, io::Result<()>, Buffer);

/// The writer's ring: registered buffers, registered files, one bell. Made and used on one thread.
pub struct WriteRing {
    ring: IoUring,
    under_way: HashMap<u64, (Buffer, usize)>,
    files: [Option<(u32, Arc<File>)>; FILES],
    next_file: usize,
    bell: Arc<EventFd>,
    bell_word: Box<[u8; 8]>,
    bell_armed: bool,
}

impl WriteRing {
    /// A ring that knows `buffers` and is woken by `bell`.
    pub fn new(buffers: &[Buffer], bell: Arc<EventFd>) -> Result<Self, RingError> {
        let failed = |step| move |source| RingError { step, source };
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(ENTRIES * 4)
            .build(ENTRIES)
            .map_err(failed(RingStep::Setup))?;
        let mut parts: Vec<libc::iovec> = Vec::with_capacity(buffers.len());
        for buffer in buffers {
            if usize::from(buffer.index) != parts.len() {
                let source = io::Error::new(io::ErrorKind::InvalidInput, "buffers out of order");
                return Err(RingError { step: RingStep::Buffers, source });
            }
            let bytes = buffer.bytes();
            parts.push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
        }
        // SAFETY: each part is a live heap allocation that keeps its address when its `Buffer` is moved. The kernel
        // pins the pages, and reads them only for an operation whose buffer this ring then owns.
        unsafe { ring.submitter().register_buffers(&parts) }.map_err(failed(RingStep::Buffers))?;
        ring.submitter().register_files_sparse(FILES as u32).map_err(failed(RingStep::Files))?;
        Ok(Self {
            ring,
            under_way: HashMap::new(),
            files: [const { None }; FILES],
            next_file: 0,
            bell,
            bell_word: Box::new([0; 8]),
            bell_armed: false,
        })
    }

    /// Writes under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    fn file_index(&mut self, slot: u32, file: &Arc<File>) -> io::Result<u32> {
        let known = |entry: &Option<(u32, Arc<File>)>| {
            entry.as_ref().is_some_and(|(other, held)| *other == slot && Arc::ptr_eq(held, file))
        };
        if let Some(index) = self.files.iter().position(known) {
            return Ok(index as u32);
        }
        let index = self.next_file;
        self.next_file = (index + 1) % FILES;
        self.ring.submitter().register_files_update(index as u32, &[file.as_raw_fd()])?;
        if let Some(entry) = self.files.get_mut(index) {
            *entry = Some((slot, Arc::clone(file)));
        }
        Ok(index as u32)
    }

    /// Starts writing the first `len` bytes of `buffer` at `offset`. The ring owns the buffer until the write shows up
    /// in [`WriteRing::completed`]; when it can't be started the buffer comes back at once.
    pub fn write(
        &mut self,
        id: u64,
        (slot, file): (u32, &Arc<File>),
        offset: u64,
        len: usize,
        sync: bool,
        buffer: Buffer,
    ) -> Result<(), (io::Error, Buffer)> {
        let index = match self.file_index(slot, file) {
            Ok(index) => index,
            Err(error) => return Err((error, buffer)),
        };
        let Some(bytes) = buffer.bytes().get(..len) else {
            return Err((io::Error::new(io::ErrorKind::InvalidInput, "longer than its buffer"), buffer));
        };
        let entry = opcode::WriteFixed::new(types::Fixed(index), bytes.as_ptr(), len as u32, buffer.index)
            .offset(offset)
            .rw_flags(if sync { libc::RWF_DSYNC } else { 0 })
            .build()
            .user_data(id);
        // SAFETY: the bytes belong to `buffer`, which goes into `under_way` right here and leaves it only when the
        // completion of this very operation was seen.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            return Err((io::Error::from(io::ErrorKind::WouldBlock), buffer));
        }
        self.under_way.insert(id, (buffer, len));
        Ok(())
    }

    /// Submits what was started and waits for a completion, the bell, or the time.
    pub fn wait(&mut self, at_most: Duration) -> io::Result<()> {
        self.arm_bell();
        let time = types::Timespec::from(at_most);
        let args = types::SubmitArgs::new().timespec(&time);
        match self.ring.submitter().submit_with_args(1, &args) {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn arm_bell(&mut self) {
        if self.bell_armed {
            return;
        }
        let fd = types::Fd(std::os::fd::AsFd::as_fd(&*self.bell).as_raw_fd());
        let entry = opcode::Read::new(fd, self.bell_word.as_mut_ptr(), 8).build().user_data(BELL);
        // SAFETY: the word and the file live as long as the ring, and dropping the ring waits for this read.
        self.bell_armed = unsafe { self.ring.submission().push(&entry) }.is_ok();
    }

    /// Writes that came to their end since the last call. A short write counts as failed.
    pub fn completed(&mut self) -> Vec<Written> {
        let mut done = Vec::new();
        for entry in self.ring.completion() {
            if entry.user_data() == BELL {
                self.bell_armed = false;
                continue;
            }
            let Some((buffer, len)) = self.under_way.remove(&entry.user_data()) else { continue };
            let result = match entry.result() {
                code if code < 0 => Err(io::Error::from_raw_os_error(-code)),
                written if written as usize == len => Ok(()),
                written => Err(io::Error::new(io::ErrorKind::WriteZero, format!("only {written} of {len} bytes"))),
            };
            done.push((entry.user_data(), result, buffer));
        }
        done
    }
}

impl Drop for WriteRing {
    fn drop(&mut self) {
        // The kernel may still read the buffers and write the word: wait until it does no more.
        let mut rounds = 0;
        while (self.bell_armed || !self.under_way.is_empty()) && rounds < 1000 {
            if self.bell_armed {
                // A bell that can't be rung leaves the read armed; the word is then given up below.
                let _ = self.bell.write(1);
            }
            let time = types::Timespec::from(Duration::from_millis(100));
            let _ = self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&time));
            drop(self.completed());
            rounds += 1;
        }
        if self.bell_armed || !self.under_way.is_empty() {
            // Better lost memory than memory that someone else's bytes land in.
            std::mem::forget(std::mem::take(&mut self.under_way));
            std::mem::forget(std::mem::replace(&mut self.bell_word, Box::new([0; 8])));
        }
    }
}

/// Maps the whole of `file` shared, to read and write.
///
/// # Errors
/// What the operating system said.
pub fn map_shared(file: &std::fs::File) -> std::io::Result<memmap2::MmapMut> {
    // SAFETY: the only callers map ack rings: files this process has created under its own epoch, filled with zeros by
    // write(2) so that every page is there, and never truncates. The bytes are plain data, checked by whoever reads.
    unsafe { memmap2::MmapMut::map_mut(file) }
}
