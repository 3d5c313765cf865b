//! PROXY headers of both versions, right ones and damaged ones, read as the connection reads them: what is asked for
//! and no more.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mta::ingress::{parse_proxy as parse, ParsedProxy as Parsed, ProxyHeader};

use super::source::Source;
use super::{must, Verdict};

/// Most bytes any header may ask for: the fixed part and the rest of version 2.
const MOST: usize = 16 + 4096;

pub(super) fn run(source: &mut Source<'_>) -> Verdict {
    let (good, wanted) = if source.flip() { v1(source) } else { v2(source) };
    let trailing = [&good[..], b"EHLO client.test\r\n"].concat();
    let (read, used) = drive(&trailing)?;
    must(read == Some(wanted.clone()), || format!("{} gave {read:?}, not {wanted:?}", good.escape_ascii()))?;
    must(used == good.len(), || format!("{used} bytes read of a header of {}", good.len()))?;
    let mut bad = good;
    source.damage(&mut bad, 4);
    bad.extend_from_slice(b"EHLO client.test\r\n");
    drive(&bad)?;
    // However much is there at once, nothing panics.
    let _ = parse(&bad);
    let _ = parse(&source.spicy(200));
    Ok(())
}

/// Reads as asked; the header, or none when it is refused or never ends, and the bytes taken.
fn drive(bytes: &[u8]) -> Result<(Option<ProxyHeader>, usize), String> {
    let mut have = 0;
    loop {
        match parse(&bytes[..have]) {
            Parsed::Need(more) => {
                must(more > 0, || "it needs nothing".to_owned())?;
                have += more;
                must(have <= MOST, || format!("{have} bytes asked for"))?;
                if have > bytes.len() {
                    return Ok((None, bytes.len()));
                }
            }
            Parsed::Done(header) => return Ok((Some(header), have)),
            Parsed::Malformed => return Ok((None, have)),
        }
    }
}

fn addresses(source: &mut Source<'_>) -> (SocketAddr, SocketAddr) {
    let v6 = source.flip();
    let mut one = || {
        let ip: IpAddr = match v6 {
            true => Ipv6Addr::from((u128::from(source.u64()) << 64 | u128::from(source.u64())).to_be_bytes()).into(),
            false => Ipv4Addr::from(source.u32()).into(),
        };
        SocketAddr::new(ip, source.u32() as u16)
    };
    (one(), one())
}

fn v1(source: &mut Source<'_>) -> (Vec<u8>, ProxyHeader) {
    if source.one_in(4) {
        return (b"PROXY UNKNOWN\r\n".to_vec(), ProxyHeader::default());
    }
    let (from, to) = addresses(source);
    let family = if from.is_ipv6() { "TCP6" } else { "TCP4" };
    let line = format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port());
    (line.into_bytes(), ProxyHeader { addresses: Some((from, to)), tlvs: Vec::new() })
}

fn v2(source: &mut Source<'_>) -> (Vec<u8>, ProxyHeader) {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    if source.one_in(4) {
        let rest = source.raw(30);
        bytes.extend_from_slice(&[0x20, 0]);
        bytes.extend_from_slice(&(rest.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&rest);
        return (bytes, ProxyHeader::default());
    }
    let (from, to) = addresses(source);
    let mut rest = Vec::new();
    for address in [from, to] {
        match address.ip() {
            IpAddr::V4(ip) => rest.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => rest.extend_from_slice(&ip.octets()),
        }
    }
    rest.extend_from_slice(&from.port().to_be_bytes());
    rest.extend_from_slice(&to.port().to_be_bytes());
    let mut tlvs = Vec::new();
    for _ in 0..source.below(4) {
        // Type 3 is a checksum and has to be right: not among these.
        let (kind, value) = (4 + source.byte() % 200, source.raw(60));
        rest.push(kind);
        rest.extend_from_slice(&(value.len() as u16).to_be_bytes());
        rest.extend_from_slice(&value);
        tlvs.push((kind, value));
    }
    bytes.extend_from_slice(&[0x21, if from.is_ipv6() { 0x21 } else { 0x11 }]);
    bytes.extend_from_slice(&(rest.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&rest);
    (bytes, ProxyHeader { addresses: Some((from, to)), tlvs })
}
