//! VIPs that are prefixes: the directory of services and the trie tell the same keys apart.

use lb_common::flow::Addr;
use lb_common::maps::ServiceKey;
use lb_common::prefixes::{KIND_BITS, PREFIX_KEY_BITS, Prefix};
use proptest::prelude::*;

use crate::any_addr;

/// A key of each kind.
fn any_key() -> impl Strategy<Value = ServiceKey> {
    (any_addr(), any::<u16>(), any::<u8>(), 0..3).prop_map(|(vip, port, protocol, kind)| match kind {
        0 => ServiceKey::new(vip, port, protocol),
        1 => ServiceKey::of_vip(vip),
        _ => ServiceKey::of_fragments(vip, protocol),
    })
}

#[test]
fn a_key_of_the_trie_is_a_kind_and_an_address() {
    assert_eq!((KIND_BITS, PREFIX_KEY_BITS), (32, 160));
}

proptest! {
    #[test]
    fn a_prefix_keeps_all_that_its_key_says(key in any_key(), length in 1u32..=128) {
        let prefix = Prefix { first: key.vip(), length };
        let within = key.within(prefix);
        prop_assert_eq!((key.prefix(), within.prefix()), (None, Some(length as u8)));
        prop_assert_eq!((within.vip(), within.port(), within.protocol()), (key.vip(), key.port(), key.protocol()));
        prop_assert_eq!((within.is_vip(), within.is_service()), (key.is_vip(), key.is_service()));
        prop_assert_ne!(within, key);
        prop_assert_eq!(within.any_port(), key.any_port().within(prefix));
        prop_assert_eq!(within.in_trie(), key.in_trie(), "the trie has the length elsewhere");
        prop_assert_eq!(ServiceKey::from_trie(key.in_trie(), length), within);
    }

    #[test]
    fn a_prefix_moves_its_key_to_its_first_address(key in any_key(), first: [u8; 16], length in 1u32..=128) {
        let first = Addr::from_octets(first);
        prop_assert_eq!(key.within(Prefix { first, length }).vip(), first);
    }

    #[test]
    fn the_trie_tells_apart_what_the_directory_does(a in any_key(), b in any_key(), bit in 0u32..32, vip in any_addr()) {
        prop_assert_eq!(a == b, a.in_trie() == b.in_trie());
        prop_assert_eq!(a.in_trie().address, a.vip());
        // One bit of port or protocol.
        let (port, protocol) = ((bit as u16).wrapping_mul(257), bit as u8);
        let one = ServiceKey::new(vip, port, protocol);
        let others = [
            ServiceKey::new(vip, port ^ 1 << (bit % 16), protocol),
            ServiceKey::new(vip, port, protocol ^ 1 << (bit % 8)),
            ServiceKey::of_vip(vip),
            ServiceKey::of_fragments(vip, protocol),
        ];
        prop_assert!(others.iter().all(|other| other.in_trie().kind != one.in_trie().kind));
    }
}
