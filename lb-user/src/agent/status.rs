//! What the agent says of itself: the document behind `lb status`, and a pure function that writes it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::dataplane::{Account, Applied, Interface, Role};
use super::readings::{HostTraffic, MapMemory, ServiceTraffic};
use crate::bgp::BgpStatus;
use crate::config::Config;
use crate::connections::HostConnections;
use crate::desired::{Decision, Path, Paths, ServiceDecision};
use crate::health::HealthView;
use crate::leave::sequence::Stage;
use crate::leave::status::LeavingStatus;
use crate::model::{Doubt, HostId, HostState, Protocol, Service, ServiceKey};
use crate::peers::Disagreement;
use crate::vip::Vip;

/// The document behind `lb status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What the node calls itself.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// The parts that this node plays.
    pub roles: Vec<String>,
    /// All that this node is configured to do is being done, or is off on purpose.
    pub ready: bool,
    /// What is missing.
    pub reasons: Vec<String>,
    /// What is wrong beyond this node, or about to be.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What directors say against hosts, by pool and host.
    #[serde(default)]
    pub doubts: BTreeMap<String, Doubt>,
    /// Whether nodes with the same manifest hold different tables, by pool.
    #[serde(default)]
    pub disagreement: BTreeMap<String, bool>,
    /// Interfaces with a program.
    pub interfaces: Vec<Interface>,
    /// Services in order.
    pub services: Vec<ServiceStatus>,
    /// Hosts of all pools in order.
    pub hosts: Vec<HostStatus>,
    /// The BGP daemon beside the agent.
    pub bgp: Option<BgpReport>,
    /// The operator wants nothing announced.
    pub disabled: bool,
    /// VIPs that the operator has leave.
    #[serde(default)]
    pub leaving: Vec<LeavingStatus>,
    /// The server that HAProxy asks.
    pub agent_check: Option<AgentCheckStatus>,
    /// Programs and maps of an earlier agent were taken over.
    pub adopted: bool,
    /// What reloads did.
    pub reload: ReloadStatus,
    /// The manifest, on a node that goes by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestStatus>,
    /// What the host's program did with packets, by service and generation.
    #[serde(default)]
    pub accounts: Vec<Account>,
    /// Memory of the BPF maps.
    #[serde(default)]
    pub memory: Vec<MapMemory>,
    /// What a director sent, by service.
    #[serde(default)]
    pub service_traffic: Vec<ServiceTraffic>,
    /// What a director sent, by host.
    #[serde(default)]
    pub host_traffic: Vec<HostTraffic>,
    /// What each host holds, while a host drains or old generations are in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Vec<HostConnections>>,
    /// Counters by role and name.
    pub counters: BTreeMap<String, BTreeMap<String, u64>>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// The virtual address.
    pub vip: Vip,
    /// Its port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Name of its pool.
    pub pool: String,
    /// Hosts of the pool that are active.
    pub hosts: usize,
    /// Those of them that work.
    pub healthy: usize,
    /// Fewest working hosts with which it is announced.
    pub quorum: usize,
    /// The BGP daemon has the VIP.
    pub announced: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Generation of the pool in the kernel.
    pub generation: Option<u16>,
    /// Digest of the table in the kernel, 16 hexadecimal digits.
    pub digest: Option<String>,
    /// Server ids of QUIC connection ids, by host.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub server_ids: BTreeMap<String, String>,
}

/// A host of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Name of the pool.
    pub pool: String,
    /// Its name.
    pub name: String,
    /// Its IPv4 address.
    pub address4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// What the operator wants of it.
    pub state: HostState,
    /// Its checks pass.
    pub healthy: bool,
    /// Packets to IPv4 VIPs can be sent to it.
    pub usable4: bool,
    /// Packets to IPv6 VIPs can be sent to it.
    pub usable6: bool,
    /// What is wrong with it.
    pub reason: Option<String>,
}

/// The BGP daemon beside the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpReport {
    /// `bird` or `gobgp`.
    pub driver: String,
    /// It does what it should.
    pub up: bool,
    /// Prefixes of ours that it holds.
    pub announced: Vec<String>,
    /// Why it is not up.
    pub reason: Option<String>,
}

/// The server that HAProxy asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentCheckStatus {
    /// What it answers now.
    pub answer: String,
}

/// What reloads did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// How many were taken.
    pub done: u64,
    /// How many were refused.
    pub failed: u64,
    /// Why the last one was refused, line by line; empty if it was taken.
    pub errors: Vec<String>,
    /// Keys that change when the agent starts again.
    pub at_restart: Vec<String>,
}

/// What the agent knows of the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestStatus {
    /// Where it is.
    pub place: String,
    /// The version that this agent goes by; `None`: none has been read yet.
    pub version: Option<u64>,
    /// The version that the kernel treats packets by.
    pub confirmed: Option<u64>,
    /// It came from the cache, and its place has not been heard since.
    pub cached: bool,
    /// Why what is there is not in force.
    pub problem: Option<String>,
}

/// All that the agent knows.
pub(super) struct Known<'a> {
    pub config: &'a Config,
    pub health: &'a HealthView,
    pub paths: &'a Paths,
    pub applied: &'a Applied,
    pub decision: &'a Decision,
    pub bgp: Option<&'a BgpStatus>,
    pub disabled: bool,
    pub adopted: bool,
    pub reload: &'a ReloadStatus,
    pub manifest: Option<ManifestStatus>,
    pub doubts: &'a BTreeMap<HostId, Doubt>,
    pub disagreements: &'a [Disagreement],
    pub leaving: Vec<LeavingStatus>,
    pub leave_problems: &'a [String],
}

impl Known<'_> {
    /// What is wrong beyond this node, or about to be.
    fn warnings(&self) -> Vec<String> {
        let stuck = self.leaving.iter().filter_map(|leaving| leaving.warning(self.config.leave.wait));
        let disagreements = self.disagreements.iter().map(Disagreement::text);
        disagreements.chain(self.leave_problems.iter().cloned()).chain(stuck).collect()
    }
}

impl Status {
    /// Writes the document. Counters, connections and the agent check's answer are added when somebody asks.
    pub(super) fn of(known: &Known<'_>) -> Self {
        let config = known.config;
        // The model of a node without a director is what its hosts decapsulate, not what it serves.
        let is_director = config.director.is_some();
        let services: Vec<ServiceStatus> = match is_director {
            true => {
                known.decision.services.iter().map(|(key, decision)| service(known, key, decision)).collect()
            }
            false => Vec::new(),
        };
        let hosts = if is_director { hosts(known) } else { Vec::new() };
        let reasons = reasons(known);
        Status {
            node: config.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            roles: config.roles().into_iter().map(Into::into).collect(),
            ready: reasons.is_empty(),
            reasons,
            warnings: known.warnings(),
            doubts: known.doubts.iter().map(|(host, doubt)| (host.to_string(), *doubt)).collect(),
            disagreement: disagreement(known),
            interfaces: known.applied.interfaces.clone(),
            services,
            hosts,
            bgp: known.bgp.map(|bgp| BgpReport {
                driver: bgp.driver.into(),
                up: bgp.up,
                announced: bgp.announced.iter().map(ToString::to_string).collect(),
                reason: bgp.reason.clone(),
            }),
            disabled: known.disabled,
            leaving: known.leaving.clone(),
            agent_check: None,
            adopted: known.adopted,
            reload: known.reload.clone(),
            manifest: known.manifest.clone(),
            accounts: Vec::new(),
            memory: Vec::new(),
            service_traffic: Vec::new(),
            host_traffic: Vec::new(),
            connections: None,
            counters: BTreeMap::new(),
        }
    }
}

/// Every pool with a table here or a disagreement elsewhere.
fn disagreement(known: &Known<'_>) -> BTreeMap<String, bool> {
    let held = known.applied.tables.keys().map(|(_, pool)| (pool.clone(), false));
    held.chain(known.disagreements.iter().map(|found| (found.pool.clone(), true))).collect()
}

fn service(known: &Known<'_>, key: &ServiceKey, decision: &ServiceDecision) -> ServiceStatus {
    let wanted = &known.config.model.services[key];
    let serving = known.applied.services.get(key).and_then(|confirmed| confirmed.as_ref().ok());
    let announced = known.bgp.is_some_and(|bgp| bgp.announced.contains(&key.vip.prefix()));
    let reason = match (known.bgp, announced) {
        (_, true) => None,
        (None, false) => {
            decision.reason.clone().or_else(|| Some("no bgp section in the configuration".into()))
        }
        (Some(bgp), false) => {
            decision.reason.clone().or_else(|| bgp.reason.clone()).or_else(|| Some("being announced".into()))
        }
    };
    ServiceStatus {
        vip: key.vip,
        port: key.port,
        protocol: key.protocol,
        pool: wanted.pool.clone(),
        hosts: decision.hosts,
        healthy: decision.healthy,
        quorum: wanted.quorum,
        announced,
        reason,
        generation: serving.map(|serving| serving.generation),
        digest: serving.map(|serving| format!("{:016x}", serving.digest)),
        server_ids: server_ids(known, wanted),
    }
}

/// What the servers of a QUIC service put into the connection ids that they give out.
fn server_ids(known: &Known<'_>, service: &Service) -> BTreeMap<String, String> {
    let pool = known.config.model.pools.get(&service.pool);
    let (Some(quic), Some(pool)) = (&service.extras.quic, pool) else { return BTreeMap::new() };
    let ids = quic.server_ids(&service.pool, &pool.hosts);
    ids.into_iter().map(|(id, host)| (host, quic.shown(id))).collect()
}

fn hosts(known: &Known<'_>) -> Vec<HostStatus> {
    let mut hosts = Vec::new();
    for (pool, members) in &known.config.model.pools {
        for (name, host) in &members.hosts {
            let id = HostId { pool: pool.clone(), host: name.clone() };
            let health = known.health.get(&id);
            let unknown = Path { reason: Some("its path is being looked up".into()), ..Path::default() };
            let path = known.paths.get(&id).unwrap_or(&unknown);
            let failure = health.and_then(|health| health.reason.clone());
            hosts.push(HostStatus {
                pool: pool.clone(),
                name: name.clone(),
                address4: host.address4,
                address6: host.address6,
                state: host.state,
                healthy: health.is_some_and(|health| health.healthy),
                usable4: path.usable4,
                usable6: path.usable6,
                reason: failure.or_else(|| path.reason.clone()),
            });
        }
    }
    hosts
}

/// What this node is configured to do and does not.
fn reasons(known: &Known<'_>) -> Vec<String> {
    let mut reasons = known.applied.problems.clone();
    if known.config.waits_for_manifest() {
        let problem = known.manifest.as_ref().and_then(|manifest| manifest.problem.as_deref());
        let problem = problem.map(|problem| format!(": {problem}")).unwrap_or_default();
        reasons.push(format!("waits for the manifest{problem}"));
    }
    let roles =
        [(known.config.director.is_some(), Role::Director), (known.config.host.is_some(), Role::Host)];
    for (_, role) in roles.into_iter().filter(|(wanted, _)| *wanted) {
        if !known.applied.interfaces.iter().any(|interface| interface.role == role) {
            reasons.push(format!("no program of the {} is on an interface", role.name()));
        }
    }
    if let Some(bgp) = known.bgp.filter(|bgp| !bgp.up) {
        let reason = bgp.reason.as_deref().unwrap_or("not up");
        reasons.push(format!("{}: {reason}", bgp.driver));
    }
    if known.config.director.is_none() || known.disabled {
        return reasons;
    }
    let has_left = |vip: &Vip| {
        known.leaving.iter().any(|leaving| leaving.vip == *vip && leaving.stage == Stage::Withdrawn)
    };
    for (key, decision) in known.decision.services.iter().filter(|(key, _)| !has_left(&key.vip)) {
        let announced = known.bgp.is_none_or(|bgp| bgp.announced.contains(&key.vip.prefix()));
        match &decision.reason {
            Some(reason) => reasons.push(format!("{key}: {reason}")),
            None if !announced => reasons.push(format!("{key}: being announced")),
            None => {}
        }
    }
    reasons
}
