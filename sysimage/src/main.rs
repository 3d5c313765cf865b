//! sysimage
fn main() {}
