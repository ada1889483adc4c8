use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;

use maglev::{ConsistentHasher, Maglev};
use proptest::collection::btree_map;
use proptest::prelude::*;

use super::*;

const PRIMES: [u32; 4] = [251, 1009, 4099, 65537];

fn members(hosts: &BTreeMap<String, u32>) -> Vec<Member<'_>> {
    hosts.iter().map(|(name, &weight)| Member { name, weight }).collect()
}

fn fleet(count: usize) -> BTreeMap<String, u32> {
    (1..=count).map(|number| (format!("lb7-{number}"), 1)).collect()
}

fn counts(rows: &[u16], hosts: usize) -> Vec<u32> {
    let mut counts = vec![0; hosts];
    rows.iter().for_each(|&host| counts[usize::from(host)] += 1);
    counts
}

/// Rows by name of their host, so that tables of different sets compare.
fn names<'a>(members: &[Member<'a>], rows: &[u16]) -> Vec<&'a str> {
    rows.iter().map(|&host| members[usize::from(host)].name).collect()
}

fn hosts(weights: std::ops::RangeInclusive<u32>) -> impl Strategy<Value = BTreeMap<String, u32>> {
    btree_map("[a-z0-9-]{1,12}", weights, 2..40)
}

struct SeededSip(u64);

impl BuildHasher for SeededSip {
    type Hasher = SipHasher24;

    fn build_hasher(&self) -> SipHasher24 {
        SipHasher24::new_with_keys(KEY0 ^ self.0, KEY1)
    }
}

/// The oracle shows its table only through lookups, so this inverts its hash: it finds a key for every row.
fn oracle(members: &[Member<'_>], seed: u64, size: u32) -> Vec<String> {
    let names: Vec<&str> = members.iter().map(|member| member.name).collect();
    let oracle = Maglev::with_capacity_and_hasher(names, size as usize, SeededSip(seed));
    assert_eq!(oracle.capacity(), size as usize);
    let mut rows = vec![String::new(); size as usize];
    let mut missing = size;
    for key in (0..).map(|key: u32| key.to_string()) {
        let row = &mut rows[(hash(&key, 0xdead_babe, seed) % u64::from(size)) as usize];
        if row.is_empty() {
            *row = oracle.get(key.as_str()).unwrap().to_string();
            missing -= 1;
            if missing == 0 {
                break;
            }
        }
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn without_weights_the_maglev_crate_makes_the_same_table(
        hosts in hosts(1..=1), seed: u64, size in prop::sample::select(&PRIMES[..3]),
    ) {
        let members = members(&hosts);
        let rows = populate(&members, seed, size).unwrap();
        prop_assert_eq!(names(&members, &rows), oracle(&members, seed, size));
    }

    #[test]
    fn only_the_ratio_of_weights_matters_and_order_of_input_cannot(
        hosts in hosts(1..=9), seed: u64, factor in 1_u32..1000,
    ) {
        let scaled = hosts.iter().rev().map(|(name, weight)| (name.clone(), weight * factor)).collect();
        let rows = populate(&members(&hosts), seed, 1009).unwrap();
        prop_assert_eq!(rows, populate(&members(&scaled), seed, 1009).unwrap());
    }

    #[test]
    fn rows_are_shared_by_weight_within_one_row(hosts in hosts(1..=100), seed: u64) {
        let members = members(&hosts);
        let counts = counts(&populate(&members, seed, 4099).unwrap(), members.len());
        // Shares are between w·T and w·T + 1 for some T: the intervals of T that hosts allow have a point in common.
        let bounds = |i: usize| {
            let (rows, weight) = (f64::from(counts[i]), f64::from(members[i].weight));
            ((rows - 1.0) / weight, rows / weight)
        };
        let from = (0..members.len()).map(|i| bounds(i).0).fold(0.0, f64::max);
        let to = (0..members.len()).map(|i| bounds(i).1).fold(f64::MAX, f64::min);
        prop_assert!(from <= to + 1e-9, "no common time: {from} > {to}");
    }

    #[test]
    fn every_host_has_a_row_however_small_its_weight(hosts in hosts(1..=u32::MAX), seed: u64) {
        let members = members(&hosts);
        let counts = counts(&populate(&members, seed, 251).unwrap(), members.len());
        prop_assert!(counts.iter().all(|&rows| rows > 0), "{counts:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The paper's figure 12: besides the rows that lost their host, a few per cent move at 100 times as many rows.
    #[test]
    fn removing_a_host_moves_few_rows_of_others(hosts in hosts(1..=4), seed: u64, pick: prop::sample::Index) {
        let mut fewer = hosts.clone();
        let gone = hosts.keys().nth(pick.index(hosts.len())).unwrap();
        fewer.remove(gone);
        let (before, after) = (members(&hosts), members(&fewer));
        let before = names(&before, &populate(&before, seed, 65537).unwrap());
        let after = names(&after, &populate(&after, seed, 65537).unwrap());
        let moved = before.iter().zip(&after).filter(|(b, a)| b != a && **b != gone.as_str()).count();
        prop_assert!(moved < 65537 * 5 / 100, "{moved} rows of others moved");
    }

    /// A change of weight moves the difference in shares, and few other rows.
    #[test]
    fn a_change_of_weight_moves_little_more_than_it_must(
        hosts in hosts(1..=4), seed: u64, pick: prop::sample::Index, weight in 1_u32..8,
    ) {
        let mut changed = hosts.clone();
        *changed.values_mut().nth(pick.index(hosts.len())).unwrap() = weight;
        let (before, after) = (members(&hosts), members(&changed));
        let before = populate(&before, seed, 65537).unwrap();
        let after = populate(&after, seed, 65537).unwrap();
        let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
        let must: u32 = counts(&before, hosts.len())
            .iter()
            .zip(counts(&after, hosts.len()))
            .map(|(b, a)| b.saturating_sub(a))
            .sum();
        prop_assert!(moved < must as usize + 65537 * 5 / 100, "{moved} rows moved, {must} must");
    }
}

#[test]
fn a_single_host_has_all_rows() {
    let hosts = fleet(1);
    assert_eq!(populate(&members(&hosts), 7, 251).unwrap(), [0; 251]);
}

#[test]
fn another_seed_makes_another_table() {
    let hosts = fleet(13);
    let members = members(&hosts);
    let same = |a: &[u16], b: &[u16]| a.iter().zip(b).filter(|(a, b)| a == b).count();
    let (zero, one) = (populate(&members, 0, 65537).unwrap(), populate(&members, 1, 65537).unwrap());
    assert!(same(&zero, &one) < 65537 / 13 * 2);
}

#[test]
fn what_makes_no_table_is_named() {
    let of = |members: &[(&'static str, u32)], size| {
        let members: Vec<_> = members.iter().map(|&(name, weight)| Member { name, weight }).collect();
        populate(&members, 0, size).unwrap_err()
    };
    assert_eq!(of(&[("a", 1)], 65536), TableError::NotPrime(65536));
    assert_eq!(of(&[("a", 1)], 0), TableError::NotPrime(0));
    assert_eq!(of(&[("a", 1)], 1), TableError::NotPrime(1));
    assert_eq!(of(&[], 251), TableError::NoHosts);
    assert_eq!(of(&[("a", 1), ("b", 1), ("c", 1)], 2), TableError::TooManyHosts { hosts: 3, size: 2 });
    assert_eq!(of(&[("b", 1), ("a", 1)], 251), TableError::Order("a".into()));
    assert_eq!(of(&[("a", 1), ("a", 1)], 251), TableError::Order("a".into()));
    assert_eq!(of(&[("a", 1), ("b", 0)], 251), TableError::NoWeight("b".into()));
}

#[test]
fn the_smallest_table_works() {
    let hosts = [("a", 1), ("b", 1)].map(|(name, weight)| Member { name, weight });
    let mut rows = populate(&hosts, 0, 2).unwrap();
    rows.sort();
    assert_eq!(rows, [0, 1]);
}

#[test]
fn primes_are_told() {
    let primes: Vec<u32> = (0..30).filter(|&n| is_prime(n)).collect();
    assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
    assert!(is_prime(65537) && is_prime(655373) && is_prime(4_294_967_291));
    assert!(!is_prime(65537 * 3) && !is_prime(u32::MAX));
}

proptest! {
    #[test]
    fn the_nearest_row_is_the_first_on_the_walk(
        name in "[a-z0-9-]{1,6}", seed: u64, size in prop::sample::select(vec![2_u32, 3, 251, 65_537, 1_048_573]),
        from: prop::sample::Index, rows in prop::collection::vec(any::<prop::sample::Index>(), 1..300),
    ) {
        let [from, rows] = [&[from][..], &rows].map(|all| all.iter().map(|row| row.index(size as usize) as u32).collect::<Vec<_>>());
        let mut walk = Walk::new(&name, seed, size);
        let mut first = from[0];
        while !rows.contains(&first) {
            first = walk.after(first);
        }
        prop_assert_eq!(walk.nearest(from[0], rows.iter().copied()), Some(first));
        prop_assert_eq!(walk.nearest(from[0], std::iter::empty()), None);
    }

    #[test]
    fn the_nearest_of_the_largest_tables(
        name in "[a-z0-9-]{1,6}", seed: u64, size in prop::sample::select(vec![1_048_573_u32, 2_147_483_629]),
        from: prop::sample::Index, steps in prop::collection::vec(any::<prop::sample::Index>(), 1..300),
    ) {
        let mut walk = Walk::new(&name, seed, size);
        let from = from.index(size as usize) as u32;
        let skip = u64::from(walk.skip);
        let row = |steps: u64| ((u64::from(from) + steps * skip) % u64::from(size)) as u32;
        let steps: BTreeSet<u64> = steps.iter().map(|steps| steps.index(size as usize) as u64).collect();
        let rows: Vec<u32> = steps.iter().map(|steps| row(*steps)).collect();
        prop_assert_eq!(walk.nearest(from, rows.iter().rev().copied()), Some(rows[0]));
        // One step off, and all but one.
        let next = [row(u64::from(size) - 1), row(1)];
        prop_assert_eq!(walk.nearest(from, next.into_iter()), Some(next[1]));
    }
}
