//! XCLIENT: a listed proxy in front of us tells who the client is. Nobody else may.
//!
//! Values are xtext. `[UNAVAILABLE]` and `[TEMPUNAVAIL]` mean nothing is known. LOGIN is not taken: a credential is
//! shown to us or not at all.

use std::net::{IpAddr, SocketAddr};

use super::session::{Context, Session, Step};
use crate::smtp::codes::{reply, Reply};
use crate::smtp::xtext;

/// What the proxy said, before any of it is believed.
#[derive(Default)]
struct Told {
    name: Option<Option<String>>,
    addr: Option<IpAddr>,
    port: Option<u16>,
    local_addr: Option<IpAddr>,
    local_port: Option<u16>,
}

impl Session {
    pub(super) fn xclient(&mut self, argument: &str, context: &mut Context<'_>) -> Result<Step, Reply> {
        if !self.may_xclient {
            return Err(reply::XCLIENT_DENIED);
        }
        if self.transaction.is_some() {
            return Err(reply::NESTED);
        }
        let told = read(argument).ok_or(reply::BAD_PARAMETER)?;
        let peer = &mut self.peer;
        if let Some(name) = told.name {
            peer.name = name;
        }
        let place = |old: SocketAddr, addr: Option<IpAddr>, port: Option<u16>| {
            SocketAddr::new(addr.unwrap_or(old.ip()), port.unwrap_or(old.port()))
        };
        peer.addr = place(peer.addr, told.addr, told.port);
        peer.local = place(peer.local, told.local_addr, told.local_port);
        // As after connecting: the client's own HELO follows.
        self.forget();
        self.greeting(context.out);
        Ok(Step::More)
    }
}

fn read(argument: &str) -> Option<Told> {
    let mut told = Told::default();
    let mut words = argument.split_ascii_whitespace().peekable();
    words.peek()?;
    for word in words {
        let (name, value) = word.split_once('=')?;
        let value = String::from_utf8(xtext::decode(value.as_bytes())?).ok()?;
        let known = !["[UNAVAILABLE]", "[TEMPUNAVAIL]"].iter().any(|none| none.eq_ignore_ascii_case(&value));
        match name.to_ascii_uppercase().as_str() {
            "NAME" => told.name = Some(known.then_some(value)),
            "ADDR" if known => told.addr = Some(address(&value)?),
            "PORT" if known => told.port = Some(value.parse().ok()?),
            "DESTADDR" if known => told.local_addr = Some(address(&value)?),
            "DESTPORT" if known => told.local_port = Some(value.parse().ok()?),
            // The client's HELO comes by itself behind this; the protocol word is ours to find.
            "HELO" | "PROTO" | "ADDR" | "PORT" | "DESTADDR" | "DESTPORT" => {}
            _ => return None,
        }
    }
    Some(told)
}

/// IPv4, or IPv6 behind `IPV6:`.
fn address(text: &str) -> Option<IpAddr> {
    let tagged = text.get(..5).filter(|tag| tag.eq_ignore_ascii_case("ipv6:"));
    text.get(tagged.map_or(0, str::len)..)?.parse().ok()
}
