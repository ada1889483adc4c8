//! Packets out of the ordinary: with options, extension headers or in fragments, for any port or a VIP that is a prefix; and
//! all for a VIP that is refused. Functions of their own, so that the way of other packets is short.

use core::arch::asm;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use lb_common::flow::{Addr, Flow};
use lb_common::outer::{ETHERNET, IPV4, IPV6};
use lb_common::reasons::Director;
use lb_ebpf::headers::{Behind, Odd, Part, behind4, behind6};
use lb_ebpf::packet::{Frame, protocol};
use lb_ebpf::pools;

use crate::extras::{self, FLAGS, Seen};
use crate::forward::{Done, Packet, Sent, finish, forward};
use crate::icmp::PLACES;
use crate::parse::is_cut;

/// Bit of what is returned here: it is ICMP, at the place in the lower 32 bits. The caller looks at it: all functions that call each
/// other have 512 bytes of stack.
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

/// Any IPv4 packet.
#[inline(never)]
pub fn rest4(ctx: *mut xdp_md) -> Done {
    let ctx = XdpContext::new(ctx);
    match look4(&ctx) {
        Ok(Found::Icmp(at)) => ICMP_AT | at as Done,
        Ok(found) => finish(&ctx, send(&ctx, found)),
        Err(reason) => finish(&ctx, Err(reason)),
    }
}

/// Any IPv6 packet.
#[inline(never)]
pub fn rest6(ctx: *mut xdp_md) -> Done {
    let ctx = XdpContext::new(ctx);
    match look6(&ctx) {
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
    let behind = unpacked(through4(ctx.ctx)).map_err(|odd| reason(odd, Director::IpOptions))?;
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
    let behind = unpacked(through6(ctx.ctx, ETHERNET as u32 + u32::from(len)))
        .map_err(|odd| reason(odd, Director::Extension))?;
    let packet = Packet { len, tos: (u16::from_be(ip.read::<u16, 0>()) >> 4) as u8 };
    look(ctx, frame, &behind, (source, destination), packet, true)
}

/// Looks through IPv4 options. A function of its own: the verifier forgets its ways through them when it returns, and goes on
/// once for all of them, not once for each.
#[inline(never)]
fn through4(ctx: *mut xdp_md) -> u64 {
    packed(behind4(&frame_of(ctx), ETHERNET))
}

/// Looks through the extension headers of a packet that ends at `end`. See [`through4`].
#[inline(never)]
fn through6(ctx: *mut xdp_md, end: u32) -> u64 {
    packed(behind6(&frame_of(ctx), ETHERNET, end as usize))
}

/// The frame of a context that the compiler leaves a context: it would have the caller pass what is read of it, which the verifier
/// does not take for a packet's ends.
#[inline(always)]
fn frame_of(mut ctx: *mut xdp_md) -> Frame {
    // SAFETY: changes nothing.
    unsafe { asm!("/* {0} */", inout(reg) ctx, options(nomem, nostack)) };
    Frame::xdp(&XdpContext::new(ctx))
}

/// In one register: place in 16 bits, protocol in 8, part in 8; above, why the packet is not looked into.
#[inline(always)]
fn packed(behind: Result<Behind, Odd>) -> u64 {
    match behind {
        Ok(Behind { protocol, at, part }) => {
            let mut packed = at as u64 & 0xffff | u64::from(protocol) << 16 | (part as u64) << 24;
            // SAFETY: changes nothing. The compiler cannot compute the value for errors as well, of which it knows nothing.
            unsafe { asm!("/* {0} */", inout(reg) packed, options(nomem, nostack)) };
            packed
        }
        Err(odd) => (odd as u64 + 1) << 32,
    }
}

/// A value of which the verifier knows nothing any more: all that it knew would be one way more each to follow. It keeps what is written
/// to the stack as a whole, and forgets what is written in halves.
#[inline(always)]
fn forgotten(value: u64) -> u64 {
    let mut halves = core::mem::MaybeUninit::<u64>::uninit();
    let at = halves.as_mut_ptr();
    // SAFETY: both halves are written before the whole is read.
    unsafe {
        at.cast::<u32>().write_volatile(value as u32);
        at.cast::<u32>().add(1).write_volatile((value >> 32) as u32);
        at.read_volatile()
    }
}

#[inline(always)]
fn unpacked(packed: u64) -> Result<Behind, Odd> {
    let packed = forgotten(packed);
    match packed >> 32 {
        0 => {}
        1 => return Err(Odd::Cut),
        2 => return Err(Odd::Wrong),
        _ => return Err(Odd::Refused),
    }
    let part = match packed as u32 >> 24 {
        0 => Part::Whole,
        1 => Part::First,
        _ => Part::Later,
    };
    Ok(Behind { protocol: (packed >> 16) as u8, at: packed as usize & PLACES, part })
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
    if behind.part != Part::Whole {
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
