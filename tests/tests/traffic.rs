//! What a director sent, by service and by host, and the memory of its maps.

use std::collections::BTreeMap;

use lb_tests::isolation;
use lb_tests::packets::{Tcp, tcp};
use lb_tests::vector::{Bench, Context};
use lb_tests::world::{World, client4, client6, vip};
use lb_user::dataplane::director::Director;
use lb_user::dataplane::usage;
use lb_user::model::{HostId, Protocol};

/// Packets and bytes by host, of those that got any.
fn sent(director: &Director) -> BTreeMap<String, (u64, u64)> {
    let hosts = director.host_traffic().unwrap().into_iter().filter(|(_, traffic)| traffic.packets > 0);
    hosts.map(|(HostId { pool, host }, t)| (format!("{pool}/{host}"), (t.packets, t.bytes))).collect()
}

#[test]
#[ignore = "needs root"]
fn packets_are_counted_at_their_service_and_at_their_host() {
    if !isolation::can_run("packets per service and host") {
        return;
    }
    let mut world = World::default();
    let mut director = world.director().unwrap();
    let (four, six) = (client4(vip::WEB), client6(vip::AWAY));
    for _ in 0..3 {
        director.run(&tcp(four, Tcp::Ack, b"four"), &Context::Plain).unwrap();
    }
    director.run(&tcp(six, Tcp::Ack, b""), &Context::Plain).unwrap();
    // Counted, but sent to nobody.
    director.run(&tcp(client4(vip::SICK), Tcp::Ack, b""), &Context::Plain).unwrap();
    let owner = world.owners(four, Protocol::Tcp)[0].clone();
    let of_owner = format!("web/{owner}");
    assert_eq!(sent(&director), [(of_owner.clone(), (3, 132)), ("away/a".into(), (1, 60))].into());
    let services = director.traffic().unwrap();
    let counted: Vec<_> = services.values().filter(|t| t.packets > 0).map(|t| (t.packets, t.bytes)).collect();
    assert_eq!(counted, [(3, 132), (1, 60)]);

    // Whoever gets its slot begins at nothing.
    let hosts = &mut world.model.pools.get_mut("web").unwrap().hosts;
    let gone = hosts.remove(&owner).unwrap();
    world.bring_to(&mut director).unwrap();
    assert_eq!(sent(&director), [("away/a".into(), (1, 60))].into());
    world.model.pools.get_mut("web").unwrap().hosts.insert(owner, gone);
    world.bring_to(&mut director).unwrap();
    assert_eq!(sent(&director), [("away/a".into(), (1, 60))].into());
}

#[test]
#[ignore = "needs root"]
fn memory_is_told_by_map_and_grows_with_the_tables() {
    if !isolation::can_run("memory of maps") {
        return;
    }
    let mut world = World::default();
    let mut director = world.director().unwrap();
    let of = |director: &Director, name: &str| {
        let memory = director.memory().unwrap();
        assert!(memory.iter().all(|used| used.map != "other"), "{memory:?}");
        memory.iter().find(|used| used.map == name).unwrap().bytes
    };
    assert!(of(&director, "FLOWS") >= 8 * u64::from(World::options().flows));
    let before = of(&director, usage::ROWS);
    world.model.pools.get_mut("web").unwrap().size = 65537;
    world.bring_to(&mut director).unwrap();
    assert!(of(&director, usage::ROWS) >= before + 8 * (65537 - 251));
}
