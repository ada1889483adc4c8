//! The configuration with every default filled in, as it would be written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::agent_check;
use crate::bgp::{self, BgpConfig};
use crate::health::{self, CheckKind, Through};
use crate::manifest;
use crate::model::{self, ANY_PORT, Affinity, Fragments, HashBy, HostState, Protocol, ServiceKey};
use crate::peers;
use crate::vip::Vip;

use super::Config;
use super::dns_effective;
use super::extras;
use super::leave;
use super::types::{Capacity, Decapsulation, DirectorConfig, HostConfig, XdpMode};

/// A configuration with every default filled in; written as YAML, it is read back as the same configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Effective {
    node: String,
    api: PathBuf,
    pins: PathBuf,
    disable_file: PathBuf,
    leave_file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    leave: Option<leave::Effective>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<manifest::Config>,
    #[serde(skip_serializing_if = "Option::is_none")]
    director: Option<Director>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Host>,
    pools: BTreeMap<String, Pool>,
    services: Vec<Service>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bgp: Option<Bgp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peers: Option<Peers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_check: Option<AgentCheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<dns_effective::Effective>,
}

#[derive(Clone, Debug, Serialize)]
struct Director {
    interfaces: Vec<String>,
    xdp: XdpMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    source4: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source6: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spread4: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spread6: Option<String>,
    flows: u32,
    icmp_errors: u32,
    capacity: Capacity,
}

#[derive(Clone, Debug, Serialize)]
struct Host {
    interfaces: Vec<String>,
    decapsulation: Decapsulation,
    xdp: XdpMode,
    accept_from: Vec<String>,
    vips: BTreeSet<Vip>,
    second_chances: u32,
    capacity: Capacity,
}

#[derive(Clone, Debug, Serialize)]
struct Pool {
    #[serde(flatten)]
    own: Option<OwnPool>,
    checks: Vec<Check>,
}

/// What a pool has that is not in the manifest.
#[derive(Clone, Debug, Serialize)]
struct OwnPool {
    seed: u64,
    size: u32,
    generation: u16,
    hosts: BTreeMap<String, Member>,
}

#[derive(Clone, Debug, Serialize)]
struct Member {
    #[serde(skip_serializing_if = "Option::is_none")]
    address4: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address6: Option<Ipv6Addr>,
    weight: u32,
    state: HostState,
}

#[derive(Clone, Debug, Serialize)]
struct Check {
    #[serde(flatten)]
    probe: Probe,
    through: &'static str,
}

/// A check without the way that its probes take.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Probe {
    r#type: &'static str,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Vec<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verify: Option<bool>,
    interval: String,
    timeout: String,
    rise: u32,
    fall: u32,
}

#[derive(Clone, Debug, Serialize)]
struct Service {
    vip: Vip,
    port: Port,
    protocol: Protocol,
    pool: String,
    quorum: usize,
    affinity: Affinity,
    hash: HashBy,
    fragments: Fragments,
    #[serde(flatten)]
    extras: extras::Effective,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Port {
    One(u16),
    #[serde(serialize_with = "any")]
    Any,
}

#[derive(Clone, Debug, Serialize)]
struct Bgp {
    driver: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bird: Option<Bird>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gobgp: Option<Gobgp>,
    med: u32,
    communities: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Bird {
    include: PathBuf,
    control: PathBuf,
}

#[derive(Clone, Debug, Serialize)]
struct Gobgp {
    api: String,
}

#[derive(Clone, Debug, Serialize)]
struct Peers {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listen: Vec<SocketAddr>,
    nodes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow: Vec<String>,
    edits: bool,
}

#[derive(Clone, Debug, Serialize)]
struct AgentCheck {
    listen: Vec<SocketAddr>,
    file: PathBuf,
}

impl From<&Config> for Effective {
    fn from(config: &Config) -> Self {
        let no_checks = Vec::new();
        let checks = |name| config.checks.get(name).unwrap_or(&no_checks);
        let own =
            |name: &String| config.model.pools.get(name).filter(|_| config.own_pools.0.contains_key(name));
        let pools = config.checks.keys().map(|name| (name, own(name)));
        Effective {
            node: config.node.clone(),
            api: config.api.clone(),
            pins: config.pins.clone(),
            disable_file: config.disable_file.clone(),
            leave_file: config.leave.file.clone(),
            leave: config.director.as_ref().map(|_| leave::Effective::from(&config.leave)),
            manifest: config.manifest.clone(),
            director: config.director.as_ref().map(Director::from),
            host: config.host.as_ref().map(Host::from),
            pools: pools.map(|(name, pool)| (name.clone(), Pool::new(pool, checks(name)))).collect(),
            services: config.model.services.iter().map(Service::from).collect(),
            bgp: config.bgp.as_ref().map(Bgp::from),
            peers: config.peers.as_ref().map(Peers::from),
            agent_check: config.agent_check.as_ref().map(AgentCheck::from),
            dns: config.dns.as_ref().map(dns_effective::Effective::from),
        }
    }
}

impl From<&DirectorConfig> for Director {
    fn from(director: &DirectorConfig) -> Self {
        let DirectorConfig { interfaces, xdp, source4, source6, flows, icmp_errors, capacity, .. } =
            director.clone();
        let [spread4, spread6] =
            [director.spread4, director.spread6].map(|prefix| prefix.map(|p| p.to_string()));
        Director { interfaces, xdp, source4, source6, spread4, spread6, flows, icmp_errors, capacity }
    }
}

impl From<&HostConfig> for Host {
    fn from(host: &HostConfig) -> Self {
        let HostConfig { interfaces, decapsulation, xdp, accept_from, vips, second_chances, capacity } =
            host.clone();
        let accept_from = accept_from.iter().map(ToString::to_string).collect();
        Host { interfaces, decapsulation, xdp, accept_from, vips, second_chances, capacity }
    }
}

impl Pool {
    fn new(pool: Option<&model::Pool>, checks: &[health::Check]) -> Self {
        let own = pool.map(|pool| OwnPool {
            seed: pool.seed,
            size: pool.size,
            generation: pool.generation,
            hosts: pool.hosts.iter().map(|(name, host)| (name.clone(), Member::from(host))).collect(),
        });
        Pool { own, checks: checks.iter().map(Check::from).collect() }
    }
}

impl From<&model::Host> for Member {
    fn from(host: &model::Host) -> Self {
        let model::Host { address4, address6, weight, state } = *host;
        Member { address4, address6, weight, state }
    }
}

impl From<&health::Check> for Check {
    fn from(check: &health::Check) -> Self {
        let through = match check.through {
            Through::Address => "address",
            Through::Tunnel => "tunnel",
        };
        Check { probe: Probe::from(check), through }
    }
}

impl From<&health::Check> for Probe {
    fn from(check: &health::Check) -> Self {
        let (kind, asked, verify) = match check.kind.clone() {
            CheckKind::Http { path, status } => ("http", Some((path, status)), None),
            CheckKind::Https { path, status, verify } => ("https", Some((path, status)), Some(verify)),
            CheckKind::Tcp => ("tcp", None, None),
        };
        let (path, status) = asked.unzip();
        Probe {
            r#type: kind,
            port: check.port,
            path,
            status,
            verify,
            interval: shown(check.interval),
            timeout: shown(check.timeout),
            rise: check.rise,
            fall: check.fall,
        }
    }
}

impl From<(&ServiceKey, &model::Service)> for Service {
    fn from((key, service): (&ServiceKey, &model::Service)) -> Self {
        let ServiceKey { vip, port, protocol } = *key;
        Service {
            vip,
            port: if port == ANY_PORT { Port::Any } else { Port::One(port) },
            protocol,
            pool: service.pool.clone(),
            quorum: service.quorum,
            affinity: service.affinity,
            hash: service.hash,
            fragments: service.fragments,
            extras: extras::Effective::from(&service.extras),
        }
    }
}

impl From<&BgpConfig> for Bgp {
    fn from(config: &BgpConfig) -> Self {
        let (bird, gobgp) = match config.driver.clone() {
            bgp::Driver::Bird { include, control } => (Some(Bird { include, control }), None),
            bgp::Driver::Gobgp { api } => (None, Some(Gobgp { api })),
        };
        let communities = config.communities.iter().map(|(high, low)| format!("{high}:{low}")).collect();
        Bgp { driver: config.driver.name(), bird, gobgp, med: config.med, communities }
    }
}

impl From<&peers::Config> for Peers {
    fn from(config: &peers::Config) -> Self {
        Peers {
            listen: config.listen.clone(),
            nodes: config.nodes.iter().map(ToString::to_string).collect(),
            allow: config.allow.iter().map(ToString::to_string).collect(),
            edits: config.edits,
        }
    }
}

impl From<&agent_check::Config> for AgentCheck {
    fn from(config: &agent_check::Config) -> Self {
        AgentCheck { listen: config.listen.clone(), file: config.file.clone() }
    }
}

/// A duration as the configuration writes it.
pub(super) fn shown(duration: Duration) -> String {
    match duration.as_millis() {
        millis if millis % 60_000 == 0 => format!("{}m", millis / 60_000),
        millis if millis % 1000 == 0 => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}

fn any<S: serde::Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("any")
}
