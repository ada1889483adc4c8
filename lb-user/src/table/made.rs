//! Populations that were made before, to make the next ones from.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};

use super::backup::{Backups, Found};
use super::grow::{self, grow};
use super::maglev::{Member, NOBODY, Population, TableError};
use super::owners::{self, Layer, NO_OWNER, Row, Table};
use super::parallel;
use super::roots::{DEPTH, Roots, Taken};
use crate::model::Generation;

/// What the rows of a table are made of.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// In order of precedence.
    pub generations: &'a [Generation],
    /// Of all generations.
    pub seed: u64,
    /// Rows: a prime.
    pub size: u32,
    /// Of hosts, by name. A host without one is gone.
    pub slots: &'a BTreeMap<String, u16>,
}

/// Weights by name.
type Hosts = BTreeMap<String, u32>;

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
    hosts: Arc<Hosts>,
    owners: Vec<u16>,
    backups: Vec<u16>,
    /// If it was not grown, and until it is ready.
    turns: Option<Vec<u32>>,
    /// If it was grown, and until it is ready.
    grown: Option<Step>,
    ready: Option<Ready>,
}

/// From one set of hosts to another.
struct Step {
    from: Arc<Hosts>,
    /// In order: those whose host or backup may be another one. All others have the same.
    rows: Vec<u32>,
}

/// What growing begins with.
struct Ready {
    roots: Roots,
    found: Found,
}

impl Made {
    /// The rows, see [`owners::rows`]. Keeps the populations of these alone.
    pub fn rows(&mut self, recipe: Recipe<'_>) -> Result<Table, TableError> {
        let sets = self.populate(recipe.generations, recipe.seed, recipe.size)?;
        let (first, others) = self.layers(&sets, recipe.slots).ok_or(TableError::NoHosts)?;
        Ok(owners::join(&first, &others))
    }

    /// The rows of `to` that may differ from those of `from`, if they are few and known: if hosts came in the first
    /// generation of `to`, which is else like the one of `from`, and nothing else is different but that one, which may
    /// have become another of the generations or have gone.
    pub fn changes(
        &mut self,
        from: Recipe<'_>,
        to: Recipe<'_>,
    ) -> Result<Option<Vec<(u32, Row)>>, TableError> {
        let [before, now] = [from, to].map(|recipe| sets(recipe.generations));
        let (Some(old), Some(new)) = (before.first(), now.first()) else { return Ok(None) };
        let is_other = |set: &&&Hosts| *set != old;
        let [were, are] = [&before, &now].map(|sets| sets[1..].iter().filter(is_other));
        if (from.seed, from.size) != (to.seed, to.size)
            || !were.eq(are)
            || !keep_slots(&before, from.slots, to.slots)
        {
            return Ok(None);
        }
        self.populate(to.generations, to.seed, to.size)?;
        let grown = self.of(new).and_then(|populated| populated.grown.as_ref());
        let Some(step) = grown.filter(|step| *step.from == **old) else { return Ok(None) };
        let Some((first, others)) = self.layers(&now, to.slots) else { return Ok(None) };
        let row = |row: &u32| (*row, owners::join_row(&first, &others, *row as usize));
        Ok(Some(step.rows.iter().map(row).collect()))
    }

    /// Makes ready for hosts that are added, which takes longer than to populate anew: for when nobody waits. On the way
    /// what was grown is held against what is made anew; false if they differ, which only a mistake in here explains:
    /// then all is forgotten, and the table is to be made again.
    #[must_use]
    pub fn prepare(&mut self) -> bool {
        self.past.clear();
        for populated in self.populated.iter_mut().filter(|populated| populated.ready.is_none()) {
            let members = members(&populated.hosts);
            populated.grown = None;
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
            let found = Found::new(&Backups::new(&members, self.seed, &populated.owners));
            let taken = Taken { owners: &populated.owners, turns };
            let roots = Roots::new(&members, self.seed, taken, DEPTH);
            populated.ready = Some(Ready { roots, found });
        }
        true
    }

    fn of(&self, hosts: &Hosts) -> Option<&Populated> {
        self.populated.iter().find(|populated| *populated.hosts == *hosts)
    }

    /// The first of `sets` and the others, which are populated.
    fn layers(&self, sets: &[&Hosts], slots: &BTreeMap<String, u16>) -> Option<(Layer<'_>, Vec<Layer<'_>>)> {
        let layer = |hosts: &Hosts| {
            let Populated { owners, backups, .. } = self.of(hosts)?;
            let slot = |name| slots.get(name).copied().unwrap_or(NO_OWNER);
            Some(Layer { owners, backups, slots: hosts.keys().map(slot).collect() })
        };
        let (first, others) = sets.split_first()?;
        Some((layer(first)?, others.iter().map(|hosts| layer(hosts)).collect::<Option<_>>()?))
    }

    /// Makes the populations that rows and changes will be made of, for which slots need not be known.
    pub fn begin(&mut self, generations: &[Generation], seed: u64, size: u32) -> Result<(), TableError> {
        self.populate(generations, seed, size).map(drop)
    }

    /// Makes what is missing of the sets of hosts, all at once, and forgets what is none of them.
    fn populate<'a>(
        &mut self,
        generations: &'a [Generation],
        seed: u64,
        size: u32,
    ) -> Result<Vec<&'a Hosts>, TableError> {
        let sets = sets(generations);
        if sets.is_empty() {
            return Err(TableError::NoHosts);
        }
        if (self.seed, self.size) != (seed, size) {
            *self = Made { seed, size, ..Made::default() };
        }
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
        let past = self.populated.extract_if(.., |populated| !sets.contains(&&*populated.hosts));
        let past: Vec<_> = past.collect();
        if !past.is_empty() {
            self.past = past;
        }
        self.populated.extend(new.into_iter().flatten());
        Ok(sets)
    }

    fn make(&self, hosts: &Hosts) -> Result<Populated, TableError> {
        let members = members(hosts);
        if let Some(grown) = self.grown(hosts, &members)? {
            return Ok(grown);
        }
        let Population { owners, turns } = Population::new(&members, self.seed, self.size)?;
        let backups = Backups::new(&members, self.seed, &owners);
        let backups = parallel::rows(self.size as usize, |row| backups.of(row as u32));
        let hosts = Arc::new(hosts.clone());
        Ok(Populated { hosts, owners, backups, turns: Some(turns), grown: None, ready: None })
    }

    /// From the one that lacks the least hosts.
    fn grown(&self, hosts: &Hosts, members: &[Member<'_>]) -> Result<Option<Populated>, TableError> {
        let mut from: Vec<_> = self.populated.iter().collect();
        from.sort_by_key(|populated| Reverse(populated.hosts.len()));
        for old in from {
            let Some(Ready { roots, found }) = &old.ready else { continue };
            let before = &self::members(&old.hosts);
            let Some(places) = grow::places(before, members) else { continue };
            let place = |host: &u16| places.get(usize::from(*host)).copied().unwrap_or(NOBODY);
            let mut owners = vec![NOBODY; old.owners.len()];
            let mut backups = vec![NOBODY; old.backups.len()];
            let rename = || {
                for (new, old) in [(&mut owners, &old.owners), (&mut backups, &old.backups)] {
                    new.iter_mut().zip(old).for_each(|(new, old)| *new = place(old));
                }
            };
            let from = grow::From { members: before, roots, places: &places };
            let moved = parallel::both(old.owners.len(), rename, || grow(from, members, self.seed))?;
            let Some(moved) = moved else { continue };
            moved.iter().for_each(|(row, host)| owners[*row as usize] = *host);
            let rows = found.may_differ(moved.iter().map(|(row, _)| *row));
            let anew = Backups::new(members, self.seed, &owners);
            rows.iter().for_each(|row| backups[*row as usize] = anew.of(*row));
            let grown = Some(Step { from: Arc::clone(&old.hosts), rows });
            let hosts = Arc::new(hosts.clone());
            return Ok(Some(Populated { hosts, owners, backups, turns: None, grown, ready: None }));
        }
        Ok(None)
    }
}

/// Those of generations that have hosts.
fn sets(generations: &[Generation]) -> Vec<&Hosts> {
    generations.iter().map(|generation| &generation.hosts).filter(|hosts| !hosts.is_empty()).collect()
}

/// Whether each host of the sets has the slot that it had, or has none as before.
fn keep_slots(sets: &[&Hosts], had: &BTreeMap<String, u16>, have: &BTreeMap<String, u16>) -> bool {
    let is_of_sets = |name: &String| sets.iter().any(|set| set.contains_key(name));
    let mut had = had.iter().filter(|(name, _)| is_of_sets(name));
    // Most are the same, in the same order.
    let mut next = had.next();
    for slot in have {
        if next == Some(slot) {
            next = had.next();
        } else if is_of_sets(slot.0) {
            return false;
        }
    }
    next.is_none()
}

fn members(hosts: &BTreeMap<String, u32>) -> Vec<Member<'_>> {
    hosts.iter().map(|(name, &weight)| Member { name, weight }).collect()
}

#[cfg(test)]
#[path = "made_tests.rs"]
mod tests;
