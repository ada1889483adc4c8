//! One host more in a pool of a thousand: how long its table takes, by its size. Needs root. Figures, no judgement:
//! `cargo bench -p lb-tests --bench new_table`.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::big_pool::{VIP, add, name, pool, rows, world};
use lb_tests::world::{World, directory};
use lb_user::config::Capacity;
use lb_user::dataplane::director::{Director, DirectorOptions};
use lb_user::model::Generation;

const HOSTS: u32 = 1000;
const ROUNDS: usize = 7;

fn main() {
    assert!(nix::unistd::geteuid().is_root(), "needs root, to load BPF programs");
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

fn director(world: &World) -> Director {
    let capacity = Capacity { hosts: 4096, ..Capacity::default() };
    let mut director = Director::load(DirectorOptions { capacity, ..World::options() }, None).unwrap();
    world.bring_to(&mut director).unwrap();
    director
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
