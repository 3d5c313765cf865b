//! The binary `ringpost`.
fn main() {}
