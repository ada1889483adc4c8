//! Whether a frame is a packet in a tunnel that ends here.

use lb_common::flow::Addr;
use lb_common::outer::{ETH_IPV4, ETH_IPV6, ETHERNET, IPV4, IPV6, Mark, PROTO_IPIP, PROTO_IPV6, congestion};
use lb_common::reasons::Host;
use lb_ebpf::packet::protocol::{DESTINATION, FRAGMENT, HOP_BY_HOP, ICMPV6, ROUTING, TCP, UDP};
use lb_ebpf::packet::{ANY_FRAGMENT, Frame, Ipv4, Ipv6, V4_NO_OPTIONS};

use crate::maps;

/// What remains when the outer header is gone.
#[derive(Clone, Copy)]
pub struct Inner {
    /// Bytes of the outer header: 20 or 40.
    pub outer_len: usize,
    /// EtherType of the inner packet, as it stands in the packet.
    pub ethertype: u16,
    /// Bytes of the inner packet.
    pub len: u16,
    /// What the outer header said besides.
    pub mark: Mark,
    /// Type of service or traffic class, before and after.
    pub tos: (u8, u8),
}

impl Inner {
    /// Outer and inner header are of different families.
    #[inline(always)]
    pub fn changes_family(&self) -> bool {
        (self.outer_len == IPV4) != (self.ethertype == ETH_IPV4)
    }
}

/// The order of the checks: is it ours at all, is it sane, may its sender send, is it for a VIP.
///
/// `whole` gives the length of the whole frame, of which `frame` may hold only the beginning.
#[inline(always)]
pub fn judge(frame: &Frame, whole: impl Fn() -> usize) -> Result<Inner, Host> {
    match frame.read::<u16>(12) {
        Some(ETH_IPV4) => outer4(frame, whole),
        Some(ETH_IPV6) => outer6(frame, whole),
        Some(_) => Err(Host::NotIp),
        None => Err(Host::Truncated),
    }
}

#[inline(always)]
fn outer4(frame: &Frame, whole: impl Fn() -> usize) -> Result<Inner, Host> {
    let ip = frame.read::<Ipv4>(ETHERNET).ok_or(Host::Truncated)?;
    if !matches!(ip.protocol, PROTO_IPIP | PROTO_IPV6) {
        return Err(Host::NotTunnel);
    }
    if !maps::is_local(Addr::v4(ip.destination)) {
        return Err(Host::NotForUs);
    }
    if ip.version_ihl != V4_NO_OPTIONS {
        let options = ip.version_ihl > V4_NO_OPTIONS && ip.version_ihl < 0x50;
        return Err(if options { Host::OuterOptions } else { Host::BadInner });
    }
    if ip.fragment & ANY_FRAGMENT != 0 {
        return Err(Host::OuterFragment);
    }
    if !maps::is_sender(Addr::v4(ip.source)) {
        return Err(Host::Sender);
    }
    let id = u16::from_be(ip.id);
    let mark = Mark { generation: id >> 4, hop: (id & 15) as u8, tos: ip.tos, ttl: ip.ttl, source: 0 };
    inner::<IPV4>(frame, ip.protocol, u16::from_be(ip.total_len) as usize, whole, mark)
}

#[inline(always)]
fn outer6(frame: &Frame, whole: impl Fn() -> usize) -> Result<Inner, Host> {
    let ip = frame.read::<Ipv6>(ETHERNET).ok_or(Host::Truncated)?;
    if !matches!(ip.next_header, PROTO_IPIP | PROTO_IPV6) {
        return Err(Host::NotTunnel);
    }
    let (source, destination) = (Addr::v6(ip.source), Addr::v6(ip.destination));
    if destination.is_mapped() || !maps::is_local(destination) {
        return Err(Host::NotForUs);
    }
    if !ip.is_v6() {
        return Err(Host::BadInner);
    }
    if source.is_mapped() || !maps::is_sender(source) {
        return Err(Host::Sender);
    }
    let first = u32::from_be(ip.first);
    let mark = Mark {
        generation: (first >> 4) as u16,
        hop: (first & 15) as u8,
        tos: ip.traffic_class(),
        ttl: ip.hop_limit,
        source: 0,
    };
    inner::<IPV6>(frame, ip.next_header, IPV6 + u16::from_be(ip.payload_len) as usize, whole, mark)
}

/// Checks the inner packet. The outer packet has `outer` bytes by its header, and is in a frame of `whole` bytes.
#[inline(always)]
fn inner<const OUTER: usize>(
    frame: &Frame,
    protocol: u8,
    outer: usize,
    whole: impl Fn() -> usize,
    mark: Mark,
) -> Result<Inner, Host> {
    let at = ETHERNET + OUTER;
    let (sane, len, destination, ethertype, tos) = if protocol == PROTO_IPIP {
        let ip = frame.read::<Ipv4>(at).ok_or(Host::Truncated)?;
        let len = u16::from_be(ip.total_len) as usize;
        let header = (ip.version_ihl & 15) as usize * 4;
        let sane = ip.version_ihl >= V4_NO_OPTIONS && ip.version_ihl < 0x50 && header <= len;
        (sane, len, Addr::v4(ip.destination), ETH_IPV4, ip.tos)
    } else {
        let ip = frame.read::<Ipv6>(at).ok_or(Host::Truncated)?;
        let len = IPV6 + u16::from_be(ip.payload_len) as usize;
        (ip.is_v6(), len, Addr::v6(ip.destination), ETH_IPV6, ip.traffic_class())
    };
    let is_cut = ETHERNET + outer > frame.len() && ETHERNET + outer > whole();
    if !sane || OUTER + len > outer || is_cut {
        return Err(Host::BadInner);
    }
    if (protocol == PROTO_IPV6 && destination.is_mapped()) || !maps::is_vip(destination) {
        return Err(Host::NotVip);
    }
    let becomes = congestion(tos, mark.tos).ok_or(Host::Congested)?;
    Ok(Inner { outer_len: OUTER, ethertype, len: len as u16, mark, tos: (tos, becomes) })
}

/// Most IPv6 extension headers that are looked behind.
const EXTENSIONS: usize = 4;

/// Whether something that [`judge`] calls no tunnel is one to the kernel, which looks behind IPv6 extension headers and
/// puts fragments together.
///
/// More of them than are looked behind count as one. What IPsec has authenticated is not looked into.
#[inline(always)]
pub fn is_hidden_tunnel(frame: &Frame) -> bool {
    if frame.read::<u16>(12) != Some(ETH_IPV6) {
        return false;
    }
    let Some(ip) = frame.read::<Ipv6>(ETHERNET) else { return false };
    // Neighbours and groups are no concern: no tunnel ends at their addresses.
    if !maps::is_local(Addr::v6(ip.destination)) {
        return false;
    }
    let (mut next, mut at) = (ip.next_header, ETHERNET + IPV6);
    for _ in 0..EXTENSIONS {
        match next {
            PROTO_IPIP | PROTO_IPV6 => return true,
            HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT => {}
            _ => return false,
        }
        // What the headers before it do not say is not known.
        let Some([following, words]) = frame.read::<[u8; 2]>(at) else { return true };
        if next == FRAGMENT {
            // The rest of a header may be in another fragment.
            return matches!(following, PROTO_IPIP | PROTO_IPV6 | HOP_BY_HOP | ROUTING | DESTINATION);
        }
        next = following;
        at += (words as usize + 1) * 8;
    }
    !matches!(next, TCP | UDP | ICMPV6)
}
