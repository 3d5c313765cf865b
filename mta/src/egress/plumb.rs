//! Which addresses does the machine have? Told by the kernel as they come and go (rtnetlink), not by asking.
//!
//! [`parse`] and [`Plumbed`] are pure; [`Watcher`] holds the socket, for the control thread's tokio runtime. An
//! address that vanishes is known within milliseconds, so that its source leaves the pool within a second (D-01).

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{self, AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType};
use tokio::net::UnixDatagram;

use crate::config::Network;

/// One change the kernel told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The address can be bound now.
    Added {
        /// Interface.
        interface: u32,
        /// The address.
        address: IpAddr,
        /// Its prefix length.
        bits: u8,
    },
    /// The address is gone (or not usable: a duplicate was seen).
    Removed {
        /// Interface.
        interface: u32,
        /// The address.
        address: IpAddr,
        /// Its prefix length.
        bits: u8,
    },
    /// The kernel had more to tell than fitted: everything must be read again.
    Lost,
}

// <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if_addr.h>.
const HEADER: usize = 16;
const IFADDRMSG: usize = 8;
const NLMSG_OVERRUN: u16 = 4;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const GROUP_IPV4_ADDRESSES: u32 = 0x10;
const GROUP_IPV6_ADDRESSES: u32 = 0x100;

/// Reads what one receive brought: any number of netlink messages, in the machine's byte order. What is malformed
/// or of no interest is passed over.
#[must_use]
pub fn parse(mut bytes: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let length = length as usize;
        if length < HEADER || length > bytes.len() {
            break;
        }
        match kind {
            RTM_NEWADDR | RTM_DELADDR => {
                changes.extend(bytes.get(HEADER..length).and_then(|body| address_message(body, kind)));
            }
            NLMSG_OVERRUN => changes.push(Change::Lost),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    changes
}

fn address_message(body: &[u8], kind: u16) -> Option<Change> {
    let (family, bits, flags) = (*body.first()?, *body.get(1)?, *body.get(2)?);
    let interface = u32_at(body, 4)?;
    let (mut address, mut local, mut flags) = (None, None, u32::from(flags));
    let mut rest = body.get(IFADDRMSG..)?;
    while let (Some(length), Some(attribute)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length);
        let Some(value) = rest.get(4..length) else { break };
        match attribute {
            IFA_ADDRESS => address = ip(family, value),
            IFA_LOCAL => local = ip(family, value),
            IFA_FLAGS => flags = u32_at(value, 0).unwrap_or(flags),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    // On a point-to-point link IFA_ADDRESS is the other end's.
    let address = local.or(address)?;
    let usable = kind == RTM_NEWADDR && flags & (IFA_F_DADFAILED | IFA_F_TENTATIVE) == 0;
    Some(if usable { Change::Added { interface, address, bits } } else { Change::Removed { interface, address, bits } })
}

fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => <[u8; 4]>::try_from(value).ok().map(|a| IpAddr::V4(Ipv4Addr::from(a))),
        AF_INET6 => <[u8; 16]>::try_from(value).ok().map(|a| IpAddr::V6(Ipv6Addr::from(a))),
        _ => None,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The addresses of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plumbed {
    addresses: HashSet<(u32, IpAddr)>,
    /// Loopback networks: every address in them can be bound, not only the one that is set.
    loopback: HashSet<(u32, IpAddr, u8)>,
}

impl Plumbed {
    /// True when a socket can be bound to `address`.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(_, one)| *one == address)
            || self
                .loopback
                .iter()
                .any(|(_, base, bits)| Network::new(*base, *bits).is_some_and(|network| network.contains(address)))
    }

    /// Takes in a change. False for [`Change::Lost`]: read again with [`read_all`].
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Added { interface, address, bits } => {
                self.addresses.insert((interface, address));
                if address.is_loopback() {
                    self.loopback.insert((interface, address, bits));
                }
            }
            Change::Removed { interface, address, bits } => {
                self.addresses.remove(&(interface, address));
                self.loopback.remove(&(interface, address, bits));
            }
            Change::Lost => return false,
        }
        true
    }

    /// All addresses, for the list of our own.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(|(_, address)| *address)
    }
}

/// Asks the kernel for all addresses.
pub fn read_all() -> io::Result<Plumbed> {
    let mut plumbed = Plumbed::default();
    for one in nix::ifaddrs::getifaddrs()? {
        let Some(address) = one.address.as_ref().and_then(storage_ip) else { continue };
        let bits = match one.netmask.as_ref().and_then(storage_ip) {
            Some(IpAddr::V4(mask)) => mask.to_bits().leading_ones(),
            Some(IpAddr::V6(mask)) => mask.to_bits().leading_ones(),
            None if address.is_ipv4() => 32,
            None => 128,
        };
        let interface = nix::net::if_::if_nametoindex(one.interface_name.as_str()).unwrap_or(0);
        let bits = u8::try_from(bits).unwrap_or(128);
        plumbed.apply(Change::Added { interface, address, bits });
    }
    Ok(plumbed)
}

fn storage_ip(storage: &socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

/// Hears from the kernel which addresses come and go.
pub struct Watcher {
    /// A netlink socket. tokio has no type of that name; its datagram socket calls nothing but recv(2) here.
    socket: UnixDatagram,
}

impl Watcher {
    /// Opens the socket. Inside the tokio runtime. Needs no privilege.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket::socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        let groups = GROUP_IPV4_ADDRESSES | GROUP_IPV6_ADDRESSES;
        socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self { socket: UnixDatagram::from_std(socket.into())? })
    }

    /// Waits for the next changes.
    pub async fn next(&self) -> io::Result<Vec<Change>> {
        let mut buffer = vec![0_u8; 32 * 1024];
        loop {
            match self.socket.recv(&mut buffer).await {
                Ok(length) => {
                    let changes = parse(buffer.get(..length).unwrap_or_default());
                    if !changes.is_empty() {
                        return Ok(changes);
                    }
                }
                // The socket's buffer ran over: the kernel dropped messages.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => return Ok(vec![Change::Lost]),
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend((4 + value.len() as u16).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn message(kind: u16, family: u8, flags: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body: Vec<u8> = attributes.concat();
        let mut out = Vec::new();
        out.extend((HEADER as u32 + IFADDRMSG as u32 + body.len() as u32).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend([0; 10]);
        out.extend([family, 24, flags, 0]);
        out.extend(3_u32.to_ne_bytes());
        out.extend(body);
        out
    }

    fn v4(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
    }

    #[test]
    fn d01_addresses_come_and_go() {
        let mut bytes = message(RTM_NEWADDR, AF_INET, 0, &[attribute(IFA_LOCAL, &[192, 0, 2, 1])]);
        bytes.extend(message(
            RTM_DELADDR,
            AF_INET,
            0,
            &[attribute(IFA_ADDRESS, &[192, 0, 2, 9]), attribute(99, b"odd"), attribute(IFA_LOCAL, &[192, 0, 2, 2])],
        ));
        let expected = [
            Change::Added { interface: 3, address: v4(1), bits: 24 },
            Change::Removed { interface: 3, address: v4(2), bits: 24 },
        ];
        assert_eq!(parse(&bytes), expected);
    }

    #[test]
    fn a_tentative_v6_address_is_not_there_yet() {
        let address = "2001:db8::1".parse::<Ipv6Addr>().unwrap();
        let attributes =
            |flags: u32| [attribute(IFA_ADDRESS, &address.octets()), attribute(IFA_FLAGS, &flags.to_ne_bytes())];
        let tentative = parse(&message(RTM_NEWADDR, AF_INET6, 0, &attributes(IFA_F_TENTATIVE)));
        assert!(matches!(tentative[..], [Change::Removed { .. }]));
        assert!(matches!(parse(&message(RTM_NEWADDR, AF_INET6, 0, &attributes(0)))[..], [Change::Added { .. }]));
        assert!(matches!(
            parse(&message(RTM_NEWADDR, AF_INET6, IFA_F_DADFAILED as u8, &attributes(0)[..1]))[..],
            [Change::Removed { .. }]
        ));
    }

    #[test]
    fn no_bytes_make_it_stumble() {
        let good = message(RTM_NEWADDR, AF_INET, 0, &[attribute(IFA_LOCAL, &[192, 0, 2, 1])]);
        for cut in 0..good.len() {
            assert!(parse(&good[..cut]).is_empty());
        }
        for at in 0..good.len() {
            for value in [0, 1, 3, 4, 15, 16, 127, 255] {
                let mut bent = good.clone();
                bent[at] = value;
                let _ = parse(&bent);
            }
        }
        assert_eq!(parse(&[16, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), [Change::Lost]);
    }

    #[test]
    fn an_address_on_two_interfaces_stays_until_both_are_gone() {
        let mut plumbed = Plumbed::default();
        let address = v4(1);
        for interface in [1, 2] {
            plumbed.apply(Change::Added { interface, address, bits: 24 });
        }
        plumbed.apply(Change::Removed { interface: 1, address, bits: 24 });
        assert!(plumbed.has(address));
        plumbed.apply(Change::Removed { interface: 2, address, bits: 24 });
        assert!(!plumbed.has(address));
        assert!(!plumbed.apply(Change::Lost));
    }

    #[test]
    fn all_of_a_loopback_network_can_be_bound() {
        let plumbed = read_all().unwrap();
        assert!(plumbed.has("127.0.0.1".parse().unwrap()));
        assert!(plumbed.has("127.9.8.7".parse().unwrap()));
        assert!(!plumbed.has("192.0.2.77".parse().unwrap()));
    }
}
