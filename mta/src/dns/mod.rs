//! DNS: MX hosts, site names, confirmed names.
