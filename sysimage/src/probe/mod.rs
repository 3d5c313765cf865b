//! Programs that run inside a guest and say on the console what is true there.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`memory`] | does memory lie on the node of the thread that uses it |
//! | [`durable`] | is what the disk acknowledged still there after the power was cut |

pub mod durable;
pub mod memory;
