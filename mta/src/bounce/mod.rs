//! What a reply means, and the reports (DSN) we send about it.
