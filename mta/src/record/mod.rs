//! The event log: one record per disposition.
