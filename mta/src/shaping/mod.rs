//! How much may go where: limiters, built-in caution, leases. All pure: values and a time in, decisions out.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`rule`] | which limits hold for a site: built in, by provider, in the lab |
//! | [`limiter`] | may one more go now, and if not, when, and which rule says so |
//! | [`caution`] | how a path behaves after a site complained |
//! | [`reaction`] | what certain replies of certain providers ask for |
//! | [`path`] | all of that for one (egress source, site) |
//! | [`lease`] | limits wider than one path, kept by one owner and lent for a second |

pub mod caution;
pub mod lease;
pub mod limiter;
pub mod path;
pub mod reaction;
pub mod rule;

pub use caution::{Caution, Change};
pub use limiter::{admit_all, Admit, Gcra, Limiter, Slots};
pub use path::PathShaper;
pub use rule::{Limits, Rate, Rule, Scope, TlsDemand, What};
