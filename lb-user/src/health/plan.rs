//! Who is probed how: a pure function of the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::{Check, Plan, Probe, ProbeTarget, Through};
use crate::model::{Family, Host, HostId, Model};
use crate::vip::Vip;

/// Derives the probes of every host of every pool.
///
/// A probe to the host's address is made per address family of the VIPs that the pool serves (per family that the host
/// has, while no service uses the pool). A probe through the tunnel is made per VIP, of prefixes to one address each;
/// `marks` says how the data plane knows packets of this VIP family to this host, and what has no mark yet waits for
/// it.
pub fn plan(
    model: &Model,
    checks: &BTreeMap<String, Vec<Check>>,
    marks: &BTreeMap<(HostId, Family), u32>,
) -> Plan {
    let mut plan = Plan::new();
    for (pool_name, pool) in &model.pools {
        let vips: BTreeSet<Vip> =
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

fn to_addresses(check: &Check, host: &Host, vips: &BTreeSet<Vip>) -> Vec<Probe> {
    let families: BTreeSet<Family> = match vips.is_empty() {
        true => Family::ALL.into(),
        false => vips.iter().map(|vip| vip.family()).collect(),
    };
    let addresses: BTreeSet<IpAddr> = families.into_iter().filter_map(|family| host.outer(family)).collect();
    addresses.into_iter().map(|address| probe_of(check, address, None)).collect()
}

fn through_tunnel(
    check: &Check,
    id: &HostId,
    vips: &BTreeSet<Vip>,
    marks: &BTreeMap<(HostId, Family), u32>,
) -> Vec<Probe> {
    let mark = |vip: &Vip| marks.get(&(id.clone(), vip.family())).copied();
    vips.iter().map(|vip| probe_of(check, vip.sample(), mark(vip))).collect()
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::health::CheckKind;
    use crate::model::{HostState, Pool, Protocol, Service, ServiceKey};

    fn model(vips: &[&str], address6: Option<&str>) -> Model {
        let mut model = Model::default();
        for vip in vips {
            let key = ServiceKey { vip: vip.parse().unwrap(), port: 80, protocol: Protocol::Tcp };
            model.services.insert(key, Service::of("web", Protocol::Tcp));
        }
        let host = Host {
            address4: Some("192.0.2.139".parse().unwrap()),
            address6: address6.map(|address| address.parse().unwrap()),
            weight: 1,
            state: HostState::Active,
        };
        let hosts = BTreeMap::from([("lb7-1".to_owned(), host)]);
        model
            .pools
            .insert("web".into(), Pool { seed: 0, size: 65537, generation: 1, hosts, ..Pool::default() });
        model
    }

    fn checks(through: Through) -> BTreeMap<String, Vec<Check>> {
        let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(1));
        let check = Check { kind: CheckKind::Tcp, port: 80, through, interval, timeout, rise: 2, fall: 3 };
        BTreeMap::from([("web".to_owned(), vec![check])])
    }

    fn id() -> HostId {
        HostId { pool: "web".into(), host: "lb7-1".into() }
    }

    fn targets(plan: &Plan) -> Vec<(String, Option<u32>, &str)> {
        let of = |probe: &'_ Probe| (probe.target.address.to_string(), probe.target.mark);
        plan[&id()].iter().map(|p| (of(p).0, of(p).1, p.target.host_header.as_str())).collect()
    }

    const SIX: Option<&str> = Some("2001:db8::c000:28b");

    #[test]
    fn a_host_is_probed_in_the_families_of_its_vips() {
        let plan_of =
            |vips: &[&str], six| plan(&model(vips, six), &checks(Through::Address), &BTreeMap::new());
        let four = ("192.0.2.139:80".to_owned(), None, "192.0.2.139");
        let six = ("[2001:db8::c000:28b]:80".to_owned(), None, "[2001:db8::c000:28b]");
        assert_eq!(targets(&plan_of(&["198.51.100.1", "198.51.100.2"], SIX)), vec![four.clone()]);
        assert_eq!(targets(&plan_of(&["2001:db8::1"], SIX)), vec![six.clone()]);
        assert_eq!(targets(&plan_of(&["198.51.100.1", "2001:db8::1"], SIX)), vec![four.clone(), six.clone()]);
        assert_eq!(targets(&plan_of(&[], SIX)), vec![four.clone(), six]);
        // IPv6 packets travel in IPv4 to a host that has nothing else: one address, one probe.
        assert_eq!(targets(&plan_of(&["198.51.100.1", "2001:db8::1"], None)), vec![four]);
    }

    #[test]
    fn every_vip_is_probed_through_the_tunnel_with_the_hosts_mark() {
        let marks = BTreeMap::from([((id(), Family::V4), 0x100)]);
        let vips = ["198.51.100.1", "2001:db8::1", "2001:db8:5::/64"];
        let plan = plan(&model(&vips, SIX), &checks(Through::Tunnel), &marks);
        let four = ("198.51.100.1:80".to_owned(), Some(0x100), "198.51.100.1");
        let six = ("[2001:db8::1]:80".to_owned(), None, "[2001:db8::1]");
        let one_of_many = ("[2001:db8:5::1]:80".to_owned(), None, "[2001:db8:5::1]");
        assert_eq!(targets(&plan), [four, six, one_of_many]);
    }

    #[test]
    fn hosts_of_pools_without_checks_are_in_the_plan_without_probes() {
        let plan = plan(&model(&["198.51.100.1"], SIX), &BTreeMap::new(), &BTreeMap::new());
        assert_eq!(plan, Plan::from([(id(), Vec::new())]));
    }

    #[test]
    fn another_port_is_part_of_the_host_header() {
        let mut checks = checks(Through::Address);
        checks.values_mut().flatten().for_each(|check| check.port = 8080);
        let plan = plan(&model(&["2001:db8::1"], SIX), &checks, &BTreeMap::new());
        assert_eq!(plan[&id()][0].target.host_header, "[2001:db8::c000:28b]:8080");
    }
}
