//! ICMP for a VIP: errors follow the flow they quote (RFC 792, RFC 4443), echo requests are answered.
//!
//! An error quotes what a host sent from the VIP to a client: reversed, that is the client's flow. Eight bytes behind
//! the quoted IP header are enough, since ports come first.

use lb_common::flow::{Addr, Flow};
use lb_common::outer::{ETHERNET, IPV4, IPV6, TTL, fold};
use lb_common::reasons::Director;
use lb_ebpf::packet::{
    Frame, Ipv4, Ipv4L4, Ipv6, Ipv6L4, L4, LATER_FRAGMENT, V4_NO_OPTIONS, icmp_type, protocol,
};

use crate::maps;
use crate::parse::Packet;

const ICMP: usize = 8;
/// Destination unreachable, time exceeded, parameter problem; source quench is deprecated, redirects are not for us.
const ERRORS4: [u8; 3] = [3, 11, 12];
const ECHO4: u8 = 8;
const ECHO_REPLY4: u8 = 0;
/// Destination unreachable, packet too big, time exceeded, parameter problem.
const ERRORS6: core::ops::RangeInclusive<u8> = 1..=4;
const ECHO6: u8 = 128;
const ECHO_REPLY6: u8 = 129;

/// An ICMP packet over a well-formed IPv4 header.
#[inline(always)]
pub fn parse4(frame: &Frame, ip: &Ipv4, icmp: L4) -> Result<Packet, Director> {
    let vip = Addr::v4(ip.destination);
    if !maps::is_vip(vip) {
        return Err(Director::NotVip);
    }
    let kind = icmp_type(icmp.first);
    if kind == ECHO4 {
        return Err(echo4(frame, ip, icmp).unwrap_or(Director::Truncated));
    }
    if !ERRORS4.contains(&kind) {
        return Err(Director::IcmpOther);
    }
    let len = u16::from_be(ip.total_len);
    let quote = frame.read::<Ipv4L4>(ETHERNET + IPV4 + ICMP).ok_or(Director::IcmpQuote)?;
    let ports = matches!(quote.ip.protocol, protocol::TCP | protocol::UDP);
    let usable = quote.ip.version_ihl == V4_NO_OPTIONS && quote.ip.fragment & LATER_FRAGMENT == 0;
    if !usable || !ports || (len as usize) < IPV4 + ICMP + IPV4 + 8 {
        return Err(Director::IcmpQuote);
    }
    let quoted = Flow {
        source: Addr::v4(quote.ip.source),
        destination: Addr::v4(quote.ip.destination),
        ports: quote.l4.first,
        protocol: quote.ip.protocol,
        v6: false,
    };
    follow(vip, quoted, len)
}

/// An ICMPv6 packet over a well-formed IPv6 header.
#[inline(always)]
pub fn parse6(frame: &Frame, ip: &Ipv6, icmp: L4) -> Result<Packet, Director> {
    let vip = Addr::v6(ip.destination);
    if !maps::is_vip(vip) {
        return Err(Director::NotVip);
    }
    let kind = icmp_type(icmp.first);
    if kind == ECHO6 {
        return Err(echo6(frame, ip, icmp).unwrap_or(Director::Truncated));
    }
    if !ERRORS6.contains(&kind) {
        return Err(Director::IcmpOther);
    }
    let payload = u16::from_be(ip.payload_len);
    let quote = frame.read::<Ipv6L4>(ETHERNET + IPV6 + ICMP).ok_or(Director::IcmpQuote)?;
    let ports = matches!(quote.ip.next_header, protocol::TCP | protocol::UDP);
    if !quote.ip.is_v6() || !ports || (payload as usize) < ICMP + IPV6 + 8 {
        return Err(Director::IcmpQuote);
    }
    let quoted = Flow {
        source: Addr::v6(quote.ip.source),
        destination: Addr::v6(quote.ip.destination),
        ports: quote.l4.first,
        protocol: quote.ip.next_header,
        v6: true,
    };
    follow(vip, quoted, payload + IPV6 as u16)
}

#[inline(always)]
fn follow(vip: Addr, quoted: Flow, len: u16) -> Result<Packet, Director> {
    let flow = quoted.reversed();
    if flow.destination != vip {
        return Err(Director::IcmpForeign);
    }
    let service = maps::service(flow.destination, flow.destination_port(), flow.protocol);
    let service = service.ok_or(Director::IcmpForeign)?;
    Ok(Packet { flow, service, len, reason: Director::ForwardedError })
}

/// Turns the request into its answer. Swapped addresses leave both checksums as they are; type and time to live do not.
///
/// The answer lives as long as any packet made here: with what was left of the request's time, `traceroute -I` to a VIP
/// would never see the end.
#[inline(always)]
fn echo4(frame: &Frame, ip: &Ipv4, icmp: L4) -> Option<Director> {
    let (old, new) = (u16::from_ne_bytes([ip.ttl, 0]), u16::from_ne_bytes([TTL, 0]));
    let checksum = mend(ip.checksum, old, new);
    frame.write(
        ETHERNET,
        Ipv4 { source: ip.destination, destination: ip.source, ttl: TTL, checksum, ..*ip },
    )?;
    answer(frame, ETHERNET + IPV4, icmp, ECHO4, ECHO_REPLY4)
}

#[inline(always)]
fn echo6(frame: &Frame, ip: &Ipv6, icmp: L4) -> Option<Director> {
    frame.write(ETHERNET, Ipv6 { source: ip.destination, destination: ip.source, hop_limit: TTL, ..*ip })?;
    answer(frame, ETHERNET + IPV6, icmp, ECHO6, ECHO_REPLY6)
}

/// A checksum after a word that it covers has changed (RFC 1624, equation 3).
#[inline(always)]
fn mend(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u32::from(!checksum) + u32::from(!old) + u32::from(new))
}

/// Writes the type of the answer, mends the checksum and swaps the Ethernet addresses.
#[inline(always)]
fn answer(frame: &Frame, offset: usize, icmp: L4, request: u8, reply: u8) -> Option<Director> {
    let [_, code, c0, c1] = icmp.first.to_ne_bytes();
    let checksum = u16::from_ne_bytes([c0, c1]);
    let (old, new) = (u16::from_ne_bytes([request, code]), u16::from_ne_bytes([reply, code]));
    let [c0, c1] = mend(checksum, old, new).to_ne_bytes();
    frame.write(offset, u32::from_ne_bytes([reply, code, c0, c1]))?;
    let to: [u16; 3] = frame.read(0)?;
    let from: [u16; 3] = frame.read(6)?;
    frame.write(0, from)?;
    frame.write(6, to)?;
    Some(Director::Echo)
}
