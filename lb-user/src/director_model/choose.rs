//! From a flow to the host that gets it: service, row, owners, and the first of them that can be used.

use std::fmt;
use std::net::IpAddr;

use lb_common::flow;
use serde::Serialize;

use super::parse::Packet;
use super::{Flow, Memory, View};
use crate::dataplane::nexthops::spread_mask;
use crate::extras::{Limit, Ruling};
use crate::model::{Affinity, Family, HashBy, Host, HostId, HostState, Pool, ServiceKey};
use crate::netlink::vlan::Below;
use crate::table::{self, NO_OWNER, Row, TableError};

/// The way of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The flow.
    pub flow: Flow,
    /// Its service.
    pub service: ServiceKey,
    /// What keeps the service's flows together.
    pub affinity: Affinity,
    /// What of the flow chose the row.
    pub by: HashBy,
    /// What the service's list of sources says of the client, if it has one.
    pub ruling: Option<Ruling>,
    /// How much each source may use the service, if that is bounded.
    pub limit: Option<Limit>,
    /// The pool of that service.
    pub pool: String,
    /// The generation that is written to outer headers.
    pub generation: u16,
    /// Rows of the pool's table.
    pub rows: u32,
    /// The flow's hash, which the row comes from.
    pub hash: u32,
    /// The flow's row.
    pub row: u32,
    /// The owners of that row, in order.
    pub owners: Vec<Owner>,
    /// The host that gets the packet.
    pub host: Option<HostId>,
    /// The server id of its QUIC connection id, if that has one.
    pub server_id: Option<u64>,
    /// That host was remembered, and may be no owner at all.
    pub remembered: bool,
    /// The way to it.
    pub hop: Option<Hop>,
}

/// An owner of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its name in the pool.
    pub host: String,
    /// Where its tunnel ends, for this flow.
    pub address: Option<IpAddr>,
    /// Why it gets no new packets, if so.
    pub obstacle: Option<Obstacle>,
}

/// Why a director passes a host over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Obstacle {
    /// The operator wants it so.
    State(HostState),
    /// It fails its health checks.
    Sick,
    /// It cannot be reached.
    NoWay(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::State(HostState::Down) => f.write_str("is down, as the operator wants"),
            Obstacle::State(_) => f.write_str("is drained: it keeps its connections by second chances"),
            Obstacle::Sick => f.write_str("fails its health checks"),
            Obstacle::NoWay(reason) => f.write_str(reason),
        }
    }
}

/// How a packet leaves for its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// By this interface.
    pub ifindex: u32,
    /// What is below it, if it is a VLAN device.
    pub below: Option<Below>,
    /// Ethernet source.
    pub own_mac: [u8; 6],
    /// Ethernet destination.
    pub next_mac: [u8; 6],
    /// Largest packet on that way.
    pub mtu: usize,
    /// Outer source, or the network's address of the prefix that it is chosen from.
    pub source: IpAddr,
    /// Bits of its last two bytes that are chosen by the flow.
    pub spread: [u8; 2],
    /// Outer destination.
    pub destination: IpAddr,
}

impl Hop {
    /// The outer source of a flow with this hash.
    pub fn source_of(&self, hash: u32) -> IpAddr {
        let [first, second, ..] = hash.to_le_bytes();
        let chosen = [first & self.spread[0], second & self.spread[1]];
        match self.source {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                [a, b, c | chosen[0], d | chosen[1]].into()
            }
            IpAddr::V6(address) => {
                let mut octets = address.octets();
                octets[14] |= chosen[0];
                octets[15] |= chosen[1];
                octets.into()
            }
        }
    }

    /// The largest packet that fits into the tunnel.
    pub fn room(&self) -> usize {
        let header = if self.destination.is_ipv4() { 20 } else { 40 };
        self.mtu.saturating_sub(header)
    }
}

/// The rows of a pool's table; a place is the position of a host in the order of names.
pub(super) fn rows(pool: &Pool) -> Result<Vec<Row>, TableError> {
    let slots = pool.hosts.keys().cloned().zip(0..).collect();
    match table::rows(&pool.generations(), pool.seed, pool.size, &slots) {
        Ok(table) => Ok(table.rows),
        Err(TableError::NoHosts) => Ok(vec![[NO_OWNER; 4]; pool.size as usize]),
        Err(error) => Err(error),
    }
}

/// The way of a packet by the tables alone; `None`: its flow is of no service.
pub(super) fn way(view: &View, packet: &Packet) -> Option<Way> {
    let flow = packet.flow;
    let (service, name, pool) = view.service(packet)?;
    let by = view.model.services[&service].hash;
    let hash = hash(pool.seed, &flow, by);
    let row = flow::row(hash, pool.size);
    let family = Family::of(flow.destination.ip());
    let places = view.table(name).map(|table| table[row as usize]).into_iter().flatten();
    let hosts: Vec<_> = pool.hosts.iter().collect();
    let owners: Vec<Owner> = places
        .take_while(|place| *place != NO_OWNER)
        .filter_map(|place| hosts.get(usize::from(place)))
        .map(|(host, members)| {
            owner(view, HostId { pool: name.into(), host: (*host).clone() }, members, family)
        })
        .collect();
    let first = owners.iter().find(|owner| owner.obstacle.is_none());
    let host = first.map(|owner| HostId { pool: name.into(), host: owner.host.clone() });
    let hop = host.as_ref().and_then(|id| hop(view, &pool.hosts[&id.host], family).ok());
    Some(Way {
        flow,
        service,
        affinity: view.model.services[&service].affinity,
        by,
        ruling: None,
        limit: None,
        pool: name.into(),
        generation: pool.generation,
        rows: pool.size,
        hash,
        row,
        owners,
        host,
        server_id: None,
        remembered: false,
        hop,
    })
}

/// A flow of a service with a flow table goes where it went before, healthy or not, as long as there is a way.
pub(super) fn recall(view: &View, memory: &Memory, way: &mut Way) {
    let Some(id) = memory.flows.get(&way.flow).filter(|_| way.affinity == Affinity::FlowTable) else {
        return;
    };
    let host = view.model.pools.get(&id.pool).and_then(|pool| pool.hosts.get(&id.host));
    if let Some(hop) = host.and_then(|host| hop(view, host, Family::of(way.flow.destination.ip())).ok()) {
        way.host = Some(id.clone());
        way.remembered = true;
        way.hop = Some(hop);
    }
}

/// Remembers where a flow went.
pub(super) fn remember(memory: &mut Memory, way: &Way) {
    if way.affinity == Affinity::FlowTable
        && !way.remembered
        && let Some(host) = &way.host
    {
        memory.flows.insert(way.flow, host.clone());
    }
}

fn owner(view: &View, id: HostId, host: &Host, family: Family) -> Owner {
    let healthy = view.health.get(&id).copied().unwrap_or(false);
    let obstacle = match hop(view, host, family) {
        _ if host.state != HostState::Active => Some(Obstacle::State(host.state)),
        _ if !healthy => Some(Obstacle::Sick),
        Err(reason) => Some(Obstacle::NoWay(reason)),
        Ok(_) => None,
    };
    Owner { host: id.host, address: host.outer(family), obstacle }
}

/// How a host is reached with packets of one family, or why not.
pub(super) fn hop(view: &View, host: &Host, family: Family) -> Result<Hop, String> {
    let destination = host.outer(family).ok_or("has no address")?;
    let next = match view.nexthops.get(&destination) {
        Some(Ok(next)) => next,
        Some(Err(reason)) => return Err(reason.clone()),
        None => return Err(format!("the route to {destination} is not known")),
    };
    let fixed = match destination {
        IpAddr::V4(_) => view.sources.v4.map(IpAddr::V4),
        IpAddr::V6(_) => view.sources.v6.map(IpAddr::V6),
    };
    let spread = view.sources.spread(destination);
    let fixed = spread.map(|prefix| prefix.address).or(fixed);
    let source = fixed.or(next.source).ok_or_else(|| format!("no source address towards {destination}"))?;
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(format!("the source {source} is of another family than {destination}"));
    }
    Ok(Hop {
        ifindex: next.ifindex,
        below: next.below.clone(),
        own_mac: next.source_mac,
        next_mac: next.mac,
        // No packet is longer than its header can say.
        mtu: (next.mtu as usize).min(usize::from(u16::MAX)),
        source,
        spread: spread.map_or([0; 2], spread_mask),
        destination,
    })
}

/// The flow's hash under a pool's seed: of all of it, or of its addresses without ports and protocol.
fn hash(seed: u64, flow: &Flow, by: HashBy) -> u32 {
    let whole = flow::Flow {
        source: flow.source.ip().into(),
        destination: flow.destination.ip().into(),
        ports: flow::Flow::ports(flow.source.port(), flow.destination.port()),
        protocol: flow.protocol.number(),
        v6: flow.destination.is_ipv6(),
    };
    let nowhere = flow::Addr::v6([0; 4]);
    let part = match by {
        HashBy::FiveTuple => whole,
        HashBy::Source => flow::Flow { destination: nowhere, ports: 0, protocol: 0, ..whole },
        HashBy::Addresses => flow::Flow { ports: 0, protocol: 0, ..whole },
    };
    flow::hash(seed, &part)
}
