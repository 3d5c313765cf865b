//! The PROXY header, versions 1 and 2: a listed balancer tells who the client is before the client's first byte.
//!
//! Pure. [`parse`] says how many bytes it needs before it can tell more, so that none behind the header is read: the
//! next one may belong to a TLS handshake.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest line of version 1, with CRLF.
const V1_MAX: usize = 107;
/// Shortest line of version 1: `PROXY UNKNOWN` CRLF.
const V1_MIN: usize = 15;
/// Fixed part of version 2.
const V2_HEAD: usize = 16;
/// Longest rest of version 2 taken; addresses and every registered TLV fit many times.
const V2_MAX: usize = 4096;
/// TLV with the CRC32c of the whole header.
const TLV_CRC32C: u8 = 0x03;

/// Who the client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Source and destination; none for `LOCAL` and `UNKNOWN`: the connection speaks for itself.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Type and value of each TLV, for the log.
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

/// What the bytes so far say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// At least this many more bytes belong to the header.
    Need(usize),
    /// The header, which is all of the bytes.
    Done(ProxyHeader),
    /// Not a header: close.
    Malformed,
}

/// Reads the bytes received so far. Never asks for a byte behind the header.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let head = &bytes[..bytes.len().min(SIGNATURE.len())];
    let parsed = if SIGNATURE.starts_with(head) && !bytes.is_empty() { v2(bytes) } else { v1(bytes) };
    parsed.unwrap_or(Parsed::Malformed)
}

fn v1(bytes: &[u8]) -> Option<Parsed> {
    const START: &[u8] = b"PROXY ";
    let known = bytes.len().min(START.len());
    if bytes[..known] != START[..known] {
        return None;
    }
    if bytes.len() < V1_MIN {
        return Some(Parsed::Need(V1_MIN - bytes.len()));
    }
    let Some(line) = bytes.strip_suffix(b"\r\n") else {
        let more = if bytes.ends_with(b"\r") { 1 } else { 2 };
        return (bytes.len() + more <= V1_MAX).then_some(Parsed::Need(more));
    };
    let text = std::str::from_utf8(line).ok().filter(|text| !text.contains(['\r', '\n']))?;
    let mut words = text.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Parsed::Done(ProxyHeader::default()));
    }
    let (source, target) = (words.next()?, words.next()?);
    let (source_port, target_port) = (port(words.next()?)?, port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    let (source, target): (IpAddr, IpAddr) = match family {
        "TCP4" => (source.parse::<Ipv4Addr>().ok()?.into(), target.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => (source.parse::<Ipv6Addr>().ok()?.into(), target.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    let addresses = (SocketAddr::new(source, source_port), SocketAddr::new(target, target_port));
    Some(Parsed::Done(ProxyHeader { addresses: Some(addresses), tlvs: Vec::new() }))
}

/// Decimal without sign or leading zero.
fn port(text: &str) -> Option<u16> {
    let plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    plain.then(|| text.parse().ok())?
}

fn v2(bytes: &[u8]) -> Option<Parsed> {
    let Some(head) = bytes.first_chunk::<V2_HEAD>() else {
        return Some(Parsed::Need(V2_HEAD - bytes.len()));
    };
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > V2_MAX || head[12] >> 4 != 2 {
        return None;
    }
    let whole = V2_HEAD + length;
    if bytes.len() < whole {
        return Some(Parsed::Need(whole - bytes.len()));
    }
    let rest = bytes.get(V2_HEAD..whole).filter(|_| bytes.len() == whole)?;
    let (addresses, tlvs) = match (head[12] & 15, head[13]) {
        // LOCAL: a health check of the balancer itself.
        (0, _) => return Some(Parsed::Done(ProxyHeader::default())),
        (1, 0x11) => {
            let block = rest.first_chunk::<12>()?;
            let address = |at: usize| Ipv4Addr::new(block[at], block[at + 1], block[at + 2], block[at + 3]).into();
            (Some(pair(address(0), address(4), &block[8..])), &rest[12..])
        }
        (1, 0x21) => {
            let block = rest.first_chunk::<36>()?;
            let address =
                |from: usize| Some(IpAddr::V6(<[u8; 16]>::try_from(block.get(from..from + 16)?).ok()?.into()));
            (Some(pair(address(0)?, address(16)?, &block[32..])), &rest[36..])
        }
        // UNSPEC: accepted, and nothing is told.
        (1, 0x00) => (None, rest),
        _ => return None,
    };
    let tlvs = if addresses.is_some() { read_tlvs(tlvs, bytes)? } else { Vec::new() };
    Some(Parsed::Done(ProxyHeader { addresses, tlvs }))
}

fn pair(source: IpAddr, target: IpAddr, ports: &[u8]) -> (SocketAddr, SocketAddr) {
    let port = |at: usize| match ports.get(at..at + 2) {
        Some([high, low]) => u16::from_be_bytes([*high, *low]),
        _ => 0,
    };
    (SocketAddr::new(source, port(0)), SocketAddr::new(target, port(2)))
}

/// Reads the TLVs; a CRC32c among them must be right. `whole` is the header they end.
fn read_tlvs(mut rest: &[u8], whole: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
    let mut tlvs = Vec::new();
    while !rest.is_empty() {
        let (head, behind) = rest.split_first_chunk::<3>()?;
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let (value, next) = behind.split_at_checked(length)?;
        if head[0] == TLV_CRC32C {
            let told = u32::from_be_bytes(<[u8; 4]>::try_from(value).ok()?);
            // Computed with its own place zeroed.
            let place = whole.len() - behind.len();
            let crc = crc32c::crc32c(whole.get(..place)?);
            let crc = crc32c::crc32c_append(crc, &[0; 4]);
            if crc32c::crc32c_append(crc, next) != told {
                return None;
            }
        }
        tlvs.push((head[0], value.to_vec()));
        rest = next;
    }
    Some(tlvs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds what is asked for and no more, as the connection does.
    fn run(bytes: &[u8]) -> (Parsed, usize) {
        let mut have = 0;
        loop {
            match parse(&bytes[..have]) {
                Parsed::Need(more) if have + more <= bytes.len() => have += more,
                other => return (other, have),
            }
        }
    }

    fn source(parsed: &Parsed) -> Option<String> {
        match parsed {
            Parsed::Done(header) => Some(header.addresses.map_or("none".to_owned(), |(from, _)| from.to_string())),
            _ => None,
        }
    }

    #[test]
    fn r45_version_1() {
        for (line, expected) in [
            ("PROXY TCP4 203.0.113.9 198.51.100.1 4000 25\r\n", "203.0.113.9:4000"),
            ("PROXY TCP6 2001:db8::9 2001:db8::1 4000 25\r\n", "[2001:db8::9]:4000"),
            ("PROXY UNKNOWN\r\n", "none"),
            ("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "none"),
        ] {
            let bytes = [line.as_bytes(), b"EHLO behind\r\n"].concat();
            let (parsed, used) = run(&bytes);
            assert_eq!(source(&parsed).as_deref(), Some(expected), "{line}");
            assert_eq!(used, line.len(), "not a byte behind the header");
        }
    }

    #[test]
    fn r45_malformed_version_1() {
        for line in [
            "EHLO client.test\r\n",
            "PROXY TCP4 203.0.113.9 198.51.100.1 4000\r\n",
            "PROXY TCP4 203.0.113.9 198.51.100.1 4000 25 x\r\n",
            "PROXY TCP4 2001:db8::9 198.51.100.1 4000 25\r\n",
            "PROXY TCP4 203.0.113.9 198.51.100.1 04000 25\r\n",
            "PROXY TCP4 203.0.113.9 198.51.100.1 70000 25\r\n",
            "PROXY TCP5 203.0.113.9 198.51.100.1 4000 25\r\n",
            "PROXY TCP4 203.0.113.9\r198.51.100.1 4000 25\r\n",
            "proxy TCP4 203.0.113.9 198.51.100.1 4000 25\r\n",
        ] {
            assert_eq!(run(line.as_bytes()).0, Parsed::Malformed, "{line}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        assert_eq!(run(long.as_bytes()).0, Parsed::Malformed);
    }

    fn v2(command: u8, family: u8, block: &[u8], tlvs: &[u8]) -> Vec<u8> {
        let length = (block.len() + tlvs.len()) as u16;
        [SIGNATURE, &[0x20 | command, family][..], &length.to_be_bytes(), block, tlvs].concat()
    }

    const V4: &[u8] = &[203, 0, 113, 9, 198, 51, 100, 1, 0x0f, 0xa0, 0, 25];

    #[test]
    fn r45_version_2() {
        let tlv = [0x02, 0, 3, b'a', b'.', b'b'];
        let bytes = [v2(1, 0x11, V4, &tlv), b"\x16\x03\x01".to_vec()].concat();
        let (parsed, used) = run(&bytes);
        assert_eq!(source(&parsed).as_deref(), Some("203.0.113.9:4000"));
        assert_eq!(used, bytes.len() - 3, "the TLS handshake behind it is not touched");
        let Parsed::Done(header) = parsed else { panic!("done") };
        assert_eq!(header.tlvs, [(2, b"a.b".to_vec())]);
        let mut v6 = [0u8; 36];
        (v6[0], v6[15], v6[33]) = (0x20, 9, 7);
        assert_eq!(source(&run(&v2(1, 0x21, &v6, b"")).0).as_deref(), Some("[2000::9]:7"));
        assert_eq!(source(&run(&v2(0, 0x00, b"", b"")).0).as_deref(), Some("none"));
        assert_eq!(source(&run(&v2(1, 0x00, b"whatever", b"")).0).as_deref(), Some("none"));
    }

    #[test]
    fn r45_version_2_checksum() {
        let mut bytes = v2(1, 0x11, V4, &[3, 0, 4, 0, 0, 0, 0, 4, 0, 1, 0xff]);
        let crc = crc32c::crc32c(&bytes).to_be_bytes();
        let place = V2_HEAD + V4.len() + 3;
        bytes[place..place + 4].copy_from_slice(&crc);
        assert_eq!(source(&run(&bytes).0).as_deref(), Some("203.0.113.9:4000"));
        // With another type at its place the TLV would be no checksum at all.
        for at in (V2_HEAD..bytes.len()).filter(|at| *at != place - 3) {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(run(&bad).0, Parsed::Malformed, "byte {at}");
        }
    }

    #[test]
    fn r45_malformed_version_2() {
        for bytes in [
            v2(1, 0x11, &V4[..11], b""),
            v2(1, 0x12, V4, b""),
            v2(1, 0x31, &[0; 216], b""),
            v2(2, 0x11, V4, b""),
            v2(1, 0x11, V4, &[1]),
            v2(1, 0x11, V4, &[1, 0, 9, 1]),
            v2(1, 0x11, V4, &[3, 0, 3, 0, 0, 0]),
            [SIGNATURE, &[0x11, 0x11, 0, 12][..], V4].concat(),
            [SIGNATURE, &[0x21, 0x11, 0xff, 0xff][..]].concat(),
        ] {
            assert_eq!(run(&bytes).0, Parsed::Malformed, "{bytes:?}");
        }
    }
}
