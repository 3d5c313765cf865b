//! TLS over buffers: no socket in sight.
