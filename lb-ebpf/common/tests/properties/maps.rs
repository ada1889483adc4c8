//! Keys and values of maps: what goes in comes out, and nothing is taken for something else.

use core::mem::{offset_of, size_of};

use lb_common::bench::{Case, HEAD};
use lb_common::capture::{CAPTURED_BYTES, Captured};
use lb_common::extras::{ALLOWED, BY_ID, DENIED, EXTRA, LIMITED, LIST_BITS, SOURCE_BITS, SOURCES};
use lb_common::flow::Addr;
use lb_common::maps::{
    BY_ADDRESSES, BY_SOURCE, Budget, CHAINS, DRAINED, Entry, FLOW_TABLE, GENERATIONS, HEALTHY, KEEP,
    RESOLVED, SEEN, Service, ServiceKey, TAGGED, USABLE, View, WINDOW_BITS, account_index, flow_word, is_of,
    nexthop_index, slot_of,
};
use proptest::prelude::*;

use crate::{any_addr, unevenness};

#[test]
fn a_case_of_the_bench_has_the_head_of_its_packet() {
    assert_eq!((size_of::<Case>(), offset_of!(Case, head), HEAD), (144, 16, 128));
}

#[test]
fn flags_have_a_bit_each() {
    let of_services = [KEEP, FLOW_TABLE, BY_SOURCE, BY_ADDRESSES, SOURCES, LIMITED, BY_ID];
    assert!(of_services.iter().all(|flag| flag.is_power_of_two()));
    assert_eq!(of_services.iter().sum::<u16>().count_ones(), 7);
    assert_eq!(of_services[4..].iter().sum::<u16>(), EXTRA);
    let of_hops = [RESOLVED, HEALTHY, DRAINED, TAGGED];
    assert_eq!((of_hops.iter().sum::<u8>(), RESOLVED + HEALTHY), (15, USABLE));
    assert_ne!(ALLOWED, DENIED);
    // A key of a trie: its number, then an address.
    assert_eq!((LIST_BITS, SOURCE_BITS), (32, 160));
}

/// The directory of services of one release is read by the programs of the next.
#[test]
fn chains_are_what_they_were_and_even() {
    let key = |vip: u32, port: u16| ServiceKey::new(Addr::v4(vip.to_be()), port.to_be(), 6);
    let v6 = ServiceKey::new(Addr::v6([1, 2, 3, 4]), 80u16.to_be(), 17);
    assert_eq!((key(0xc633_6401, 80).chain(), v6.chain()), (29_639, 36_996));
    let mut hits = vec![0; CHAINS];
    for vip in 0..1024 {
        (0..256).for_each(|port| hits[key(0xc633_0000 + vip, port).chain() as usize] += 1);
    }
    assert!(unevenness(&hits) < 1.1);
}

#[test]
fn every_service_and_generation_has_an_account_of_its_own() {
    let all = (0..50).flat_map(|service| (0..=GENERATIONS).map(move |place| account_index(service, place)));
    assert!(all.eq(0..50 * (GENERATIONS as u32 + 1)));
}

proptest! {
    #[test]
    fn a_capture_is_read_as_it_stands_in_memory(bytes: [u8; CAPTURED_BYTES]) {
        let read = Captured::from_bytes(&bytes);
        // SAFETY: plain data without padding; any bytes are a value.
        let memory = unsafe { core::mem::transmute::<[u8; CAPTURED_BYTES], Captured>(bytes) };
        prop_assert_eq!(read, memory);
    }

    #[test]
    fn a_key_of_a_service_gives_back_what_it_holds(vip in any_addr(), port: u16, protocol: u8) {
        let key = ServiceKey::new(vip, port.to_be(), protocol);
        prop_assert_eq!((key.vip(), key.port(), key.protocol()), (vip, port, protocol));
        prop_assert!(key.is_service() && !key.is_vip());
        prop_assert_eq!(key.prefix(), None);
        let (pairs, rest) = key.parts();
        prop_assert_eq!(ServiceKey::from_parts(pairs, rest), key);
        prop_assert_eq!(key.any_port(), ServiceKey::new(vip, 0, protocol));
    }

    #[test]
    fn vips_fragments_and_services_are_never_one_another(vip in any_addr(), port: u16, protocol: u8) {
        let (of_vip, of_fragments) = (ServiceKey::of_vip(vip), ServiceKey::of_fragments(vip, protocol));
        prop_assert_eq!((of_vip.is_vip(), of_vip.is_service(), of_vip.vip()), (true, false, vip));
        prop_assert_eq!((of_fragments.is_vip(), of_fragments.is_service()), (false, false));
        prop_assert_eq!((of_fragments.vip(), of_fragments.protocol()), (vip, protocol));
        // They have no port to be without.
        prop_assert_eq!((of_vip.any_port(), of_fragments.any_port()), (of_vip, of_fragments));
        let service = ServiceKey::new(vip, port, protocol);
        prop_assert!(of_vip != of_fragments && service != of_vip && service != of_fragments);
        prop_assert_ne!(of_fragments, ServiceKey::of_fragments(vip, protocol ^ 1));
    }

    #[test]
    fn an_entry_is_read_as_it_stands_in_memory(
        (vip, port, protocol, next, seed) in (any_addr(), any::<u16>(), any::<u8>(), any::<u64>(), any::<u64>()),
        (id, table, rows, extras, spare) in any::<(u32, u32, u32, u32, u32)>(),
        (generation, flags) in any::<(u16, u16)>(),
    ) {
        let service = Service { seed, id, table, rows, generation, flags, extras, spare };
        let entry = Entry { key: ServiceKey::new(vip, port, protocol), next, service };
        // SAFETY: eight words of plain data.
        let memory = unsafe { core::mem::transmute::<Entry, [u64; 8]>(entry) };
        prop_assert_eq!(entry.words(), memory);
        prop_assert_eq!(Entry::from_words(memory), entry);
    }

    /// A word is of the flows that have the same upper 46 bits of fingerprint (one bit tells a flow from none), seen again
    /// or not.
    #[test]
    fn a_flow_is_told_by_its_fingerprint(fingerprint: u64, slot: u16, bit in 0u32..64, seen: bool) {
        let word = flow_word(fingerprint, slot) | if seen { SEEN } else { 0 };
        prop_assert!(is_of(word, fingerprint) && word != 0);
        prop_assert_eq!(slot_of(word), slot);
        prop_assert_eq!(is_of(word, fingerprint ^ 1 << bit), bit < 18);
        prop_assert_eq!(flow_word(fingerprint, slot) & SEEN, 0);
        prop_assert!(SEEN.is_power_of_two() && !is_of(0, fingerprint));
    }

    #[test]
    fn every_host_and_family_has_a_next_hop_of_its_own(slot: u16, v6: bool) {
        prop_assert_eq!(nexthop_index(slot, v6), 2 * u32::from(slot) + u32::from(v6));
    }

    /// The first place whose generation has the same low 12 bits; a free place is of no generation.
    #[test]
    fn a_generation_is_found_by_its_low_twelve_bits(
        generations in prop::array::uniform8(prop_oneof![Just(0u16), any::<u16>(), 0u16..4]), wanted: u16, at in 0usize..16,
    ) {
        // Half of the time one that is there, as an IPv4 header shows it or whole.
        let wanted = generations.get(at).map_or(wanted, |there| there ^ wanted << 12);
        let found = generations.iter().position(|there| *there != 0 && there % 4096 == wanted % 4096);
        let view = View { own: 0, generations };
        prop_assert_eq!(view.place(wanted), found.unwrap_or(GENERATIONS));
    }

    /// The least whole number of packets per window that is not below what was asked for.
    #[test]
    fn a_budget_allows_what_was_asked_and_less_than_one_packet_more(packets in prop_oneof![any::<u64>(), 0u64..1_000_000]) {
        let Budget { limit, window, spent } = Budget::per_second(packets);
        let (limit, asked) = (u128::from(limit), u128::from(packets) << WINDOW_BITS);
        prop_assert!(limit * 1_000_000_000 >= asked && limit.saturating_sub(1) * 1_000_000_000 < asked.max(1));
        prop_assert_eq!((window, spent), (0, 0));
    }
}
