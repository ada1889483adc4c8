//! Between netlink messages and [`state`](super::state).

use std::net::IpAddr;

use rtnetlink::packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::state::{Event, Link, Neighbour, Place, Route};
use super::vlan::{Device, Tag};

/// What a message says that matters here.
pub fn event(message: &RouteNetlinkMessage) -> Option<Event> {
    use RouteNetlinkMessage as M;
    match message {
        M::NewLink(message) => link(message).map(|(ifindex, link)| Event::Link(ifindex, link)),
        // A bridge reports a port that leaves as a link of its family that goes.
        M::DelLink(message) if of_interface(message) => Some(Event::LinkGone(message.header.index)),
        M::NewNeighbour(message) => {
            neighbour(message).map(|(place, neighbour)| Event::Neighbour(place, neighbour))
        }
        M::DelNeighbour(message) => neighbour(message).map(|(place, _)| Event::NeighbourGone(place)),
        M::NewRoute(_)
        | M::DelRoute(_)
        | M::NewAddress(_)
        | M::DelAddress(_)
        | M::NewRule(_)
        | M::DelRule(_) => Some(Event::Routing),
        _ => None,
    }
}

/// The interface that a message describes.
pub fn link(message: &LinkMessage) -> Option<(u32, Link)> {
    if !of_interface(message) {
        return None;
    }
    let mut link = Link {
        name: format!("interface {}", message.header.index),
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        mac: None,
        mtu: 0,
        vlan: vlan(message),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) if message.header.link_layer_type == LinkLayerType::Ether => {
                link.mac = mac.as_slice().try_into().ok();
            }
            _ => {}
        }
    }
    Some((message.header.index, link))
}

/// What makes an interface a VLAN device. One whose lower half is in another network namespace is none here.
fn vlan(message: &LinkMessage) -> Option<Device> {
    let (mut below, mut tag) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Link(ifindex) => below = Some(*ifindex),
            LinkAttribute::LinkNetNsId(_) => return None,
            LinkAttribute::LinkInfo(about) => {
                let data = about.iter().find_map(|info| match info {
                    LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
                    _ => None,
                });
                tag = data.and_then(|data| tag_of(data));
            }
            _ => {}
        }
    }
    Some(Device { below: below?, tag: tag? })
}

fn tag_of(data: &[InfoVlan]) -> Option<Tag> {
    let id = data.iter().find_map(|info| if let InfoVlan::Id(id) = info { Some(*id) } else { None })?;
    let protocol = data.iter().find_map(|info| match info {
        InfoVlan::Protocol(protocol) => Some(u16::from(*protocol)),
        _ => None,
    });
    Some(Tag { protocol: protocol?, id })
}

/// The neighbour that a message describes, if it is one of IP and not a proxy entry.
pub fn neighbour(message: &NeighbourMessage) -> Option<(Place, Neighbour)> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut address: Option<IpAddr> = None;
    let mut neighbour = Neighbour { state: message.header.state, mac: None, managed: false };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some((*v6).into()),
            NeighbourAttribute::LinkLayerAddress(mac) => neighbour.mac = mac.as_slice().try_into().ok(),
            NeighbourAttribute::ExtFlags(flags) => {
                neighbour.managed = flags.contains(NeighbourExtFlags::Managed);
            }
            _ => {}
        }
    }
    Some(((message.header.ifindex, address?), neighbour))
}

/// The question how `address` is reached.
pub fn route_request(address: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    (message.header.address_family, message.header.destination_prefix_length) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.attributes.push(RouteAttribute::Destination(address.into()));
    message
}

/// The kernel's answer, or why it leads nowhere.
pub fn route(message: &RouteMessage) -> Result<Route, String> {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err("it is an address of this node".into()),
        RouteType::BlackHole => return Err("the route is a black hole".into()),
        RouteType::Unreachable => return Err("the route is of type unreachable".into()),
        kind => return Err(format!("the route is of type {kind:?}")),
    }
    let mut ifindex = None;
    let mut route = Route { ifindex: 0, gateway: None, source: None, mtu: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(gateway) => route.gateway = ip(gateway),
            RouteAttribute::Via(RouteVia::Inet(via)) => route.gateway = Some((*via).into()),
            RouteAttribute::Via(RouteVia::Inet6(via)) => route.gateway = Some((*via).into()),
            RouteAttribute::PrefSource(source) => route.source = ip(source),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    route.ifindex = ifindex.ok_or("the route names no interface")?;
    Ok(route)
}

/// Messages of other families tell what a bridge or IPv6 thinks of an interface.
fn of_interface(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}
