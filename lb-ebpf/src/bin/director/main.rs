//! The director: each packet of a service goes to one of many L7 hosts, in an IP tunnel.
//!
//! `director` is the XDP program; `probe` sits at TC egress and encapsulates the agent's own probes, so that they take
//! the way of the packets that they vouch for.

#![no_std]
#![no_main]
// Inline assembly for BPF, in `headers`.
#![feature(asm_experimental_arch)]

mod capture;
mod extras;
mod forward;
mod headers;
mod icmp;
mod maps;
mod parse;
mod quic;
mod tags;
mod too_big;
mod unusual;

use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, TC_ACT_OK, TC_ACT_SHOT,
    bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::maps::{PROBE_MARK, PROBE_MASK, RESOLVED};
use lb_common::outer::{ETHERNET, IPV4, IPV6, Mark, TTL};
use lb_common::reasons::{Probe, Verdict};
use lb_ebpf::counters::count;
use lb_ebpf::encapsulate::{write4, write6};
use lb_ebpf::packet::Frame;
use lb_ebpf::pools;

/// The director proper.
#[xdp(frags)]
pub fn director(ctx: XdpContext) -> u32 {
    parse::direct(&ctx)
}

/// Encapsulates packets that carry the mark of a probe, at TC egress.
#[classifier]
pub fn probe(ctx: TcContext) -> i32 {
    let (reason, action) = match send_probe(&ctx) {
        Ok(action) => (Probe::Sent, action),
        Err(reason) => (
            reason,
            match reason.verdict() {
                Verdict::Drop => TC_ACT_SHOT,
                _ => TC_ACT_OK,
            },
        ),
    };
    if reason as u32 != Probe::NotProbe as u32 {
        count(&maps::PROBE_COUNTERS, reason as u32);
    }
    action
}

#[inline(always)]
fn send_probe(ctx: &TcContext) -> Result<i32, Probe> {
    // SAFETY: the context is valid for the whole program.
    let (mark, len, egress) = unsafe { ((*ctx.skb.skb).mark, (*ctx.skb.skb).len, (*ctx.skb.skb).ifindex) };
    if mark & PROBE_MASK != PROBE_MARK {
        return Err(Probe::NotProbe);
    }
    let nexthop = pools::nexthop_of_mark(mark & !PROBE_MASK).ok_or(Probe::NoHost)?;
    if nexthop.state & RESOLVED == 0 {
        return Err(Probe::NoHost);
    }
    let inner = (len as u16).wrapping_sub(ETHERNET as u16);
    let (room, flags) = if nexthop.outer_len == IPV4 as u8 {
        (IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4)
    } else {
        (IPV6, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6)
    };
    ctx.adjust_room(room as i32, BPF_ADJ_ROOM_MAC, u64::from(flags)).map_err(|_| Probe::Failed)?;
    ctx.pull_data((ETHERNET + IPV6) as u32).map_err(|_| Probe::Failed)?;
    // Probes belong to no generation: they go to the host whatever the tables say.
    let frame = Frame::tc(ctx);
    let mark = Mark { generation: 0, hop: 0, tos: 0, ttl: TTL, source: 0 };
    let written = if room == IPV4 {
        write4(&frame, nexthop, inner, mark)
    } else {
        write6(&frame, nexthop, inner, mark)
    };
    written.ok_or(Probe::Failed)?;
    if nexthop.ifindex == egress {
        return Ok(TC_ACT_OK);
    }
    // SAFETY: a helper without pointers.
    Ok((unsafe { bpf_redirect(nexthop.ifindex, 0) }) as i32)
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
