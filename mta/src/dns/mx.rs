//! From the records of a domain to the hosts to try, RFC 5321 section 5.1 and RFC 7505. Pure.
//!
//! Two steps, because addresses have to be asked for in between: [`plan`] reads the MX answer, [`settle`] takes
//! what the hosts' names came to. Neither ever falls back from MX records to the domain's own address: with any
//! MX record present that is forbidden (RFC 5321 section 5.1).

use std::net::IpAddr;

use super::route::{MxHost, RouteError};
use super::special::{AddressPolicy, Refused};

/// One MX record, its exchange in lower-case A-labels without a final dot; empty for the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MxRecord {
    /// Lower is tried first.
    pub preference: u16,
    /// The exchange.
    pub exchange: String,
}

/// How far a route may spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most MX hosts looked at. RFC 5321 section 5.1 asks for at least two addresses to be tried.
    pub hosts: usize,
    /// Most addresses kept per host and family.
    pub addresses: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { hosts: 10, addresses: 5 }
    }
}

/// What to do after the MX answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Ask for the addresses of these hosts, best first.
    Hosts(Vec<MxRecord>),
    /// No MX record: the domain itself is the host, with preference 0 (implicit MX).
    Implicit,
    /// RFC 7505: takes no mail. No address is asked for.
    Null,
}

/// Reads an MX answer (empty when the domain exists without MX records).
#[must_use]
pub fn plan(mut records: Vec<MxRecord>, bounds: Bounds) -> Plan {
    if records.is_empty() {
        return Plan::Implicit;
    }
    // RFC 7505 section 3: a null MX stands alone. Beside others the root as exchange is an error, and ignored.
    records.retain(|record| !record.exchange.is_empty());
    if records.is_empty() {
        return Plan::Null;
    }
    records.sort_by(|a, b| (a.preference, &a.exchange).cmp(&(b.preference, &b.exchange)));
    let mut seen = std::collections::HashSet::new();
    records.retain(|record| seen.insert(record.exchange.clone()));
    records.truncate(bounds.hosts.max(1));
    Plan::Hosts(records)
}

/// What became of one host's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// It has these addresses.
    Found {
        /// As in the answer.
        addresses: Vec<IpAddr>,
        /// The end of the CNAME chain; the name itself without one.
        canonical: String,
        /// All answers on the way were validated.
        secure: bool,
    },
    /// The name does not exist or has no address.
    Nothing,
    /// The DNS gave no usable answer.
    Failed(String),
}

/// Who we are, for the loop check.
#[derive(Clone, Debug, Default)]
pub struct Ourselves {
    /// Names we answer to, lower-case A-labels.
    pub names: Vec<String>,
    /// Which addresses may be contacted, and which are ours.
    pub addresses: AddressPolicy,
}

/// Builds the list of hosts from what their names came to, in the order of `plan`.
///
/// `mx_secure` tells whether the MX answer itself was validated. Errors: permanent when no host can ever be
/// contacted, temporary when one might be later.
pub fn settle(
    domain: &str,
    found: Vec<(MxRecord, Resolved)>,
    mx_secure: bool,
    port: u16,
    us: &Ourselves,
    bounds: Bounds,
) -> Result<Vec<MxHost>, Unsettled> {
    let mut hosts: Vec<MxHost> = Vec::with_capacity(found.len());
    let (mut failed, mut refused) = (None, None);
    // RFC 5321 section 5.1: when we are among the hosts, those with our preference or a higher one are left out.
    let own = found.iter().filter(|(record, resolved)| is_us(record, resolved, us));
    let cut = own.map(|(record, _)| record.preference).min();
    for (record, resolved) in found {
        if cut.is_some_and(|cut| record.preference >= cut) {
            continue;
        }
        match resolved {
            Resolved::Found { addresses, canonical, secure } => {
                let (kept, why) = keep(addresses, &us.addresses, bounds);
                if kept.is_empty() {
                    refused = refused.or(why.map(|why| (record.exchange.clone(), why)));
                    continue;
                }
                hosts.push(MxHost {
                    preference: record.preference,
                    name: record.exchange,
                    canonical,
                    addresses: kept,
                    port,
                    secure: mx_secure && secure,
                });
            }
            Resolved::Nothing => {}
            Resolved::Failed(text) => failed = failed.or(Some(format!("{}: {text}", record.exchange))),
        }
    }
    if !hosts.is_empty() {
        return Ok(hosts);
    }
    Err(match (failed, cut, refused) {
        (Some(text), _, _) => Unsettled::Later(text),
        (None, Some(_), _) => Unsettled::Never(RouteError::loops_back(domain)),
        (None, None, Some((host, Refused::Special(range)))) => {
            Unsettled::Never(RouteError::unroutable(format!("{host} has only addresses not contacted ({range})")))
        }
        (None, None, Some((_, Refused::Own))) => Unsettled::Never(RouteError::loops_back(domain)),
        (None, None, None) => {
            Unsettled::Never(RouteError::unroutable(format!("no mail host of {domain} has an address")))
        }
    })
}

/// Why [`settle`] found no host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsettled {
    /// Some host's name could not be looked up now; the text says which and why.
    Later(String),
    /// Final.
    Never(RouteError),
}

fn is_us(record: &MxRecord, resolved: &Resolved, us: &Ourselves) -> bool {
    let named = |name: &str| us.names.iter().any(|own| own == name);
    match resolved {
        Resolved::Found { addresses, canonical, .. } => {
            named(&record.exchange) || named(canonical) || addresses.iter().any(|a| us.addresses.is_own(*a))
        }
        Resolved::Nothing | Resolved::Failed(_) => named(&record.exchange),
    }
}

/// The addresses that may be contacted, bounded per family; and why the first other one may not.
fn keep(addresses: Vec<IpAddr>, policy: &AddressPolicy, bounds: Bounds) -> (Vec<IpAddr>, Option<Refused>) {
    let (mut kept, mut why) = (Vec::new(), None);
    let mut of_family = [0_usize; 2];
    for address in addresses {
        match policy.check(address) {
            Ok(()) => {
                let count = &mut of_family[usize::from(address.is_ipv6())];
                if *count < bounds.addresses.max(1) && !kept.contains(&address) {
                    *count += 1;
                    kept.push(address);
                }
            }
            Err(refused) => why = why.or(Some(refused)),
        }
    }
    (kept, why)
}

/// The order in which to try hosts of these preferences: RFC 5321 section 5.1, ascending, equals shuffled.
///
/// The same `random` gives the same order; over all values every order of equals comes up alike.
#[must_use]
pub fn order(preferences: impl IntoIterator<Item = u16>, random: u64) -> Vec<usize> {
    let mut state = random;
    let mut keyed: Vec<(u16, u64, usize)> = preferences
        .into_iter()
        .enumerate()
        .map(|(index, preference)| (preference, next_random(&mut state), index))
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, _, index)| index).collect()
}

/// SplitMix64: turns one given random value into as many as there are hosts.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mx(preference: u16, exchange: &str) -> MxRecord {
        MxRecord { preference, exchange: exchange.into() }
    }

    fn found(addresses: &[&str]) -> Resolved {
        Resolved::Found {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            canonical: "c.test".into(),
            secure: true,
        }
    }

    fn us() -> Ourselves {
        Ourselves {
            names: vec!["us.test".into()],
            addresses: AddressPolicy { own: vec!["8.0.0.9".parse().unwrap()], lab: vec![] },
        }
    }

    fn settle_(found: Vec<(MxRecord, Resolved)>) -> Result<Vec<String>, Unsettled> {
        settle("d.test", found, true, 25, &us(), Bounds::default())
            .map(|hosts| hosts.into_iter().map(|h| h.name).collect())
    }

    fn enhanced(result: Result<Vec<String>, Unsettled>) -> [u16; 3] {
        match result {
            Err(Unsettled::Never(RouteError::Permanent { enhanced, .. })) => enhanced,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn r02_by_preference_and_bounded() {
        let many = (0..50).rev().map(|i| mx(i, &format!("h{i}.test"))).collect();
        let Plan::Hosts(hosts) = plan(many, Bounds { hosts: 3, addresses: 1 }) else { panic!() };
        assert_eq!(hosts, vec![mx(0, "h0.test"), mx(1, "h1.test"), mx(2, "h2.test")]);
        let Plan::Hosts(hosts) = plan(vec![mx(20, "a.test"), mx(10, "a.test")], Bounds::default()) else { panic!() };
        assert_eq!(hosts, vec![mx(10, "a.test")], "a host listed twice counts with its best preference");
    }

    #[test]
    fn r02_implicit_mx_only_without_any_mx() {
        assert_eq!(plan(vec![], Bounds::default()), Plan::Implicit);
        assert_eq!(enhanced(settle_(vec![(mx(10, "dead.test"), Resolved::Nothing)])), [5, 4, 4]);
    }

    #[test]
    fn r20_null_mx_takes_no_mail() {
        assert_eq!(plan(vec![mx(0, "")], Bounds::default()), Plan::Null);
        assert_eq!(
            plan(vec![mx(0, ""), mx(10, "a.test")], Bounds::default()),
            Plan::Hosts(vec![mx(10, "a.test")]),
            "beside another MX it is no null MX"
        );
        let RouteError::Permanent { code, enhanced, .. } = RouteError::null_mx("d.test") else { panic!() };
        assert_eq!((code, enhanced), (556, [5, 1, 10]));
    }

    #[test]
    fn r02_equals_are_shuffled_and_preference_holds() {
        let preferences = [10, 10, 10, 5];
        let mut firsts = std::collections::HashMap::new();
        for random in 0..6000 {
            let order = order(preferences, random);
            assert_eq!(order[0], 3);
            *firsts.entry(order[1]).or_insert(0) += 1;
        }
        for index in 0..3 {
            assert!((1700..2300).contains(&firsts[&index]), "{firsts:?}");
        }
        assert_eq!(order(preferences, 7), order(preferences, 7));
    }

    #[test]
    fn r02_loops_are_cut_at_our_own_preference() {
        let hosts = vec![
            (mx(5, "best.test"), found(&["8.0.0.1"])),
            (mx(10, "us.test"), found(&["8.0.0.2"])),
            (mx(10, "peer.test"), found(&["8.0.0.3"])),
            (mx(20, "worse.test"), found(&["8.0.0.4"])),
        ];
        assert_eq!(settle_(hosts.clone()), Ok(vec!["best.test".to_owned()]));
        assert_eq!(enhanced(settle_(hosts[1..].to_vec())), [5, 4, 6]);
        let by_address = vec![(mx(10, "other.test"), found(&["8.0.0.9"]))];
        assert_eq!(enhanced(settle_(by_address)), [5, 4, 6]);
    }

    #[test]
    fn d16_private_addresses_never_make_a_host() {
        assert_eq!(enhanced(settle_(vec![(mx(5, "in.test"), found(&["10.0.0.1", "::1"]))])), [5, 4, 4]);
        let both = vec![(mx(5, "in.test"), found(&["10.0.0.1"])), (mx(9, "out.test"), found(&["8.0.0.1"]))];
        assert_eq!(settle_(both), Ok(vec!["out.test".to_owned()]));
    }

    #[test]
    fn a_failed_look_up_is_temporary_unless_another_host_stands() {
        let failed = || Resolved::Failed("timeout".into());
        assert!(matches!(settle_(vec![(mx(5, "a.test"), failed())]), Err(Unsettled::Later(_))));
        let hosts = vec![(mx(5, "a.test"), failed()), (mx(9, "b.test"), found(&["8.0.0.1"]))];
        assert_eq!(settle_(hosts), Ok(vec!["b.test".to_owned()]));
    }

    #[test]
    fn addresses_are_bounded_per_family() {
        let many = found(&["8.0.0.1", "8.0.0.2", "8.0.0.3", "2a00::1", "2a00::2", "8.0.0.1"]);
        let bounds = Bounds { hosts: 9, addresses: 2 };
        let hosts = settle("d.test", vec![(mx(1, "a.test"), many)], false, 25, &us(), bounds).unwrap();
        assert_eq!(hosts[0].addresses.len(), 4);
        assert!(!hosts[0].secure, "an MX answer not validated makes no host secure");
    }
}
