//! Guests: a machine booted in QEMU, read line by line on its serial console.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`guest`] | start, read, kill one guest |
//! | [`kit`] | where kernel and static programs are; composes what a guest boots |
//! | [`witness`] | what was acknowledged and what is still there (pure) |
//!
//! Emulation only (TCG): what is measured here says what is right, never how fast it is.

pub mod guest;
pub mod kit;
pub mod witness;
