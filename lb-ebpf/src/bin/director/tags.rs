//! Frames with VLAN tags: looked at without them.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::programs::XdpContext;
use lb_common::outer::{ETH_IPV4, ETH_IPV6};
use lb_common::reasons::Director;
use lb_ebpf::packet::Frame;
use lb_ebpf::tags::{Tags, Untaken, is_tag};

use crate::forward::{SENT, finish};
use crate::parse::packet;

/// A frame that is no IP packet: behind VLAN tags there may be one. What is not sent to a host has its tags again afterwards: it
/// goes to the kernel as it came, and an answer goes back in the VLAN of the question.
///
/// A function of its own, with the whole way of a packet in it once more: the way of other frames is not longer for it.
#[inline(never)]
pub fn other(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    let tags = match before_ip(&Frame::xdp(&ctx)) {
        Ok(tags) => tags,
        Err(reason) => return finish(&ctx, Err(reason)) as u32,
    };
    if tags.pop(&ctx).is_none() {
        return finish(&ctx, Err(Director::Truncated)) as u32;
    }
    let frame = Frame::xdp(&ctx);
    let done = match frame.read(12).and_then(|ethertype| packet(&ctx, &frame, ethertype)) {
        Some(done) => done,
        None => finish(&ctx, Err(Director::NotIp)),
    };
    // There was room for them before; an answer that is longer than the question may have taken it.
    if done & SENT == 0 && tags.push(&ctx).is_none() {
        return xdp_action::XDP_DROP;
    }
    done as u32
}

/// The tags of a frame with an IP packet, or the reason why it is left alone.
#[inline(always)]
fn before_ip(frame: &Frame) -> Result<Tags, Director> {
    if !frame.read(12).is_some_and(is_tag) {
        return Err(Director::NotIp);
    }
    match Tags::read(frame) {
        Ok((tags, ETH_IPV4 | ETH_IPV6)) => Ok(tags),
        Ok(_) | Err(Untaken::Many) => Err(Director::NotIp),
        Err(Untaken::Truncated) => Err(Director::Truncated),
    }
}
