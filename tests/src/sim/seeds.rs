//! Seeds that once broke a promise, with what they found. A seed means another run when the plan changes; the list then
//! goes on as a list of runs with many mishaps, and each finding has a test of its own beside the code where it was.

/// Run by every `cargo test`.
pub const FOUND: &[(u64, &str)] = &[
    (3, "two homes filled one path: its overflow went back and forth every millisecond, signed each time"),
    (152, "a reply read while the ack log's disk failed was forgotten by kill -9: delivered twice"),
    (277, "a verdict the ack log refused was overtaken by its note"),
    (515, "the end of a message brought a recipient back early after an unknown outcome, the clock untrusted"),
    (1080, "a tail found after kill -9 was not synced: false damage after a power cut"),
    (1338, "a copy found after kill -9 was not synced, its original recycled: accepted mail lost by a power cut"),
    (1632, "segment files that could not be opened for writing filled the disk"),
    (1957, "a clock jump ended a recipient whose reply was read before the next look at the clock"),
];
