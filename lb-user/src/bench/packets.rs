//! The packets that programs are measured on: bytes, without checksums that nobody looks at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::outer;

/// TCP flags.
pub const SYN: u8 = 2;
/// TCP flags.
pub const ACK: u8 = 16;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Ends of a flow.
#[derive(Clone, Copy)]
pub struct Ends {
    pub source: (IpAddr, u16),
    pub destination: (IpAddr, u16),
}

/// A frame with a TCP segment of `payload` bytes.
pub fn tcp(ends: Ends, flags: u8, payload: usize) -> Vec<u8> {
    let mut segment = ports(ends);
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.resize(segment.len() + payload, 0);
    framed(&ip(ends.source.0, ends.destination.0, TCP, &segment))
}

/// A frame with a UDP datagram.
pub fn udp(ends: Ends, payload: usize) -> Vec<u8> {
    let mut datagram = ports(ends);
    datagram.extend([((8 + payload) >> 8) as u8, (8 + payload) as u8, 0, 0]);
    datagram.resize(datagram.len() + payload, 0);
    framed(&ip(ends.source.0, ends.destination.0, UDP, &datagram))
}

/// A frame with an ICMP error to the VIP `ends.destination` that quotes what a host sent to `ends.source`.
pub fn icmp4_error(ends: Ends, router: Ipv4Addr) -> Vec<u8> {
    let back = Ends { source: ends.destination, destination: ends.source };
    let mut message = vec![3, 4, 0, 0, 0, 0, 0x05, 0x78];
    message.extend(&tcp(back, ACK, 60)[14..]);
    framed(&ip(router.into(), ends.destination.0, 1, &message))
}

/// The same for IPv6.
pub fn icmp6_error(ends: Ends, router: Ipv6Addr) -> Vec<u8> {
    let back = Ends { source: ends.destination, destination: ends.source };
    let mut message = vec![2, 0, 0, 0, 0, 0, 0x05, 0x78];
    message.extend(&tcp(back, ACK, 60)[14..]);
    framed(&ip(router.into(), ends.destination.0, 58, &message))
}

/// `frame` in an IPv4 tunnel.
pub fn tunnelled(frame: &[u8], source: Ipv4Addr, destination: Ipv4Addr, generation: u16, hop: u8) -> Vec<u8> {
    let mut outer = ip(source.into(), destination.into(), outer::PROTO_IPIP, &frame[14..]);
    outer[4..6].copy_from_slice(&outer::identification(generation, hop).to_be_bytes());
    outer[6] = 0x40;
    framed(&outer)
}

fn ports(ends: Ends) -> Vec<u8> {
    [ends.source.1.to_be_bytes(), ends.destination.1.to_be_bytes()].concat()
}

fn framed(packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &kind[..], packet].concat()
}

fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(source, destination, protocol, payload),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(source, destination, protocol, payload),
        _ => unreachable!("packets are made of addresses of one family"),
    }
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0, (length >> 8) as u8, length as u8, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    let mut packet = vec![0x60, 0, 0, 0, (length >> 8) as u8, length as u8, protocol, 64];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}
