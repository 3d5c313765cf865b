//! Mail in: listeners, connections, who may send what.
