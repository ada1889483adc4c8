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
    /// An echo request for a VIP, whose ICMP header begins at this byte of the frame.
    Echo(usize),
    /// A packet of a flow.
    Packet(Packet),
}

/// A packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The flow that it belongs to; its ports are 0 if they are not known.
    pub flow: Flow,
    /// Its ports are known: it is no fragment.
    pub has_ports: bool,
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
    let carried = carried4(ip).map_err(|odd| odd.reason(Director::IpOptions))?;
    let len = usize::from(word(ip, 2));
    let fits = |end: usize| end <= len && len <= ip.len();
    if carried.part != Part::Whole {
        return if fits(carried.at + 1) {
            fragment(source, vip, &carried, len)
        } else {
            Err(Director::BadHeader)
        };
    }
    if ip.len() < carried.at + L4 {
        return Err(Director::Truncated);
    }
    if !fits(carried.at + L4) {
        return Err(Director::BadHeader);
    }
    let l4 = &ip[carried.at..len];
    match carried.protocol {
        1 => icmp4(vip, l4, len, carried.at),
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
    let carried = carried6(&ip[..len]).map_err(|odd| odd.reason(Director::Extension))?;
    if carried.part != Part::Whole {
        let empty = carried.at == len;
        return if empty { Err(Director::BadHeader) } else { fragment(source, vip, &carried, len) };
    }
    let l4 = &ip[carried.at..len];
    match carried.protocol {
        58 => icmp6(vip, l4, len, carried.at),
        number => tcp_or_udp(source, vip, number, l4, len),
    }
}

/// What stands behind the headers of a packet.
struct Carried {
    protocol: u8,
    /// Where it begins.
    at: usize,
    part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    FirstFragment,
    LaterFragment,
}

/// Why a packet is not looked into.
enum Odd {
    Cut,
    Wrong,
    Refused,
}

impl Odd {
    fn reason(self, refused: Director) -> Director {
        match self {
            Odd::Cut => Director::Truncated,
            Odd::Wrong => Director::BadHeader,
            Odd::Refused => refused,
        }
    }
}

/// Behind options, of which there is a whole IPv4 header at least.
fn carried4(ip: &[u8]) -> Result<Carried, Odd> {
    let at = usize::from(ip[0] & 15) * 4;
    if ip[0] >> 4 != 4 || at < IPV4 {
        return Err(Odd::Wrong);
    }
    options(&ip[IPV4..], at - IPV4)?;
    if ip.len() < at {
        return Err(Odd::Cut);
    }
    let (more_fragments, offset) = (ip[6] & 0x20 != 0, word(ip, 6) & 0x1fff);
    let part = match (more_fragments, offset) {
        (false, 0) => Part::Whole,
        (true, 0) => Part::FirstFragment,
        _ => Part::LaterFragment,
    };
    Ok(Carried { protocol: ip[9], at, part })
}

/// A list of IPv4 options (RFC 791) that takes up `bytes` bytes, of which some may be missing.
fn options(list: &[u8], bytes: usize) -> Result<(), Odd> {
    let (mut at, mut count) = (0, 0);
    while at < bytes {
        count += 1;
        if count > 16 {
            return Err(Odd::Refused);
        }
        match *list.get(at).ok_or(Odd::Cut)? {
            0 => break,
            1 => at += 1,
            // Loose and strict source route: RFC 7126 has them dropped.
            131 | 137 => return Err(Odd::Refused),
            _ if at + 1 == bytes => return Err(Odd::Refused),
            _ => {
                let len = usize::from(*list.get(at + 1).ok_or(Odd::Cut)?);
                if len < 2 || at + len > bytes {
                    return Err(Odd::Refused);
                }
                at += len;
            }
        }
    }
    Ok(())
}

/// Behind at most five extension headers; there is a whole IPv6 header at least.
fn carried6(ip: &[u8]) -> Result<Carried, Odd> {
    let (mut protocol, mut at) = (ip[6], IPV6);
    for number in 0.. {
        match protocol {
            // Routing header, fragment header, destination options; hop-by-hop options come first or not at all.
            43 | 44 | 60 => {}
            0 if number == 0 => {}
            // The rest of IANA's registry, but for ESP, which hides what follows.
            0 | 51 | 135 | 139 | 140 | 253 | 254 => return Err(Odd::Refused),
            _ => break,
        }
        if number == 5 {
            return Err(Odd::Refused);
        }
        let header = ip.get(at..at + 4).ok_or(Odd::Cut)?;
        let (next, size) = (header[0], (usize::from(header[1]) + 1) * 8);
        match protocol {
            44 => {
                let (offset, more) = (word(header, 2) >> 3, header[3] & 1 != 0);
                at += 8;
                match (offset, more) {
                    // An atomic fragment (RFC 6946) is a whole packet.
                    (0, false) => {}
                    (0, true) => return Ok(Carried { protocol: next, at, part: Part::FirstFragment }),
                    _ => return Ok(Carried { protocol: next, at, part: Part::LaterFragment }),
                }
            }
            // It has somewhere else to go first.
            43 if header[3] != 0 => return Err(Odd::Refused),
            _ => at += size,
        }
        if at + L4 > ip.len() {
            return Err(Odd::Wrong);
        }
        protocol = next;
    }
    Ok(Carried { protocol, at, part: Part::Whole })
}

fn fragment(source: IpAddr, vip: IpAddr, carried: &Carried, len: usize) -> Result<Found, Director> {
    let protocol = Protocol::from_number(carried.protocol).ok_or(Director::Fragment)?;
    let (source, destination) = (SocketAddr::new(source, 0), SocketAddr::new(vip, 0));
    let flow = Flow { source, destination, protocol };
    let payload = ([0; 16], 0);
    Ok(Found::Packet(Packet { flow, has_ports: false, quoted: false, opens: false, payload, len }))
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
    // Connection ids are not looked for behind options and extension headers.
    let plain = len - l4.len() == if source.is_ipv4() { IPV4 } else { IPV6 };
    if protocol == Protocol::Udp && plain {
        let first = &l4[L4..l4.len().min(L4 + 16)];
        payload.0[..first.len()].copy_from_slice(first);
        payload.1 = first.len();
    }
    Ok(Found::Packet(Packet { flow, has_ports: true, quoted: false, opens, payload, len }))
}

fn icmp4(vip: IpAddr, icmp: &[u8], len: usize, at: usize) -> Result<Found, Director> {
    match icmp[0] {
        8 => return Ok(Found::Echo(ETHERNET + at)),
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

fn icmp6(vip: IpAddr, icmp: &[u8], len: usize, at: usize) -> Result<Found, Director> {
    match icmp[0] {
        128 => return Ok(Found::Echo(ETHERNET + at)),
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
    Ok(Found::Packet(Packet {
        flow,
        has_ports: true,
        quoted: true,
        opens: false,
        payload: ([0; 16], 0),
        len,
    }))
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
