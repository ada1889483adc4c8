//! This machine's interfaces and addresses, looked at once a second.
//!
//! Asking is cheap, needs no state, and also finds an interface that was deleted and made again under its old name.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use tokio::sync::watch;

use super::{Error, Result};

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Interfaces by name and index, with their global addresses.
pub type Machine = BTreeSet<(String, u32, Option<IpAddr>)>;

/// Follows the machine until all receivers are gone. Called inside a Tokio runtime. What cannot be read stays as it was.
pub fn follow() -> watch::Receiver<Machine> {
    let (sender, receiver) = watch::channel(look().unwrap_or_default());
    tokio::spawn(async move {
        while !sender.is_closed() {
            tokio::time::sleep(LOOK).await;
            let Ok(now) = look() else { continue };
            sender.send_if_modified(|before| {
                let differs = *before != now;
                *before = now;
                differs
            });
        }
    });
    receiver
}

/// Global addresses of this machine by interface, as they were when they could be read last.
#[derive(Debug, Default)]
pub struct Addresses(Vec<(String, IpAddr)>);

impl Addresses {
    /// Reads them. If that fails, as without descriptors, those of before stay.
    pub fn read(&mut self) -> Result<()> {
        let all = getifaddrs().map_err(|error| Error::Netlink {
            what: "read the addresses of this machine".into(),
            reason: format!("{error}; those that were read last stay in use"),
        })?;
        self.0 = all.filter_map(|entry| Some((entry.interface_name.clone(), address(&entry)?))).collect();
        Ok(())
    }

    /// Those of an interface.
    pub fn of(&self, interface: &str) -> impl Iterator<Item = IpAddr> {
        self.0.iter().filter(move |(name, _)| name == interface).map(|(_, address)| *address)
    }

    /// Those of all interfaces.
    pub fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().map(|(_, address)| *address)
    }
}

/// The index of an interface, `None` if there is no such one.
pub fn index(interface: &str) -> Result<Option<u32>> {
    match if_nametoindex(interface) {
        Ok(index) => Ok(Some(index)),
        Err(Errno::ENODEV) => Ok(None),
        Err(error) => Err(Error::Netlink {
            what: format!("look up the interface {interface}"),
            reason: format!("{error}; what is attached stays"),
        }),
    }
}

fn look() -> Result<Machine> {
    let mut machine = Machine::new();
    let all = getifaddrs().map_err(|error| Error::Netlink {
        what: "read the interfaces of this machine".into(),
        reason: error.to_string(),
    })?;
    for entry in all {
        let index = index(&entry.interface_name)?.unwrap_or(0);
        machine.insert((entry.interface_name.clone(), index, address(&entry)));
    }
    Ok(machine)
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
