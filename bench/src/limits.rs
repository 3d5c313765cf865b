//! Every bound of the load tool in one place. Nothing a peer sends makes a buffer grow past these.

/// Longest command line a sink session takes (RFC 5321 section 4.5.3.1.4 asks for 512; AUTH lines are longer).
pub const COMMAND_LINE_MAX: usize = 16 * 1024;
/// Size of the read buffer of one sink connection, bytes.
pub const SINK_READ_BUFFER: usize = 64 * 1024;
/// Most recipients the sink takes in one transaction before it answers 452.
pub const SINK_RECIPIENTS_MAX: usize = 100_000;
/// Largest message the sink announces and takes, bytes.
pub const SINK_MESSAGE_MAX: u64 = 512 * 1024 * 1024;
/// Largest BDAT chunk the sink takes, bytes.
pub const SINK_CHUNK_MAX: u64 = SINK_MESSAGE_MAX;
/// Arrived messages the page of the sink shows.
pub const RECENT_MESSAGES: usize = 200;
/// Bytes of a message kept when nothing but its identity is wanted: the header fields up to the bench id.
pub const KEEP_HEAD: usize = 8 * 1024;
/// Bytes of a message kept when people may look at it on the page.
pub const KEEP_PAGE: usize = 64 * 1024;
/// Bytes of a message kept when it is verified.
pub const KEEP_VERIFY: usize = 64 * 1024 * 1024;
/// Longest reply line the injector takes (RFC 5321 section 4.5.3.1.5 asks for 512).
pub const REPLY_LINE_MAX: usize = 8 * 1024;
/// Different refusal texts a report quotes.
pub const REFUSAL_TEXTS: usize = 16;
/// Longest latency a histogram holds, microseconds (ten minutes).
pub const LATENCY_MAX_US: u64 = 600_000_000;
/// Longest request the page of the sink reads, bytes.
pub const HTTP_REQUEST_MAX: usize = 8 * 1024;
/// Greylisting entries a sink remembers; beyond it everybody is known.
pub const GREYLIST_MAX: usize = 1_000_000;

const _: () = assert!(KEEP_HEAD <= KEEP_PAGE && KEEP_PAGE <= KEEP_VERIFY);
const _: () = assert!(COMMAND_LINE_MAX < SINK_READ_BUFFER, "a command line must fit the read buffer");
