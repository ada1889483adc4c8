//! The rows that BPF programs read: the owners of each row over the generations in force, and their digest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use lb_common::digest;
use lb_common::maps::EMPTY_ROW;
pub use lb_common::maps::{NO_OWNER, OWNERS, Row};
use siphasher::sip::SipHasher24;

use super::made::{Made, Recipe};
use super::maglev::TableError;
use super::parallel;
use crate::model::Generation;

/// What [`rows`] makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The rows, as the BPF programs read them.
    pub rows: Vec<Row>,
    /// Rows that leave the owner of a whole generation out, for want of room: its connections are not covered there.
    pub crowded: usize,
    /// Rows that leave only a backup out: what went to it while its primary failed is not covered there.
    pub tight: usize,
}

/// The rows over `generations`, in order of precedence, all of the same seed and size.
///
/// A row's owners are the distinct hosts that own it in these generations, in that order, then their backups in the same
/// order, as far as there is room; of those, the backup of the first generation takes the second place, so that what it
/// stands in for goes to nobody who is only prepared. Places hold the slots that `slots` gives for names; a host without one is gone, and its
/// places go to nobody. A generation without hosts owns nothing. Backup and primary differ; a generation of one host has
/// no backup.
pub fn rows(
    generations: &[Generation],
    seed: u64,
    size: u32,
    slots: &BTreeMap<String, u16>,
) -> Result<Table, TableError> {
    Made::default().rows(Recipe { generations, seed, size, slots })
}

/// The slots of each row's host and of its backup, by one generation.
pub(super) struct Layer<'a> {
    /// By row, as indices into `slots`.
    pub owners: &'a [u16],
    /// By row; what is no index is nobody.
    pub backups: &'a [u16],
    pub slots: Vec<u16>,
}

impl Layer<'_> {
    #[inline]
    fn pair(&self, row: usize) -> (u16, u16) {
        let slot = |host: u16| self.slots.get(usize::from(host)).copied().unwrap_or(NO_OWNER);
        (slot(self.owners[row]), slot(self.backups[row]))
    }
}

/// The rows over `first` and what follows it in precedence.
pub(super) fn join(first: &Layer<'_>, others: &[Layer<'_>]) -> Table {
    let [crowded, tight] = [const { AtomicUsize::new(0) }; 2];
    let rows = parallel::rows(first.owners.len(), |number| {
        let (row, lost) = joined(first, others, number);
        match lost {
            Lost::Nobody => {}
            Lost::Host => drop(crowded.fetch_add(1, Relaxed)),
            Lost::Backup => drop(tight.fetch_add(1, Relaxed)),
        }
        row
    });
    Table { rows, crowded: crowded.into_inner(), tight: tight.into_inner() }
}

/// One row of them.
pub(super) fn join_row(first: &Layer<'_>, others: &[Layer<'_>], number: usize) -> Row {
    joined(first, others, number).0
}

#[inline]
fn joined(first: &Layer<'_>, others: &[Layer<'_>], number: usize) -> (Row, Lost) {
    let pair = first.pair(number);
    // Most rows are of the same hosts in all generations.
    if others.iter().all(|other| other.pair(number) == pair) {
        let row = match pair {
            (NO_OWNER, backup) => [backup, NO_OWNER, NO_OWNER, NO_OWNER],
            (host, backup) => [host, backup, NO_OWNER, NO_OWNER],
        };
        return (row, Lost::Nobody);
    }
    over_all(pair, others.iter().map(|other| other.pair(number)))
}

/// For whom there is no room.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Lost {
    Nobody,
    Backup,
    Host,
}

fn over_all(first: (u16, u16), others: impl Iterator<Item = (u16, u16)> + Clone) -> (Row, Lost) {
    let (mut row, mut lost) = (EMPTY_ROW, Lost::Nobody);
    let all = || [first].into_iter().chain(others.clone());
    let owners =
        all().map(|(host, _)| (host, Lost::Host)).chain(all().map(|(_, backup)| (backup, Lost::Backup)));
    for (slot, loss) in owners.filter(|(slot, _)| *slot != NO_OWNER) {
        if !push(&mut row, slot) {
            lost = lost.max(loss);
        }
    }
    let (_, backup) = first;
    if backup != NO_OWNER
        && let Some(place) = row.iter().position(|slot| *slot == backup).filter(|place| *place > 1)
    {
        row[1..=place].rotate_right(1);
    }
    (row, lost)
}

/// The digest of `rows`, independent of slots: `host_of` gives the host id ([`host_id`]) of a slot.
///
/// A BPF program that folds its rows with [`lb_common::digest::step`] finds the same.
pub fn digest(rows: &[Row], host_of: impl Fn(u16) -> u64) -> u64 {
    let value = |slot| if slot == NO_OWNER { digest::NO_HOST } else { host_of(slot) };
    rows.iter().flatten().fold(digest::START, |state, &slot| digest::step(state, value(slot)))
}

/// The id of a host in digests: SipHash-2-4 of its name with fixed keys, never [`lb_common::digest::NO_HOST`].
pub fn host_id(name: &str) -> u64 {
    const KEYS: (u64, u64) = (u64::from_be_bytes(*b"lb hosts"), u64::from_be_bytes(*b"identity"));
    SipHasher24::new_with_keys(KEYS.0, KEYS.1).hash(name.as_bytes()).max(1)
}

/// Appends an owner unless it is there; false if there is no room.
fn push(row: &mut Row, slot: u16) -> bool {
    match row.iter_mut().find(|place| **place == slot || **place == NO_OWNER) {
        Some(place) => {
            *place = slot;
            true
        }
        None => false,
    }
}

#[cfg(test)]
#[path = "owners_tests.rs"]
mod tests;
