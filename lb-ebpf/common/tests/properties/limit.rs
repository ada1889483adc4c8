//! Rate limits: whose bucket it is, where it is, and when it is full.

use core::net::{IpAddr, Ipv6Addr};
use std::collections::BTreeSet;

use lb_common::flow::Addr;
use lb_common::limit::{SETS, after, set, tag};
use proptest::prelude::*;

use crate::{any_addr, unevenness};

/// The leading bits of an address, in another way than the code under test.
fn leading(addr: Addr, bits: u8) -> u128 {
    let all = u128::from_be_bytes(addr.octets());
    (0..128 - u32::from(bits)).fold(all, |left, bit| left & !(1 << bit))
}

/// Programs that replace one another go on with the same buckets.
#[test]
fn tags_are_what_they_were() {
    let addr: Addr =
        IpAddr::from("fedc:ba98:7654:3211:fedc:ba98:7654:3211".parse::<Ipv6Addr>().unwrap()).into();
    let expected = [
        2_142_466_051_566_569_563,
        8_462_490_282_180_288_997,
        18_192_623_783_577_413_081,
        7_435_247_246_506_733_929,
        15_703_022_555_302_069_567,
        1_906_688_919_053_299_579,
        1_658_025_506_174_625_019,
    ];
    assert_eq!([0, 1, 63, 64, 65, 127, 128].map(|bits| tag(7, 3, addr, bits)), expected);
}

#[test]
fn sources_spread_evenly_over_all_sets() {
    let mut hits = vec![0; SETS as usize];
    for number in 0..SETS * 20 {
        hits[set(tag(7, 3, Addr::v4(number.to_be()), 128)) as usize] += 1;
    }
    assert!(unevenness(&hits) < 1.1);
}

proptest! {
    #[test]
    fn a_bucket_is_that_of_the_leading_bits(a in any_addr(), flip in 0u32..128, bits in 0u8..=128, service: u32, seed: u64) {
        let b = Addr::from_octets((u128::from_be_bytes(a.octets()) ^ 1 << flip).to_be_bytes());
        let one = leading(a, bits) == leading(b, bits);
        prop_assert_eq!(tag(seed, service, a, bits) == tag(seed, service, b, bits), one);
        let first = Addr::from_octets(leading(a, bits).to_be_bytes());
        prop_assert_eq!(tag(seed, service, a, bits), tag(seed, service, first, bits));
    }

    /// 0 is a free place, whatever hashes to it.
    #[test]
    fn a_tag_is_never_that_of_a_free_place(addr in any_addr(), service: u32, seed: u64, bits in 0u8..=128) {
        prop_assert_eq!(tag(seed, service, addr, bits) & 1, 1);
    }

    #[test]
    fn services_and_seeds_have_buckets_of_their_own(addr in any_addr(), service: u32, seed: u64, bit in 0u32..32) {
        let own = tag(seed, service, addr, 128);
        // The lowest bit of a tag is always set, so two in 2^63 may meet.
        prop_assert_ne!(own, tag(seed, service ^ 1 << bit, addr, 128));
        prop_assert_ne!(own, tag(seed ^ 1 << (2 * bit), service, addr, 128));
    }

    #[test]
    fn a_set_is_a_place_and_goes_by_other_bits_than_the_lowest(tag: u64) {
        prop_assert!(set(tag) < SETS);
        prop_assert_eq!(set(tag), ((tag >> 32) % u64::from(SETS)) as u32);
    }

    /// A packet passes if and only if what the source has spent, less what time has given back, is within the tolerance.
    #[test]
    fn a_bucket_leaks_and_fills(now in 0u64..1 << 60, ahead in -1000i64..1000, interval in 1u64..1000, tolerance in 0u64..1000) {
        let empty_at = now.saturating_add_signed(ahead);
        let spent = empty_at.saturating_sub(now);
        let next = (spent <= tolerance).then_some(now + spent + interval);
        prop_assert_eq!(after(empty_at, now, interval, tolerance), next);
    }

    /// However packets come, in any stretch of time no more pass than the burst and one per interval.
    #[test]
    fn no_source_gets_more_than_its_limit(gaps in prop::collection::vec(0u64..30, 1..200), burst in 0u64..5) {
        let (interval, mut now, mut empty_at, mut passed) = (10, 1_000, 0, BTreeSet::new());
        for gap in gaps {
            now += gap;
            if let Some(next) = after(empty_at, now, interval, burst * interval) {
                empty_at = next;
                passed.insert((now, passed.len()));
            }
        }
        let passed: Vec<u64> = passed.into_iter().map(|(at, _)| at).collect();
        for (from, first) in passed.iter().enumerate() {
            for (to, last) in passed.iter().enumerate().skip(from) {
                prop_assert!((to - from) as u64 <= burst + (last - first) / interval + 1);
            }
        }
    }
}
