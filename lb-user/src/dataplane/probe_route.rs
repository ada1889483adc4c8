//! How the agent's own probes of a VIP leave this machine.
//!
//! A probe carries a mark that names the host to test. A rule sends marked packets to a table of ours, whose only route
//! makes every destination local: so the packet goes to the loopback interface, where the probe program at TC egress
//! puts it into the tunnel and sends it out of the right interface. No neighbour of the VIP has to be resolved, and
//! nothing else on the machine sees the VIP as local.

use std::net::IpAddr;

use futures::TryStreamExt;
use lb_common::maps::{PROBE_MARK, PROBE_MASK};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{Error, Result};

/// Where the probe program sits.
pub const INTERFACE: &str = "lo";
/// Its index in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;
/// Number of the routing table, and priority of the rule: the letters L and B.
pub const TABLE: u32 = 0x4c42;

/// Adds rule and route of one family, with `source` as the address that probes come from. Does nothing if they exist.
pub async fn ensure(handle: &Handle, source: IpAddr) -> Result<()> {
    let error = |what: &str, error: rtnetlink::Error| Error::Netlink {
        what: format!("{what} for probes through the tunnel from {source}"),
        reason: error.to_string(),
    };
    handle.route().add(route(source)).replace().execute().await.map_err(|e| error("add a route", e))?;
    if !has_rule(handle, source).await.map_err(|e| error("list rules", e))? {
        add_rule(handle, source).await.map_err(|e| error("add a rule", e))?;
    }
    Ok(())
}

/// Removes what [`ensure`] added, for both families.
pub async fn remove(handle: &Handle) {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        // Absent is as good as removed.
        let _ = handle.rule().del(rule(family)).execute().await;
    }
    for any in [IpAddr::from([0u8; 4]), IpAddr::from([0u16; 8])] {
        let _ = handle.route().del(route_without_source(any)).execute().await;
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route(source: IpAddr) -> RouteMessage {
    let mut message = route_without_source(source);
    message.attributes.push(RouteAttribute::PrefSource(match source {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }));
    message
}

fn route_without_source(source: IpAddr) -> RouteMessage {
    let mut message = match source {
        IpAddr::V4(_) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .table_id(TABLE)
            .output_interface(LOOPBACK)
            .build(),
        IpAddr::V6(_) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .table_id(TABLE)
            .output_interface(LOOPBACK)
            .build(),
    };
    message.header.kind = RouteType::Local;
    message.header.scope = RouteScope::Host;
    message
}

fn rule(family: AddressFamily) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(TABLE),
        RuleAttribute::FwMark(PROBE_MARK),
        RuleAttribute::FwMask(PROBE_MASK),
        RuleAttribute::Table(TABLE),
    ];
    message
}

async fn has_rule(handle: &Handle, source: IpAddr) -> std::result::Result<bool, rtnetlink::Error> {
    let version = if source.is_ipv4() { rtnetlink::IpVersion::V4 } else { rtnetlink::IpVersion::V6 };
    let mut rules = handle.rule().get(version).execute();
    while let Some(rule) = rules.try_next().await? {
        if rule.attributes.contains(&RuleAttribute::FwMark(PROBE_MARK)) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn add_rule(handle: &Handle, source: IpAddr) -> std::result::Result<(), rtnetlink::Error> {
    let mut request = handle.rule().add();
    *request.message_mut() = rule(family(source));
    request.execute().await
}
