//! `lb capture`, end to end: packets over a veth pair, through the director's program, into a file and back by other readers.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lb_common::reasons::Director as Reason;
use lb_tests::isolation::{self, ip, isolated};
use lb_tests::world::{World, vip, vip4, vip6};
use lb_user::capture::pcapng::{Packet, Writer};
use lb_user::capture::{Capture, Options, Told};
use lb_user::dataplane::director::{Director, DirectorOptions};
use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{Block, OptionCode, PcapBlockOwned, PcapNGReader};

/// No packet is under way any more after that: all were sent before.
const SILENCE: Duration = Duration::from_secs(5);
const ALL: Options = Options { every: 1, bytes: 256, reasons: Vec::new() };

/// A director on `uplink`, the other end of which, `router`, is where users are.
fn director(pins: &Path) -> Director {
    ip("link add uplink type veth peer name router");
    ip("addr add 203.0.113.7/32 dev router");
    ip("addr add 2001:db8::cb00:7107/128 dev router nodad");
    ip("link set uplink up");
    ip("link set router up");
    ip("route add 198.51.100.0/24 dev router src 203.0.113.7");
    ip("-6 route add 2001:db8::c633:6400/120 dev router src 2001:db8::cb00:7107");
    for to in [vip4(vip::WEB).to_string(), vip4(vip::NONE).to_string(), vip6(vip::WEB).to_string()] {
        ip(&format!("neigh add {to} lladdr 02:00:00:00:00:01 dev router"));
    }
    let world = World::default();
    let options = DirectorOptions { interfaces: vec!["uplink".into()], ..World::options() };
    let mut director = Director::load(options, Some(pins)).unwrap();
    world.bring_to(&mut director).unwrap();
    director.attach().unwrap();
    director
}

fn program() -> u64 {
    let json: serde_json::Value = serde_json::from_str(&ip("-j link show uplink")).unwrap();
    json[0]["xdp"]["prog"]["id"].as_u64().unwrap()
}

/// Sends three packets to the director: to a service, to a port without one and to no VIP; and one over IPv6.
fn send() {
    let v4 = UdpSocket::bind("203.0.113.7:40000").unwrap();
    for to in [(vip4(vip::WEB), 53), (vip4(vip::WEB), 9999), (vip4(vip::NONE), 53)] {
        v4.send_to(b"a query", to).unwrap();
    }
    let v6 = UdpSocket::bind("[2001:db8::cb00:7107]:40000").unwrap();
    v6.send_to(b"a query", (vip6(vip::WEB), 53)).unwrap();
}

/// The packets of our client that are captured, until there are so many or none has come for a while.
fn captured(capture: &mut Capture, count: usize) -> Vec<Told> {
    let (mut all, mut last) = (Vec::new(), Instant::now());
    while all.len() < count && last.elapsed() < SILENCE {
        let more = capture.next_packets(Duration::from_millis(100)).unwrap();
        if !more.is_empty() {
            last = Instant::now();
        }
        all.extend(more);
        // The kernel says hello by IPv6 as well.
        all.retain(|told| told.flow.is_some_and(|flow| flow.source.port() == 40000));
    }
    all
}

#[test]
#[ignore = "needs root"]
fn what_is_captured_is_read_back_with_its_verdict() {
    if !isolation::can_run("lb capture") {
        return;
    }
    isolated(|pins| {
        let director = director(pins);
        let own = program();
        let mut capture = Capture::start(pins, &ALL).unwrap();
        assert_ne!(program(), own, "another program stands in for it");
        send();
        let packets = captured(&mut capture, 4);
        drop(capture);
        assert_eq!(program(), own, "and goes when the capture ends");
        let forwarded = director.counters().unwrap();
        let forwarded = forwarded.iter().find(|counter| counter.name == "forwarded").unwrap().value;
        assert_eq!(forwarded, 2, "both programs count in the same place");

        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = Writer::new(file.reopen().unwrap()).unwrap();
        for told in &packets {
            let comment = told.line();
            let Told { interface, time, bytes, len, action, .. } = told;
            let packet =
                Packet { interface, time: *time, bytes, len: *len, action: *action, comment: &comment };
            writer.packet(&packet).unwrap();
        }
        let (interfaces, comments) = read(file.path());
        assert_eq!(interfaces, ["uplink"]);
        assert_eq!(comments.len(), 4, "{comments:?}");
        let (v4, v6) = (vip4(vip::WEB), vip6(vip::WEB));
        assert!(comments[0].starts_with(&format!("tx (forwarded) service {v4}:53/udp host 192.0.2.")));
        assert_eq!(comments[1], format!("drop (no_service) service {v4}:9999/udp"));
        assert_eq!(comments[2], format!("pass (not_vip) service {}:53/udp", vip4(vip::NONE)));
        assert!(comments[3].starts_with(&format!("tx (forwarded) service [{v6}]:53/udp host 2001:db8::")));
        tcpdump(file.path());
    });
}

/// Names of interfaces, and comments of packets.
fn read(file: &Path) -> (Vec<String>, Vec<String>) {
    let mut reader = PcapNGReader::new(1 << 16, std::fs::File::open(file).unwrap()).unwrap();
    let (mut interfaces, mut comments) = (Vec::new(), Vec::new());
    while let Ok((size, block)) = reader.next() {
        match block {
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                interfaces.push(interface.if_name().unwrap().unwrap().to_owned());
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let comment = packet.options.iter().find(|option| option.code == OptionCode::Comment);
                comments.push(comment.unwrap().as_str().unwrap().to_owned());
            }
            _ => {}
        }
        reader.consume(size);
    }
    (interfaces, comments)
}

/// Another reader, where it is installed.
fn tcpdump(file: &Path) {
    let Ok(output) = Command::new("tcpdump").arg("-tnr").arg(file).output() else {
        println!("not read by tcpdump, which is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.lines().count(), 4, "{said}");
    assert!(said.contains("203.0.113.7.40000 > 198.51.100.1.53"), "{said}");
}

#[test]
#[ignore = "needs root"]
fn reasons_are_chosen_in_the_kernel_and_samples_are_taken() {
    if !isolation::can_run("choices of lb capture") {
        return;
    }
    isolated(|pins| {
        let _director = director(pins);
        let options = Options { reasons: vec![Reason::NoService], ..ALL };
        let mut capture = Capture::start(pins, &options).unwrap();
        send();
        send();
        let packets = captured(&mut capture, 3);
        assert_eq!(packets.iter().map(|told| told.reason).collect::<Vec<_>>(), ["no_service"; 2]);
        drop(capture);

        let mut capture = Capture::start(pins, &Options { every: 10, ..ALL }).unwrap();
        for _ in 0..500 {
            send();
        }
        let packets = captured(&mut capture, 2000).len();
        // 200 are expected, with a deviation of 13.
        assert!((100..300).contains(&packets), "{packets} of 2000");
    });
}

/// The program that stands in has to look for prefixes, too.
#[test]
#[ignore = "needs root"]
fn a_prefix_is_served_while_packets_are_captured() {
    if !isolation::can_run("a prefix beside lb capture") {
        return;
    }
    isolated(|pins| {
        let _director = director(pins);
        let to = "2001:db8:5::9";
        ip(&format!("-6 route add {to} dev router src 2001:db8::cb00:7107"));
        ip(&format!("neigh add {to} lladdr 02:00:00:00:00:01 dev router"));
        let mut capture = Capture::start(pins, &ALL).unwrap();
        let client = UdpSocket::bind("[2001:db8::cb00:7107]:40000").unwrap();
        client.send_to(b"a query", (to, 53)).unwrap();
        let packets = captured(&mut capture, 1);
        let told = packets[0].line();
        assert!(told.starts_with("tx (forwarded) service [2001:db8:5::9]:53/udp host 2001:db8::"), "{told}");
    });
}

/// Whoever replaces the program meanwhile keeps what he has put there.
#[test]
#[ignore = "needs root"]
fn an_agent_that_starts_meanwhile_is_not_undone() {
    if !isolation::can_run("lb capture beside a start") {
        return;
    }
    isolated(|pins| {
        let first = director(pins);
        let capture = Capture::start(pins, &ALL).unwrap();
        drop(first);
        let options = DirectorOptions { interfaces: vec!["uplink".into()], ..World::options() };
        let mut second = Director::load(options, Some(pins)).unwrap();
        World::default().bring_to(&mut second).unwrap();
        second.attach().unwrap();
        let own = program();
        drop(capture);
        assert_eq!(program(), own);
    });
}

#[test]
#[ignore = "needs root"]
fn without_a_director_there_is_nothing_to_capture() {
    if !isolation::can_run("lb capture without a director") {
        return;
    }
    isolated(|pins| {
        let error = Capture::start(pins, &ALL).err().unwrap().to_string();
        assert!(error.starts_with("no director runs"), "{error}");
    });
}
