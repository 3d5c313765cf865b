//! The harness: everything the tests of more than one crate share.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`dns`] | what does the DNS say, and how does it misbehave |
//! | [`sim`] | does the process keep its promises whatever goes wrong |
//! | [`tidy`] | does the tree keep its habits |
//! | [`nbd`] | what is on a disk after the power was cut |
//! | [`vm`] | how a guest is booted and read |

pub mod dns;
pub mod nbd;
pub mod sim;
pub mod tidy;
pub mod vm;
