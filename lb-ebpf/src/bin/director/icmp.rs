//! ICMP for a VIP: errors follow the flow they quote, echo requests are answered.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use lb_common::flow::{Addr, Flow};
use lb_common::outer::{ETHERNET, IPV4, IPV6, TTL, mend};
use lb_common::reasons::Director;
use lb_ebpf::packet::{Frame, L4, Window, icmp_type};
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
    let ip = frame.window::<IPV4>(ETHERNET).ok_or(Director::Truncated)?;
    let l4 = frame.read_behind::<L4>(at).ok_or(Director::Truncated)?;
    let vip = Addr::v4(ip.read::<u32, 16>());
    let kind = icmp_type(l4.first);
    if quote::is_error4(kind) {
        let packet = Packet { len: u16::from_be(ip.read::<u16, 2>()), tos: ip.read::<u8, 1>() };
        let behind = (ETHERNET + packet.len as usize).wrapping_sub(at);
        return follow(ctx, vip, quote::flow4(&frame, at, behind), packet);
    }
    if !pools::is_vip(vip) {
        return Err(Director::NotVip);
    }
    match kind {
        ECHO4 => Err(echo4(&frame, &ip, at, l4).unwrap_or(Director::Truncated)),
        _ => Err(Director::IcmpOther),
    }
}

#[inline(always)]
fn treat6(ctx: &XdpContext, at: usize) -> Result<Sent, Director> {
    let frame = Frame::xdp(ctx);
    let ip = frame.window::<IPV6>(ETHERNET).ok_or(Director::Truncated)?;
    let l4 = frame.read_behind::<L4>(at).ok_or(Director::Truncated)?;
    let vip = Addr::from_pairs([ip.read::<u64, 24>(), ip.read::<u64, 32>()]);
    let kind = icmp_type(l4.first);
    if quote::is_error6(kind) {
        let len = u16::from_be(ip.read::<u16, 4>()) + IPV6 as u16;
        let packet = Packet { len, tos: (u16::from_be(ip.read::<u16, 0>()) >> 4) as u8 };
        let behind = (ETHERNET + packet.len as usize).wrapping_sub(at);
        return follow(ctx, vip, quote::flow6(&frame, at, behind), packet);
    }
    if !pools::is_vip(vip) {
        return Err(Director::NotVip);
    }
    match kind {
        ECHO6 => Err(echo6(&frame, &ip, at, l4).unwrap_or(Director::Truncated)),
        _ => Err(Director::IcmpOther),
    }
}

/// Sends an error to the host of the flow that it quotes. Where that is a service's, its address is a VIP, so the VIP is
/// looked up only to tell why an error is not sent.
#[inline(always)]
fn follow(ctx: &XdpContext, vip: Addr, flow: Option<Flow>, packet: Packet) -> Result<Sent, Director> {
    let service = match &flow {
        Some(flow) if flow.destination == vip => pools::service_of(flow),
        _ => None,
    };
    if let (Some(flow), Some(service)) = (&flow, service) {
        extras::admit(service, flow)?;
        return forward(ctx, flow, service, packet, Director::ForwardedError);
    }
    if !pools::is_vip(vip) {
        return Err(Director::NotVip);
    }
    Err(if flow.is_some() { Director::IcmpForeign } else { Director::IcmpQuote })
}

/// Turns the request into its answer. Swapped addresses leave both checksums as they are; type and time to live do not.
/// Field by field: a header that is written as a whole becomes a call of `memmove`.
///
/// The answer lives as long as any packet made here: with what was left of the request's time, `traceroute -I` to a VIP
/// would never see the end. Options and extension headers go back as they came.
#[inline(always)]
fn echo4(frame: &Frame, ip: &Window<IPV4>, at: usize, icmp: L4) -> Option<Director> {
    let (old, new) = (u16::from_ne_bytes([ip.read::<u8, 8>(), 0]), u16::from_ne_bytes([TTL, 0]));
    ip.write::<u8, 8>(TTL);
    ip.write::<u16, 10>(mend(ip.read::<u16, 10>(), old, new));
    let (source, destination) = (ip.read::<u32, 12>(), ip.read::<u32, 16>());
    ip.write::<u32, 12>(destination);
    ip.write::<u32, 16>(source);
    answer(frame, at, icmp, ECHO4, ECHO_REPLY4)
}

#[inline(always)]
fn echo6(frame: &Frame, ip: &Window<IPV6>, at: usize, icmp: L4) -> Option<Director> {
    ip.write::<u8, 7>(TTL);
    let (source, destination) =
        ([ip.read::<u64, 8>(), ip.read::<u64, 16>()], [ip.read::<u64, 24>(), ip.read::<u64, 32>()]);
    ip.write::<u64, 8>(destination[0]);
    ip.write::<u64, 16>(destination[1]);
    ip.write::<u64, 24>(source[0]);
    ip.write::<u64, 32>(source[1]);
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
    let addresses = frame.window::<12>(0)?;
    let (to, from) = (
        (addresses.read::<u32, 0>(), addresses.read::<u16, 4>()),
        (addresses.read::<u32, 6>(), addresses.read::<u16, 10>()),
    );
    addresses.write::<u32, 0>(from.0);
    addresses.write::<u16, 4>(from.1);
    addresses.write::<u32, 6>(to.0);
    addresses.write::<u16, 10>(to.1);
    Some(Director::Echo)
}
