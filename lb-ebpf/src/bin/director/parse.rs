//! From a frame to the flow it belongs to, or the reason why it has none.
//!
//! Each family goes its own way through to the end (see [`crate::forward`]): what is known of a packet then stays in
//! registers.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::programs::XdpContext;
use lb_common::extras::EXTRA;
use lb_common::flow::{Addr, Flow};
use lb_common::outer::{ETH_IPV4, ETH_IPV6, ETHERNET, IPV4, IPV6};
use lb_common::reasons::Director;
use lb_ebpf::packet::{ANY_FRAGMENT, Frame, V4_NO_OPTIONS, Window, protocol, whole};
use lb_ebpf::pools;
use lb_ebpf::tags::{TYPE, Tags};

use crate::forward::{Done, Packet, SENT, finish, forward};
use crate::unusual::{self, ICMP_AT};
use crate::{extras, icmp, tags};

/// What a packet may be.
enum Parsed {
    /// Of a flow.
    Flow(Flow, Packet),
    /// ICMP right behind the IP header, which is looked at apart.
    Icmp,
    /// Something out of the ordinary, the same.
    Unusual,
}

/// Does what is to be done with a frame. VLAN tags are off it meanwhile: what is not sent to a host has them again afterwards, so
/// it goes to the kernel as it came, and an answer goes back in the VLAN of the question.
#[inline(always)]
pub fn direct(ctx: &XdpContext) -> u32 {
    let mut frame = Frame::xdp(ctx);
    let Some(mut ethertype) = frame.read::<u16>(TYPE) else {
        return finish(ctx, Err(Director::Truncated)) as u32;
    };
    let mut tags = Tags::NONE;
    if !matches!(ethertype, ETH_IPV4 | ETH_IPV6) {
        if let Err(reason) = tags::take(ctx.ctx, &mut tags) {
            return finish(ctx, Err(reason)) as u32;
        }
        frame = Frame::xdp(ctx);
        ethertype = frame.read(TYPE).unwrap_or(0);
    }
    let done = match ethertype {
        ETH_IPV4 => match parse4(ctx, &frame) {
            Parsed::Flow(flow, packet) => of_service::<false>(ctx, &flow, packet),
            Parsed::Icmp => icmp::icmp4(ctx.ctx, (ETHERNET + IPV4) as u32),
            Parsed::Unusual => any::<false>(ctx.ctx),
        },
        _ => match parse6(ctx, &frame) {
            Parsed::Flow(flow, packet) => of_service::<true>(ctx, &flow, packet),
            Parsed::Icmp => icmp::icmp6(ctx.ctx, (ETHERNET + IPV6) as u32),
            Parsed::Unusual => any::<true>(ctx.ctx),
        },
    };
    // There was room for them before; an answer that is longer than the question may have taken it.
    if done & SENT == 0 && tags.len != 0 && tags::give_back(ctx.ctx, &tags).is_none() {
        return xdp_action::XDP_DROP;
    }
    done as u32
}

/// Any packet of a family.
#[inline(always)]
fn any<const V6: bool>(ctx: *mut xdp_md) -> Done {
    match unusual::unusual::<V6>(ctx) {
        done if done & ICMP_AT == 0 => done,
        found if V6 => icmp::icmp6(ctx, found as u32),
        found => icmp::icmp4(ctx, found as u32),
    }
}

/// The frame ends before a packet of this length does.
#[inline(always)]
pub fn is_cut(ctx: &XdpContext, frame: &Frame, len: u16) -> bool {
    let end = ETHERNET + len as usize;
    end > frame.len() && end > whole(ctx)
}

/// The flow of a frame that [`direct`] has found one in.
#[inline(always)]
pub fn flow(ctx: &XdpContext, frame: &Frame) -> Result<(Flow, Packet), Director> {
    let parsed = match frame.read::<u16>(TYPE) {
        Some(ETH_IPV4) => parse4(ctx, frame),
        _ => parse6(ctx, frame),
    };
    match parsed {
        Parsed::Flow(flow, packet) => Ok((flow, packet)),
        Parsed::Icmp | Parsed::Unusual => Err(Director::NoService),
    }
}

#[inline(always)]
fn parse4(ctx: &XdpContext, frame: &Frame) -> Parsed {
    let Some(head) = frame.window::<{ IPV4 + 8 }>(ETHERNET) else { return Parsed::Unusual };
    let len = u16::from_be(head.read::<u16, 2>());
    let plain = head.read::<u8, 0>() == V4_NO_OPTIONS && head.read::<u16, 6>() & ANY_FRAGMENT == 0;
    if !plain || len < (IPV4 + 8) as u16 || is_cut(ctx, frame, len) {
        return Parsed::Unusual;
    }
    let protocol = head.read::<u8, 9>();
    if protocol == protocol::ICMP {
        return Parsed::Icmp;
    }
    let (source, destination) = (Addr::v4(head.read::<u32, 12>()), Addr::v4(head.read::<u32, 16>()));
    let ports = head.read::<u32, 20>();
    let packet = Packet { len, tos: head.read::<u8, 1>() };
    Parsed::Flow(Flow { source, destination, ports, protocol, v6: false }, packet)
}

#[inline(always)]
fn parse6(ctx: &XdpContext, frame: &Frame) -> Parsed {
    let Some(head) = frame.window::<{ IPV6 + 8 }>(ETHERNET) else { return Parsed::Unusual };
    let destination = destination6(&head);
    let payload = u16::from_be(head.read::<u16, 4>());
    let len = payload.wrapping_add(IPV6 as u16);
    let is_v6 = head.read::<u8, 0>() >> 4 == 6;
    if !is_v6 || payload < 8 || len < payload || is_cut(ctx, frame, len) || destination.is_mapped() {
        return Parsed::Unusual;
    }
    let protocol = head.read::<u8, 6>();
    match protocol {
        protocol::TCP | protocol::UDP => {
            let source = [
                head.read::<u32, 8>(),
                head.read::<u32, 12>(),
                head.read::<u32, 16>(),
                head.read::<u32, 20>(),
            ];
            let source = Addr::v6(source);
            let ports = head.read::<u32, 40>();
            let packet = Packet { len, tos: (u16::from_be(head.read::<u16, 0>()) >> 4) as u8 };
            Parsed::Flow(Flow { source, destination, ports, protocol, v6: true }, packet)
        }
        protocol::ICMPV6 => Parsed::Icmp,
        _ => Parsed::Unusual,
    }
}

/// Field by field: an address that is copied as a whole would go through memory, byte by byte.
#[inline(always)]
fn destination6<const BYTES: usize>(ip: &Window<BYTES>) -> Addr {
    Addr::v6([ip.read::<u32, 24>(), ip.read::<u32, 28>(), ip.read::<u32, 32>(), ip.read::<u32, 36>()])
}

/// A service of exactly this address and port: such exist only for TCP and UDP. Other packets for a VIP are looked at
/// apart, and so are those for an address in one.
#[inline(always)]
fn of_service<const V6: bool>(ctx: &XdpContext, flow: &Flow, packet: Packet) -> Done {
    match pools::service(flow.destination, flow.destination_port(), flow.protocol) {
        Some(service) if service.flags & EXTRA != 0 => extras::treat(ctx.ctx),
        Some(service) => finish(ctx, forward(ctx, flow, service, packet, Director::Forwarded)),
        None if pools::is_vip_itself(flow.destination) => any::<V6>(ctx.ctx),
        None if V6 && pools::is_within(flow.destination) => extras::treat(ctx.ctx),
        None => finish(ctx, Err(Director::NotVip)),
    }
}
