//! internet: learns the VIPs from the routers by eBGP and spreads flows over them; originates the users' networks.

use crate::bird::{self, Family, INTERNET_AS, SITE_AS, Session};
use crate::plan::{FORWARDING, NodePlan};
use crate::topology::{Kind, Node, Topology, USER_ADDRESSES_NET, USERS_NET};

pub fn plan(topology: &Topology, node: &Node) -> NodePlan {
    NodePlan {
        files: bird::files(config(topology, node)),
        folders: vec![bird::FOLDER.to_owned()],
        settings: FORWARDING.into(),
        routes: Family::ALL
            .map(|family| {
                let users = topology.of(Kind::Users).next().expect("every lab has a users node");
                (family.prefix(USER_ADDRESSES_NET), family.address(users, 0))
            })
            .into(),
        processes: vec![bird::process()],
    }
}

fn config(topology: &Topology, node: &Node) -> String {
    let mut text = bird::head(node);
    text.push_str(&bird::kernel());
    let bfd = if topology.spec.bfd { "bfd yes;" } else { "" };
    if topology.spec.bfd {
        text.push_str(bird::BFD);
    }
    for family in Family::ALL {
        let digit = family.digit();
        let addresses = family.prefix(USER_ADDRESSES_NET);
        // The kernel's own route is the plan's; this one only exists to be announced.
        text.push_str(&format!(
            "protocol static users{digit} {{ ipv{digit}; route {addresses} blackhole; }}\n"
        ));
        for router in topology.of(Kind::Router) {
            let session = Session {
                name: &router.name,
                family,
                local: family.address(node, 1),
                local_as: INTERNET_AS,
                neighbour: family.address(router, 1),
                neighbour_as: SITE_AS,
                import: family.site_routes(),
                export: format!("where net ~ [{}, {addresses}]", family.prefix(USERS_NET)),
                channel: "",
                protocol: bfd,
            };
            text.push_str(&session.render());
        }
    }
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
    fn internet_speaks_ebgp_with_every_router_and_announces_the_users() {
        let topology = Topology::new(&spec::load("x", spec::REFERENCE, &[]).unwrap());
        let text = config(&topology, topology.node("internet").unwrap());
        assert_eq!(text.matches("protocol bgp ").count(), 4);
        assert!(text.contains("neighbor 192.0.2.11 as 65000;"), "{text}");
        assert!(text.contains("export where net ~ [192.0.2.0/29, 203.0.113.0/24];"), "{text}");
        assert!(text.contains("import where net ~ [198.51.100.0/24{32,32}, 192.0.2.128/25];"), "{text}");
        assert!(!text.contains("bfd"), "{text}");
    }
}
