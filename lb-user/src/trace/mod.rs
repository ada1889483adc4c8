//! What a director would do with a packet and why, told to people and programs: `lb trace`.
//!
//! The answer comes from the [plain model](crate::director_model) of the director, over what the agent has brought to the
//! kernel. No packet is sent.

pub mod packet;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lb_common::chance::{self, NOBODY, Next, Turn};
use serde::{Deserialize, Serialize};

use crate::dataplane::slots::stable_id;
use crate::desired::Confirmed;
use crate::director_model::{Flow, Hop, Memory, View, Way, judge, parse, tags};
use crate::extras::{Counted, Limit, Ruling};
use crate::model::{Affinity, HashBy, HostId, Pool, Protocol, ServiceKey};
use crate::table::{self, OWNERS};

/// What an agent knows, to answer by.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What was brought to the kernel last, as far as it took it.
    pub view: View,
    /// What the kernel holds, as read back from it.
    pub confirmed: Confirmed,
}

/// Body of `POST /v1/trace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The frame, in hexadecimal digits.
    pub frame: String,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// `tx`, `pass` or `drop`.
    pub verdict: String,
    /// The reason, as counters name it.
    pub reason: String,
    /// What that means.
    pub why: String,
    /// Bytes from the IP header on, where that is well formed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// The flow as its client opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow: Option<Ends>,
    /// Where the flow goes, as far as it is of a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way: Option<Told>,
    /// What else is to be known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// The VIP.
    pub destination: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// Where a flow goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The service's pool.
    pub pool: String,
    /// What keeps the service's flows together.
    pub affinity: Affinity,
    /// The service that it is of, which may have a wider address or port.
    pub service: ServiceKey,
    /// What of the flow chose its row.
    #[serde(default)]
    pub hash: HashBy,
    /// Written to outer headers.
    pub generation: u16,
    /// Digest of the pool's table.
    pub digest: String,
    /// Whether the kernel holds this table; unknown without an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_kernel: Option<bool>,
    /// Rows of the table.
    pub rows: u32,
    /// The flow's row.
    pub row: u32,
    /// Its owners, in order.
    pub owners: Vec<Owner>,
    /// The host that gets the packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// How the packet leaves; unknown without an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<NextHop>,
    /// The hosts that get their chance at a packet that no socket of `host` knows, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub second_chances: Vec<String>,
}

/// An owner of the row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its name.
    pub host: String,
    /// Where its tunnel ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// What makes it an owner: generations.
    pub by: Vec<String>,
    /// Why it is passed over, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<String>,
}

/// How a packet leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// Interface.
    pub interface: String,
    /// VLAN tags with which the frame leaves there, the outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Ethernet destination.
    pub mac: String,
    /// Outer source.
    pub source: IpAddr,
    /// Outer destination.
    pub destination: IpAddr,
    /// Largest packet on the way, with its outer header.
    pub mtu: usize,
    /// Largest packet that fits, without it.
    pub fits: usize,
}

/// Where what is not in a view comes from.
pub enum Source<'a> {
    /// An agent, with what its kernel holds.
    Agent(&'a Confirmed),
    /// A configuration; health and ways are assumed.
    Assumed,
}

/// Traces a frame. Makes the tables that it needs.
pub fn trace(mut view: View, source: &Source<'_>, frame: &[u8]) -> Trace {
    let plain = tags::split(frame).map(|(_, plain)| plain);
    let parsed = plain.and_then(|plain| parse::frame(&plain, |address| view.is_vip(address)));
    let packet = match parsed {
        Ok(parse::Found::Packet(packet)) => Some(packet),
        _ => None,
    };
    let pool = packet.and_then(|packet| view.pool_of(&packet).map(str::to_owned));
    view.make_tables(|name| pool.as_deref() == Some(name));
    let judged = judge(&view, &mut Memory::new(), frame);
    let mut trace = Trace {
        verdict: judged.verdict().name().into(),
        reason: judged.reason.name().into(),
        why: judged.reason.help().into(),
        bytes: packet.map(|packet| packet.len),
        flow: packet.map(|packet| ends(&packet.flow)),
        way: None,
        notes: Vec::new(),
    };
    if packet.is_some_and(|packet| packet.quoted) {
        trace.notes.push("an ICMP error: the flow is the one that it quotes".into());
    }
    if packet.is_some_and(|packet| !packet.has_ports) {
        trace.notes.push("a fragment, which has no ports: addresses and protocol say whose it is".into());
    }
    if let Some(way) = &judged.way {
        trace.way = Some(told(&view, way, source, &mut trace.notes));
    }
    trace
}

fn ends(flow: &Flow) -> Ends {
    Ends { source: flow.source, destination: flow.destination, protocol: flow.protocol }
}

fn told(view: &View, way: &Way, source: &Source<'_>, notes: &mut Vec<String>) -> Told {
    let pool = &view.model.pools[&way.pool];
    let digest = view.digest(&way.pool).unwrap_or_default();
    let in_kernel = match source {
        Source::Assumed => {
            notes.push("no agent was asked: hosts are taken as healthy and reachable".into());
            None
        }
        Source::Agent(confirmed) => Some(match confirmed.get(&way.service) {
            Some(Ok(has)) if (has.generation, has.digest) == (way.generation, digest) => true,
            Some(Ok(has)) => {
                let (number, digest) = (has.generation, has.digest);
                notes.push(format!("the kernel still goes by generation {number}, table {digest:016x}"));
                false
            }
            Some(Err(reason)) => {
                notes.push(format!("the kernel does not serve it: {reason}"));
                false
            }
            None => {
                notes.push("the kernel does not serve it yet".into());
                false
            }
        }),
    };
    if way.affinity == Affinity::FlowTable {
        notes.push(
            "a flow that this director has seen goes where it went before, whatever its row says".into(),
        );
    }
    if let Some(Ruling { allowed, by }) = way.ruling {
        let source = way.flow.source.ip();
        let verb = if allowed { "allowed" } else { "denied" };
        notes.push(match by {
            Some(prefix) => {
                format!("{source} is {verb} as part of {prefix}, the longest prefix that holds it")
            }
            None => format!("{source} is {verb}, as are all sources that no prefix of the service holds"),
        });
    }
    if let Some(limit) = way.limit {
        let Limit { of, count, per, burst, .. } = limit;
        let source = limit.source(way.flow.source.ip());
        let what = match of {
            Counted::Connections => "connections",
            Counted::Packets => "packets",
        };
        notes.push(format!(
            "{source} may have {count} {what} per {per:?}, {burst} at once; what it has used is not looked at"
        ));
    }
    if let (Some(id), Some(quic)) = (way.server_id, &view.model.services[&way.service].extras.quic) {
        let name = quic.server_ids(&way.pool, &pool.hosts).remove(&id);
        let whose = name.map_or("no host".into(), |name| format!("host {name}"));
        notes.push(format!("the connection id has server id {}, of {whose}", quic.shown(id)));
    } else if way.affinity == Affinity::Quic {
        notes.push(
            "a packet whose connection id has a server id goes to that host, whatever its row says".into(),
        );
    }
    let by = reasons_to_own(pool, way.row);
    let owners = way.owners.iter().map(|owner| Owner {
        host: owner.host.clone(),
        address: owner.address,
        by: by.get(&owner.host).cloned().unwrap_or_default(),
        passed_over: owner.obstacle.as_ref().map(ToString::to_string),
    });
    Told {
        pool: way.pool.clone(),
        affinity: way.affinity,
        service: way.service,
        hash: way.by,
        generation: way.generation,
        digest: format!("{digest:016x}"),
        in_kernel,
        rows: way.rows,
        row: way.row,
        owners: owners.collect(),
        host: way.host.as_ref().map(|id| id.host.clone()),
        next_hop: way.hop.as_ref().filter(|_| in_kernel.is_some()).map(next_hop),
        second_chances: second_chances(view, way),
    }
}

/// What makes each host an owner of a row, in order of precedence.
fn reasons_to_own(pool: &Pool, row: u32) -> BTreeMap<String, Vec<String>> {
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for generation in pool.generations() {
        // By all names of the generation: a host that is gone still keeps its rows from others.
        let slots = generation.hosts.keys().cloned().zip(0..).collect();
        let number = generation.number;
        let Ok(table) = table::rows(std::slice::from_ref(&generation), pool.seed, pool.size, &slots) else {
            continue;
        };
        let row = table.rows[row as usize];
        for (place, backup) in [(row[0], ""), (row[1], "backup of ")] {
            if let Some(host) = generation.hosts.keys().nth(usize::from(place)) {
                reasons.entry(host.clone()).or_default().push(format!("{backup}generation {number}"));
            }
        }
    }
    reasons
}

fn next_hop(hop: &Hop) -> NextHop {
    let ifindex = hop.below.as_ref().map_or(hop.ifindex, |below| below.ifindex);
    let name = nix::net::if_::if_indextoname(ifindex).ok().and_then(|name| name.into_string().ok());
    let tags = hop.below.iter().flat_map(|below| &below.tags);
    NextHop {
        interface: name.unwrap_or_else(|| format!("interface {ifindex}")),
        tags: tags.map(ToString::to_string).collect(),
        mac: hop.next_mac.map(|byte| format!("{byte:02x}")).join(":"),
        source: hop.source,
        destination: hop.destination,
        mtu: hop.mtu,
        fits: hop.room(),
    }
}

/// The walk of a packet that nobody knows, from the host that gets it first, if all hosts live.
fn second_chances(view: &View, way: &Way) -> Vec<String> {
    let Some(first) = way.host.as_ref().filter(|_| way.affinity == Affinity::SecondChance) else {
        return Vec::new();
    };
    let hosts = &view.model.pools[&way.pool].hosts;
    let id = |name: &str| {
        let id = HostId { pool: way.pool.clone(), host: name.to_owned() };
        hosts.get(name).map_or(0, |host| stable_id(&id, host))
    };
    let mut owners = [NOBODY; OWNERS];
    for (owner, place) in way.owners.iter().zip(&mut owners) {
        *place = chance::Owner { id: id(&owner.host), turn: Turn::InOrder };
    }
    let mut visited = vec![first.host.clone()];
    let (mut at, mut hop) = (id(&first.host), 0);
    while let Next::PassOn { place, hop: next } = chance::next(&owners, at, hop, true) {
        (at, hop) = (owners[place].id, next);
        visited.extend(way.owners.get(place).map(|owner| owner.host.clone()));
    }
    visited.iter().skip(1).filter(|host| **host != first.host).cloned().collect()
}

#[cfg(test)]
mod tests;
