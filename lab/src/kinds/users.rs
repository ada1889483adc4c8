//! users: where requests come from, 203.0.113.0/24 and the twins on `lo`.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use crate::address::{Prefix, twin};
use crate::bird::Family;
use crate::plan::NodePlan;
use crate::request;
use crate::topology::{Kind, Topology, USER, vips};

pub fn plan(topology: &Topology) -> NodePlan {
    NodePlan { routes: default_routes(topology), ..NodePlan::default() }
}

/// Default routes towards internet, for the nodes on its users side.
pub fn default_routes(topology: &Topology) -> Vec<(Prefix, IpAddr)> {
    let internet = topology.of(Kind::Internet).next().expect("every lab has an internet node");
    Family::ALL.map(|family| (family.default_route(), family.address(internet, 0))).into()
}

/// How long each step of a request may take: a packet that is lost is sent again after a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// Users are well when every VIP answers them.
pub fn health() -> Vec<String> {
    thread::scope(|scope| {
        let asked: Vec<_> = vips()
            .into_iter()
            .map(|vip| {
                let source = if vip.is_ipv4() { IpAddr::V4(USER) } else { IpAddr::V6(twin(USER)) };
                scope.spawn(move || request::get(source, vip, PATIENCE).err())
            })
            .collect();
        asked
            .into_iter()
            .filter_map(|thread| thread.join().ok().flatten())
            .map(|error| format!("{error:#}"))
            .collect()
    })
}
