use std::time::Instant;

use proptest::prelude::*;

use super::*;

fn generation(hosts: impl IntoIterator<Item = (usize, u32)>) -> Generation {
    Generation {
        number: 1,
        hosts: hosts.into_iter().map(|(number, weight)| (format!("lb7-{number}"), weight)).collect(),
    }
}

fn even(hosts: impl IntoIterator<Item = usize>) -> Generation {
    generation(hosts.into_iter().map(|number| (number, 1)))
}

/// Slots that are neither in the order of names nor dense.
fn slots(generations: &[Generation]) -> BTreeMap<String, u16> {
    let names = generations.iter().flat_map(|generation| generation.hosts.keys().cloned());
    let names: std::collections::BTreeSet<_> = names.collect();
    names.into_iter().rev().enumerate().map(|(number, name)| (name, 3 * number as u16 + 5)).collect()
}

fn digest_of(generations: &[Generation], seed: u64, size: u32, slots: &BTreeMap<String, u16>) -> u64 {
    let ids: BTreeMap<u16, u64> = slots.iter().map(|(name, &slot)| (slot, host_id(name))).collect();
    digest(&rows(generations, seed, size, slots).unwrap().rows, |slot| ids[&slot])
}

/// These are promised to every director and release: a change here breaks connections wherever releases mix.
#[test]
fn tables_have_their_golden_digests() {
    const SEED: u64 = 0xfeed_f00d_dead_beef;
    // Hosts, number of different weights, seed, rows.
    let golden = [
        ((1, 1, 0, 251), 0x42d0_4bf9_a716_7b3c),
        ((1, 1, 0, 65537), 0xdc7e_3d16_782d_8fb0),
        ((1, 1, 0, 655373), 0x71e4_b3be_12f2_7e3e),
        ((13, 1, 0, 251), 0x548c_7ef0_3b38_bd47),
        ((13, 1, 0, 65537), 0xccd5_3b51_abb0_43e8),
        ((13, 1, 0, 655373), 0xcb24_7baf_b1c4_433c),
        ((13, 7, 0, 251), 0x1449_fc6f_1665_6a2f),
        ((13, 7, 0, 65537), 0x28f8_9b02_f64d_068b),
        ((13, 7, 0, 655373), 0x12fb_dc76_7579_fdab),
        ((13, 7, SEED, 65537), 0xf453_80df_db41_3dfb),
        ((1000, 1, 0, 65537), 0x0f87_7ed3_a309_d9d8),
        ((1000, 1, SEED, 65537), 0xb0f9_0f3b_e3d1_c465),
        ((1000, 7, 0, 65537), 0xfbab_27d9_7f24_7b1c),
        ((1000, 7, 0, 655373), 0x982d_55a9_3bf5_b23c),
    ];
    let digests = golden.map(|(case @ (hosts, weights, seed, size), _): (_, u64)| {
        let generations = [generation((1..=hosts).map(|number| (number, 1 + number as u32 % weights)))];
        (case, digest_of(&generations, seed, size, &slots(&generations)))
    });
    assert_eq!(digests, golden, "\n{digests:#x?}");
}

#[test]
fn host_ids_have_their_golden_values() {
    assert_eq!(host_id("lb7-1"), 0xcf1f_06ba_ee8f_6cd3);
    assert_eq!(host_id(""), 0x927a_1518_0b83_6dd9);
}

#[test]
fn a_digest_depends_on_names_not_on_slots() {
    let generations = [even(1..=13)];
    let sorted = generations[0].hosts.keys().cloned().zip(0..).collect();
    let scattered = slots(&generations);
    assert_ne!(
        rows(&generations, 0, 251, &sorted).unwrap().rows,
        rows(&generations, 0, 251, &scattered).unwrap().rows
    );
    assert_eq!(digest_of(&generations, 0, 251, &sorted), digest_of(&generations, 0, 251, &scattered));
}

#[test]
fn a_digest_shows_a_single_changed_place() {
    let generations = [even(1..=13)];
    let slots = slots(&generations);
    let mut rows = rows(&generations, 0, 251, &slots).unwrap().rows;
    let before = digest(&rows, u64::from);
    rows[250].swap(1, 2);
    assert_ne!(before, digest(&rows, u64::from));
}

#[test]
fn one_generation_gives_primary_then_backup() {
    let generations = [even(1..=3)];
    let table = rows(&generations, 0, 251, &slots(&generations)).unwrap();
    assert_eq!(table.crowded, 0);
    for row in table.rows {
        assert!(row[0] != NO_OWNER && row[1] != NO_OWNER && row[0] != row[1], "{row:?}");
        assert_eq!(row[2..], [NO_OWNER; 2]);
    }
}

#[test]
fn a_pool_of_one_host_has_no_backup() {
    let generations = [even([1])];
    let table = rows(&generations, 0, 251, &BTreeMap::from([("lb7-1".into(), 9)])).unwrap();
    assert!(table.rows.iter().all(|row| *row == [9, NO_OWNER, NO_OWNER, NO_OWNER]));
}

#[test]
fn a_host_that_is_gone_leaves_its_places_empty_and_moves_nothing() {
    let generations = [even(1..=3), even(1..=4)];
    let all = slots(&generations);
    let mut without = all.clone();
    let gone = without.remove("lb7-4").unwrap();
    let (before, after) =
        (rows(&generations, 0, 251, &all).unwrap(), rows(&generations, 0, 251, &without).unwrap());
    let mut seen = 0;
    for (before, after) in before.rows.iter().zip(after.rows) {
        let stay: Vec<u16> =
            before.iter().copied().filter(|slot| *slot != gone && *slot != NO_OWNER).collect();
        let have: Vec<u16> = after.iter().copied().filter(|slot| *slot != NO_OWNER).collect();
        assert!(have.starts_with(&stay), "{before:?} {after:?}");
        seen += usize::from(before.contains(&gone));
    }
    assert!(seen > 50, "{seen} rows knew the host");
}

#[test]
fn owners_are_those_of_each_generation_in_order_then_their_backups() {
    let generations = [even(1..=4), even(1..=3), even(2..=3)];
    let slots = slots(&generations);
    let alone = |number: usize| rows(&generations[number..=number], 0, 1009, &slots).unwrap().rows;
    let (newest, middle, oldest) = (alone(0), alone(1), alone(2));
    let table = rows(&generations, 0, 1009, &slots).unwrap();
    let mut longest = 0;
    for (number, row) in table.rows.iter().enumerate() {
        let mut want = vec![];
        let primaries = [newest[number][0], middle[number][0], oldest[number][0]];
        let backups = [newest[number][1], middle[number][1], oldest[number][1]];
        for slot in primaries.into_iter().chain(backups).filter(|slot| *slot != NO_OWNER) {
            if !want.contains(&slot) {
                want.push(slot);
            }
        }
        longest = longest.max(want.len());
        want.truncate(OWNERS);
        // The stand-in of the first goes before those who only hold connections of other generations.
        if let Some(place) =
            want.iter().position(|slot| *slot == newest[number][1]).filter(|place| *place > 0)
        {
            let backup = want.remove(place);
            want.insert(1, backup);
        }
        want.resize(OWNERS, NO_OWNER);
        assert_eq!(row[..], want, "row {number}");
    }
    assert!(longest >= OWNERS, "no row shows the order of all four");
}

#[test]
fn more_owners_than_fit_are_counted() {
    let generations = [even(1..=5), even(6..=10), even(11..=15), even(16..=20), even(21..=25)];
    let table = rows(&generations, 0, 251, &slots(&generations)).unwrap();
    assert_eq!(table.crowded, 251);
    let three = rows(&generations[..3], 0, 251, &slots(&generations)).unwrap();
    assert_eq!(three.crowded, 0);
    for (row, three) in table.rows.iter().zip(three.rows) {
        assert_eq!(row[0], three[0], "the newest stays first");
        let primaries: Vec<u16> = three.iter().copied().filter(|slot| row.contains(slot)).collect();
        assert!(primaries.len() >= 3, "the newest stay: {row:?} {three:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any generations, some of whose hosts are gone: each row has the distinct hosts of all of them, then their backups, the
    /// backup of the first in the second place, as far as there is room; and who is left out is counted, once per row.
    #[test]
    fn rows_are_the_owners_in_order_and_who_is_left_out_is_counted(
        sets in prop::collection::vec(prop::collection::btree_set(1usize..9, 1..5), 1..6),
        gone in prop::collection::btree_set(1usize..9, 0..3),
    ) {
        let generations: Vec<Generation> = sets.into_iter().map(even).collect();
        let mut slots = slots(&generations);
        slots.retain(|name, _| !gone.iter().any(|number| *name == format!("lb7-{number}")));
        let alone: Vec<Vec<Row>> = generations
            .iter()
            .map(|generation| {
                // As if nobody had gone, by numbers of its own, which are then looked up.
                let names: Vec<&String> = generation.hosts.keys().collect();
                let numbers = names.iter().map(|name| (*name).clone()).zip(0..).collect();
                let table = rows(std::slice::from_ref(generation), 0, 251, &numbers).unwrap();
                let slot = |number: u16| names.get(usize::from(number)).and_then(|name| slots.get(*name));
                let slot = |number: u16| slot(number).copied().unwrap_or(NO_OWNER);
                table.rows.iter().map(|row| row.map(slot)).collect()
            })
            .collect();
        let table = rows(&generations, 0, 251, &slots).unwrap();
        let (mut crowded, mut tight) = (0, 0);
        for (number, row) in table.rows.iter().enumerate() {
            let of = |place: usize| alone.iter().map(move |rows| rows[number][place]).filter(|slot| *slot != NO_OWNER);
            let distinct = |all: Vec<u16>| {
                all.into_iter().fold(Vec::new(), |mut list, slot| {
                    if !list.contains(&slot) {
                        list.push(slot);
                    }
                    list
                })
            };
            let hosts = distinct(of(0).collect());
            let mut owners = distinct(of(0).chain(of(1)).collect());
            crowded += usize::from(hosts.len() > OWNERS);
            tight += usize::from(hosts.len() <= OWNERS && owners.len() > OWNERS);
            owners.truncate(OWNERS);
            if let Some(place) = owners.iter().position(|slot| *slot == alone[0][number][1]).filter(|place| *place > 1) {
                let backup = owners.remove(place);
                owners.insert(1, backup);
            }
            owners.resize(OWNERS, NO_OWNER);
            prop_assert_eq!(&row[..], &owners[..], "row {}", number);
        }
        prop_assert_eq!((table.crowded, table.tight), (crowded, tight));
    }
}

#[test]
fn what_makes_no_rows_is_named() {
    let generations = [even(1..=2)];
    let few = BTreeMap::from([("lb7-1".into(), 0), ("lb7-2".into(), NO_OWNER)]);
    assert_eq!(rows(&[], 0, 251, &few), Err(TableError::NoHosts));
    assert_eq!(rows(&[Generation::default()], 0, 251, &few), Err(TableError::NoHosts));
    assert_eq!(
        rows(&generations, 0, 4_294_967_295, &slots(&generations)),
        Err(TableError::NotPrime(u32::MAX))
    );
}

/// Milliseconds when optimised; permutations held in memory would take seconds and half a gigabyte.
#[test]
fn a_thousand_hosts_have_a_table() {
    let generation = generation((1..=1000).map(|number| (number, 1 + number as u32 % 100)));
    let slots = slots(std::slice::from_ref(&generation));
    let start = Instant::now();
    let table = rows(&[generation], 0, 65537, &slots).unwrap();
    digest(&table.rows, u64::from);
    println!("figure: rows and digest, 1000 hosts of unequal weights, 65537 rows: {:?}", start.elapsed());
    let owners: std::collections::BTreeSet<u16> = table.rows.iter().map(|row| row[0]).collect();
    assert_eq!(owners.len(), 1000);
}
