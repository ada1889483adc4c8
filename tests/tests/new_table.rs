//! While the table of a pool changes, no packet sees half of it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use lb_common::flow::{self, Flow};
use lb_tests::big_pool::{VIP, add, address, pool, rows, world};
use lb_tests::isolation;
use lb_tests::packets::{Ends, Tcp, tcp};
use lb_tests::vector::{Context, run};
use lb_tests::world::World;
use lb_user::dataplane::director::Director;
use lb_user::table::Row;

/// `XDP_TX`.
const TX: u32 = 3;

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
