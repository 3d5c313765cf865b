//! Configuration: as written (raw), as checked (resolved).
