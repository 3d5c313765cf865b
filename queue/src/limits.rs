//! Every maximum of this crate in one place, with the relations that must hold between them.

/// Unit of every write to a segment: the sector size O_DIRECT may ask for.
pub const BLOCK: usize = 4096;
/// Records start on multiples of this: what rkyv needs to be read in place.
pub const RECORD_ALIGN: usize = 16;
/// Largest batch handed to the disk at once.
pub const BATCH_MAX: usize = 256 * 1024;
/// Batches under way at once; four is the knee of the measured curve.
pub const BATCHES_IN_FLIGHT: usize = 4;
/// Segment sizes the configuration may ask for.
pub const SEGMENT_MIN: u64 = 16 * 1024 * 1024;
/// See [`SEGMENT_MIN`].
pub const SEGMENT_MAX: u64 = 256 * 1024 * 1024;
/// Largest message content, in bytes.
pub const MESSAGE_MAX: usize = 50 * 1024 * 1024;
/// Most recipients of one message.
pub const RECIPIENTS_MAX: usize = 10_000;
/// Longest address: RFC 5321 section 4.5.3.1.3 gives 256 octets with the brackets; SMTPUTF8 and we allow more.
pub const ADDRESS_MAX: usize = 1024;
/// Longest reply text kept.
pub const REPLY_TEXT_MAX: usize = 1024;
/// Largest archived envelope, which must fit beside its body in a segment.
pub const ENVELOPE_MAX: usize = 8 * 1024 * 1024;

const _: () = assert!(BLOCK.is_multiple_of(RECORD_ALIGN));
const _: () = assert!(BATCH_MAX.is_multiple_of(BLOCK));
const _: () = assert!(SEGMENT_MIN <= SEGMENT_MAX);
// The largest message must fit into the largest segment with its envelope, superblocks and footer.
const _: () = assert!((MESSAGE_MAX + ENVELOPE_MAX) as u64 + 16 * 1024 * 1024 <= SEGMENT_MAX);
