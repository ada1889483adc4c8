//! The values that decisions are made of: services, pools and hosts, as every part of the agent sees them.
//!
//! All of them are plain data, compared with `==`; collections are sorted, because their order reaches tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use lb_common::maps;
use serde::{Deserialize, Serialize};

use crate::extras::Extras;
use crate::vip::Vip;

/// Transport protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Protocol {
    /// The protocol of an IANA number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Protocol::Tcp),
            17 => Some(Protocol::Udp),
            _ => None,
        }
    }

    /// The IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "4")]
    V4,
    /// IPv6.
    #[serde(rename = "6")]
    V6,
}

impl Family {
    /// Both, in order.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

/// The port of services of all ports that no other service of their VIP and protocol has.
pub const ANY_PORT: u16 = 0;

/// What users connect to: VIP, port (host byte order) and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// The virtual address, or prefix of such.
    pub vip: Vip,
    /// Destination port, or [`ANY_PORT`].
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vip.family() {
            Family::V4 => write!(f, "{}:", self.vip)?,
            Family::V6 => write!(f, "[{}]:", self.vip)?,
        }
        match self.port {
            ANY_PORT => write!(f, "*/{}", self.protocol),
            port => write!(f, "{port}/{}", self.protocol),
        }
    }
}

impl ServiceKey {
    /// Packets to the other one's address and port may be for it.
    pub fn serves(&self, other: &ServiceKey) -> bool {
        let port = self.port == ANY_PORT || self.port == other.port;
        port && self.protocol == other.protocol && self.vip.covers(other.vip)
    }
}

/// The text is no service as [`ServiceKey`] shows it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no service; write VIP:PORT/PROTOCOL, as in [2001:db8::1]:80/tcp")]
pub struct ServiceKeyError(String);

impl FromStr for ServiceKey {
    type Err = ServiceKeyError;

    fn from_str(text: &str) -> Result<Self, ServiceKeyError> {
        let parse = || {
            let (ends, protocol) = text.rsplit_once('/')?;
            let (vip, port) = ends.rsplit_once(':')?;
            let vip = vip.strip_prefix('[').and_then(|vip| vip.strip_suffix(']')).unwrap_or(vip);
            let port = if port == "*" { ANY_PORT } else { port.parse().ok()? };
            let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|p| p.to_string() == protocol)?;
            Some(ServiceKey { vip: vip.parse().ok()?, port, protocol })
        };
        parse().ok_or_else(|| ServiceKeyError(text.to_owned()))
    }
}

/// A service: where its packets go and what it needs to be announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name of its pool.
    pub pool: String,
    /// Fewest healthy hosts with which the VIP stays announced; at least 1.
    pub quorum: usize,
    /// What keeps the packets of a flow together.
    pub affinity: Affinity,
    /// What of a flow chooses its host.
    pub hash: HashBy,
    /// What becomes of fragments; the same for all services of a VIP and protocol, since most fragments have no ports.
    pub fragments: Fragments,
    /// What it asks for beyond a table.
    pub extras: Extras,
}

impl Service {
    /// A service as it is unless the configuration says otherwise.
    pub fn of(pool: &str, protocol: Protocol) -> Self {
        let (affinity, hash, fragments) = (Affinity::of(protocol), HashBy::default(), Fragments::default());
        let extras = Extras::default();
        Service { pool: pool.to_owned(), quorum: 1, affinity, hash, fragments, extras }
    }
}

/// What becomes of fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fragments {
    /// They are dropped.
    #[default]
    Drop,
    /// They go to the host of their addresses, and so does everything else of the service: see [`HashBy`].
    Forward,
}

/// What of a flow chooses its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashBy {
    /// Both addresses, both ports and the protocol.
    #[default]
    #[serde(rename = "5-tuple")]
    FiveTuple,
    /// The source address: a client has one host, at all services of the pool.
    Source,
    /// Source and destination address: a client has one host per VIP, at all its ports.
    Addresses,
}

impl HashBy {
    /// Bits of [`lb_common::maps::Service::flags`].
    pub const fn flags(self) -> u16 {
        match self {
            HashBy::FiveTuple => 0,
            HashBy::Source => maps::BY_SOURCE,
            HashBy::Addresses => maps::BY_ADDRESSES,
        }
    }
}

impl fmt::Display for HashBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HashBy::FiveTuple => "5-tuple",
            HashBy::Source => "source",
            HashBy::Addresses => "addresses",
        })
    }
}

/// What keeps the packets of a flow at one host while hosts and directors change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Affinity {
    /// Hosts pass on what none of their sockets knows.
    SecondChance,
    /// Nothing but the table: the first host that gets a packet keeps it.
    None,
    /// Each director remembers the host of every flow that it has seen, as other load balancers do.
    FlowTable,
    /// The connection ids of QUIC name hosts.
    Quic,
}

impl Affinity {
    /// Unless the configuration says otherwise: UDP has second chances only where its sockets are connected.
    pub const fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Affinity::SecondChance,
            Protocol::Udp => Affinity::None,
        }
    }
}

/// What the operator wants of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// Takes new connections.
    #[default]
    Active,
    /// Keeps its connections, gets no new ones.
    Drain,
    /// Gets nothing.
    Down,
}

/// What other nodes say against an L7 host, as far as its fellow hosts must know it: absent is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Doubt {
    /// Some director gets no answer of any kind from it: it gets its chance at a packet after all others.
    Suspected,
    /// Most directors get none: it gets no packets.
    Dead,
}

/// An L7 host as a member of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Host {
    /// IPv4 address that the tunnel ends at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address4: Option<Ipv4Addr>,
    /// IPv6 address that the tunnel ends at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// Share of new connections, 1 or more.
    pub weight: u32,
    /// What the operator wants of it.
    pub state: HostState,
}

impl Host {
    /// Where packets to a VIP of `inner` family are sent: the host's address of that family or, failing that, of the
    /// other one.
    pub fn outer(&self, inner: Family) -> Option<IpAddr> {
        let v4 = self.address4.map(IpAddr::V4);
        let v6 = self.address6.map(IpAddr::V6);
        match inner {
            Family::V4 => v4.or(v6),
            Family::V6 => v6.or(v4),
        }
    }
}

/// One set of hosts eligible for new connections, with their weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Its number, which outer headers carry; 1 or more.
    pub number: u16,
    /// Weight by stable name. A name that the pool no longer has keeps its rows from others, but gets no packets.
    pub hosts: BTreeMap<String, u32>,
}

/// A pool: hosts, and how their table is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Keys the permutations and the flow hash.
    pub seed: u64,
    /// Rows of the table, a prime.
    pub size: u32,
    /// Number of the current generation, written to the outer header. Its hosts are the active ones.
    pub generation: u16,
    /// Members by stable name.
    pub hosts: BTreeMap<String, Host>,
    /// Generations in force beside the current one, in order of precedence: one that is prepared, then older ones whose
    /// connections live on, newest first.
    pub others: Vec<Generation>,
}

impl Pool {
    /// The generation that new connections go by.
    pub fn current(&self) -> Generation {
        let active = self.hosts.iter().filter(|(_, host)| host.state == HostState::Active);
        let hosts = active.map(|(name, host)| (name.clone(), host.weight)).collect();
        Generation { number: self.generation, hosts }
    }

    /// All generations in force, in order of precedence. The current one may have no hosts.
    pub fn generations(&self) -> Vec<Generation> {
        let mut all = vec![self.current()];
        all.extend(self.others.iter().cloned());
        all
    }
}

/// Everything that packets are treated by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Services by what users connect to.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Pools by name.
    pub pools: BTreeMap<String, Pool>,
}

impl Model {
    /// The VIPs that hold this one, itself first if it is one: each is in the next.
    pub fn vips_over(&self, vip: Vip) -> impl Iterator<Item = Vip> {
        // In order, what holds it comes before it; and what holds it and comes before another VIP, holds the start of
        // that too.
        let mut last = Some(vip);
        std::iter::from_fn(move || {
            loop {
                let end = ServiceKey { vip: last?, port: u16::MAX, protocol: Protocol::Udp };
                let (ServiceKey { vip: found, .. }, _) = self.services.range(..=end).next_back()?;
                if found.covers(vip) {
                    last = found.prefix().length.checked_sub(1).map(|length| vip.within(length));
                    return Some(*found);
                }
                last = Some(vip.within(found.shared(vip)?));
            }
        })
    }

    /// The services of a VIP.
    pub fn services_of(&self, vip: Vip) -> impl Iterator<Item = (&ServiceKey, &Service)> {
        let first = ServiceKey { vip, port: 0, protocol: Protocol::Tcp };
        self.services.range(first..).take_while(move |(key, _)| key.vip == vip)
    }

    /// The services that addresses of a VIP have, but for those that longer VIPs in it have of their own: its own ones,
    /// and those of VIPs that hold it, as far as no longer one has a service of that port.
    pub fn services_at(&self, vip: Vip) -> Vec<(&ServiceKey, &Service)> {
        let mut found: Vec<(&ServiceKey, &Service)> = Vec::new();
        for wider in self.vips_over(vip) {
            let hides = |key: &ServiceKey, other: &ServiceKey| {
                key.protocol == other.protocol && (key.port == other.port || key.port == ANY_PORT)
            };
            let seen = |other: &ServiceKey| !found.iter().any(|(key, _)| hides(key, other));
            let more: Vec<_> = self.services_of(wider).filter(|(key, _)| seen(key)).collect();
            found.extend(more);
        }
        found
    }

    /// The service that packets to this address and port are for: of the longest VIP that has one, and there of the
    /// port rather than of any.
    pub fn service(&self, destination: SocketAddr, protocol: Protocol) -> Option<(ServiceKey, &Service)> {
        let of = |vip: Vip| {
            let of_port = |port| self.services.get_key_value(&ServiceKey { vip, port, protocol });
            of_port(destination.port()).or_else(|| of_port(ANY_PORT))
        };
        let (key, service) = self.vips_over(destination.ip().into()).find_map(of)?;
        Some((*key, service))
    }

    /// The service whose host gets the fragments of a protocol for this address, if they are forwarded: of the longest
    /// VIP that has the protocol.
    pub fn service_of_fragments(
        &self,
        address: IpAddr,
        protocol: Protocol,
    ) -> Option<(ServiceKey, &Service)> {
        let of = |vip: Vip| self.services_of(vip).filter(move |(key, _)| key.protocol == protocol);
        let vip = self.vips_over(address.into()).find(|vip| of(*vip).next().is_some())?;
        let mut forwarding = of(vip).filter(|(_, service)| service.fragments == Fragments::Forward);
        forwarding.next().map(|(key, service)| (*key, service))
    }

    /// All VIPs.
    pub fn vips(&self) -> BTreeSet<Vip> {
        self.services.keys().map(|key| key.vip).collect()
    }

    /// Some VIP is a prefix.
    pub fn has_prefixes(&self) -> bool {
        self.services.keys().any(|key| key.vip.is_prefix())
    }

    /// All hosts of all pools.
    pub fn hosts(&self) -> impl Iterator<Item = (HostId, &Host)> {
        self.pools.iter().flat_map(|(pool, members)| {
            let id = |host: &String| HostId { pool: pool.clone(), host: host.clone() };
            members.hosts.iter().map(move |(name, host)| (id(name), host))
        })
    }
}

/// A host of a pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId {
    /// Pool name.
    pub pool: String,
    /// Host name.
    pub host: String,
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.host)
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
