//! The director as a plain function: what becomes of a frame, where it goes, and why.
//!
//! It is written from the documents and RFCs, for clarity, and shares with the BPF program nothing but the reasons, the
//! structure of tables and the hash of flows. A differential test holds the two against each other; `lb trace` and
//! `lb replay` explain packets by it. It knows nothing of headroom, which only drivers do,
//! and of no limit to answers.
//!
//! [`tags`] takes VLAN tags off, [`parse`] finds the flow of a frame, [`choose`] its host, [`write`](mod@write) makes what leaves.

pub mod admit;
pub mod assumed;
pub mod choose;
pub mod parse;
mod quic;
pub mod tags;
pub mod write;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lb_common::reasons::{Director, Verdict};

use crate::dataplane::nexthops::Sources;
use crate::dataplane::slots::stable_id;
use crate::model::{HostId, Model, Pool, Protocol, Service, ServiceKey};
use crate::netlink::NextHops;
use crate::table::{self, Row};

pub use choose::{Hop, Obstacle, Owner, Way};
use parse::Packet;

/// What a director goes by at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Services and pools.
    pub model: Arc<Model>,
    /// Outer source addresses, where the configuration fixes them.
    pub sources: Sources,
    /// How addresses are reached; those that are absent cannot be.
    pub nexthops: NextHops,
    /// What health checks say; a host that is absent is sick.
    pub health: BTreeMap<HostId, bool>,
    /// Rows by pool; see [`View::make_tables`].
    tables: BTreeMap<String, Vec<Row>>,
}

impl View {
    /// A view that has no tables yet.
    pub fn new(
        model: Arc<Model>,
        sources: Sources,
        nexthops: NextHops,
        health: BTreeMap<HostId, bool>,
    ) -> Self {
        View { model, sources, nexthops, health, tables: BTreeMap::new() }
    }

    /// Makes the tables of the pools that are wanted; a pool without one serves nothing. Takes some milliseconds per
    /// generation, and up to a second for the largest tables.
    pub fn make_tables(&mut self, wanted: impl Fn(&str) -> bool) {
        let pools = self.model.pools.iter().filter(|(name, _)| wanted(name));
        let tables = pools.filter_map(|(name, pool)| Some((name.clone(), choose::rows(pool).ok()?)));
        self.tables = tables.collect();
    }

    /// The table of a pool. Places in its rows are positions among the pool's hosts in the order of their names.
    pub fn table(&self, pool: &str) -> Option<&[Row]> {
        self.tables.get(pool).map(Vec::as_slice)
    }

    /// The digest of a table, as the kernel's is taken.
    pub fn digest(&self, pool: &str) -> Option<u64> {
        let hosts = &self.model.pools.get(pool)?.hosts;
        let ids: Vec<u64> = hosts
            .iter()
            .map(|(name, host)| stable_id(&HostId { pool: pool.into(), host: name.clone() }, host))
            .collect();
        Some(table::digest(self.table(pool)?, |place| ids.get(usize::from(place)).copied().unwrap_or(0)))
    }

    /// The pool of the service that a packet is of.
    pub fn pool_of(&self, packet: &Packet) -> Option<&str> {
        self.service(packet).map(|(_, name, _)| name)
    }

    /// The address is a VIP, or in one, of whatever service.
    pub fn is_vip(&self, address: IpAddr) -> bool {
        self.model.vips_over(address.into()).next().is_some()
    }

    /// The service that a packet is of, and its pool. A service whose pool is not known is none.
    fn service(&self, packet: &Packet) -> Option<(ServiceKey, &str, &Pool)> {
        let Flow { destination, protocol, .. } = packet.flow;
        let (key, Service { pool, .. }) = match packet.has_ports {
            true => self.model.service(destination, protocol),
            false => self.model.service_of_fragments(destination.ip(), protocol),
        }?;
        Some((key, pool, self.model.pools.get(pool)?))
    }
}

/// A flow as its client opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// The client.
    pub source: SocketAddr,
    /// The VIP.
    pub destination: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// What a director remembers. That the oldest make room for new ones is not modelled.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Hosts of the flows of services with a flow table.
    pub flows: BTreeMap<Flow, HostId>,
    /// What the sources of services with a limit may still send.
    pub credits: admit::Credits,
    /// The time, from whatever moment on.
    pub now: Duration,
}

impl Memory {
    /// Of a director that has seen nothing.
    pub fn new() -> Self {
        Memory::default()
    }
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Why.
    pub reason: Director,
    /// The frame afterwards.
    pub output: Vec<u8>,
    /// The way to its host, as far as it was looked for.
    pub way: Option<Way>,
}

impl Judged {
    /// The interface by which it leaves, where that may be another one than it came by.
    pub fn sent_by(&self) -> Option<u32> {
        let hop = self.way.as_ref()?.hop.as_ref()?;
        self.reason.is_to_host().then_some(hop.below.as_ref().map_or(hop.ifindex, |below| below.ifindex))
    }

    /// Sent, given to the kernel or dropped.
    pub fn verdict(&self) -> Verdict {
        self.reason.verdict()
    }
}

/// What a director does with a frame that came by another interface than the VLAN device of its way, if that leaves by one.
pub fn judge(view: &View, memory: &mut Memory, frame: &[u8]) -> Judged {
    let (tags, plain) = match tags::split(frame) {
        Ok(split) => split,
        Err(reason) => return Judged { reason, output: frame.to_vec(), way: None },
    };
    let judged = judge_plain(view, memory, &plain);
    match judged.reason.is_to_host() {
        true => judged,
        false => Judged { output: tags::join(&tags, &judged.output), ..judged },
    }
}

/// What a director does with a frame without tags.
fn judge_plain(view: &View, memory: &mut Memory, frame: &[u8]) -> Judged {
    let unchanged = |reason, way| Judged { reason, output: frame.to_vec(), way };
    let packet = match parse::frame(frame, |address| view.is_vip(address)) {
        Ok(parse::Found::Echo(at)) => {
            return Judged { reason: Director::Echo, output: write::answer(frame, at), way: None };
        }
        Ok(parse::Found::Packet(packet)) => packet,
        Err(reason) => return unchanged(reason, None),
    };
    let Some(mut way) = choose::way(view, &packet) else {
        let reason = match (packet.quoted, packet.has_ports) {
            (true, _) => Director::IcmpForeign,
            (false, true) => Director::NoService,
            (false, false) => Director::Fragment,
        };
        return unchanged(reason, None);
    };
    if let Err(reason) = admit::check(view, memory, &packet, &mut way) {
        return unchanged(reason, Some(way));
    }
    choose::recall(view, memory, &mut way);
    let by_id = quic::follow(view, &packet, &mut way);
    if !packet.quoted {
        choose::remember(memory, &way);
    }
    let Some(hop) = way.hop.clone() else {
        let table = view.table(&way.pool);
        let reason = if table.is_some() { Director::NoHost } else { Director::NoTable };
        return unchanged(reason, Some(way));
    };
    if packet.len > hop.room() {
        let answer =
            write::too_big(frame, packet.len, hop.room()).filter(|_| !packet.quoted && packet.has_ports);
        return match answer {
            Some(output) => Judged { reason: Director::TooBigTold, output, way: Some(way) },
            None => unchanged(Director::TooBig, Some(way)),
        };
    }
    let reason = match (packet.quoted, packet.has_ports) {
        (true, _) => Director::ForwardedError,
        (false, true) => by_id,
        (false, false) => Director::ForwardedFragment,
    };
    let output = write::tunnelled(&hop, way.hash, way.generation, packet.len, frame);
    Judged { reason, output, way: Some(way) }
}
