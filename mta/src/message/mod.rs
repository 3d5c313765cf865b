//! Messages: header scan, hygiene, trace header, signature, conversion.
//!
//! Everything here is a pure function of bytes, values and a time handed in; the one exception is [`render::Pool`],
//! which owns threads. Nothing here knows a socket, a queue or a file descriptor (keys excepted, see [`dkim`]).
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`header`] | where each field of a header is |
//! | [`facts`] | 8-bit, dots, long lines: one pass over the content |
//! | [`hygiene`] | would a provider refuse this header, and why |
//! | [`steer`] | fields by which a client chooses pool, tenant, campaign |
//! | [`received`] | our trace header |
//! | [`accept`] | from received content to what is stored |
//! | [`canonical`] | DKIM canonical forms and the body hash |
//! | [`dkim`] | keys and signatures |
//! | [`convert`] | 8-bit content for a 7-bit site |
//! | [`render`] | from what is stored to what is sent |
//! | [`date`] | dates in the header and in fields of clients |

pub mod accept;
pub mod address;
pub mod canonical;
pub mod convert;
pub mod date;
pub mod dkim;
pub mod facts;
pub mod header;
pub mod hygiene;
pub mod key;
pub mod pool;
pub mod received;
pub mod render;
pub mod steer;
