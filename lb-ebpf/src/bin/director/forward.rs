//! From a flow of a service to its host: row, owner, outer header, out.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::{bpf_redirect, bpf_xdp_adjust_head};
use aya_ebpf::programs::XdpContext;
use lb_common::flow::{self, Flow};
use lb_common::maps::{DRAINED, FLOW_TABLE, NO_OWNER, Nexthop, RESOLVED, Service, USABLE};
use lb_common::outer::{IPV4, IPV6};
use lb_common::reasons::{Director, Verdict};
use lb_ebpf::counters::count;
use lb_ebpf::encapsulate::{Mark, write4, write6};
use lb_ebpf::packet::Frame;
use lb_ebpf::pools;

use crate::{capture, maps};

/// How a packet is counted that was sent, and the action that sends it.
pub type Sent = (Director, u32);

/// Every packet ends here: one reason, one counter, one action. `Ok` has sent the packet to a host; `Err` says what else
/// becomes of it.
#[inline(always)]
pub fn finish(ctx: &XdpContext, outcome: Result<Sent, Director>) -> u32 {
    let (reason, action) = match outcome {
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
    capture::offer(ctx, reason as u32, action);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(ctx, "{}", reason.name());
    action
}

/// Sends a packet of `len` bytes, from its IP header on, to the host of its flow; it is counted as `reason`.
#[inline(always)]
pub fn forward(
    ctx: &XdpContext,
    flow: &Flow,
    service: &Service,
    len: u16,
    reason: Director,
) -> Result<Sent, Director> {
    let nexthop = match service.flags & FLOW_TABLE {
        0 => by_row(flow, service)?.1,
        _ => by_flow(flow, service, reason)?,
    };
    send(ctx, nexthop, service, len, reason)
}

/// Sends a packet to a host.
#[inline(always)]
pub fn send(
    ctx: &XdpContext,
    nexthop: &Nexthop,
    service: &Service,
    len: u16,
    reason: Director,
) -> Result<Sent, Director> {
    if u32::from(len) + u32::from(nexthop.outer_len) > u32::from(nexthop.mtu) {
        return Err(Director::TooBig);
    }
    let mark = Mark { generation: service.generation, hop: 0 };
    if nexthop.outer_len == IPV4 as u8 {
        make_room(ctx, IPV4)?;
        write4(&Frame::xdp(ctx), nexthop, len, mark).ok_or(Director::NoHeadroom)?;
    } else {
        make_room(ctx, IPV6)?;
        write6(&Frame::xdp(ctx), nexthop, len, mark).ok_or(Director::NoHeadroom)?;
    }
    maps::count_traffic(service.id, len);
    // SAFETY: the context is valid for the whole program.
    let ingress = unsafe { (*ctx.ctx).ingress_ifindex };
    let action = if nexthop.ifindex == ingress {
        xdp_action::XDP_TX
    } else {
        // SAFETY: a helper without pointers.
        (unsafe { bpf_redirect(nexthop.ifindex, 0) }) as u32
    };
    Ok((reason, action))
}

/// The host that the flow was sent to before, as long as there is a way to it, healthy or not; else the row's.
#[inline(always)]
fn by_flow(flow: &Flow, service: &Service, reason: Director) -> Result<&'static Nexthop, Director> {
    let memory = maps::Memory::of(service.seed, flow);
    if let Some(slot) = memory.and_then(|memory| memory.slot())
        && let Some(nexthop) = pools::nexthop(slot, flow.v6)
        && nexthop.state & RESOLVED != 0
    {
        return Ok(nexthop);
    }
    let (slot, nexthop) = by_row(flow, service)?;
    if let Some(memory) = memory
        && reason as u32 == Director::Forwarded as u32
    {
        memory.keep(slot);
    }
    Ok(nexthop)
}

/// The first owner of the row that is healthy and reachable in this director's view.
#[inline(always)]
fn by_row(flow: &Flow, service: &Service) -> Result<(u16, &'static Nexthop), Director> {
    let hash = flow::hash(service.seed, flow);
    let row = pools::row(service.table, flow::row(hash, service.rows)).ok_or(Director::NoTable)?;
    for slot in row {
        if slot == NO_OWNER {
            break;
        }
        if let Some(nexthop) = pools::nexthop(slot, flow.v6)
            && nexthop.state & (USABLE | DRAINED) == USABLE
        {
            return Ok((slot, nexthop));
        }
    }
    Err(Director::NoHost)
}

#[inline(always)]
fn make_room(ctx: &XdpContext, bytes: usize) -> Result<(), Director> {
    // SAFETY: the helper checks the headroom; all frames are taken anew afterwards.
    match unsafe { bpf_xdp_adjust_head(ctx.ctx, -(bytes as i32)) } {
        0 => Ok(()),
        _ => Err(Director::NoHeadroom),
    }
}
