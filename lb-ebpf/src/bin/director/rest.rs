//! Packets out of the ordinary: with options, extension headers or in fragments, for any port or a VIP that is a prefix; and
//! all for a VIP that is refused. Functions of their own, so that the way of other packets is short.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use lb_common::flow::{Addr, Flow};
use lb_common::outer::{ETHERNET, IPV4, IPV6};
use lb_common::reasons::Director;
use lb_ebpf::headers::{Behind, Odd, Part, behind4, behind6};
use lb_ebpf::packet::{Frame, protocol};
use lb_ebpf::pools;

use crate::forward::{Sent, finish, forward};
use crate::icmp;

/// What stands behind the headers.
enum Found {
    /// A packet of a flow; so many bytes from the IP header on.
    Flow(Flow, u16),
    /// Part of a packet, which has no ports.
    Fragment(Flow, u16),
    /// ICMP, at this place.
    Icmp(usize),
}

/// Any IPv4 packet.
#[inline(never)]
pub fn rest4(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    match look4(&Frame::xdp(&ctx)) {
        Ok(Found::Icmp(at)) => icmp::icmp4(ctx.ctx, at as u32),
        Ok(found) => finish(&ctx, send(&ctx, found)),
        Err(reason) => finish(&ctx, Err(reason)),
    }
}

/// Any IPv6 packet.
#[inline(never)]
pub fn rest6(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    match look6(&Frame::xdp(&ctx)) {
        Ok(Found::Icmp(at)) => icmp::icmp6(ctx.ctx, at as u32),
        Ok(found) => finish(&ctx, send(&ctx, found)),
        Err(reason) => finish(&ctx, Err(reason)),
    }
}

#[inline(always)]
fn send(ctx: &XdpContext, found: Found) -> Result<Sent, Director> {
    match found {
        Found::Flow(flow, len) => {
            let service = pools::service_of(&flow).ok_or(Director::NoService)?;
            forward(ctx, &flow, service, len, Director::Forwarded)
        }
        Found::Fragment(flow, len) => {
            let service = pools::service_of_fragments(&flow).ok_or(Director::Fragment)?;
            forward(ctx, &flow, service, len, Director::ForwardedFragment)
        }
        Found::Icmp(_) => Err(Director::IcmpOther),
    }
}

#[inline(always)]
fn look4(frame: &Frame) -> Result<Found, Director> {
    let ip = frame.window::<IPV4>(ETHERNET).ok_or(Director::Truncated)?;
    let (source, destination) = (Addr::v4(ip.read::<u32, 12>()), Addr::v4(ip.read::<u32, 16>()));
    if !pools::is_vip(destination) {
        return Err(Director::NotVip);
    }
    let behind = behind4(frame, ETHERNET).map_err(|odd| reason(odd, Director::IpOptions))?;
    let len = u16::from_be(ip.read::<u16, 2>());
    look(frame, &behind, (source, destination), len, protocol::ICMP, false)
}

#[inline(always)]
fn look6(frame: &Frame) -> Result<Found, Director> {
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
    if ip.read::<u8, 0>() >> 4 != 6 || payload < 8 || len < payload || ETHERNET + len as usize > frame.len() {
        return Err(Director::BadHeader);
    }
    let behind = behind6(frame, ETHERNET, ETHERNET + len as usize);
    let behind = behind.map_err(|odd| reason(odd, Director::Extension))?;
    look(frame, &behind, (source, destination), len, protocol::ICMPV6, true)
}

#[inline(always)]
fn reason(odd: Odd, refused: Director) -> Director {
    match odd {
        Odd::Cut => Director::Truncated,
        Odd::Wrong => Director::BadHeader,
        Odd::Refused => refused,
    }
}

/// What a packet of `len` bytes holds, whose headers have been looked through.
#[inline(always)]
fn look(
    frame: &Frame,
    behind: &Behind,
    (source, destination): (Addr, Addr),
    len: u16,
    icmp: u8,
    v6: bool,
) -> Result<Found, Director> {
    let end = ETHERNET + len as usize;
    let flow = |ports| Flow { source, destination, ports, protocol: behind.protocol, v6 };
    if behind.part != Part::Whole {
        // Of whatever it is a part of, there is a byte.
        let sane = behind.at < end && end <= frame.len();
        return if sane { Ok(Found::Fragment(flow(0), len)) } else { Err(Director::BadHeader) };
    }
    let ports = frame.read_behind::<[u32; 2]>(behind.at).ok_or(Director::Truncated)?[0];
    if behind.at + 8 > end || end > frame.len() {
        return Err(Director::BadHeader);
    }
    if behind.protocol == icmp {
        return Ok(Found::Icmp(behind.at));
    }
    Ok(Found::Flow(flow(ports), len))
}
