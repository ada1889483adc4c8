//! From a flow of a service to its host: row, owner, outer header, out.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use lb_common::flow::{self, Flow};
use lb_common::maps::{
    BY_ADDRESSES, BY_SOURCE, DRAINED, FLOW_TABLE, NO_OWNER, Nexthop, RESOLVED, Service, USABLE,
};
use lb_common::outer::{IPV4, IPV6, Mark, TTL};
use lb_common::reasons::{Director, Verdict};
use lb_ebpf::counters::count;
use lb_ebpf::encapsulate::{write4, write6};
use lb_ebpf::packet::Frame;
use lb_ebpf::pools;
use lb_ebpf::send::send;

use crate::{capture, maps, too_big};

/// How a packet is counted that was sent, and the action that sends it.
pub type Sent = (Director, u32);

/// What was done with a packet: the action, and [`SENT`]. One register, so that functions of their own can tell it.
pub type Done = u64;

/// Bit of [`Done`]: it is on its way to a host.
pub const SENT: Done = 1 << 32;

/// Every packet ends here: one reason, one counter, one action. `Ok` has sent the packet to a host; `Err` says what else
/// becomes of it.
#[inline(always)]
pub fn finish(ctx: &XdpContext, outcome: Result<Sent, Director>) -> Done {
    let (reason, action) = match outcome {
        Ok((reason, action)) => (reason, SENT | Done::from(action)),
        Err(reason) => (
            reason,
            Done::from(match reason.verdict() {
                Verdict::Tx => xdp_action::XDP_TX,
                Verdict::Pass => xdp_action::XDP_PASS,
                Verdict::Drop => xdp_action::XDP_DROP,
            }),
        ),
    };
    count(&maps::DIRECTOR_COUNTERS, reason as u32);
    capture::offer(ctx, reason as u32, action as u32);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(ctx, "{}", reason.name());
    action
}

/// What matters of a packet besides its flow.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Bytes from the IP header on.
    pub len: u16,
    /// Type of service or traffic class.
    pub tos: u8,
}

/// Sends a packet to the host of its flow; it is counted as `reason`.
#[inline(always)]
pub fn forward(
    ctx: &XdpContext,
    flow: &Flow,
    service: &Service,
    packet: Packet,
    reason: Director,
) -> Result<Sent, Director> {
    let hash = |part: &Flow| flow::hash(service.seed, part);
    let choice = match service.flags & (FLOW_TABLE | BY_SOURCE | BY_ADDRESSES) {
        0 => by_row(flow, service, hash(flow))?,
        FLOW_TABLE => by_flow(flow, service, hash(flow), reason)?,
        // No service has both.
        flags => by_row(flow, service, hash(&flow.part(flags)))?,
    };
    deliver(ctx, flow, service, choice, packet, reason)
}

/// A host, and why.
pub struct Choice {
    /// Its slot.
    pub slot: u16,
    /// The way to it.
    pub nexthop: &'static Nexthop,
    /// The hash of the flow; it picks the outer source, where there are several.
    pub hash: u32,
}

/// Sends a packet to a host.
#[inline(always)]
pub fn deliver(
    ctx: &XdpContext,
    flow: &Flow,
    service: &Service,
    Choice { slot, nexthop, hash }: Choice,
    packet: Packet,
    reason: Director,
) -> Result<Sent, Director> {
    let Packet { len, tos } = packet;
    if u32::from(len) + u32::from(nexthop.outer_len) > u32::from(nexthop.mtu) {
        let room = nexthop.mtu.saturating_sub(u16::from(nexthop.outer_len));
        return Err(too_big::answer(ctx, flow.v6, packet, room, reason));
    }
    let mark =
        Mark { generation: service.generation, hop: 0, tos, ttl: TTL, source: hash as u16 & nexthop.spread };
    if nexthop.outer_len == IPV4 as u8 {
        make_room(ctx, IPV4)?;
        write4(&Frame::xdp(ctx), nexthop, len, mark).ok_or(Director::NoHeadroom)?;
    } else {
        make_room(ctx, IPV6)?;
        write6(&Frame::xdp(ctx), nexthop, len, mark).ok_or(Director::NoHeadroom)?;
    }
    let action = send(ctx, nexthop).ok_or(Director::NoHeadroom)?;
    maps::count_traffic(service.id, slot, len);
    Ok((reason, action))
}

/// The host that the flow was sent to before, as long as there is a way to it, healthy or not; else the row's.
#[inline(always)]
fn by_flow(flow: &Flow, service: &Service, hash: u32, reason: Director) -> Result<Choice, Director> {
    let memory = maps::Memory::of(service.seed, flow, hash);
    if let Some(slot) = memory.and_then(|memory| memory.slot())
        && let Some(nexthop) = pools::nexthop(slot, flow.v6)
        && nexthop.state & RESOLVED != 0
    {
        return Ok(Choice { slot, nexthop, hash });
    }
    let choice = by_row(flow, service, hash)?;
    if let Some(memory) = memory
        && reason as u32 == Director::Forwarded as u32
    {
        memory.keep(choice.slot);
    }
    Ok(choice)
}

/// The first owner of the row that is healthy and reachable in this director's view.
#[inline(always)]
fn by_row(flow: &Flow, service: &Service, hash: u32) -> Result<Choice, Director> {
    let row = pools::row(service.table, flow::row(hash, service.rows)).ok_or(Director::NoTable)?;
    for slot in row.iter().copied() {
        if slot == NO_OWNER {
            break;
        }
        if let Some(nexthop) = pools::nexthop(slot, flow.v6)
            && nexthop.state & (USABLE | DRAINED) == USABLE
        {
            return Ok(Choice { slot, nexthop, hash });
        }
    }
    Err(Director::NoHost)
}

#[inline(always)]
pub fn make_room(ctx: &XdpContext, bytes: usize) -> Result<(), Director> {
    // SAFETY: the helper checks the headroom; all frames are taken anew afterwards.
    match unsafe { bpf_xdp_adjust_head(ctx.ctx, -(bytes as i32)) } {
        0 => Ok(()),
        _ => Err(Director::NoHeadroom),
    }
}
