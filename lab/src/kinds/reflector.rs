//! RR1…: GoBGP reflects the site's routes to whoever connects, and to the other reflectors.

use std::net::IpAddr;

use crate::bird::Family;
use crate::gobgp;
use crate::plan::NodePlan;
use crate::topology::{INFRA_NET, Kind, Node, Topology};

pub fn plan(topology: &Topology, node: &Node) -> NodePlan {
    NodePlan {
        files: gobgp::files(config(topology, node)),
        processes: vec![gobgp::process()],
        ..NodePlan::default()
    }
}

fn config(topology: &Topology, node: &Node) -> String {
    let send_max = send_max(topology);
    let mut text = gobgp::head(node);
    for family in Family::ALL {
        text.push_str(&gobgp::clients(node, family, &family.prefix(INFRA_NET).to_string(), send_max));
        for other in topology.of(Kind::Reflector).filter(|other| other.index != node.index) {
            // One side connects, so that two connections never collide.
            let passive = node.index < other.index;
            text.push_str(&gobgp::neighbour(family, family.address(other, 0), passive, Some(send_max)));
        }
    }
    text
}

/// The reference's 16, or more where more directors announce: a reflector has each path from the director
/// and from every other reflector.
fn send_max(topology: &Topology) -> u32 {
    let paths = topology.spec.lb4.max(topology.spec.routers) * topology.spec.reflectors;
    paths.clamp(16, 255)
}

pub fn health(topology: &Topology, node: &Node) -> Vec<String> {
    let speakers = topology.nodes.iter().filter(|other| {
        other.name != node.name
            && matches!(other.kind, Kind::Router | Kind::Reflector | Kind::Director | Kind::L7Host)
    });
    let wanted: Vec<(String, IpAddr)> = speakers
        .flat_map(|other| Family::ALL.map(|family| (other.name.clone(), family.address(other, 0))))
        .collect();
    gobgp::health(&wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    #[test]
    fn reflectors_take_clients_from_the_infrastructure_and_peer_with_each_other() {
        let topology = Topology::new(&spec::load("x", spec::REFERENCE, &[]).unwrap());
        let first = config(&topology, topology.node("rr1").unwrap());
        let second = config(&topology, topology.node("rr2").unwrap());
        assert!(first.contains("prefix = \"192.0.2.128/25\""), "{first}");
        assert!(first.contains("prefix = \"2001:db8::c000:280/121\""), "{first}");
        assert!(first.contains("neighbor-address = \"192.0.2.253\""), "{first}");
        assert!(first.contains("passive-mode = true") && second.contains("passive-mode = false"));
        assert!(first.contains("send-max = 16"), "{first}");
    }

    #[test]
    fn send_max_grows_with_the_paths() {
        let many = Topology::new(&spec::load("x", "lb4: 40", &[]).unwrap());
        assert_eq!(send_max(&many), 80);
    }
}
