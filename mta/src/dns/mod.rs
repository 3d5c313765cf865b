//! DNS: from a domain to the hosts that take its mail, and from an address to its name.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`name`] | the A-label form of a domain, or why it is no domain |
//! | [`special`] | may this address be contacted at all |
//! | [`mx`] | which hosts, in which order, and when the answer is "never" |
//! | [`site`] | what the set of hosts is called, and which provider runs it |
//! | [`health`] | which hosts are worth a try now |
//! | [`routes`] | which domains an operator sends elsewhere |
//! | [`cache`] | which routes are known, and for how long |
//! | [`lookup`] | one question to the DNS and how far its answer is to be trusted |
//! | [`confirm`] | do address and name agree |
//! | [`resolver`] | the door: asked by shards, answered on the control thread |
//!
//! Everything is pure but `lookup` with its `upstream`, and `resolver` with its `service`. No module here decides
//! whether TLS is required: it only says which answers were validated.

pub mod cache;
pub mod confirm;
pub mod health;
pub mod lookup;
pub mod mx;
pub mod name;
pub mod resolver;
pub mod route;
pub mod routes;
mod service;
pub mod site;
pub mod special;
mod upstream;

pub use confirm::{Confirmation, Mismatch};
pub use lookup::{Failure, Found, Security};
pub use resolver::{Resolver, ResolverConfig, Roots};
pub use route::{MxHost, Route, RouteError};
pub use site::SiteName;
pub use special::AddressPolicy;
