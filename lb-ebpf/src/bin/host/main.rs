//! The L7 host's end of the tunnel: takes the outer header off packets that an accepted sender sent to a VIP.
//!
//! `host` is the XDP program, `host_tc` the same for interfaces that take no XDP program; `host_guard` unwraps nothing
//! and stands before the kernel's own tunnel devices, which know neither senders nor VIPs.

#![no_std]
#![no_main]

mod judge;
mod maps;

use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_OK, TC_ACT_SHOT, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, xdp_action,
};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::outer::{ETH_IPV4, ETHERNET, IPV4, IPV6};
use lb_common::reasons::{Host, Verdict};
use lb_ebpf::counters::count;
use lb_ebpf::packet::Frame;

use judge::{Inner, is_hidden_tunnel, judge};

/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV4` (Linux 6.3): what remains is IPv4, whatever the outer header was.
const DECAP_TO_IPV4: u64 = 1 << 7;
/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV6`.
const DECAP_TO_IPV6: u64 = 1 << 8;

/// At XDP.
#[xdp]
pub fn host(ctx: XdpContext) -> u32 {
    let frame = Frame::xdp(&ctx);
    let reason = match judge(&frame, frame.len()) {
        Ok(inner) => strip_xdp(&ctx, inner),
        Err(reason) => reason,
    };
    count(&maps::HOST_COUNTERS, reason as u32);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(&ctx, "{}", reason.name());
    match reason.verdict() {
        Verdict::Drop => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_PASS,
    }
}

/// At XDP, before a tunnel device of the kernel: what [`host`] would not unwrap does not reach it.
#[xdp]
pub fn host_guard(ctx: XdpContext) -> u32 {
    let frame = Frame::xdp(&ctx);
    let reason = match judge(&frame, frame.len()) {
        Ok(_) => Host::Local,
        Err(Host::NotTunnel) if is_hidden_tunnel(&frame) => Host::OuterOptions,
        Err(reason) => reason,
    };
    count(&maps::HOST_COUNTERS, reason as u32);
    match (reason, reason.verdict()) {
        // Left to the kernel, the device would unwrap it.
        (Host::NotVip, _) | (_, Verdict::Drop) => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_PASS,
    }
}

/// At TC ingress.
#[classifier]
pub fn host_tc(ctx: TcContext) -> i32 {
    // Headers may lie outside the linear part; a packet shorter than this is pulled whole.
    let _ = ctx.pull_data(ctx.len().min((ETHERNET + IPV6 + IPV6) as u32));
    let reason = match judge(&Frame::tc(&ctx), ctx.len() as usize) {
        Ok(inner) => strip_tc(&ctx, inner),
        Err(reason) => reason,
    };
    count(&maps::HOST_COUNTERS, reason as u32);
    match reason.verdict() {
        Verdict::Drop => TC_ACT_SHOT,
        _ => TC_ACT_OK,
    }
}

/// Moves the Ethernet addresses behind the outer header, then the start of the packet.
#[inline(always)]
fn strip_xdp(ctx: &XdpContext, inner: Inner) -> Host {
    let Some(addresses) = Frame::xdp(ctx).read::<[u32; 3]>(0) else {
        return Host::Truncated;
    };
    let bytes = if inner.outer_len == IPV4 { IPV4 } else { IPV6 };
    // SAFETY: the helper checks the length; the frame is taken anew.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, bytes as i32) } != 0 {
        return Host::Failed;
    }
    let frame = Frame::xdp(ctx);
    match frame.write(0, addresses).and(frame.write(12, inner.ethertype)) {
        Some(()) => Host::Local,
        None => Host::Failed,
    }
}

#[inline(always)]
fn strip_tc(ctx: &TcContext, inner: Inner) -> Host {
    let to = if inner.ethertype == ETH_IPV4 { DECAP_TO_IPV4 } else { DECAP_TO_IPV6 };
    // Only a change of family needs the flag, which older kernels refuse.
    let to = if inner.changes_family() { to } else { 0 };
    // Without `FIXED_GSO` the kernel refuses datagrams that it has merged, and calls merged segments larger than they
    // were.
    let flags = to | u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    if ctx.adjust_room(-(inner.outer_len as i32), BPF_ADJ_ROOM_MAC, flags).is_err() {
        return Host::Failed;
    }
    match ctx.store(12, &inner.ethertype, 0) {
        Ok(()) => Host::Local,
        Err(_) => Host::Failed,
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
