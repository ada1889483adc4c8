//! Populations that were made before, to make the next ones from.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};

use super::backup::Backups;
use super::grow::{self, grow};
use super::maglev::{Member, Population, TableError};
use super::owners::{self, NO_OWNER, Table};
use super::parallel;
use super::roots::{DEPTH, Roots, Taken};
use crate::model::Generation;

/// The populations of the generations of a table, and what is needed to make the next ones of them.
///
/// What is made with them is what would be made without: a set of hosts that is here is not populated again, and one that has
/// a few more hosts grows from the one that is here.
#[derive(Default)]
pub struct Made {
    seed: u64,
    size: u32,
    populated: Vec<Populated>,
    /// What is not in force any more: to give its memory back takes time.
    past: Vec<Populated>,
}

/// A set of hosts on their rows.
struct Populated {
    /// Weights by name.
    hosts: BTreeMap<String, u32>,
    owners: Vec<u16>,
    backups: Vec<u16>,
    /// If it was not grown, and until there are roots.
    turns: Option<Vec<u32>>,
    roots: Option<Roots>,
}

impl Made {
    /// The rows over `generations`: see [`owners::rows`]. Keeps the populations of these alone.
    pub fn rows(
        &mut self,
        generations: &[Generation],
        seed: u64,
        size: u32,
        slots: &BTreeMap<String, u16>,
    ) -> Result<Table, TableError> {
        let sets = generations.iter().map(|generation| &generation.hosts);
        let sets: Vec<_> = sets.filter(|hosts| !hosts.is_empty()).collect();
        let [first, others @ ..] = sets.as_slice() else { return Err(TableError::NoHosts) };
        if (self.seed, self.size) != (seed, size) {
            *self = Made { seed, size, ..Made::default() };
        }
        self.populate(&sets)?;
        let layer = |hosts: &BTreeMap<String, u32>| {
            let populated = self.of(hosts)?;
            let slot = |name| slots.get(name).copied().unwrap_or(NO_OWNER);
            Some(owners::Layer {
                owners: &populated.owners,
                backups: &populated.backups,
                slots: hosts.keys().map(slot).collect(),
            })
        };
        let others: Vec<_> = others.iter().filter_map(|hosts| layer(hosts)).collect();
        Ok(owners::join(&layer(first).ok_or(TableError::NoHosts)?, &others))
    }

    /// Makes ready for hosts that are added, which takes longer than to populate anew: for when nobody waits. On the way
    /// what was grown is held against what is made anew; false if they differ, which only a mistake in here explains:
    /// then all is forgotten, and the table is to be made again.
    #[must_use]
    pub fn prepare(&mut self) -> bool {
        self.past.clear();
        for populated in self.populated.iter_mut().filter(|populated| populated.roots.is_none()) {
            let members = members(&populated.hosts);
            let turns = match populated.turns.take() {
                Some(turns) => turns,
                None => match Population::new(&members, self.seed, self.size) {
                    Ok(anew) if anew.owners == populated.owners => anew.turns,
                    _ => {
                        *self = Made::default();
                        return false;
                    }
                },
            };
            let taken = Taken { owners: &populated.owners, turns };
            populated.roots = Some(Roots::new(&members, self.seed, taken, DEPTH));
        }
        true
    }

    fn of(&self, hosts: &BTreeMap<String, u32>) -> Option<&Populated> {
        self.populated.iter().find(|populated| populated.hosts == *hosts)
    }

    /// Makes what is missing of `sets`, all at once, and forgets what is none of them.
    fn populate(&mut self, sets: &[&BTreeMap<String, u32>]) -> Result<(), TableError> {
        let mut missing: Vec<_> = sets.iter().copied().filter(|hosts| self.of(hosts).is_none()).collect();
        missing.sort();
        missing.dedup();
        let made = &*self;
        let new = thread::scope(|scope| {
            let (last, others) = missing.split_last()?;
            let others: Vec<_> = others.iter().map(|hosts| scope.spawn(|| made.make(hosts))).collect();
            let last = made.make(last);
            let joined =
                |made: ScopedJoinHandle<'_, _>| made.join().unwrap_or_else(|panic| resume_unwind(panic));
            Some(others.into_iter().map(joined).chain([last]).collect::<Result<Vec<_>, _>>())
        });
        let new = new.transpose()?;
        self.past = self.populated.extract_if(.., |populated| !sets.contains(&&populated.hosts)).collect();
        self.populated.extend(new.into_iter().flatten());
        Ok(())
    }

    fn make(&self, hosts: &BTreeMap<String, u32>) -> Result<Populated, TableError> {
        let members = members(hosts);
        let (owners, turns) = match self.grown(&members)? {
            Some(owners) => (owners, None),
            None => {
                let Population { owners, turns } = Population::new(&members, self.seed, self.size)?;
                (owners, Some(turns))
            }
        };
        let backups = Backups::new(&members, self.seed, &owners);
        let backups = parallel::rows(self.size as usize, |row| backups.of(row as u32));
        Ok(Populated { hosts: hosts.clone(), owners, backups, turns, roots: None })
    }

    /// From the one that lacks the least hosts.
    fn grown(&self, members: &[Member<'_>]) -> Result<Option<Vec<u16>>, TableError> {
        let mut from: Vec<_> = self.populated.iter().collect();
        from.sort_by_key(|populated| Reverse(populated.hosts.len()));
        for Populated { hosts, owners, roots, .. } in from {
            let Some(roots) = roots else { continue };
            let from = grow::From { members: &self::members(hosts), owners, roots };
            if let Some(grown) = grow(from, members, self.seed)? {
                return Ok(Some(grown));
            }
        }
        Ok(None)
    }
}

fn members(hosts: &BTreeMap<String, u32>) -> Vec<Member<'_>> {
    hosts.iter().map(|(name, &weight)| Member { name, weight }).collect()
}

#[cfg(test)]
#[path = "made_tests.rs"]
mod tests;
