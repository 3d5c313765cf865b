//! Egress sources and pools: from which address mail leaves, and under which name.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`source`] | may this source send now, and under which EHLO name |
//! | [`pool`] | which source is next |
//! | [`plumb`] | which addresses does the machine have |
//! | [`watch`] | the task on the control thread that keeps all of that up to date |
//!
//! A source sends only while its address is on the machine and its name is confirmed: PTR = EHLO = A or AAAA
//! (D-01, D-02). The EHLO name is never typed in; only a lab may assume names, and says so loudly.

pub mod plumb;
pub mod pool;
pub mod source;
pub mod watch;

pub use pool::{Families, Pool};
pub use source::{EgressSource, SourceState, Standing};
pub use watch::{Egress, SourceTable};
