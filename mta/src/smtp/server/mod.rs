//! The server session: bytes in, events and replies out.
