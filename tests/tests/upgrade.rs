//! A new program takes the old one's place while packets arrive: each of them is counted at both ends.

use std::fs;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use lb_common::reasons::Director as Reason;
use lb_test_support::PATIENCE;
use lb_tests::isolation::{self, ip, isolated};
use lb_tests::vector::counted;
use lb_tests::world::{World, vip, vip4};
use lb_user::config::{Capacity, XdpMode};
use lb_user::dataplane::director::{Director, DirectorOptions};
use socket2::{Domain, Protocol, Socket, Type};

/// Packets on the way at most: fewer than any queue between holds.
const WINDOW: u64 = 32;
/// Programs that replace one another.
const UPGRADES: usize = 30;

#[test]
#[ignore = "needs root"]
fn no_packet_is_lost_while_programs_replace_one_another() {
    if isolation::can_run("upgrade under load") {
        // The same build again, over the maps that are pinned.
        isolated(|pins| upgrade(pins, [Capacity::default(); 2], true));
    }
}

#[test]
#[ignore = "needs root"]
fn nor_while_their_maps_are_made_anew() {
    if isolation::can_run("upgrade to maps of another shape under load") {
        let wide = Capacity { hosts: 8192, services: 2048, ..Capacity::default() };
        isolated(|pins| upgrade(pins, [Capacity::default(), wide], false));
    }
}

fn upgrade(pins: &Path, capacities: [Capacity; 2], adopts: bool) {
    let world = wired();
    // What XDP sends to the far end wakes it only if it has a program too. One without services passes everything.
    let mut far = Director::load(
        DirectorOptions { interfaces: vec!["far".into()], ..World::options() },
        Some(&pins.join("far")),
    )
    .unwrap();
    far.attach().unwrap();
    let start = |number: usize| {
        let capacity = capacities[number % 2];
        let options = DirectorOptions {
            interfaces: vec!["near".into()],
            xdp: XdpMode::Auto,
            capacity,
            ..World::options()
        };
        let mut director = Director::load(options, Some(pins)).unwrap();
        assert_eq!(director.adopted(), adopts && number > 0, "maps of upgrade {number}");
        world.bring_to(&mut director).unwrap();
        director.attach().unwrap();
        director
    };
    let director = start(0);
    let before = director.counters().unwrap();
    let mut programs = vec![program_id()];
    let stop = AtomicBool::new(false);
    let (sent, director) = thread::scope(|scope| {
        let mut director = director;
        let traffic = scope.spawn(|| traffic(&stop));
        for number in 1..=UPGRADES {
            thread::sleep(Duration::from_millis(20));
            // The agent of before is gone when the new one starts.
            drop(director);
            director = start(number);
            programs.push(program_id());
        }
        thread::sleep(Duration::from_millis(20));
        stop.store(true, Relaxed);
        (traffic.join().unwrap(), director)
    });
    println!("figure: packets during {UPGRADES} upgrades, none lost: {sent}");
    programs.dedup();
    assert_eq!(programs.len(), UPGRADES + 1, "each of them ran");
    assert!(sent > 100 * UPGRADES as u64, "{sent} packets are too few to prove anything");
    if adopts {
        // Every one of them met a program, and no other packet was forwarded.
        let forwarded = counted::<Reason>(&before, &director.counters().unwrap());
        assert!(forwarded.contains(&(Reason::Forwarded, sent)), "{sent} sent, {forwarded:?}");
    }
}

/// The id of the program on the interface.
fn program_id() -> String {
    let shown = ip("-details link show near");
    let (_, id) = shown.split_once(" id ").unwrap_or_else(|| panic!("no program on near: {shown}"));
    id.split_whitespace().next().unwrap().to_owned()
}

/// A world whose hosts are all at the far end of a wire, as the users are.
fn wired() -> World {
    ip("link add near type veth peer name far");
    for end in ["near", "far"] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "1").unwrap();
        fs::write(format!("/proc/sys/net/ipv4/conf/{end}/rp_filter"), "0").unwrap();
        ip(&format!("link set {end} up"));
    }
    fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
    for host in 8 * vip::WEB..8 * vip::WEB + 3 {
        ip(&format!("address add 192.0.2.{host}/32 dev far"));
    }
    let near = mac("near");
    ip(&format!("route add {}/32 dev far src 192.0.2.8", vip4(vip::WEB)));
    ip(&format!("neigh add {} lladdr {} dev far", vip4(vip::WEB), text(near)));
    let shown = ip("-oneline link show near");
    let ifindex = shown.split_once(':').unwrap().0.parse().unwrap();
    let mut world = World::default();
    for hop in world.nexthops.values_mut().flatten() {
        (hop.ifindex, hop.source_mac, hop.mac) = (ifindex, near, mac("far"));
    }
    world
}

fn mac(interface: &str) -> [u8; 6] {
    let shown = ip(&format!("-oneline link show {interface}"));
    let (_, rest) = shown.split_once("link/ether ").unwrap();
    let bytes: Vec<u8> = rest[..17].split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Sends numbered packets to the VIP and takes them out of the tunnel again, each exactly once, until told to stop. Returns
/// how many.
fn traffic(stop: &AtomicBool) -> u64 {
    const OUTER_AND_UDP: usize = 20 + 20 + 8;
    let user = UdpSocket::bind("192.0.2.8:0").unwrap();
    let host = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(4))).unwrap();
    host.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let host: UdpSocket = host.into();
    let (mut sent, mut seen) = (0_u64, 0_u64);
    let mut last = Instant::now();
    let mut missing: std::collections::BTreeSet<u64> = Default::default();
    while !stop.load(Relaxed) || !missing.is_empty() {
        while missing.len() < WINDOW as usize && !stop.load(Relaxed) {
            user.send_to(&sent.to_be_bytes(), (vip4(vip::WEB), 53)).unwrap();
            missing.insert(sent);
            sent += 1;
        }
        let mut packet = [0; 128];
        match host.recv(&mut packet) {
            Ok(len) => {
                let number = packet[OUTER_AND_UDP..len].try_into().map(u64::from_be_bytes).unwrap();
                assert!(missing.remove(&number), "packet {number} came twice");
                (seen, last) = (seen + 1, Instant::now());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(last.elapsed() < PATIENCE, "lost after {seen} packets: {missing:?}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    sent
}
