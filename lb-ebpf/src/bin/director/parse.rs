//! From a frame to the flow it belongs to, or the reason why it has none.
//!
//! Each family goes its own way through to the end (see [`crate::forward`]): what is known of a packet then stays in
//! registers.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::programs::XdpContext;
use lb_common::extras::EXTRA;
use lb_common::flow::{Addr, Flow};
use lb_common::outer::{ETH_IPV4, ETH_IPV6, ETHERNET, IPV4, IPV6};
use lb_common::reasons::Director;
use lb_ebpf::packet::{ANY_FRAGMENT, Frame, V4_NO_OPTIONS, Window, protocol, whole};
use lb_ebpf::pools;
use lb_ebpf::tags::{TYPE, Tags};

use crate::forward::{Done, Packet, SENT, finish, forward};
use crate::{extras, icmp, tags};

/// What a packet for a VIP may be.
enum Parsed {
    /// Of a flow.
    Flow(Flow, Packet),
    /// ICMP, which is looked at apart.
    Icmp,
}

/// Does what is to be done with a frame. VLAN tags are off it meanwhile: what is not sent to a host has them again afterwards, so it
/// goes to the kernel as it came, and an answer goes back in the VLAN of the question.
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
            Ok(Parsed::Flow(flow, packet)) => of_service(ctx, &flow, packet),
            Ok(Parsed::Icmp) => icmp::icmp4(ctx.ctx),
            Err(reason) => finish(ctx, Err(reason)),
        },
        _ => match parse6(ctx, &frame) {
            Ok(Parsed::Flow(flow, packet)) => of_service(ctx, &flow, packet),
            Ok(Parsed::Icmp) => icmp::icmp6(ctx.ctx),
            Err(reason) => finish(ctx, Err(reason)),
        },
    };
    // There was room for them before; an answer that is longer than the question may have taken it.
    if done & SENT == 0 && tags.len != 0 && tags::give_back(ctx.ctx, &tags).is_none() {
        return xdp_action::XDP_DROP;
    }
    done as u32
}

/// The frame ends before a packet of this length does.
#[inline(always)]
fn is_cut(ctx: &XdpContext, frame: &Frame, len: u16) -> bool {
    let end = ETHERNET + len as usize;
    end > frame.len() && end > whole(ctx)
}

/// A packet that is refused if it is for a VIP, and none of our business if not.
#[inline(always)]
fn refuse(destination: Addr, reason: Director) -> Director {
    if pools::is_vip(destination) { reason } else { Director::NotVip }
}

/// The flow of a frame that [`direct`] has found one in.
#[inline(always)]
pub fn flow(ctx: &XdpContext, frame: &Frame) -> Result<(Flow, Packet), Director> {
    let parsed = match frame.read::<u16>(TYPE) {
        Some(ETH_IPV4) => parse4(ctx, frame)?,
        _ => parse6(ctx, frame)?,
    };
    match parsed {
        Parsed::Flow(flow, packet) => Ok((flow, packet)),
        Parsed::Icmp => Err(Director::NoService),
    }
}

#[inline(always)]
fn parse4(ctx: &XdpContext, frame: &Frame) -> Result<Parsed, Director> {
    let Some(head) = frame.window::<{ IPV4 + 8 }>(ETHERNET) else {
        return Err(match frame.read::<u32>(ETHERNET + 16) {
            Some(destination) => refuse(Addr::v4(destination), Director::Truncated),
            None => Director::Truncated,
        });
    };
    let vip = Addr::v4(head.read::<u32, 16>());
    let len = u16::from_be(head.read::<u16, 2>());
    let version_ihl = head.read::<u8, 0>();
    if version_ihl != V4_NO_OPTIONS {
        let options = version_ihl > V4_NO_OPTIONS && version_ihl < 0x50;
        return Err(refuse(vip, if options { Director::IpOptions } else { Director::BadHeader }));
    }
    if head.read::<u16, 6>() & ANY_FRAGMENT != 0 {
        return Err(refuse(vip, Director::Fragment));
    }
    if len < (IPV4 + 8) as u16 || is_cut(ctx, frame, len) {
        return Err(refuse(vip, Director::BadHeader));
    }
    let protocol = head.read::<u8, 9>();
    if protocol == protocol::ICMP {
        return Ok(Parsed::Icmp);
    }
    let source = Addr::v4(head.read::<u32, 12>());
    let ports = head.read::<u32, 20>();
    let packet = Packet { len, tos: head.read::<u8, 1>() };
    Ok(Parsed::Flow(Flow { source, destination: vip, ports, protocol, v6: false }, packet))
}

#[inline(always)]
fn parse6(ctx: &XdpContext, frame: &Frame) -> Result<Parsed, Director> {
    let Some(head) = frame.window::<{ IPV6 + 8 }>(ETHERNET) else {
        return Err(match frame.window::<IPV6>(ETHERNET).map(|ip| destination6(&ip)) {
            Some(destination) if destination.is_mapped() => Director::NotVip,
            Some(destination) => refuse(destination, Director::Truncated),
            None => Director::Truncated,
        });
    };
    let vip = destination6(&head);
    if vip.is_mapped() {
        return Err(Director::NotVip);
    }
    let payload = u16::from_be(head.read::<u16, 4>());
    let len = payload.wrapping_add(IPV6 as u16);
    let is_v6 = head.read::<u8, 0>() >> 4 == 6;
    // A payload length of zero with more behind it would be a jumbogram (RFC 2675), which no interface here carries.
    if !is_v6 || payload < 8 || len < payload || is_cut(ctx, frame, len) {
        return Err(refuse(vip, Director::BadHeader));
    }
    let next_header = head.read::<u8, 6>();
    match next_header {
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
            Ok(Parsed::Flow(
                Flow { source, destination: vip, ports, protocol: next_header, v6: true },
                packet,
            ))
        }
        protocol::ICMPV6 => Ok(Parsed::Icmp),
        protocol::FRAGMENT => Err(refuse(vip, Director::Fragment)),
        // Hop-by-hop, routing, authentication, destination options, mobility, HIP, shim6, and the experimental two.
        0 | 43 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => Err(refuse(vip, Director::Extension)),
        _ => Err(refuse(vip, Director::NoService)),
    }
}

/// Field by field: an address that is copied as a whole would go through memory, byte by byte.
#[inline(always)]
fn destination6<const BYTES: usize>(ip: &Window<BYTES>) -> Addr {
    Addr::v6([ip.read::<u32, 24>(), ip.read::<u32, 28>(), ip.read::<u32, 32>(), ip.read::<u32, 36>()])
}

/// A service exists only for TCP and UDP: other protocols find none.
#[inline(always)]
fn of_service(ctx: &XdpContext, flow: &Flow, packet: Packet) -> Done {
    let outcome = match pools::service(flow.destination, flow.destination_port(), flow.protocol) {
        Some(service) if service.flags & EXTRA != 0 => return extras::treat(ctx.ctx),
        Some(service) => forward(ctx, flow, service, packet, Director::Forwarded),
        None => Err(refuse(flow.destination, Director::NoService)),
    };
    finish(ctx, outcome)
}
