//! What the checked configuration is made of, beside [`crate::model`].

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use crate::bgp::Prefix;
use crate::vip::Vip;

/// The role of a director: VIP packets come in, encapsulated ones go out to the hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectorConfig {
    /// Interfaces that VIP packets arrive on; at least one.
    pub interfaces: Vec<String>,
    /// Where in the kernel the program is attached.
    pub xdp: XdpMode,
    /// Source of outer IPv4 headers; `None`: the first global address of the first interface.
    pub source4: Option<Ipv4Addr>,
    /// Source of outer IPv6 headers; `None`: the first global address of the first interface.
    pub source6: Option<Ipv6Addr>,
    /// Outer IPv4 sources are chosen from it, per flow, instead.
    pub spread4: Option<Prefix>,
    /// Outer IPv6 sources are chosen from it, per flow, instead.
    pub spread6: Option<Prefix>,
    /// Flows that are remembered for services with a flow table.
    pub flows: u32,
    /// ICMP errors per second that tell senders of packets too big for the tunnel; 0: none.
    pub icmp_errors: u32,
    /// Sizes of the maps.
    pub capacity: Capacity,
}

/// Flows that a director remembers, unless the configuration says otherwise.
pub const FLOWS: u32 = 65_536;

/// ICMP errors that a director sends per second, unless the configuration says otherwise.
pub const ICMP_ERRORS: u32 = 1000;

/// How much the maps of a role hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Capacity {
    /// Services.
    pub services: u32,
    /// Hosts, each counted once per pool.
    pub hosts: u32,
    /// Tables, one per pool and change of hosts in force.
    pub tables: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Capacity { services: 1024, hosts: 4096, tables: 64 }
    }
}

/// The role of an L7 host: takes encapsulated packets for its VIPs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// Interfaces that encapsulated packets arrive on; at least one.
    pub interfaces: Vec<String>,
    /// What takes the outer header off.
    pub decapsulation: Decapsulation,
    /// Where in the kernel an XDP program is attached.
    pub xdp: XdpMode,
    /// Outer sources that are believed; at least one.
    pub accept_from: Vec<Prefix>,
    /// Inner destinations that are taken; at least one.
    pub vips: BTreeSet<Vip>,
    /// Packets per second that may be passed on to other hosts; 0: none.
    pub second_chances: u32,
    /// Sizes of the maps.
    pub capacity: Capacity,
}

/// Packets per second that a host passes on, unless the configuration says otherwise.
pub const SECOND_CHANCES: u32 = 100_000;

/// Where in the kernel an XDP program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver where it can, else generic.
    #[default]
    Auto,
    /// In the driver or not at all.
    Native,
    /// After the kernel made a socket buffer.
    Generic,
}

/// What takes the outer header off on an L7 host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decapsulation {
    /// Our XDP program, or the TC one where XDP cannot be attached.
    #[default]
    Auto,
    /// Our XDP program.
    Xdp,
    /// Our TC program.
    Tc,
    /// The kernel's `ipip` and `ip6tnl` devices.
    Kernel,
}
