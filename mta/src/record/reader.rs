//! Reading the event log on from a cursor, also while it is being written, also from another process.
//!
//! Lines whose checksum is wrong are skipped and counted. A cursor older than the oldest segment goes on there.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::json;
use super::log::{numbers, path_of};

/// Longest line read.
const LINE_MAX: u64 = 16 * 1024 * 1024;

/// A place between two records. The default is the oldest record there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Segment number; 0 stands before every segment.
    pub segment: u32,
    /// Byte offset in it.
    pub offset: u64,
}

/// One record as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The JSON line without its newline.
    pub line: Vec<u8>,
    /// The place behind it: where to go on when it has been dealt with.
    pub next: Cursor,
}

/// A reader; cheap to make, holds one open file.
#[derive(Debug)]
pub struct EventReader {
    dir: PathBuf,
    cursor: Cursor,
    file: Option<BufReader<File>>,
    /// Lines skipped because their checksum was wrong.
    pub damaged: u64,
    /// The log was trimmed behind the cursor: records were missed.
    pub missed: bool,
}

impl EventReader {
    /// A reader of the log in `dir` from `cursor` on.
    #[must_use]
    pub fn new(dir: &Path, cursor: Cursor) -> Self {
        Self { dir: dir.to_owned(), cursor, file: None, damaged: 0, missed: false }
    }

    /// The next whole record, or `None` when there is none yet; ask again later.
    ///
    /// # Errors
    /// What the disk said.
    pub fn next_record(&mut self) -> io::Result<Option<Record>> {
        loop {
            let Some(reader) = self.file.as_mut() else {
                if self.enter()? {
                    continue;
                }
                return Ok(None);
            };
            let mut line = Vec::new();
            let read = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)? as u64;
            if line.last() == Some(&b'\n') || read == LINE_MAX {
                self.cursor.offset += read;
                if json::is_whole(&line) {
                    line.pop();
                    return Ok(Some(Record { line, next: self.cursor }));
                }
                self.damaged += 1;
                continue;
            }
            // A line that has not ended: still being written, or the torn end of a segment with a successor.
            let later = numbers(&self.dir)?.into_iter().find(|n| *n > self.cursor.segment);
            self.file = None;
            match later {
                Some(segment) if self.reached_end(read)? => self.cursor = Cursor { segment, offset: 0 },
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// True when nothing was added behind the cursor since the last read: a writer that has a later segment never
    /// comes back to this one.
    fn reached_end(&self, tail: u64) -> io::Result<bool> {
        match std::fs::metadata(path_of(&self.dir, self.cursor.segment)) {
            Ok(meta) => Ok(meta.len() <= self.cursor.offset + tail),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Opens the segment of the cursor, or the first one after it. False when there is none.
    fn enter(&mut self) -> io::Result<bool> {
        let Some(segment) = numbers(&self.dir)?.into_iter().find(|n| *n >= self.cursor.segment) else {
            return Ok(false);
        };
        if segment != self.cursor.segment {
            self.missed |= self.cursor.segment != 0;
            self.cursor = Cursor { segment, offset: 0 };
        }
        let mut file = match File::open(path_of(&self.dir, segment)) {
            Ok(file) => file,
            // Trimmed between the two calls: look again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(self.cursor.offset))?;
        self.file = Some(BufReader::with_capacity(256 * 1024, file));
        Ok(true)
    }
}
