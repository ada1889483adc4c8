//! ICMP for a VIP: errors follow the flow they quote, echo requests are answered.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use lb_common::flow::{Addr, Flow};
use lb_common::outer::{ETHERNET, IPV4, IPV6, TTL, mend};
use lb_common::reasons::Director;
use lb_ebpf::packet::{Frame, Ipv4, Ipv4L4, Ipv6, Ipv6L4, L4, icmp_type};
use lb_ebpf::{pools, quote};

use crate::extras;
use crate::forward::{Done, Packet, Sent, finish, forward};

const ECHO4: u8 = 8;
const ECHO_REPLY4: u8 = 0;
const ECHO6: u8 = 128;
const ECHO_REPLY6: u8 = 129;

/// An ICMP packet over a well-formed IPv4 header. A function of its own, so that the way of other packets is short.
#[inline(never)]
pub fn icmp4(ctx: *mut xdp_md) -> Done {
    let ctx = XdpContext::new(ctx);
    finish(&ctx, treat4(&ctx))
}

/// An ICMPv6 packet over a well-formed IPv6 header.
#[inline(never)]
pub fn icmp6(ctx: *mut xdp_md) -> Done {
    let ctx = XdpContext::new(ctx);
    finish(&ctx, treat6(&ctx))
}

#[inline(always)]
fn treat4(ctx: &XdpContext) -> Result<Sent, Director> {
    let frame = Frame::xdp(ctx);
    let Ipv4L4 { ip, l4 } = frame.read(ETHERNET).ok_or(Director::Truncated)?;
    let vip = Addr::v4(ip.destination);
    if !pools::is_vip(vip) {
        return Err(Director::NotVip);
    }
    let kind = icmp_type(l4.first);
    if kind == ECHO4 {
        return Err(echo4(&frame, &ip, l4).unwrap_or(Director::Truncated));
    }
    if !quote::is_error4(kind) {
        return Err(Director::IcmpOther);
    }
    let len = u16::from_be(ip.total_len);
    let flow = quote::flow4(&frame, ETHERNET + IPV4, len as usize - IPV4).ok_or(Director::IcmpQuote)?;
    follow(ctx, vip, &flow, Packet { len, tos: ip.tos })
}

#[inline(always)]
fn treat6(ctx: &XdpContext) -> Result<Sent, Director> {
    let frame = Frame::xdp(ctx);
    let Ipv6L4 { ip, l4 } = frame.read(ETHERNET).ok_or(Director::Truncated)?;
    let vip = Addr::v6(ip.destination);
    if !pools::is_vip(vip) {
        return Err(Director::NotVip);
    }
    let kind = icmp_type(l4.first);
    if kind == ECHO6 {
        return Err(echo6(&frame, &ip, l4).unwrap_or(Director::Truncated));
    }
    if !quote::is_error6(kind) {
        return Err(Director::IcmpOther);
    }
    let payload = u16::from_be(ip.payload_len);
    let flow = quote::flow6(&frame, ETHERNET + IPV6, payload as usize).ok_or(Director::IcmpQuote)?;
    follow(ctx, vip, &flow, Packet { len: payload + IPV6 as u16, tos: ip.traffic_class() })
}

#[inline(always)]
fn follow(ctx: &XdpContext, vip: Addr, flow: &Flow, packet: Packet) -> Result<Sent, Director> {
    if flow.destination != vip {
        return Err(Director::IcmpForeign);
    }
    let service = pools::service(flow.destination, flow.destination_port(), flow.protocol);
    let service = service.ok_or(Director::IcmpForeign)?;
    extras::admit(service, flow)?;
    forward(ctx, flow, service, packet, Director::ForwardedError)
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
