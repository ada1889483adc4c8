//! A view for where there is no agent: all hosts are healthy but those that are named, and all are one hop away.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::View;
use crate::dataplane::nexthops::Sources;
use crate::model::{Family, HostId, Model};
use crate::netlink::NextHop;

/// Outer source where none is configured: the dummy address of RFC 7600.
const SOURCE4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// Outer source where none is configured: in the discard prefix of RFC 6666.
const SOURCE6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 8);

/// `lo`, by which test runs come in: what leaves by it is sent back, not redirected.
const INTERFACE: u32 = 1;

/// The view, without tables. `sick` are hosts, by name or as POOL/HOST; the error names one that is none.
pub fn view(model: Model, sources: Sources, mtu: u32, sick: &[String]) -> Result<View, String> {
    let known = |name: &String| model.hosts().any(|(id, _)| is(&id, name));
    if let Some(name) = sick.iter().find(|name| !known(name)) {
        return Err(format!("no host {name} in any pool"));
    }
    let healthy = |id: &HostId| !sick.iter().any(|name| is(id, name));
    let health: BTreeMap<_, _> = model.hosts().map(|(id, _)| (id.clone(), healthy(&id))).collect();
    let source = |address: IpAddr| match address {
        IpAddr::V4(_) => SOURCE4.into(),
        IpAddr::V6(_) => SOURCE6.into(),
    };
    let addresses = model.hosts().flat_map(|(_, host)| Family::ALL.map(|family| host.outer(family)));
    let hop = |address| NextHop {
        ifindex: INTERFACE,
        source_mac: [2, 0, 0, 0, 0, 1],
        mac: [2, 0, 0, 0, 0, 2],
        mtu,
        source: Some(source(address)),
        below: None,
    };
    let nexthops = addresses.flatten().map(|address| (address, Ok(hop(address)))).collect();
    Ok(View::new(Arc::new(model), sources, nexthops, health))
}

fn is(id: &HostId, name: &str) -> bool {
    id.host == name || id.to_string() == name
}
