//! What a service may ask of directors beyond a table: who may use it, how much, and where QUIC's connection ids lead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::bgp::Prefix;
use crate::model::Host;
use crate::table::host_id;

/// What a service asks for; nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Who may use it; everybody without a list.
    pub sources: Option<Arc<SourceList>>,
    /// How much each source may use it; without bounds if there is none.
    pub limit: Option<Limit>,
    /// How connection ids name hosts; only with [`crate::model::Affinity::Quic`].
    pub quic: Option<Arc<Quic>>,
}

/// Source addresses that may use a service, and those that may not. The longest prefix decides; what none holds may use the
/// service unless some prefix is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceList {
    /// These may.
    pub allow: BTreeSet<Prefix>,
    /// These may not.
    pub deny: BTreeSet<Prefix>,
}

/// How much each source may use a service, at each director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is counted.
    pub of: Counted,
    /// So many of them, 1 or more,
    pub count: u32,
    /// in this time.
    pub per: Duration,
    /// So many at once, 1 or more, after a time of silence.
    pub burst: u32,
    /// Leading bits of IPv4 addresses that make a source.
    pub prefix4: u8,
    /// Leading bits of IPv6 addresses that make a source.
    pub prefix6: u8,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// TCP segments that open a connection.
    Connections,
    /// All packets of flows; errors about them are not counted.
    Packets,
}

impl Limit {
    /// Nanoseconds for each, in the long run.
    pub fn interval(&self) -> u64 {
        (self.per.as_nanos() as u64 / u64::from(self.count)).max(1)
    }

    /// The prefix that an address belongs to.
    pub fn source(&self, address: IpAddr) -> Prefix {
        match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix4)).unwrap_or(0);
                Prefix { address: Ipv4Addr::from_bits(v4.to_bits() & mask).into(), length: self.prefix4 }
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix6)).unwrap_or(0);
                Prefix { address: Ipv6Addr::from_bits(v6.to_bits() & mask).into(), length: self.prefix6 }
            }
        }
    }
}

/// How the connection ids of a QUIC service name hosts: config rotation bits and server id of draft-ietf-quic-load-balancers, not
/// encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quic {
    /// Config rotation bits, 0 to 6.
    pub rotation: u8,
    /// Bytes of a server id, 1 to 8.
    pub length: u8,
    /// Server ids of hosts by name, as far as they are given.
    pub given: BTreeMap<String, u64>,
}

impl Quic {
    /// The server id of each host of a pool: the given one, or else a hash of the names of pool and host. Of two hosts with the
    /// same id the one whose name comes first has it, and the other none.
    pub fn server_ids(&self, pool: &str, hosts: &BTreeMap<String, Host>) -> BTreeMap<u64, String> {
        let mut ids = BTreeMap::new();
        let named =
            |is_given: bool| hosts.keys().filter(move |host| self.given.contains_key(*host) == is_given);
        for host in named(true).chain(named(false)) {
            let derived = || host_id(&format!("{pool}\n{host}")) >> (64 - 8 * u32::from(self.length));
            let id = self.given.get(host).copied().unwrap_or_else(derived);
            ids.entry(id).or_insert_with(|| host.clone());
        }
        ids
    }

    /// As servers are given it.
    pub fn shown(&self, id: u64) -> String {
        format!("{id:0width$x}", width = 2 * usize::from(self.length))
    }
}

/// What a list says of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// It may use the service.
    pub allowed: bool,
    /// The prefix that says so; `None`: no prefix holds it.
    pub by: Option<Prefix>,
}

impl SourceList {
    /// What becomes of sources that no prefix holds.
    pub fn allows_others(&self) -> bool {
        self.allow.is_empty()
    }

    /// What it says of a source.
    pub fn ruling(&self, source: IpAddr) -> Ruling {
        let longest = |prefixes: &BTreeSet<Prefix>| {
            let holding = prefixes.iter().filter(|prefix| prefix.contains(source));
            holding.max_by_key(|prefix| prefix.length).copied()
        };
        match (longest(&self.allow), longest(&self.deny)) {
            (None, None) => Ruling { allowed: self.allows_others(), by: None },
            (Some(allow), Some(deny)) if allow.length < deny.length => {
                Ruling { allowed: false, by: Some(deny) }
            }
            (Some(allow), _) => Ruling { allowed: true, by: Some(allow) },
            (None, deny) => Ruling { allowed: false, by: deny },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(prefixes: &[&str]) -> BTreeSet<Prefix> {
        prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect()
    }

    #[test]
    fn the_longest_prefix_decides() {
        let list = SourceList {
            allow: set(&["10.0.0.0/8", "10.1.2.0/24"]),
            deny: set(&["10.1.0.0/16", "10.1.2.3/32"]),
        };
        let says = |source: &str| {
            let Ruling { allowed, by } = list.ruling(source.parse().unwrap());
            (allowed, by.map(|by| by.length))
        };
        assert_eq!(says("10.9.9.9"), (true, Some(8)));
        assert_eq!(says("10.1.9.9"), (false, Some(16)));
        assert_eq!(says("10.1.2.9"), (true, Some(24)));
        assert_eq!(says("10.1.2.3"), (false, Some(32)));
        assert_eq!(says("11.0.0.0"), (false, None), "others may not, where some are allowed");
    }

    #[test]
    fn a_limit_is_one_of_prefixes() {
        let per = Duration::from_secs(1);
        let limit = Limit { of: Counted::Packets, count: 3, per, burst: 3, prefix4: 24, prefix6: 0 };
        assert_eq!(limit.interval(), 333_333_333);
        assert_eq!(limit.source("203.0.113.7".parse().unwrap()).to_string(), "203.0.113.0/24");
        assert_eq!(limit.source("2001:db8::1".parse().unwrap()).to_string(), "::/0");
    }

    #[test]
    fn with_nothing_but_denials_all_others_may() {
        let list = SourceList { deny: set(&["2001:db8::/32"]), ..SourceList::default() };
        assert!(!list.ruling("2001:db8::1".parse().unwrap()).allowed);
        assert!(list.ruling("2001:db9::1".parse().unwrap()).allowed);
    }
}
