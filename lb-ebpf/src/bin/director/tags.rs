//! Frames with VLAN tags: looked at without them.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::programs::XdpContext;
use lb_common::flow::Addr;
use lb_common::outer::{ETH_IPV4, ETH_IPV6, ETHERNET};
use lb_common::reasons::Director;
use lb_ebpf::packet::Frame;
use lb_ebpf::pools;
use lb_ebpf::tags::{Tags, Untaken, is_tag};

use crate::forward::{SENT, finish};
use crate::parse::packet;

/// A frame that is no IP packet: behind VLAN tags there may be one. What is not sent to a host has its tags again afterwards: an answer goes back in the VLAN of the
/// question. Only frames for VIPs are touched at all.
///
/// A function of its own, with the whole way of a packet in it once more: the way of other frames is not longer for it.
#[inline(never)]
pub fn other(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    let tags = match for_vip(&Frame::xdp(&ctx)) {
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
    if done & SENT == 0 && tags.push(&ctx).is_none() {
        return xdp_action::XDP_DROP;
    }
    done as u32
}

/// The tags of a frame for a VIP, or the reason why it is left alone.
#[inline(always)]
fn for_vip(frame: &Frame) -> Result<Tags, Director> {
    if !frame.read(12).is_some_and(is_tag) {
        return Err(Director::NotIp);
    }
    let (tags, ethertype) = Tags::read(frame).map_err(|untaken| match untaken {
        Untaken::Truncated => Director::Truncated,
        Untaken::Many => Director::NotIp,
    })?;
    let at = ETHERNET + tags.len as usize;
    let vip = match ethertype {
        ETH_IPV4 => frame.read(at + 16).map(Addr::v4),
        ETH_IPV6 => frame.read(at + 24).map(Addr::v6),
        _ => return Err(Director::NotIp),
    };
    let vip = vip.ok_or(Director::Truncated)?;
    let mapped = ethertype == ETH_IPV6 && vip.is_mapped();
    if mapped || !pools::is_vip(vip) { Err(Director::NotVip) } else { Ok(tags) }
}
