//! One host more in a pool of a thousand: how long its table takes, and that no packet sees half of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use lb_common::flow::{self, Flow};
use lb_tests::isolation;
use lb_tests::packets::{Ends, Tcp, tcp};
use lb_tests::vector::{Context, run};
use lb_tests::world::{LOOPBACK, World, directory};
use lb_user::config::Capacity;
use lb_user::dataplane::director::{Director, DirectorOptions};
use lb_user::model::{Generation, Host, HostId, HostState, Pool, Protocol, Service, ServiceKey};
use lb_user::netlink::NextHop;
use lb_user::table::{self, Row};

/// The pool of all tests here.
const POOL: &str = "big";
const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
const HOSTS: u32 = 1000;
const ROUNDS: usize = 7;
/// `XDP_TX`.
const TX: u32 = 3;

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + number)
}

fn name(number: u32) -> String {
    format!("h{number}")
}

/// A world with one pool of `hosts` hosts besides the others.
fn world(hosts: u32, size: u32) -> World {
    let mut world = World::default();
    let pool = Pool { seed: 1, size, generation: 1, ..Pool::default() };
    world.model.pools.insert(POOL.into(), pool);
    (0..hosts).for_each(|number| add(&mut world, number));
    let service = Service::of(POOL, Protocol::Tcp);
    world.model.services.insert(ServiceKey { vip: VIP.into(), port: 80, protocol: Protocol::Tcp }, service);
    world
}

fn add(world: &mut World, number: u32) {
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

fn pool(world: &mut World) -> &mut Pool {
    world.model.pools.get_mut(POOL).unwrap()
}

fn director(world: &World) -> Director {
    let capacity = Capacity { hosts: 4096, ..Capacity::default() };
    let mut director = Director::load(DirectorOptions { capacity, ..World::options() }, None).unwrap();
    world.bring_to(&mut director).unwrap();
    director
}

/// The rows of the pool, in which a place is the number of a host.
fn rows(pool: &Pool) -> Vec<Row> {
    let number = |name: &String| (name.clone(), name[1..].parse().unwrap());
    let slots: BTreeMap<String, u16> = pool.hosts.keys().map(number).collect();
    table::rows(&pool.generations(), pool.seed, pool.size, &slots).unwrap().rows
}

/// When the service in the kernel named another table, and when the agent was told that all is done.
fn switch(world: &World, director: &mut Director) -> (Duration, Duration) {
    let services = directory(director).unwrap();
    let key = lb_common::maps::ServiceKey::new(IpAddr::from(VIP).into(), 80u16.to_be(), 6);
    let before = services.get(&key).unwrap().table;
    let start = Instant::now();
    thread::scope(|scope| {
        let chain = scope.spawn(move || {
            while services.get(&key).is_none_or(|service| service.table == before) {
                // Often enough to measure, and the cores are left to the director.
                thread::sleep(Duration::from_micros(50));
            }
            start.elapsed()
        });
        world.bring_to(director).unwrap();
        let done = start.elapsed();
        (chain.join().unwrap(), done)
    })
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Prints figures, and asserts nothing about time.
#[test]
#[ignore = "needs root"]
fn one_host_more() {
    if !isolation::can_run("time of a new table") {
        return;
    }
    for size in [251, 2003, 16381, 65537, 131_071, 655_373] {
        // As many as have a row each, with one more.
        let hosts = HOSTS.min(size - 1);
        for generations in 1..=2 {
            let mut world = world(hosts, size);
            let mut director = director(&world);
            let before = pool(&mut world).current();
            let [mut computed, mut switched, mut confirmed] = [const { Vec::new() }; 3];
            for _ in 0..ROUNDS {
                add(&mut world, hosts);
                let pool = pool(&mut world);
                pool.generation += 1;
                if generations == 2 {
                    pool.others = vec![Generation { number: pool.generation - 1, ..before.clone() }];
                }
                let start = Instant::now();
                rows(pool);
                computed.push(start.elapsed());
                let (table, all) = switch(&world, &mut director);
                switched.push(table);
                confirmed.push(all);
                let pool = self::pool(&mut world);
                pool.hosts.remove(&name(hosts));
                pool.others.clear();
                pool.generation += 1;
                world.bring_to(&mut director).unwrap();
            }
            println!(
                "figure: one host more of {hosts}, {size} rows, generations: {generations}: computed from nothing in {:.1?}, in \
                 force after {:.1?} (least {:.1?}), confirmed after {:.1?}",
                median(&mut computed),
                median(&mut switched),
                switched[0],
                median(&mut confirmed),
            );
        }
    }
}

/// Flows of which each has another row, and the packets of them.
fn flows() -> Vec<(Flow, Vec<u8>)> {
    let flow = |port: u16| {
        let ends = Ends::new(&format!("203.0.113.7:{port}"), &format!("{VIP}:80"));
        let flow = Flow {
            source: ends.source.ip().into(),
            destination: ends.destination.ip().into(),
            ports: Flow::ports(port, 80),
            protocol: 6,
            v6: false,
        };
        (flow, tcp(ends, Tcp::Ack, b""))
    };
    (20_000..20_500).map(flow).collect()
}

#[test]
#[ignore = "needs root"]
fn no_packet_sees_half_a_table() {
    if isolation::can_run("packets while a table changes") {
        isolation::isolated(change_under_packets);
    }
}

fn change_under_packets(pins: &Path) {
    // Two pools that have no host in common, of sizes that differ: whoever mixes them is seen.
    let mut world = world(40, 2003);
    (40..80).for_each(|number| add(&mut world, number));
    let all = pool(&mut world).hosts.clone();
    let state = |world: &mut World, second: bool| {
        let pool = pool(world);
        let of = |host: &String| host[1..].parse::<u32>().unwrap() >= 40;
        pool.hosts =
            all.iter().filter(|(name, _)| of(name) == second).map(|(n, h)| (n.clone(), h.clone())).collect();
        (pool.size, pool.generation) = if second { (4099, 2) } else { (2003, 1) };
        rows(pool)
    };
    let tables = [false, true].map(|second| (state(&mut world, second), if second { 2 } else { 1 }));
    state(&mut world, false);
    let mut director = Director::load(World::options(), Some(pins)).unwrap();
    world.bring_to(&mut director).unwrap();
    director.attach().unwrap();
    // The same program over the same maps, for another thread.
    let mut same = Director::load(World::options(), Some(pins)).unwrap();
    assert!(same.adopted());
    let stop = AtomicBool::new(false);
    let owner = |row: &Row| address(row[0].into());
    let seen = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let program = same.program().unwrap();
            let (flows, mut seen) = (flows(), [0_u64; 2]);
            while !stop.load(Relaxed) {
                for (flow, packet) in &flows {
                    let (action, sent) = run(program, packet, &Context::Plain).unwrap();
                    assert_eq!(action, TX, "a packet got lost");
                    let to = Ipv4Addr::from(<[u8; 4]>::try_from(&sent[30..34]).unwrap());
                    let generation = u16::from_be_bytes([sent[18], sent[19]]) >> 4;
                    let of = tables.iter().position(|(rows, number)| {
                        let row = flow::row(flow::hash(1, flow), rows.len() as u32);
                        owner(&rows[row as usize]) == to && *number == generation
                    });
                    seen[of.expect("sent to the owner by neither table, or with the other's generation")] +=
                        1;
                }
            }
            seen
        });
        for change in 1..=100 {
            // Hosts of the other state stay known for one step, as in a pool that drains.
            state(&mut world, change % 2 == 1);
            world.bring_to(&mut director).unwrap();
        }
        stop.store(true, Relaxed);
        sender.join().unwrap()
    });
    println!(
        "figure: packets while the table changed 100 times: {} by one table, {} by the other",
        seen[0], seen[1]
    );
    assert!(seen.iter().all(|packets| *packets > 0), "{seen:?}");
}
