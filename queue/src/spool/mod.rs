//! The spool: where the bytes are, and when they are durable.
