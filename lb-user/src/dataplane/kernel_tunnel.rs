//! The kernel's own tunnel devices, where the configuration asks for them instead of our program.

use std::fs;
use std::net::IpAddr;
use std::process::Command;

use super::{Error, Result};

/// A device that ends tunnels at an address of this machine.
struct Device {
    name: &'static str,
    kind: &'static str,
    mode: &'static str,
    /// Family of the outer header.
    outer4: bool,
}

/// What each unwraps: IPv4 in IPv4, both in IPv6, IPv6 in IPv4. The last is wanted least, should a driver be missing.
const DEVICES: [Device; 3] = [
    Device { name: "lb-ipip", kind: "ipip", mode: "ipip", outer4: true },
    Device { name: "lb-ip6tnl", kind: "ip6tnl", mode: "any", outer4: false },
    Device { name: "lb-sit", kind: "sit", mode: "ip6ip", outer4: true },
];

/// Makes the devices that end tunnels at these addresses and brings them up, unless they are there; removes those of a
/// family without an address.
///
/// They accept any sender: the guard program (`host_guard`) is what refuses them, and must be there first.
pub fn ensure(locals: &[IpAddr]) -> Result<()> {
    for device in &DEVICES {
        match locals.iter().find(|local| local.is_ipv4() == device.outer4) {
            Some(local) => device.ensure(*local)?,
            None => device.remove(),
        }
    }
    Ok(())
}

/// All devices are there.
pub fn exist(locals: &[IpAddr]) -> bool {
    let wanted = |device: &&Device| locals.iter().any(|local| local.is_ipv4() == device.outer4);
    DEVICES.iter().filter(wanted).all(Device::exists)
}

/// Removes the devices, if they are there.
pub fn remove() {
    DEVICES.iter().for_each(Device::remove);
}

/// Why the kernel drops what comes out of the devices, if it does.
///
/// Packets come out with sources that are routed elsewhere. The larger of two settings counts, the device's (which is
/// ours, and 0) and that of all; on a device without an IPv4 address even a loose check drops.
pub fn obstacle() -> Option<String> {
    let all = fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").ok()?;
    (all.trim() != "0").then(|| {
        format!(
            "net.ipv4.conf.all.rp_filter is {}, so the kernel drops IPv4 packets that come out of its tunnel devices; \
             set it to 0 (that of each interface stays)",
            all.trim()
        )
    })
}

impl Device {
    fn exists(&self) -> bool {
        nix::net::if_::if_nametoindex(self.name).is_ok()
    }

    fn ensure(&self, local: IpAddr) -> Result<()> {
        let Device { name, kind, mode, .. } = *self;
        let error = |what: String| move |reason| Error::Netlink { what, reason };
        let local = local.to_string();
        if self.exists() {
            let shown = ip(&["-o", "link", "show", name]).map_err(error(format!("look at {name}")))?;
            if !shown.split_whitespace().any(|word| word == local) {
                let set = ["link", "set", name, "type", kind, "local", &local];
                ip(&set).map_err(error(format!("change the address of {name} to {local}")))?;
            }
        } else {
            let add = ["link", "add", name, "type", kind, "local", &local, "mode", mode];
            ip(&add).map_err(|reason| Error::Netlink {
                what: format!("make the tunnel device {name}"),
                reason: format!(
                    "{reason}; the kernel needs the {kind} driver, or set host.decapsulation to xdp"
                ),
            })?;
        }
        // IPv4 packets come out of those with an IPv6 outer header as well; without IPv4 there is no such file.
        let _ = fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0");
        // No address of its own (1 is none): it would only solicit routers that are not there.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode"), "1");
        ip(&["link", "set", name, "up"]).map_err(error(format!("bring {name} up")))?;
        if kind == "sit" {
            // The kernel has put ::LOCAL/96 there all the same, and its route.
            let _ = ip(&["-6", "address", "flush", "dev", name]);
        }
        Ok(())
    }

    fn remove(&self) {
        if self.exists()
            && let Err(reason) = ip(&["link", "del", self.name])
        {
            tracing::warn!("cannot remove {}: {reason}", self.name);
        }
    }
}

fn ip(arguments: &[&str]) -> std::result::Result<String, String> {
    let output = Command::new("ip").args(arguments).output();
    let output = output.map_err(|error| format!("cannot run ip: {error}; install the package iproute2"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_string()),
    }
}
