//! The pools: hosts, table sizes and health checks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::health::{Check, CheckKind, Through};
use crate::model::{Host, Pool};
use crate::table::is_prime;

use super::check::{addresses, copied, not_unicast, nothing_listed};
use super::leaf::{CheckType, Way};
use super::problem::Position;
use super::reader::{At, Reader};
use super::written;

/// Rows of a table unless the pool says otherwise.
pub(crate) const DEFAULT_SIZE: u32 = 65537;
/// The largest prime below 2^20; a table of this size takes 2 MiB per owner.
const LARGEST_SIZE: u32 = 1_048_573;
/// More would leave no row to hosts of weight 1 in a table of the default size.
pub(crate) const LARGEST_WEIGHT: u32 = 1000;

type Pools = BTreeMap<String, Pool>;
type Checks = BTreeMap<String, Vec<Check>>;

pub(super) fn pools(
    written: &[(At<String>, written::Pool)],
    services: &[written::Service],
    with_manifest: bool,
    r: &mut Reader,
) -> (Pools, Checks) {
    let mut pools = Pools::new();
    let mut checks = Checks::new();
    for (name, pool) in written {
        let used = services.iter().any(|s| s.pool.as_ref().is_some_and(|pool| pool.value == name.value));
        checks.insert(name.value.clone(), pool.checks.iter().filter_map(|c| check(c, used, r)).collect());
        if pool.hosts_at.is_none() {
            if with_manifest {
                only_checks(pool, r);
            }
            continue;
        }
        let hosts = hosts(name, pool.no_hosts, &pool.hosts, r);
        let size = size(name, &pool.size, &hosts, r);
        let (seed, generation) = (copied(&pool.seed), generation(&pool.generation, r));
        pools.insert(name.value.clone(), Pool { seed, size, generation, hosts, ..Pool::default() });
    }
    (pools, checks)
}

/// What else a pool has comes from the manifest, with its hosts.
fn only_checks(pool: &written::Pool, r: &mut Reader) {
    let seed = pool.seed.as_ref().map(|seed| (seed.at, &seed.key));
    let others = [&pool.size, &pool.generation].into_iter().flatten().map(|other| (other.at, &other.key));
    for (at, key) in seed.into_iter().chain(others) {
        r.wrong(at, key, "comes from the manifest for a pool without hosts here; remove it or list hosts");
    }
}

/// The hosts of a pool; `empty` is where an empty map of them stands.
pub(crate) fn hosts(
    name: &At<String>,
    empty: Option<Position>,
    members: &[(At<String>, written::Member)],
    r: &mut Reader,
) -> BTreeMap<String, Host> {
    if let Some(at) = empty {
        r.wrong(
            at,
            &format!("{}.hosts", name.key),
            "a pool without hosts; list at least one with its address",
        );
    }
    let mut hosts = BTreeMap::new();
    let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for (name, host) in members {
        if !host.has_address {
            r.wrong(name.at, &name.key, "a host without an address; write address4, address6 or both");
        }
        for address in addresses(host) {
            if let Some(kind) = not_unicast(address.value) {
                let message = format!("{kind} address cannot be a host's: {}; write its own", address.value);
                r.wrong(address.at, &address.key, message);
            } else if let Some(other) = owners.insert(address.value, &name.value) {
                let message =
                    format!("{} is the address of host {other:?} already; write its own", address.value);
                r.wrong(address.at, &address.key, message);
            }
        }
        let weight = host.weight.as_ref().map_or(1, |weight| weight.value);
        if let Some(written) = host.weight.as_ref().filter(|_| !(1..=LARGEST_WEIGHT).contains(&weight)) {
            let message = format!(
                "weight {weight}; write 1 to {LARGEST_WEIGHT}, or state: drain to take no new connections"
            );
            r.wrong(written.at, &written.key, message);
        }
        let host = Host {
            address4: host.address4.as_ref().map(|address| address.value),
            address6: host.address6.as_ref().map(|address| address.value),
            weight,
            state: copied(&host.state),
        };
        hosts.insert(name.value.clone(), host);
    }
    hosts
}

/// It has 16 bits in an outer IPv6 header; zero is what probes carry.
pub(crate) fn generation(written: &written::Maybe<u32>, r: &mut Reader) -> u16 {
    let Some(written) = written else { return 1 };
    match u16::try_from(written.value) {
        Ok(generation) if generation > 0 => generation,
        _ => {
            let message = format!("{} is out of range; write 1 to 65535", written.value);
            r.wrong(written.at, &written.key, message);
            1
        }
    }
}

/// The rows of a pool's table.
pub(crate) fn size(
    name: &At<String>,
    written: &written::Maybe<u32>,
    hosts: &BTreeMap<String, Host>,
    r: &mut Reader,
) -> u32 {
    let size = written.as_ref().map_or(DEFAULT_SIZE, |size| size.value);
    let (at, key) = match written {
        Some(written) => (written.at, written.key.clone()),
        None => (name.at, format!("{}.size", name.key)),
    };
    let shares: u64 = hosts.values().map(|host| u64::from(host.weight)).sum();
    if !(3..=LARGEST_SIZE).contains(&size) {
        r.wrong(at, &key, format!("{size} is out of range; write a prime from 3 to {LARGEST_SIZE}"));
    } else if !is_prime(size) {
        r.wrong(at, &key, format!("{size} is not a prime; write {}", next_prime(size)));
    } else if shares > u64::from(size) {
        let message =
            format!("{size} rows are too few for hosts of {shares} weights in all; write a larger prime");
        r.wrong(at, &key, message);
    }
    size
}

pub(super) fn check(written: &written::Check, used: bool, r: &mut Reader) -> Option<Check> {
    let place = &written.place;
    let interval = written.interval.as_ref().map_or(Duration::from_secs(1), |interval| interval.value);
    let timeout =
        written.timeout.as_ref().map_or(interval.min(Duration::from_secs(1)), |timeout| timeout.value);
    if let Some(at) = written.timeout.as_ref().filter(|_| timeout > interval) {
        let message =
            format!("{timeout:?} is longer than the interval of {interval:?}; write at most {interval:?}");
        r.wrong(at.at, &at.key, message);
    }
    for count in [&written.rise, &written.fall].into_iter().flatten() {
        if !(1..=1000).contains(&count.value) {
            r.wrong(count.at, &count.key, format!("{} is out of range; write 1 to 1000", count.value));
        }
    }
    let through = match written.through.as_ref().map(|way| way.value) {
        Some(Way::Tunnel) => Through::Tunnel,
        Some(Way::Address) | None => Through::Address,
    };
    if through == Through::Tunnel && !used {
        let message =
            "no service uses this pool, so that there is no VIP to probe; add one or write through: address";
        r.wrong(place.at, &place.key, message);
    }
    let kind = match written.kind.as_ref()?.value {
        CheckType::Http => http(written, r),
        CheckType::Tcp => tcp(written, r),
    };
    Some(Check {
        kind,
        port: written.port.as_ref()?.value.0,
        through,
        interval,
        timeout,
        rise: written.rise.as_ref().map_or(2, |rise| rise.value),
        fall: written.fall.as_ref().map_or(3, |fall| fall.value),
    })
}

fn http(written: &written::Check, r: &mut Reader) -> CheckKind {
    let path = written.path.as_ref().map_or("/", |path| &path.value);
    if let Some(at) = written.path.as_ref().filter(|_| !is_path(path)) {
        r.wrong(at.at, &at.key, format!("not a path: {path:?}; begin with a slash and leave out spaces"));
    }
    nothing_listed(&written.status, "list at least one status, as in [200]", r);
    for status in written.status.iter().flat_map(|list| &list.value) {
        if !(100..=599).contains(&status.value) {
            r.wrong(status.at, &status.key, format!("not a status: {}; write 100 to 599", status.value));
        }
    }
    let status = written.status.as_ref().map(|list| list.value.iter().map(|status| status.value).collect());
    CheckKind::Http { path: path.to_owned(), status: status.unwrap_or_else(|| vec![200]) }
}

fn tcp(written: &written::Check, r: &mut Reader) -> CheckKind {
    let path = written.path.as_ref().map(|path| (path.at, &path.key));
    let status = written.status.as_ref().map(|status| (status.at, &status.key));
    for (at, key) in path.into_iter().chain(status) {
        r.wrong(at, key, "only for checks of type http; remove it or write type: http");
    }
    CheckKind::Tcp
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.chars().all(|c| c.is_ascii_graphic())
}

fn next_prime(n: u32) -> u32 {
    (n..).find(|n| is_prime(*n)).expect("there is a prime between n and 2n")
}
