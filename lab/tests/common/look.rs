//! Looking at nodes from inside: routes, counters of nftables; and packets that no program of a node would send.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use lab::namespace;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Lab, text};

/// Next hops by VIP in the kernel of `node`.
pub fn vip_routes(lab: &Lab, node: &str) -> BTreeMap<IpAddr, Vec<IpAddr>> {
    let mut routes = BTreeMap::new();
    for (family, network) in [("-4", "198.51.100.0/24"), ("-6", "2001:db8::c633:6400/120")] {
        let table = inside(lab, node, &["ip", family, "route", "show", "root", network]);
        let mut vip = None;
        for line in table.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if !line.starts_with(char::is_whitespace) {
                let first = words[0].split('/').next().expect("an address");
                vip = first.parse::<IpAddr>().ok();
            }
            let Some(vip) = vip else { continue };
            let hops: &mut Vec<IpAddr> = routes.entry(vip).or_default();
            let via = words.iter().position(|word| *word == "via").and_then(|at| words.get(at + 1));
            hops.extend(via.and_then(|via| via.parse::<IpAddr>().ok()));
        }
    }
    routes
}

/// How many VIPs `node` has a route for that leads to one of the addresses.
pub fn vips_via(lab: &Lab, node: &str, addresses: &[IpAddr]) -> usize {
    let is_via = |hops: &&Vec<IpAddr>| hops.iter().any(|hop| addresses.contains(hop));
    vip_routes(lab, node).values().filter(is_via).count()
}

/// Both addresses of `node` on its first link.
pub fn addresses(lab: &Lab, node: &str) -> [IpAddr; 2] {
    let node = lab.topology.node(node).expect("a node of the lab");
    [node.address4().expect("an IPv4 address").into(), node.address6().into()]
}

/// What a program prints in `node`; much quicker than `lab exec`, for polling.
pub fn inside(lab: &Lab, node: &str, argv: &[&str]) -> String {
    let run = || Command::new(argv[0]).args(&argv[1..]).output();
    let output = namespace::enter(&lab.paths, node, run).expect("entering").expect("running");
    text(&output.stdout)
}

/// Counts packets with a VIP as source that `node` receives on `eth0`, split by the sender's hardware address:
/// from L7 hosts, and from directors. At the ingress hook, which sees all that XDP passes on.
pub fn count_vip_sources(lab: &Lab, node: &str) {
    let macs = |prefix: &str| {
        let of_kind = lab.topology.nodes.iter().filter(|found| found.name.starts_with(prefix));
        let macs = of_kind.map(|found| {
            let octets: Vec<String> = found.interfaces[0].mac.iter().map(|o| format!("{o:02x}")).collect();
            octets.join(":")
        });
        macs.collect::<Vec<_>>().join(", ")
    };
    let (hosts, directors) = (macs("lb7-"), macs("lb4-"));
    let mut rules = String::new();
    for (family, network) in [("ip", "198.51.100.0/24"), ("ip6", "2001:db8::c633:6400/120")] {
        for (name, macs) in [("hosts", &hosts), ("directors", &directors)] {
            rules += &format!("    ether saddr {{ {macs} }} {family} saddr {network} counter name {name}\n");
        }
        rules += &format!("    {family} saddr {network} counter name all_of_them\n");
    }
    let table = format!(
        "table netdev e2e {{
  counter hosts {{ }}
  counter directors {{ }}
  counter all_of_them {{ }}
  chain seen {{
    type filter hook ingress device eth0 priority 0;
{rules}  }}
}}
"
    );
    lab.sh(node, &format!("nft -f - <<'END'\n{table}END\n"));
}

/// A counter of [`count_vip_sources`], in packets.
pub fn counted(lab: &Lab, node: &str, counter: &str) -> u64 {
    let said = inside(lab, node, &["nft", "list", "counter", "netdev", "e2e", counter]);
    let mut words = said.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{node}: no counter: {said}"))
}

/// Packets that `eth0` of `node` received, as the device counts them.
pub fn received(lab: &Lab, node: &str) -> u64 {
    let said = inside(lab, node, &["cat", "/sys/class/net/eth0/statistics/rx_packets"]);
    said.trim().parse().expect("a number")
}

/// Up to `count` frames that pass a port of the bridges (`lb7-1.0` is where `eth0` of lb7-1 is plugged in) during `work`,
/// as tcpdump selects them.
pub fn capture(lab: &Lab, port: &str, filter: &str, count: u32, work: impl FnOnce()) -> Vec<Vec<u8>> {
    let count = count.to_string();
    let arguments = ["10", "tcpdump", "-i", port, "-c", &count, "-U", "-w", "-", filter];
    let spawn =
        || Command::new("timeout").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut tcpdump = namespace::enter(&lab.paths, "switch", spawn).expect("entering").expect("timeout runs");
    let mut said = String::new();
    let mut stderr = BufReader::new(tcpdump.stderr.take().expect("piped"));
    while !said.contains("listening on") {
        assert!(stderr.read_line(&mut said).expect("reading") > 0, "tcpdump does not listen: {said}");
    }
    work();
    let output = tcpdump.wait_with_output().expect("waiting for tcpdump");
    // The format of libpcap: a header of 24 bytes, then 16 bytes (the third word is the length) before each frame.
    let mut rest = output.stdout.get(24..).unwrap_or_default();
    let mut frames = Vec::new();
    while rest.len() > 16 {
        let length = u32::from_ne_bytes(rest[8..12].try_into().expect("four bytes"));
        let (frame, next) = rest[16..].split_at(usize::try_from(length).expect("64 bits"));
        frames.push(frame.to_vec());
        rest = next;
    }
    frames
}

/// Sends `count` packets from a user's address to `destination`, each an encapsulated SYN to the VIP.
pub fn send_encapsulated(lab: &Lab, source: IpAddr, destination: IpAddr, vip: IpAddr, count: u32) {
    let inner = syn(source, vip);
    let protocol = if vip.is_ipv4() { 4 } else { 41 };
    let send = || -> std::io::Result<()> {
        let domain = Domain::for_address(SocketAddr::new(source, 0));
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        for _ in 0..count {
            socket.send_to(&inner, &SocketAddr::new(destination, 0).into())?;
        }
        Ok(())
    };
    namespace::enter(&lab.paths, "users", send).expect("entering").expect("sending raw packets");
}

/// An IP packet with a TCP SYN to port 80. Its TCP checksum is not computed: nobody is meant to read that far.
fn syn(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let tcp = [0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0];
    let mut packet = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum: u32 =
                packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded");
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend([0x60, 0, 0, 0, 0, 20, 6, 64]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        _ => panic!("one family"),
    }
    packet.extend(tcp);
    packet
}
