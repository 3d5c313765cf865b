//! Starting, watching and stopping the whole: the only layer that sees every other.

pub mod assemble;
pub mod init;
pub mod start;
