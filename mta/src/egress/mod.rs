//! Egress sources and pools: from which address, with which name.
