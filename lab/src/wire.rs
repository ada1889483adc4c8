//! Makes the nodes' namespaces and the links between them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use crate::ethtool;
use crate::namespace::{self, Handles};
use crate::netlink::{Netlink, VethEnd};
use crate::paths::Paths;
use crate::plan::NodePlan;
use crate::spec::LabSpec;
use crate::topology::{Interface, Node, Segment};
use crate::xdp_pass;

/// The node that holds the bridges; no user can name it, since topologies have no such node.
const SWITCH: &str = "switch";

/// Namespaces made at a time.
const WORKERS: usize = 4;

/// Makes the switch with a bridge per segment.
pub fn make_switch(paths: &Paths) -> Result<()> {
    make_folders(paths, SWITCH)?;
    namespace::create(paths, SWITCH, || {
        // The bridges carry, they do not speak.
        set("ipv6/conf/all/disable_ipv6", "1")?;
        set("ipv6/conf/default/disable_ipv6", "1")?;
        for filter in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"] {
            set(&format!("bridge/{filter}"), "0")?;
        }
        let mut netlink = Netlink::open().context("opening netlink")?;
        for segment in Segment::ALL {
            netlink
                .add_bridge(segment.bridge(), segment.mtu())
                .map_err(|error| advise(error, "bridge"))
                .with_context(|| format!("making bridge {}", segment.bridge()))?;
        }
        Ok(())
    })
}

/// Makes the namespaces of all nodes, with files and settings but without links.
pub fn make_nodes(paths: &Paths, nodes: &[(&Node, NodePlan)]) -> Result<()> {
    let next = AtomicUsize::new(0);
    let first_error = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((node, plan)) = nodes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = make_node(paths, node, plan) {
                        first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        next.store(nodes.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    first_error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn make_node(paths: &Paths, node: &Node, plan: &NodePlan) -> Result<()> {
    make_folders(paths, &node.name)?;
    namespace::create(paths, &node.name, || {
        for (setting, value) in &plan.settings {
            set(setting, value)?;
        }
        write_files(plan)?;
        let mut netlink = Netlink::open().context("opening netlink")?;
        netlink.set_up("lo").context("bringing lo up")?;
        netlink.add_addresses("lo", &node.loopback).context("giving lo its addresses")
    })
}

/// Plugs every node into its segments, from inside the switch, then configures the nodes' ends.
pub fn connect(paths: &Paths, spec: &LabSpec, nodes: &[(&Node, NodePlan)]) -> Result<()> {
    // Opened here: inside the switch, the files that keep the namespaces are out of sight.
    let handles = nodes.iter().map(|(node, _)| Handles::open(paths, &node.name));
    let handles = handles.collect::<Result<Vec<_>>>()?;
    namespace::enter(paths, SWITCH, || {
        let mut netlink = Netlink::open().context("opening netlink")?;
        let pass = xdp_pass::load().context("loading an XDP program")?;
        for ((node, _), handles) in nodes.iter().zip(&handles) {
            plug(&mut netlink, node, handles, pass.as_fd())
                .with_context(|| format!("connecting {}", node.name))?;
        }
        anyhow::Ok(())
    })??;
    for (node, plan) in nodes {
        namespace::enter(paths, &node.name, || configure(spec, node, plan))?
            .with_context(|| format!("configuring the links of {}", node.name))?;
    }
    Ok(())
}

fn plug(netlink: &mut Netlink, node: &Node, handles: &Handles, pass: BorrowedFd<'_>) -> Result<()> {
    for interface in &node.interfaces {
        let port = port_name(node, interface);
        let mtu = interface.segment.mtu();
        let here = VethEnd { name: &port, mac: None, mtu };
        let there = VethEnd { name: interface.name, mac: Some(interface.mac), mtu };
        let bridge = if_nametoindex(interface.segment.bridge()).context("finding the bridge")?;
        netlink
            .add_veth(&here, bridge, &there, handles.net().as_fd())
            .map_err(|error| advise(error, "veth"))
            .with_context(|| format!("making {port}"))?;
        ethtool::transmit_checksum_off(&port).with_context(|| format!("checksums of {port}"))?;
        netlink.stop_flooding(&port).with_context(|| format!("flooding to {port}"))?;
        if node.sends_by_xdp(interface) {
            netlink.set_xdp(&port, pass).with_context(|| format!("XDP on {port}"))?;
        }
    }
    Ok(())
}

/// `lb7-1.0` for `eth0` of `lb7-1`: at most 15 characters.
fn port_name(node: &Node, interface: &Interface) -> String {
    format!("{}.{}", node.name, interface.name.trim_start_matches("eth"))
}

fn configure(spec: &LabSpec, node: &Node, plan: &NodePlan) -> Result<()> {
    let mut netlink = Netlink::open().context("opening netlink")?;
    for interface in &node.interfaces {
        let name = interface.name;
        if spec.offloads {
            ethtool::merge_received(name).with_context(|| format!("GRO of {name}"))?;
        } else {
            ethtool::transmit_checksum_off(name).with_context(|| format!("checksums of {name}"))?;
        }
        netlink.set_up(name).with_context(|| format!("bringing {name} up"))?;
    }
    address(&mut netlink, node, plan)
}

/// Gives the links of a node, which are up, their addresses and routes again. Call inside the node.
pub fn restore(node: &Node, plan: &NodePlan) -> Result<()> {
    address(&mut Netlink::open().context("opening netlink")?, node, plan)
}

/// What is there already stays.
fn address(netlink: &mut Netlink, node: &Node, plan: &NodePlan) -> Result<()> {
    for interface in &node.interfaces {
        let name = interface.name;
        netlink.add_addresses(name, &interface.addresses).with_context(|| format!("addresses of {name}"))?;
    }
    for (to, via) in &plan.routes {
        netlink.add_route(*to, *via).with_context(|| format!("route to {to} via {via}"))?;
    }
    Ok(())
}

fn make_folders(paths: &Paths, node: &str) -> Result<()> {
    let folder = paths.node(node);
    for folder in [folder.join("upper"), folder.join("work"), paths.node_cgroup(node)] {
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    Ok(())
}

fn write_files(plan: &NodePlan) -> Result<()> {
    for folder in &plan.folders {
        fs::create_dir_all(folder).with_context(|| format!("creating {folder}"))?;
    }
    for (path, content) in &plan.files {
        if let Some(folder) = Path::new(path).parent() {
            fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        // A link, as /etc/resolv.conf often is, is replaced and not followed.
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
            fs::remove_file(path).with_context(|| format!("replacing {path}"))?;
        }
        fs::write(path, content).with_context(|| format!("writing {path}"))?;
    }
    Ok(())
}

/// Sets a kernel setting of this network namespace, if this kernel has it.
fn set(setting: &str, value: &str) -> Result<()> {
    match fs::write(format!("/proc/sys/net/{setting}"), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.with_context(|| format!("setting net/{setting} to {value}")),
    }
}

/// Says what to do where the kernel's answer does not.
fn advise(error: io::Error, kind: &str) -> io::Error {
    if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
        let advice = format!("this kernel has no {kind} devices; modprobe {kind}, or a kernel with them");
        return io::Error::new(error.kind(), advice);
    }
    error
}
