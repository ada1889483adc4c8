//! The outer header: a complete template per host, and the few fields that differ per packet.
//!
//! ```text
//! outer IPv4 Identification  |generation (low 12 bits)|hop (4)|   DF set: RFC 6864 leaves the field free
//! outer IPv6 flow label      |generation (16 bits)    |hop (4)|
//! ```
//!
//! Type of service and traffic class go the way of RFC 6040: copied to the outer header, and what routers did to their
//! congestion bits is carried back ([`congestion`]).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::maps::HEADER_MAX;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6: usize = 40;

/// EtherType of IPv4, as it stands in the packet.
pub const ETH_IPV4: u16 = 0x0800u16.to_be();
/// EtherType of IPv6, as it stands in the packet.
pub const ETH_IPV6: u16 = 0x86ddu16.to_be();
/// EtherType of an 802.1Q tag, as it stands in the packet.
pub const ETH_VLAN: u16 = 0x8100u16.to_be();
/// EtherType of an 802.1ad tag, as it stands in the packet.
pub const ETH_QINQ: u16 = 0x88a8u16.to_be();
/// Bytes of a tag: its EtherType, then priority and VLAN.
pub const TAG: usize = 4;

/// IANA protocol number of IPv4 in IP (RFC 2003).
pub const PROTO_IPIP: u8 = 4;
/// IANA protocol number of IPv6 in IP (RFC 2473).
pub const PROTO_IPV6: u8 = 41;

/// Time to live of outer headers as directors write them.
pub const TTL: u8 = 64;

/// What an outer header says besides the way and the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Generation that the director went by.
    pub generation: u16,
    /// See [`crate::chance`].
    pub hop: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Time to live: [`TTL`], less one for each host that passed the packet on.
    pub ttl: u8,
    /// Goes into the last two bytes of the source, where the template has zeros; as it stands in the packet.
    pub source: u16,
}

/// Outer IPv4 Identification of a generation and hop, host byte order.
#[inline(always)]
pub const fn identification(generation: u16, hop: u8) -> u16 {
    generation << 4 | (hop & 15) as u16
}

/// Outer IPv6 flow label of a generation and hop, 20 bits, host byte order.
#[inline(always)]
pub const fn flow_label(generation: u16, hop: u8) -> u32 {
    (generation as u32) << 4 | (hop & 15) as u32
}

/// Folds a sum of 16-bit words to one, RFC 1071.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// A checksum after a word that it covers has changed (RFC 1624, equation 3).
#[inline(always)]
pub const fn mend(checksum: u16, old: u16, new: u16) -> u16 {
    !fold((!checksum) as u32 + (!old) as u32 + new as u32)
}

/// Three fields of the outer IPv4 header that differ per packet: total length, identification and checksum, all as they
/// stand in the packet. `base` is the checksum field of the template, which has type of service 0 and [`TTL`].
#[inline(always)]
pub const fn patch4(base: u16, inner_len: u16, mark: Mark) -> (u16, u16, u16) {
    let length = (inner_len.wrapping_add(IPV4 as u16)).to_be();
    let id = identification(mark.generation, mark.hop).to_be();
    let tos = u16::from_ne_bytes([0, mark.tos]);
    // In one's complement, taking away is adding the complement. Nothing of it is left where the time is `TTL`.
    let ttl = match mark.ttl {
        TTL => 0,
        ttl => u16::from_ne_bytes([ttl, 0]) as u32 + !u16::from_ne_bytes([TTL, 0]) as u32,
    };
    (length, id, !fold(base as u32 + length as u32 + id as u32 + tos as u32 + mark.source as u32 + ttl))
}

/// The first word of the outer IPv6 header (version, traffic class, flow label) as it stands in the packet.
#[inline(always)]
pub const fn first_word6(mark: Mark) -> u32 {
    (6 << 28 | (mark.tos as u32) << 20 | flow_label(mark.generation, mark.hop)).to_be()
}

/// Type of service or traffic class of a packet that comes out of a tunnel: its own, with the congestion bits that RFC 6040
/// (figure 4) makes of both headers'. `None`: routers report congestion to a sender that would not understand, so the
/// packet is dropped instead.
#[inline(always)]
pub const fn congestion(inner: u8, outer: u8) -> Option<u8> {
    match (inner & 3, outer & 3) {
        (NOT_ECT, CONGESTED) => None,
        (_, CONGESTED) => Some(inner | CONGESTED),
        (ECT_0, ECT_1) => Some(inner & !3 | ECT_1),
        _ => Some(inner),
    }
}

/// RFC 3168: the sender does not understand congestion marks.
const NOT_ECT: u8 = 0;
/// RFC 3168: it does.
const ECT_1: u8 = 1;
/// RFC 3168: it does.
const ECT_0: u8 = 2;
/// RFC 3168: congestion experienced.
const CONGESTED: u8 = 3;

/// Makes the template: Ethernet and outer IP header for packets of one inner family.
///
/// The IPv4 checksum field holds the sum, not complemented, of a header with length and identification zero; see
/// [`patch4`]. Returns `None` if source and destination are not of one family.
pub fn template(
    own_mac: [u8; 6],
    next_mac: [u8; 6],
    source: IpAddr,
    destination: IpAddr,
    inner_v6: bool,
) -> Option<([u8; HEADER_MAX], u8)> {
    let mut header = [0; HEADER_MAX];
    header[..6].copy_from_slice(&next_mac);
    header[6..12].copy_from_slice(&own_mac);
    let protocol = if inner_v6 { PROTO_IPV6 } else { PROTO_IPIP };
    let (ethertype, length) = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ipv4(&mut header[ETHERNET..ETHERNET + IPV4], source, destination, protocol);
            (ETH_IPV4, IPV4)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ipv6(&mut header[ETHERNET..], source, destination, protocol);
            (ETH_IPV6, IPV6)
        }
        _ => return None,
    };
    header[12..14].copy_from_slice(&ethertype.to_ne_bytes());
    Some((header, length as u8))
}

fn ipv4(ip: &mut [u8], source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) {
    ip[0] = 0x45;
    ip[6] = 0x40; // do not fragment
    ip[8] = TTL;
    ip[9] = protocol;
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..20].copy_from_slice(&destination.octets());
    let sum = ip.chunks_exact(2).map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]]))).sum();
    ip[10..12].copy_from_slice(&fold(sum).to_ne_bytes());
}

fn ipv6(ip: &mut [u8], source: Ipv6Addr, destination: Ipv6Addr, protocol: u8) {
    ip[0] = 0x60;
    ip[6] = protocol;
    ip[7] = TTL;
    ip[8..24].copy_from_slice(&source.octets());
    ip[24..40].copy_from_slice(&destination.octets());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn generation_and_hop_share_the_field() {
        assert_eq!(identification(0x1abc, 3), 0xabc3);
        assert_eq!(flow_label(0x1abc, 3), 0x1abc3);
    }

    /// RFC 6040, figure 4.
    #[test]
    fn congestion_is_carried_back() {
        let figure = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CONGESTED)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CONGESTED)]),
            (CONGESTED, [Some(CONGESTED); 4]),
        ];
        for (inner, row) in figure {
            for (outer, becomes) in [NOT_ECT, ECT_0, ECT_1, CONGESTED].into_iter().zip(row) {
                // Other bits of the outer one are of no concern.
                assert_eq!(congestion(0xb8 | inner, 0x50 | outer), becomes.map(|ecn| 0xb8 | ecn));
            }
        }
    }

    #[test]
    fn mixed_families_have_no_template() {
        let (v4, v6) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([0u16; 8]));
        assert!(template([0; 6], [0; 6], v4, v6, false).is_none());
    }

    proptest! {
        #[test]
        fn patched_checksums_verify(
            source: [u8; 4], destination: [u8; 4], len: u16, generation: u16, hop in 0u8..16, tos: u8, ttl: u8, spread: u8,
        ) {
            let own = Ipv4Addr::from_bits(u32::from_be_bytes(source) & !0xff);
            let (mut header, _) = template([2; 6], [4; 6], own.into(), destination.into(), false).unwrap();
            let ip = &mut header[ETHERNET..ETHERNET + IPV4];
            let base = u16::from_ne_bytes([ip[10], ip[11]]);
            let (length, id, checksum) = patch4(base, len, Mark { generation, hop, tos, ttl, source: u16::from_ne_bytes([0, spread]) });
            (ip[1], ip[8], ip[15]) = (tos, ttl, spread);
            ip[2..4].copy_from_slice(&length.to_ne_bytes());
            ip[4..6].copy_from_slice(&id.to_ne_bytes());
            ip[10..12].copy_from_slice(&checksum.to_ne_bytes());
            let sum = ip.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
            prop_assert_eq!(fold(sum), 0xffff);
        }
    }
}
