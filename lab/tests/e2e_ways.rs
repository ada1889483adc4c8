//! Ways from a director to its hosts that the lab does not have: VLANs, several interfaces, routers in between.

mod common;

use std::net::IpAddr;

use common::wires::{Machine, can_run, has_vlans, wire};
use common::{PATIENCE, check, wait_until};

fn vips() -> [IpAddr; 2] {
    ["198.51.100.1", "2001:db8::c633:6401"].map(|vip| vip.parse().expect("an address"))
}

/// Pools and services of all nodes; hosts as NAME: NET, at number 2 of their networks.
fn shared(hosts: &[(&str, u8)]) -> String {
    let host = |(name, net): &(&str, u8)| {
        format!("      {name}: {{address4: 10.{net}.0.2, address6: \"fd{net:02x}::2\"}}\n")
    };
    let hosts: String = hosts.iter().map(host).collect();
    let [vip4, vip6] = vips();
    let services: String = [vip4, vip6]
        .map(|vip| {
            format!(
                "  - {{vip: \"{vip}\", port: 80, pool: web}}\n  - {{vip: \"{vip}\", port: 80, protocol: udp, pool: web}}\n"
            )
        })
        .concat();
    format!("pools:\n  web:\n    size: 251\n    hosts:\n{hosts}services:\n{services}")
}

const ANYBODY: &str = "accept_from: [\"10.0.0.0/8\", \"fd00::/8\"]";

/// Asks every VIP a few times, by TCP and UDP, so many bytes: from whom the answers came.
fn ask(client: &Machine, times: usize, bytes: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..times {
        for vip in vips() {
            names.push(client.ask(vip, bytes).expect("an answer by TCP"));
            names.push(client.ask_udp(vip, bytes.min(1400)).expect("an answer by UDP"));
        }
    }
    names.sort();
    names.dedup();
    names
}

/// Users in VLAN 5 of the director's only interface, hosts behind VLAN 6 within VLAN 100 of it, and in VLAN 7 of a host's.
#[test]
#[ignore = "needs root"]
fn vlans_in_and_out_of_one_interface() {
    if !can_run("VLANs end to end") || !has_vlans("vlans_in_and_out_of_one_interface") {
        return;
    }
    let [client, router, mut director, mut host] = ["client", "router", "director", "host"].map(Machine::new);
    wire((&client, "eth0"), (&router, "users"), 1500);
    wire((&router, "trunk"), (&director, "eth0"), 1600);
    wire((&router, "hosts"), (&host, "eth0"), 1600);
    router.pass("trunk");
    for (machine, interface, last) in [(&router, "trunk", 1), (&director, "eth0", 2)] {
        machine.vlan(interface, "802.1Q", 5);
        machine.address(&format!("{interface}.5"), 5, last);
        machine.vlan(interface, "802.1ad", 100);
        machine.vlan(&format!("{interface}.100"), "802.1Q", 6);
        machine.address(&format!("{interface}.100.6"), 6, last);
    }
    for (machine, interface, last) in [(&router, "hosts", 1), (&host, "eth0", 2)] {
        machine.vlan(interface, "802.1Q", 7);
        machine.address(&format!("{interface}.7"), 7, last);
    }
    router.address("users", 1, 1);
    client.address("eth0", 1, 2);
    client.route(None, 1, 1);
    host.route(None, 7, 1);
    director.route(Some(7), 6, 1);
    director.route(Some(1), 5, 1);
    router.sh("ip route add 198.51.100.1 via 10.5.0.2; ip -6 route add 2001:db8::c633:6401 via fd05::2");
    host.serve(&vips(), &[80]);

    let shared = shared(&[("host", 7)]);
    let source = "source4: 10.6.0.2, source6: \"fd06::2\"";
    director.start(&format!("director: {{interfaces: [eth0], xdp: native, {source}}}\n{shared}"));
    host.start(&format!("host: {{interfaces: [eth0], xdp: native, {ANYBODY}}}\n{shared}"));
    assert_eq!(ask(&client, 5, 40_000), ["host"]);
    assert!(director.counter("director", "forwarded") > 100);
    assert!(host.counter("host", "local") > 100, "the host's program took what came in VLAN 7");
    // The director's own answers go back in the VLAN of the question.
    for vip in vips() {
        client.ping(vip).expect("an answer");
    }
    assert_eq!(director.counter("director", "echo_answered"), 2);
    let trace = director.lb(&["trace", "tcp", "10.1.0.2:40000", "198.51.100.1:80"]).expect("a trace");
    assert!(trace.contains("sent        by eth0, tag 802.1ad 100, tag 802.1Q 6, to "), "{trace}");
    // The kernel's own packets pass with their tags.
    for address in ["10.5.0.2", "fd06::2"] {
        router.ping(address.parse().expect("an address")).expect("an answer");
    }
}

/// Frames of 9000 bytes and more all the way: in the driver, they come in several pieces.
fn jumbo_frames(xdp: &str) {
    if !can_run(&format!("jumbo frames, {xdp}")) {
        return;
    }
    let [client, router, mut director, mut host] = ["client", "router", "director", "host"].map(Machine::new);
    wire((&client, "eth0"), (&router, "users"), 9000);
    wire((&router, "directors"), (&director, "eth0"), 9000);
    wire((&director, "eth1"), (&host, "eth0"), 9100);
    wire((&router, "hosts"), (&host, "eth1"), 9000);
    for (machine, interface, net, last) in [
        (&client, "eth0", 1, 2),
        (&router, "users", 1, 1),
        (&router, "directors", 2, 1),
        (&director, "eth0", 2, 2),
        (&director, "eth1", 3, 1),
        (&host, "eth0", 3, 2),
        (&router, "hosts", 4, 1),
        (&host, "eth1", 4, 2),
    ] {
        machine.address(interface, net, last);
    }
    client.route(None, 1, 1);
    host.route(Some(1), 4, 1);
    router.sh("ip route add 198.51.100.1 via 10.2.0.2; ip -6 route add 2001:db8::c633:6401 via fd02::2");
    host.serve(&vips(), &[80]);
    let shared = shared(&[("host", 3)]);
    host.start(&format!("host: {{interfaces: [eth0], xdp: {xdp}, {ANYBODY}}}\n{shared}"));
    let source = "source4: 10.2.0.2, source6: \"fd02::2\"";
    director.start(&format!("director: {{interfaces: [eth0], xdp: {xdp}, {source}}}\n{shared}"));
    for vip in vips() {
        assert_eq!(client.ask(vip, 2_000_000).expect("an answer by TCP"), "host");
        for bytes in [8_950, 4_000, 3_500, 100] {
            assert_eq!(client.ask_udp(vip, bytes).expect("an answer by UDP"), "host", "{bytes} bytes");
        }
    }
    // In frames of 1500 bytes there would be six times as many.
    let frames = director.counter("director", "forwarded");
    assert!(frames < 1500, "{frames} frames for four million bytes: are they large?");
    assert!(host.counter("host", "local") >= 400);
}

#[test]
#[ignore = "needs root"]
fn jumbo_frames_in_the_driver() {
    jumbo_frames("native");
}

#[test]
#[ignore = "needs root"]
fn jumbo_frames_in_generic_mode() {
    jumbo_frames("generic");
}

/// Users at one interface; a host on the link of a second one, another behind a router at a third.
fn several_interfaces(xdp: &str) {
    if !can_run(&format!("several interfaces, {xdp}")) {
        return;
    }
    let [client, router, gateway] = ["client", "router", "gateway"].map(Machine::new);
    let [mut director, mut near, mut far] = ["director", "near", "far"].map(Machine::new);
    wire((&client, "eth0"), (&router, "users"), 1500);
    wire((&router, "directors"), (&director, "eth0"), 1500);
    wire((&director, "eth1"), (&near, "eth0"), 1600);
    wire((&director, "eth2"), (&gateway, "eth0"), 1600);
    wire((&gateway, "eth1"), (&far, "eth0"), 1600);
    // The way back meets no director.
    wire((&router, "near"), (&near, "eth1"), 1500);
    wire((&router, "far"), (&far, "eth1"), 1500);
    for (machine, interface, net, last) in [
        (&client, "eth0", 1, 2),
        (&router, "users", 1, 1),
        (&router, "directors", 2, 1),
        (&director, "eth0", 2, 2),
        (&director, "eth1", 3, 1),
        (&near, "eth0", 3, 2),
        (&director, "eth2", 4, 1),
        (&gateway, "eth0", 4, 2),
        (&gateway, "eth1", 5, 1),
        (&far, "eth0", 5, 2),
        (&router, "near", 6, 1),
        (&near, "eth1", 6, 2),
        (&router, "far", 7, 1),
        (&far, "eth1", 7, 2),
    ] {
        machine.address(interface, net, last);
    }
    client.route(None, 1, 1);
    near.route(Some(1), 6, 1);
    far.route(Some(1), 7, 1);
    far.route(None, 5, 1);
    director.route(Some(5), 4, 2);
    router.sh("ip route add 198.51.100.1 via 10.2.0.2; ip -6 route add 2001:db8::c633:6401 via fd02::2");
    // What the director sends by redirect is taken from the wire at once.
    gateway.pass("eth0");
    // Neighbours that are gone are noticed within seconds.
    director.sh("cd /proc/sys/net
        for family in ipv4 ipv6; do cd $family/neigh/eth1
          echo 1000 >base_reachable_time_ms; echo 1 >delay_first_probe_time; echo 100 >retrans_time_ms; cd ../../..; done");
    for host in [&near, &far] {
        host.serve(&vips(), &[80]);
    }
    let shared = shared(&[("near", 3), ("far", 5)]);
    for host in [&mut near, &mut far] {
        host.start(&format!("host: {{interfaces: [eth0], xdp: {xdp}, {ANYBODY}}}\n{shared}"));
    }
    let source = "source4: 10.2.0.2, source6: \"fd02::2\"";
    director.start(&format!("director: {{interfaces: [eth0], xdp: {xdp}, {source}}}\n{shared}"));
    assert_eq!(ask(&client, 20, 40_000), ["far", "near"], "both ways carry requests");

    // IPv6 goes on finding neighbours that it knows on an interface without ARP.
    near.sh("ip link set eth0 arp off; ip neigh flush all
        nft 'table ip6 silence {
            chain in { type filter hook input priority 0; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } drop; }
            chain out { type filter hook output priority 0; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } drop; }
        }'");
    let host = |name: &str| {
        let status = director.status()?;
        let hosts = status["hosts"].as_array().cloned().unwrap_or_default();
        hosts.into_iter().find(|host| host["name"] == name).ok_or_else(|| status.to_string())
    };
    wait_until("the director misses its neighbour", PATIENCE, || {
        let near = host("near")?;
        let reason = near["reason"].as_str().unwrap_or_default().to_owned();
        check(reason == "no neighbour entry for 10.3.0.2 on eth1 (state failed)", near)
    });
    assert_eq!(host("far").expect("far")["reason"], serde_json::Value::Null);
    wait_until("its rows go to the next owner", PATIENCE, || {
        let names = (0..10).flat_map(|_| vips()).map(|vip| client.ask(vip, 1));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        check(names.iter().all(|name| name == "far"), format!("{names:?}"))
    });
    assert_eq!(ask(&client, 10, 1000), ["far"]);

    near.sh("ip link set eth0 arp on; nft delete table ip6 silence");
    wait_until("the neighbour is back", PATIENCE, || {
        let near = host("near")?;
        check(near["reason"].is_null(), near)
    });
    assert_eq!(ask(&client, 20, 1000), ["far", "near"], "and has its rows again");
}

#[test]
#[ignore = "needs root"]
fn in_by_one_interface_and_out_by_others_in_the_driver() {
    several_interfaces("native");
}

#[test]
#[ignore = "needs root"]
fn in_by_one_interface_and_out_by_others_in_generic_mode() {
    several_interfaces("generic");
}
