//! The rows that BPF programs read: the owners of each row over the generations in force, and their digest.

use std::collections::BTreeMap;

use lb_common::digest;
pub use lb_common::maps::{NO_OWNER, OWNERS, Row};
use siphasher::sip::SipHasher24;

use super::maglev::{self, Member, NOBODY, TableError};

/// One set of hosts eligible for new connections, with their weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Weight by stable name.
    pub hosts: BTreeMap<String, u32>,
}

/// What [`rows`] makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The rows, as the BPF programs read them.
    pub rows: Vec<Row>,
    /// Rows that have more owners than fit: the backup or the oldest owners are left out there.
    pub crowded: usize,
}

/// The rows over `generations`, newest first, all of the same seed and size.
///
/// A row's owners are the distinct hosts that own it in these generations, newest first, then the backup of the newest.
/// Places hold the slots that `slots` gives for names. Backup and primary differ; a generation of one host has no
/// backup.
pub fn rows(
    generations: &[Generation],
    seed: u64,
    size: u32,
    slots: &BTreeMap<String, u16>,
) -> Result<Table, TableError> {
    let newest = generations.first().ok_or(TableError::NoGenerations)?;
    let mut layers = generations
        .iter()
        .map(|generation| Layer::new(generation, slots, |members| maglev::populate(members, seed, size)))
        .collect::<Result<Vec<_>, _>>()?;
    let backup = Layer::new(newest, slots, |members| maglev::backup(members, seed, size, &layers[0].owners))?;
    layers.push(backup);

    let mut table = Table { rows: vec![[NO_OWNER; OWNERS]; size as usize], crowded: 0 };
    for (number, row) in table.rows.iter_mut().enumerate() {
        let owners = layers.iter().filter_map(|layer| layer.slot(number));
        let lost = owners.filter(|slot| !push(row, *slot)).count();
        table.crowded += usize::from(lost > 0);
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

/// One population: an index per row, and the slots that the indices mean.
struct Layer {
    owners: Vec<u16>,
    slots: Vec<u16>,
}

impl Layer {
    fn new(
        generation: &Generation,
        slots: &BTreeMap<String, u16>,
        populate: impl FnOnce(&[Member<'_>]) -> Result<Vec<u16>, TableError>,
    ) -> Result<Self, TableError> {
        let members: Vec<_> =
            generation.hosts.iter().map(|(name, &weight)| Member { name, weight }).collect();
        let slot = |name: &str| slots.get(name).copied().filter(|slot| *slot != NO_OWNER);
        let slots = members.iter().map(|m| slot(m.name).ok_or_else(|| TableError::NoSlot(m.name.into())));
        Ok(Layer { slots: slots.collect::<Result<_, _>>()?, owners: populate(&members)? })
    }

    fn slot(&self, row: usize) -> Option<u16> {
        let owner = self.owners[row];
        (owner != NOBODY).then(|| self.slots[usize::from(owner)])
    }
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
