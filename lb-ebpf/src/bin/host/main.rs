//! The L7 host's end of the tunnel: takes the outer header off packets that an accepted sender sent to a VIP, and passes
//! those of connections that it knows nothing of to the host that may.
//!
//! `host` is the XDP program, `host_tc` the same for interfaces that take no XDP program; `host_guard` unwraps nothing
//! and stands before the kernel's own tunnel devices, which know neither senders nor VIPs.

#![no_std]
#![no_main]
// Inline assembly for BPF, in `second`.
#![feature(asm_experimental_arch)]

mod judge;
mod maps;
mod second;
mod sockets;

use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_RECOMPUTE_CSUM, TC_ACT_OK, TC_ACT_SHOT,
    bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, xdp_action,
};
use aya_ebpf::helpers::{bpf_redirect, bpf_xdp_adjust_head};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::maps::Nexthop;
use lb_common::outer::{ETH_IPV4, ETHERNET, IPV4, IPV6, Mark, mend};
use lb_common::reasons::{Host, Verdict};
use lb_ebpf::counters::count;
use lb_ebpf::encapsulate::{write4, write6};
use lb_ebpf::packet::{Frame, Tcp, whole};
use lb_ebpf::send::send;
use lb_ebpf::tags::{Tags, is_tag};

use judge::{Inner, is_hidden_tunnel, judge};
use second::{Decision, Hook, decide};

/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV4` (Linux 6.3): what remains is IPv4, whatever the outer header was.
const DECAP_TO_IPV4: u64 = 1 << 7;
/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV6`.
const DECAP_TO_IPV6: u64 = 1 << 8;

/// At XDP. A tagged frame is looked at without its tags, and has them again unless it is sent on: the kernel sees a packet
/// without its outer header in the VLAN that it came in.
#[xdp(frags)]
pub fn host(ctx: XdpContext) -> u32 {
    let tags = take_tags(&ctx);
    let (reason, action) = match treat_xdp(&ctx) {
        Ok((reason, action)) => (reason, action),
        Err(reason) => (
            reason,
            match reason.verdict() {
                Verdict::Drop => xdp_action::XDP_DROP,
                _ => xdp_action::XDP_PASS,
            },
        ),
    };
    count(&maps::HOST_COUNTERS, reason as u32);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(&ctx, "{}", reason.name());
    match reason.verdict() {
        Verdict::Tx => action,
        _ => give_back(&ctx, tags, action),
    }
}

/// Takes the tags off a frame; none if it has none, or more than are looked behind.
#[inline(always)]
fn take_tags(ctx: &XdpContext) -> Option<Tags> {
    let frame = Frame::xdp(ctx);
    if !frame.read(12).is_some_and(is_tag) {
        return None;
    }
    let (tags, _) = Tags::read(&frame).ok()?;
    tags.pop(ctx).map(|()| tags)
}

/// Puts them on again.
#[inline(always)]
fn give_back(ctx: &XdpContext, tags: Option<Tags>, action: u32) -> u32 {
    match tags.map(|tags| tags.push(ctx)) {
        Some(None) => xdp_action::XDP_DROP,
        _ => action,
    }
}

/// `Ok` has unwrapped the packet or sent it on; `Err` says what else becomes of it.
#[inline(always)]
fn treat_xdp(ctx: &XdpContext) -> Result<(Host, u32), Host> {
    let frame = Frame::xdp(ctx);
    let inner = judge(&frame, || whole(ctx))?;
    let hook = Hook { ctx: ctx.ctx.cast(), resizes: true, merged: false };
    match decide(&frame, &inner, hook)? {
        Decision::Keep(reason) => strip_xdp(ctx, inner).map(|()| (reason, xdp_action::XDP_PASS)),
        Decision::PassOn(nexthop, mark) => {
            let action = pass_on_xdp(ctx, inner, nexthop, mark).ok_or(Host::Failed)?;
            Ok((Host::PassedOn, action))
        }
    }
}

/// At XDP, before a tunnel device of the kernel: what [`host`] would not unwrap does not reach it.
#[xdp(frags)]
pub fn host_guard(ctx: XdpContext) -> u32 {
    let tags = take_tags(&ctx);
    let frame = Frame::xdp(&ctx);
    let reason = match judge(&frame, || whole(&ctx)) {
        Ok(_) => Host::Local,
        Err(Host::NotTunnel) if is_hidden_tunnel(&frame) => Host::OuterOptions,
        Err(reason) => reason,
    };
    count(&maps::HOST_COUNTERS, reason as u32);
    let action = match (reason, reason.verdict()) {
        // Left to the kernel, the device would unwrap it.
        (Host::NotVip, _) | (_, Verdict::Drop) => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_PASS,
    };
    give_back(&ctx, tags, action)
}

/// Headers that are looked at: outer, inner, ICMP, quoted IP and ports, or outer, inner and TCP.
const HEADERS: usize = ETHERNET + IPV6 + IPV6 + 8 + IPV6 + 8;
const _: () = assert!(HEADERS >= ETHERNET + IPV6 + IPV6 + size_of::<Tcp>());

/// At TC ingress.
#[classifier]
pub fn host_tc(ctx: TcContext) -> i32 {
    let (reason, action) = match treat_tc(&ctx) {
        Ok((reason, action)) => (reason, action),
        Err(reason) => (
            reason,
            match reason.verdict() {
                Verdict::Drop => TC_ACT_SHOT,
                _ => TC_ACT_OK,
            },
        ),
    };
    count(&maps::HOST_COUNTERS, reason as u32);
    action
}

#[inline(always)]
fn treat_tc(ctx: &TcContext) -> Result<(Host, i32), Host> {
    // Headers may lie outside the linear part; a packet shorter than this is pulled whole.
    let _ = ctx.pull_data(ctx.len().min(HEADERS as u32));
    let frame = Frame::tc(ctx);
    let inner = judge(&frame, || ctx.len() as usize)?;
    // SAFETY: the context is valid for the whole program.
    let merged = unsafe { (*ctx.skb.skb).gso_size } != 0;
    // Another family would be a decapsulation and an encapsulation: hosts of one pool have addresses of both.
    let hook = Hook { ctx: ctx.skb.skb.cast(), resizes: false, merged };
    match decide(&frame, &inner, hook)? {
        Decision::Keep(reason) => strip_tc(ctx, inner).map(|()| (reason, TC_ACT_OK)),
        Decision::PassOn(nexthop, mark) => {
            encapsulate(&Frame::tc(ctx), inner, nexthop, mark).ok_or(Host::Failed)?;
            // SAFETY: a helper without pointers.
            Ok((Host::PassedOn, (unsafe { bpf_redirect(nexthop.ifindex, 0) }) as i32))
        }
    }
}

/// Moves the Ethernet addresses behind the outer header, then the start of the packet.
#[inline(always)]
fn strip_xdp(ctx: &XdpContext, inner: Inner) -> Result<(), Host> {
    let addresses = Frame::xdp(ctx).read::<[u32; 3]>(0).ok_or(Host::Truncated)?;
    let bytes = if inner.outer_len == IPV4 { IPV4 } else { IPV6 };
    // SAFETY: the helper checks the length; the frame is taken anew.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, bytes as i32) } != 0 {
        return Err(Host::Failed);
    }
    let frame = Frame::xdp(ctx);
    frame.write(0, addresses).and(frame.write(12, inner.ethertype)).ok_or(Host::Failed)?;
    if inner.tos.0 == inner.tos.1 {
        return Ok(());
    }
    let head = frame.window::<IPV4>(ETHERNET).ok_or(Host::Failed)?;
    let (first, checksum) = carried_back(head.read::<u16, 0>(), head.read::<u16, 10>(), inner);
    head.write::<u16, 0>(first);
    if inner.ethertype == ETH_IPV4 {
        head.write::<u16, 10>(checksum);
    }
    Ok(())
}

/// The first two bytes of an IP header with the type of service or traffic class that it gets, and an IPv4 checksum.
#[inline(always)]
fn carried_back(first: u16, checksum: u16, inner: Inner) -> (u16, u16) {
    let changed = u16::from(inner.tos.0 ^ inner.tos.1);
    let changed = if inner.ethertype == ETH_IPV4 { changed } else { changed << 4 };
    let new = first ^ changed.to_be();
    (new, mend(checksum, first, new))
}

/// Replaces the outer header, which may become longer or shorter.
#[inline(always)]
fn pass_on_xdp(ctx: &XdpContext, inner: Inner, nexthop: &Nexthop, mark: Mark) -> Option<u32> {
    let less = inner.outer_len as i32 - i32::from(nexthop.outer_len);
    // SAFETY: the helper checks headroom and length; the frame is taken anew.
    if less != 0 && unsafe { bpf_xdp_adjust_head(ctx.ctx, less) } != 0 {
        return None;
    }
    encapsulate(&Frame::xdp(ctx), inner, nexthop, mark)?;
    send(ctx, nexthop)
}

#[inline(always)]
fn encapsulate(frame: &Frame, inner: Inner, nexthop: &Nexthop, mark: Mark) -> Option<()> {
    if nexthop.outer_len == IPV4 as u8 {
        write4(frame, nexthop, inner.len, mark)
    } else {
        write6(frame, nexthop, inner.len, mark)
    }
}

#[inline(always)]
fn strip_tc(ctx: &TcContext, inner: Inner) -> Result<(), Host> {
    let to = if inner.ethertype == ETH_IPV4 { DECAP_TO_IPV4 } else { DECAP_TO_IPV6 };
    // Only a change of family needs the flag, which older kernels refuse.
    let to = if inner.changes_family() { to } else { 0 };
    // Without `FIXED_GSO` the kernel refuses datagrams that it has merged, and calls merged segments larger than they
    // were.
    let flags = to | u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    ctx.adjust_room(-(inner.outer_len as i32), BPF_ADJ_ROOM_MAC, flags).map_err(|_| Host::Failed)?;
    ctx.store(12, &inner.ethertype, 0).map_err(|_| Host::Failed)?;
    if inner.tos.0 == inner.tos.1 {
        return Ok(());
    }
    let load = |at: usize| ctx.load::<u16>(at).map_err(|_| Host::Failed);
    let (first, checksum) = carried_back(load(ETHERNET)?, load(ETHERNET + 10)?, inner);
    if inner.ethertype == ETH_IPV4 {
        // Header and checksum change by the same amount: a sum over both stays.
        ctx.store(ETHERNET, &first, 0).map_err(|_| Host::Failed)?;
        ctx.store(ETHERNET + 10, &checksum, 0).map_err(|_| Host::Failed)
    } else {
        ctx.store(ETHERNET, &first, u64::from(BPF_F_RECOMPUTE_CSUM)).map_err(|_| Host::Failed)
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
