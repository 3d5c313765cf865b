//! Do an address and its name agree? RFC 1912 section 2.1: address -> PTR name -> address. Pure.
//!
//! Receivers check this (Gmail 4.7.23 and 5.7.25); a source whose name is not confirmed may not send.

use std::net::IpAddr;

/// What the look-ups for one address came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// The PTR name's addresses contain the address.
    Confirmed {
        /// The name, lower-case A-labels: the EHLO name.
        name: String,
    },
    /// They do not agree.
    Mismatch {
        /// In which way.
        why: Mismatch,
    },
    /// The DNS gave no usable answer; nothing is known.
    Unknown {
        /// What happened.
        text: String,
    },
}

/// In which way address and name disagree. The operator (or the hoster) is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// No PTR record.
    #[error("{address} has no PTR record; set it at the hoster")]
    NoPtr {
        /// Which address.
        address: IpAddr,
    },
    /// The PTR names something that is no host name.
    #[error("the PTR record of {address} is no host name; set it at the hoster")]
    BadName {
        /// Which address.
        address: IpAddr,
    },
    /// None of the PTR names has an address record back.
    #[error("the PTR name {name} of {address} does not lead back; add an A or AAAA record for it")]
    NotBack {
        /// Which address.
        address: IpAddr,
        /// The first PTR name.
        name: String,
    },
}

/// What one PTR name's address look-up came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Back {
    /// Its addresses; empty when it has none.
    Addresses(Vec<IpAddr>),
    /// The DNS gave no usable answer.
    Failed(String),
}

/// Decides from the PTR names of `address` (in A-labels) and what each of them leads to.
///
/// With several PTR names the first in order of the alphabet that leads back is taken, so that the EHLO name
/// does not change from one answer to the next.
#[must_use]
pub fn decide(address: IpAddr, mut names: Vec<(String, Back)>) -> Confirmation {
    names.sort_by(|a, b| a.0.cmp(&b.0));
    let Some(first) = names.first().map(|(name, _)| name.clone()) else {
        return Confirmation::Mismatch { why: Mismatch::NoPtr { address } };
    };
    let mut failure = None;
    for (name, back) in names {
        match back {
            Back::Addresses(addresses) if addresses.iter().any(|a| a.to_canonical() == address.to_canonical()) => {
                return Confirmation::Confirmed { name };
            }
            Back::Addresses(_) => {}
            Back::Failed(text) => failure = failure.or(Some(format!("{name}: {text}"))),
        }
    }
    match failure {
        Some(text) => Confirmation::Unknown { text },
        None => Confirmation::Mismatch { why: Mismatch::NotBack { address, name: first } },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn back(addresses: &[&str]) -> Back {
        Back::Addresses(addresses.iter().map(|a| ip(a)).collect())
    }

    #[test]
    fn r46_ptr_and_address_must_agree() {
        let a = ip("192.0.2.1");
        let yes = decide(a, vec![("m.test".into(), back(&["192.0.2.9", "192.0.2.1"]))]);
        assert_eq!(yes, Confirmation::Confirmed { name: "m.test".into() });
        let no = decide(a, vec![("m.test".into(), back(&["192.0.2.9"]))]);
        assert!(matches!(no, Confirmation::Mismatch { why: Mismatch::NotBack { .. } }));
        assert!(matches!(decide(a, vec![]), Confirmation::Mismatch { why: Mismatch::NoPtr { .. } }));
    }

    #[test]
    fn a_failure_is_no_mismatch() {
        let a = ip("192.0.2.1");
        let names = vec![("a.test".into(), Back::Failed("timeout".into())), ("b.test".into(), back(&[]))];
        assert!(matches!(decide(a, names), Confirmation::Unknown { .. }));
    }

    #[test]
    fn the_name_is_stable_over_several_ptr_records() {
        let a = ip("2001:db8::1");
        let mut names = vec![("b.test".into(), back(&["2001:db8::1"])), ("a.test".into(), back(&["2001:db8::1"]))];
        let first = decide(a, names.clone());
        names.reverse();
        assert_eq!(first, decide(a, names));
        assert_eq!(first, Confirmation::Confirmed { name: "a.test".into() });
    }
}
