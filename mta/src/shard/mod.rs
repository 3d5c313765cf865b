//! One shard: a pinned thread with its runtime, queues and connections.
