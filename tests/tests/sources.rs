//! Lists of sources in the kernel over changes and restarts, and how fast a large one is there.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use lb_common::reasons::Director as Reason;
use lb_tests::isolation::{self, isolated};
use lb_tests::packets::{Tcp, tcp};
use lb_tests::vector::{Bench, Context, counted};
use lb_tests::world::{World, client4, from_client, vip, vip4};
use lb_user::bgp::Prefix;
use lb_user::dataplane::director::Director;
use lb_user::extras::SourceList;

fn reason(director: &mut Director, client: &str) -> Reason {
    let before = director.counters().unwrap();
    let ends = from_client(client4(vip::PICKY), client);
    director.run(&tcp(ends, Tcp::Syn, b""), &Context::Plain).unwrap();
    let reasons = counted::<Reason>(&before, &director.counters().unwrap());
    assert_eq!(reasons.len(), 1);
    reasons[0].0
}

/// Odd /32s, from 10.0.0.1 on.
fn many(count: u32) -> BTreeSet<Prefix> {
    let address = |n| Ipv4Addr::from_bits(0x0a00_0001 + 2 * n);
    (0..count).map(|n| Prefix { address: address(n).into(), length: 32 }).collect()
}

fn set(world: &mut World, list: SourceList) {
    let list = Arc::new(list);
    for (key, service) in &mut world.model.services {
        if key.vip == vip4(vip::PICKY).into() {
            service.extras.sources = Some(list.clone());
        }
    }
}

#[test]
#[ignore = "needs root"]
fn ten_thousand_prefixes_are_in_force_at_once_and_replaced_as_a_whole() {
    if !isolation::can_run("a long list of sources") {
        return;
    }
    let mut world = World::default();
    let mut director = world.director().unwrap();
    set(&mut world, SourceList { deny: many(10_000), ..SourceList::default() });
    let start = Instant::now();
    world.bring_to(&mut director).unwrap();
    let took = start.elapsed();
    println!("figure: a list of 10000 sources is in force after {took:.1?}");
    assert_eq!(reason(&mut director, "10.0.0.1"), Reason::SourceDenied);
    assert_eq!(reason(&mut director, "10.0.78.31"), Reason::SourceDenied, "the last one");
    assert_eq!(reason(&mut director, "10.0.0.2"), Reason::Forwarded);

    set(&mut world, SourceList { allow: many(9_000), ..SourceList::default() });
    world.bring_to(&mut director).unwrap();
    assert_eq!(reason(&mut director, "10.0.0.1"), Reason::Forwarded);
    assert_eq!(reason(&mut director, "10.0.78.31"), Reason::SourceDenied);
    for service in world.model.services.values_mut() {
        service.extras.sources = None;
    }
    world.bring_to(&mut director).unwrap();
    assert_eq!(reason(&mut director, "10.0.78.31"), Reason::Forwarded);
    assert_eq!(director.source_prefixes(), 0, "nothing is left of the lists");
}

#[test]
#[ignore = "needs root"]
fn a_restart_finds_the_lists_and_writes_none() {
    if !isolation::can_run("adoption of lists") {
        return;
    }
    isolated(|pins| {
        let world = World::default();
        let start = || {
            let mut director = Director::load(World::options(), Some(pins)).unwrap();
            let before = director.source_prefixes();
            world.bring_to(&mut director).unwrap();
            director.attach().unwrap();
            (director, before)
        };
        let (first, before) = start();
        // Three of one list, two of the other: each with the rule for all others.
        assert_eq!((before, first.source_prefixes()), (0, 5));
        drop(first);
        let (mut second, before) = start();
        assert_eq!((before, second.source_prefixes()), (5, 5));
        assert_eq!(reason(&mut second, "203.0.113.70"), Reason::SourceDenied);
        assert_eq!(reason(&mut second, "203.0.113.7"), Reason::Forwarded);
    });
}

/// A packet of a source that both lists deny meets one of them at every moment.
#[test]
#[ignore = "needs root"]
fn while_one_list_replaces_the_other_no_packet_finds_none() {
    if !isolation::can_run("a change of lists") {
        return;
    }
    isolated(|pins| {
        let mut world = World::default();
        set(&mut world, SourceList { deny: many(1), ..SourceList::default() });
        let mut changed = Director::load(World::options(), Some(pins)).unwrap();
        world.bring_to(&mut changed).unwrap();
        changed.attach().unwrap();
        // Another program over the same maps.
        let mut running = Director::load(World::options(), Some(pins)).unwrap();
        let stop = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut sent = 0_u64;
                while !stop.load(Relaxed) {
                    assert_eq!(reason(&mut running, "10.0.0.1"), Reason::SourceDenied, "packet {sent}");
                    sent += 1;
                }
                sent
            });
            for round in 0..20 {
                let sources = many(2 + round);
                let list = match round % 2 {
                    0 => SourceList { deny: sources, ..SourceList::default() },
                    _ => SourceList { allow: many(1_000).split_off(&host("10.0.1.1")), deny: sources },
                };
                set(&mut world, list);
                world.bring_to(&mut changed).unwrap();
            }
            stop.store(true, Relaxed);
            sender.join().unwrap()
        });
        println!("{sent} packets during 20 changes");
        assert!(sent > 20);
    });
}

fn host(address: &str) -> Prefix {
    Prefix::host(address.parse().unwrap())
}
