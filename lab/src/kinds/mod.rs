//! One file per kind of node: what it runs ([`NodePlan`]) and how to tell that it is ready.

use std::net::IpAddr;
use std::path::Path;

use crate::bird::{Family, SITE_AS, Session};
use crate::netlink::Netlink;
use crate::plan::NodePlan;
use crate::topology::{Kind, Node, Topology};

mod director;
pub mod director_ipvs;
mod dns;
mod internet;
mod l7_host;
mod reflector;
mod router;
mod server;
mod users;

pub use l7_host::SOCKET as HAPROXY_SOCKET;

/// The part of a node's plan that its kind decides.
pub fn plan(topology: &Topology, node: &Node) -> NodePlan {
    match node.kind {
        Kind::Users => users::plan(topology),
        Kind::Internet => internet::plan(topology, node),
        Kind::Dns => dns::plan(topology),
        Kind::Router => router::plan(topology, node),
        Kind::Reflector => reflector::plan(topology, node),
        Kind::Director => director::plan(topology, node),
        Kind::L7Host => l7_host::plan(topology, node),
        Kind::Server => server::plan(node),
    }
}

/// Why the node is not ready; empty when it is. Call inside the node's namespaces; `lb` is the agent's program.
pub fn health(topology: &Topology, node: &Node, lb: &Path) -> Vec<String> {
    match node.kind {
        Kind::Users => users::health(),
        Kind::Internet => internet::health(),
        Kind::Dns => dns::health(node, lb),
        Kind::Router => router::health(),
        Kind::Reflector => reflector::health(topology, node),
        Kind::Director => director::health(topology, node, lb),
        Kind::L7Host => l7_host::health(lb),
        Kind::Server => server::health(node, lb),
    }
}

/// What keeps a BIRD router from sending packets to every VIP.
fn routes_to_vips() -> Vec<String> {
    let mut reasons = crate::bird::health();
    if reasons.is_empty() {
        reasons.extend(missing_routes(&crate::topology::vips()));
    }
    reasons
}

/// The `addresses` that the kernel has no route to, as one reason.
fn missing_routes(addresses: &[IpAddr]) -> Option<String> {
    let missing = Netlink::open().and_then(|mut netlink| {
        let mut missing = Vec::new();
        for address in addresses {
            if !netlink.has_route(*address)? {
                missing.push(address.to_string());
            }
        }
        Ok(missing)
    });
    match missing {
        Ok(missing) if missing.is_empty() => None,
        Ok(missing) => Some(format!("no route to {}", missing.join(" "))),
        Err(error) => Some(format!("routes cannot be read: {error}")),
    }
}

/// The sessions of a BIRD node with all route reflectors, in both families.
fn sessions_with_reflectors(
    topology: &Topology,
    node: &Node,
    import: impl Fn(Family) -> String,
    export: impl Fn(Family) -> String,
    channel: &str,
) -> String {
    let mut text = String::new();
    for reflector in topology.of(Kind::Reflector) {
        for family in Family::ALL {
            let session = Session {
                name: &reflector.name,
                family,
                local: family.address(node, 0),
                local_as: SITE_AS,
                neighbour: family.address(reflector, 0),
                neighbour_as: SITE_AS,
                import: import(family),
                export: export(family),
                channel,
                protocol: "",
            };
            text.push_str(&session.render());
        }
    }
    text
}
