//! The rows that BPF programs read: the owners of each row over the generations in force, and their digest.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};

use lb_common::digest;
use lb_common::maps::EMPTY_ROW;
pub use lb_common::maps::{NO_OWNER, OWNERS, Row};
use siphasher::sip::SipHasher24;

use super::maglev::{self, Member, NOBODY, TableError};
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
    let with_hosts = generations.iter().filter(|generation| !generation.hosts.is_empty());
    let (primaries, backups) = all_layers(with_hosts.collect(), seed, size, slots)?;
    if primaries.is_empty() {
        return Err(TableError::NoHosts);
    }
    let mut table = Table { rows: vec![EMPTY_ROW; size as usize], crowded: 0, tight: 0 };
    for (number, row) in table.rows.iter_mut().enumerate() {
        let lost = |row: &mut Row, layers: &[Layer]| {
            let slots = layers.iter().map(|layer| layer[number]).filter(|slot| *slot != NO_OWNER);
            slots.fold(false, |lost, slot| !push(row, slot) | lost)
        };
        let crowded = lost(row, &primaries);
        let tight = lost(row, &backups);
        table.crowded += usize::from(crowded);
        table.tight += usize::from(tight && !crowded);
        let backup = backups[0][number];
        if backup != NO_OWNER
            && let Some(place) = row.iter().position(|slot| *slot == backup).filter(|place| *place > 1)
        {
            row[1..=place].rotate_right(1);
        }
    }
    Ok(table)
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

/// The populations of all generations, and their backups. Each takes milliseconds, and needs nothing of the others.
fn all_layers(
    generations: Vec<&Generation>,
    seed: u64,
    size: u32,
    slots: &BTreeMap<String, u16>,
) -> Result<(Vec<Layer>, Vec<Layer>), TableError> {
    let Some((last, others)) = generations.split_last() else { return Ok(Default::default()) };
    let made: Vec<_> = thread::scope(|scope| {
        let others: Vec<_> =
            others.iter().map(|generation| scope.spawn(|| layers(generation, seed, size, slots))).collect();
        let last = layers(last, seed, size, slots);
        let joined = |made: ScopedJoinHandle<'_, _>| made.join().unwrap_or_else(|panic| resume_unwind(panic));
        others.into_iter().map(joined).chain([last]).collect()
    });
    Ok(made.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().unzip())
}

fn layers(
    generation: &Generation,
    seed: u64,
    size: u32,
    slots: &BTreeMap<String, u16>,
) -> Result<(Layer, Layer), TableError> {
    let members: Vec<_> = generation.hosts.iter().map(|(name, &weight)| Member { name, weight }).collect();
    let slots: Vec<_> =
        members.iter().map(|member| slots.get(member.name).copied().unwrap_or(NO_OWNER)).collect();
    let owners = maglev::populate(&members, seed, size)?;
    let backup = maglev::backup(&members, seed, size, &owners)?;
    let slot = |owner: u16| if owner == NOBODY { NO_OWNER } else { slots[usize::from(owner)] };
    let layer = |owners: Vec<u16>| owners.into_iter().map(slot).collect();
    Ok((layer(owners), layer(backup)))
}

/// One population: the slot of each row's host.
type Layer = Vec<u16>;

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
