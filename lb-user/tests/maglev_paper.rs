//! Tables of 1 000 hosts against the figures of the Maglev paper (Eisenbud et al., NSDI 2016, section 5.3): how even they
//! are, and how many rows change that need not. All of it is a pure function of names and sizes, so the bounds are exact.

use std::collections::BTreeMap;

use lb_user::model::Generation;
use lb_user::table::{self, NO_OWNER, Row};

const HOSTS: u32 = 1000;
const SIZES: [u32; 2] = [65537, 655_373];
/// Hosts that leave.
const LEAVE: [u32; 5] = [1, 5, 10, 20, 50];
/// Rows that change besides those that must, in per cent of all, at most: for each size and number of hosts that leave.
const BESIDES: [[f64; 5]; 2] = [[0.6, 1.9, 2.4, 2.8, 3.3], [0.4, 0.5, 0.7, 0.8, 1.0]];

fn rows(hosts: impl Iterator<Item = u32>, size: u32) -> Vec<Row> {
    weighted_rows(hosts.map(|number| (number, 1)), size)
}

fn weighted_rows(hosts: impl Iterator<Item = (u32, u32)>, size: u32) -> Vec<Row> {
    let name = |(number, weight)| (format!("lb7-{number}"), (number as u16, weight));
    let hosts: BTreeMap<String, (u16, u32)> = hosts.map(name).collect();
    let slots = hosts.iter().map(|(name, (slot, _))| (name.clone(), *slot)).collect();
    let generation = Generation {
        number: 1,
        hosts: hosts.into_iter().map(|(name, (_, weight))| (name, weight)).collect(),
    };
    table::rows(&[generation], 0, size, &slots).unwrap().rows
}

/// Rows per host in one place of the rows: the least, the most, and the average.
fn shares(rows: &[Row], place: usize) -> (f64, f64) {
    let mut counts = vec![0_u32; HOSTS as usize];
    rows.iter().filter(|row| row[place] != NO_OWNER).for_each(|row| counts[usize::from(row[place])] += 1);
    let average = rows.len() as f64 / f64::from(HOSTS);
    let of = |count: Option<&u32>| f64::from(*count.unwrap()) / average;
    (of(counts.iter().min()), of(counts.iter().max()))
}

#[test]
fn a_thousand_hosts_have_even_shares() {
    for size in SIZES {
        let rows = rows(0..HOSTS, size);
        let ((least, most), backup) = (shares(&rows, 0), shares(&rows, 1));
        println!(
            "figure: {size} rows, {HOSTS} hosts: least ÷ average {least:.4}, most ÷ average {most:.4}; as backups {:.4}, {:.4}",
            backup.0, backup.1
        );
        // Hosts take turns: none has two rows more than another.
        let one_row = f64::from(HOSTS) / f64::from(size);
        assert!(most - least <= one_row + 1e-9);
        // Backups are picked as if at random: within four deviations.
        let random = 4.0 * one_row.sqrt();
        assert!(backup.0 > 1.0 - random && backup.1 < 1.0 + random, "{backup:?}");
    }
}

#[test]
fn few_rows_change_that_need_not_when_hosts_leave() {
    for (size, bounds) in SIZES.into_iter().zip(BESIDES) {
        let before = rows(0..HOSTS, size);
        for (leave, bound) in LEAVE.into_iter().zip(bounds) {
            // Hosts from all over the order of names.
            let gone = |number: u32| number % (HOSTS / leave) == HOSTS / leave / 2;
            assert_eq!((0..HOSTS).filter(|number| gone(*number)).count(), leave as usize);
            let after = rows((0..HOSTS).filter(|number| !gone(*number)), size);
            let must = before.iter().filter(|row| gone(row[0].into())).count();
            let changed = before.iter().zip(&after).filter(|(before, after)| before[0] != after[0]).count();
            let besides = (changed - must) as f64 / f64::from(size) * 100.0;
            println!(
                "figure: {size} rows, {leave} of {HOSTS} hosts leave: {:.2} % must change, {besides:.2} % change besides",
                must as f64 / f64::from(size) * 100.0
            );
            assert!(besides < bound, "{leave} leave: {besides} %");
        }
    }
}

/// The changed host gains or loses the difference of its shares; the others give it or get it, and that is all that must
/// change. What changes besides are rows that go from one of the others to another one, which is bounded here.
#[test]
fn few_rows_change_that_need_not_when_one_weight_changes() {
    const HOST: u32 = 500;
    // In per cent of all rows, for each size and change.
    const BESIDES: [[f64; 4]; 2] = [[0.4, 0.05, 0.8, 2.0], [0.35, 0.05, 0.45, 0.6]];
    let weights = |weight| (0..HOSTS).map(move |number| (number, if number == HOST { weight } else { 100 }));
    for (size, bounds) in SIZES.into_iter().zip(BESIDES) {
        let before = weighted_rows(weights(100), size);
        for (weight, bound) in [50, 101, 200, 500].into_iter().zip(bounds) {
            let after = weighted_rows(weights(weight), size);
            let of = |row: &Row| u32::from(row[0]) == HOST;
            let [had, has] = [&before, &after].map(|rows| rows.iter().filter(|row| of(row)).count());
            let pairs = || before.iter().zip(&after).filter(|(before, after)| before[0] != after[0]);
            let besides = pairs().filter(|(before, after)| !of(before) && !of(after)).count();
            let gained = pairs().filter(|(_, after)| of(after)).count();
            let lost = pairs().filter(|(before, _)| of(before)).count();
            let per_cent = |rows: usize| rows as f64 / f64::from(size) * 100.0;
            println!(
                "figure: {size} rows, one of {HOSTS} weights from 100 to {weight}: {had} rows become {has}, it gains {gained} and \
                 loses {lost}; {:.3} % change among others",
                per_cent(besides)
            );
            assert_eq!(has + lost, had + gained);
            assert!(per_cent(besides) < bound, "{weight}: {} %", per_cent(besides));
            // It hardly swaps rows: it keeps what it can.
            assert!(per_cent(gained.min(lost)) < 0.02, "{weight}: gains {gained}, loses {lost}");
        }
    }
}
