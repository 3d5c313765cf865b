//! The harness: everything the tests of more than one crate share.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`dns`] | what does the DNS say, and how does it misbehave |
//! | [`tidy`] | does the tree keep its habits |
//! | [`nbd`] | what is on a disk after the power was cut |
//! | [`fuzz`] | does any string of bytes break a promise |
//! | [`vm`] | how a guest is booted and read |

pub mod dns;
pub mod fuzz;
pub mod nbd;
pub mod tidy;
pub mod vm;
