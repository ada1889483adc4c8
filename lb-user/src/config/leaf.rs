//! Single values: how each is written, and what the message says when it is written wrongly.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::bgp::Prefix;
use crate::dns::BeforeChecks;
use crate::dns::policy::{AllDown, Policy};
use crate::model::{ANY_PORT, Affinity, Family, Fragments, HashBy, HostState, Protocol};
use crate::peers::PeerUrl;
use crate::vip::Vip;

use super::dns::State;
use super::tree::{Node, Value};
use super::types::{Decapsulation, XdpMode};

/// A value that is written in one piece.
pub(crate) trait Leaf: Sized {
    /// The value, or what is wrong and what to do.
    fn read(node: &Node) -> Result<Self, String>;
}

impl Leaf for String {
    fn read(node: &Node) -> Result<Self, String> {
        match &node.value {
            Value::Text(text) if !text.is_empty() => Ok(text.clone()),
            Value::Text(_) => Err("empty; write a text".into()),
            Value::List(_) | Value::Map(_) => Err(format!("not a text: {}; write a text", node.shown())),
            _ => Err(format!("not a text: {}; put it in quotes", node.shown())),
        }
    }
}

impl Leaf for PathBuf {
    fn read(node: &Node) -> Result<Self, String> {
        let path = PathBuf::from(String::read(node)?);
        if path.is_absolute() {
            return Ok(path);
        }
        Err(format!("not an absolute path: {}; begin it with a slash", node.shown()))
    }
}

impl Leaf for bool {
    fn read(node: &Node) -> Result<Self, String> {
        match node.value {
            Value::Bool(value) => Ok(value),
            _ => Err(format!("not a yes or no: {}; write true or false", node.shown())),
        }
    }
}

impl Leaf for PeerUrl {
    fn read(node: &Node) -> Result<Self, String> {
        parsed(node).ok_or_else(|| {
            format!(
                "not the address of an agent: {}; write it in quotes, as in \"http://192.0.2.139:7400\" or \
                 \"http://[2001:db8::1]:7400\"",
                node.shown()
            )
        })
    }
}

/// A number from 0 to the largest of its type; narrower limits are checked where they are known.
macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Leaf for $number {
            fn read(node: &Node) -> Result<Self, String> {
                match node.value {
                    Value::Integer(value) => <$number>::try_from(value).ok(),
                    _ => None,
                }
                .ok_or_else(|| {
                    format!("not a number from 0 to {}: {}; write such a number", <$number>::MAX, node.shown())
                })
            }
        }
    )*};
}
numbers!(u16, u32, u64);

/// A TCP or UDP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port(pub u16);

impl Leaf for Port {
    fn read(node: &Node) -> Result<Self, String> {
        match node.value {
            Value::Integer(port @ 1..=65535) => Ok(Port(port as u16)),
            _ => Err(format!("not a port: {}; write a number from 1 to 65535", node.shown())),
        }
    }
}

/// The port of a service: one, or any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServicePort(pub u16);

impl Leaf for ServicePort {
    fn read(node: &Node) -> Result<Self, String> {
        match &node.value {
            Value::Integer(port @ 1..=65535) => Ok(ServicePort(*port as u16)),
            Value::Text(text) if text == "any" => Ok(ServicePort(ANY_PORT)),
            _ => Err(format!("not a port: {}; write a number from 1 to 65535, or any", node.shown())),
        }
    }
}

impl Leaf for IpAddr {
    fn read(node: &Node) -> Result<Self, String> {
        parsed(node).ok_or_else(|| no_address(node))
    }
}

impl Leaf for Ipv4Addr {
    fn read(node: &Node) -> Result<Self, String> {
        parsed(node).ok_or_else(|| {
            format!("not an IPv4 address: {}; write four numbers, as in 192.0.2.1", node.shown())
        })
    }
}

impl Leaf for Ipv6Addr {
    fn read(node: &Node) -> Result<Self, String> {
        parsed(node).ok_or_else(|| {
            format!("not an IPv6 address: {}; write one in quotes, as in \"2001:db8::1\"", node.shown())
        })
    }
}

impl Leaf for SocketAddr {
    fn read(node: &Node) -> Result<Self, String> {
        parsed(node).ok_or_else(|| {
            format!(
                "not an address with a port: {}; write it in quotes, as in \"127.0.0.1:5555\" or \"[::]:5555\"",
                node.shown()
            )
        })
    }
}

impl Leaf for Prefix {
    fn read(node: &Node) -> Result<Self, String> {
        let bad =
            || format!("not a prefix: {}; write an address and a length, as in 192.0.2.128/25", node.shown());
        let Value::Text(text) = &node.value else { return Err(bad()) };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u8>().map_err(|_| bad())?)),
            None => (text.as_str(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(longest);
        if length > longest {
            return Err(format!("prefix longer than its address: {text:?}; the length is at most {longest}"));
        }
        let prefix = Prefix { address, length };
        let right = prefix.network();
        match right == prefix {
            true => Ok(prefix),
            false => Err(format!("address bits beyond the length: {text:?}; write {right}")),
        }
    }
}

impl Leaf for Vip {
    fn read(node: &Node) -> Result<Self, String> {
        let Value::Text(text) = &node.value else { return Err(no_address(node)) };
        let Some((address, _)) = text.split_once('/') else { return IpAddr::read(node).map(Vip::from) };
        if address.parse::<IpAddr>().is_err() {
            return Err(no_address(node));
        }
        let vip = Vip::new(Prefix::read(node)?);
        if vip.is_prefix() && vip.family() == Family::V4 {
            return Err(format!(
                "an IPv4 prefix: {text:?}; only IPv6 prefixes can be VIPs, write each address"
            ));
        }
        if vip.prefix().length == 0 {
            return Err(format!("all addresses there are: {text:?}; write a length from 1 to 128"));
        }
        Ok(vip)
    }
}

impl Leaf for Duration {
    fn read(node: &Node) -> Result<Self, String> {
        let bad = || format!("not a duration: {}; write one as in 500ms, 2s or 1m", node.shown());
        let Value::Text(text) = &node.value else { return Err(bad()) };
        let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let count: u32 = text[..unit].parse().map_err(|_| bad())?;
        let duration = match &text[unit..] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            _ => return Err(bad()),
        } * count;
        match duration.as_millis() {
            0 => Err(format!("no time at all: {text:?}; write at least 1ms")),
            1..=3_600_000 => Ok(duration),
            _ => Err(format!("too long: {text:?}; write at most 60m")),
        }
    }
}

/// A BGP community, as in `65000:100`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Community(pub u16, pub u16);

impl Leaf for Community {
    fn read(node: &Node) -> Result<Self, String> {
        let parts = match &node.value {
            Value::Text(text) => text.split_once(':'),
            _ => None,
        };
        parts.and_then(|(a, b)| Some(Community(a.parse().ok()?, b.parse().ok()?))).ok_or_else(|| {
            format!("not a community: {}; write it in quotes, as in \"65000:100\"", node.shown())
        })
    }
}

/// A word out of a few.
macro_rules! words {
    ($type:ty, $($word:literal => $value:expr),+) => {
        impl Leaf for $type {
            fn read(node: &Node) -> Result<Self, String> {
                match &node.value {
                    $(Value::Text(text) if text == $word => Ok($value),)+
                    _ => Err(format!("unknown: {}; write {}", node.shown(), [$($word),+].join(" or "))),
                }
            }
        }
    };
}
words!(Protocol, "tcp" => Protocol::Tcp, "udp" => Protocol::Udp);
words!(Affinity, "second-chance" => Affinity::SecondChance, "none" => Affinity::None,
       "flow-table" => Affinity::FlowTable, "quic" => Affinity::Quic);
words!(HashBy, "5-tuple" => HashBy::FiveTuple, "source" => HashBy::Source, "addresses" => HashBy::Addresses);
words!(Fragments, "drop" => Fragments::Drop, "forward" => Fragments::Forward);
words!(HostState, "active" => HostState::Active, "drain" => HostState::Drain, "down" => HostState::Down);
words!(XdpMode, "auto" => XdpMode::Auto, "native" => XdpMode::Native, "generic" => XdpMode::Generic);
words!(Decapsulation, "auto" => Decapsulation::Auto, "xdp" => Decapsulation::Xdp, "tc" => Decapsulation::Tc,
       "kernel" => Decapsulation::Kernel);
words!(Policy, "all" => Policy::All, "failover" => Policy::Failover, "weighted" => Policy::Weighted,
       "subnet" => Policy::Subnet, "geo" => Policy::Geo, "hash" => Policy::Hash);
words!(AllDown, "all" => AllDown::All, "fallback" => AllDown::Fallback, "servfail" => AllDown::Servfail,
       "none" => AllDown::None);
words!(BeforeChecks, "wait" => BeforeChecks::Wait, "answer" => BeforeChecks::Answer);
words!(State, "up" => State::Up, "down" => State::Down);

/// Which BGP speaker announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Driver {
    Bird,
    Gobgp,
}
words!(Driver, "bird" => Driver::Bird, "gobgp" => Driver::Gobgp);

/// What a check speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckType {
    Http,
    Tcp,
}
words!(CheckType, "http" => CheckType::Http, "tcp" => CheckType::Tcp);

/// Which way a probe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Address,
    Tunnel,
}
words!(Way, "address" => Way::Address, "tunnel" => Way::Tunnel);

fn parsed<T: std::str::FromStr>(node: &Node) -> Option<T> {
    match &node.value {
        Value::Text(text) => text.parse().ok(),
        _ => None,
    }
}

fn no_address(node: &Node) -> String {
    format!("not an IP address: {}; write an IPv4 or IPv6 address", node.shown())
}
