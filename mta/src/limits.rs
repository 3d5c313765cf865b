//! Every maximum of this crate in one place, with the relations that must hold between them.
