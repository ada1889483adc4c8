//! The directory of services, as userspace writes it and the program reads it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::maps::{Service, ServiceKey};
use lb_common::reasons::Director as Reason;
use lb_tests::isolation;
use lb_tests::packets::{Tcp, tcp, udp};
use lb_tests::vector::{Bench, Context, counted};
use lb_tests::world::{World, client4, directory, to_port, vip, vip4};
use lb_user::model::{self, Protocol};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Pairs of a TCP and a UDP port of a VIP that share a chain of the directory.
fn ports_that_meet(many: usize) -> Vec<(u16, u16)> {
    let vip = IpAddr::from(vip4(vip::WEB));
    let chain = |port: u16, protocol| ServiceKey::new(vip.into(), port.to_be(), protocol).chain();
    let tcp: BTreeMap<u32, u16> = (1000..=u16::MAX).map(|port| (chain(port, 6), port)).collect();
    (1000..=u16::MAX).filter_map(|udp| Some((*tcp.get(&chain(udp, 17))?, udp))).take(many).collect()
}

#[test]
#[ignore = "needs root"]
fn services_are_found_behind_others_of_their_chain_and_nothing_else_is() {
    if !isolation::can_run("chains of services") {
        return;
    }
    let mut world = World::default();
    let pairs = ports_that_meet(600);
    assert_eq!(pairs.len(), 600);
    let (both, alone) = pairs.split_at(300);
    let keys = pairs.iter().map(|pair| (pair.0, Protocol::Tcp));
    for (port, protocol) in keys.chain(both.iter().map(|pair| (pair.1, Protocol::Udp))) {
        let service = model::Service::of("web", protocol);
        let key = model::ServiceKey { vip: vip4(vip::WEB).into(), port, protocol };
        world.model.services.insert(key, service);
    }
    let mut director = world.director().unwrap();
    let mut fate = |packet: Vec<u8>| {
        let counters = director.counters().unwrap();
        director.run(&packet, &Context::Plain).unwrap();
        counted::<Reason>(&counters, &director.counters().unwrap())[0].0
    };
    let to = |port| to_port(client4(vip::WEB), port);
    assert!(pairs.iter().all(|pair| fate(tcp(to(pair.0), Tcp::Syn, b"")) == Reason::Forwarded));
    assert!(both.iter().all(|pair| fate(udp(to(pair.1), b"")) == Reason::Forwarded));
    assert!(alone.iter().all(|pair| fate(udp(to(pair.1), b"")) == Reason::NoService));
}

#[test]
#[ignore = "needs root"]
fn the_directory_holds_what_was_written_last() {
    if !isolation::can_run("the directory of services") {
        return;
    }
    let mut director = World::default().director().unwrap();
    let cell = std::cell::RefCell::new(directory(&mut director).unwrap());
    let original: BTreeMap<_, _> = cell.borrow().iter().collect();
    let director = std::cell::RefCell::new(director);
    let changes = proptest::collection::vec((0u16..400, any::<Option<u16>>()), 1..1500);
    let mut runner = TestRunner::new(Config { cases: 20, failure_persistence: None, ..Config::default() });
    let result = runner.run(&changes, |changes| {
        let services = &mut *cell.borrow_mut();
        let mut want = original.clone();
        for (port, generation) in changes {
            let key = ServiceKey::new(IpAddr::from(vip4(vip::NONE)).into(), port, 6);
            match generation {
                Some(generation) => {
                    let service = Service { generation, ..Service::default() };
                    services.insert(key, service).unwrap();
                    want.insert(key, service);
                }
                None => {
                    services.remove(&key);
                    want.remove(&key);
                }
            }
        }
        prop_assert_eq!(&services.iter().collect::<BTreeMap<_, _>>(), &want);
        let adopted = directory(&mut director.borrow_mut()).unwrap();
        prop_assert_eq!(&adopted.iter().collect::<BTreeMap<_, _>>(), &want);
        for key in want.keys().filter(|key| !original.contains_key(key)) {
            services.remove(key);
        }
        Ok(())
    });
    result.unwrap();
}
