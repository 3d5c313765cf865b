//! Sockets and the runtime of a shard: io_uring, or epoll where io_uring is forbidden.
