//! The outer header: a complete template per host, and the few fields that differ per packet.
//!
//! ```text
//! outer IPv4 Identification  |generation (low 12 bits)|hop (4)|   DF set: RFC 6864 leaves the field free
//! outer IPv6 flow label      |generation (16 bits)    |hop (4)|
//! ```

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

/// Time to live of outer headers.
pub const TTL: u8 = 64;

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

/// The three fields of the outer IPv4 header that differ per packet: total length, identification and checksum, all as
/// they stand in the packet. `base` is the checksum field of the template.
#[inline(always)]
pub const fn patch4(base: u16, inner_len: u16, generation: u16, hop: u8) -> (u16, u16, u16) {
    let length = (inner_len.wrapping_add(IPV4 as u16)).to_be();
    let id = identification(generation, hop).to_be();
    (length, id, !fold(base as u32 + length as u32 + id as u32))
}

/// The first word of the outer IPv6 header (version, traffic class 0, flow label) as it stands in the packet.
#[inline(always)]
pub const fn first_word6(generation: u16, hop: u8) -> u32 {
    (6 << 28 | flow_label(generation, hop)).to_be()
}

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

    #[test]
    fn mixed_families_have_no_template() {
        let (v4, v6) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([0u16; 8]));
        assert!(template([0; 6], [0; 6], v4, v6, false).is_none());
    }

    proptest! {
        #[test]
        fn patched_checksums_verify(source: [u8; 4], destination: [u8; 4], len: u16, generation: u16, hop in 0u8..16) {
            let (mut header, _) = template([2; 6], [4; 6], source.into(), destination.into(), false).unwrap();
            let ip = &mut header[ETHERNET..ETHERNET + IPV4];
            let base = u16::from_ne_bytes([ip[10], ip[11]]);
            let (length, id, checksum) = patch4(base, len, generation, hop);
            ip[2..4].copy_from_slice(&length.to_ne_bytes());
            ip[4..6].copy_from_slice(&id.to_ne_bytes());
            ip[10..12].copy_from_slice(&checksum.to_ne_bytes());
            let sum = ip.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
            prop_assert_eq!(fold(sum), 0xffff);
        }
    }
}
