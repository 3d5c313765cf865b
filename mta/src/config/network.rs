//! Networks in CIDR form, for lists of peers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// `192.0.2.0/24`, `2001:db8::/32`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Address bits as IPv6; IPv4 in its mapped form.
    bits: u128,
    /// Bits that count, 0 to 128.
    prefix: u8,
}

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no network; write 192.0.2.0/24, 2001:db8::/32 or one address")]
pub struct BadNetwork(String);

impl Network {
    /// The IPv4 network of this address and prefix, 0 to 32.
    #[must_use]
    pub const fn v4(address: Ipv4Addr, prefix: u8) -> Self {
        Self { bits: address.to_ipv6_mapped().to_bits(), prefix: prefix + 96 }
    }

    /// The IPv6 network of this address and prefix, 0 to 128.
    #[must_use]
    pub const fn v6(address: Ipv6Addr, prefix: u8) -> Self {
        Self { bits: address.to_bits(), prefix }
    }

    /// The network of an address of either family; none when the prefix is longer than the address.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        match address {
            IpAddr::V4(address) => (prefix <= 32).then(|| Self::v4(address, prefix)),
            IpAddr::V6(address) => (prefix <= 128).then(|| Self::v6(address, prefix)),
        }
    }

    /// True when `address` lies within. An IPv4 address and its mapped form are the same.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let shift = 128 - u32::from(self.prefix);
        // A shift by all 128 bits is no shift at all for the processor: /0 holds everything.
        (bits(address) ^ self.bits).checked_shr(shift).unwrap_or(0) == 0
    }

    /// True when one of `list` holds `address`.
    #[must_use]
    pub fn any(list: &[Self], address: IpAddr) -> bool {
        list.iter().any(|network| network.contains(address))
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let bad = || BadNetwork(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| bad())?)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| bad())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        Self::new(address, prefix.unwrap_or(width)).ok_or_else(bad)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => Ipv6Addr::to_bits(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => Ipv6Addr::to_bits(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(network: &str, address: &str) -> bool {
        network.parse::<Network>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn networks_hold_what_they_name() {
        assert!(holds("192.0.2.0/24", "192.0.2.255"));
        assert!(holds("192.0.2.0/24", "::ffff:192.0.2.1"));
        assert!(!holds("192.0.2.0/24", "192.0.3.0"));
        assert!(holds("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!holds("2001:db8::/32", "2001:db9::1"));
        assert!(holds("0.0.0.0/0", "203.0.113.9") && !holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("::/0", "203.0.113.9"));
        assert!(holds("127.0.0.1", "127.0.0.1") && !holds("127.0.0.1", "127.0.0.2"));
    }

    #[test]
    fn what_is_no_network() {
        for text in ["", "192.0.2.0/33", "::/129", "a/8", "192.0.2.0/", "192.0.2.0/-1"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
