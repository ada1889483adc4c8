//! Every message, word for word; and what is written is read back.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::model::HostState;

const GOOD: &str = "\
version: 7
pools:
  web:
    size: 251
    generation: 3
    hosts:
      a: {address4: 192.0.2.1}
      b: {address4: 192.0.2.2, address6: \"2001:db8::2\", weight: 5, state: drain}
    prepared:
      number: 4
      hosts: {a: 1, b: 5}
    old:
      - {number: 2, hosts: {a: 1, gone: 2}}
";

fn errors(text: &str) -> Vec<String> {
    Manifest::parse("m.yaml", text).unwrap_err().lines()
}

fn one(text: &str, message: &str) {
    assert_eq!(errors(text), [format!("m.yaml:{message}")]);
}

#[test]
fn a_good_one_says_what_it_means() {
    let manifest = Manifest::parse("m.yaml", GOOD).unwrap();
    let pool = &manifest.pools["web"];
    assert_eq!((manifest.version, pool.seed, pool.size), (7, 0, 251));
    assert_eq!(pool.numbers(), [3, 4, 2]);
    assert_eq!(pool.current().hosts, BTreeMap::from([("a".into(), 1)]));
    assert_eq!(pool.next_number(), 5);
}

#[test]
fn the_reference_is_good_and_explains_every_key() {
    let text = include_str!("../../../configs/manifest.yaml");
    Manifest::parse("manifest.yaml", text).unwrap();
    for key in ALL.iter().flat_map(|keys| keys.keys) {
        let explained = text.lines().zip(text.lines().skip(1)).any(|(before, line)| {
            let written = line.trim_start().trim_start_matches("- ").starts_with(&format!("{key}:"));
            written && before.trim_start().trim_start_matches("- ").starts_with('#')
        });
        assert!(explained, "{key} has no comment above it");
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let text = "\
version: 0
pols: {}
pools:
  web:
    size: 250
    hosts:
      a: {address4: 192.0.2.1}
      b: {address4: 192.0.2.1}
    prepared: {number: 4, hosts: {a: 0, c: 1}}
    old: [{number: 4100, hosts: {}}]
";
    assert_eq!(
        errors(text),
        [
            "m.yaml:1:10: version: 0 is no version; write 1 or more",
            "m.yaml:2:1: pols: unknown key; did you mean \"pools\"?",
            "m.yaml:4:3: pools.web.generation: missing; write 1, and another one with every change of hosts",
            "m.yaml:5:11: pools.web.size: 250 is not a prime; write 251",
            "m.yaml:8:21: pools.web.hosts.b.address4: 192.0.2.1 is the address of host \"a\" already; write its own",
            "m.yaml:9:38: pools.web.prepared.hosts.a: weight 0; write 1 to 1000",
            "m.yaml:9:41: pools.web.prepared.hosts.c: \"c\" is no host of this pool; add it to hosts, in state drain",
            "m.yaml:10:20: pools.web.old[0].number: 4100 and 4 (pools.web.prepared.number) are the same in the 12 bits \
             that IPv4 has for them; write another",
            "m.yaml:10:26: pools.web.old[0].hosts: a generation without hosts; list them, each with its weight",
        ]
    );
}

#[test]
fn numbers_tell_generations_apart() {
    one(
        &GOOD.replace("number: 2", "number: 3"),
        "13:18: pools.web.old[0].number: 3 is the number of pools.web.generation already; write another",
    );
    one(
        &GOOD.replace("generation: 3", "generation: 4096"),
        "5:17: pools.web.generation: 4096 is a multiple of 4096, which looks like a probe in IPv4; write another",
    );
    one(
        &GOOD.replace("generation: 3", "generation: 0"),
        "5:17: pools.web.generation: 0 is out of range; write 1 to 65535",
    );
}

#[test]
fn a_generation_fits_its_table() {
    one(
        &GOOD.replace("gone: 2", "gone: 251"),
        "13:21: pools.web.old[0].hosts: 251 rows are too few for weights of 252 in all; write smaller ones",
    );
}

#[test]
fn half_a_document_is_none() {
    for end in 1..GOOD.len() - 1 {
        let half = &GOOD[..end];
        if let Ok(found) = Manifest::parse("m.yaml", half) {
            // Cut between two lists, it may be whole YAML; what names no pool's hosts is refused all the same.
            assert!(found.pools.is_empty() || half.contains("hosts:"), "{half}");
        }
    }
}

#[test]
fn new_numbers_wrap_and_avoid_those_in_force() {
    let pool = |generation: u16, old: &[u16]| {
        let old = old.iter().map(|&number| Generation { number, hosts: BTreeMap::new() }).collect();
        PoolManifest { generation, old, ..PoolManifest::default() }
    };
    assert_eq!(pool(65534, &[]).next_number(), 65535);
    assert_eq!(pool(65535, &[1, 2]).next_number(), 3);
    assert_eq!(pool(4095, &[1]).next_number(), 4098, "4096 is short for 0, 4097 for 1");
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(manifest in manifests()) {
        let text = manifest.print();
        prop_assert_eq!(Manifest::parse("printed", &text), Ok(manifest), "{}", text);
    }
}

fn manifests() -> impl Strategy<Value = Manifest> {
    let names =
        prop_oneof!["[a-z][a-z0-9-]{0,6}", "yes|no|null|~|1|0x1f|1e3|true", "[ -~]{1,8}", "[à-ü]{1,3}"];
    let pools = btree_map(names, pools(), 0..3);
    (1..=u64::MAX, pools).prop_map(|(version, pools)| Manifest { version, pools })
}

fn pools() -> impl Strategy<Value = PoolManifest> {
    let hosts = btree_map("[a-z#:é]{1,3}", (1..1000_u32, 0..3_u8), 1..6);
    let old = vec(btree_map("[a-z]{1,3}", 1..1000_u32, 1..6), 0..4);
    (any::<u64>(), 1..65535_u16, hosts, option::of(any::<bool>()), old).prop_map(
        |(seed, first, hosts, next, old)| {
            let mut pool = PoolManifest { seed, size: 65537, ..PoolManifest::default() };
            for (number, (name, (weight, state))) in hosts.into_iter().enumerate() {
                let address4 = (state != 1).then(|| [10, 0, 0, number as u8].into());
                let address6 = (state != 2).then(|| [0x2001, 0xdb8, 0, 0, 0, 0, 0, number as u16].into());
                let state = [HostState::Active, HostState::Drain, HostState::Down][usize::from(state)];
                pool.hosts.insert(name, crate::model::Host { address4, address6, weight, state });
            }
            pool.generation = if short(first) == 0 { 1 } else { first };
            if next.is_some() {
                let hosts = pool.hosts.iter().map(|(name, host)| (name.clone(), host.weight)).collect();
                pool.prepared = Some(Generation { number: pool.next_number(), hosts });
            }
            for hosts in old {
                pool.old.push(Generation { number: pool.next_number(), hosts });
            }
            pool
        },
    )
}
