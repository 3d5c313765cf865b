//! Starting, watching and stopping the whole: the only layer that sees every other.

pub mod assemble;
pub mod doctor;
pub mod durable;
pub mod init;
pub mod run;
pub mod serve;
pub mod start;
pub mod status;
