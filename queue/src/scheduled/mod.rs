//! Scheduled queues: which recipient is due when.
