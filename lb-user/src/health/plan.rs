//! Who is probed how: a pure function of the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::{Check, Plan, Probe, ProbeTarget, Through};
use crate::model::{Family, Host, HostId, Model};

/// Derives the probes of every host of every pool.
///
/// A probe to the host's address is made per address family of the VIPs that the pool serves (per family that the host
/// has, while no service uses the pool). A probe through the tunnel is made per VIP; `marks` says how the data plane
/// knows packets of this VIP family to this host, and what has no mark yet waits for it.
pub fn plan(
    model: &Model,
    checks: &BTreeMap<String, Vec<Check>>,
    marks: &BTreeMap<(HostId, Family), u32>,
) -> Plan {
    let mut plan = Plan::new();
    for (pool_name, pool) in &model.pools {
        let vips: BTreeSet<IpAddr> =
            model.services.iter().filter(|(_, s)| s.pool == *pool_name).map(|(key, _)| key.vip).collect();
        let checks = checks.get(pool_name).map_or(&[][..], Vec::as_slice);
        for (host_name, host) in &pool.hosts {
            let id = HostId { pool: pool_name.clone(), host: host_name.clone() };
            let probes = checks
                .iter()
                .flat_map(|check| match check.through {
                    Through::Address => to_addresses(check, host, &vips),
                    Through::Tunnel => through_tunnel(check, &id, &vips, marks),
                })
                .collect();
            plan.insert(id, probes);
        }
    }
    plan
}

fn to_addresses(check: &Check, host: &Host, vips: &BTreeSet<IpAddr>) -> Vec<Probe> {
    let families: BTreeSet<Family> = match vips.is_empty() {
        true => Family::ALL.into(),
        false => vips.iter().map(|vip| Family::of(*vip)).collect(),
    };
    let addresses: BTreeSet<IpAddr> = families.into_iter().filter_map(|family| host.outer(family)).collect();
    addresses.into_iter().map(|address| probe_of(check, address, None)).collect()
}

fn through_tunnel(
    check: &Check,
    id: &HostId,
    vips: &BTreeSet<IpAddr>,
    marks: &BTreeMap<(HostId, Family), u32>,
) -> Vec<Probe> {
    let mark = |vip: &IpAddr| marks.get(&(id.clone(), Family::of(*vip))).copied();
    vips.iter().map(|vip| probe_of(check, *vip, mark(vip))).collect()
}

fn probe_of(check: &Check, address: IpAddr, mark: Option<u32>) -> Probe {
    let address = SocketAddr::new(address, check.port);
    // RFC 9110, section 7.2: the default port is left out.
    let host_header = match address {
        SocketAddr::V4(a) if a.port() == 80 => a.ip().to_string(),
        SocketAddr::V6(a) if a.port() == 80 => format!("[{}]", a.ip()),
        other => other.to_string(),
    };
    Probe { check: check.clone(), target: ProbeTarget { address, mark, host_header } }
}
