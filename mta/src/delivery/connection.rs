//! The task of one outbound connection.
