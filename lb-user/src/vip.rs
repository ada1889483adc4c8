//! What users connect to: an address, or every address of an IPv6 prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::bgp::Prefix;
use crate::model::Family;

/// A virtual address, or a prefix of such. Of several that hold an address the longest prefix counts, and the address
/// itself most.
///
/// In order, one that holds another comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Vip(Prefix);

impl Vip {
    /// All addresses of a prefix; bits beyond its length do not count.
    pub fn new(prefix: Prefix) -> Self {
        Vip(prefix.network())
    }

    /// As it is announced.
    pub const fn prefix(self) -> Prefix {
        self.0
    }

    /// The address, or the first one of the prefix.
    pub const fn first(self) -> IpAddr {
        self.0.address
    }

    /// The address, unless it is a prefix.
    pub fn address(self) -> Option<IpAddr> {
        (!self.is_prefix()).then_some(self.0.address)
    }

    /// It has more than one address.
    pub fn is_prefix(self) -> bool {
        self.0 != Prefix::host(self.0.address)
    }

    /// An address to try it by: of a prefix the second one, since the first one is that of all routers of the subnet
    /// (RFC 4291, section 2.6.1).
    pub fn sample(self) -> IpAddr {
        match self.0.address {
            IpAddr::V6(first) if self.is_prefix() => IpAddr::V6((first.to_bits() | 1).into()),
            address => address,
        }
    }

    /// Its family.
    pub const fn family(self) -> Family {
        Family::of(self.0.address)
    }

    /// The address is it, or in it.
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// All addresses of the other one are in it.
    pub fn covers(self, other: Vip) -> bool {
        self.0.length <= other.0.length && self.contains(other.first())
    }

    /// The prefix of so many leading bits that it is in; itself, if it has no more.
    pub(crate) fn within(self, length: u8) -> Self {
        Vip::new(Prefix { length: length.min(self.0.length), ..self.0 })
    }

    /// Leading bits that count in both and are the same; none for different families.
    pub(crate) fn shared(self, other: Vip) -> Option<u8> {
        let differ = match (self.first(), other.first()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return None,
        };
        Some((differ as u8).min(self.0.length).min(other.0.length))
    }
}

macro_rules! from_addresses {
    ($($address:ty),*) => {$(
        impl From<$address> for Vip {
            fn from(address: $address) -> Self {
                Vip(Prefix::host(address.into()))
            }
        }
    )*};
}
from_addresses!(IpAddr, Ipv4Addr, Ipv6Addr, [u8; 4]);

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f),
            None => self.0.fmt(f),
        }
    }
}

impl From<Vip> for String {
    fn from(vip: Vip) -> String {
        vip.to_string()
    }
}

impl TryFrom<String> for Vip {
    type Error = VipError;

    fn try_from(text: String) -> Result<Self, VipError> {
        text.parse()
    }
}

/// The text is neither an address nor a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no VIP; write an address, or an IPv6 prefix without bits beyond its length")]
pub struct VipError(String);

impl FromStr for Vip {
    type Err = VipError;

    fn from_str(text: &str) -> Result<Self, VipError> {
        let address = text.parse::<IpAddr>().ok().map(Vip::from);
        let prefix = text.parse::<Prefix>().ok().map(|prefix| (Vip::new(prefix), prefix));
        let prefix = prefix.filter(|(vip, prefix)| vip.0 == *prefix).map(|(vip, _)| vip);
        let usable = |vip: &Vip| !vip.is_prefix() || (vip.family() == Family::V6 && vip.0.length > 0);
        address.or(prefix).filter(usable).ok_or_else(|| VipError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(text: &str) -> Vip {
        text.parse().unwrap()
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        for text in ["198.51.100.1", "2001:db8::1", "2001:db8:5::/64", "2001:db8::/127", "8000::/1"] {
            assert_eq!(vip(text).to_string(), text);
            let json = serde_json::to_string(&vip(text)).unwrap();
            assert_eq!(serde_json::from_str::<Vip>(&json).unwrap(), vip(text), "{json}");
        }
        assert_eq!((vip("2001:db8::1/128"), vip("192.0.2.1/32")), (vip("2001:db8::1"), vip("192.0.2.1")));
        for text in ["", "2001:db8::1/64", "::/0", "2001:db8::/129", "192.0.2.0/24", "example.org"] {
            assert!(text.parse::<Vip>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_prefix_holds_its_addresses_and_longer_prefixes() {
        let prefix = vip("2001:db8:5::/64");
        for (inner, held) in [
            ("2001:db8:5::", true),
            ("2001:db8:5:0:ffff:ffff:ffff:ffff", true),
            ("2001:db8:5:1::", false),
            ("192.0.2.1", false),
        ] {
            assert_eq!((prefix.contains(inner.parse().unwrap()), prefix.covers(vip(inner))), (held, held));
        }
        assert!(prefix.covers(prefix) && prefix.covers(vip("2001:db8:5::/65")));
        assert!(!prefix.covers(vip("2001:db8:5::/63")) && prefix < vip("2001:db8:5::/65"));
    }

    #[test]
    fn it_is_tried_by_an_address_that_hosts_may_have() {
        assert_eq!(vip("2001:db8:5::/64").sample().to_string(), "2001:db8:5::1");
        assert_eq!(vip("2001:db8:5::").sample().to_string(), "2001:db8:5::");
    }
}
