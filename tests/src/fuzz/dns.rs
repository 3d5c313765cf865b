//! What answers of the DNS lead to: routes, sites, confirmed names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mta::dns::confirm::{decide, Back, Confirmation};
use mta::dns::mx::{order, plan, settle, Bounds, MxRecord, Ourselves, Plan, Resolved, Unsettled};
use mta::dns::name::{literal, to_ascii};
use mta::dns::site::{provider_of, SiteName};
use mta::dns::special::{special_purpose, AddressPolicy};

use super::source::Source;
use super::{must, Verdict};

pub(super) fn run(source: &mut Source<'_>) -> Verdict {
    match source.byte() % 4 {
        0 => names(source),
        1 => confirmation(source),
        _ => route(source),
    }
}

fn address(source: &mut Source<'_>) -> IpAddr {
    match source.byte() % 5 {
        0 => Ipv4Addr::from(source.u32()).into(),
        1 => Ipv4Addr::new([10, 127, 192, 169, 8, 203][source.below(6)], source.byte(), 2, 1).into(),
        2 => Ipv6Addr::from((u128::from(source.u64()) << 64 | u128::from(source.u64())).to_be_bytes()).into(),
        3 => Ipv4Addr::from(source.u32()).to_ipv6_mapped().into(),
        _ => Ipv4Addr::new(8, 8, 8, source.byte() % 4).into(),
    }
}

fn host(source: &mut Source<'_>) -> String {
    ["", "mx1.a.test", "mx2.a.test", "mx.b.test", "a.test", "us.own.test", "aspmx.l.google.com", "x|y).test"]
        [source.below(8)]
    .to_owned()
}

fn route(source: &mut Source<'_>) -> Verdict {
    let records: Vec<MxRecord> = (0..source.below(16))
        .map(|_| MxRecord { preference: [0, 10, 10, 20, 65_535][source.below(5)], exchange: host(source) })
        .collect();
    let bounds = Bounds { hosts: source.below(12), addresses: source.below(4) };
    let hosts = match plan(records.clone(), bounds) {
        Plan::Implicit => return must(records.is_empty(), || format!("implicit MX beside {records:?}")),
        Plan::Null => {
            let null = !records.is_empty() && records.iter().all(|record| record.exchange.is_empty());
            return must(null, || format!("null MX of {records:?}"));
        }
        Plan::Hosts(hosts) => hosts,
    };
    must(hosts.len() <= bounds.hosts.max(1), || format!("{} hosts", hosts.len()))?;
    must(hosts.windows(2).all(|two| two[0].preference <= two[1].preference), || format!("order: {hosts:?}"))?;
    let best = records.iter().filter(|record| !record.exchange.is_empty()).map(|record| record.preference).min();
    must(hosts.first().map(|record| record.preference) == best, || "the best is not the first".to_owned())?;
    let ourselves = Ourselves {
        names: vec!["us.own.test".to_owned()],
        addresses: AddressPolicy { own: vec![Ipv4Addr::new(8, 8, 8, 1).into()], lab: Vec::new() },
    };
    let found: Vec<(MxRecord, Resolved)> = hosts.into_iter().map(|host| (host, resolved(source))).collect();
    let secure = source.flip();
    let settled = settle("a.test", found.clone(), secure, 25, &ourselves, bounds);
    match settled {
        Ok(hosts) => {
            must(!hosts.is_empty(), || "a route to nowhere".to_owned())?;
            for host in &hosts {
                must(!host.addresses.is_empty(), || format!("{host:?} has no address"))?;
                must(host.name != "us.own.test", || "a route to ourselves".to_owned())?;
                must(!host.secure || secure, || "secure by an insecure answer".to_owned())?;
                for address in &host.addresses {
                    let fine = special_purpose(*address).is_none() && !ourselves.addresses.is_own(*address);
                    must(fine, || format!("{address} is contacted"))?;
                }
            }
            let random = source.u64();
            let order = order(hosts.iter().map(|host| host.preference), random);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            must(sorted.into_iter().eq(0..hosts.len()), || format!("no permutation: {order:?}"))?;
            must(order.windows(2).all(|two| hosts[two[0]].preference <= hosts[two[1]].preference), || {
                "order".to_owned()
            })?;
            let forward = SiteName::from_hosts(hosts.iter().map(|host| host.name.as_str()));
            let back = SiteName::from_hosts(hosts.iter().rev().map(|host| host.name.as_str()));
            must(forward == back, || format!("{forward} and {back}"))?;
            let _ = provider_of(hosts.iter().map(|host| host.name.as_str()));
            Ok(())
        }
        Err(Unsettled::Later(text)) => {
            let failed = found.iter().any(|(_, resolved)| matches!(resolved, Resolved::Failed(_)));
            must(failed && !text.is_empty(), || "put off, and nothing failed".to_owned())
        }
        Err(Unsettled::Never(error)) => must(!error.is_temporary(), || format!("never, and yet {error:?}")),
    }
}

fn resolved(source: &mut Source<'_>) -> Resolved {
    match source.byte() % 4 {
        0 => Resolved::Nothing,
        1 => Resolved::Failed("no answer".to_owned()),
        _ => Resolved::Found {
            addresses: (0..source.below(8)).map(|_| address(source)).collect(),
            canonical: host(source),
            secure: source.flip(),
        },
    }
}

fn confirmation(source: &mut Source<'_>) -> Verdict {
    let own = address(source);
    let names: Vec<(String, Back)> = (0..source.below(5))
        .map(|_| {
            let back = match source.byte() % 3 {
                0 => Back::Failed("no answer".to_owned()),
                1 => Back::Addresses((0..source.below(3)).map(|_| address(source)).collect()),
                _ => Back::Addresses(vec![address(source), own]),
            };
            (host(source), back)
        })
        .collect();
    let mut turned = names.clone();
    turned.reverse();
    let leads_back = |name: &str| {
        let same = |address: &IpAddr| address.to_canonical() == own.to_canonical();
        let hit = |back: &Back| matches!(back, Back::Addresses(all) if all.iter().any(same));
        names.iter().any(|(known, back)| known == name && hit(back))
    };
    let any = names.iter().any(|(name, _)| leads_back(name));
    match decide(own, names.clone()) {
        Confirmation::Confirmed { name } => {
            must(leads_back(&name), || format!("{name} does not lead back: {names:?}"))?;
            let again = decide(own, turned);
            must(again == Confirmation::Confirmed { name }, || "the name depends on the order".to_owned())
        }
        other => must(!any, || format!("{other:?} of {names:?}")),
    }
}

fn names(source: &mut Source<'_>) -> Verdict {
    let text = match source.byte() % 3 {
        0 => source.text(40),
        1 => ["b\u{fc}cher.example", "XN--BCHER-KVA.EXAMPLE.", "a.b", "\u{df}.test", "a\u{3002}b", "1.2.3.4"]
            [source.below(6)]
        .to_owned(),
        _ => (0..source.below(30)).map(|_| char::from_u32(source.u32() % 0x11_0000).unwrap_or('.')).collect(),
    };
    if let Ok(ascii) = to_ascii(&text) {
        must(ascii.is_ascii() && ascii == ascii.to_lowercase(), || format!("{text:?} gave {ascii:?}"))?;
        must(ascii.len() <= 253 && !ascii.ends_with('.'), || format!("{text:?} gave {ascii:?}"))?;
        must(to_ascii(&ascii).as_ref() == Ok(&ascii), || format!("{ascii:?} does not settle"))?;
        must(!ascii.contains(['<', '>', '@', ' ', '\r', '\n', '"']), || format!("{ascii:?} on the wire"))?;
    }
    if let Some(ip) = literal(&text) {
        let _ = special_purpose(ip);
    }
    let a: Vec<String> = (0..source.below(4)).map(|_| host(source)).collect();
    let b: Vec<String> = (0..source.below(4)).map(|_| host(source)).collect();
    let set = |hosts: &[String]| hosts.iter().cloned().collect::<std::collections::BTreeSet<_>>();
    // Host names hold neither brackets nor bars: `dns::name` lets none in.
    let plain = |hosts: &[String]| hosts.iter().all(|host| !host.contains('|') && !host.is_empty());
    let same = SiteName::from_hosts(a.iter().map(String::as_str)) == SiteName::from_hosts(b.iter().map(String::as_str));
    must(!(plain(&a) && plain(&b)) || same == (set(&a) == set(&b)), || format!("sites of {a:?} and {b:?}"))
}
