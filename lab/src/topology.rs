//! Nodes, links and addresses: a pure function of the lab's sizes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use crate::address::{Prefix, decimal_digits_as_hex, twin};
use crate::spec::{DirectorKind, LabSpec};

/// Where users and the dns node live.
pub const USERS_NET: Prefix4 = ([192, 0, 2, 0], 29);
/// Where the users' own addresses come from.
pub const USER_ADDRESSES_NET: Prefix4 = ([203, 0, 113, 0], 24);
/// The first of them.
pub const USER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Where internet meets the routers.
pub const EDGE_NET: Prefix4 = ([192, 0, 2, 0], 27);
/// Where routers, reflectors, directors and L7 hosts live.
pub const INFRA_NET: Prefix4 = ([192, 0, 2, 128], 25);
/// Where the VIPs come from; each is announced as a host route.
pub const VIP_NET: Prefix4 = ([198, 51, 100, 0], 24);
/// How many VIPs there are per family.
pub const VIPS: u8 = 4;

/// Octets and length of an IPv4 network.
pub type Prefix4 = ([u8; 4], u8);

/// The [`Prefix`] of a network constant.
pub fn net(net: Prefix4) -> Prefix {
    Prefix::new(Ipv4Addr::from(net.0), net.1)
}

/// The VIPs of both families: all IPv4, then all IPv6.
pub fn vips() -> Vec<IpAddr> {
    let v4 = || (1..=VIPS).map(|i| Ipv4Addr::new(198, 51, 100, i));
    v4().map(IpAddr::V4).chain(v4().map(|vip| IpAddr::V6(twin(vip)))).collect()
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Where requests come from.
    Users,
    /// The router between users and the site's routers.
    Internet,
    /// The authoritative name server.
    Dns,
    /// R1…: ECMP towards the directors.
    Router,
    /// RR1…: BGP route reflectors.
    Reflector,
    /// LB4-1…: the XDP director.
    Director,
    /// LB7-1…: HAProxy behind the decapsulating program.
    L7Host,
    /// S1…: the application.
    Server,
}

impl Kind {
    /// The word that status prints.
    pub fn word(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Internet => "internet",
            Self::Dns => "dns",
            Self::Router => "router",
            Self::Reflector => "reflector",
            Self::Director => "director",
            Self::L7Host => "l7-host",
            Self::Server => "server",
        }
    }
}

/// A broadcast domain: one bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Segment {
    /// users, internet, dns.
    Users,
    /// internet and the routers.
    Edge,
    /// Routers, reflectors, directors, L7 hosts.
    Infra,
    /// L7 hosts and servers.
    Servers,
}

impl Segment {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Users, Self::Edge, Self::Infra, Self::Servers];

    /// The name of its bridge.
    pub fn bridge(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Edge => "edge",
            Self::Infra => "infra",
            Self::Servers => "servers",
        }
    }

    /// Infrastructure carries a user's packet of 1500 bytes and an outer header of 40; users never see more
    /// than 1500, because TCP takes the smaller of both maximum segment sizes and routers do path MTU discovery.
    pub fn mtu(self) -> u32 {
        match self {
            Self::Infra => 1600,
            Self::Users | Self::Edge | Self::Servers => 1500,
        }
    }
}

/// One end of a link, inside a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `eth0`, `eth1`.
    pub name: &'static str,
    /// Which bridge it is plugged into.
    pub segment: Segment,
    /// Its addresses.
    pub addresses: Vec<Prefix>,
    /// Derived from segment and address, so that captures read easily.
    pub mac: [u8; 6],
}

/// A machine of the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// As users type it: `lb4-1`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// From 1 within its kind.
    pub index: u32,
    /// Its links.
    pub interfaces: Vec<Interface>,
    /// Further addresses, on `lo`.
    pub loopback: Vec<Prefix>,
}

impl Node {
    /// The IPv4 address of its first interface, if it has one.
    pub fn address4(&self) -> Option<Ipv4Addr> {
        self.interfaces[0].addresses.iter().find_map(|prefix| match prefix.address {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        })
    }

    /// The IPv6 address of its first interface.
    pub fn address6(&self) -> Ipv6Addr {
        self.interfaces[0]
            .addresses
            .iter()
            .find_map(|prefix| match prefix.address {
                IpAddr::V6(v6) => Some(v6),
                IpAddr::V4(_) => None,
            })
            .expect("every node has an IPv6 address")
    }

    /// Whether the node's program transmits on this interface (`XDP_TX`).
    pub fn sends_by_xdp(&self, interface: &Interface) -> bool {
        matches!(self.kind, Kind::Director | Kind::L7Host) && interface.segment == Segment::Infra
    }

    /// The router id of a node that speaks BGP.
    pub fn router_id(&self) -> Ipv4Addr {
        self.address4().expect("every BGP speaker has an IPv4 address")
    }
}

/// All nodes of a lab, in the order in which people name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// What it was made from.
    pub spec: LabSpec,
    /// Every node.
    pub nodes: Vec<Node>,
}

impl Topology {
    /// The topology of `spec`.
    pub fn new(spec: &LabSpec) -> Self {
        let mut nodes = vec![users(spec), internet(), dns()];
        nodes.extend((1..=spec.routers).map(router));
        nodes.extend((1..=spec.reflectors).map(reflector));
        nodes.extend((1..=spec.lb4).map(|index| director(spec, index)));
        nodes.extend((1..=spec.lb7 + spec.spare_lb7).map(|index| l7_host(spec, index)));
        nodes.extend((1..=spec.servers).map(server));
        Self { spec: spec.clone(), nodes }
    }

    /// The node that a user calls `name`, in any case.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name.eq_ignore_ascii_case(name))
    }

    /// The nodes of one kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.kind == kind)
    }

    /// The L7 hosts that are in the pool from the start.
    pub fn pool(&self) -> impl Iterator<Item = &Node> {
        self.of(Kind::L7Host).filter(|node| node.index <= self.spec.lb7)
    }

    /// Names of all nodes, for messages.
    pub fn names(&self) -> String {
        self.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(" ")
    }
}

fn interface(name: &'static str, segment: Segment, last_octet: u32, network: Prefix4) -> Interface {
    let [a, b, c, _] = network.0;
    let d = u8::try_from(last_octet).expect("sizes are checked against the addressing");
    let address = Prefix::new(Ipv4Addr::new(a, b, c, d), network.1);
    Interface { name, segment, addresses: address.both().into(), mac: [0x02, segment as u8, a, b, c, d] }
}

fn server_interface(name: &'static str, side: u16, index: u32) -> Interface {
    let host = decimal_digits_as_hex(index);
    let address = Prefix::new(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, side, 0, 0, host), 64);
    let [high, low] = host.to_be_bytes();
    let mac = [0x02, Segment::Servers as u8, 0, u8::try_from(side).expect("1 or 2"), high, low];
    Interface { name, segment: Segment::Servers, addresses: vec![address], mac }
}

fn users(spec: &LabSpec) -> Node {
    let [a, b, c, _] = USER_ADDRESSES_NET.0;
    let own = (1..=spec.user_addresses).flat_map(|i| {
        let last = u8::try_from(i).expect("at most 254 user addresses");
        Prefix::new(Ipv4Addr::new(a, b, c, last), 32).both()
    });
    Node {
        name: "users".to_owned(),
        kind: Kind::Users,
        index: 1,
        interfaces: vec![interface("eth0", Segment::Users, 2, USERS_NET)],
        loopback: own.collect(),
    }
}

fn internet() -> Node {
    Node {
        name: "internet".to_owned(),
        kind: Kind::Internet,
        index: 1,
        interfaces: vec![
            interface("eth0", Segment::Users, 1, USERS_NET),
            interface("eth1", Segment::Edge, 9, EDGE_NET),
        ],
        loopback: vec![],
    }
}

fn dns() -> Node {
    Node {
        name: "dns".to_owned(),
        kind: Kind::Dns,
        index: 1,
        interfaces: vec![interface("eth0", Segment::Users, 3, USERS_NET)],
        loopback: vec![],
    }
}

/// The infrastructure is `eth0`, as on every other node there.
fn router(index: u32) -> Node {
    Node {
        name: format!("r{index}"),
        kind: Kind::Router,
        index,
        interfaces: vec![
            interface("eth0", Segment::Infra, 129 + index, INFRA_NET),
            interface("eth1", Segment::Edge, 9 + index, EDGE_NET),
        ],
        loopback: vec![],
    }
}

fn reflector(index: u32) -> Node {
    Node {
        name: format!("rr{index}"),
        kind: Kind::Reflector,
        index,
        interfaces: vec![interface("eth0", Segment::Infra, 255 - index, INFRA_NET)],
        loopback: vec![],
    }
}

fn director(spec: &LabSpec, index: u32) -> Node {
    Node {
        name: format!("lb4-{index}"),
        kind: Kind::Director,
        index,
        interfaces: vec![interface("eth0", Segment::Infra, 129 + spec.routers + index, INFRA_NET)],
        // IPVS takes what the kernel takes for its own.
        loopback: if spec.director == DirectorKind::Ipvs { vip_prefixes() } else { vec![] },
    }
}

fn l7_host(spec: &LabSpec, index: u32) -> Node {
    let last_octet = 129 + spec.routers + spec.lb4 + index;
    Node {
        name: format!("lb7-{index}"),
        kind: Kind::L7Host,
        index,
        interfaces: vec![
            interface("eth0", Segment::Infra, last_octet, INFRA_NET),
            server_interface("eth1", 1, index),
        ],
        loopback: vip_prefixes(),
    }
}

fn vip_prefixes() -> Vec<Prefix> {
    vips().into_iter().map(|vip| Prefix::new(vip, if vip.is_ipv4() { 32 } else { 128 })).collect()
}

fn server(index: u32) -> Node {
    Node {
        name: format!("s{index}"),
        kind: Kind::Server,
        index,
        interfaces: vec![server_interface("eth0", 2, index)],
        loopback: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;
    use std::collections::BTreeSet;

    fn reference() -> Topology {
        Topology::new(&spec::load("reference.yaml", spec::REFERENCE, &[]).unwrap())
    }

    fn addresses(topology: &Topology, node: &str, interface: usize) -> Vec<String> {
        let node = topology.node(node).unwrap();
        node.interfaces[interface].addresses.iter().map(Prefix::to_string).collect()
    }

    #[test]
    fn reference_lab_has_37_nodes_on_four_segments() {
        let topology = reference();
        assert_eq!(topology.nodes.len(), 37);
    }

    #[test]
    fn reference_lab_has_the_addresses_of_the_reference() {
        let t = reference();
        for (node, interface, want) in [
            ("users", 0, ["192.0.2.2/29", "2001:db8::c000:202/125"]),
            ("internet", 0, ["192.0.2.1/29", "2001:db8::c000:201/125"]),
            ("internet", 1, ["192.0.2.9/27", "2001:db8::c000:209/123"]),
            ("dns", 0, ["192.0.2.3/29", "2001:db8::c000:203/125"]),
            ("r1", 0, ["192.0.2.130/25", "2001:db8::c000:282/121"]),
            ("r1", 1, ["192.0.2.10/27", "2001:db8::c000:20a/123"]),
            ("r2", 0, ["192.0.2.131/25", "2001:db8::c000:283/121"]),
            ("rr1", 0, ["192.0.2.254/25", "2001:db8::c000:2fe/121"]),
            ("rr2", 0, ["192.0.2.253/25", "2001:db8::c000:2fd/121"]),
            ("lb4-1", 0, ["192.0.2.132/25", "2001:db8::c000:284/121"]),
            ("lb4-7", 0, ["192.0.2.138/25", "2001:db8::c000:28a/121"]),
            ("lb7-1", 0, ["192.0.2.139/25", "2001:db8::c000:28b/121"]),
            ("lb7-13", 0, ["192.0.2.151/25", "2001:db8::c000:297/121"]),
        ] {
            assert_eq!(addresses(&t, node, interface), want, "{node}");
        }
        assert_eq!(addresses(&t, "lb7-13", 1), ["2001:db8:1:0:1::13/64"]);
        assert_eq!(addresses(&t, "s10", 0), ["2001:db8:1:0:2::10/64"]);
    }

    #[test]
    fn users_own_200_addresses_and_their_twins() {
        let t = reference();
        let own = &t.node("users").unwrap().loopback;
        assert_eq!(own.len(), 400);
        assert_eq!(own[0].to_string(), "203.0.113.1/32");
        assert_eq!(own[399].to_string(), "2001:db8::cb00:71c8/128");
    }

    #[test]
    fn l7_hosts_own_all_eight_vips() {
        let t = reference();
        let own: Vec<_> = t.node("lb7-1").unwrap().loopback.iter().map(Prefix::to_string).collect();
        assert_eq!(own[0], "198.51.100.1/32");
        assert_eq!(own[7], "2001:db8::c633:6404/128");
        assert_eq!(own.len(), 8);
    }

    #[test]
    fn no_two_interfaces_share_an_address_or_a_mac() {
        let t = Topology::new(&spec::load("x", "routers: 20\nlb4: 48\nlb7: 49\nreflectors: 8", &[]).unwrap());
        let all: Vec<_> = t.nodes.iter().flat_map(|node| &node.interfaces).collect();
        let macs: BTreeSet<_> = all.iter().map(|interface| interface.mac).collect();
        let addresses: BTreeSet<_> =
            all.iter().flat_map(|interface| &interface.addresses).map(|prefix| prefix.address).collect();
        assert_eq!(macs.len(), all.len());
        assert_eq!(addresses.len(), all.iter().map(|interface| interface.addresses.len()).sum::<usize>());
    }

    #[test]
    fn nodes_are_found_in_any_case() {
        assert_eq!(reference().node("LB4-1").unwrap().name, "lb4-1");
        assert!(reference().node("lb4-8").is_none());
    }
}
