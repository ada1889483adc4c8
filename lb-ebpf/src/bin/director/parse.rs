//! From a frame to the flow it belongs to, or the reason why it has none.

use lb_common::flow::{Addr, Flow};
use lb_common::maps::Service;
use lb_common::outer::{ETH_IPV4, ETH_IPV6, ETHERNET, IPV4, IPV6};
use lb_common::reasons::Director;
use lb_ebpf::packet::{ANY_FRAGMENT, Frame, Ipv4, Ipv4L4, Ipv6, Ipv6L4, V4_NO_OPTIONS, protocol};
use lb_ebpf::pools;

use crate::{icmp, maps};

/// What is to be sent, and to whom it belongs.
pub struct Packet {
    /// Hashed to find the row.
    pub flow: Flow,
    /// The service of the flow.
    pub service: Service,
    /// Bytes from the IP header on.
    pub len: u16,
    /// How it is counted once sent.
    pub reason: Director,
}

/// Parses a frame.
#[inline(always)]
pub fn parse(frame: &Frame) -> Result<Packet, Director> {
    match frame.read::<u16>(12) {
        Some(ETH_IPV4) => parse4(frame),
        Some(ETH_IPV6) => parse6(frame),
        Some(_) => Err(Director::NotIp),
        None => Err(Director::Truncated),
    }
}

/// A packet that is refused if it is for a VIP, and none of our business if not.
#[inline(never)]
pub fn refuse(destination: &Addr, reason: Director) -> Director {
    if maps::is_vip(*destination) { reason } else { Director::NotVip }
}

#[inline(always)]
fn parse4(frame: &Frame) -> Result<Packet, Director> {
    let Some(Ipv4L4 { ip, l4 }) = frame.read::<Ipv4L4>(ETHERNET) else {
        return Err(match frame.read::<Ipv4>(ETHERNET) {
            Some(ip) => refuse(&Addr::v4(ip.destination), Director::Truncated),
            None => Director::Truncated,
        });
    };
    let vip = Addr::v4(ip.destination);
    let len = u16::from_be(ip.total_len);
    if ip.version_ihl != V4_NO_OPTIONS {
        let options = ip.version_ihl > V4_NO_OPTIONS && ip.version_ihl < 0x50;
        return Err(refuse(&vip, if options { Director::IpOptions } else { Director::BadHeader }));
    }
    if ip.fragment & ANY_FRAGMENT != 0 {
        return Err(refuse(&vip, Director::Fragment));
    }
    if len < (IPV4 + 8) as u16 || ETHERNET + len as usize > frame.len() {
        return Err(refuse(&vip, Director::BadHeader));
    }
    if ip.protocol == protocol::ICMP {
        return icmp::parse4(frame, &ip, l4);
    }
    let source = Addr::v4(ip.source);
    let flow = Flow { source, destination: vip, ports: l4.first, protocol: ip.protocol, v6: false };
    of_service(flow, len)
}

#[inline(always)]
fn parse6(frame: &Frame) -> Result<Packet, Director> {
    let Some(Ipv6L4 { ip, l4 }) = frame.read::<Ipv6L4>(ETHERNET) else {
        return Err(match frame.read::<Ipv6>(ETHERNET) {
            Some(ip) if Addr::v6(ip.destination).is_mapped() => Director::NotVip,
            Some(ip) => refuse(&Addr::v6(ip.destination), Director::Truncated),
            None => Director::Truncated,
        });
    };
    let vip = Addr::v6(ip.destination);
    let payload = u16::from_be(ip.payload_len);
    let len = payload.wrapping_add(IPV6 as u16);
    if vip.is_mapped() {
        return Err(Director::NotVip);
    }
    // A payload length of zero with more behind it would be a jumbogram (RFC 2675), which no interface here carries.
    if !ip.is_v6() || payload < 8 || len < payload || ETHERNET + len as usize > frame.len() {
        return Err(refuse(&vip, Director::BadHeader));
    }
    match ip.next_header {
        protocol::TCP | protocol::UDP => {
            let source = Addr::v6(ip.source);
            of_service(
                Flow { source, destination: vip, ports: l4.first, protocol: ip.next_header, v6: true },
                len,
            )
        }
        protocol::ICMPV6 => icmp::parse6(frame, &ip, l4),
        protocol::FRAGMENT => Err(refuse(&vip, Director::Fragment)),
        // Hop-by-hop, routing, authentication, destination options, mobility, HIP, shim6, and the experimental two.
        0 | 43 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => Err(refuse(&vip, Director::Extension)),
        _ => Err(refuse(&vip, Director::NoService)),
    }
}

/// A service exists only for TCP and UDP: other protocols find none.
#[inline(always)]
fn of_service(flow: Flow, len: u16) -> Result<Packet, Director> {
    match pools::service(flow.destination, flow.destination_port(), flow.protocol) {
        Some(service) => Ok(Packet { flow, service, len, reason: Director::Forwarded }),
        None => Err(refuse(&flow.destination, Director::NoService)),
    }
}
