//! The world that packets travel in: services, pools and hosts, each of which shows one thing.
//!
//! Service `n` is 198.51.100.n and its twin 2001:db8::c633:64nn, port 80. Next hops are given by hand, so that nothing
//! depends on routes and neighbours of the machine.

mod kernel;
pub mod prefixes;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use lb_common::flow::{self, Addr, Flow};
use lb_common::maps::{NO_OWNER, Row};
use lb_user::config::{Capacity, FLOWS, XdpMode};
use lb_user::dataplane::counters::Counter;
use lb_user::dataplane::director::{Confirmed, Director, DirectorOptions};
use lb_user::dataplane::nexthops::Sources;
use lb_user::director_model::View;
use lb_user::extras::{Counted, Limit, Quic, SourceList};
use lb_user::model::{
    ANY_PORT, Affinity, Family, Fragments, HashBy, Host, HostId, HostState, Model, Pool, Protocol, Service,
    ServiceKey,
};
use lb_user::netlink::vlan::{Below, Tag};
use lb_user::netlink::{NextHop, NextHops};
use lb_user::table;
use lb_user::vip::Vip;

use crate::packets::{Ends, Outer, tunnel};
use crate::vector::{self, Bench, Context};

use kernel::take_table_away;
pub use kernel::{directory, map};

/// Rows of all tables: few, so that they are made at once.
pub const ROWS: u32 = 251;
/// Interface that test runs come in by: `lo`.
pub const LOOPBACK: u32 = 1;
/// Source of all IPv4 tunnels.
pub const DIRECTOR4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 140);
/// Source of all IPv6 tunnels.
pub const DIRECTOR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xc000, 0x28c);

/// What the services show, by the last byte of their VIPs.
pub mod vip {
    /// Three hosts with addresses of both families; also serves port 53/udp.
    pub const WEB: u8 = 1;
    /// Its host is behind another interface.
    pub const AWAY: u8 = 2;
    /// Its host has an IPv6 address only.
    pub const SIX_ONLY: u8 = 3;
    /// Its host has an IPv4 address only.
    pub const FOUR_ONLY: u8 = 4;
    /// Its host fails its health checks.
    pub const SICK: u8 = 5;
    /// There is no route to its host.
    pub const LOST: u8 = 6;
    /// All its hosts are drained: rows without owners.
    pub const DRAINED: u8 = 7;
    /// The way to its host takes packets of 600 bytes at most.
    pub const NARROW: u8 = 8;
    /// One of its two hosts fails its health checks.
    pub const FAILOVER: u8 = 9;
    /// Three hosts; the client's address alone chooses one. Also serves port 53/udp.
    pub const BY_SOURCE: u8 = 18;
    /// Three hosts; the addresses of client and VIP choose one. Also serves port 53/udp. Fragments are forwarded.
    pub const BY_ADDRESSES: u8 = 19;
    /// Serves any port by two hosts, but port 80 by those of [`BY_SOURCE`], and port 443 by those of [`WEB`].
    pub const ANY: u8 = 20;
    /// Names a slot without a table.
    pub const TABLELESS: u8 = 10;
    /// Serves some sources only: 203.0.113.0/24 without 203.0.113.64/26; over IPv6 all but 2001:db8::cb00:7140/122.
    pub const PICKY: u8 = 11;
    /// Three connections at once of each IPv4 address or IPv6 /64, and one more per hour.
    pub const SLOW: u8 = 12;
    /// Two packets at once of each /24 or /56 (at port 53/udp), and one more per hour.
    pub const SLOWER: u8 = 13;
    /// Port 443/udp goes by connection id: rotation bits 2, server ids of three bytes. Host a has id [`SERVER_A`] and is
    /// drained, b has [`SERVER_B`], c [`SERVER_C`] and is sick.
    pub const QUIC: u8 = 14;
    /// The way to its host leaves by a VLAN device on the interface that test runs come in by.
    pub const TAGGED: u8 = 15;
    /// The way to its host leaves by a VLAN device on one of another interface.
    pub const TWICE_TAGGED: u8 = 16;
    /// The way to its host takes packets of 9216 bytes.
    pub const JUMBO: u8 = 17;
    /// No VIP at all, though the address next to one.
    pub const NONE: u8 = 99;
}

/// Server id of host a of the pool `quic`.
pub const SERVER_A: [u8; 3] = [0, 0, 1];
/// Of host b.
pub const SERVER_B: [u8; 3] = [0xaa, 0xbb, 0xcc];
/// Of host c.
pub const SERVER_C: [u8; 3] = [3, 0, 0];

/// Generation of the pool of a VIP: more than the 12 bits that fit in an IPv4 header.
pub const fn generation(vip: u8) -> u16 {
    0xab00 + vip as u16
}

/// The IPv4 VIP.
pub const fn vip4(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, n)
}

/// Its IPv6 twin.
pub const fn vip6(n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xc633, 0x6400 + n as u16)
}

/// From a client's IPv4 address to port 80 of a VIP.
pub fn client4(n: u8) -> Ends {
    Ends::new("203.0.113.7:40000", &format!("{}:80", vip4(n)))
}

/// From a client's IPv6 address to port 80 of a VIP.
pub fn client6(n: u8) -> Ends {
    Ends::new("[2001:db8::cb00:7107]:40000", &format!("[{}]:80", vip6(n)))
}

/// The same ends, but another port of the VIP.
pub fn to_port(ends: Ends, port: u16) -> Ends {
    Ends { destination: SocketAddr::new(ends.destination.ip(), port), ..ends }
}

/// The same ends, but another port of the client.
pub fn from_port(ends: Ends, port: u16) -> Ends {
    Ends { source: SocketAddr::new(ends.source.ip(), port), ..ends }
}

/// The same ends, but another client.
pub fn from_client(ends: Ends, client: &str) -> Ends {
    Ends { source: SocketAddr::new(client.parse().unwrap(), ends.source.port()), ..ends }
}

/// Services, pools, next hops and health.
#[derive(Clone)]
pub struct World {
    /// What is wanted.
    pub model: Model,
    /// How hosts are reached.
    pub nexthops: NextHops,
    /// What health checks say.
    pub health: BTreeMap<HostId, bool>,
    /// Outer sources.
    pub sources: Sources,
    /// Rows by pool, with indices of sorted host names instead of slots.
    rows: BTreeMap<String, Vec<Row>>,
}

impl Default for World {
    fn default() -> Self {
        let mut world = World {
            model: Model::default(),
            nexthops: NextHops::new(),
            health: BTreeMap::new(),
            sources: Sources::default(),
            rows: BTreeMap::new(),
        };
        world.add("web", vip::WEB, &["a", "b", "c"]);
        world.add("away", vip::AWAY, &["a"]);
        world.add("six-only", vip::SIX_ONLY, &["a"]);
        world.add("four-only", vip::FOUR_ONLY, &["a"]);
        world.add("sick", vip::SICK, &["a"]);
        world.add("lost", vip::LOST, &["a"]);
        world.add("drained", vip::DRAINED, &["a", "b"]);
        world.add("narrow", vip::NARROW, &["a"]);
        world.add("failover", vip::FAILOVER, &["a", "b"]);
        world.add("tableless", vip::TABLELESS, &["a"]);
        world.add("tagged", vip::TAGGED, &["a"]);
        world.add("twice-tagged", vip::TWICE_TAGGED, &["a"]);
        world.add("by-source", vip::BY_SOURCE, &["a", "b", "c"]);
        world.add("by-addresses", vip::BY_ADDRESSES, &["a", "b", "c"]);
        world.add("any", vip::ANY, &["a", "b"]);
        for vip in [Vip::from(vip4(vip::ANY)), vip6(vip::ANY).into()] {
            let service = |port, protocol| ServiceKey { vip, port, protocol };
            world.serve(service(ANY_PORT, Protocol::Tcp), "any");
            world.serve(service(ANY_PORT, Protocol::Udp), "any");
            world.serve(service(80, Protocol::Tcp), "by-source");
            world.serve(service(443, Protocol::Tcp), "web");
        }

        for (n, pool) in
            [(vip::WEB, "web"), (vip::BY_SOURCE, "by-source"), (vip::BY_ADDRESSES, "by-addresses")]
        {
            for vip in [Vip::from(vip4(n)), vip6(n).into()] {
                world.serve(ServiceKey { vip, port: 53, protocol: Protocol::Udp }, pool);
            }
        }
        for service in world.model.services.values_mut() {
            service.hash = match &*service.pool {
                "by-source" => HashBy::Source,
                "by-addresses" => HashBy::Addresses,
                _ => HashBy::FiveTuple,
            };
            if service.hash == HashBy::Addresses {
                service.fragments = Fragments::Forward;
            }
        }
        world.add("picky", vip::PICKY, &["a", "b"]);
        world.sources(vip4(vip::PICKY).into(), &["203.0.113.0/24"], &["203.0.113.64/26"]);
        world.sources(vip6(vip::PICKY).into(), &[], &["2001:db8::cb00:7140/122"]);
        world.add("slow", vip::SLOW, &["a", "b"]);
        world.add("slower", vip::SLOWER, &["a"]);
        let hour = Duration::from_secs(3600);
        let slow =
            Limit { of: Counted::Connections, count: 1, per: hour, burst: 3, prefix4: 32, prefix6: 64 };
        let slower = Limit { of: Counted::Packets, count: 1, per: hour, burst: 2, prefix4: 24, prefix6: 56 };
        for vip in [Vip::from(vip4(vip::SLOWER)), vip6(vip::SLOWER).into()] {
            world.serve(ServiceKey { vip, port: 53, protocol: Protocol::Udp }, "slower");
        }
        for (key, service) in &mut world.model.services {
            service.extras.limit = match (service.pool.as_str(), key.protocol) {
                ("slow", _) => Some(slow),
                ("slower", Protocol::Udp) => Some(slower),
                _ => None,
            };
        }
        world.add("quic", vip::QUIC, &["a", "b", "c"]);
        world.host("quic", "a").state = HostState::Drain;
        world.health.insert(HostId { pool: "quic".into(), host: "c".into() }, false);
        let number = |id: [u8; 3]| id.into_iter().fold(0, |id, byte| id << 8 | u64::from(byte));
        let given = [("a", SERVER_A), ("b", SERVER_B), ("c", SERVER_C)];
        let given = given.map(|(host, id)| (host.to_owned(), number(id))).into();
        let quic = Arc::new(Quic { rotation: 2, length: 3, given });
        for vip in [Vip::from(vip4(vip::QUIC)), vip6(vip::QUIC).into()] {
            let key = ServiceKey { vip, port: 443, protocol: Protocol::Udp };
            world.serve(key, "quic");
            let service = world.model.services.get_mut(&key).unwrap();
            (service.affinity, service.extras.quic) = (Affinity::Quic, Some(quic.clone()));
        }
        world.hops("away", |hop| hop.ifindex = 77);
        world.hops("narrow", |hop| hop.mtu = 600);
        let by = |hop: &mut NextHop, ifindex, below, tags: &[(u16, u16)]| {
            let tags = tags.iter().map(|&(protocol, id)| Tag { protocol, id }).collect();
            (hop.ifindex, hop.below) = (ifindex, Some(Below { ifindex: below, tags }));
        };
        world.hops("tagged", |hop| by(hop, 55, LOOPBACK, &[(0x8100, 5)]));
        world.hops("twice-tagged", |hop| by(hop, 56, 77, &[(0x88a8, 100), (0x8100, 4094)]));
        world.host("six-only", "a").address4 = None;
        world.host("four-only", "a").address6 = None;
        for address in world.addresses("lost") {
            world.nexthops.insert(address, Err("no route".into()));
        }
        for host in ["a", "b"] {
            world.host("drained", host).state = HostState::Drain;
        }
        for pool in ["sick", "failover"] {
            world.health.insert(HostId { pool: pool.into(), host: "a".into() }, false);
        }
        world.add("jumbo", vip::JUMBO, &["a"]);
        world.hops("jumbo", |hop| hop.mtu = 9216);
        prefixes::add(&mut world);
        world.make_rows();
        world
    }
}

impl World {
    /// Adds a pool of healthy hosts, one hop away, and its services at port 80 of VIP `n`.
    fn add(&mut self, pool: &str, n: u8, hosts: &[&str]) {
        let seed = 0x5eed_0000 + u64::from(n);
        let members =
            Pool { seed, size: ROWS, generation: generation(n), hosts: BTreeMap::new(), ..Pool::default() };
        self.model.pools.insert(pool.into(), members);
        for (number, name) in hosts.iter().enumerate() {
            self.add_host(pool, name, 8 * n + number as u8);
        }
        for vip in [Vip::from(vip4(n)), vip6(n).into()] {
            self.serve(ServiceKey { vip, port: 80, protocol: Protocol::Tcp }, pool);
        }
    }

    /// Adds a healthy host, one hop away, at 192.0.2.`last` and its twin.
    pub fn add_host(&mut self, pool: &str, name: &str, last: u8) {
        let address4 = Ipv4Addr::new(192, 0, 2, last);
        let address6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xc000, 0x200 + u16::from(last));
        let host =
            Host { address4: Some(address4), address6: Some(address6), weight: 1, state: HostState::Active };
        self.model.pools.get_mut(pool).unwrap().hosts.insert(name.into(), host);
        self.health.insert(HostId { pool: pool.into(), host: name.into() }, true);
        let hop = |family, source| NextHop {
            ifindex: LOOPBACK,
            source_mac: [2, 0, 0, 0, family, 0x33],
            mac: [2, 0, 0, 0, family, last],
            mtu: 1500,
            source: Some(source),
            below: None,
        };
        self.nexthops.insert(address4.into(), Ok(hop(4, DIRECTOR4.into())));
        self.nexthops.insert(address6.into(), Ok(hop(6, DIRECTOR6.into())));
    }

    /// Adds a service.
    pub fn serve(&mut self, key: ServiceKey, pool: &str) {
        self.model.services.insert(key, Service::of(pool, key.protocol));
    }

    /// Gives the services of a VIP a list of sources.
    pub fn sources(&mut self, vip: Vip, allow: &[&str], deny: &[&str]) {
        let set = |prefixes: &[&str]| prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
        let list = Arc::new(SourceList { allow: set(allow), deny: set(deny) });
        for (_, service) in self.model.services.iter_mut().filter(|(key, _)| key.vip == vip) {
            service.extras.sources = Some(list.clone());
        }
    }

    fn host(&mut self, pool: &str, name: &str) -> &mut Host {
        self.model.pools.get_mut(pool).unwrap().hosts.get_mut(name).unwrap()
    }

    fn addresses(&self, pool: &str) -> Vec<IpAddr> {
        let hosts = self.model.pools[pool].hosts.values();
        hosts.flat_map(|host| Family::ALL.map(|family| host.outer(family).unwrap())).collect()
    }

    fn hops(&mut self, pool: &str, edit: impl Fn(&mut NextHop)) {
        for address in self.addresses(pool) {
            self.nexthops.get_mut(&address).unwrap().as_mut().map(&edit).unwrap();
        }
    }

    /// Makes the rows again, after a change of hosts.
    pub fn make_rows(&mut self) {
        self.rows = self.model.pools.iter().map(|(name, pool)| (name.clone(), rows_of(pool))).collect();
    }

    /// The service at an address and port.
    pub fn service(&self, to: SocketAddr, protocol: Protocol) -> Option<&Service> {
        self.model.service(to, protocol).map(|(_, service)| service)
    }

    /// The host that a flow belongs to, and the way there: the first of its row that is healthy and reachable.
    pub fn owner(&self, ends: Ends, protocol: Protocol) -> Option<(Outer, &NextHop)> {
        let service = self.service(ends.destination, protocol)?;
        let pool_name = &service.pool;
        let pool = &self.model.pools[pool_name];
        let hash = flow::hash(pool.seed, &part(service, ends, protocol));
        let row = flow::row(hash, pool.size);
        self.rows[pool_name][row as usize].iter().filter(|place| **place != NO_OWNER).find_map(|place| {
            let (name, host) = pool.hosts.iter().nth(usize::from(*place))?;
            let id = HostId { pool: pool_name.clone(), host: name.clone() };
            self.way(pool, host, Family::of(ends.destination.ip()), hash).filter(|_| self.health[&id])
        })
    }

    /// The way of a packet of this hash to a host.
    fn way(&self, pool: &Pool, host: &Host, family: Family, hash: u32) -> Option<(Outer, &NextHop)> {
        let destination = host.outer(family)?;
        let hop = self.nexthops.get(&destination)?.as_ref().ok()?;
        let source = match self.sources.spread(destination) {
            Some(prefix) => spread(prefix.address, prefix.length, hash),
            None => hop.source?,
        };
        let tags = hop.below.iter().flat_map(|below| &below.tags).map(|t| (t.protocol, t.id)).collect();
        let (own_mac, next_mac, generation) = (hop.source_mac, hop.mac, pool.generation);
        Some((Outer { own_mac, next_mac, source, destination, generation, tags }, hop))
    }

    /// `packet`, which belongs to the flow between `ends`, in the tunnel to this host of its pool, whoever owns its row.
    pub fn sent_to(&self, host: &str, ends: Ends, protocol: Protocol, packet: &[u8]) -> Vec<u8> {
        let service = self.service(ends.destination, protocol).unwrap();
        let pool = &self.model.pools[&service.pool];
        let hash = flow::hash(pool.seed, &part(service, ends, protocol));
        let family = Family::of(ends.destination.ip());
        tunnel(&self.way(pool, &pool.hosts[host], family, hash).unwrap().0, packet)
    }

    /// The owners of a flow's row, in order: hosts of its pool by name.
    pub fn owners(&self, ends: Ends, protocol: Protocol) -> Vec<String> {
        let service = self.service(ends.destination, protocol).unwrap();
        let pool_name = &service.pool;
        let pool = &self.model.pools[pool_name];
        let row = flow::row(flow::hash(pool.seed, &part(service, ends, protocol)), pool.size);
        let places = self.rows[pool_name][row as usize].iter().filter(|place| **place != NO_OWNER);
        places.map(|place| pool.hosts.keys().nth(usize::from(*place)).unwrap().clone()).collect()
    }

    /// `packet`, which belongs to the flow between `ends`, in the tunnel to its host.
    pub fn sent(&self, ends: Ends, protocol: Protocol, packet: &[u8]) -> Vec<u8> {
        tunnel(&self.owner(ends, protocol).unwrap().0, packet)
    }

    /// The director's options: no interfaces.
    pub fn options() -> DirectorOptions {
        DirectorOptions {
            interfaces: Vec::new(),
            xdp: XdpMode::Auto,
            flows: FLOWS,
            icmp_errors: u32::MAX,
            prefixes: true,
            capacity: Capacity::default(),
        }
    }

    /// Brings a director's maps to this world.
    pub fn bring_to(&self, director: &mut Director) -> lb_user::dataplane::Result<Confirmed> {
        director.sync(&self.model, self.sources, &self.nexthops, &self.health)
    }

    /// Brings a director's maps to this world, but for the table that is to be missing.
    pub fn bring_all_to(&self, director: &mut Director) -> Result<()> {
        self.bring_to(director)?;
        take_table_away(director)
    }

    /// The director over this world, without pins.
    pub fn director(&self) -> Result<Director> {
        let mut director = Director::load(Self::options(), None)?;
        self.bring_all_to(&mut director)?;
        Ok(director)
    }

    /// This world as the plain model of the director sees it.
    pub fn view(&self) -> View {
        let model = Arc::new(self.model.clone());
        let mut view = View::new(model, self.sources, self.nexthops.clone(), self.health.clone());
        view.make_tables(|pool| pool != "tableless");
        view
    }
}

impl Bench for Director {
    fn run(&mut self, packet: &[u8], context: &Context) -> Result<(u32, Vec<u8>)> {
        vector::run(self.program()?, packet, context)
    }

    fn counters(&self) -> Result<Vec<Counter>> {
        Ok(Director::counters(self)?)
    }
}

/// An address of a prefix by the low 16 bits of a hash, of which the lower byte comes first.
fn spread(address: IpAddr, length: u8, hash: u32) -> IpAddr {
    let chosen = (hash as u16).swap_bytes();
    let free = |bits: u8| (1u32 << (bits - length)) as u16;
    match address {
        IpAddr::V4(v4) => {
            Ipv4Addr::from_bits(v4.to_bits() | u32::from(chosen & free(32).wrapping_sub(1))).into()
        }
        IpAddr::V6(v6) => {
            Ipv6Addr::from_bits(v6.to_bits() | u128::from(chosen & free(128).wrapping_sub(1))).into()
        }
    }
}

/// What of a flow chooses its row.
fn part(service: &Service, ends: Ends, protocol: Protocol) -> Flow {
    let (source, destination) = (ends.source.ip().into(), ends.destination.ip().into());
    let whole = Flow {
        source,
        destination,
        ports: Flow::ports(ends.source.port(), ends.destination.port()),
        protocol: protocol.number(),
        v6: ends.source.is_ipv6(),
    };
    match service.hash {
        HashBy::FiveTuple => whole,
        HashBy::Source => Flow { destination: Addr::v6([0; 4]), ports: 0, protocol: 0, ..whole },
        HashBy::Addresses => Flow { ports: 0, protocol: 0, ..whole },
    }
}

fn rows_of(pool: &Pool) -> Vec<Row> {
    let slots = pool.hosts.keys().cloned().zip(0..).collect();
    match pool.current().hosts.is_empty() {
        true => vec![[NO_OWNER; 4]; pool.size as usize],
        false => table::rows(&pool.generations(), pool.seed, pool.size, &slots).unwrap().rows,
    }
}
