//! Counters, in one place.
