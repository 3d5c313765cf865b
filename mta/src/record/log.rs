//! The event log on disk: append-only segments of JSON lines, `ev-<n>.jsonl`.
//!
//! `append` fills a buffer, `sync` makes it durable: only then may a consequence count as done. A torn tail is cut at
//! open; oldest segments go past a byte budget; a reserve file is given up when the disk is full, so that mail that is
//! already accepted can still be accounted for. One owner, on a blocking thread; never on an IO core.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::event::Event;
use super::json;

/// Most bytes buffered between two syncs.
pub const BUFFER_MAX: usize = 32 * 1024 * 1024;

/// Sizes, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// A segment is followed by a new one past this.
    pub segment: u64,
    /// Oldest segments are removed past this.
    pub budget: u64,
    /// Kept allocated for the day the disk is full.
    pub reserve: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { segment: 64 << 20, budget: 4 << 30, reserve: 16 << 20 }
    }
}

impl Sizes {
    /// Segments and reserve that fit a budget of bytes.
    #[must_use]
    pub fn within(budget: u64) -> Self {
        Self {
            segment: (budget / 16).clamp(1 << 20, 64 << 20),
            budget,
            reserve: (budget / 64).clamp(1 << 20, 16 << 20),
        }
    }
}

/// What `open` found and mended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// Bytes of a torn tail cut off.
    pub cut: u64,
    /// Damaged lines left in place before whole ones; readers skip them.
    pub damaged: u64,
}

/// The buffer is at its bound because the disk takes nothing: consequences must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event log's disk takes nothing; free some space or look at the disk")]
pub struct LogFull;

/// The writer.
#[derive(Debug)]
pub struct EventLog {
    dir: PathBuf,
    sizes: Sizes,
    file: File,
    /// Numbers and lengths of all segments, the one written last.
    segments: VecDeque<(u32, u64)>,
    buffer: Vec<u8>,
    /// A sync failed: what the page cache holds of this file is unknown, so the buffer goes to a new segment (an
    /// empty one is written again from its start, or a broken disk would fill with files).
    suspect: bool,
}

impl EventLog {
    /// Opens or creates the log in `dir` and cuts a torn tail.
    ///
    /// # Errors
    /// When the folder or its newest segment can't be read or written.
    pub fn open(dir: &Path, sizes: Sizes) -> io::Result<(Self, Repair)> {
        fs::create_dir_all(dir)?;
        let mut segments = VecDeque::new();
        for number in numbers(dir)? {
            segments.push_back((number, fs::metadata(path_of(dir, number))?.len()));
        }
        if segments.is_empty() {
            segments.push_back((1, 0));
        }
        let newest = segments.back().map_or(1, |(number, _)| *number);
        let file = open_segment(dir, newest)?;
        let repair = mend(dir, newest, &file)?;
        if let Some(last) = segments.back_mut() {
            last.1 = file.metadata()?.len();
        }
        sync_dir(dir)?;
        let log = Self { dir: dir.to_owned(), sizes, file, segments, buffer: Vec::new(), suspect: false };
        log.fill_reserve();
        Ok((log, repair))
    }

    /// Adds an event to the buffer; durable after the next successful [`Self::sync`].
    ///
    /// # Errors
    /// [`LogFull`] when [`BUFFER_MAX`] bytes wait already; nothing is added.
    pub fn append(&mut self, event: &Event) -> Result<(), LogFull> {
        if self.buffer.len() >= BUFFER_MAX {
            return Err(LogFull);
        }
        json::push_line(&mut self.buffer, event);
        Ok(())
    }

    /// Bytes waiting for a sync.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// Makes everything appended durable.
    ///
    /// # Errors
    /// What the disk said; the buffer is kept and the next call tries again. After a failed flush the events may stand
    /// twice, under the same ids.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = self.written() > 0 && self.written() + self.buffer.len() as u64 > self.sizes.segment;
        if full || (self.suspect && self.written() > 0) {
            self.roll()?;
        }
        let at = self.written();
        let mut result = self.file.write_all_at(&self.buffer, at);
        if result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::StorageFull) && self.give_up_reserve() {
            result = self.file.write_all_at(&self.buffer, at);
        }
        if let Err(error) = result {
            // What was half written is overwritten by the next try, or cut at the next open.
            let _ = self.file.set_len(at);
            return Err(error);
        }
        if let Err(error) = self.file.sync_data() {
            self.suspect = true;
            return Err(error);
        }
        if let Some(last) = self.segments.back_mut() {
            last.1 = at + self.buffer.len() as u64;
        }
        self.buffer.clear();
        self.suspect = false;
        self.drop_oldest();
        Ok(())
    }

    /// Bytes in all segments.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.segments.iter().map(|(_, len)| len).sum()
    }

    fn written(&self) -> u64 {
        self.segments.back().map_or(0, |(_, len)| *len)
    }

    fn roll(&mut self) -> io::Result<()> {
        let next = self.segments.back().map_or(1, |(number, _)| number.saturating_add(1));
        self.file = open_segment(&self.dir, next)?;
        self.file.set_len(0)?;
        sync_dir(&self.dir)?;
        self.segments.push_back((next, 0));
        self.suspect = false;
        self.fill_reserve();
        Ok(())
    }

    /// The newest segment always stays.
    fn drop_oldest(&mut self) {
        while self.segments.len() > 1 && self.total() > self.sizes.budget {
            let Some((number, _)) = self.segments.pop_front() else { return };
            if let Err(error) = fs::remove_file(path_of(&self.dir, number)) {
                tracing::warn!(segment = number, %error, "an old event log segment could not be removed");
            }
        }
    }

    fn reserve_path(&self) -> PathBuf {
        self.dir.join("reserve")
    }

    /// Allocates the reserve when it is missing; without room for it the log works all the same.
    fn fill_reserve(&self) {
        let path = self.reserve_path();
        if self.sizes.reserve == 0 || fs::metadata(&path).is_ok_and(|m| m.len() >= self.sizes.reserve) {
            return;
        }
        let filled = File::create(&path).and_then(|file| {
            let len = i64::try_from(self.sizes.reserve).unwrap_or(i64::MAX);
            nix::fcntl::posix_fallocate(&file, 0, len).map_err(io::Error::from)
        });
        if let Err(error) = filled {
            tracing::warn!(%error, "no room for the event log's reserve; free some space on its disk");
            let _ = fs::remove_file(&path);
        }
    }

    fn give_up_reserve(&self) -> bool {
        tracing::warn!("the disk of the event log is full; its reserve is given up, free some space now");
        fs::remove_file(self.reserve_path()).is_ok()
    }
}

/// The file of a segment.
#[must_use]
pub fn path_of(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("ev-{number:010}.jsonl"))
}

/// Numbers of the segments in a folder, rising.
///
/// # Errors
/// When the folder can't be read.
pub fn numbers(dir: &Path) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name
            .to_str()
            .and_then(|n| n.strip_prefix("ev-")?.strip_suffix(".jsonl"))
            .and_then(|n| n.parse::<u32>().ok());
        found.extend(number);
    }
    found.sort_unstable();
    Ok(found)
}

fn open_segment(dir: &Path, number: u32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path_of(dir, number))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Cuts the newest segment behind its last whole line: what follows was never acknowledged.
fn mend(dir: &Path, number: u32, file: &File) -> io::Result<Repair> {
    let bytes = fs::read(path_of(dir, number))?;
    let mut repair = Repair::default();
    let (mut good_end, mut start, mut damaged) = (0, 0, 0);
    for newline in memchr::memchr_iter(b'\n', &bytes) {
        if json::is_whole(&bytes[start..=newline]) {
            good_end = newline + 1;
            repair.damaged += std::mem::take(&mut damaged);
        } else {
            damaged += 1;
        }
        start = newline + 1;
    }
    repair.cut = (bytes.len() - good_end) as u64;
    if repair.cut > 0 {
        file.set_len(good_end as u64)?;
        file.sync_all()?;
    }
    Ok(repair)
}

#[cfg(test)]
mod tests {
    use queue::SpoolId;

    use super::super::reader::{Cursor, EventReader};
    use super::*;

    pub(crate) struct TempDir(pub PathBuf);

    impl TempDir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ringpost-ev-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const SMALL: Sizes = Sizes { segment: 2000, budget: 6000, reserve: 8192 };

    fn event(id: u64) -> Event {
        Event { id: SpoolId(id), sender: "s@a.test".to_owned(), ..Event::default() }
    }

    fn ids(dir: &Path, from: Cursor) -> Vec<String> {
        let mut reader = EventReader::new(dir, from);
        let mut ids = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            let json: serde_json::Value = serde_json::from_slice(&record.line).unwrap();
            ids.push(json["id"].as_str().unwrap().to_owned());
        }
        ids
    }

    #[test]
    fn events_survive_and_old_segments_go() {
        let dir = TempDir::new("roll");
        let (mut log, repair) = EventLog::open(&dir.0, SMALL).unwrap();
        assert_eq!(repair, Repair::default());
        for id in 0..40 {
            log.append(&event(id)).unwrap();
            log.sync().unwrap();
        }
        assert!(log.total() <= SMALL.budget);
        assert!(dir.0.join("reserve").metadata().unwrap().len() == SMALL.reserve);
        let seen = ids(&dir.0, Cursor::default());
        assert_eq!(seen.last().unwrap(), &SpoolId(39).to_string());
        assert!(seen.len() > 5 && seen.len() < 40);
        drop(log);
        let (mut log, _) = EventLog::open(&dir.0, SMALL).unwrap();
        log.append(&event(40)).unwrap();
        assert_eq!(ids(&dir.0, Cursor::default()).len(), seen.len());
        log.sync().unwrap();
        assert_eq!(ids(&dir.0, Cursor::default()).last().unwrap(), &SpoolId(40).to_string());
    }

    #[test]
    fn a_torn_tail_is_cut_at_every_byte() {
        let dir = TempDir::new("torn");
        let (mut log, _) = EventLog::open(&dir.0, Sizes::default()).unwrap();
        log.append(&event(1)).unwrap();
        log.sync().unwrap();
        let one = log.total() as usize;
        log.append(&event(2)).unwrap();
        log.sync().unwrap();
        drop(log);
        let path = path_of(&dir.0, 1);
        let whole = fs::read(&path).unwrap();
        for cut in one..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (_, repair) = EventLog::open(&dir.0, Sizes { reserve: 0, ..SMALL }).unwrap();
            assert_eq!(repair.cut as usize, cut - one);
            assert_eq!(ids(&dir.0, Cursor::default()), [SpoolId(1).to_string()]);
        }
        // Zeros, as a power cut leaves behind, and damage before a whole line.
        let mut zeros = whole.clone();
        zeros.extend_from_slice(&[0; 300]);
        zeros[10] ^= 1;
        fs::write(&path, &zeros).unwrap();
        let (_, repair) = EventLog::open(&dir.0, Sizes { reserve: 0, ..SMALL }).unwrap();
        assert_eq!(repair, Repair { cut: 300, damaged: 1 });
        assert_eq!(ids(&dir.0, Cursor::default()), [SpoolId(2).to_string()]);
    }
}
