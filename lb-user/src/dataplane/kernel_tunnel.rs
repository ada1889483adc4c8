//! The kernel's own tunnel devices, where the configuration asks for them instead of our program.

use std::net::IpAddr;
use std::process::Command;

use super::{Error, Result};

/// The device that ends tunnels at an address of this machine: name and `ip link` arguments.
fn device(local: IpAddr) -> (String, [String; 6]) {
    let (name, kind, any) = match local {
        IpAddr::V4(_) => ("lb-ipip", "ipip", "any"),
        IpAddr::V6(_) => ("lb-ip6tnl", "ip6tnl", "any"),
    };
    let words = ["type", kind, "local", &local.to_string(), "mode", any];
    (name.into(), words.map(String::from))
}

/// Makes the device for `local` and brings it up, unless it is there.
///
/// The device accepts any sender: the guard program (`host_guard`) is what refuses them.
pub fn ensure(local: IpAddr) -> Result<()> {
    let (name, words) = device(local);
    if nix::net::if_::if_nametoindex(name.as_str()).is_err() {
        let add: Vec<&str> =
            ["link", "add", &name].into_iter().chain(words.iter().map(String::as_str)).collect();
        ip(&add).map_err(|reason| Error::Netlink {
            what: format!("make the tunnel device {name}"),
            reason: format!(
                "{reason}; the kernel needs the {} driver, or set host.decapsulation to xdp",
                words[1]
            ),
        })?;
    }
    // Packets come out of the device with sources that are routed elsewhere; a strict reverse path check drops them.
    if local.is_ipv4() {
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0");
    }
    let up = ip(&["link", "set", &name, "up"]);
    up.map_err(|reason| Error::Netlink { what: format!("bring {name} up"), reason })
}

/// Removes the devices, if they are there.
pub fn remove() {
    for name in ["lb-ipip", "lb-ip6tnl"] {
        if nix::net::if_::if_nametoindex(name).is_ok()
            && let Err(reason) = ip(&["link", "del", name])
        {
            tracing::warn!("cannot remove {name}: {reason}");
        }
    }
}

fn ip(arguments: &[&str]) -> std::result::Result<(), String> {
    let output = Command::new("ip").args(arguments).output();
    let output = output.map_err(|error| format!("cannot run ip: {error}; install the package iproute2"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_string()),
    }
}
