//! What a node needs besides its links: files, kernel settings, routes, processes. Pure data.

use std::net::IpAddr;

use crate::address::Prefix;
use crate::kinds;
use crate::topology::{Node, Topology};

/// Everything that makes a bare namespace into a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePlan {
    /// Path → content, inside the node.
    pub files: Vec<(String, String)>,
    /// Folders to create inside the node.
    pub folders: Vec<String>,
    /// Setting below `/proc/sys/net` → value; one that this kernel lacks is skipped.
    pub settings: Vec<(&'static str, &'static str)>,
    /// Static routes.
    pub routes: Vec<(Prefix, IpAddr)>,
    /// In order of start.
    pub processes: Vec<ProcessPlan>,
}

/// A process of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessPlan {
    /// As status prints it, unique within the node.
    pub name: &'static str,
    /// Program and arguments.
    pub argv: Vec<String>,
}

impl ProcessPlan {
    /// A process called `name` that runs `command`, split at spaces.
    pub fn new(name: &'static str, command: &str) -> Self {
        Self { name, argv: command.split_whitespace().map(str::to_owned).collect() }
    }
}

/// Settings of every node. Neighbour discovery must be silent (no duplicate address detection, no router
/// advertisements) so that addresses are usable at once, and stay when a link goes down and up; a host must not answer ARP for the VIPs on its `lo`.
const SETTINGS: [(&str, &str); 17] = [
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/lo/disable_ipv6", "0"),
    ("ipv6/conf/all/keep_addr_on_down", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/arp_ignore", "1"),
    ("ipv4/conf/all/arp_announce", "2"),
    ("ipv4/fib_multipath_hash_policy", "1"),
    ("ipv6/fib_multipath_hash_policy", "1"),
    ("ipv4/fib_multipath_use_neigh", "1"),
    ("ipv4/ping_group_range", "0 2147483647"),
    ("ipv4/ip_local_port_range", "10000 65000"),
];

/// Settings of a node that forwards packets.
pub const FORWARDING: [(&str, &str); 3] =
    [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"), ("ipv6/conf/default/forwarding", "1")];

/// The plan of `node`.
pub fn plan(topology: &Topology, node: &Node) -> NodePlan {
    let mut plan = kinds::plan(topology, node);
    plan.settings.splice(0..0, SETTINGS);
    plan.files.push(("/etc/hostname".to_owned(), format!("{}\n", node.name)));
    plan.files.push(("/etc/hosts".to_owned(), hosts(topology)));
    plan.files.push(("/etc/resolv.conf".to_owned(), resolv_conf(topology)));
    plan.folders.push("/etc/lb".to_owned());
    plan
}

fn hosts(topology: &Topology) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for node in &topology.nodes {
        for prefix in &node.interfaces[0].addresses {
            text.push_str(&format!("{} {}\n", prefix.address, node.name));
        }
    }
    text
}

fn resolv_conf(topology: &Topology) -> String {
    let dns = topology.node("dns").and_then(Node::address4).expect("every lab has a dns node");
    format!("search example.org\nnameserver {dns}\noptions timeout:1\n")
}
