//! From a frame to the flow it belongs to, or the reason why it has none.
//!
//! Each family goes its own way through to the end (see [`crate::forward`]): what is known of a packet then stays in
//! registers.

use core::mem::MaybeUninit;

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

/// Does what is to be done with a frame. VLAN tags are off it meanwhile: what is not sent to a host has them again afterwards, so
/// it goes to the kernel as it came, and an answer goes back in the VLAN of the question.
#[inline(always)]
pub fn direct(ctx: &XdpContext) -> u32 {
    let mut frame = Frame::xdp(ctx);
    let Some(mut ethertype) = frame.read::<u16>(TYPE) else {
        return finish(ctx, Err(Director::Truncated)) as u32;
    };
    let mut tags = MaybeUninit::uninit();
    let tags = Tags::clear(&mut tags);
    if !matches!(ethertype, ETH_IPV4 | ETH_IPV6) {
        if let Err(reason) = tags::take(ctx.ctx, tags) {
            return finish(ctx, Err(reason)) as u32;
        }
        frame = Frame::xdp(ctx);
        ethertype = frame.read(TYPE).unwrap_or(0);
    }
    let done = match ethertype {
        ETH_IPV4 => family4(ctx, &frame),
        _ => family6(ctx, &frame),
    };
    // There was room for them before; an answer that is longer than the question may have taken it.
    if done & SENT == 0 && !tags.is_none() && tags::give_back(ctx.ctx, tags).is_none() {
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
        Some(ETH_IPV4) => plain4(ctx, frame).map(|head| (flow4(&head), packet4(&head))),
        _ => plain6(ctx, frame).map(|head| (flow6(&head), packet6(&head))),
    };
    parsed.ok_or(Director::NoService)
}

/// IP header and the eight bytes behind it.
type Head4 = Window<{ IPV4 + 8 }>;
/// See [`Head4`].
type Head6 = Window<{ IPV6 + 8 }>;

#[inline(always)]
fn family4(ctx: &XdpContext, frame: &Frame) -> Done {
    let Some(head) = plain4(ctx, frame) else { return any::<false>(ctx.ctx) };
    if head.read::<u8, 9>() == protocol::ICMP {
        return icmp::icmp4(ctx.ctx, (ETHERNET + IPV4) as u32);
    }
    of_service::<false>(ctx, destination4(&head), || (flow4(&head), packet4(&head)))
}

#[inline(always)]
fn family6(ctx: &XdpContext, frame: &Frame) -> Done {
    let Some(head) = plain6(ctx, frame) else { return any::<true>(ctx.ctx) };
    match head.read::<u8, 6>() {
        protocol::TCP | protocol::UDP => {
            of_service::<true>(ctx, destination6(&head), || (flow6(&head), packet6(&head)))
        }
        protocol::ICMPV6 => icmp::icmp6(ctx.ctx, (ETHERNET + IPV6) as u32),
        _ => any::<true>(ctx.ctx),
    }
}

/// A packet without anything out of the ordinary.
#[inline(always)]
fn plain4(ctx: &XdpContext, frame: &Frame) -> Option<Head4> {
    let head = frame.window(ETHERNET)?;
    let len = packet4(&head).len;
    let plain = head.read::<u8, 0>() == V4_NO_OPTIONS && head.read::<u16, 6>() & ANY_FRAGMENT == 0;
    (plain && len >= (IPV4 + 8) as u16 && !is_cut(ctx, frame, len)).then_some(head)
}

/// See [`plain4`].
#[inline(always)]
fn plain6(ctx: &XdpContext, frame: &Frame) -> Option<Head6> {
    let head: Head6 = frame.window(ETHERNET)?;
    let payload = u16::from_be(head.read::<u16, 4>());
    let len = packet6(&head).len;
    let sane = head.read::<u8, 0>() >> 4 == 6 && payload >= 8 && len >= payload;
    // The halves first: of nearly all addresses the first one tells.
    let is_mapped = head.read::<u64, 24>() == 0 && destination6(&head).vip.is_mapped();
    (sane && !is_cut(ctx, frame, len) && !is_mapped).then_some(head)
}

#[inline(always)]
fn packet4(ip: &Head4) -> Packet {
    Packet { len: u16::from_be(ip.read::<u16, 2>()), tos: ip.read::<u8, 1>() }
}

#[inline(always)]
fn packet6(ip: &Head6) -> Packet {
    let len = u16::from_be(ip.read::<u16, 4>()).wrapping_add(IPV6 as u16);
    Packet { len, tos: (u16::from_be(ip.read::<u16, 0>()) >> 4) as u8 }
}

#[inline(always)]
fn flow4(ip: &Head4) -> Flow {
    Flow {
        source: Addr::v4(ip.read::<u32, 12>()),
        destination: Addr::v4(ip.read::<u32, 16>()),
        ports: ip.read::<u32, 20>(),
        protocol: ip.read::<u8, 9>(),
        v6: false,
    }
}

#[inline(always)]
fn flow6(ip: &Head6) -> Flow {
    Flow {
        source: Addr::from_pairs([ip.read::<u64, 8>(), ip.read::<u64, 16>()]),
        destination: Addr::from_pairs([ip.read::<u64, 24>(), ip.read::<u64, 32>()]),
        ports: ip.read::<u32, 40>(),
        protocol: ip.read::<u8, 6>(),
        v6: true,
    }
}

/// Where a packet goes: all that the directory of services is asked for.
struct Destination {
    vip: Addr,
    port: u16,
    protocol: u8,
}

#[inline(always)]
fn destination4(ip: &Head4) -> Destination {
    Destination {
        vip: Addr::v4(ip.read::<u32, 16>()),
        port: ip.read::<u16, 22>(),
        protocol: ip.read::<u8, 9>(),
    }
}

#[inline(always)]
fn destination6(ip: &Head6) -> Destination {
    Destination {
        vip: Addr::from_pairs([ip.read::<u64, 24>(), ip.read::<u64, 32>()]),
        port: ip.read::<u16, 42>(),
        protocol: ip.read::<u8, 6>(),
    }
}

/// A service of exactly this address and port: such exist only for TCP and UDP. Other packets for a VIP are looked at
/// apart, and so are those for an address in one.
///
/// The rest of the packet is read when the service is found: kept over the search, it would go through the stack.
#[inline(always)]
fn of_service<const V6: bool>(
    ctx: &XdpContext,
    Destination { vip, port, protocol }: Destination,
    rest: impl Fn() -> (Flow, Packet),
) -> Done {
    match pools::service(vip, port, protocol) {
        Some(service) if service.flags & EXTRA != 0 => extras::treat(ctx.ctx),
        Some(service) => {
            let (flow, packet) = rest();
            finish(ctx, forward(ctx, &flow, service, packet, Director::Forwarded))
        }
        None if pools::is_vip_itself(vip) => any::<V6>(ctx.ctx),
        None if V6 && pools::is_within(vip) => extras::treat(ctx.ctx),
        None => finish(ctx, Err(Director::NotVip)),
    }
}
