//! A pool of many hosts, for what its table costs and how it changes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use lb_user::model::{Host, HostId, HostState, Pool, Protocol, Service, ServiceKey};
use lb_user::netlink::NextHop;
use lb_user::table::{self, Row};

use crate::world::{LOOPBACK, World};

/// The pool.
pub const POOL: &str = "big";
/// Its VIP; the port is 80, by TCP.
pub const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);

/// Where a host is.
pub fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + number)
}

/// What it is called.
pub fn name(number: u32) -> String {
    format!("h{number}")
}

/// A world with one pool of `hosts` hosts besides the others.
pub fn world(hosts: u32, size: u32) -> World {
    let mut world = World::default();
    let pool = Pool { seed: 1, size, generation: 1, ..Pool::default() };
    world.model.pools.insert(POOL.into(), pool);
    (0..hosts).for_each(|number| add(&mut world, number));
    let service = Service::of(POOL, Protocol::Tcp);
    world.model.services.insert(ServiceKey { vip: VIP.into(), port: 80, protocol: Protocol::Tcp }, service);
    world
}

/// Puts a host in.
pub fn add(world: &mut World, number: u32) {
    let address = address(number);
    let host = Host { address4: Some(address), address6: None, weight: 1, state: HostState::Active };
    let hop = NextHop {
        ifindex: LOOPBACK,
        source_mac: [2, 0, 0, 0, 0, 1],
        mac: [2, 0, 0, 0, 0, 2],
        mtu: 1500,
        source: Some(Ipv4Addr::new(192, 0, 2, 140).into()),
        below: None,
    };
    world.nexthops.insert(address.into(), Ok(hop));
    world.health.insert(HostId { pool: POOL.into(), host: name(number) }, true);
    pool(world).hosts.insert(name(number), host);
}

/// The pool in its world.
pub fn pool(world: &mut World) -> &mut Pool {
    world.model.pools.get_mut(POOL).unwrap()
}

/// The rows of the pool, in which a place is the number of a host.
pub fn rows(pool: &Pool) -> Vec<Row> {
    let number = |name: &String| (name.clone(), name[1..].parse().unwrap());
    let slots: BTreeMap<String, u16> = pool.hosts.keys().map(number).collect();
    table::rows(&pool.generations(), pool.seed, pool.size, &slots).unwrap().rows
}
