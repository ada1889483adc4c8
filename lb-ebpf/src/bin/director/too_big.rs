//! A packet that does not fit into the tunnel: its sender is told what does, by *fragmentation needed* (RFC 792, RFC 1191) or
//! *packet too big* (RFC 4443), from the VIP.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_xdp_adjust_tail;
use aya_ebpf::programs::XdpContext;
use lb_common::outer::{ETHERNET, IPV4, IPV6, TTL};
use lb_common::reasons::Director;
use lb_ebpf::packet::{Frame, Ipv4, Ipv6, L4, V4_NO_OPTIONS, protocol, whole};

use crate::forward::{Packet, make_room};
use crate::maps;

/// Bytes of an ICMP header.
const ICMP: usize = 8;
/// Bytes of an IPv4 packet that are quoted: headers with all options of TCP.
const QUOTE4: usize = 80;
/// Bytes of an IPv6 packet that are quoted.
const QUOTE6: usize = 128;
/// Least MTU of IPv4 (RFC 791).
const LEAST4: u16 = 68;
/// Least MTU of IPv6 (RFC 8200).
const LEAST6: u16 = 1280;
/// Precedence *internetwork control*, which RFC 1812 wants of errors.
const CONTROL: u8 = 0xc0;

/// Turns the packet into its answer if there is to be one: not about an error or a fragment, not to what is no sender, not too
/// often, and not if the answer would say nothing new.
#[inline(always)]
pub fn answer(ctx: &XdpContext, v6: bool, packet: Packet, room: u16, reason: Director) -> Director {
    if matches!(reason, Director::ForwardedError | Director::ForwardedFragment) {
        return Director::TooBig;
    }
    let told = if v6 {
        let room = room.max(LEAST6);
        packet.len > room && answer6(ctx.ctx, room) != 0
    } else {
        room >= LEAST4 && answer4(ctx.ctx, room) != 0
    };
    if told { Director::TooBigTold } else { Director::TooBig }
}

/// A function of its own, off the way of other packets. 1: it is done.
#[inline(never)]
fn answer4(ctx: *mut xdp_md, room: u16) -> u32 {
    u32::from(make4(&XdpContext::new(ctx), room).is_some())
}

/// See [`answer4`].
#[inline(never)]
fn answer6(ctx: *mut xdp_md, room: u16) -> u32 {
    u32::from(make6(&XdpContext::new(ctx), room).is_some())
}

#[inline(always)]
fn make4(ctx: &XdpContext, room: u16) -> Option<()> {
    const LENGTH: usize = IPV4 + ICMP + QUOTE4;
    let frame = Frame::xdp(ctx);
    let from: [u16; 3] = frame.read(6)?;
    let to: [u16; 3] = frame.read(0)?;
    let ip: Ipv4 = frame.read(ETHERNET)?;
    // This network, loopback, groups and broadcast.
    let first = ip.source.to_ne_bytes()[0];
    if matches!(first, 0 | 127 | 224..) || frame.len() < ETHERNET + QUOTE4 || !maps::afford_error() {
        return None;
    }
    let frame = cut_out(ctx, IPV4 + ICMP, ETHERNET + LENGTH)?;
    frame.write(0, from)?;
    frame.write(6, to)?;
    frame.write(12, 0x0800u16.to_be())?;
    let answer = Ipv4 {
        version_ihl: V4_NO_OPTIONS,
        tos: CONTROL,
        total_len: (LENGTH as u16).to_be(),
        id: 0,
        fragment: 0x4000u16.to_be(),
        ttl: TTL,
        protocol: protocol::ICMP,
        checksum: 0,
        source: ip.destination,
        destination: ip.source,
    };
    frame.write(ETHERNET, answer)?;
    let checksum = !sum::<{ IPV4 / 4 }>(&frame, ETHERNET, 0)?;
    frame.write(ETHERNET + 10, checksum)?;
    let first = u32::from_ne_bytes([3, 4, 0, 0]);
    frame.write(ETHERNET + IPV4, L4 { first, second: u32::from(room).to_be() })?;
    let checksum = !sum::<{ (ICMP + QUOTE4) / 4 }>(&frame, ETHERNET + IPV4, 0)?;
    frame.write(ETHERNET + IPV4 + 2, checksum)
}

#[inline(always)]
fn make6(ctx: &XdpContext, room: u16) -> Option<()> {
    const LENGTH: usize = ICMP + QUOTE6;
    let frame = Frame::xdp(ctx);
    let from: [u16; 3] = frame.read(6)?;
    let to: [u16; 3] = frame.read(0)?;
    let ip: Ipv6 = frame.read(ETHERNET)?;
    // Groups, and what is nobody's.
    let group = ip.source[0].to_ne_bytes()[0] == 0xff;
    let nobody = ip.source[0] | ip.source[1] | ip.source[2] == 0;
    if group || nobody || frame.len() < ETHERNET + QUOTE6 || !maps::afford_error() {
        return None;
    }
    let frame = cut_out(ctx, IPV6 + ICMP, ETHERNET + IPV6 + LENGTH)?;
    frame.write(0, from)?;
    frame.write(6, to)?;
    frame.write(12, 0x86ddu16.to_be())?;
    let answer = Ipv6 {
        first: 0x6000_0000u32.to_be(),
        payload_len: (LENGTH as u16).to_be(),
        next_header: protocol::ICMPV6,
        hop_limit: TTL,
        source: ip.destination,
        destination: ip.source,
    };
    frame.write(ETHERNET, answer)?;
    let first = u32::from_ne_bytes([2, 0, 0, 0]);
    frame.write(ETHERNET + IPV6, L4 { first, second: u32::from(room).to_be() })?;
    // Both addresses stand before the ICMP header, and the rest of the pseudo-header (RFC 8200, 8.1) is not in the packet.
    let pseudo = u64::from((LENGTH as u16).to_be()) + u64::from(u16::from(protocol::ICMPV6).to_be());
    let checksum = !sum::<{ (32 + LENGTH) / 4 }>(&frame, ETHERNET + 8, pseudo)?;
    frame.write(ETHERNET + IPV6 + 2, checksum)
}

/// Makes room for headers before the IP header, and cuts the frame at so many bytes.
#[inline(always)]
fn cut_out(ctx: &XdpContext, headers: usize, length: usize) -> Option<Frame> {
    make_room(ctx, headers).ok()?;
    let change = length as i32 - whole(ctx) as i32;
    // SAFETY: the helper checks the length; the frame is taken anew.
    match unsafe { bpf_xdp_adjust_tail(ctx.ctx, change) } {
        0 => Some(Frame::xdp(ctx)),
        _ => None,
    }
}

/// The sum of RFC 1071 over `WORDS` words of four bytes, and `more`.
#[inline(always)]
fn sum<const WORDS: usize>(frame: &Frame, at: usize, more: u64) -> Option<u16> {
    let words: [u32; WORDS] = frame.read(at)?;
    let mut sum = more;
    for word in words {
        sum += u64::from(word);
    }
    // 16 bits and the carries, three times: of 35 + 16 bits at most.
    let mut sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    Some(((sum & 0xffff) + (sum >> 16)) as u16)
}
