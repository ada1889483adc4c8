//! From what is written to what fits together: defaults, and what only several values together can get wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use crate::agent_check;
use crate::bgp::{self, BgpConfig, Prefix};
use crate::manifest;
use crate::model::{Family, Model};
use crate::peers;
use crate::vip::Vip;

use super::check_dns;
use super::check_pools::pools;
use super::check_services::services;
use super::leaf::{Community, Driver};
use super::leave;
use super::problem::nearest;
use super::reader::{At, Reader};
use super::types::{Capacity, DirectorConfig, FLOWS, HostConfig, ICMP_ERRORS, SECOND_CHANCES};
use super::written::{self, List, Maybe, Written};
use super::{Config, DEFAULT_API, Places, Position};

/// Fits the parts together. The result counts only if the reader has noted nothing.
pub(super) fn check(w: Written, host_name: &str, r: &mut Reader) -> Config {
    let roles = [w.director.is_some(), w.host.is_some(), w.agent_check.is_some(), w.dns.is_some()];
    if roles == [false; 4] && r.problems.is_empty() {
        let message = "this node has no role; write at least one of director, host, agent_check and dns";
        r.wrong(Position { line: 1, column: 1 }, "", message);
    }
    if let (Some(bgp), None) = (&w.bgp, &w.director)
        && !w.dns.as_ref().is_some_and(|dns| dns.group.has_anycast())
    {
        r.wrong(
            bgp.at,
            "bgp",
            "nothing to announce without the role of a director or dns.anycast; add one, or remove bgp",
        );
    }
    let (pools, checks) = pools(&w.pools, &w.services, w.manifest.is_some(), r);
    let services = services(&w, r);
    let own_pools = w.pools.iter().filter_map(|(name, pool)| Some((name.value.clone(), pool.hosts_at?)));
    let own_pools = Places(own_pools.collect());
    vips_are_not_hosts(&w, r);
    let director = w.director.as_ref().map(|director| director_config(director, &w, r));
    let host = w.host.as_ref().map(|host| host_config(host, &w, r));
    let model = Model { services, pools };
    let dns = w.dns.as_ref().map(|dns| {
        let node = w.node.as_ref().map_or(host_name, |node| &node.value);
        let (manifest, director) = (w.manifest.is_some(), director.is_some());
        let (bgp, peers) = (w.bgp.as_ref(), w.peers.as_ref());
        check_dns::check(dns, &check_dns::Around { node, model: &model, manifest, director, bgp, peers }, r)
    });
    Config {
        node: or(w.node, || host_name.to_owned()),
        api: or(w.api, || DEFAULT_API.into()),
        pins: or(w.pins, || "/sys/fs/bpf/lb".into()),
        disable_file: or(w.disable_file, || "/etc/lb/disable".into()),
        leave: leave::check(w.leave_file, w.leave, director.is_some(), r),
        director,
        host,
        model,
        manifest: w.manifest.and_then(|manifest| manifest_config(manifest, r)),
        manifest_version: None,
        own_pools,
        checks,
        bgp: w.bgp.map(bgp_config),
        peers: w.peers.map(|peers| peers_config(peers, r)),
        agent_check: w.agent_check.map(agent_check_config),
        dns,
    }
}

pub(super) fn known_pool<'p>(name: &At<String>, w: &'p Written, r: &mut Reader) -> Option<&'p written::Pool> {
    let pools = &w.pools;
    if let Some((_, pool)) = pools.iter().find(|(pool, _)| pool.value == name.value) {
        return Some(pool);
    }
    if w.manifest.is_some() {
        return None;
    }
    let advice = match nearest(&name.value, pools.iter().map(|(pool, _)| pool.value.as_str())) {
        Some(near) => format!("did you mean {near:?}?"),
        None => "add it to pools".into(),
    };
    r.wrong(name.at, &name.key, format!("no such pool: {:?}; {advice}", name.value));
    None
}

pub(super) fn quorum(written: &Maybe<u32>, pool: Option<&written::Pool>, r: &mut Reader) -> usize {
    let Some(quorum) = written else { return 1 };
    let hosts = pool.map(|pool| pool.hosts.len()).filter(|hosts| *hosts > 0);
    if quorum.value == 0 {
        r.wrong(quorum.at, &quorum.key, "0: a VIP without hosts would be announced; write 1 or more");
    } else if let Some(hosts) = hosts.filter(|hosts| quorum.value as usize > *hosts) {
        let message =
            format!("{} can never be met: the pool has {hosts}; write at most {hosts}", quorum.value);
        r.wrong(quorum.at, &quorum.key, message);
    }
    quorum.value as usize
}

pub(super) fn usable_vip(vip: &At<Vip>, r: &mut Reader) -> Option<Vip> {
    let wrong = match vip.value.address() {
        Some(address) => not_unicast(address).map(|kind| {
            format!("{kind} address cannot be a VIP: {address}; write a routable unicast address")
        }),
        None => special_in(vip.value).map(|special| {
            format!("holds {special}, which cannot be VIPs: {}; write a prefix of this site", vip.value)
        }),
    };
    let usable = wrong.is_none();
    if let Some(wrong) = wrong {
        r.wrong(vip.at, &vip.key, wrong);
    }
    usable.then_some(vip.value)
}

/// What [`not_unicast`] says of some address of a prefix.
fn special_in(prefix: Vip) -> Option<&'static str> {
    const SPECIAL: [(&str, &str); 5] = [
        ("::/128", "the unspecified address"),
        ("::1/128", "the loopback address"),
        ("::ffff:0:0/96", "IPv4-mapped addresses"),
        ("fe80::/10", "link-local addresses"),
        ("ff00::/8", "multicast addresses"),
    ];
    let meets = |special: &Vip| special.covers(prefix) || prefix.covers(*special);
    let mut held = SPECIAL.iter().filter(|(special, _)| special.parse().is_ok_and(|special| meets(&special)));
    held.next().map(|(_, name)| *name)
}

/// What makes an address none that packets can be routed to.
pub(super) fn not_unicast(address: IpAddr) -> Option<&'static str> {
    let (v4, v6) = match address {
        IpAddr::V4(v4) => (Some(v4), Ipv6Addr::LOCALHOST),
        IpAddr::V6(v6) => (v6.to_ipv4_mapped(), v6),
    };
    if address.is_unspecified() {
        Some("an unspecified")
    } else if address.is_multicast() {
        Some("a multicast")
    } else if address.is_loopback() {
        Some("a loopback")
    } else if address.is_ipv6() && v4.is_some() {
        Some("an IPv4-mapped")
    } else if v6.is_unicast_link_local() || v4.is_some_and(|v4| v4.is_link_local()) {
        Some("a link-local")
    } else if v4.is_some_and(|v4| v4.is_broadcast()) {
        Some("a broadcast")
    } else {
        None
    }
}

/// A VIP at which a tunnel ends or begins would make packets go round.
fn vips_are_not_hosts(w: &Written, r: &mut Reader) {
    let mut taken: BTreeMap<IpAddr, String> = BTreeMap::new();
    for (name, host) in w.pools.iter().flat_map(|(_, pool)| &pool.hosts) {
        for address in addresses(host) {
            taken.entry(address.value).or_insert_with(|| format!("the address of host {:?}", name.value));
        }
    }
    if let Some(director) = &w.director {
        let sources = [
            director.source4.as_ref().map(|s| s.value.into()),
            director.source6.as_ref().map(|s| s.value.into()),
        ];
        taken
            .extend(sources.into_iter().flatten().map(|source| (source, "the director's own source".into())));
    }
    let own = w.host.iter().filter_map(|host| host.vips.as_ref()).flat_map(|vips| &vips.value);
    let mut said = BTreeSet::new();
    for vip in w.services.iter().filter_map(|service| service.vip.as_ref()).chain(own) {
        let found = taken.iter().find(|(address, _)| vip.value.contains(**address));
        if let Some((address, whose)) = found.filter(|_| said.insert((vip.value, vip.at))) {
            let message = match vip.value.is_prefix() {
                false => format!("{address} is {whose} as well; a VIP needs an address of its own"),
                true => format!("{} holds {address}, {whose}; a VIP needs addresses of its own", vip.value),
            };
            r.wrong(vip.at, &vip.key, message);
        }
    }
}

/// The addresses of a host, both families alike.
pub(super) fn addresses(host: &written::Member) -> impl Iterator<Item = At<IpAddr>> {
    let v4 = host.address4.as_ref().map(|a| At { value: IpAddr::V4(a.value), at: a.at, key: a.key.clone() });
    let v6 = host.address6.as_ref().map(|a| At { value: IpAddr::V6(a.value), at: a.at, key: a.key.clone() });
    v4.into_iter().chain(v6)
}

fn director_config(director: &written::Director, w: &Written, r: &mut Reader) -> DirectorConfig {
    for source in [as_ip(&director.source4), as_ip(&director.source6)].into_iter().flatten() {
        if let Some(kind) = not_unicast(source.value) {
            let message =
                format!("{kind} address cannot be a source: {}; write an address of this node", source.value);
            r.wrong(source.at, &source.key, message);
        }
    }
    DirectorConfig {
        interfaces: interfaces(&director.interfaces, r),
        xdp: copied(&director.xdp),
        source4: director.source4.as_ref().map(|s| s.value),
        source6: director.source6.as_ref().map(|s| s.value),
        spread4: spread(&director.spread4, Family::V4, r),
        spread6: spread(&director.spread6, Family::V6, r),
        flows: flows(&director.flows, r),
        icmp_errors: director.icmp_errors.as_ref().map_or(ICMP_ERRORS, |errors| errors.value),
        capacity: capacity("director", director.at, &director.capacity, w, r),
    }
}

/// A prefix that outer sources are chosen from.
fn spread(written: &Maybe<Prefix>, family: Family, r: &mut Reader) -> Option<Prefix> {
    let written = written.as_ref()?;
    let (prefix, bits) = (written.value, if family == Family::V4 { 32 } else { 128 });
    let like = if family == Family::V4 { "172.16.0.0/16" } else { "2001:db8::/112" };
    let wrong = if Family::of(prefix.address) != family {
        format!("{prefix} is no IPv{} prefix; write one, as in {like}", if bits == 32 { 4 } else { 6 })
    } else if prefix.length < bits - 16 {
        let (from, to) = (bits - 16, bits - 1);
        format!(
            "{prefix} is too large: at most the last 16 bits of a source are chosen; write a length from {from} to {to}"
        )
    } else if prefix.length == bits {
        format!(
            "{prefix} is one address; write a prefix, or the address as source{}",
            if bits == 32 { 4 } else { 6 }
        )
    } else if let Some(kind) = not_unicast(prefix.address) {
        format!("{kind} address cannot be a source: {}; write a prefix of this site", prefix.address)
    } else {
        return Some(prefix);
    };
    r.wrong(written.at, &written.key, wrong);
    None
}

fn flows(written: &Maybe<u32>, r: &mut Reader) -> u32 {
    let Some(flows) = written else { return FLOWS };
    if !(1024..=1 << 24).contains(&flows.value) {
        let message = format!("{} is out of range; write a number from 1024 to 16777216", flows.value);
        r.wrong(flows.at, &flows.key, message);
    }
    flows.value
}

/// Sizes of the maps of a role, which stands at `at`.
fn capacity(role: &str, at: Position, written: &written::Capacity, w: &Written, r: &mut Reader) -> Capacity {
    let default = Capacity::default();
    // One table more than pools: a new one is filled before the old one goes.
    let needed = [
        (&written.services, default.services, w.services.len(), "services"),
        (&written.hosts, default.hosts, w.pools.iter().map(|(_, pool)| pool.hosts.len()).sum(), "hosts"),
        (&written.tables, default.tables, w.pools.len() + 1, "tables"),
    ];
    for (capacity, default, needed, what) in needed {
        let Some(capacity) = capacity else {
            if (default as usize) < needed {
                let message =
                    format!("{needed} {what} are needed, the default is {default}; write {needed} or more");
                r.wrong(at, &format!("{role}.capacity.{what}"), message);
            }
            continue;
        };
        if (capacity.value as usize) < needed {
            let message = format!(
                "{} is too small: {needed} {what} are needed; write {needed} or more",
                capacity.value
            );
            r.wrong(capacity.at, &capacity.key, message);
        } else if !(1..=1 << 20).contains(&capacity.value) {
            let message = format!("{} is out of range; write a number from 1 to 1048576", capacity.value);
            r.wrong(capacity.at, &capacity.key, message);
        }
    }
    let size = |written: &Maybe<u32>, default| written.as_ref().map_or(default, |size| size.value);
    Capacity {
        services: size(&written.services, default.services),
        hosts: size(&written.hosts, default.hosts),
        tables: size(&written.tables, default.tables),
    }
}

fn host_config(host: &written::Host, w: &Written, r: &mut Reader) -> HostConfig {
    let services = &w.services;
    let served = services.iter().filter_map(|service| service.vip.as_ref()).map(|vip| vip.value);
    let vips: BTreeSet<Vip> = match &host.vips {
        Some(vips) => vips.value.iter().filter_map(|vip| usable_vip(vip, r)).collect(),
        None => served.collect(),
    };
    if services.is_empty() && !host.has_vips {
        r.wrong(
            host.at,
            "host.vips",
            "missing, and there are no services; list the VIPs, as in [198.51.100.1]",
        );
    }
    nothing_listed(&host.vips, "list the VIPs, as in [198.51.100.1]", r);
    nothing_listed(&host.accept_from, "list the senders, as in [192.0.2.128/25]", r);
    let accept_from = host.accept_from.iter().flat_map(|list| &list.value).map(|prefix| prefix.value);
    HostConfig {
        interfaces: interfaces(&host.interfaces, r),
        decapsulation: copied(&host.decapsulation),
        xdp: copied(&host.xdp),
        accept_from: accept_from.collect::<BTreeSet<_>>().into_iter().collect(),
        vips,
        second_chances: host.second_chances.as_ref().map_or(SECOND_CHANCES, |chances| chances.value),
        capacity: capacity("host", host.at, &host.capacity, w, r),
    }
}

fn interfaces(written: &List<String>, r: &mut Reader) -> Vec<String> {
    nothing_listed(written, "list the interfaces that packets arrive on, as in [eth0]", r);
    let mut interfaces: Vec<String> = Vec::new();
    for name in written.iter().flat_map(|list| &list.value) {
        if interfaces.contains(&name.value) {
            r.wrong(name.at, &name.key, format!("{:?} is listed twice; remove one", name.value));
        } else if name.value.len() > 15 || name.value.contains(|c: char| c == '/' || c.is_whitespace()) {
            let message =
                format!("not an interface name: {:?}; write at most 15 letters, as in eth0", name.value);
            r.wrong(name.at, &name.key, message);
        }
        interfaces.push(name.value.clone());
    }
    interfaces
}

fn manifest_config(written: written::Manifest, r: &mut Reader) -> Option<manifest::Config> {
    const WHERE: &str = "write one of file: /etc/lb/manifest.yaml, etcd: [URL] and peer: [URL]";
    if written.places != 1 {
        let what = if written.places == 0 { "says not where it is" } else { "is in one place only" };
        r.wrong(written.at, "manifest", format!("{what}; {WHERE}"));
        return None;
    }
    for (list, example) in
        [(&written.etcd, "http://192.0.2.1:2379"), (&written.peer, "http://192.0.2.1:7400")]
    {
        nothing_listed(list, &format!("list at least one, as in [\"{example}\"]"), r);
        for url in list.iter().flat_map(|list| &list.value) {
            if !url.value.starts_with("http://") || url.value.parse::<hyper::Uri>().is_err() {
                let message = format!("not an address: {:?}; write one as in \"{example}\"", url.value);
                r.wrong(url.at, &url.key, message);
            }
        }
    }
    if let (Some(key), None) = (&written.key, &written.etcd) {
        r.wrong(key.at, &key.key, "only for etcd; remove it");
    }
    if let (Some(cache), Some(_)) = (&written.cache, &written.file) {
        r.wrong(cache.at, &cache.key, "only for etcd and peer: a file is there already; remove it");
    }
    let urls = |list: List<String>| list.map(|list| list.value.into_iter().map(|url| url.value).collect());
    let place = match (written.file, urls(written.etcd), urls(written.peer)) {
        (Some(file), ..) => manifest::Place::File(file.value),
        (_, Some(urls), _) => manifest::Place::Etcd { urls, key: or(written.key, || "/lb/manifest".into()) },
        (.., Some(urls)) => manifest::Place::Peer(urls),
        _ => return None,
    };
    Some(manifest::Config { place, cache: or(written.cache, || manifest::DEFAULT_CACHE.into()) })
}

fn bgp_config(bgp: written::Bgp) -> BgpConfig {
    let communities = bgp.communities.iter().flat_map(|list| &list.value).map(|c| {
        let Community(high, low) = c.value;
        (high, low)
    });
    BgpConfig {
        communities: communities.collect(),
        med: bgp.med.map_or(0, |med| med.value),
        driver: match bgp.driver.map(|driver| driver.value) {
            Some(Driver::Gobgp) => {
                let api = or(bgp.gobgp_api, || ([127, 0, 0, 1], 50051).into());
                bgp::Driver::Gobgp { api: api.to_string() }
            }
            _ => bgp::Driver::Bird {
                include: or(bgp.bird_include, || "/etc/lb/bird/lb.conf".into()),
                control: or(bgp.bird_control, || "/run/bird/bird.ctl".into()),
            },
        },
    }
}

fn peers_config(written: written::Peers, r: &mut Reader) -> peers::Config {
    let edits = copied(&written.edits);
    if written.listen.is_none() && written.nodes.is_none() && r.problems.is_empty() {
        let message = "neither listen nor nodes; write one of them, or both";
        r.wrong(written.at, "peers", message);
    }
    nothing_listed(&written.listen, "list addresses of this node, as in [\"192.0.2.132:7400\"]", r);
    nothing_listed(&written.allow, "list who may ask, as in [192.0.2.128/25]", r);
    if let Some(edits) = written.edits.as_ref().filter(|edits| edits.value && written.allow.is_none()) {
        let message = "without peers.allow everybody could edit; list who may, as in allow: [192.0.2.128/25]";
        r.wrong(edits.at, &edits.key, message);
    }
    peers::Config {
        listen: values(written.listen),
        nodes: values(written.nodes).into_iter().collect(),
        allow: values(written.allow),
        edits,
    }
}

fn values<T>(list: List<T>) -> Vec<T> {
    list.into_iter().flat_map(|list| list.value).map(|item| item.value).collect()
}

fn agent_check_config(written: written::AgentCheck) -> agent_check::Config {
    let listen = written.listen.map(|list| list.value.into_iter().map(|address| address.value).collect());
    agent_check::Config {
        listen: listen.unwrap_or_else(|| vec![(Ipv6Addr::UNSPECIFIED, 5555).into()]),
        file: or(written.file, || PathBuf::from("/etc/lb/agent-check")),
    }
}

/// An empty list where at least one entry is needed. One whose entries are all wrong has been reported already.
pub(super) fn nothing_listed<T>(list: &List<T>, advice: &str, r: &mut Reader) {
    if let Some(list) = list.as_ref().filter(|list| list.value.is_empty())
        && !r.problems.iter().any(|problem| problem.key.starts_with(&list.key))
    {
        r.wrong(list.at, &list.key, format!("empty; {advice}"));
    }
}

/// A number, brought between these bounds; if it was not, that is said.
pub(super) fn within(number: &At<u32>, least: u32, most: u32, r: &mut Reader) -> u32 {
    if !(least..=most).contains(&number.value) {
        let message = format!("{} is out of range; write a number from {least} to {most}", number.value);
        r.wrong(number.at, &number.key, message);
    }
    number.value.clamp(least, most)
}

pub(super) fn or<T>(written: Maybe<T>, default: impl FnOnce() -> T) -> T {
    written.map_or_else(default, |written| written.value)
}

pub(super) fn copied<T: Copy + Default>(written: &Maybe<T>) -> T {
    written.as_ref().map(|written| written.value).unwrap_or_default()
}

fn as_ip<T: Copy + Into<IpAddr>>(written: &Maybe<T>) -> Maybe<IpAddr> {
    written.as_ref().map(|a| At { value: a.value.into(), at: a.at, key: a.key.clone() })
}
