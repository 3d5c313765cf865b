//! Messages: header scan, hygiene, trace header, signature, conversion.
