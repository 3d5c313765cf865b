//! The harness: everything the tests of more than one crate share.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`tidy`] | does the tree keep its habits |
//! | [`nbd`] | what is on a disk after the power was cut |

pub mod nbd;
pub mod tidy;
