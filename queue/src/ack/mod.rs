//! The ack log: which recipients are in flight, decided, or done.
