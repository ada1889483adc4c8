//! From a frame to the flow it belongs to: of packets as nearly all are. What is anything else goes to [`crate::rest`].
//!
//! Each family goes its own way through to the end (see [`crate::forward`]): what is known of a packet then stays in
//! registers.

use aya_ebpf::programs::XdpContext;
use lb_common::flow::{Addr, Flow};
use lb_common::maps::Service;
use lb_common::outer::{ETH_IPV4, ETH_IPV6, ETHERNET, IPV4, IPV6};
use lb_common::reasons::Director;
use lb_ebpf::packet::{ANY_FRAGMENT, Frame, V4_NO_OPTIONS, Window, protocol};
use lb_ebpf::pools;

use crate::forward::{finish, forward};
use crate::{icmp, rest};

/// What a packet may be.
enum Parsed {
    /// Of a flow; so many bytes from the IP header on.
    Flow(Flow, u16),
    /// ICMP right behind the IP header, which is looked at apart.
    Icmp,
    /// Something out of the ordinary, the same.
    Rest,
}

/// Does what is to be done with a frame.
#[inline(always)]
pub fn direct(ctx: &XdpContext) -> u32 {
    let frame = Frame::xdp(ctx);
    match frame.read::<u16>(12) {
        Some(ETH_IPV4) => match parse4(&frame) {
            Parsed::Flow(flow, len) => match service(&flow) {
                Some(service) => finish(ctx, forward(ctx, &flow, service, len, Director::Forwarded)),
                None if pools::is_vip(flow.destination) => rest::rest4(ctx.ctx),
                None => finish(ctx, Err(Director::NotVip)),
            },
            Parsed::Icmp => icmp::icmp4(ctx.ctx, (ETHERNET + IPV4) as u32),
            Parsed::Rest => rest::rest4(ctx.ctx),
        },
        Some(ETH_IPV6) => match parse6(&frame) {
            Parsed::Flow(flow, len) => match service(&flow) {
                Some(service) => finish(ctx, forward(ctx, &flow, service, len, Director::Forwarded)),
                None if pools::is_vip(flow.destination) => rest::rest6(ctx.ctx),
                None => finish(ctx, Err(Director::NotVip)),
            },
            Parsed::Icmp => icmp::icmp6(ctx.ctx, (ETHERNET + IPV6) as u32),
            Parsed::Rest => rest::rest6(ctx.ctx),
        },
        Some(_) => finish(ctx, Err(Director::NotIp)),
        None => finish(ctx, Err(Director::Truncated)),
    }
}

/// The service of exactly this address and port, for which there is one for TCP and UDP only.
#[inline(always)]
fn service(flow: &Flow) -> Option<&'static Service> {
    pools::service(flow.destination, flow.destination_port(), flow.protocol)
}

#[inline(always)]
fn parse4(frame: &Frame) -> Parsed {
    let Some(head) = frame.window::<{ IPV4 + 8 }>(ETHERNET) else { return Parsed::Rest };
    let len = u16::from_be(head.read::<u16, 2>());
    let plain = head.read::<u8, 0>() == V4_NO_OPTIONS && head.read::<u16, 6>() & ANY_FRAGMENT == 0;
    if !plain || len < (IPV4 + 8) as u16 || ETHERNET + len as usize > frame.len() {
        return Parsed::Rest;
    }
    let protocol = head.read::<u8, 9>();
    if protocol == protocol::ICMP {
        return Parsed::Icmp;
    }
    let (source, destination) = (Addr::v4(head.read::<u32, 12>()), Addr::v4(head.read::<u32, 16>()));
    let ports = head.read::<u32, 20>();
    Parsed::Flow(Flow { source, destination, ports, protocol, v6: false }, len)
}

#[inline(always)]
fn parse6(frame: &Frame) -> Parsed {
    let Some(head) = frame.window::<{ IPV6 + 8 }>(ETHERNET) else { return Parsed::Rest };
    let destination = destination6(&head);
    let payload = u16::from_be(head.read::<u16, 4>());
    let len = payload.wrapping_add(IPV6 as u16);
    let is_v6 = head.read::<u8, 0>() >> 4 == 6;
    if !is_v6
        || payload < 8
        || len < payload
        || ETHERNET + len as usize > frame.len()
        || destination.is_mapped()
    {
        return Parsed::Rest;
    }
    let protocol = head.read::<u8, 6>();
    match protocol {
        protocol::TCP | protocol::UDP => {
            let source = [
                head.read::<u32, 8>(),
                head.read::<u32, 12>(),
                head.read::<u32, 16>(),
                head.read::<u32, 20>(),
            ];
            let source = Addr::v6(source);
            let ports = head.read::<u32, 40>();
            Parsed::Flow(Flow { source, destination, ports, protocol, v6: true }, len)
        }
        protocol::ICMPV6 => Parsed::Icmp,
        _ => Parsed::Rest,
    }
}

/// Field by field: an address that is copied as a whole would go through memory, byte by byte.
#[inline(always)]
fn destination6<const BYTES: usize>(ip: &Window<BYTES>) -> Addr {
    Addr::v6([ip.read::<u32, 24>(), ip.read::<u32, 28>(), ip.read::<u32, 32>(), ip.read::<u32, 36>()])
}
