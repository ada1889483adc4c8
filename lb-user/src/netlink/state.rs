//! The pure core: links, routes and neighbours as the kernel last told them, and the next hops that follow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rtnetlink::packet_route::neighbour::NeighbourState;

use super::vlan::{self, Below, Device};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A neighbour's place: output interface and address.
pub type Place = (u32, IpAddr);

/// How packets to an address leave this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Output interface.
    pub ifindex: u32,
    /// Our address on that link, the source of frames.
    pub source_mac: Mac,
    /// The gateway's or the host's own address on that link, the destination of frames.
    pub mac: Mac,
    /// Largest IP packet: the route's MTU if it has one, at most the link's.
    pub mtu: u32,
    /// The source address that the kernel prefers.
    pub source: Option<IpAddr>,
    /// What is below the output interface, if that is a VLAN device.
    pub below: Option<Below>,
}

/// Why packets to an address cannot leave.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Wanted a moment ago only.
    #[error("the route to {0} is not known yet")]
    Unasked(IpAddr),
    /// The kernel has no route, or one that refuses.
    #[error("no route to {0}: {1}")]
    NoRoute(IpAddr, String),
    /// The route's interface is gone.
    #[error("the route to {0} leaves by interface {1}, which does not exist")]
    NoLink(IpAddr, u32),
    /// The route's interface is down.
    #[error("{0} is down")]
    LinkDown(String),
    /// The route's interface has no peer.
    #[error("{0} has no carrier")]
    NoCarrier(String),
    /// The route's interface has no Ethernet header.
    #[error("{0} is not an Ethernet interface; route to {1} by one that is")]
    NotEthernet(String, IpAddr),
    /// The route's interface is a VLAN device on others.
    #[error("{0} puts more than two VLAN tags on frames")]
    TooManyTags(String),
    /// The link layer address of the gateway or host is not known.
    #[error("no neighbour entry for {address} on {interface} (state {state})")]
    NoNeighbour {
        /// Gateway or host.
        address: IpAddr,
        /// Name of the output interface.
        interface: String,
        /// The kernel's word.
        state: NeighbourState,
    },
}

/// What is known of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// Has a peer.
    pub carrier: bool,
    /// Its address if it is an Ethernet.
    pub mac: Option<Mac>,
    /// Largest IP packet.
    pub mtu: u32,
    /// It is a VLAN device.
    pub vlan: Option<Device>,
}

/// The kernel's answer for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Output interface.
    pub ifindex: u32,
    /// Who forwards; absent on the same link.
    pub gateway: Option<IpAddr>,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// MTU of the route, if it has one.
    pub mtu: Option<u32>,
}

/// What is known of a neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The kernel's word.
    pub state: NeighbourState,
    /// Its address, once resolved.
    pub mac: Option<Mac>,
    /// The kernel itself keeps it resolved (`NTF_EXT_MANAGED`).
    pub managed: bool,
}

impl Neighbour {
    /// The address if it can be used. A stale entry can: the kernel uses it too, while it asks again.
    pub fn usable(&self) -> Option<Mac> {
        use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
        self.mac.filter(|_| matches!(self.state, Reachable | Stale | Delay | Probe | Permanent | Noarp))
    }
}

/// A change the kernel reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An interface is new or differs.
    Link(u32, Link),
    /// An interface is gone.
    LinkGone(u32),
    /// A neighbour is new or differs.
    Neighbour(Place, Neighbour),
    /// A neighbour is gone.
    NeighbourGone(Place),
    /// An address, route or rule differs.
    Routing,
}

/// All that is known.
#[derive(Clone, Debug, Default)]
pub struct State {
    links: BTreeMap<u32, Link>,
    routes: BTreeMap<IpAddr, Result<Route, String>>,
    neighbours: BTreeMap<Place, Neighbour>,
}

impl State {
    /// Takes a change in; whether routes have to be asked for again.
    pub fn apply(&mut self, event: Event) -> bool {
        match event {
            Event::Link(ifindex, link) => {
                let before = self.links.insert(ifindex, link.clone());
                return before.as_ref() != Some(&link);
            }
            Event::LinkGone(ifindex) => {
                self.links.remove(&ifindex);
                self.neighbours.retain(|place, _| place.0 != ifindex);
                return true;
            }
            Event::Neighbour(place, mut neighbour) => {
                // Asking again for one that failed changes nothing yet for anybody who reads the reason.
                let failed = |known: &Neighbour| known.state == NeighbourState::Failed;
                if neighbour.state == NeighbourState::Incomplete
                    && self.neighbours.get(&place).is_some_and(failed)
                {
                    neighbour.state = NeighbourState::Failed;
                }
                self.neighbours.insert(place, neighbour);
            }
            Event::NeighbourGone(place) => {
                self.neighbours.remove(&place);
            }
            Event::Routing => return true,
        }
        false
    }

    /// Takes the kernel's answers for all addresses in, instead of the former ones.
    pub fn set_routes(&mut self, routes: BTreeMap<IpAddr, Result<Route, String>>) {
        self.routes = routes;
    }

    /// How `address` is reached.
    pub fn next_hop(&self, address: IpAddr) -> Result<NextHop, Reason> {
        let (route, link, source_mac) = self.way(address)?;
        let hop = route.gateway.unwrap_or(address);
        let neighbour = self.neighbours.get(&(route.ifindex, hop));
        let mac = neighbour.and_then(Neighbour::usable).ok_or_else(|| Reason::NoNeighbour {
            address: hop,
            interface: link.name.clone(),
            state: neighbour.map_or(NeighbourState::None, |neighbour| neighbour.state),
        })?;
        let (below, most) = vlan::below(&self.links, route.ifindex)?.unzip();
        let mtu = [route.mtu, most].into_iter().flatten().fold(link.mtu, u32::min);
        Ok(NextHop { ifindex: route.ifindex, source_mac, mac, mtu, source: route.source, below })
    }

    /// The neighbours that the addresses asked for need, resolved or not.
    pub fn needed(&self) -> BTreeSet<Place> {
        let place = |address: &IpAddr| {
            let (route, ..) = self.way(*address).ok()?;
            Some((route.ifindex, route.gateway.unwrap_or(*address)))
        };
        self.routes.keys().filter_map(place).collect()
    }

    /// Those of [`needed`](Self::needed) that the kernel must be told to resolve: at once those it does not know;
    /// `again`, from time to time, those that failed or that it does not keep fresh by itself.
    pub fn unresolved(&self, again: bool) -> Vec<Place> {
        let unresolved = |place: &Place| match self.neighbours.get(place) {
            None => true,
            Some(neighbour) => {
                again
                    && match neighbour.state {
                        NeighbourState::Failed | NeighbourState::None => true,
                        NeighbourState::Stale => !neighbour.managed,
                        _ => false,
                    }
            }
        };
        self.needed().into_iter().filter(unresolved).collect()
    }

    /// Whether the kernel keeps this neighbour resolved.
    pub fn is_managed(&self, place: &Place) -> bool {
        self.neighbours.get(place).is_some_and(|neighbour| neighbour.managed)
    }

    fn way(&self, address: IpAddr) -> Result<(&Route, &Link, Mac), Reason> {
        let route = self.routes.get(&address).ok_or(Reason::Unasked(address))?;
        let route = route.as_ref().map_err(|error| Reason::NoRoute(address, error.clone()))?;
        let link = self.links.get(&route.ifindex).ok_or(Reason::NoLink(address, route.ifindex))?;
        if !link.up {
            return Err(Reason::LinkDown(link.name.clone()));
        }
        if !link.carrier {
            return Err(Reason::NoCarrier(link.name.clone()));
        }
        let mac = link.mac.ok_or_else(|| Reason::NotEthernet(link.name.clone(), address))?;
        Ok((route, link, mac))
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
