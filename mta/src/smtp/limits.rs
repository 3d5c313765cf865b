//! Every maximum of the protocol code in one place, with the relations that must hold between them.

/// Longest command line taken, with its CRLF. RFC 5321 section 4.5.3.1.4 asks for 512; SIZE, DSN, AUTH and the other
/// parameters add to it (the longest sum of the registered extensions is below 1400).
pub const COMMAND_LINE_MAX: usize = 2048;
/// Longest line of an AUTH exchange: RFC 4954 section 4.
pub const AUTH_LINE_MAX: usize = 12_288;
/// A peer that sends this much without a line end is no SMTP client: closed.
pub const LINE_FLOOD: usize = 65_536;
/// Longest local part taken. RFC 5321 section 4.5.3.1.1 asks for 64; bounce addresses in use are longer.
pub const LOCAL_PART_MAX: usize = 255;
/// Longest domain: RFC 5321 section 4.5.3.1.2.
pub const DOMAIN_MAX: usize = 255;
/// Longest path without its brackets; RFC 5321 section 4.5.3.1.3 asks for 256 with them.
pub const PATH_MAX: usize = LOCAL_PART_MAX + 1 + DOMAIN_MAX;
/// Longest ENVID: RFC 3461 section 4.4.
pub const ENVID_MAX: usize = 100;
/// Longest ORCPT: RFC 3461 section 4.2.
pub const ORCPT_MAX: usize = 500;
/// Bytes left free in front of a received body, so that Received and other fields are put there without moving it.
pub const HEADROOM: usize = 1024;
/// First allocation for a message that announces no size: most mail fits.
pub const BODY_FIRST: usize = 8 * 1024;
/// Largest allocation made on the word of the peer alone (SIZE, BDAT); beyond it memory follows the bytes that come.
pub const BODY_ON_TRUST: usize = 1024 * 1024;
/// Longest reply line, RFC 5321 section 4.5.3.1.5.
pub const REPLY_LINE_MAX: usize = 512;
/// Most recipients of one transaction by default; RFC 5321 section 4.5.3.1.8 asks for 100.
pub const RECIPIENTS_DEFAULT: u32 = 1000;
/// Most transactions of one session by default.
pub const TRANSACTIONS_DEFAULT: u32 = 100_000;
/// Refused or unknown commands before the session is closed.
pub const ERRORS_DEFAULT: u32 = 20;
/// Largest message by default, in bytes.
pub const SIZE_DEFAULT: u64 = 50 * 1024 * 1024;
/// Longest hold asked for by FUTURERELEASE by default, in seconds: a week.
pub const HOLD_DEFAULT: u32 = 7 * 24 * 3600;
/// Smallest DELIVERBY time by default, in seconds.
pub const DELIVER_BY_DEFAULT: u32 = 60;
/// SCRAM iterations no verifier may go below: RFC 7677 section 4.
pub const SCRAM_ITERATIONS_MIN: u32 = 4096;
/// SCRAM iterations of a new verifier.
pub const SCRAM_ITERATIONS: u32 = 10_000;
/// SCRAM iterations beyond which a verifier is refused: a connecting client would pay for it.
pub const SCRAM_ITERATIONS_MAX: u32 = 10_000_000;
/// Longest user name or password in an AUTH exchange, in bytes.
pub const SECRET_MAX: usize = 1024;

const _: () = assert!(COMMAND_LINE_MAX >= 512 + PATH_MAX + ORCPT_MAX + ENVID_MAX);
const _: () = assert!(AUTH_LINE_MAX < LINE_FLOOD && COMMAND_LINE_MAX < LINE_FLOOD);
const _: () = assert!(PATH_MAX <= queue::limits::ADDRESS_MAX);
const _: () = assert!(SIZE_DEFAULT as usize <= queue::limits::MESSAGE_MAX);
const _: () = assert!(RECIPIENTS_DEFAULT >= 100 && RECIPIENTS_DEFAULT as usize <= queue::limits::RECIPIENTS_MAX);
const _: () = assert!(SCRAM_ITERATIONS_MIN <= SCRAM_ITERATIONS && SCRAM_ITERATIONS < SCRAM_ITERATIONS_MAX);
