//! Errors that say who is to blame.

use std::io;

/// Why the spool does not take a message now. The peer hears a true and bland 4xx; the log hears this.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// The disk is full up to the reserve for this class.
    #[error("disk full: {free} bytes free, {needed} kept in reserve; free some space or enlarge the spool disk")]
    Full {
        /// Bytes free on the spool's file system.
        free: u64,
        /// Bytes that must stay free for this class.
        needed: u64,
    },
    /// A write failed; the segment was ended and its unacknowledged messages are dropped.
    #[error("the spool disk failed a write ({0}); see the kernel log for the disk")]
    WriteFailed(String),
    /// More is waiting for the disk than may wait.
    #[error("the spool disk is slower than the mail that comes in")]
    Busy,
    /// The message does not fit the configured segment size.
    #[error("a message of {size} bytes does not fit a segment; raise spool.segment_mib")]
    TooLarge {
        /// Bytes of the record.
        size: u64,
    },
    /// The ack log can't be written: neither acceptance nor delivery goes on.
    #[error("the ack log can't be written ({0})")]
    AckLog(String),
    /// The spool is closing.
    #[error("shutting down")]
    Closing,
}

/// Why a spool could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system said no.
    #[error("{what}: {source}; {remedy}")]
    Io {
        /// What was tried.
        what: String,
        /// What the operating system said.
        source: io::Error,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Another process holds the spool.
    #[error("{0} is in use by another process; stop it first")]
    Locked(String),
    /// Written by a release newer than this one.
    #[error("{what} has format {found}, this release reads up to {known}; start the newer release again")]
    TooNew {
        /// Which file.
        what: String,
        /// Format found.
        found: u32,
        /// Newest format known.
        known: u32,
    },
    /// A setting is out of its range.
    #[error("{0}")]
    Setting(String),
}

/// Why a stored message could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes are not what was written: the message is held, never sent.
    #[error("spool damage in segment {segment} at {offset}: {what}")]
    Damaged {
        /// Logical segment number.
        segment: u32,
        /// Byte offset in the segment.
        offset: u64,
        /// Which check failed.
        what: &'static str,
    },
    /// The disk failed the read.
    #[error("read error in segment {segment}: {source}")]
    Io {
        /// Logical segment number.
        segment: u32,
        /// What the operating system said.
        source: io::Error,
    },
    /// Nothing by that place: it was retired.
    #[error("no record at segment {segment}, offset {offset}")]
    Gone {
        /// Logical segment number.
        segment: u32,
        /// Byte offset in the segment.
        offset: u64,
    },
}
