//! Delivery: connections to sites, attempts, outcomes.
