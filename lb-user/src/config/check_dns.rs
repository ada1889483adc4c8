//! The section `dns`: names, records and members, fitted together with the rest of the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::Name;

use crate::dns::dnssec::ZoneKey;
use crate::dns::policy::{AllDown, Choice, Least, Member, Policy};
use crate::dns::{Check, Config, Tcp, ZoneConfig, master};
use crate::health::CheckKind;
use crate::model::{Family, Model};

use super::check::{self, copied, not_unicast, nothing_listed};
use super::check_pools;
use super::check_zones::records;
use super::dns::{self, Kind, State};
use super::problem::nearest;
use super::reader::{At, Reader};
use super::written::{self, List, Maybe};
use super::{dns_geo, dns_group, dns_rate, dns_sinks, dns_transfer};

/// Where what the operator ordered is kept, unless the configuration says otherwise.
const DEFAULT_STATE: &str = "/var/lib/lb/dns.json";
/// TTL of names whose addresses are chosen, unless the configuration says otherwise.
const CHOSEN_TTL: u32 = 60;
/// TTL of records, unless the configuration says otherwise.
pub(super) const RECORD_TTL: u32 = 3600;

/// What the other sections say.
pub(super) struct Around<'a> {
    pub node: &'a str,
    pub model: &'a Model,
    /// Pools come from a manifest as well.
    pub manifest: bool,
    pub director: bool,
    pub bgp: Option<&'a written::Bgp>,
    pub peers: Option<&'a written::Peers>,
}

pub(super) fn check(w: &dns::Written, around: &Around<'_>, r: &mut Reader) -> Config {
    nothing_listed(&w.listen, "list addresses of this node, as in [\"192.0.2.3:53\"]", r);
    for address in w.listen.iter().flat_map(|list| &list.value) {
        if address.value.ip().is_unspecified() {
            let message =
                "answers must leave from the address that was asked; list each address of this node";
            r.wrong(address.at, &address.key, message);
        }
    }
    let checks: BTreeMap<String, Check> = w
        .checks
        .iter()
        .filter_map(|(name, written)| Some((name.value.clone(), one_check(name, written, around, r)?)))
        .collect();
    let known: BTreeMap<&str, Option<&Check>> =
        w.checks.iter().map(|(name, _)| (name.value.as_str(), checks.get(&name.value))).collect();
    let geo = w.geo.as_ref().map(|geo| dns_geo::check(geo, r));
    if geo.is_none() {
        dns_geo::check_asked(&w.zones, r);
    }
    let mut zones = Vec::new();
    let (mut apexes, mut keys) = (BTreeMap::new(), dns_transfer::Known::new());
    for (name, written) in &w.zones {
        let Some(mut zone) = zone(name, written, &known, around, r) else { continue };
        zone.keys = zone_keys(written, r);
        zone.transfer = written.transfer.as_ref().map(|transfer| dns_transfer::check(transfer, &mut keys, r));
        if let Some(line) = apexes.insert(zone.apex.to_lowercase(), name.at.line) {
            r.wrong(name.at, &name.key, format!("is a zone already, in line {line}; remove one of the two"));
        }
        zones.push(zone);
    }
    zones.sort_by(|a, b| a.apex.cmp(&b.apex));
    let (sinks, claims) = dns_sinks::check(&w.others, &zones, &checks, r);
    if w.zones.is_empty() && claims.is_empty() && r.problems.is_empty() {
        r.wrong(w.at, "dns.zones", "empty; write at least one zone");
    }
    let of_group = dns_group::Around {
        model: around.model,
        has_zones: !zones.is_empty(),
        has_sinks: !sinks.is_empty(),
        has_own_names: claims.values().any(|claim| claim.own.is_some()),
        bgp: around.bgp,
        director: around.director,
        peers_listen: around.peers.is_some_and(|peers| peers.listen.is_some()),
    };
    let group = dns_group::check(&w.group, &of_group, r);
    let (cores, default_idle) = (std::thread::available_parallelism().map_or(1, usize::from), 10);
    Config {
        listen: w.listen.iter().flat_map(|list| &list.value).map(|address| address.value).collect(),
        nsid: w.nsid.as_ref().map_or(around.node, |nsid| &nsid.value).to_owned(),
        threads: within(&w.threads, cores as u32, 1..=256, r) as usize,
        tcp: Tcp {
            connections: within(&w.connections, 256, 1..=65536, r) as usize,
            idle: w.idle.as_ref().map_or(Duration::from_secs(default_idle), |idle| idle.value),
        },
        before_checks: copied(&w.before_checks),
        rate_limit: w.rate_limit.as_ref().map(|limit| dns_rate::check(limit, r)),
        state: w.state.as_ref().map_or_else(|| PathBuf::from(DEFAULT_STATE), |state| state.value.clone()),
        checks,
        geo,
        zones,
        sinks,
        claims,
        leader: group.leader,
        observers: group.observers,
        anycast: group.anycast,
    }
}

fn within(written: &Maybe<u32>, default: u32, range: RangeInclusive<u32>, r: &mut Reader) -> u32 {
    written.as_ref().map_or(default, |written| check::within(written, *range.start(), *range.end(), r))
}

fn one_check(name: &At<String>, w: &dns::Check, around: &Around<'_>, r: &mut Reader) -> Option<Check> {
    let kind = w.kind.as_ref()?.value;
    // Of keys that are for http only, the reading of probes tells.
    let told = |key: &str| matches!(kind, Kind::Probe(_)) && ["path", "status"].contains(&key);
    for key in w.keys.iter().filter(|key| !kind.keys().contains(key) && !told(key)) {
        let place = &w.probe.place;
        let message =
            format!("not for checks of type {}; those have {}", kind.name(), kind.keys().join(", "));
        r.wrong(place.at, &format!("{}.{key}", place.key), message);
    }
    let only_director = |r: &mut Reader| {
        if !around.director {
            let message = format!(
                "type {} follows what this node does as a director, which it is not; add director or check otherwise",
                kind.name()
            );
            r.wrong(name.at, &name.key, message);
        }
    };
    Some(match kind {
        Kind::Probe(_) | Kind::Https => {
            let mut check = check_pools::check(&w.probe, true, r)?;
            if let (Kind::Https, CheckKind::Http { path, status }) = (kind, &check.kind) {
                let verify = w.verify.as_ref().is_none_or(|verify| verify.value);
                check.kind = CheckKind::Https { path: path.clone(), status: status.clone(), verify };
            }
            Check::Probe { check, host: host(&w.host, r) }
        }
        Kind::Extfile => Check::Extfile {
            file: w.file.as_ref().map_or_else(|| "/etc/lb/ext".into(), |file| file.value.clone()),
            default_up: w.default.as_ref().is_none_or(|state| state.value == State::Up),
        },
        Kind::Vip => {
            match &w.directors {
                None => only_director(r),
                Some(directors) if around.peers.is_none_or(|peers| peers.nodes.is_none()) => {
                    let message = "directors are asked what they announce; list them in peers.nodes";
                    r.wrong(directors.at, &directors.key, message);
                }
                Some(_) => {}
            }
            if let (Some(vip), None) = (&w.vip, &w.directors) {
                known_vip(vip, around, r);
            }
            let directors = w.directors.as_ref().map(|least| check::within(least, 1, 1000, r) as usize);
            Check::Vip { vip: w.vip.as_ref().map(|vip| vip.value), directors }
        }
        Kind::Pool => {
            only_director(r);
            let Some(pool) = &w.pool else {
                if !w.keys.contains(&"pool") {
                    r.wrong(
                        name.at,
                        &format!("{}.pool", name.key),
                        "missing; write the name of one of the pools",
                    );
                }
                return None;
            };
            if !around.manifest && !around.model.pools.contains_key(&pool.value) {
                let near = nearest(&pool.value, around.model.pools.keys().map(String::as_str));
                let advice = near.map_or("add it to pools".into(), |near| format!("did you mean {near:?}?"));
                r.wrong(pool.at, &pool.key, format!("no such pool: {:?}; {advice}", pool.value));
            }
            Check::Pool {
                pool: pool.value.clone(),
                percent: within(&w.percent, 1, 1..=100, r),
                scale: copied(&w.scale),
            }
        }
    })
}

/// A name that fits into a `Host` header.
fn host(written: &Maybe<String>, r: &mut Reader) -> Option<String> {
    let written = written.as_ref()?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if !written.value.chars().all(fits) {
        let message =
            format!("not a host name: {:?}; write one without a port, as in www.example.org", written.value);
        r.wrong(written.at, &written.key, message);
    }
    Some(written.value.clone())
}

fn known_vip(vip: &At<IpAddr>, around: &Around<'_>, r: &mut Reader) {
    if !around.model.services.keys().any(|key| key.vip.contains(vip.value)) {
        let message = format!("no service has the VIP {}; add one, or check otherwise", vip.value);
        r.wrong(vip.at, &vip.key, message);
    }
}

type Known<'a> = BTreeMap<&'a str, Option<&'a Check>>;

fn zone(
    name: &At<String>,
    w: &dns::Zone,
    known: &Known<'_>,
    around: &Around<'_>,
    r: &mut Reader,
) -> Option<ZoneConfig> {
    let apex = match master::name(&name.value, &Name::root()) {
        Ok(apex) => apex,
        Err(message) => {
            r.wrong(name.at, &name.key, message);
            return None;
        }
    };
    let mut choices: Vec<Choice> = Vec::new();
    for (written, w) in &w.names {
        let Some(choice) = choice(&apex, written, w, known, around, r) else { continue };
        if choices.iter().any(|other| other.name == choice.name) {
            r.wrong(written.at, &written.key, "is there already; write all members of the name together");
        }
        choices.push(choice);
    }
    choices.sort_by(|a, b| a.name.cmp(&b.name));
    let records = records(&apex, w, &choices, r);
    Some(ZoneConfig {
        apex,
        file: w.file.as_ref().map(|file| file.value.clone()),
        ttl: w.ttl.as_ref().map(|ttl| ttl.value.0),
        lines: w.records.iter().flat_map(|list| &list.value).map(|line| line.value.clone()).collect(),
        records,
        choices,
        transfer: None,
        keys: Vec::new(),
    })
}

/// The keys that a zone is signed with.
fn zone_keys(w: &dns::Zone, r: &mut Reader) -> Vec<Arc<ZoneKey>> {
    nothing_listed(&w.dnssec, "list the file of a key; `lb dns key` makes one", r);
    if let Some(list) = w.dnssec.as_ref().filter(|_| w.transfer.is_some()) {
        let message = "a zone that is signed here cannot be transferred, since it is signed as questions come; remove this, or transfer";
        r.wrong(list.at, &list.key, message);
    }
    let mut keys: Vec<Arc<ZoneKey>> = Vec::new();
    for file in w.dnssec.iter().flat_map(|list| &list.value) {
        match ZoneKey::read(&file.value) {
            Ok(key) if keys.iter().any(|other| other.is_same(&key)) => {
                r.wrong(file.at, &file.key, "is the same key as one before it; remove one of the two");
            }
            Ok(key) => keys.push(Arc::new(key)),
            Err(message) => r.wrong(file.at, &file.key, message),
        }
    }
    keys
}

fn choice(
    apex: &Name,
    written: &At<String>,
    w: &dns::Name,
    known: &Known<'_>,
    around: &Around<'_>,
    r: &mut Reader,
) -> Option<Choice> {
    let name = match master::name(&written.value, apex) {
        Ok(name) if apex.zone_of(&name) => name,
        Ok(name) => {
            r.wrong(
                written.at,
                &written.key,
                format!("{name} is outside of the zone {apex}; move it to its own"),
            );
            return None;
        }
        Err(message) => {
            r.wrong(written.at, &written.key, message);
            return None;
        }
    };
    let policy: Policy = copied(&w.policy);
    let shared = checks(&w.checks, known, r);
    let mut members: Vec<Member> = Vec::new();
    for member_w in &w.members {
        let Some(member) = member(member_w, &shared, policy, known, r) else { continue };
        let place = member_w.address.as_ref()?;
        if members.iter().any(|other| other.address == member.address) {
            r.wrong(place.at, &place.key, format!("{} is a member already; remove one", member.address));
        }
        for check in &member.checks {
            if let Some(Some(Check::Vip { vip: None, directors: None })) = known.get(check.as_str()) {
                known_vip(place, around, r);
            }
        }
        members.push(member);
    }
    if members.is_empty() && !r.problems.iter().any(|problem| problem.key.starts_with(&w.place.key)) {
        r.wrong(w.place.at, &format!("{}.members", w.place.key), "empty; list at least one address");
    }
    let answers = match policy {
        Policy::All | Policy::Subnet | Policy::Geo => 1000,
        Policy::Failover | Policy::Weighted | Policy::Hash => 1,
    };
    let all_down: AllDown = copied(&w.all_down);
    fallback_fits(w, all_down, r);
    let min_up = w.min_up.as_ref().map_or(Least::Count(1), |least| least.value);
    if let (Some(at), Least::Count(count)) = (&w.min_up, min_up) {
        let of = |family| members.iter().filter(|m| Family::of(m.address) == family).count();
        let most = Family::ALL.into_iter().map(of).max().unwrap_or(0);
        if count as usize > most && !members.is_empty() {
            let message = format!(
                "{count} can never be met: no address family has more than {most} members; write at most {most}"
            );
            r.wrong(at.at, &at.key, message);
        }
    }
    Some(Choice {
        name,
        policy,
        ttl: w.ttl.as_ref().map_or(CHOSEN_TTL, |ttl| ttl.value.0),
        answers: within(&w.answers, answers, 1..=1000, r) as usize,
        min_up,
        all_down,
        fallback: addresses(&w.fallback, r),
        members,
    })
}

fn fallback_fits(w: &dns::Name, all_down: AllDown, r: &mut Reader) {
    match (&w.fallback, all_down) {
        (None, AllDown::Fallback) => {
            let message = "missing; list the addresses that are answered when too few members work";
            r.wrong(w.place.at, &format!("{}.fallback", w.place.key), message);
        }
        (Some(list), other) if other != AllDown::Fallback => {
            r.wrong(list.at, &list.key, "only with all_down: fallback; write that, or remove this");
        }
        _ => {}
    }
    nothing_listed(&w.fallback, "list at least one address", r);
}

fn addresses(list: &List<IpAddr>, r: &mut Reader) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for address in list.iter().flat_map(|list| &list.value) {
        usable(address, r);
        found.push(address.value);
    }
    found
}

/// Loopback is for tries on one machine.
fn usable(address: &At<IpAddr>, r: &mut Reader) {
    if let Some(kind) = not_unicast(address.value).filter(|_| !address.value.is_loopback()) {
        let message =
            format!("{kind} address cannot be answered: {}; write a unicast address", address.value);
        r.wrong(address.at, &address.key, message);
    }
}

fn member(
    w: &dns::Member,
    shared: &[String],
    policy: Policy,
    known: &Known<'_>,
    r: &mut Reader,
) -> Option<Member> {
    let address = w.address.as_ref()?;
    usable(address, r);
    if let Some(weight) = w.weight.as_ref().filter(|_| !matches!(policy, Policy::Weighted | Policy::Hash)) {
        r.wrong(weight.at, &weight.key, "only with policy weighted or hash; remove it or change the policy");
    }
    if let Some(subnets) = w.subnets.as_ref().filter(|_| policy != Policy::Subnet) {
        r.wrong(subnets.at, &subnets.key, "only with policy subnet; remove it or change the policy");
    }
    nothing_listed(&w.subnets, "list at least one prefix, as in [203.0.113.0/24]", r);
    Some(Member {
        address: address.value,
        weight: within(&w.weight, 1, 1..=1000, r),
        subnets: w.subnets.iter().flat_map(|list| &list.value).map(|subnet| subnet.value).collect(),
        regions: dns_geo::regions(&w.regions, policy, r),
        checks: match &w.checks {
            Some(_) => checks(&w.checks, known, r),
            None => shared.to_vec(),
        },
    })
}

/// Names of checks that exist.
fn checks(list: &List<String>, known: &Known<'_>, r: &mut Reader) -> Vec<String> {
    let mut found = BTreeSet::new();
    for name in list.iter().flat_map(|list| &list.value) {
        if !known.contains_key(name.value.as_str()) {
            let advice = match nearest(&name.value, known.keys().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => "add it to dns.checks".into(),
            };
            r.wrong(name.at, &name.key, format!("no such check: {:?}; {advice}", name.value));
        }
        found.insert(name.value.clone());
    }
    found.into_iter().collect()
}
