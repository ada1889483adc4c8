//! From a frame to the flow it belongs to, or the reason why it has none.
//!
//! Each family goes its own way through to the end (see [`crate::forward`]): what is known of a packet then stays in
//! registers.

use aya_ebpf::programs::XdpContext;
use lb_common::flow::{Addr, Flow};
use lb_common::outer::{ETH_IPV4, ETH_IPV6, ETHERNET, IPV4, IPV6};
use lb_common::reasons::Director;
use lb_ebpf::packet::{ANY_FRAGMENT, Frame, V4_NO_OPTIONS, Window, protocol, whole};
use lb_ebpf::pools;

use crate::forward::{Done, Sent, finish, forward};
use crate::{icmp, tags};

/// What a packet for a VIP may be.
enum Parsed {
    /// Of a flow; so many bytes from the IP header on.
    Flow(Flow, u16),
    /// ICMP, which is looked at apart.
    Icmp,
}

/// Does what is to be done with a frame.
#[inline(always)]
pub fn direct(ctx: &XdpContext) -> u32 {
    let frame = Frame::xdp(ctx);
    match frame.read::<u16>(12) {
        Some(ethertype) => match packet(ctx, &frame, ethertype) {
            Some(done) => done as u32,
            None => tags::other(ctx.ctx),
        },
        None => finish(ctx, Err(Director::Truncated)) as u32,
    }
}

/// Does what is to be done with an IP packet. None: it is none.
#[inline(always)]
pub fn packet(ctx: &XdpContext, frame: &Frame, ethertype: u16) -> Option<Done> {
    Some(match ethertype {
        ETH_IPV4 => match parse4(ctx, frame) {
            Ok(Parsed::Flow(flow, len)) => finish(ctx, of_service(ctx, &flow, len)),
            Ok(Parsed::Icmp) => icmp::icmp4(ctx.ctx),
            Err(reason) => finish(ctx, Err(reason)),
        },
        ETH_IPV6 => match parse6(ctx, frame) {
            Ok(Parsed::Flow(flow, len)) => finish(ctx, of_service(ctx, &flow, len)),
            Ok(Parsed::Icmp) => icmp::icmp6(ctx.ctx),
            Err(reason) => finish(ctx, Err(reason)),
        },
        _ => return None,
    })
}

/// The frame ends before a packet of this length does.
#[inline(always)]
fn is_cut(ctx: &XdpContext, frame: &Frame, len: u16) -> bool {
    let end = ETHERNET + len as usize;
    end > frame.len() && end > whole(ctx)
}

/// A packet that is refused if it is for a VIP, and none of our business if not.
#[inline(always)]
fn refuse(destination: Addr, reason: Director) -> Director {
    if pools::is_vip(destination) { reason } else { Director::NotVip }
}

#[inline(always)]
fn parse4(ctx: &XdpContext, frame: &Frame) -> Result<Parsed, Director> {
    let Some(head) = frame.window::<{ IPV4 + 8 }>(ETHERNET) else {
        return Err(match frame.read::<u32>(ETHERNET + 16) {
            Some(destination) => refuse(Addr::v4(destination), Director::Truncated),
            None => Director::Truncated,
        });
    };
    let vip = Addr::v4(head.read::<u32, 16>());
    let len = u16::from_be(head.read::<u16, 2>());
    let version_ihl = head.read::<u8, 0>();
    if version_ihl != V4_NO_OPTIONS {
        let options = version_ihl > V4_NO_OPTIONS && version_ihl < 0x50;
        return Err(refuse(vip, if options { Director::IpOptions } else { Director::BadHeader }));
    }
    if head.read::<u16, 6>() & ANY_FRAGMENT != 0 {
        return Err(refuse(vip, Director::Fragment));
    }
    if len < (IPV4 + 8) as u16 || is_cut(ctx, frame, len) {
        return Err(refuse(vip, Director::BadHeader));
    }
    let protocol = head.read::<u8, 9>();
    if protocol == protocol::ICMP {
        return Ok(Parsed::Icmp);
    }
    let source = Addr::v4(head.read::<u32, 12>());
    let ports = head.read::<u32, 20>();
    Ok(Parsed::Flow(Flow { source, destination: vip, ports, protocol, v6: false }, len))
}

#[inline(always)]
fn parse6(ctx: &XdpContext, frame: &Frame) -> Result<Parsed, Director> {
    let Some(head) = frame.window::<{ IPV6 + 8 }>(ETHERNET) else {
        return Err(match frame.window::<IPV6>(ETHERNET).map(|ip| destination6(&ip)) {
            Some(destination) if destination.is_mapped() => Director::NotVip,
            Some(destination) => refuse(destination, Director::Truncated),
            None => Director::Truncated,
        });
    };
    let vip = destination6(&head);
    if vip.is_mapped() {
        return Err(Director::NotVip);
    }
    let payload = u16::from_be(head.read::<u16, 4>());
    let len = payload.wrapping_add(IPV6 as u16);
    let is_v6 = head.read::<u8, 0>() >> 4 == 6;
    // A payload length of zero with more behind it would be a jumbogram (RFC 2675), which no interface here carries.
    if !is_v6 || payload < 8 || len < payload || is_cut(ctx, frame, len) {
        return Err(refuse(vip, Director::BadHeader));
    }
    let next_header = head.read::<u8, 6>();
    match next_header {
        protocol::TCP | protocol::UDP => {
            let source = [
                head.read::<u32, 8>(),
                head.read::<u32, 12>(),
                head.read::<u32, 16>(),
                head.read::<u32, 20>(),
            ];
            let source = Addr::v6(source);
            let ports = head.read::<u32, 40>();
            Ok(Parsed::Flow(Flow { source, destination: vip, ports, protocol: next_header, v6: true }, len))
        }
        protocol::ICMPV6 => Ok(Parsed::Icmp),
        protocol::FRAGMENT => Err(refuse(vip, Director::Fragment)),
        // Hop-by-hop, routing, authentication, destination options, mobility, HIP, shim6, and the experimental two.
        0 | 43 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => Err(refuse(vip, Director::Extension)),
        _ => Err(refuse(vip, Director::NoService)),
    }
}

/// Field by field: an address that is copied as a whole would go through memory, byte by byte.
#[inline(always)]
fn destination6<const BYTES: usize>(ip: &Window<BYTES>) -> Addr {
    Addr::v6([ip.read::<u32, 24>(), ip.read::<u32, 28>(), ip.read::<u32, 32>(), ip.read::<u32, 36>()])
}

/// A service exists only for TCP and UDP: other protocols find none.
#[inline(always)]
fn of_service(ctx: &XdpContext, flow: &Flow, len: u16) -> Result<Sent, Director> {
    match pools::service(flow.destination, flow.destination_port(), flow.protocol) {
        Some(service) => forward(ctx, flow, service, len, Director::Forwarded),
        None => Err(refuse(flow.destination, Director::NoService)),
    }
}
