//! From what netlink and the health checks say to the next hop entries of the programs. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::maps::{DRAINED, HEALTHY, Nexthop, RESOLVED, TAGGED};
use lb_common::outer::{self, TAG};

use crate::bgp::Prefix;
use crate::model::{Family, Host};
use crate::netlink::vlan::{Below, Tag};
use crate::netlink::{NextHop, NextHops};

/// Outer source addresses, where the configuration fixes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// For IPv4 tunnels.
    pub v4: Option<Ipv4Addr>,
    /// For IPv6 tunnels.
    pub v6: Option<Ipv6Addr>,
    /// For IPv4 tunnels: chosen from it, per flow, instead.
    pub spread4: Option<Prefix>,
    /// For IPv6 tunnels: chosen from it, per flow, instead.
    pub spread6: Option<Prefix>,
}

impl Sources {
    /// The prefix that outer sources towards an address are chosen from, if they are.
    pub fn spread(&self, destination: IpAddr) -> Option<Prefix> {
        if destination.is_ipv4() { self.spread4 } else { self.spread6 }
    }
}

/// The bits of an address, in its last two bytes, that are not the prefix's.
pub fn spread_mask(prefix: Prefix) -> [u8; 2] {
    let free = Prefix::host(prefix.address).length.saturating_sub(prefix.length).min(16);
    (u16::MAX.checked_shr(16 - u32::from(free)).unwrap_or(0)).to_be_bytes()
}

/// What is thought of a host besides the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It gets packets.
    Good,
    /// It is healthy, but a director sends it none.
    Drained,
    /// A director sends it none but probes; to its fellow hosts it comes last.
    Doubtful,
    /// It gets nothing.
    Dead,
}

/// The entry of a host for packets of one inner family, and why it cannot be reached, if so.
pub fn entry(
    host: &Host,
    inner: Family,
    standing: Standing,
    sources: Sources,
    nexthops: &NextHops,
) -> (Nexthop, Option<String>) {
    let health = match standing {
        Standing::Good => HEALTHY,
        Standing::Drained => HEALTHY | DRAINED,
        Standing::Doubtful => 0,
        Standing::Dead => return (Nexthop::UNKNOWN, Some("is dead".into())),
    };
    match resolved(host, inner, sources, nexthops) {
        Ok(nexthop) => (Nexthop { state: nexthop.state | health, ..nexthop }, None),
        Err(reason) => (Nexthop { state: health, ..Nexthop::UNKNOWN }, Some(reason)),
    }
}

fn resolved(host: &Host, inner: Family, sources: Sources, nexthops: &NextHops) -> Result<Nexthop, String> {
    let destination = host.outer(inner).ok_or("has no address")?;
    let hop = match nexthops.get(&destination) {
        Some(Ok(hop)) => hop,
        Some(Err(reason)) => return Err(reason.to_string()),
        None => return Err(format!("the route to {destination} is not known yet")),
    };
    let spread = sources.spread(destination);
    let source = match spread {
        Some(prefix) => prefix.address,
        None => source(destination, sources, hop)?,
    };
    let (header, outer_len) =
        outer::template(hop.source_mac, hop.mac, source, destination, inner == Family::V6)
            .ok_or_else(|| format!("outer source {source} and {destination} are of different families"))?;
    let spread = spread.map_or(0, |prefix| u16::from_ne_bytes(spread_mask(prefix)));
    let mtu = u16::try_from(hop.mtu).unwrap_or(u16::MAX);
    let entry =
        Nexthop { ifindex: hop.ifindex, mtu, state: RESOLVED, outer_len, header, spread, ..Nexthop::UNKNOWN };
    Ok(hop.below.as_ref().map_or(entry, |below| tagged(entry, below)))
}

/// A way that leaves by a VLAN device.
fn tagged(entry: Nexthop, below: &Below) -> Nexthop {
    let mut tags = [0; 2];
    for (word, Tag { protocol, id }) in tags.iter_mut().zip(&below.tags) {
        *word = (u32::from(*protocol) << 16 | u32::from(*id)).to_be();
    }
    let tags_len = (below.tags.len() * TAG) as u16;
    Nexthop { state: entry.state | TAGGED, below: below.ifindex, tags, tags_len, ..entry }
}

fn source(destination: IpAddr, sources: Sources, hop: &NextHop) -> Result<IpAddr, String> {
    let fixed = match destination {
        IpAddr::V4(_) => sources.v4.map(IpAddr::V4),
        IpAddr::V6(_) => sources.v6.map(IpAddr::V6),
    };
    fixed
        .or(hop.source)
        .ok_or_else(|| format!("no source address towards {destination}; set director.source4 or source6"))
}
