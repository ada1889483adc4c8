//! users: where requests come from, 203.0.113.0/24 and the twins on `lo`.

use crate::bird::Family;
use crate::plan::NodePlan;
use crate::topology::{Kind, Topology};

pub fn plan(topology: &Topology) -> NodePlan {
    NodePlan { routes: default_routes(topology), ..NodePlan::default() }
}

/// Default routes towards internet, for the nodes on its users side.
pub fn default_routes(topology: &Topology) -> Vec<(crate::address::Prefix, std::net::IpAddr)> {
    let internet = topology.of(Kind::Internet).next().expect("every lab has an internet node");
    Family::ALL.map(|family| (family.default_route(), family.address(internet, 0))).into()
}
