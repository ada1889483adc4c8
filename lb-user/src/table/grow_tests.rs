use std::collections::BTreeMap;

use proptest::collection::btree_map;
use proptest::prelude::*;

use super::super::maglev::{Population, populate};
use super::super::roots::{DEPTH, Taken};
use super::*;

type Hosts = BTreeMap<String, u32>;

fn members(hosts: &Hosts) -> Vec<Member<'_>> {
    hosts.iter().map(|(name, &weight)| Member { name, weight }).collect()
}

fn grown(
    before: &Hosts,
    after: &Hosts,
    seed: u64,
    size: u32,
    depth: u32,
) -> Result<Option<Vec<u16>>, TableError> {
    let (before, after) = (members(before), members(after));
    let Population { owners, turns } = Population::new(&before, seed, size).unwrap();
    let roots = Roots::new(&before, seed, Taken { owners: &owners, turns }, depth);
    let Some(places) = places(&before, &after) else { return Ok(None) };
    let from = From { members: &before, roots: &roots, places: &places };
    let Some(moved) = grow(from, &after, seed)? else { return Ok(None) };
    let mut now: Vec<u16> = owners.iter().map(|host| places[usize::from(*host)]).collect();
    for (row, host) in moved {
        // Once, and to another host.
        assert_eq!(now[row as usize], places[usize::from(owners[row as usize])], "row {row}");
        assert_ne!(std::mem::replace(&mut now[row as usize], host), host, "row {row}");
    }
    Ok(Some(now))
}

/// With what is known however far ahead a host gets.
fn grown_far(before: &Hosts, after: &Hosts, seed: u64, size: u32) -> Result<Option<Vec<u16>>, TableError> {
    grown(before, after, seed, size, size)
}

fn full(hosts: &Hosts, seed: u64, size: u32) -> Vec<u16> {
    populate(&members(hosts), seed, size).unwrap()
}

/// Hosts of some weights, with up to `count` names, of which those with `true` are there before.
fn hosts(
    weights: impl Strategy<Value = u32>,
    count: usize,
) -> impl Strategy<Value = BTreeMap<String, (u32, bool)>> {
    let some = btree_map("[a-z0-9-]{1,6}", (weights, prop::bool::weighted(0.7)), 1..=count);
    some.prop_map(|mut hosts| {
        // One at least.
        hosts.values_mut().take(1).for_each(|(_, before)| *before = true);
        hosts
    })
}

fn split(hosts: &BTreeMap<String, (u32, bool)>) -> (Hosts, Hosts) {
    let all = hosts.iter().map(|(name, (weight, _))| (name.clone(), *weight));
    let before = hosts.iter().filter(|(_, (_, before))| *before);
    (before.map(|(name, (weight, _))| (name.clone(), *weight)).collect(), all.collect())
}

fn fleet(numbers: impl Iterator<Item = u32>, weights: u32) -> Hosts {
    numbers.map(|number| (format!("lb7-{number}"), 1 + number % weights)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_has_grown_is_what_is_made_at_once(
        hosts in prop_oneof![hosts(Just(1), 60), hosts(1_u32..=9, 60), hosts(1_u32..=u32::MAX, 60)],
        seed: u64, size in prop::sample::select(vec![61_u32, 251, 1009, 4099]),
    ) {
        let (before, after) = split(&hosts);
        prop_assert_eq!(grown_far(&before, &after, seed, size), Ok(Some(full(&after, seed, size))));
    }

    #[test]
    fn the_smallest_tables_grow_until_each_host_has_one_row(
        hosts in prop_oneof![hosts(Just(1), 13), hosts(1_u32..=9, 13), hosts(1_u32..=u32::MAX, 13)], seed: u64,
    ) {
        let (before, after) = split(&hosts);
        for size in [2, 3, 5, 7, 11, 13] {
            if after.len() <= size as usize {
                prop_assert_eq!(grown_far(&before, &after, seed, size), Ok(Some(full(&after, seed, size))), "{} rows", size);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn one_host_more_wherever_its_name_comes(
        count in 1_u32..250, new in "[a-z0-9-]{1,6}", weights in 1_u32..40, weight in 1_u32..40, seed: u64,
    ) {
        for size in [251, 16_381] {
            let before = fleet(0..count, weights);
            let mut after = before.clone();
            after.insert(new.clone(), weight);
            prop_assert_eq!(grown_far(&before, &after, seed, size), Ok(Some(full(&after, seed, size))));
        }
    }
}

#[test]
fn a_thousand_hosts_grow_by_a_few_without_being_far_ahead() {
    for (size, weights) in [(2003, 1), (16_381, 1), (65_537, 1), (65_537, 7), (655_373, 1)] {
        let before = fleet(0..1000, weights);
        for more in 1..=2 {
            let after = fleet(0..1000 + more, weights);
            let have = grown(&before, &after, 3, size, DEPTH).unwrap();
            assert!(have == Some(full(&after, 3, size)), "{more} more, {size} rows, {weights} weights");
        }
    }
}

#[test]
fn many_hosts_more_are_computed_anew_or_as_if() {
    let (before, after) = (fleet(0..50, 7), fleet(0..90, 7));
    assert_eq!(grown(&before, &after, 0, 4099, DEPTH), Ok(None));
    assert_eq!(grown_far(&before, &after, 0, 4099), Ok(Some(full(&after, 0, 4099))));
}

#[test]
fn a_full_table_takes_its_last_host() {
    let (before, after) = (fleet(0..250, 7), fleet(0..251, 7));
    assert_eq!(grown_far(&before, &after, 0, 251), Ok(Some(full(&after, 0, 251))));
    let too_many = TableError::TooManyHosts { hosts: 252, size: 251 };
    assert_eq!(grown_far(&before, &fleet(0..252, 7), 0, 251), Err(too_many));
}

#[test]
fn nothing_grows_from_what_it_does_not_contain() {
    let hosts = fleet(0..5, 1);
    assert_eq!(grown_far(&hosts, &fleet(1..9, 1), 0, 251), Ok(None), "one host less");
    assert_eq!(grown_far(&hosts, &fleet(0..4, 1), 0, 251), Ok(None), "the last host less");
    let mut other = fleet(0..9, 1);
    other.insert("lb7-3".into(), 2);
    assert_eq!(grown_far(&hosts, &other, 0, 251), Ok(None), "another weight");
    assert_eq!(grown_far(&hosts, &hosts, 0, 251), Ok(Some(full(&hosts, 0, 251))), "the same");
}
