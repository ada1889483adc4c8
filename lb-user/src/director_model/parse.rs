//! From the bytes of a frame to the flow that it belongs to, or the reason why it has none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::reasons::Director;

use super::Flow;
use crate::model::Protocol;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6: usize = 40;
/// What must stand behind an IP header: ports, or an ICMP header.
const L4: usize = 8;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// An echo request for a VIP.
    Echo,
    /// A packet of a flow.
    Packet(Packet),
}

/// A packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The flow that it belongs to.
    pub flow: Flow,
    /// It is an ICMP error, which quotes the flow's other direction.
    pub quoted: bool,
    /// It is a TCP segment that opens a connection.
    pub opens: bool,
    /// The first bytes of a UDP datagram's payload, and how many there are of it.
    pub payload: ([u8; 16], usize),
    /// Bytes from the IP header on, as that says.
    pub len: usize,
}

/// Looks into a frame.
pub fn frame(frame: &[u8], is_vip: impl Fn(IpAddr) -> bool) -> Result<Found, Director> {
    if frame.len() < ETHERNET {
        return Err(Director::Truncated);
    }
    let ip = &frame[ETHERNET..];
    match word(frame, 12) {
        0x0800 => ipv4(ip, is_vip),
        0x86dd => ipv6(ip, is_vip),
        _ => Err(Director::NotIp),
    }
}

fn ipv4(ip: &[u8], is_vip: impl Fn(IpAddr) -> bool) -> Result<Found, Director> {
    if ip.len() < IPV4 {
        return Err(Director::Truncated);
    }
    let (source, vip) = (address4(ip, 12), address4(ip, 16));
    if !is_vip(vip) {
        return Err(Director::NotVip);
    }
    if ip.len() < IPV4 + L4 {
        return Err(Director::Truncated);
    }
    match (ip[0] >> 4, ip[0] & 15) {
        (4, 5) => {}
        (4, 6..) => return Err(Director::IpOptions),
        _ => return Err(Director::BadHeader),
    }
    let (more_fragments, offset) = (ip[6] & 0x20 != 0, word(ip, 6) & 0x1fff);
    if more_fragments || offset != 0 {
        return Err(Director::Fragment);
    }
    let len = usize::from(word(ip, 2));
    if len < IPV4 + L4 || len > ip.len() {
        return Err(Director::BadHeader);
    }
    let l4 = &ip[IPV4..len];
    match ip[9] {
        1 => icmp4(vip, l4, len),
        number => tcp_or_udp(source, vip, number, l4, len),
    }
}

fn ipv6(ip: &[u8], is_vip: impl Fn(IpAddr) -> bool) -> Result<Found, Director> {
    if ip.len() < IPV6 {
        return Err(Director::Truncated);
    }
    let (source, vip) = (address6(ip, 8), address6(ip, 24));
    if !is_vip(vip) {
        return Err(Director::NotVip);
    }
    if ip.len() < IPV6 + L4 {
        return Err(Director::Truncated);
    }
    let len = IPV6 + usize::from(word(ip, 4));
    // What is longer than 64 KiB has a jumbo payload option (RFC 2675), and no interface here carries it.
    if ip[0] >> 4 != 6 || len < IPV6 + L4 || len > ip.len() || len > usize::from(u16::MAX) {
        return Err(Director::BadHeader);
    }
    let l4 = &ip[IPV6..len];
    match ip[6] {
        44 => Err(Director::Fragment),
        // IANA's registry of extension headers, but for ESP, which hides what follows.
        0 | 43 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => Err(Director::Extension),
        58 => icmp6(vip, l4, len),
        number => tcp_or_udp(source, vip, number, l4, len),
    }
}

fn tcp_or_udp(source: IpAddr, vip: IpAddr, number: u8, l4: &[u8], len: usize) -> Result<Found, Director> {
    let protocol = Protocol::from_number(number).ok_or(Director::NoService)?;
    let flow = Flow {
        source: SocketAddr::new(source, word(l4, 0)),
        destination: SocketAddr::new(vip, word(l4, 2)),
        protocol,
    };
    // SYN without ACK, of the flags of RFC 9293.
    let opens = protocol == Protocol::Tcp && l4.get(13).is_some_and(|flags| flags & 0x12 == 0x02);
    let mut payload = ([0; 16], 0);
    if protocol == Protocol::Udp {
        let first = &l4[L4..l4.len().min(L4 + 16)];
        payload.0[..first.len()].copy_from_slice(first);
        payload.1 = first.len();
    }
    Ok(Found::Packet(Packet { flow, quoted: false, opens, payload, len }))
}

fn icmp4(vip: IpAddr, icmp: &[u8], len: usize) -> Result<Found, Director> {
    match icmp[0] {
        8 => return Ok(Found::Echo),
        // Unreachable, time exceeded, parameter problem (RFC 792); source quench is deprecated (RFC 6633).
        3 | 11 | 12 => {}
        _ => return Err(Director::IcmpOther),
    }
    let quote = &icmp[8..];
    if quote.len() < IPV4 + L4 || quote[0] != 0x45 || word(quote, 6) & 0x1fff != 0 {
        return Err(Director::IcmpQuote);
    }
    let ends = (address4(quote, 12), address4(quote, 16));
    quoted(vip, ends, quote[9], &quote[IPV4..], len)
}

fn icmp6(vip: IpAddr, icmp: &[u8], len: usize) -> Result<Found, Director> {
    match icmp[0] {
        128 => return Ok(Found::Echo),
        // Unreachable, packet too big, time exceeded, parameter problem (RFC 4443).
        1..=4 => {}
        _ => return Err(Director::IcmpOther),
    }
    let quote = &icmp[8..];
    if quote.len() < IPV6 + L4 || quote[0] >> 4 != 6 {
        return Err(Director::IcmpQuote);
    }
    let ends = (address6(quote, 8), address6(quote, 24));
    quoted(vip, ends, quote[6], &quote[IPV6..], len)
}

/// What is quoted went from the VIP to the client.
fn quoted(
    vip: IpAddr,
    (from, client): (IpAddr, IpAddr),
    number: u8,
    l4: &[u8],
    len: usize,
) -> Result<Found, Director> {
    let protocol = Protocol::from_number(number).ok_or(Director::IcmpQuote)?;
    if from != vip {
        return Err(Director::IcmpForeign);
    }
    let flow = Flow {
        source: SocketAddr::new(client, word(l4, 2)),
        destination: SocketAddr::new(from, word(l4, 0)),
        protocol,
    };
    Ok(Found::Packet(Packet { flow, quoted: true, opens: false, payload: ([0; 16], 0), len }))
}

/// A word in network byte order.
pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn address4(bytes: &[u8], at: usize) -> IpAddr {
    let mut octets = [0; 4];
    octets.copy_from_slice(&bytes[at..at + 4]);
    Ipv4Addr::from(octets).into()
}

fn address6(bytes: &[u8], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    Ipv6Addr::from(octets).into()
}
