use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::btree_map;
use proptest::prelude::*;

use super::super::maglev::populate;
use super::*;

fn members(hosts: &BTreeMap<String, u32>) -> Vec<Member<'_>> {
    hosts.iter().map(|(name, &weight)| Member { name, weight }).collect()
}

fn fleet(count: usize) -> BTreeMap<String, u32> {
    (1..=count).map(|number| (format!("lb7-{number}"), 1)).collect()
}

fn backups(members: &[Member<'_>], seed: u64, primary: &[u16]) -> Vec<u16> {
    let backups = Backups::new(members, seed, primary);
    (0..primary.len() as u32).map(|row| backups.of(row)).collect()
}

/// The rule as it is written.
fn plain(members: &[Member<'_>], seed: u64, primary: &[u16]) -> Vec<u16> {
    let size = primary.len() as u64;
    let of = |row: usize| {
        let key = hash(members[usize::from(primary[row])].name, 0xdead_bacc, seed);
        let near = u128::from(size - 1).min(4096);
        let start = row as u64 + 1 + ((u128::from(digest::step(key, row as u64) >> 32) * near) >> 32) as u64;
        let mut on_walk = (start..start + size).map(|row| primary[(row % size) as usize]);
        on_walk.find(|owner| *owner != primary[row]).unwrap_or(NOBODY)
    };
    (0..primary.len()).map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_backup_is_the_next_other_host_on_the_walk_and_every_row_has_one(
        hosts in prop_oneof![
            btree_map("[a-z0-9-]{1,12}", 1_u32..=100, 2..40),
            btree_map("[a-z0-9-]{1,12}", 1_u32..=100_000, 2..4),
        ],
        seed: u64, size in prop::sample::select(vec![41_u32, 251, 1009, 4099]),
    ) {
        let members = members(&hosts);
        let primary = populate(&members, seed, size).unwrap();
        let backups = backups(&members, seed, &primary);
        prop_assert_eq!(&backups, &plain(&members, seed, &primary));
        for (row, (primary, backup)) in primary.iter().zip(&backups).enumerate() {
            prop_assert!(usize::from(*backup) < members.len(), "row {} has no backup", row);
            prop_assert_ne!(primary, backup, "row {}", row);
        }
    }
}

proptest! {
    #[test]
    fn backups_may_differ_where_rows_moved_that_they_were_found_by(
        hosts in btree_map("[a-z0-9-]{1,12}", 1_u32..=100, 1..40), seed: u64,
        size in prop::sample::select(vec![41_u32, 251, 5003]), moved in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let members = members(&hosts);
        let primary = populate(&members, seed, size).unwrap();
        let backups = Backups::new(&members, seed, &primary);
        let moved: BTreeSet<u32> = moved.iter().map(|row| row.index(size as usize) as u32).collect();
        let first = |row: u32| step(row, backups.distance(row), size);
        let is_at_once = |row: u32| primary[first(row) as usize] != primary[row as usize];
        let may = |row: &u32| moved.contains(row) || !is_at_once(*row) || moved.contains(&first(*row));
        let want: Vec<u32> = (0..size).filter(may).collect();
        prop_assert_eq!(Found::new(&backups).may_differ(moved.iter().copied()), want);
    }
}

#[test]
fn backups_of_a_failed_host_are_spread_over_all_others() {
    let hosts = fleet(13);
    let members = members(&hosts);
    let primary = populate(&members, 0, 65537).unwrap();
    let backup = backups(&members, 0, &primary);
    for failed in 0..13 {
        let mut heirs = [0_u32; 13];
        for (row, &heir) in backup.iter().enumerate().filter(|(row, _)| primary[*row] == failed) {
            assert_ne!(heir, failed, "row {row}");
            heirs[usize::from(heir)] += 1;
        }
        let share = 65537 / 13 / 12;
        let others = heirs.iter().enumerate().filter(|(host, _)| *host != usize::from(failed));
        for (heir, &rows) in others {
            assert!(
                rows.abs_diff(share) < 4 * share.isqrt(),
                "{failed} → {heir}: {rows} rows, even: {share}"
            );
        }
    }
}

#[test]
fn no_heir_of_one_of_a_thousand_gets_more_than_chance_gives() {
    let hosts = fleet(1000);
    let members = members(&hosts);
    let primary = populate(&members, 0, 65537).unwrap();
    let backup = backups(&members, 0, &primary);
    let mut heirs: BTreeMap<(u16, u16), u32> = BTreeMap::new();
    primary.iter().zip(&backup).for_each(|pair| *heirs.entry((*pair.0, *pair.1)).or_default() += 1);
    // 65 rows over 999 others, a thousand times: pure chance makes it 5.
    let most = heirs.values().max().unwrap();
    assert!(*most <= 5, "{most}");
}

#[test]
fn a_backup_changes_only_where_a_row_does_that_names_it() {
    let (before, after) = (fleet(100), fleet(101));
    let names = |hosts: &BTreeMap<String, u32>| {
        let members = members(hosts);
        let primary = populate(&members, 0, 65537).unwrap();
        let backup = backups(&members, 0, &primary);
        let name = |host: &u16| members[usize::from(*host)].name.to_owned();
        let named = primary.iter().map(name).zip(backup.iter().map(name));
        named.collect::<Vec<_>>()
    };
    let (before, after) = (names(&before), names(&after));
    let pairs = || before.iter().zip(&after);
    let moved = pairs().filter(|(before, after)| before.0 != after.0).count();
    let renamed = pairs().filter(|(before, after)| before.0 == after.0 && before.1 != after.1).count();
    assert!(renamed < 2 * moved, "{moved} rows moved, {renamed} others have another backup");
}

#[test]
fn a_single_host_has_no_backup() {
    let hosts = fleet(1);
    assert_eq!(backups(&members(&hosts), 7, &[0; 251]), [NOBODY; 251]);
}
