//! The client session: replies in, commands and results out.
