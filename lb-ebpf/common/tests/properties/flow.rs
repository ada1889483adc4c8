//! Addresses in all their forms, and the hashes of flows.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::flow::{Addr, Flow, fingerprint, hash, row};
use lb_common::maps::{BY_ADDRESSES, BY_SOURCE};
use proptest::prelude::*;

use crate::{any_addr, unevenness};

fn any_flow() -> impl Strategy<Value = Flow> {
    (any_addr(), any_addr(), any::<u32>(), any::<u8>(), any::<bool>()).prop_map(
        |(source, destination, ports, protocol, v6)| {
            // Without `v6`, both addresses are IPv4.
            let fit = |addr: Addr| if v6 { addr } else { Addr::v4(addr.words()[3]) };
            Flow { source: fit(source), destination: fit(destination), ports, protocol, v6 }
        },
    )
}

/// The flow with one bit of what tells it from others flipped.
fn flipped(flow: Flow, bit: usize) -> Flow {
    let address = |addr: Addr, bit: usize| {
        let mut words = *addr.words();
        words[bit / 32] ^= 1 << (bit % 32);
        Addr::v6(words)
    };
    let width = if flow.v6 { 128 } else { 32 };
    // The bits of an IPv4 address are in the last word.
    let from = 128 - width;
    match bit % (2 * width + 40) {
        bit if bit < width => Flow { source: address(flow.source, from + bit), ..flow },
        bit if bit < 2 * width => Flow { destination: address(flow.destination, from + bit - width), ..flow },
        bit if bit < 2 * width + 32 => Flow { ports: flow.ports ^ 1 << (bit - 2 * width), ..flow },
        bit => Flow { protocol: flow.protocol ^ 1 << (bit - 2 * width - 32), ..flow },
    }
}

/// Tables and programs of releases that run side by side must agree on hashes; fingerprints are pinned for the sake of the
/// flow tables that a replaced program goes on with.
#[test]
fn hashes_and_fingerprints_are_what_they_were() {
    let v4 = Flow {
        source: IpAddr::from(Ipv4Addr::new(203, 0, 113, 1)).into(),
        destination: IpAddr::from(Ipv4Addr::new(198, 51, 100, 1)).into(),
        ports: Flow::ports(40000, 443),
        protocol: 17,
        v6: false,
    };
    let address = |last: u16| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, last)).into();
    let v6 = Flow { source: address(6), destination: address(7), v6: true, ..v4 };
    let of = |flow| (hash(0x0123_4567_89ab_cdef, flow), fingerprint(0x0123_4567_89ab_cdef, flow));
    assert_eq!(of(&v4), (3_784_110_742, 4_899_993_867_159_893_813));
    assert_eq!(of(&v6), (1_229_027_432, 18_116_792_200_407_801_100));
}

#[test]
fn rows_of_many_flows_are_even_in_both_families() {
    for v6 in [false, true] {
        let mut hits = [0; 127];
        for number in 0..40_000u32 {
            let source = if v6 { Addr::v6([0x0120, 0, 0, number.to_be()]) } else { Addr::v4(number.to_be()) };
            let flow =
                Flow { source, destination: Addr::v4(1), ports: Flow::ports(4000, 80), protocol: 6, v6 };
            hits[row(hash(9, &flow), 127) as usize] += 1;
        }
        assert!(unevenness(&hits) < 1.5, "{hits:?}");
    }
}

#[test]
fn the_first_and_the_last_hash_have_the_first_and_the_last_row() {
    assert_eq!((row(0, 65537), row(u32::MAX, 65537), row(1 << 31, 1000)), (0, 65536, 500));
}

proptest! {
    #[test]
    fn an_address_is_one_whatever_its_form(octets: [u8; 16]) {
        let addr = Addr::from_octets(octets);
        let word = |at: usize| u32::from_ne_bytes(octets[at..at + 4].try_into().unwrap());
        prop_assert_eq!(addr.words(), &[word(0), word(4), word(8), word(12)]);
        prop_assert_eq!(addr, Addr::v6([word(0), word(4), word(8), word(12)]));
        let pair = |at: usize| u64::from_le_bytes(octets[at..at + 8].try_into().unwrap());
        prop_assert_eq!(addr.pairs(), [pair(0), pair(8)]);
        prop_assert_eq!(Addr::from_pairs(addr.pairs()), addr);
        prop_assert_eq!(Addr::from(IpAddr::from(Ipv6Addr::from(octets))), addr);
        prop_assert_eq!(IpAddr::from(addr), Ipv6Addr::from(octets).to_canonical());
    }

    #[test]
    fn an_ipv4_address_is_the_mapped_one(octets: [u8; 4]) {
        let v4 = Ipv4Addr::from(octets);
        let addr = Addr::v4(u32::from_ne_bytes(octets));
        prop_assert_eq!(addr.octets(), v4.to_ipv6_mapped().octets());
        prop_assert_eq!(Addr::from(IpAddr::from(v4)), addr);
        prop_assert_eq!(IpAddr::from(addr), IpAddr::from(v4));
        prop_assert!(addr.is_mapped());
    }

    /// One bit elsewhere in the first twelve bytes, and it is an IPv6 address.
    #[test]
    fn only_the_mapped_prefix_is_mapped(word: u32, bit in 0usize..96) {
        let mut words = *Addr::v4(word).words();
        words[bit / 32] ^= 1 << (bit % 32);
        prop_assert!(!Addr::v6(words).is_mapped());
        // The same bit in both of the first words does not cancel out.
        let both = 1 << (bit % 32);
        prop_assert!(!Addr::v6([both, both, words[2], word]).is_mapped());
        prop_assert!(!Addr::v6([both, both, Addr::v4(0).words()[2], word]).is_mapped());
    }

    #[test]
    fn ports_stand_as_in_the_packet(source: u16, destination: u16, flow in any_flow()) {
        let ports = Flow::ports(source, destination);
        let [a, b, c, d] = ports.to_ne_bytes();
        prop_assert_eq!(([a, b], [c, d]), (source.to_be_bytes(), destination.to_be_bytes()));
        let flow = Flow { ports, ..flow };
        prop_assert_eq!(flow.destination_port(), destination.to_be());
        let back = flow.reversed();
        prop_assert_eq!(back.destination_port(), source.to_be());
        prop_assert_eq!((back.source, back.destination), (flow.destination, flow.source));
        prop_assert_eq!((back.protocol, back.v6), (flow.protocol, flow.v6));
    }

    /// All bits of addresses, ports and protocol count, at every seed.
    #[test]
    fn every_bit_of_a_flow_and_of_the_seed_tells(flow in any_flow(), seed: u64, bit in 0usize..296, of_seed in 0u32..64) {
        let other = flipped(flow, bit);
        prop_assert_ne!(fingerprint(seed, &flow), fingerprint(seed, &other));
        prop_assert_ne!(fingerprint(seed, &flow), fingerprint(seed ^ 1 << of_seed, &flow));
    }

    #[test]
    fn the_part_that_chooses_is_what_the_flags_say(flow in any_flow(), other in any_flow(), flags: u16) {
        let flags = flags & !(BY_SOURCE | BY_ADDRESSES);
        prop_assert_eq!(flow.part(flags), flow);
        let by_source = flow.part(flags | BY_SOURCE);
        prop_assert_eq!(by_source, Flow { source: flow.source, v6: flow.v6, ..other }.part(BY_SOURCE));
        // The rest is zero, wherever a row is chosen from it.
        prop_assert_eq!(by_source, Flow { destination: Addr::v6([0; 4]), ports: 0, protocol: 0, ..flow });
        // It is the narrower of the two.
        prop_assert_eq!(flow.part(BY_SOURCE | BY_ADDRESSES), by_source);
        let by_addresses = flow.part(flags | BY_ADDRESSES);
        prop_assert_eq!(by_addresses, Flow { ports: 0, protocol: 0, ..flow });
    }

    #[test]
    fn rows_grow_with_hashes(a: u32, b: u32, rows in 1u32..) {
        prop_assert_eq!(row(a.min(b), rows) <= row(a.max(b), rows), true);
        prop_assert_eq!(u128::from(row(a, rows)), u128::from(a) * u128::from(rows) / (1 << 32));
    }
}
