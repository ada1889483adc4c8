//! The director: each packet of a service goes to one of many L7 hosts, in an IP tunnel.
//!
//! `director` is the XDP program; `probe` sits at TC egress and encapsulates the agent's own probes, so that they take
//! the way of the packets that they vouch for.

#![no_std]
#![no_main]

mod icmp;
mod maps;
mod parse;

use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, TC_ACT_OK, TC_ACT_SHOT,
    bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, xdp_action,
};
use aya_ebpf::helpers::{bpf_redirect, bpf_xdp_adjust_head};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::flow;
use lb_common::maps::{NO_OWNER, Nexthop, PROBE_MARK, PROBE_MASK, RESOLVED, Row, USABLE};
use lb_common::outer::{ETHERNET, IPV4, IPV6};
use lb_common::reasons::{Director, Probe, Verdict};
use lb_ebpf::counters::count;
use lb_ebpf::encapsulate::{Mark, write4, write6};
use lb_ebpf::packet::Frame;
use lb_ebpf::pools;

/// Every packet ends here: one reason, one counter, one action.
#[xdp]
pub fn director(ctx: XdpContext) -> u32 {
    let (reason, action) = match direct(&ctx) {
        Ok((reason, action)) => (reason, action),
        Err(reason) => (
            reason,
            match reason.verdict() {
                Verdict::Tx => xdp_action::XDP_TX,
                Verdict::Pass => xdp_action::XDP_PASS,
                Verdict::Drop => xdp_action::XDP_DROP,
            },
        ),
    };
    count(&maps::DIRECTOR_COUNTERS, reason as u32);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(&ctx, "{}", reason.name());
    action
}

/// `Ok` has sent the packet to a host; `Err` says what else becomes of it.
#[inline(always)]
fn direct(ctx: &XdpContext) -> Result<(Director, u32), Director> {
    let packet = parse::parse(&Frame::xdp(ctx))?;
    let service = &packet.service;
    let hash = flow::hash(service.seed, &packet.flow);
    let row = pools::row(service.table, flow::row(hash, service.rows)).ok_or(Director::NoTable)?;
    let nexthop = first_usable(row, packet.flow.v6).ok_or(Director::NoHost)?;
    if packet.len > nexthop.mtu.saturating_sub(u16::from(nexthop.outer_len)) {
        return Err(Director::TooBig);
    }
    let mark = Mark { generation: service.generation, hop: 0 };
    if nexthop.outer_len == IPV4 as u8 {
        make_room(ctx, IPV4)?;
        write4(&Frame::xdp(ctx), nexthop, packet.len, mark).ok_or(Director::NoHeadroom)?;
    } else {
        make_room(ctx, IPV6)?;
        write6(&Frame::xdp(ctx), nexthop, packet.len, mark).ok_or(Director::NoHeadroom)?;
    }
    maps::count_traffic(service.id, packet.len);
    // SAFETY: the context is valid for the whole program.
    let ingress = unsafe { (*ctx.ctx).ingress_ifindex };
    let action = if nexthop.ifindex == ingress {
        xdp_action::XDP_TX
    } else {
        // SAFETY: a helper without pointers.
        (unsafe { bpf_redirect(nexthop.ifindex, 0) }) as u32
    };
    Ok((packet.reason, action))
}

/// The first owner of the row that is healthy and reachable in this director's view.
#[inline(always)]
fn first_usable(row: Row, inner_v6: bool) -> Option<&'static Nexthop> {
    for slot in row {
        if slot == NO_OWNER {
            return None;
        }
        if let Some(nexthop) = pools::nexthop(slot, inner_v6)
            && nexthop.state & USABLE == USABLE
        {
            return Some(nexthop);
        }
    }
    None
}

#[inline(always)]
fn make_room(ctx: &XdpContext, bytes: usize) -> Result<(), Director> {
    // SAFETY: the helper checks the headroom; all frames are taken anew afterwards.
    match unsafe { bpf_xdp_adjust_head(ctx.ctx, -(bytes as i32)) } {
        0 => Ok(()),
        _ => Err(Director::NoHeadroom),
    }
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
    let mark = Mark { generation: 0, hop: 0 };
    let written =
        if room == IPV4 { write4(&frame, nexthop, inner, mark) } else { write6(&frame, nexthop, inner, mark) };
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
