//! placeholder until the resolver lands
use std::collections::BTreeMap;
use std::net::IpAddr;
/// A next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// i
    pub ifindex: u32,
    /// o
    pub own_mac: [u8; 6],
    /// n
    pub next_mac: [u8; 6],
    /// m
    pub mtu: u32,
    /// s
    pub source: Option<IpAddr>,
}
/// By outer address.
pub type NextHops = BTreeMap<IpAddr, Result<NextHop, String>>;
