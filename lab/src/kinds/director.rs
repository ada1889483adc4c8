//! LB4-1…: `lb agent` as director, with BIRD or GoBGP beside it.

use std::path::Path;

use crate::agent;
use crate::bird::{self, Family};
use crate::gobgp;
use crate::kinds::director_ipvs;
use crate::plan::NodePlan;
use crate::spec::DirectorKind;
use crate::topology::{Kind, Node, Topology};

pub fn plan(topology: &Topology, node: &Node) -> NodePlan {
    if topology.spec.director == DirectorKind::Ipvs {
        return director_ipvs::plan(topology, node);
    }
    let is_bird = topology.spec.bgp.is_bird(node.index);
    let mut files = if is_bird {
        bird::files(bird_config(topology, node))
    } else {
        gobgp::files(gobgp_config(topology, node))
    };
    files.push((agent::CONFIG.to_owned(), agent::director(topology, node)));
    let sidecar = if is_bird { bird::process() } else { gobgp::process() };
    NodePlan {
        files,
        folders: vec![bird::FOLDER.to_owned(), "/etc/lb/bird".to_owned(), agent::FOLDER.to_owned()],
        processes: vec![sidecar, agent::process()],
        ..NodePlan::default()
    }
}

/// VIPs are announced from the protocols that the agent writes, and never reach this node's kernel.
fn bird_config(topology: &Topology, node: &Node) -> String {
    let mut text = bird::head(node);
    text.push_str("include \"/etc/lb/bird/*.conf\";\n");
    text.push_str(&super::sessions_with_reflectors(
        topology,
        node,
        |_| "none".to_owned(),
        |family| format!("where proto = \"lb_vips{}\"", family.digit()),
        "",
    ));
    text
}

fn gobgp_config(topology: &Topology, node: &Node) -> String {
    let mut text = gobgp::head(node);
    for reflector in topology.of(Kind::Reflector) {
        for family in Family::ALL {
            text.push_str(&gobgp::neighbour(family, family.address(reflector, 0), false, None));
        }
    }
    text
}

pub fn health(topology: &Topology, node: &Node, lb: &Path) -> Vec<String> {
    if topology.spec.director == DirectorKind::Ipvs {
        return director_ipvs::health(topology);
    }
    let mut reasons = agent::health(lb);
    if topology.spec.bgp.is_bird(node.index) {
        reasons.extend(bird::health());
    } else {
        let wanted: Vec<_> = topology
            .of(Kind::Reflector)
            .flat_map(|reflector| {
                Family::ALL.map(|family| (reflector.name.clone(), family.address(reflector, 0)))
            })
            .collect();
        reasons.extend(gobgp::health(&wanted));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    #[test]
    fn odd_directors_run_bird_and_even_ones_gobgp() {
        let topology = Topology::new(&spec::load("x", spec::REFERENCE, &[]).unwrap());
        let names = |node: &str| {
            let plan = plan(&topology, topology.node(node).unwrap());
            plan.processes.iter().map(|process| process.name).collect::<Vec<_>>()
        };
        assert_eq!(names("lb4-1"), ["bird", "lb-agent"]);
        assert_eq!(names("lb4-2"), ["gobgpd", "lb-agent"]);
    }

    #[test]
    fn bird_announces_what_the_agent_writes_and_nothing_else() {
        let topology = Topology::new(&spec::load("x", spec::REFERENCE, &[]).unwrap());
        let text = bird_config(&topology, topology.node("lb4-1").unwrap());
        assert!(text.contains("include \"/etc/lb/bird/*.conf\";"));
        assert!(text.contains("import none; export where proto = \"lb_vips4\"; next hop self;"), "{text}");
        assert!(!text.contains("protocol kernel"), "{text}");
    }
}
