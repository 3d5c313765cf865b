//! Holds and suspensions: what an operator or a fault has stopped.
