//! The configuration as it is written: every value of the right type and in its place, nothing yet known to fit.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::bgp::Prefix;
use crate::model::{Affinity, Fragments, HashBy, HostState, Protocol};
use crate::peers::PeerUrl;
use crate::vip::Vip;

use super::dns;
use super::extras;
use super::leaf::{CheckType, Community, Driver, Port, ServicePort, Way};
use super::leave;
use super::problem::Position;
use super::reader::{At, Reader, Section};
use super::schema;
use super::tree::Node;
use super::types::{Decapsulation, XdpMode};

/// An optional value.
pub(crate) type Maybe<T> = Option<At<T>>;
/// An optional list.
pub(crate) type List<T> = Maybe<Vec<At<T>>>;

pub(super) struct Written {
    pub node: Maybe<String>,
    pub api: Maybe<PathBuf>,
    pub pins: Maybe<PathBuf>,
    pub disable_file: Maybe<PathBuf>,
    pub leave_file: Maybe<PathBuf>,
    pub leave: Option<leave::Written>,
    pub manifest: Option<Manifest>,
    pub director: Option<Director>,
    pub host: Option<Host>,
    pub pools: Vec<(At<String>, Pool)>,
    pub services: Vec<Service>,
    pub bgp: Option<Bgp>,
    pub peers: Option<Peers>,
    pub agent_check: Option<AgentCheck>,
    pub dns: Option<dns::Written>,
}

pub(super) struct Manifest {
    pub at: Position,
    pub file: Maybe<PathBuf>,
    pub etcd: List<String>,
    pub key: Maybe<String>,
    pub peer: List<String>,
    pub cache: Maybe<PathBuf>,
    /// Keys that say where it is and are there, rightly or wrongly.
    pub places: usize,
}

pub(super) struct Director {
    pub at: Position,
    pub interfaces: List<String>,
    pub xdp: Maybe<XdpMode>,
    pub source4: Maybe<Ipv4Addr>,
    pub source6: Maybe<Ipv6Addr>,
    pub spread4: Maybe<Prefix>,
    pub spread6: Maybe<Prefix>,
    pub flows: Maybe<u32>,
    pub icmp_errors: Maybe<u32>,
    pub capacity: Capacity,
}

#[derive(Default)]
pub(super) struct Capacity {
    pub services: Maybe<u32>,
    pub hosts: Maybe<u32>,
    pub tables: Maybe<u32>,
}

pub(super) struct Host {
    pub at: Position,
    pub interfaces: List<String>,
    pub decapsulation: Maybe<Decapsulation>,
    pub xdp: Maybe<XdpMode>,
    pub accept_from: List<Prefix>,
    pub vips: List<Vip>,
    /// The key is there, rightly or wrongly.
    pub has_vips: bool,
    pub second_chances: Maybe<u32>,
    pub capacity: Capacity,
}

pub(super) struct Pool {
    pub seed: Maybe<u64>,
    pub size: Maybe<u32>,
    pub generation: Maybe<u32>,
    pub hosts: Vec<(At<String>, Member)>,
    /// Where the hosts stand, rightly or wrongly; `None`: they are in the manifest.
    pub hosts_at: Option<Position>,
    /// Where an empty map of hosts stands. The list may be empty for other reasons: a member that could not be read.
    pub no_hosts: Option<Position>,
    pub checks: Vec<Check>,
}

pub(crate) struct Member {
    pub address4: Maybe<Ipv4Addr>,
    pub address6: Maybe<Ipv6Addr>,
    /// One of the two is there, rightly or wrongly.
    pub has_address: bool,
    pub weight: Maybe<u32>,
    pub state: Maybe<HostState>,
}

pub(super) struct Check {
    pub kind: Maybe<CheckType>,
    pub port: Maybe<Port>,
    pub path: Maybe<String>,
    pub status: List<u16>,
    pub through: Maybe<Way>,
    pub interval: Maybe<Duration>,
    pub timeout: Maybe<Duration>,
    pub rise: Maybe<u32>,
    pub fall: Maybe<u32>,
    /// Where it begins, and its key.
    pub place: At<()>,
}

pub(super) struct Service {
    pub vip: Maybe<Vip>,
    pub port: Maybe<ServicePort>,
    pub protocol: Maybe<Protocol>,
    /// The key is there but not one of the protocols, so that nothing can be said of duplicates.
    pub protocol_is_wrong: bool,
    pub pool: Maybe<String>,
    pub quorum: Maybe<u32>,
    pub affinity: Maybe<Affinity>,
    pub hash: Maybe<HashBy>,
    pub fragments: Maybe<Fragments>,
    pub extras: extras::Written,
    /// Where it begins, and its key.
    pub place: At<()>,
}

pub(super) struct Bgp {
    pub at: Position,
    pub driver: Maybe<Driver>,
    pub bird_include: Maybe<PathBuf>,
    pub bird_control: Maybe<PathBuf>,
    pub gobgp_api: Maybe<SocketAddr>,
    pub med: Maybe<u32>,
    pub communities: List<Community>,
}

pub(super) struct Peers {
    pub at: Position,
    pub listen: List<SocketAddr>,
    pub nodes: List<PeerUrl>,
    pub allow: List<Prefix>,
    pub edits: Maybe<bool>,
}

pub(super) struct AgentCheck {
    pub listen: List<SocketAddr>,
    pub file: Maybe<PathBuf>,
}

const INTERFACES: &str = "list the interfaces that packets arrive on, as in [eth0]";

/// Reads the whole file; what is wrong is noted in the reader, what is right is in the result.
pub(super) fn read(tree: &Node, r: &mut Reader) -> Option<Written> {
    let top = r.section(tree, Position { line: 1, column: 1 }, "", &schema::TOP)?;
    Some(Written {
        node: r.leaf(&top, "node"),
        api: r.leaf(&top, "api"),
        pins: r.leaf(&top, "pins"),
        disable_file: r.leaf(&top, "disable_file"),
        leave_file: r.leaf(&top, "leave_file"),
        leave: r.subsection(&top, "leave", &schema::LEAVE).map(|s| leave::read(&s, r)),
        manifest: r.subsection(&top, "manifest", &schema::MANIFEST).map(|s| manifest(&s, r)),
        director: r.subsection(&top, "director", &schema::DIRECTOR).map(|s| director(&s, r)),
        host: r.subsection(&top, "host", &schema::HOST).map(|s| host(&s, r)),
        pools: {
            // Without a manifest a pool has nobody else to tell it its hosts.
            let alone = !top.has("manifest");
            sections(r, &top, "pools", &schema::POOL, |s, _, r| pool(s, alone, r))
        },
        services: listed(r, &top, "services", &schema::SERVICE, service),
        bgp: r.subsection(&top, "bgp", &schema::BGP).map(|s| bgp(&s, r)),
        peers: r.subsection(&top, "peers", &schema::PEERS).map(|s| peers(&s, r)),
        agent_check: r
            .subsection(&top, "agent_check", &schema::AGENT_CHECK)
            .map(|s| AgentCheck { listen: r.one_or_more(&s, "listen"), file: r.leaf(&s, "file") }),
        dns: r.subsection(&top, "dns", &schema::DNS).map(|s| dns::read(&s, r)),
    })
}

fn manifest(s: &Section<'_>, r: &mut Reader) -> Manifest {
    Manifest {
        at: s.at,
        file: r.leaf(s, "file"),
        etcd: r.one_or_more(s, "etcd"),
        key: r.leaf(s, "key"),
        peer: r.one_or_more(s, "peer"),
        cache: r.leaf(s, "cache"),
        places: ["file", "etcd", "peer"].into_iter().filter(|key| s.has(key)).count(),
    }
}

fn director(s: &Section<'_>, r: &mut Reader) -> Director {
    Director {
        at: s.at,
        interfaces: interfaces(s, r),
        xdp: r.leaf(s, "xdp"),
        source4: r.leaf(s, "source4"),
        source6: r.leaf(s, "source6"),
        spread4: r.leaf(s, "spread4"),
        spread6: r.leaf(s, "spread6"),
        flows: r.leaf(s, "flows"),
        icmp_errors: r.leaf(s, "icmp_errors"),
        capacity: capacity(s, &schema::CAPACITY, r),
    }
}

fn capacity(s: &Section<'_>, keys: &'static schema::Keys, r: &mut Reader) -> Capacity {
    let capacity = r.subsection(s, "capacity", keys).map(|s| Capacity {
        services: r.leaf(&s, "services"),
        hosts: r.leaf(&s, "hosts"),
        tables: r.leaf(&s, "tables"),
    });
    capacity.unwrap_or_default()
}

fn host(s: &Section<'_>, r: &mut Reader) -> Host {
    if !s.has("accept_from") {
        r.missing(
            s,
            "accept_from",
            "list the addresses of the directors and pool members, as in [192.0.2.128/25]",
        );
    }
    Host {
        at: s.at,
        interfaces: interfaces(s, r),
        decapsulation: r.leaf(s, "decapsulation"),
        xdp: r.leaf(s, "xdp"),
        accept_from: r.list(s, "accept_from", "[192.0.2.128/25]"),
        vips: r.list(s, "vips", "[198.51.100.1]"),
        has_vips: s.has("vips"),
        second_chances: r.leaf(s, "second_chances"),
        capacity: capacity(s, &schema::HOST_CAPACITY, r),
    }
}

fn interfaces(s: &Section<'_>, r: &mut Reader) -> List<String> {
    if !s.has("interfaces") {
        r.missing(s, "interfaces", INTERFACES);
    }
    r.list(s, "interfaces", "[eth0]")
}

fn pool(s: &Section<'_>, alone: bool, r: &mut Reader) -> Pool {
    if alone && !s.has("hosts") {
        r.missing(s, "hosts", "list at least one host with its address");
    }
    Pool {
        seed: r.leaf(s, "seed"),
        size: r.leaf(s, "size"),
        generation: r.leaf(s, "generation"),
        hosts_at: s.place("hosts"),
        no_hosts: s.place("hosts").filter(|_| r.named(s, "hosts").is_empty()),
        hosts: sections(r, s, "hosts", &schema::MEMBER, member),
        checks: listed(r, s, "checks", &schema::CHECK, check),
    }
}

pub(crate) fn member(s: &Section<'_>, _: At<()>, r: &mut Reader) -> Member {
    Member {
        address4: r.leaf(s, "address4"),
        address6: r.leaf(s, "address6"),
        has_address: s.has("address4") || s.has("address6"),
        weight: r.leaf(s, "weight"),
        state: r.leaf(s, "state"),
    }
}

fn check(s: &Section<'_>, place: At<()>, r: &mut Reader) -> Check {
    Check {
        kind: r.required(s, "type", "write http or tcp"),
        port: r.required(s, "port", "write the port that is probed"),
        path: r.leaf(s, "path"),
        status: r.one_or_more(s, "status"),
        through: r.leaf(s, "through"),
        interval: r.leaf(s, "interval"),
        timeout: r.leaf(s, "timeout"),
        rise: r.leaf(s, "rise"),
        fall: r.leaf(s, "fall"),
        place,
    }
}

fn service(s: &Section<'_>, place: At<()>, r: &mut Reader) -> Service {
    let protocol = r.leaf(s, "protocol");
    Service {
        vip: r.required(s, "vip", "write the virtual address that users connect to"),
        port: r.required(s, "port", "write the port that users connect to, or any"),
        protocol_is_wrong: s.has("protocol") && protocol.is_none(),
        protocol,
        pool: r.required(s, "pool", "write the name of one of the pools"),
        quorum: r.leaf(s, "quorum"),
        affinity: r.leaf(s, "affinity"),
        hash: r.leaf(s, "hash"),
        fragments: r.leaf(s, "fragments"),
        extras: extras::read(s, r),
        place,
    }
}

fn bgp(s: &Section<'_>, r: &mut Reader) -> Bgp {
    let bird = r.subsection(s, "bird", &schema::BIRD);
    let gobgp = r.subsection(s, "gobgp", &schema::GOBGP);
    Bgp {
        at: s.at,
        driver: r.required(s, "driver", "write bird or gobgp"),
        bird_include: bird.as_ref().and_then(|s| r.leaf(s, "include")),
        bird_control: bird.as_ref().and_then(|s| r.leaf(s, "control")),
        gobgp_api: gobgp.as_ref().and_then(|s| r.leaf(s, "api")),
        med: r.leaf(s, "med"),
        communities: r.list(s, "communities", "[\"65000:100\"]"),
    }
}

fn peers(s: &Section<'_>, r: &mut Reader) -> Peers {
    Peers {
        at: s.at,
        listen: r.one_or_more(s, "listen"),
        nodes: r.list(s, "nodes", "[\"http://192.0.2.139:7400\"]"),
        allow: r.list(s, "allow", "[192.0.2.128/25]"),
        edits: r.leaf(s, "edits"),
    }
}

/// The sections of a map with names that the operator chooses.
pub(crate) fn sections<T>(
    r: &mut Reader,
    parent: &Section<'_>,
    name: &str,
    keys: &schema::Keys,
    read: impl Fn(&Section<'_>, At<()>, &mut Reader) -> T,
) -> Vec<(At<String>, T)> {
    let mut found = Vec::new();
    for (name, node) in r.named(parent, name) {
        let place = At { value: (), at: name.at, key: name.key.clone() };
        if let Some(section) = r.section(node, name.at, &name.key, keys) {
            let value = read(&section, place, r);
            found.push((name, value));
        }
    }
    found
}

/// The sections of a list.
pub(crate) fn listed<T>(
    r: &mut Reader,
    parent: &Section<'_>,
    name: &str,
    keys: &schema::Keys,
    read: impl Fn(&Section<'_>, At<()>, &mut Reader) -> T,
) -> Vec<T> {
    let mut found = Vec::new();
    for item in r.items(parent, name) {
        if let Some(section) = r.section(item.value, item.at, &item.key, keys) {
            found.push(read(&section, At { value: (), at: item.at, key: item.key }, r));
        }
    }
    found
}
