//! R1…: VIPs from the reflectors with add-path, ECMP over the directors, users' networks into iBGP.

use crate::bird::{self, Family, INTERNET_AS, SITE_AS, Session};
use crate::plan::{FORWARDING, NodePlan};
use crate::topology::{Kind, Node, Topology};

pub fn plan(topology: &Topology, node: &Node) -> NodePlan {
    NodePlan {
        files: bird::files(config(topology, node)),
        folders: vec![bird::FOLDER.to_owned()],
        settings: FORWARDING.into(),
        processes: vec![bird::process()],
        ..NodePlan::default()
    }
}

fn config(topology: &Topology, node: &Node) -> String {
    let internet = topology.of(Kind::Internet).next().expect("every lab has an internet node");
    let mut text = bird::head(node);
    text.push_str(&bird::kernel());
    if topology.spec.bfd {
        text.push_str(bird::BFD);
    }
    for family in Family::ALL {
        let session = Session {
            name: "internet",
            family,
            local: family.address(node, 1),
            local_as: SITE_AS,
            neighbour: family.address(internet, 1),
            neighbour_as: INTERNET_AS,
            import: "all".to_owned(),
            export: family.site_routes(),
            channel: "",
            protocol: if topology.spec.bfd { "bfd yes;" } else { "" },
        };
        text.push_str(&session.render());
    }
    text.push_str(&super::sessions_with_reflectors(
        topology,
        node,
        |_| "all".to_owned(),
        |family| format!("where proto = \"internet_{}\"", family.digit()),
        "add paths rx;",
    ));
    text
}

pub fn health() -> Vec<String> {
    super::routes_to_vips()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    #[test]
    fn router_learns_many_paths_and_exports_only_what_internet_said() {
        let topology = Topology::new(&spec::load("x", spec::REFERENCE, &[]).unwrap());
        let text = config(&topology, topology.node("r1").unwrap());
        assert_eq!(text.matches("protocol bgp ").count(), 6, "internet and two reflectors, two families");
        assert_eq!(text.matches("add paths rx;").count(), 4);
        assert_eq!(text.matches("merge paths yes").count(), 2);
        assert!(text.contains("export where proto = \"internet_4\";"), "{text}");
        assert!(text.contains("router id 192.0.2.130;"), "{text}");
    }
}
