//! Packets out of the ordinary: with options, extension headers or in fragments, for services of any port; and all for a VIP that
//! is refused. Functions of their own, so that the way of other packets is short.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use lb_common::flow::{Addr, Flow};
use lb_common::outer::{ETHERNET, IPV4, IPV6};
use lb_common::reasons::Director;
use lb_ebpf::packet::{Frame, protocol};
use lb_ebpf::pools;

use crate::extras::{self, FLAGS, Seen};
use crate::forward::{Done, Packet, Sent, finish, forward};
use crate::headers::{Behind, Odd, behind4, behind6};
use crate::parse::is_cut;

/// Bit of what is returned here: it is ICMP, at the place in the lower 32 bits. The caller looks at it: all functions
/// that call each other have 512 bytes of stack.
pub const ICMP_AT: Done = 1 << 33;

/// What stands behind the headers.
enum Found {
    /// A packet of a flow.
    Flow(Flow, Packet, Seen),
    /// Part of a packet, which has no ports.
    Fragment(Flow, Packet),
    /// ICMP, at this place.
    Icmp(usize),
}

/// Any packet of a family.
#[inline(never)]
pub fn unusual<const V6: bool>(ctx: *mut xdp_md) -> Done {
    let ctx = XdpContext::new(ctx);
    match if V6 { look6(&ctx) } else { look4(&ctx) } {
        Ok(Found::Icmp(at)) => ICMP_AT | at as Done,
        Ok(found) => finish(&ctx, send(&ctx, found)),
        Err(reason) => finish(&ctx, Err(reason)),
    }
}

#[inline(always)]
fn send(ctx: &XdpContext, found: Found) -> Result<Sent, Director> {
    match found {
        Found::Flow(flow, packet, seen) => {
            let service = pools::service_of(&flow).ok_or(Director::NoService)?;
            extras::serve(ctx, &flow, service, packet, seen)
        }
        Found::Fragment(flow, packet) => {
            let service = pools::service_of_fragments(&flow).ok_or(Director::Fragment)?;
            extras::admit(service, &flow)?;
            extras::limit(service, &flow, 0)?;
            forward(ctx, &flow, service, packet, Director::ForwardedFragment)
        }
        Found::Icmp(_) => Err(Director::IcmpOther),
    }
}

#[inline(always)]
fn look4(ctx: &XdpContext) -> Result<Found, Director> {
    let frame = &Frame::xdp(ctx);
    let ip = frame.window::<IPV4>(ETHERNET).ok_or(Director::Truncated)?;
    let (source, destination) = (Addr::v4(ip.read::<u32, 12>()), Addr::v4(ip.read::<u32, 16>()));
    if !pools::is_vip(destination) {
        return Err(Director::NotVip);
    }
    let behind = behind4(ctx).map_err(|odd| reason(odd, Director::IpOptions))?;
    let packet = Packet { len: u16::from_be(ip.read::<u16, 2>()), tos: ip.read::<u8, 1>() };
    look(ctx, frame, &behind, (source, destination), packet, false)
}

#[inline(always)]
fn look6(ctx: &XdpContext) -> Result<Found, Director> {
    let frame = &Frame::xdp(ctx);
    let ip = frame.window::<IPV6>(ETHERNET).ok_or(Director::Truncated)?;
    let source = [ip.read::<u32, 8>(), ip.read::<u32, 12>(), ip.read::<u32, 16>(), ip.read::<u32, 20>()];
    let destination =
        [ip.read::<u32, 24>(), ip.read::<u32, 28>(), ip.read::<u32, 32>(), ip.read::<u32, 36>()];
    let (source, destination) = (Addr::v6(source), Addr::v6(destination));
    if destination.is_mapped() || !pools::is_vip(destination) {
        return Err(Director::NotVip);
    }
    let payload = u16::from_be(ip.read::<u16, 4>());
    let len = payload.wrapping_add(IPV6 as u16);
    // A window, since the verifier learns nothing from the length.
    frame.window::<{ IPV6 + 8 }>(ETHERNET).ok_or(Director::Truncated)?;
    // A payload length of zero with more behind it would be a jumbogram (RFC 2675), which no interface here carries.
    if ip.read::<u8, 0>() >> 4 != 6 || payload < 8 || len < payload || is_cut(ctx, frame, len) {
        return Err(Director::BadHeader);
    }
    let behind = behind6(ctx, ETHERNET as u32 + u32::from(len));
    let behind = behind.map_err(|odd| reason(odd, Director::Extension))?;
    let packet = Packet { len, tos: (u16::from_be(ip.read::<u16, 0>()) >> 4) as u8 };
    look(ctx, frame, &behind, (source, destination), packet, true)
}

#[inline(always)]
fn reason(odd: Odd, refused: Director) -> Director {
    match odd {
        Odd::Cut => Director::Truncated,
        Odd::Wrong => Director::BadHeader,
        Odd::Refused => refused,
    }
}

/// What a packet holds whose headers have been looked through.
#[inline(always)]
fn look(
    ctx: &XdpContext,
    frame: &Frame,
    behind: &Behind,
    (source, destination): (Addr, Addr),
    packet: Packet,
    v6: bool,
) -> Result<Found, Director> {
    let end = ETHERNET + packet.len as usize;
    let flow = |ports| Flow { source, destination, ports, protocol: behind.protocol, v6 };
    if !behind.whole {
        // Of whatever it is a part of, there is a byte.
        let sane = behind.at < end && !is_cut(ctx, frame, packet.len);
        return if sane { Ok(Found::Fragment(flow(0), packet)) } else { Err(Director::BadHeader) };
    }
    let ports = frame.read_behind::<[u32; 2]>(behind.at).ok_or(Director::Truncated)?[0];
    if behind.at + 8 > end || is_cut(ctx, frame, packet.len) {
        return Err(Director::BadHeader);
    }
    if behind.protocol == if v6 { protocol::ICMPV6 } else { protocol::ICMP } {
        return Ok(Found::Icmp(behind.at));
    }
    let flags = match frame.read_behind::<u8>(behind.at + FLAGS) {
        Some(flags) if end > behind.at + FLAGS => flags,
        _ => 0,
    };
    let id = behind.at == ETHERNET + if v6 { IPV6 } else { IPV4 };
    Ok(Found::Flow(flow(ports), packet, Seen { flags, id }))
}
