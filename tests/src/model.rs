//! A plain model of the director's program, for comparison: what RFCs and DESIGN.md ask for, straight from the bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::reasons::Director;
use lb_user::model::Protocol;

use crate::packets::{ETHERNET, Ends, IPV4, IPV6, tunnel};
use crate::vector::Hook;
use crate::world::{LOOPBACK, World, vip, vip4, vip6};

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Why.
    pub reason: Director,
    /// The program's return value.
    pub action: u32,
    /// The packet afterwards.
    pub output: Vec<u8>,
}

/// What the director does with a frame of at least 14 bytes.
pub fn director(world: &World, frame: &[u8]) -> Judged {
    let unchanged = |reason: Director| Judged {
        reason,
        action: Hook::Xdp.action(reason.verdict(), false),
        output: frame.to_vec(),
    };
    let ip = &frame[ETHERNET..];
    let parsed = match word(frame, 12) {
        0x0800 => ipv4(world, ip),
        0x86dd => ipv6(world, ip),
        _ => Err(Director::NotIp),
    };
    match parsed {
        Ok(Parsed::Echo) => Judged { output: answer(frame), ..unchanged(Director::Echo) },
        Ok(Parsed::Flow { ends, protocol, reason }) => match send(world, frame, ends, protocol) {
            Ok((output, redirected)) => {
                Judged { reason, output, action: Hook::Xdp.action(reason.verdict(), redirected) }
            }
            Err(reason) => unchanged(reason),
        },
        Err(reason) => unchanged(reason),
    }
}

enum Parsed {
    Echo,
    Flow { ends: Ends, protocol: Protocol, reason: Director },
}

fn ipv4(world: &World, ip: &[u8]) -> Result<Parsed, Director> {
    if ip.len() < IPV4 {
        return Err(Director::Truncated);
    }
    let (source, to) = (address4(ip, 12), address4(ip, 16));
    for_a_vip(world, to)?;
    if ip.len() < IPV4 + 8 {
        return Err(Director::Truncated);
    }
    match ip[0] {
        0x45 => {}
        0x46..=0x4f => return Err(Director::IpOptions),
        _ => return Err(Director::BadHeader),
    }
    let (more_fragments, offset) = (ip[6] & 0x20 != 0, word(ip, 6) & 0x1fff);
    if more_fragments || offset != 0 {
        return Err(Director::Fragment);
    }
    let len = usize::from(word(ip, 2));
    if len < IPV4 + 8 || len > ip.len() {
        return Err(Director::BadHeader);
    }
    let l4 = &ip[IPV4..len];
    match ip[9] {
        1 => icmp4(world, to, l4),
        number => tcp_or_udp(world, source, to, number, l4),
    }
}

fn ipv6(world: &World, ip: &[u8]) -> Result<Parsed, Director> {
    if ip.len() < IPV6 {
        return Err(Director::Truncated);
    }
    let (source, to) = (address6(ip, 8), address6(ip, 24));
    for_a_vip(world, to)?;
    if ip.len() < IPV6 + 8 {
        return Err(Director::Truncated);
    }
    let len = IPV6 + usize::from(word(ip, 4));
    if ip[0] >> 4 != 6 || len < IPV6 + 8 || len > ip.len() {
        return Err(Director::BadHeader);
    }
    let l4 = &ip[IPV6..len];
    match ip[6] {
        // Fragment; then the numbers of IANA's registry of extension headers, but for ESP, which hides what follows.
        44 => Err(Director::Fragment),
        0 | 43 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => Err(Director::Extension),
        58 => icmp6(world, to, l4),
        number => tcp_or_udp(world, source, to, number, l4),
    }
}

fn for_a_vip(world: &World, to: IpAddr) -> Result<(), Director> {
    match world.model.services.keys().any(|key| key.vip == to) {
        true => Ok(()),
        false => Err(Director::NotVip),
    }
}

fn tcp_or_udp(world: &World, source: IpAddr, to: IpAddr, number: u8, l4: &[u8]) -> Result<Parsed, Director> {
    let ends =
        Ends { source: SocketAddr::new(source, word(l4, 0)), destination: SocketAddr::new(to, word(l4, 2)) };
    let protocol = Protocol::from_number(number).ok_or(Director::NoService)?;
    world.service(ends.destination, protocol).ok_or(Director::NoService)?;
    Ok(Parsed::Flow { ends, protocol, reason: Director::Forwarded })
}

fn icmp4(world: &World, to: IpAddr, icmp: &[u8]) -> Result<Parsed, Director> {
    match icmp[0] {
        8 => return Ok(Parsed::Echo),
        3 | 11 | 12 => {}
        _ => return Err(Director::IcmpOther),
    }
    let quote = &icmp[8..];
    if quote.len() < IPV4 + 8 || quote[0] != 0x45 || word(quote, 6) & 0x1fff != 0 {
        return Err(Director::IcmpQuote);
    }
    follow(world, to, address4(quote, 12), address4(quote, 16), quote[9], &quote[IPV4..])
}

fn icmp6(world: &World, to: IpAddr, icmp: &[u8]) -> Result<Parsed, Director> {
    match icmp[0] {
        128 => return Ok(Parsed::Echo),
        1..=4 => {}
        _ => return Err(Director::IcmpOther),
    }
    let quote = &icmp[8..];
    if quote.len() < IPV6 + 8 || quote[0] >> 4 != 6 {
        return Err(Director::IcmpQuote);
    }
    follow(world, to, address6(quote, 8), address6(quote, 24), quote[6], &quote[IPV6..])
}

/// The quoted packet went from the VIP to the client.
fn follow(
    world: &World,
    vip: IpAddr,
    from: IpAddr,
    client: IpAddr,
    number: u8,
    l4: &[u8],
) -> Result<Parsed, Director> {
    let protocol = Protocol::from_number(number).ok_or(Director::IcmpQuote)?;
    let ends = Ends {
        source: SocketAddr::new(client, word(l4, 2)),
        destination: SocketAddr::new(from, word(l4, 0)),
    };
    if from != vip || world.service(ends.destination, protocol).is_none() {
        return Err(Director::IcmpForeign);
    }
    Ok(Parsed::Flow { ends, protocol, reason: Director::ForwardedError })
}

fn send(world: &World, frame: &[u8], ends: Ends, protocol: Protocol) -> Result<(Vec<u8>, bool), Director> {
    let to = ends.destination;
    if to.port() == 80 && [IpAddr::from(vip4(vip::TABLELESS)), vip6(vip::TABLELESS).into()].contains(&to.ip())
    {
        return Err(Director::NoTable);
    }
    let (outer, hop) = world.owner(ends, protocol).ok_or(Director::NoHost)?;
    let inner = match to.ip() {
        IpAddr::V4(_) => usize::from(word(frame, 16)),
        IpAddr::V6(_) => IPV6 + usize::from(word(frame, 18)),
    };
    let header = if outer.destination.is_ipv4() { IPV4 } else { IPV6 };
    if inner + header > hop.mtu as usize {
        return Err(Director::TooBig);
    }
    Ok((tunnel(&outer, frame), hop.ifindex != LOOPBACK))
}

/// The answer to an echo request: back to where it came from, with a fresh time to live.
pub fn answer(frame: &[u8]) -> Vec<u8> {
    let mut out = frame.to_vec();
    out[..6].copy_from_slice(&frame[6..12]);
    out[6..12].copy_from_slice(&frame[..6]);
    let v4 = word(frame, 12) == 0x0800;
    let (source, size, icmp) = if v4 { (26, 4, 34) } else { (22, 16, 54) };
    out[source..source + size].copy_from_slice(&frame[source + size..source + 2 * size]);
    out[source + size..source + 2 * size].copy_from_slice(&frame[source..source + size]);
    if v4 {
        out[22] = 64;
        mend(&mut out, 24, u16::from_be_bytes([frame[22], 0]), u16::from_be_bytes([64, 0]));
    } else {
        out[21] = 64;
    }
    let reply = if v4 { 0 } else { 129 };
    out[icmp] = reply;
    mend(&mut out, icmp + 2, u16::from_be_bytes([frame[icmp], 0]), u16::from_be_bytes([reply, 0]));
    out
}

/// Mends the checksum at `at` after a word changed (RFC 1624, equation 3).
fn mend(out: &mut [u8], at: usize, old: u16, new: u16) {
    let mut sum = u32::from(!word(out, at)) + u32::from(!old) + u32::from(new);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    out[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn address4(bytes: &[u8], at: usize) -> IpAddr {
    let octets: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
    Ipv4Addr::from(octets).into()
}

fn address6(bytes: &[u8], at: usize) -> IpAddr {
    let octets: [u8; 16] = bytes[at..at + 16].try_into().unwrap();
    Ipv6Addr::from(octets).into()
}
