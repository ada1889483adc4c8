//! Frames with VLAN tags: looked at without them. In functions of their own, so that the way of other frames is short.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use lb_common::outer::{ETH_IPV4, ETH_IPV6};
use lb_common::reasons::Director;
use lb_ebpf::packet::Frame;
use lb_ebpf::tags::{TYPE, Tags, Untaken, is_tag};

/// Takes the tags off a frame with an IP packet behind them, or says why the frame is left alone.
#[inline(never)]
pub fn take(ctx: *mut xdp_md, tags: &mut Tags) -> Result<(), Director> {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::xdp(&ctx);
    if !frame.read(TYPE).is_some_and(is_tag) {
        return Err(Director::NotIp);
    }
    *tags = match Tags::read(&frame) {
        Ok((tags, ETH_IPV4 | ETH_IPV6)) => tags,
        Ok(_) | Err(Untaken::Many) => return Err(Director::NotIp),
        Err(Untaken::Truncated) => return Err(Director::Truncated),
    };
    tags.pop(&ctx).ok_or(Director::Truncated)
}

/// Puts the tags of a frame on again.
#[inline(never)]
pub fn give_back(ctx: *mut xdp_md, tags: &Tags) -> Option<()> {
    tags.push(&XdpContext::new(ctx))
}
