//! Packets, made with `etherparse`, and the ways to spoil them.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options,
    Ipv6FlowLabel, Ipv6Header, PacketBuilder, PacketBuilderStep, TcpHeader,
};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6: usize = 40;

/// Sends packets of users.
pub const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
/// Receives them.
pub const MACHINE: [u8; 6] = [2, 0, 0, 0, 0, 0x22];

/// Both ends of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Who sends.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
}

impl Ends {
    /// From `client:port` to `vip:port`. Panics if they are not socket addresses, which is a mistake in a test.
    pub fn new(source: &str, destination: &str) -> Self {
        Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    /// The other direction.
    pub fn reversed(self) -> Self {
        Ends { source: self.destination, destination: self.source }
    }
}

/// What makes a TCP packet what it is.
#[derive(Clone, Copy, Debug)]
pub enum Tcp {
    /// Opens a connection.
    Syn,
    /// Inside one.
    Ack,
    /// Ends one.
    Rst,
}

/// A TCP packet.
pub fn tcp(ends: Ends, kind: Tcp, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(ends.source.port(), ends.destination.port(), 0x1000, 0xffff);
    match kind {
        Tcp::Syn => header.syn = true,
        Tcp::Ack => header.ack = true,
        Tcp::Rst => header.rst = true,
    }
    let step = PacketBuilder::ethernet2(ROUTER, MACHINE);
    let step = match (ends.source.ip(), ends.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            step.ipv4(source.octets(), to.octets(), 61).tcp_header(header)
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            step.ipv6(source.octets(), to.octets(), 61).tcp_header(header)
        }
        _ => panic!("{ends:?}: two families"),
    };
    let mut packet = Vec::new();
    step.write(&mut packet, payload).unwrap();
    packet
}

/// A UDP packet.
pub fn udp(ends: Ends, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let step = ip(ends.source.ip(), ends.destination.ip(), 61);
    step.udp(ends.source.port(), ends.destination.port()).write(&mut packet, payload).unwrap();
    packet
}

/// A QUIC packet with a short header, to this connection id.
pub fn quic_short(id: &[u8]) -> Vec<u8> {
    [&[0x40], id, &[0x77; 20]].concat()
}

/// A QUIC packet with a long header: version, type (two bits), connection id.
pub fn quic_long(version: u32, kind: u8, id: &[u8]) -> Vec<u8> {
    [&[0xc0 | kind << 4][..], &version.to_be_bytes(), &[id.len() as u8], id, &[4, 1, 2, 3, 4], &[0x77; 20]]
        .concat()
}

/// An ICMP or ICMPv6 packet, by the addresses' family: type, code, bytes 5 to 8, payload.
pub fn icmp(
    source: IpAddr,
    destination: IpAddr,
    kind: u8,
    code: u8,
    rest: [u8; 4],
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::new();
    let step = ip(source, destination, 3);
    let written = match source {
        IpAddr::V4(_) => step.icmpv4_raw(kind, code, rest).write(&mut packet, payload),
        IpAddr::V6(_) => step.icmpv6_raw(kind, code, rest).write(&mut packet, payload),
    };
    written.unwrap();
    packet
}

/// An ICMP error that quotes the IP header of `packet` and `l4` bytes behind it.
pub fn icmp_error(from: IpAddr, to: IpAddr, kind: u8, code: u8, packet: &[u8], l4: usize) -> Vec<u8> {
    let header = if from.is_ipv4() { IPV4 } else { IPV6 };
    icmp(from, to, kind, code, [0, 0, 5, 0xdc], &packet[ETHERNET..ETHERNET + header + l4])
}

fn ip(source: IpAddr, destination: IpAddr, ttl: u8) -> PacketBuilderStep<etherparse::IpHeaders> {
    let step = PacketBuilder::ethernet2(ROUTER, MACHINE);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(to)) => step.ip(etherparse::IpHeaders::Ipv4(
            Ipv4Header::new(0, ttl, IpNumber(0), source.octets(), to.octets()).unwrap(),
            Default::default(),
        )),
        (IpAddr::V6(source), IpAddr::V6(to)) => step.ip(etherparse::IpHeaders::Ipv6(
            Ipv6Header {
                hop_limit: ttl,
                source: source.octets(),
                destination: to.octets(),
                ..Default::default()
            },
            Default::default(),
        )),
        _ => panic!("{source} and {destination} are of two families"),
    }
}

/// What differs between one tunnel's outer header and another's.
#[derive(Clone, Debug)]
pub struct Outer {
    /// Ethernet source.
    pub own_mac: [u8; 6],
    /// Ethernet destination.
    pub next_mac: [u8; 6],
    /// The director.
    pub source: IpAddr,
    /// The host.
    pub destination: IpAddr,
    /// Whose table chose the host.
    pub generation: u16,
    /// VLAN tags on the way there, the outermost first: EtherType and VLAN of each.
    pub tags: Vec<(u16, u16)>,
}

/// With this hop in the outer header, which has another one.
pub fn with_hop(frame: &[u8], hop: u8) -> Vec<u8> {
    match frame[12..14] == [8, 0] {
        true => {
            with_ipv4(frame, ETHERNET, |ip| ip.identification = ip.identification & 0xfff0 | u16::from(hop))
        }
        false => patched(frame, ETHERNET + 3, &[frame[ETHERNET + 3] & 0xf0 | hop]),
    }
}

/// `packet` in a tunnel, padding and all: what the director sends and the host receives.
pub fn tunnel(outer: &Outer, packet: &[u8]) -> Vec<u8> {
    let v6 = packet[12..14] == EtherType::IPV6.0.to_be_bytes();
    let tos = traffic_class(packet, ETHERNET);
    let protocol = if v6 { IpNumber::IPV6 } else { IpNumber::IPV4 };
    // Padding behind the packet does not count.
    let len = match v6 {
        true => IPV6 as u16 + u16::from_be_bytes([packet[18], packet[19]]),
        false => u16::from_be_bytes([packet[16], packet[17]]),
    };
    let mut frame = Vec::new();
    let ethernet =
        |ether_type| Ethernet2Header { source: outer.own_mac, destination: outer.next_mac, ether_type };
    match (outer.source, outer.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut ip = Ipv4Header::new(len, 64, protocol, source.octets(), destination.octets()).unwrap();
            ip.dont_fragment = true;
            ip.identification = (outer.generation & 0xfff) << 4;
            (ip.dscp, ip.ecn) = (IpDscp::try_new(tos >> 2).unwrap(), IpEcn::try_new(tos & 3).unwrap());
            ip.header_checksum = ip.calc_header_checksum();
            ethernet(EtherType::IPV4).write(&mut frame).unwrap();
            ip.write(&mut frame).unwrap();
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let ip = Ipv6Header {
                traffic_class: tos,
                flow_label: Ipv6FlowLabel::try_new(u32::from(outer.generation) << 4).unwrap(),
                payload_length: len,
                next_header: protocol,
                hop_limit: 64,
                source: source.octets(),
                destination: destination.octets(),
            };
            ethernet(EtherType::IPV6).write(&mut frame).unwrap();
            ip.write(&mut frame).unwrap();
        }
        _ => panic!("{outer:?}: two families"),
    }
    frame.extend_from_slice(&packet[ETHERNET..]);
    with_tags(&frame, &outer.tags)
}

/// Type of service or traffic class in the IP header at `at`, whatever its version says.
fn traffic_class(frame: &[u8], at: usize) -> u8 {
    match is_v6(frame, at) {
        true => frame[at] << 4 | frame[at + 1] >> 4,
        false => frame[at + 1],
    }
}

/// With another type of service or traffic class in the IP header at `at`.
pub fn with_traffic_class(frame: &[u8], at: usize, tos: u8) -> Vec<u8> {
    if is_v6(frame, at) {
        return patched(frame, at, &[frame[at] & 0xf0 | tos >> 4, tos << 4 | frame[at + 1] & 15]);
    }
    with_ipv4(frame, at, |ip| {
        (ip.dscp, ip.ecn) = (IpDscp::try_new(tos >> 2).unwrap(), IpEcn::try_new(tos & 3).unwrap());
    })
}

/// The IP header at `at` is that of an IPv6 packet: by the EtherType before it, or the protocol of the tunnel.
fn is_v6(frame: &[u8], at: usize) -> bool {
    let ethernet6 = frame[12..14] == [0x86, 0xdd];
    if at == ETHERNET { ethernet6 } else { frame[if ethernet6 { 20 } else { 23 }] == 41 }
}

/// With another outer time to live.
pub fn with_outer_ttl(frame: &[u8], ttl: u8) -> Vec<u8> {
    match is_v6(frame, ETHERNET) {
        true => patched(frame, ETHERNET + 7, &[ttl]),
        false => with_ipv4(frame, ETHERNET, |ip| ip.time_to_live = ttl),
    }
}

/// The IPv4 header at `at` rewritten, with a new checksum. Options make it longer, and the packet with it.
pub fn with_ipv4(packet: &[u8], at: usize, edit: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let (mut header, rest) = Ipv4Header::from_slice(&packet[at..]).unwrap();
    let before = header.header_len();
    edit(&mut header);
    header.total_len += (header.header_len() - before) as u16;
    header.header_checksum = header.calc_header_checksum();
    let mut out = packet[..at].to_vec();
    header.write_raw(&mut out).unwrap();
    out.extend_from_slice(rest);
    out
}

/// With a router alert option (RFC 2113) in the IPv4 header at `at`.
pub fn with_options(packet: &[u8], at: usize) -> Vec<u8> {
    with_ipv4(packet, at, |ip| ip.options = Ipv4Options::from([0x94, 4, 0, 0]))
}

/// With this list of options, of whole words, in the IPv4 header at `at`, behind those that it has.
pub fn with_list(packet: &[u8], at: usize, list: &[u8]) -> Vec<u8> {
    let (mut header, rest) = Ipv4Header::from_slice(&packet[at..]).unwrap();
    let room = 40 - header.options.len();
    let list = [&header.options[..], &list[..list.len().min(room)]].concat();
    header.total_len += (list.len() - header.options.len()) as u16;
    header.options = Ipv4Options::try_from(&list[..]).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut out = packet[..at].to_vec();
    header.write_raw(&mut out).unwrap();
    out.extend_from_slice(rest);
    out
}

/// With an extension header of this type behind the first IPv6 header: `body` is all of it but the first byte.
pub fn with_header(packet: &[u8], kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = packet.to_vec();
    let next = std::mem::replace(&mut out[ETHERNET + 6], kind);
    let len = u16::from_be_bytes([packet[18], packet[19]]) + 1 + body.len() as u16;
    out[18..20].copy_from_slice(&len.to_be_bytes());
    let header: Vec<u8> = std::iter::once(next).chain(body.iter().copied()).collect();
    out.splice(ETHERNET + IPV6..ETHERNET + IPV6, header);
    out
}

/// As a fragment: its IPv4 header at `at` with this offset, in units of eight bytes.
pub fn as_fragment(packet: &[u8], at: usize, offset: u16, more: bool) -> Vec<u8> {
    with_ipv4(packet, at, |ip| {
        ip.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        ip.more_fragments = more;
        ip.dont_fragment = false;
    })
}

/// With an eight-byte extension header of this type behind the first IPv6 header.
pub fn with_extension(packet: &[u8], kind: u8) -> Vec<u8> {
    let mut out = packet.to_vec();
    let next = std::mem::replace(&mut out[ETHERNET + 6], kind);
    let len = u16::from_be_bytes([packet[18], packet[19]]) + 8;
    out[18..20].copy_from_slice(&len.to_be_bytes());
    // PadN where options are expected, the first fragment of several where a fragment is.
    let body = if kind == 44 { [next, 0, 0, 1, 0, 0, 0, 7] } else { [next, 0, 1, 4, 0, 0, 0, 0] };
    out.splice(ETHERNET + IPV6..ETHERNET + IPV6, body);
    out
}

/// With VLAN tags, the outermost first: EtherType, and priority and VLAN of each.
pub fn with_tags(packet: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut out = packet.to_vec();
    let bytes = tags.iter().flat_map(|(kind, vlan)| [kind.to_be_bytes(), vlan.to_be_bytes()].concat());
    out.splice(12..12, bytes.collect::<Vec<_>>());
    out
}

/// Filled up to `len` bytes, as Ethernet does with short packets.
pub fn padded(packet: &[u8], len: usize) -> Vec<u8> {
    let mut out = packet.to_vec();
    out.resize(len.max(packet.len()), 0);
    out
}

/// Only the first `len` bytes.
pub fn cut(packet: &[u8], len: usize) -> Vec<u8> {
    packet[..len].to_vec()
}

/// With other bytes at `at`; checksums stay as they are.
pub fn patched(packet: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut out = packet.to_vec();
    out[at..at + bytes.len()].copy_from_slice(bytes);
    out
}

/// With another EtherType.
pub fn with_ethertype(packet: &[u8], ethertype: u16) -> Vec<u8> {
    patched(packet, 12, &ethertype.to_be_bytes())
}

/// An ARP request, padded.
pub fn arp() -> Vec<u8> {
    let mut packet = [[0xff; 6], ROUTER].concat();
    packet.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    packet.extend(ROUTER);
    packet.extend([192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 130]);
    padded(&packet, 60)
}
