//! UDP services end to end, added to VIPs that are in use; ICMP errors that find the flow they quote.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use common::{Lab, PATIENCE, figure, look, wait_until};
use lab::namespace;

const PORT: u16 = 5353;
const VIPS: [&str; 2] = ["198.51.100.1", "2001:db8::c633:6401"];
/// More than a link of 1300 bytes carries, less than one of 1500.
const LONG: usize = 1400;

#[test]
#[ignore = "needs root"]
fn udp_services_and_the_icmp_errors_of_their_flows() {
    let sets = ["lb4=2", "lb7=3", "servers=1", "reflectors=1", "bgp=bird"];
    let Some((mut lab, _)) = Lab::up("udp", &sets) else { return };
    for node in lab.nodes("lb7-") {
        for vip in VIPS {
            answer(&lab, &node, vip.parse().expect("an address"));
        }
    }
    lab.step("a UDP service is added to VIPs in use", add_services);
    lab.step("every user is answered, always by the same host", users_are_answered);
    lab.step("packet too big reaches the host of the flow", too_big_reaches_the_host);
    lab.finish();
}

/// Answers each datagram to a VIP with the host's name, padded as the question says. Ends with the test.
fn answer(lab: &Lab, node: &str, vip: IpAddr) {
    let socket = namespace::enter(&lab.paths, node, || UdpSocket::bind((vip, PORT)));
    let (socket, name) = (socket.expect("entering").expect("binding a VIP"), node.to_string());
    thread::spawn(move || {
        let mut question = [0; 64];
        while let Ok((len, user)) = socket.recv_from(&mut question) {
            let padded = &question[..len] == b"long";
            let width = if padded { LONG } else { 0 };
            // An answer that does not fit is refused by the kernel once it knows; the user asks again.
            let _ = socket.send_to(format!("{name:<width$}").as_bytes(), user);
        }
    });
}

fn add_services(lab: &Lab) {
    let services: String =
        VIPS.map(|vip| format!("  - {{vip: \"{vip}\", port: {PORT}, protocol: udp, pool: web}}\n")).concat();
    for node in lab.nodes("lb4-") {
        lab.rewrite(&node, "services:\n", &format!("services:\n{services}"));
        lab.reload(&node);
        wait_until("the service is announced", PATIENCE, || {
            let status = lab.try_agent(&node)?;
            let served = status["services"].as_array().into_iter().flatten();
            // The lab has UDP services of its own, at another port.
            let udp = served
                .filter(|s| s["protocol"] == "udp" && s["port"] == PORT && s["announced"] == true)
                .count();
            common::check(udp == VIPS.len(), &status["reasons"])
        });
    }
}

/// A user's socket: the user's own address and port, connected to the VIP.
fn user(lab: &Lab, number: usize, vip: &str) -> UdpSocket {
    let vip: IpAddr = vip.parse().expect("an address");
    let from: IpAddr = match vip {
        IpAddr::V4(_) => format!("203.0.113.{number}").parse().expect("an address"),
        IpAddr::V6(_) => format!("2001:db8::cb00:71{number:02x}").parse().expect("an address"),
    };
    let socket = namespace::enter(&lab.paths, "users", || {
        let socket = UdpSocket::bind(SocketAddr::new(from, 0))?;
        socket.connect((vip, PORT))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok::<_, std::io::Error>(socket)
    });
    socket.expect("entering").expect("a user's socket")
}

fn ask(socket: &UdpSocket, question: &[u8]) -> Option<String> {
    socket.send(question).ok()?;
    let mut reply = [0; 2000];
    let len = socket.recv(&mut reply).ok()?;
    Some(String::from_utf8_lossy(&reply[..len]).trim_end().to_string())
}

fn users_are_answered(lab: &Lab) {
    let mut hosts = BTreeSet::new();
    for vip in VIPS {
        for number in 1..=40 {
            let socket = user(lab, number, vip);
            let answers: BTreeSet<_> = (0..3).map(|_| ask(&socket, b"who")).collect();
            let [Some(host)] = &answers.into_iter().collect::<Vec<_>>()[..] else {
                panic!("user {number} of {vip}: no answer, or of several hosts");
            };
            hosts.insert(host.clone());
        }
    }
    figure("UDP: 80 flows, 240 datagrams, all answered; hosts that answered", hosts.len());
    assert_eq!(hosts.len(), 3, "{hosts:?}");
}

/// The last link gets narrow: the router before it complains to the VIP, by way of any director. The complaint reaches
/// the host that sent the long answer, and no other one.
fn too_big_reaches_the_host(lab: &Lab) {
    look::inside(lab, "internet", &["ip", "link", "set", "dev", "eth0", "mtu", "1300"]);
    for (vip, numbers) in VIPS.iter().zip([101..=103, 111..=113]) {
        for number in numbers {
            let socket = user(lab, number, vip);
            let host = ask(&socket, b"who").expect("an answer");
            let before = complaints(lab);
            // The router complains at most once a second.
            let reached = (0..4).any(|_| {
                ask(&socket, b"long");
                complaints(lab)[&host] > before[&host]
            });
            assert!(reached, "user {number} of {vip}: no complaint reached {host}");
            for (other, count) in complaints(lab).iter().filter(|(other, _)| **other != host) {
                assert_eq!(*count, before[other], "user {number} of {vip}: {other} got what was for {host}");
            }
        }
    }
    let forwarded: u64 =
        lab.nodes("lb4-").iter().map(|n| lab.counter(n, "director", "forwarded_icmp_error")).sum();
    figure("ICMP errors that followed six flows to their hosts", forwarded);
    assert!(forwarded >= 6, "{forwarded}");
}

/// "Fragmentation needed" and "packet too big" that each host has received.
fn complaints(lab: &Lab) -> BTreeMap<String, u64> {
    let count = |node: &String| {
        let v6 = look::inside(lab, node, &["sed", "-n", "s/^Icmp6InPktTooBigs *//p", "/proc/net/snmp6"]);
        let v4 = look::inside(lab, node, &["awk", "/^Icmp: [0-9]/ {print $5}", "/proc/net/snmp"]);
        let number = |text: &str| text.trim().parse::<u64>().unwrap_or(0);
        (node.clone(), number(&v4) + number(&v6))
    };
    lab.nodes("lb7-").iter().map(count).collect()
}
