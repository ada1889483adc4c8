//! Out of the machine, with the tags of the way's VLAN.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::programs::XdpContext;
use lb_common::maps::{Nexthop, TAGGED};

use crate::tags::Tags;

/// Sends a packet whose outer header is written: back by the interface that it came on, or by another one. None: the driver
/// left no room for tags.
///
/// A route by a VLAN device to which the program is attached needs none, and no more than any other: its packets go back where
/// they came from.
#[inline(always)]
pub fn send(ctx: &XdpContext, nexthop: &Nexthop) -> Option<u32> {
    // SAFETY: the context is valid for the whole program.
    if nexthop.ifindex == unsafe { (*ctx.ctx).ingress_ifindex } {
        return Some(xdp_action::XDP_TX);
    }
    if nexthop.state & TAGGED == 0 {
        // SAFETY: a helper without pointers.
        return Some((unsafe { bpf_redirect(nexthop.ifindex, 0) }) as u32);
    }
    match tagged(ctx.ctx, nexthop) {
        xdp_action::XDP_ABORTED => None,
        action => Some(action),
    }
}

/// A function of its own, so that the way of other packets is short.
#[inline(never)]
fn tagged(ctx: *mut xdp_md, nexthop: &Nexthop) -> u32 {
    let ctx = XdpContext::new(ctx);
    let tags = Tags::new(nexthop.tags, nexthop.tags_len);
    if tags.push(&ctx).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the context is valid for the whole program.
    if nexthop.below == unsafe { (*ctx.ctx).ingress_ifindex } {
        return xdp_action::XDP_TX;
    }
    // SAFETY: a helper without pointers.
    (unsafe { bpf_redirect(nexthop.below, 0) }) as u32
}
