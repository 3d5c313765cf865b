//! Kill -9 under load, again and again, and books kept on both sides of the server: what clients were told, what the
//! receiving server answered, what the spool still holds. In the end they must agree.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`ledger`] | do the books agree |
//! | [`load`] | who sends what, and how the receiving server answers |
//! | [`queued`] | what is still in the spool |

pub mod ledger;
pub mod load;
pub mod queued;
