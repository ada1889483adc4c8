//! Outer headers: templates against RFC 791, 2003, 2473 and 8200, checksums against RFC 1071.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::maps::HEADER_MAX;
use lb_common::outer::{
    ETH_IPV4, ETH_IPV6, ETH_QINQ, ETH_VLAN, ETHERNET, IPV4, IPV6, Mark, TTL, first_word6, flow_label, fold,
    identification, mend, patch4, template,
};
use proptest::prelude::*;

/// RFC 1071, word by word.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn ether_types_stand_as_in_the_packet() {
    let all = [ETH_IPV4, ETH_IPV6, ETH_VLAN, ETH_QINQ].map(u16::to_ne_bytes);
    assert_eq!(all, [[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x88, 0xa8]]);
}

#[test]
fn an_ipv4_template_is_a_header_to_the_byte() {
    let (source, destination) = (Ipv4Addr::new(192, 0, 2, 132), Ipv4Addr::new(192, 0, 2, 7));
    for (inner_v6, protocol) in [(false, 4), (true, 41)] {
        let (header, length) =
            template([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12], source.into(), destination.into(), inner_v6)
                .unwrap();
        let mut expected = [0; HEADER_MAX];
        expected[..6].copy_from_slice(&[7, 8, 9, 10, 11, 12]);
        expected[6..12].copy_from_slice(&[1, 2, 3, 4, 5, 6]);
        expected[12..14].copy_from_slice(&[0x08, 0x00]);
        expected[14..34].copy_from_slice(&[
            0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 132, 192, 0, 2, 7,
        ]);
        // The sum, not complemented.
        let sum = !checksum(&expected[14..34]);
        expected[24..26].copy_from_slice(&sum.to_be_bytes());
        assert_eq!((header, usize::from(length)), (expected, IPV4));
    }
}

#[test]
fn an_ipv6_template_is_a_header_to_the_byte() {
    let (source, destination): (Ipv6Addr, Ipv6Addr) =
        ("2001:db8:1:2:3:4:5:6".parse().unwrap(), "2001:db8:a:b:c:d:e:f".parse().unwrap());
    for (inner_v6, protocol) in [(false, 4), (true, 41)] {
        let (header, length) =
            template([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12], source.into(), destination.into(), inner_v6)
                .unwrap();
        let mut expected = [0; HEADER_MAX];
        expected[..14].copy_from_slice(&[7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 0x86, 0xdd]);
        expected[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, protocol, 64]);
        expected[22..38].copy_from_slice(&source.octets());
        expected[38..54].copy_from_slice(&destination.octets());
        assert_eq!((header, usize::from(length)), (expected, IPV6));
    }
}

proptest! {
    #[test]
    fn only_addresses_of_one_family_make_a_template(a: [u8; 4], b: [u8; 16]) {
        let (v4, v6) = (IpAddr::from(a), IpAddr::from(b));
        let made = |source, destination| template([0; 6], [0; 6], source, destination, false).is_some();
        prop_assert_eq!([made(v4, v4), made(v6, v6), made(v4, v6), made(v6, v4)], [true, true, false, false]);
    }

    #[test]
    fn folding_keeps_the_sum_in_ones_complement(sum: u32) {
        let folded = u32::from(fold(sum));
        prop_assert_eq!(folded % 0xffff, sum % 0xffff);
        prop_assert_eq!(folded == 0, sum == 0);
    }

    /// RFC 1624: mending is the same as making the sum anew, whatever word changes.
    #[test]
    fn a_mended_checksum_is_that_of_the_new_bytes(bytes: [u8; 40], at in 1usize..20, new: u16) {
        // As in IP headers, some word is not zero.
        let mut bytes = bytes;
        bytes[0] |= 0x40;
        let before = checksum(&bytes);
        let old = u16::from_be_bytes([bytes[2 * at], bytes[2 * at + 1]]);
        bytes[2 * at..2 * at + 2].copy_from_slice(&new.to_be_bytes());
        prop_assert_eq!(mend(before, old, new), checksum(&bytes));
        prop_assert_eq!(mend(mend(before, old, new), new, old), before);
    }

    /// The mark is in the fields that the programs read it from, and in no others.
    #[test]
    fn what_a_header_says_is_where_hosts_look_for_it(generation: u16, hop: u8, tos: u8, len in 0u16..0xffeb) {
        let id = identification(generation, hop);
        prop_assert_eq!((id >> 4, id & 15), (generation & 0xfff, u16::from(hop & 15)));
        let label = flow_label(generation, hop);
        prop_assert_eq!((label >> 4, label & 15), (u32::from(generation), u32::from(hop & 15)));
        let mark = Mark { generation, hop, tos, ttl: TTL, source: 0 };
        let [a, b, c, d] = first_word6(mark).to_ne_bytes();
        prop_assert_eq!(u32::from_be_bytes([0, b & 15, c, d]), label);
        prop_assert_eq!((a >> 4, a << 4 | b >> 4), (6, tos));
        let (length, id, _) = patch4(0, len, mark);
        prop_assert_eq!(u16::from_be(length), len + IPV4 as u16);
        prop_assert_eq!(u16::from_be(id), identification(generation, hop));
    }

    /// At every time to live, type of service and source that is chosen per flow.
    #[test]
    fn a_patched_ipv4_header_has_the_checksum_of_its_bytes(
        (own, host) in any::<([u8; 2], [u8; 4])>(), len in 0u16..0xffeb, generation: u16, hop in 0u8..16, tos: u8,
        ttl in prop_oneof![Just(TTL), any::<u8>()], spread: u16,
    ) {
        let own = Ipv4Addr::new(own[0], own[1], 0, 0);
        let (mut header, _) = template([2; 6], [4; 6], own.into(), Ipv4Addr::from(host).into(), false).unwrap();
        let ip = &mut header[ETHERNET..ETHERNET + IPV4];
        let base = u16::from_ne_bytes([ip[10], ip[11]]);
        let (length, id, sum) = patch4(base, len, Mark { generation, hop, tos, ttl, source: spread });
        (ip[1], ip[8]) = (tos, ttl);
        ip[2..4].copy_from_slice(&length.to_ne_bytes());
        ip[4..6].copy_from_slice(&id.to_ne_bytes());
        ip[14..16].copy_from_slice(&spread.to_ne_bytes());
        ip[10..12].fill(0);
        let expected = checksum(ip);
        prop_assert_eq!(u16::from_be(sum), expected);
    }
}
