//! What a service says of ports, hash and fragments, end to end: real hosts put fragments together again.

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::wires::{Machine, can_run, wire};

/// All ports of these are a service that forwards fragments; of the second family, too.
const ALL_PORTS: [&str; 2] = ["198.51.100.1", "2001:db8::c633:6401"];
/// Port 80 of these is a service that hashes sources; of the first, fragments are dropped.
const BY_SOURCE: [&str; 2] = ["198.51.100.2", "2001:db8::c633:6402"];
const PORTS: [u16; 3] = [80, 5353, 65_535];
const HOSTS: [&str; 3] = ["h1", "h2", "h3"];
/// The client's addresses besides its own: 10.1.0.101, fd01::101 and so on.
const SOURCES: u8 = 40;
/// How long nothing comes that does not come.
const SILENCE: Duration = Duration::from_millis(300);

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The client's address of this number, in the family of the VIP.
fn source(number: u8, vip: IpAddr) -> IpAddr {
    let text = if vip.is_ipv4() {
        format!("10.1.0.{}", 100 + number)
    } else {
        format!("fd01::{}", 100 + u16::from(number))
    };
    address(&text)
}

/// Everybody: a client, a router, a director and its hosts, each on a wire of its own with the director, and with the router
/// for the way back.
struct Site {
    client: Machine,
    director: Machine,
    _others: Vec<Machine>,
}

fn site() -> Site {
    let [client, router, mut director] = ["client", "router", "director"].map(Machine::new);
    wire((&client, "eth0"), (&router, "users"), 1500);
    wire((&router, "directors"), (&director, "eth0"), 1500);
    for (machine, interface, net, last) in [
        (&client, "eth0", 1, 2),
        (&router, "users", 1, 1),
        (&router, "directors", 2, 1),
        (&director, "eth0", 2, 2),
    ] {
        machine.address(interface, net, last);
    }
    client.route(None, 1, 1);
    for number in 1..=SOURCES {
        let [four, six] = ALL_PORTS.map(|vip| source(number, address(vip)));
        client.sh(&format!("ip address add {four}/24 dev eth0; ip address add {six}/64 dev eth0 nodad"));
    }
    for vip in [ALL_PORTS, BY_SOURCE].concat() {
        let by = if vip.contains(':') { "fd02::2" } else { "10.2.0.2" };
        router.sh(&format!("ip route add {vip} via {by}"));
    }
    let vips = [ALL_PORTS, BY_SOURCE].concat().into_iter().map(address).collect::<Vec<_>>();
    let shared = shared();
    let mut others = vec![];
    for (name, number) in HOSTS.into_iter().zip(1..) {
        let (to_host, to_router) = (10 + number, 20 + number);
        let (at_director, at_router) = (format!("eth{number}"), format!("host{number}"));
        let mut host = Machine::new(name);
        wire((&director, &at_director), (&host, "eth0"), 1600);
        wire((&router, &at_router), (&host, "eth1"), 1500);
        for (machine, interface, net, last) in [
            (&director, &*at_director, to_host, 1),
            (&host, "eth0", to_host, 2),
            (&router, &at_router, to_router, 1),
            (&host, "eth1", to_router, 2),
        ] {
            machine.address(interface, net, last);
        }
        host.route(Some(1), to_router, 1);
        host.serve(&vips, &PORTS);
        host.start(&format!(
            "host: {{interfaces: [eth0], xdp: native, accept_from: [\"10.2.0.2\", \"fd02::2\"]}}\n{shared}"
        ));
        others.push(host);
    }
    let own = "source4: 10.2.0.2, source6: \"fd02::2\"";
    director.start(&format!("director: {{interfaces: [eth0], xdp: native, {own}}}\n{shared}"));
    others.push(router);
    Site { client, director, _others: others }
}

/// Pool and services of all nodes.
fn shared() -> String {
    let hosts: String = HOSTS
        .into_iter()
        .zip(11..)
        .map(|(name, net)| {
            format!("      {name}: {{address4: 10.{net}.0.2, address6: \"fd{net:02x}::2\"}}\n")
        })
        .collect();
    let service = |vip: &str, rest: &str| {
        ["tcp", "udp"]
            .map(|protocol| format!("  - {{vip: \"{vip}\", protocol: {protocol}, pool: web, {rest}}}\n"))
            .concat()
    };
    let all = ALL_PORTS.map(|vip| service(vip, "port: any, fragments: forward")).concat();
    let by_source = BY_SOURCE.map(|vip| service(vip, "port: 80, hash: source")).concat();
    format!("pools:\n  web:\n    size: 251\n    hosts:\n{hosts}services:\n{all}{by_source}")
}

#[test]
#[ignore = "needs root"]
fn any_port_hash_choices_and_fragments() {
    if !can_run("services end to end") {
        return;
    }
    let site = site();
    for vip in ALL_PORTS.map(address) {
        every_port_is_served_by_the_host_of_the_addresses(&site, vip);
        whole_or_in_pieces_it_is_the_same_host(&site, vip);
    }
    for [by_source, all_ports] in [[BY_SOURCE[0], ALL_PORTS[0]], [BY_SOURCE[1], ALL_PORTS[1]]] {
        a_source_has_one_host(&site, address(by_source), address(all_ports));
    }
    fragments_are_dropped_unless_they_are_wanted(&site, address(BY_SOURCE[0]));
}

fn every_port_is_served_by_the_host_of_the_addresses(site: &Site, vip: IpAddr) {
    let mut all = BTreeSet::new();
    for number in 1..=SOURCES {
        let from = source(number, vip);
        let mut of_source = BTreeSet::new();
        for port in PORTS {
            let to = SocketAddr::new(vip, port);
            of_source.insert(site.client.ask_from(from, to, 5000).expect("an answer by TCP"));
        }
        assert_eq!(of_source.len(), 1, "{from} to {vip}: {of_source:?}");
        all.append(&mut of_source);
    }
    assert_eq!(all.len(), HOSTS.len(), "{vip}: sources are spread over hosts: {all:?}");
    // Where no host listens, the host of the addresses says so.
    let refused = site.client.ask_from(source(1, vip), SocketAddr::new(vip, 9), 1).unwrap_err();
    assert!(refused.contains("refused"), "{refused}");
}

fn whole_or_in_pieces_it_is_the_same_host(site: &Site, vip: IpAddr) {
    let pieces = || site.director.counter("director", "forwarded_fragment");
    let before = pieces();
    for number in 1..=SOURCES {
        let to = SocketAddr::new(vip, PORTS[usize::from(number) % PORTS.len()]);
        let ask = |bytes| site.client.ask_udp_from(source(number, vip), to, bytes, Duration::from_secs(5));
        let [whole, in_pieces] = [100, 4000].map(|bytes| ask(bytes).expect("an answer by UDP"));
        assert_eq!(whole, in_pieces, "{to} from {}", source(number, vip));
    }
    // 4000 bytes in frames of 1500 are three.
    assert_eq!(pieces() - before, u64::from(SOURCES) * 3);
}

/// Whichever VIP of those that hash sources it asks, over whichever protocol; VIPs that hash both addresses differ.
fn a_source_has_one_host(site: &Site, vip: IpAddr, other: IpAddr) {
    let mut differ = 0;
    for number in 1..=SOURCES {
        let from = source(number, vip);
        let to = SocketAddr::new(vip, 80);
        let ask = || site.client.ask_from(from, to, 10).expect("an answer by TCP");
        let names: BTreeSet<_> = (0..3).map(|_| ask()).collect();
        assert_eq!(names.len(), 1, "{from} to {vip}: {names:?}");
        let by_udp =
            site.client.ask_udp_from(from, to, 10, Duration::from_secs(5)).expect("an answer by UDP");
        assert!(names.contains(&by_udp), "{from} to {vip}: {names:?} by TCP, {by_udp} by UDP");
        let elsewhere = site.client.ask_from(from, SocketAddr::new(other, 80), 10).expect("an answer");
        differ += usize::from(!names.contains(&elsewhere));
    }
    assert!(differ > 0, "{other} hashes its own address, too");
}

fn fragments_are_dropped_unless_they_are_wanted(site: &Site, vip: IpAddr) {
    let dropped = || site.director.counter("director", "fragment");
    let before = dropped();
    let from = source(1, vip);
    site.client.ask_udp_from(from, SocketAddr::new(vip, 80), 4000, SILENCE).unwrap_err();
    assert_eq!(dropped() - before, 3);
}
