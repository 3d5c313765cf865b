//! Which addresses are never contacted: special-purpose ranges, our own addresses (RFC 6890, IANA registries).
//!
//! An MX record can name any address. Without this check a stranger's zone could make us talk to the machines
//! behind our own firewall, or to ourselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Network;

const fn v4(a: u8, b: u8, c: u8, bits: u8) -> Network {
    Network::v4(Ipv4Addr::new(a, b, c, 0), bits)
}

const fn v6(a: u16, b: u16, bits: u8) -> Network {
    Network::v6(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), bits)
}

/// The IANA special-purpose registries as far as they are not globally reachable, and multicast.
const SPECIAL: [(Network, &str); 27] = [
    (v4(0, 0, 0, 8), "this network"),
    (v4(10, 0, 0, 8), "private use"),
    (v4(100, 64, 0, 10), "shared address space"),
    (v4(127, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 16), "link local"),
    (v4(172, 16, 0, 12), "private use"),
    (v4(192, 0, 0, 24), "protocol assignments"),
    (v4(192, 0, 2, 24), "documentation"),
    (v4(192, 88, 99, 24), "6to4 relay anycast"),
    (v4(192, 168, 0, 16), "private use"),
    (v4(198, 18, 0, 15), "benchmarking"),
    (v4(198, 51, 100, 24), "documentation"),
    (v4(203, 0, 113, 24), "documentation"),
    (v4(224, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 4), "reserved"),
    (v6(0, 0, 128), "unspecified"),
    (v6(0x64, 0xff9b, 96), "translated v4"),
    (v6(0x100, 0, 64), "discard only"),
    (v6(0x2001, 0, 32), "Teredo"),
    (v6(0x2001, 0x2, 48), "benchmarking"),
    (v6(0x2001, 0xdb8, 32), "documentation"),
    (v6(0x2002, 0, 16), "6to4"),
    (v6(0x3fff, 0, 20), "documentation"),
    (v6(0xfc00, 0, 7), "unique local"),
    (v6(0xfe80, 0, 10), "link local"),
    (v6(0xfec0, 0, 10), "site local"),
    (v6(0xff00, 0, 8), "multicast"),
];

/// The name of the special-purpose range an address lies in, if any: D-16.
#[must_use]
pub fn special_purpose(address: IpAddr) -> Option<&'static str> {
    if let IpAddr::V6(v6) = address {
        if v6.is_loopback() {
            return Some("loopback");
        }
        // ::ffff:0:0/96 and the deprecated ::/96 hide a v4 address; neither belongs on the wire.
        if v6.to_ipv4_mapped().is_some() {
            return Some("v4-mapped");
        }
        if v6.to_bits() >> 32 == 0 && !v6.is_unspecified() {
            return Some("v4-compatible");
        }
    }
    SPECIAL.iter().find(|(net, _)| net.contains(address)).map(|(_, name)| *name)
}

/// Why an address is not contacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It lies in a special-purpose range.
    Special(&'static str),
    /// It is one of ours: mail would come back.
    Own,
}

/// Which addresses may be contacted.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    /// Addresses of this machine: egress sources and listeners.
    pub own: Vec<IpAddr>,
    /// The lab switch: networks that are contacted although they are special. Empty in production.
    pub lab: Vec<Network>,
}

impl AddressPolicy {
    /// Whether `address` may be contacted.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        if self.is_own(address) {
            return Err(Refused::Own);
        }
        if self.lab.iter().any(|net| net.contains(address)) {
            return Ok(());
        }
        special_purpose(address).map_or(Ok(()), |range| Err(Refused::Special(range)))
    }

    /// True for an address of this machine, also in v4-mapped form.
    #[must_use]
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address.to_canonical())
    }

    /// True when `address` is contacted only because of the lab switch.
    #[must_use]
    pub fn is_lab(&self, address: IpAddr) -> bool {
        self.lab.iter().any(|net| net.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn r46_special_purpose_ranges_are_refused_at_both_ends() {
        let ends = [
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.0.2.0", "192.0.2.255"),
            ("192.88.99.0", "192.88.99.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("198.51.100.0", "198.51.100.255"),
            ("203.0.113.0", "203.0.113.255"),
            ("224.0.0.0", "239.255.255.255"),
            ("240.0.0.0", "255.255.255.255"),
            ("fc00::", "fdff:ffff::1"),
            ("fe80::1", "febf::1"),
            ("ff00::", "ffff::1"),
            ("2001:db8::", "2001:db8:ffff::1"),
        ];
        for (first, last) in ends {
            assert!(special_purpose(ip(first)).is_some(), "{first}");
            assert!(special_purpose(ip(last)).is_some(), "{last}");
        }
        for one in ["::", "::1", "::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::808:808"] {
            assert!(special_purpose(ip(one)).is_some(), "{one}");
        }
    }

    #[test]
    fn r46_neighbours_of_the_ranges_are_contacted() {
        for one in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1",
            "2001:db9::1",
            "2a00:1450::1",
        ] {
            assert_eq!(special_purpose(ip(one)), None, "{one}");
        }
    }

    #[test]
    fn d16_lab_opens_only_what_it_lists_and_never_our_own() {
        let policy = AddressPolicy { own: vec![ip("127.0.0.9")], lab: vec![v4(127, 0, 0, 8)] };
        assert_eq!(policy.check(ip("127.0.0.2")), Ok(()));
        assert_eq!(policy.check(ip("127.0.0.9")), Err(Refused::Own));
        assert_eq!(policy.check(ip("::ffff:127.0.0.9")), Err(Refused::Own));
        assert_eq!(policy.check(ip("10.0.0.1")), Err(Refused::Special("private use")));
        assert_eq!(policy.check(ip("8.8.8.8")), Ok(()));
    }
}
