//! ICMP for a VIP: errors follow the flow they quote, echo requests are answered.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use lb_common::flow::{Addr, Flow};
use lb_common::outer::{ETHERNET, IPV6, TTL, mend};
use lb_common::reasons::Director;
use lb_ebpf::packet::{Frame, Ipv4, Ipv6, L4, icmp_type};
use lb_ebpf::{pools, quote};

use crate::extras;
use crate::forward::{Done, Packet, Sent, finish, forward};
use crate::headers::PLACES;

const ECHO4: u8 = 8;
const ECHO_REPLY4: u8 = 0;
const ECHO6: u8 = 128;
const ECHO_REPLY6: u8 = 129;

/// An ICMP packet at `at` over a well-formed IPv4 header. A function of its own, so that the way of other packets is short.
#[inline(never)]
pub fn icmp4(ctx: *mut xdp_md, at: u32) -> Done {
    let ctx = XdpContext::new(ctx);
    finish(&ctx, treat4(&ctx, at as usize & PLACES))
}

/// An ICMPv6 packet at `at` over a well-formed IPv6 header.
#[inline(never)]
pub fn icmp6(ctx: *mut xdp_md, at: u32) -> Done {
    let ctx = XdpContext::new(ctx);
    finish(&ctx, treat6(&ctx, at as usize & PLACES))
}

#[inline(always)]
fn treat4(ctx: &XdpContext, at: usize) -> Result<Sent, Director> {
    let frame = Frame::xdp(ctx);
    let ip = frame.read::<Ipv4>(ETHERNET).ok_or(Director::Truncated)?;
    let l4 = frame.read_behind::<L4>(at).ok_or(Director::Truncated)?;
    let vip = Addr::v4(ip.destination);
    if !pools::is_vip(vip) {
        return Err(Director::NotVip);
    }
    let kind = icmp_type(l4.first);
    if kind == ECHO4 {
        return Err(echo4(&frame, &ip, at, l4).unwrap_or(Director::Truncated));
    }
    if !quote::is_error4(kind) {
        return Err(Director::IcmpOther);
    }
    let len = u16::from_be(ip.total_len);
    let behind = (ETHERNET + len as usize).wrapping_sub(at);
    let flow = quote::flow4(&frame, at, behind).ok_or(Director::IcmpQuote)?;
    follow(ctx, vip, &flow, Packet { len, tos: ip.tos })
}

#[inline(always)]
fn treat6(ctx: &XdpContext, at: usize) -> Result<Sent, Director> {
    let frame = Frame::xdp(ctx);
    let ip = frame.read::<Ipv6>(ETHERNET).ok_or(Director::Truncated)?;
    let l4 = frame.read_behind::<L4>(at).ok_or(Director::Truncated)?;
    let vip = Addr::v6(ip.destination);
    if !pools::is_vip(vip) {
        return Err(Director::NotVip);
    }
    let kind = icmp_type(l4.first);
    if kind == ECHO6 {
        return Err(echo6(&frame, &ip, at, l4).unwrap_or(Director::Truncated));
    }
    if !quote::is_error6(kind) {
        return Err(Director::IcmpOther);
    }
    let len = u16::from_be(ip.payload_len) + IPV6 as u16;
    let behind = (ETHERNET + len as usize).wrapping_sub(at);
    let flow = quote::flow6(&frame, at, behind).ok_or(Director::IcmpQuote)?;
    follow(ctx, vip, &flow, Packet { len, tos: ip.traffic_class() })
}

#[inline(always)]
fn follow(ctx: &XdpContext, vip: Addr, flow: &Flow, packet: Packet) -> Result<Sent, Director> {
    if flow.destination != vip {
        return Err(Director::IcmpForeign);
    }
    let service = pools::service_of(flow).ok_or(Director::IcmpForeign)?;
    extras::admit(service, flow)?;
    forward(ctx, flow, service, packet, Director::ForwardedError)
}

/// Turns the request into its answer. Swapped addresses leave both checksums as they are; type and time to live do not.
///
/// The answer lives as long as any packet made here: with what was left of the request's time, `traceroute -I` to a VIP
/// would never see the end. Options and extension headers go back as they came.
#[inline(always)]
fn echo4(frame: &Frame, ip: &Ipv4, at: usize, icmp: L4) -> Option<Director> {
    let (old, new) = (u16::from_ne_bytes([ip.ttl, 0]), u16::from_ne_bytes([TTL, 0]));
    let checksum = mend(ip.checksum, old, new);
    frame.write(
        ETHERNET,
        Ipv4 { source: ip.destination, destination: ip.source, ttl: TTL, checksum, ..*ip },
    )?;
    answer(frame, at, icmp, ECHO4, ECHO_REPLY4)
}

#[inline(always)]
fn echo6(frame: &Frame, ip: &Ipv6, at: usize, icmp: L4) -> Option<Director> {
    frame.write(ETHERNET, Ipv6 { source: ip.destination, destination: ip.source, hop_limit: TTL, ..*ip })?;
    answer(frame, at, icmp, ECHO6, ECHO_REPLY6)
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
