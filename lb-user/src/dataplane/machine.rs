//! This machine's interfaces and addresses, looked at once a second.
//!
//! Asking is cheap, needs no state, and also finds an interface that was deleted and made again under its old name.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use tokio::sync::watch;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Interfaces by name and index, with their global addresses.
pub type Machine = BTreeSet<(String, u32, Option<IpAddr>)>;

/// Follows the machine until all receivers are gone. Called inside a Tokio runtime.
pub fn follow() -> watch::Receiver<Machine> {
    let (sender, receiver) = watch::channel(look());
    tokio::spawn(async move {
        while !sender.is_closed() {
            tokio::time::sleep(LOOK).await;
            let now = look();
            sender.send_if_modified(|before| {
                let differs = *before != now;
                *before = now;
                differs
            });
        }
    });
    receiver
}

/// Global addresses of an interface, or of all.
pub fn addresses(interface: Option<&str>) -> Vec<IpAddr> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    all.filter(|entry| interface.is_none_or(|name| entry.interface_name == name))
        .filter_map(|entry| address(&entry))
        .collect()
}

fn look() -> Machine {
    let Ok(all) = getifaddrs() else { return Machine::new() };
    let index = |name: &str| if_nametoindex(name).unwrap_or(0);
    all.map(|entry| (entry.interface_name.clone(), index(&entry.interface_name), address(&entry))).collect()
}

/// The entry's address, if it is a global one.
fn address(entry: &nix::ifaddrs::InterfaceAddress) -> Option<IpAddr> {
    let socket = entry.address?;
    let v4 = socket.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    let address = v4.or_else(|| socket.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))?;
    let global = match &address {
        IpAddr::V4(v4) => !v4.is_loopback() && !Ipv4Addr::is_link_local(v4),
        IpAddr::V6(v6) => !v6.is_loopback() && !Ipv6Addr::is_unicast_link_local(v6),
    };
    global.then_some(address)
}
