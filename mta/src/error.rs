//! Errors that say who is to blame: peer, operator, disk, us.
