//! The director's maps and links over restarts and changes, on a BPF file system and a network of their own.

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapInfo};
use aya::programs::links::{FdLink, PinnedLink};
use lb_common::maps::{Nexthop, Row, Service, ServiceKey};
use lb_common::reasons::Director as Reason;
use lb_tests::isolation::{self, ip, isolated};
use lb_tests::packets::{ETHERNET, Ends, Tcp, tcp};
use lb_tests::vector::{Bench, Context, counted};
use lb_tests::world::{World, client4, client6, generation, prefixes, vip, vip4};
use lb_user::config::{Capacity, XdpMode};
use lb_user::dataplane::director::{Confirmed, Director, DirectorOptions};
use lb_user::dataplane::services::Services;
use lb_user::dataplane::{Error, Mode};
use lb_user::model::{Affinity, HostId, HostState, Protocol};
use lb_user::vip::Vip;

fn open<T: TryFrom<Map, Error = aya::maps::MapError>>(pins: &Path, name: &str) -> T {
    let path = pins.join("director/maps").join(name);
    T::try_from(Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap()).unwrap()
}

/// Loads, brings up to date and attaches, as the agent does when it starts.
fn start(world: &World, options: DirectorOptions, pins: &Path) -> (Director, Confirmed) {
    let mut director = Director::load(options, Some(pins)).unwrap();
    let confirmed = world.bring_to(&mut director).unwrap();
    director.attach().unwrap();
    (director, confirmed)
}

/// Services by VIP and port, and the kernel's id of the table of each.
fn services(pins: &Path) -> BTreeMap<(String, u16, u8), (Service, u32)> {
    let tables: ArrayOfMaps<MapData, MapData> = open(pins, "TABLES");
    let data = |name| MapData::from_pin(pins.join("director/maps").join(name)).unwrap();
    let (chains, entries) = (data("SERVICE_CHAINS"), data("SERVICES"));
    let capacity = entries.info().unwrap().max_entries();
    let all = Services::take(&chains, &entries, capacity).unwrap();
    let entry = |(key, service): (ServiceKey, Service)| {
        let table = tables.get(&service.table, 0).unwrap().info().unwrap().id();
        let vip = std::net::IpAddr::from(key.vip()).to_string();
        ((vip, key.port(), key.protocol()), (service, table))
    };
    all.iter().filter(|(key, _)| key.is_service()).map(entry).collect()
}

fn rows(pins: &Path, slot: u32) -> Vec<Row> {
    let tables: ArrayOfMaps<MapData, Array<MapData, Row>> = open(pins, "TABLES");
    tables.get(&slot, 0).unwrap().iter().map(|row| row.unwrap()).collect()
}

fn nexthops(pins: &Path) -> Vec<Nexthop> {
    let map: Array<MapData, Nexthop> = open(pins, "NEXTHOPS");
    (0..128).map(|index| map.get(&index, 0).unwrap()).collect()
}

/// What the program does with a SYN, and the packet afterwards.
fn send(director: &mut Director, ends: Ends) -> (Reason, Vec<u8>) {
    let before = director.counters().unwrap();
    let (_, output) = director.run(&tcp(ends, Tcp::Syn, b""), &Context::Plain).unwrap();
    let reasons = counted::<Reason>(&before, &director.counters().unwrap());
    assert_eq!(reasons.len(), 1);
    (reasons[0].0, output)
}

#[test]
#[ignore = "needs root"]
fn a_restart_adopts_tables_and_health_and_writes_nothing() {
    if !isolation::can_run("adoption") {
        return;
    }
    isolated(|pins| {
        let world = World::default();
        let (mut first, confirmed) = start(&world, World::options(), pins);
        assert!(!first.adopted());
        let (have, hops) = (services(pins), nexthops(pins));
        let sent = send(&mut first, client4(vip::WEB));
        let forwarded = |director: &Director| director.counters().unwrap()[0].value;
        let count = forwarded(&first);
        drop(first);

        let mut second = Director::load(World::options(), Some(pins)).unwrap();
        assert!(second.adopted());
        assert_eq!(second.adopted_health(&world.model), world.health);
        assert_eq!(forwarded(&second), count, "counters go on");
        assert_eq!(send(&mut second, client4(vip::WEB)), sent, "before the first sync");
        assert_eq!(world.bring_to(&mut second).unwrap(), confirmed);
        assert_eq!(services(pins), have, "same slots, same tables in the kernel");
        assert_eq!(nexthops(pins), hops);
        assert_eq!(send(&mut second, client4(vip::WEB)), sent);
    });
}

#[test]
#[ignore = "needs root"]
fn pinned_maps_of_another_shape_are_replaced_when_the_programs_are_attached() {
    if !isolation::can_run("maps of another shape") {
        return;
    }
    isolated(|pins| {
        let world = World::default();
        drop(start(&world, World::options(), pins));
        let path = pins.join("director/maps/SERVICES");
        std::fs::remove_file(&path).unwrap();
        let foreign = HashMap::<MapData, u32, u32>::create(4, 0).unwrap();
        foreign.pin(&path).unwrap();
        let foreign_id = MapInfo::from_pin(&path).unwrap().id();

        let mut director = Director::load(World::options(), Some(pins)).unwrap();
        assert!(!director.adopted());
        world.bring_to(&mut director).unwrap();
        assert_eq!(MapInfo::from_pin(&path).unwrap().id(), foreign_id, "kept until programs are attached");
        director.attach().unwrap();
        assert_eq!(MapInfo::from_pin(&path).unwrap().value_size(), 64);
        assert_eq!(services(pins).len(), world.model.services.len());
        drop(director);
        assert!(Director::load(World::options(), Some(pins)).unwrap().adopted());
    });
}

/// Blue serves, green waits without a service, blue changes, then green takes over.
#[test]
#[ignore = "needs root"]
fn a_pool_that_waits_for_services_keeps_its_table() {
    if !isolation::can_run("a pool without services") {
        return;
    }
    isolated(|pins| {
        let mut world = World::default();
        let green = world.model.pools["web"].clone();
        world.model.pools.insert("green".into(), green);
        for host in ["a", "b", "c"] {
            world.health.insert(HostId { pool: "green".into(), host: host.into() }, true);
        }
        let (mut director, _) = start(&world, World::options(), pins);
        let before = send(&mut director, client4(vip::WEB));
        world.add_host("web", "d", 200);
        let away: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        world.model.pools.get_mut("web").unwrap().hosts.retain(|name, _| !away.contains(name));
        world.bring_to(&mut director).unwrap();
        assert_ne!(send(&mut director, client4(vip::WEB)), before, "only the new host serves");
        for service in world.model.services.values_mut().filter(|service| service.pool == "web") {
            service.pool = "green".into();
        }
        world.bring_to(&mut director).unwrap();
        assert_eq!(send(&mut director, client4(vip::WEB)), before, "green has the hosts that blue had");
    });
}

#[test]
#[ignore = "needs root"]
fn another_capacity_makes_the_maps_anew() {
    if !isolation::can_run("another capacity") {
        return;
    }
    isolated(|pins| {
        let world = World::default();
        drop(start(&world, World::options(), pins));
        let larger = Capacity { services: 2048, ..Capacity::default() };
        let (director, _) = start(&world, DirectorOptions { capacity: larger, ..World::options() }, pins);
        assert!(!director.adopted());
        assert_eq!(
            MapInfo::from_pin(pins.join("director/maps/SERVICES")).unwrap().max_entries(),
            4 * 2048 + 1
        );
        assert_eq!(services(pins).len(), world.model.services.len());
    });
}

#[test]
#[ignore = "needs root"]
fn a_new_host_takes_rows_and_the_header_names_the_new_generation() {
    if !isolation::can_run("a new host") {
        return;
    }
    isolated(|pins| {
        let mut world = World::default();
        world.model.pools.get_mut("web").unwrap().size = 65537;
        let (mut director, _) = start(&world, World::options(), pins);
        let key = (vip4(vip::WEB).to_string(), 80, 6);
        let (before, hops) = (services(pins), nexthops(pins));
        let old_rows = rows(pins, before[&key].0.table);

        world.add_host("web", "d", 250);
        world.model.pools.get_mut("web").unwrap().generation = 7;
        world.make_rows();
        world.bring_to(&mut director).unwrap();
        let after = services(pins);
        let new_rows = rows(pins, after[&key].0.table);
        let used = 2 * world.model.hosts().count();
        assert_eq!(nexthops(pins)[..used - 2], hops[..used - 2], "hosts keep their slots");
        let new_slot = (used / 2 - 1) as u16;
        let moved = old_rows.iter().zip(&new_rows).filter(|(old, new)| old[0] != new[0]);
        let (taken, reshuffled): (Vec<_>, Vec<_>) = moved.partition(|(_, new)| new[0] == new_slot);
        assert!((15_000..18_000).contains(&taken.len()), "a quarter of the rows, not {}", taken.len());
        // Maglev keeps most but not all of the others; see its paper, section 5.3.
        assert!(reshuffled.len() < 65537 / 20, "{} rows moved between old hosts", reshuffled.len());
        for (key, service) in
            before.iter().filter(|(_, (service, _))| service.generation != generation(vip::WEB))
        {
            assert_eq!(&after[key], service, "other pools' tables are not touched");
        }
        for ends in [client4(vip::WEB), client6(vip::WEB)] {
            let want = world.sent(ends, Protocol::Tcp, &tcp(ends, Tcp::Syn, b""));
            assert_eq!(send(&mut director, ends), (Reason::Forwarded, want));
        }
        let (_, output) = send(&mut director, client4(vip::WEB));
        assert_eq!(output[ETHERNET + 4..ETHERNET + 6], [0, 0x70], "generation 7, hop 0");
    });
}

#[test]
#[ignore = "needs root"]
fn a_service_that_is_removed_leaves_no_key_behind() {
    if !isolation::can_run("removal of a service") {
        return;
    }
    let mut world = World::default();
    let mut director = world.director().unwrap();
    let (web, dns) = (client4(vip::WEB), client4(vip::AWAY));
    assert_eq!(send(&mut director, web).0, Reason::Forwarded);
    // Port 53 keeps the one VIP; nothing keeps the other.
    let gone = [web.destination, dns.destination];
    world.model.services.retain(|key, _| !gone.contains(&(key.vip.first(), key.port).into()));
    let confirmed = world.bring_to(&mut director).unwrap();
    assert_eq!(
        confirmed.services.keys().collect::<Vec<_>>(),
        world.model.services.keys().collect::<Vec<_>>()
    );
    assert_eq!(send(&mut director, web).0, Reason::NoService);
    assert_eq!(send(&mut director, dns).0, Reason::NotVip);
    assert_eq!(send(&mut director, client6(vip::WEB)).0, Reason::Forwarded);
}

#[test]
#[ignore = "needs root"]
fn prefixes_come_and_go_and_stay_while_no_agent_runs() {
    if !isolation::can_run("prefixes that come and go") {
        return;
    }
    isolated(|pins| {
        let mut world = World::default();
        let (mut director, _) = start(&world, World::options(), pins);
        let (ends, dns) = (prefixes::to("2001:db8:5::1", 80), prefixes::to("2001:db8:5::1", 53));
        let sent = |world: &World| world.sent(ends, Protocol::Tcp, &tcp(ends, Tcp::Syn, b""));
        let fate = |director: &mut Director| send(director, ends);
        assert_eq!(fate(&mut director), (Reason::Forwarded, sent(&world)));
        drop(director);
        let mut director = Director::load(World::options(), Some(pins)).unwrap();
        assert!(director.adopted());
        assert_eq!(fate(&mut director), (Reason::Forwarded, sent(&world)));

        let all = world.model.services.clone();
        let prefix = |text: &str| text.parse::<Vip>().unwrap();
        world.model.services.retain(|key, _| key.vip != prefix(prefixes::WIDE));
        world.bring_to(&mut director).unwrap();
        assert_eq!(world.service(ends.destination, Protocol::Tcp).unwrap().pool, "widest");
        assert_eq!(fate(&mut director), (Reason::Forwarded, sent(&world)));
        assert_eq!(send(&mut director, dns).0, Reason::Forwarded, "over TCP any port is served");
        world.model.services.retain(|key, _| !key.vip.is_prefix());
        world.bring_to(&mut director).unwrap();
        assert_eq!(fate(&mut director).0, Reason::NotVip);
        world.model.services = all;
        world.bring_to(&mut director).unwrap();
        assert_eq!(fate(&mut director), (Reason::Forwarded, sent(&world)));
    });
}

/// What looks for prefixes is no part of a program that need not; the next one takes over its maps.
#[test]
#[ignore = "needs root"]
fn a_program_that_looks_for_prefixes_takes_the_place_of_one_that_does_not() {
    if !isolation::can_run("the first prefix") {
        return;
    }
    isolated(|pins| {
        let world = World::default();
        let plain = DirectorOptions { prefixes: false, ..World::options() };
        let (mut director, _) = start(&world, plain, pins);
        let ends = prefixes::to("2001:db8:5::1", 80);
        assert_eq!(send(&mut director, ends).0, Reason::NotVip);
        let (long, web) = (director.program().unwrap().info().unwrap(), client6(vip::WEB));
        assert_eq!(send(&mut director, web).0, Reason::Forwarded);
        let (mut director, _) = start(&world, World::options(), pins);
        assert!(director.adopted());
        assert_eq!(send(&mut director, ends).0, Reason::Forwarded);
        let longer = director.program().unwrap().info().unwrap();
        assert!(long.size_translated() < longer.size_translated());
        let [without, with] = [long, longer].map(|info| info.verified_instruction_count().unwrap());
        println!("figure: instructions that the verifier goes through: {without}, and {with} with prefixes");
    });
}

#[test]
#[ignore = "needs root"]
fn a_new_service_does_not_inherit_the_traffic_of_a_former_one() {
    if !isolation::can_run("traffic of a new service") {
        return;
    }
    let mut world = World::default();
    let mut director = world.director().unwrap();
    let key = |n, port| lb_user::model::ServiceKey { vip: vip4(n).into(), port, protocol: Protocol::Tcp };
    send(&mut director, client4(vip::AWAY));
    assert_eq!(director.traffic().unwrap()[&key(vip::AWAY, 80)].packets, 1);
    world.model.services.remove(&key(vip::AWAY, 80));
    world.bring_to(&mut director).unwrap();
    world.serve(key(vip::AWAY, 8080), "away");
    world.bring_to(&mut director).unwrap();
    assert_eq!(director.traffic().unwrap()[&key(vip::AWAY, 8080)].packets, 0);
}

#[test]
#[ignore = "needs root"]
fn health_moves_packets_without_a_new_table() {
    if !isolation::can_run("a change of health") {
        return;
    }
    isolated(|pins| {
        let mut world = World::default();
        let (mut director, _) = start(&world, World::options(), pins);
        let have = services(pins);
        for host in ["a", "b", "c"] {
            world.health.insert(HostId { pool: "web".into(), host: host.into() }, false);
            world.bring_to(&mut director).unwrap();
            let want = world.owner(client4(vip::WEB), Protocol::Tcp).is_some();
            let reason = if want { Reason::Forwarded } else { Reason::NoHost };
            assert_eq!(send(&mut director, client4(vip::WEB)).0, reason, "{host} is sick");
        }
        assert_eq!(services(pins), have);
    });
}

#[test]
#[ignore = "needs root"]
fn what_exceeds_a_capacity_is_refused_by_name_and_changes_nothing() {
    if !isolation::can_run("capacities") {
        return;
    }
    let world = World::default();
    let (services, hosts, pools) =
        (world.model.services.len(), world.model.hosts().count(), world.model.pools.len());
    let exact = Capacity { services: services as u32, hosts: hosts as u32, tables: pools as u32 + 1 };
    let options = DirectorOptions { capacity: exact, ..World::options() };
    let mut director = Director::load(options, None).unwrap();
    world.bring_to(&mut director).unwrap();
    let sent = send(&mut director, client4(vip::WEB));

    let mut more_services = world.clone();
    let vip = vip4(200).into();
    more_services.serve(lb_user::model::ServiceKey { vip, port: 80, protocol: Protocol::Tcp }, "web");
    let mut more_hosts = world.clone();
    more_hosts.add_host("web", "d", 250);
    let mut more_pools = world.clone();
    let empty = lb_user::model::Pool { hosts: BTreeMap::new(), ..world.model.pools["web"].clone() };
    more_pools.model.pools.insert("another".into(), empty);
    let cases = [
        (more_services, "services", services + 1, services),
        (more_hosts, "hosts", hosts + 1, hosts),
        (more_pools, "tables", pools + 2, pools + 1),
    ];
    for (larger, name, wanted, held) in cases {
        let error = larger.bring_to(&mut director).unwrap_err();
        let Error::Capacity { want, room, key, .. } = &error else { panic!("{error}") };
        assert_eq!((*key, *want, *room), (name, wanted, held));
        assert_eq!(send(&mut director, client4(vip::WEB)), sent, "after too many {name}");
        assert!(world.bring_to(&mut director).is_ok());
    }
}

/// `ip -j link` names mode (1 native, 2 generic) and program.
fn xdp(interface: &str) -> (u64, u64) {
    let json: serde_json::Value = serde_json::from_str(&ip(&format!("-j link show {interface}"))).unwrap();
    let xdp = &json[0]["xdp"];
    (xdp["mode"].as_u64().unwrap(), xdp["prog"]["id"].as_u64().unwrap())
}

#[test]
#[ignore = "needs root"]
fn a_restart_replaces_the_program_behind_the_same_link() {
    if !isolation::can_run("links") {
        return;
    }
    for (choice, mode, number) in
        [(XdpMode::Auto, Mode::XdpNative, 1), (XdpMode::Generic, Mode::XdpGeneric, 2)]
    {
        isolated(|pins| {
            ip("link add uplink type veth peer name router");
            let world = World::default();
            let options =
                DirectorOptions { interfaces: vec!["uplink".into()], xdp: choice, ..World::options() };
            let (first, _) = start(&world, options.clone(), pins);
            let attached = first.attached()[0].clone();
            assert_eq!((attached.mode, attached.adopted), (mode, false));
            let link = || FdLink::from(PinnedLink::from_pin(&attached.pin).unwrap()).info().unwrap();
            let (id, (have_mode, program)) = (link().id(), xdp("uplink"));
            assert_eq!(have_mode, number);
            drop(first);
            assert_eq!(xdp("uplink"), (number, program), "without the agent the program goes on");

            let (second, _) = start(&world, options, pins);
            assert_eq!((second.attached()[0].mode, second.attached()[0].adopted), (mode, true));
            assert_eq!(link().id(), id);
            assert_ne!(xdp("uplink").1, program);
            assert_eq!(u64::from(link().program_id()), xdp("uplink").1);
        });
    }
}

#[test]
#[ignore = "needs root"]
fn another_choice_of_mode_replaces_the_link() {
    if !isolation::can_run("change of mode") {
        return;
    }
    isolated(|pins| {
        ip("link add uplink type veth peer name router");
        let world = World::default();
        let with = |xdp| DirectorOptions { interfaces: vec!["uplink".into()], xdp, ..World::options() };
        drop(start(&world, with(XdpMode::Native), pins));
        assert_eq!(xdp("uplink").0, 1);
        let (director, _) = start(&world, with(XdpMode::Generic), pins);
        assert_eq!((director.attached()[0].mode, director.attached()[0].adopted), (Mode::XdpGeneric, false));
        assert_eq!(xdp("uplink").0, 2);
    });
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_is_missing_is_named() {
    if !isolation::can_run("a missing interface") {
        return;
    }
    isolated(|pins| {
        let options = DirectorOptions { interfaces: vec!["nowhere0".into()], ..World::options() };
        let mut director = Director::load(options, Some(pins)).unwrap();
        let error = director.attach().unwrap_err().to_string();
        assert!(error.contains("nowhere0"), "{error}");
    });
}

#[test]
#[ignore = "needs root"]
fn a_flow_table_keeps_flows_at_their_hosts_but_other_directors_do_not_know_it() {
    if !isolation::can_run("flow tables") {
        return;
    }
    let of_flow = |affinity| {
        let mut world = World::default();
        world.model.services.values_mut().for_each(|service| service.affinity = affinity);
        let (mut first, mut second) = (world.director().unwrap(), world.director().unwrap());
        let ends = [client4(vip::WEB), client6(vip::WEB)];
        let before = ends.map(|ends| send(&mut first, ends));
        for ends in ends {
            let owner = world.owners(ends, Protocol::Tcp)[0].clone();
            world.model.pools.get_mut("web").unwrap().hosts.get_mut(&owner).unwrap().state = HostState::Drain;
        }
        for director in [&mut first, &mut second] {
            world.bring_to(director).unwrap();
        }
        let after = ends.map(|ends| send(&mut first, ends) == send(&mut second, ends));
        (ends.map(|ends| before.contains(&send(&mut first, ends))), after)
    };
    assert_eq!(of_flow(Affinity::FlowTable), ([true; 2], [false; 2]));
    assert_eq!(of_flow(Affinity::SecondChance), ([false; 2], [true; 2]));
}
