//! The tables of pools, as far as they are not in the kernel yet.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use lb_common::maps;
use tracing::error;

use super::{PoolTable, Pools, kernel_key};
use crate::dataplane::tables::NewTable;
use crate::dataplane::{Error, Result};
use crate::model::{Generation, HostId, Model, Pool};
use crate::table::{self, Recipe};

/// How long a sync may take longer so that the next one is faster. What is left over is done after the next ones.
const PREPARING: Duration = Duration::from_millis(100);

/// Of tables with more rows, one more is kept in spare: to write that many takes longer than to compute what changes.
const SPARE_FROM: u32 = 131_072;

/// A table like the one in force, that no slot has: when hosts come, only the rows that change are written.
pub(super) struct Spare {
    table: NewTable,
    seed: u64,
    size: u32,
    generations: Vec<Generation>,
    slots: BTreeMap<String, u16>,
}

impl Pools {
    /// Takes out what the tables of pools that have changed are to be made of.
    pub(super) fn take_changing(&mut self, model: &Model) -> BTreeMap<String, table::Made> {
        let changing = model.pools.iter().filter(|(name, pool)| self.stays(name, pool).is_none());
        let changing: Vec<&String> = changing.map(|(name, _)| name).collect();
        changing.into_iter().map(|name| (name.clone(), self.made.remove(name).unwrap_or_default())).collect()
    }

    /// Makes or finds the table of each pool. A table in force is never touched: a new one goes to a free slot.
    pub fn write_tables(&mut self, model: &Model) -> Result<BTreeMap<String, PoolTable>> {
        let mut next: BTreeMap<String, PoolTable> = BTreeMap::new();
        self.made.retain(|name, _| model.pools.contains_key(name));
        self.spares.retain(|name, _| model.pools.contains_key(name));
        let mut taken = self.slots_in_services();
        // Also those of pools that no service uses: one may use them later.
        next.extend(
            model
                .pools
                .iter()
                .filter_map(|(name, pool)| Some((name.clone(), self.stays(name, pool)?.clone()))),
        );
        taken.extend(next.values().map(|have| have.slot));
        for (name, pool) in &model.pools {
            if next.contains_key(name) {
                continue;
            }
            let slot = match self.changed(name, pool)? {
                Some(table) => self.put_new(&taken, table)?,
                None => self.write_table(model, name, pool, &taken)?,
            };
            taken.insert(slot);
            next.insert(name.clone(), PoolTable { slot, made_of: pool.clone(), digest: None });
        }
        Ok(next)
    }

    /// The table of the pool in force, if it is the wanted one.
    fn stays(&self, name: &String, pool: &Pool) -> Option<&PoolTable> {
        self.in_force.get(name).filter(|have| have.made_of == *pool)
    }

    /// The spare table, if a few rows make it the wanted one.
    fn changed(&mut self, name: &str, pool: &Pool) -> Result<Option<NewTable>> {
        let slots = self.slots_of(name);
        let (Some(spare), Some(made)) = (self.spares.get(name), self.made.get_mut(name)) else {
            return Ok(None);
        };
        let Spare { seed, size, generations, slots: had, .. } = spare;
        let from = Recipe { generations, seed: *seed, size: *size, slots: had };
        let changes = made.changes(from, recipe(pool, &pool.generations(), &slots));
        let changes = changes.map_err(|source| Error::Pool { pool: name.into(), source })?;
        let Some(changes) = changes else { return Ok(None) };
        let Some(Spare { table, .. }) = self.spares.remove(name) else { return Ok(None) };
        if table.change(&changes) { Ok(Some(table)) } else { Err(Error::Written { pool: name.into() }) }
    }

    /// Writes all rows of a table, unless they are there. Returns its slot.
    fn write_table(&mut self, model: &Model, name: &str, pool: &Pool, taken: &BTreeSet<u32>) -> Result<u32> {
        let spare = self.spares.remove(name).filter(|spare| spare.size == pool.size);
        // The kernel clears memory while the rows are computed.
        let (new, rows) = thread::scope(|scope| {
            let new = scope.spawn(|| spare.map_or_else(|| NewTable::new(pool.size), |spare| Ok(spare.table)));
            let rows = self.rows(name, pool);
            (new.join().unwrap_or_else(|panic| resume_unwind(panic)), rows)
        });
        let rows = rows?;
        if let Some(slot) = self.adopted_slot(model, name, &rows)? {
            return Ok(slot);
        }
        let new = new?;
        new.fill(&rows);
        let slot = self.put_new(taken, new)?;
        if self.tables.holds(slot, &rows)? { Ok(slot) } else { Err(Error::Written { pool: name.into() }) }
    }

    /// Puts the table into a slot that is not taken.
    fn put_new(&mut self, taken: &BTreeSet<u32>, table: NewTable) -> Result<u32> {
        let room = self.tables.capacity();
        let free = (0..room).find(|slot| !taken.contains(slot));
        let slot = free.ok_or_else(|| self.full("tables", room as usize + 1, room, "tables"))?;
        self.tables.put_new(slot, table)?;
        Ok(slot)
    }

    /// Slots of the hosts of a pool.
    fn slots_of(&self, pool: &str) -> BTreeMap<String, u16> {
        let first = HostId { pool: pool.into(), host: String::new() };
        let from_there = self.named.range(first..).take_while(|(id, _)| id.pool == pool);
        from_there.map(|(id, slot)| (id.host.clone(), *slot)).collect()
    }

    fn rows(&mut self, name: &str, pool: &Pool) -> Result<Vec<maps::Row>> {
        let generations = pool.generations();
        if generations.iter().all(|generation| generation.hosts.is_empty()) {
            return Ok(vec![maps::EMPTY_ROW; pool.size as usize]);
        }
        let slots = self.slots_of(name);
        let made = self.made.entry(name.into()).or_default();
        let table = made.rows(recipe(pool, &generations, &slots));
        table.map(|table| table.rows).map_err(|source| Error::Pool { pool: name.into(), source })
    }

    /// The table that the pool's services in the kernel name already, if it is the wanted one. Only an agent before this one
    /// can have left it there.
    fn adopted_slot(&self, model: &Model, name: &str, rows: &[maps::Row]) -> Result<Option<u32>> {
        if self.in_force.contains_key(name) {
            return Ok(None);
        }
        let of_pool = model.services.iter().filter(|(_, service)| service.pool == name);
        let named = of_pool.filter_map(|(key, _)| self.services.get(&kernel_key(key)));
        let tables: BTreeSet<u32> = named.map(|service| service.table).collect();
        for table in tables {
            if self.tables.holds(table, rows)? {
                return Ok(Some(table));
            }
        }
        Ok(None)
    }

    /// Waits until no program reads a table that was replaced, and makes ready for hosts that are added meanwhile.
    pub(super) fn finish_tables(&mut self) -> Result<()> {
        let start = Instant::now();
        let (tables, made) = (&mut self.tables, &mut self.made);
        let (finished, mut unsound) = thread::scope(|scope| {
            let preparing = scope.spawn(|| prepare(made, start));
            let finished = tables.finish();
            (finished, preparing.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        unsound.extend(self.prepare_spares(start)?);
        for name in unsound {
            error!(
                pool = name,
                "a table that grew differs from one made anew: it is made anew at the next change"
            );
            self.in_force.remove(&name);
            self.spares.remove(&name);
        }
        finished
    }

    /// Makes spare tables where they are worth their memory. Returns pools whose tables in force turn out to be wrong.
    fn prepare_spares(&mut self, start: Instant) -> Result<Vec<String>> {
        let mut unsound = Vec::new();
        let lacking = |(name, table): &(&String, &PoolTable)| {
            table.made_of.size > SPARE_FROM && !self.spares.contains_key(*name)
        };
        let pools: Vec<_> =
            self.in_force.iter().filter(lacking).map(|(n, t)| (n.clone(), t.clone())).collect();
        for (name, PoolTable { slot, made_of, .. }) in pools {
            if start.elapsed() >= PREPARING {
                break;
            }
            let rows = self.rows(&name, &made_of)?;
            if !self.tables.holds(slot, &rows)? {
                unsound.push(name);
                continue;
            }
            let table = NewTable::new(made_of.size)?;
            table.fill(&rows);
            let slots = self.slots_of(&name);
            let generations = made_of.generations();
            let spare = Spare { table, seed: made_of.seed, size: made_of.size, generations, slots };
            self.spares.insert(name, spare);
        }
        Ok(unsound)
    }

    /// Memory of all tables, those in spare too.
    pub(super) fn bytes_of_tables(&self) -> Result<u64> {
        let spares = self.spares.values().map(|spare| spare.table.bytes()).sum::<Result<u64>>()?;
        Ok(self.tables.bytes()? + spares)
    }
}

fn recipe<'a>(pool: &Pool, generations: &'a [Generation], slots: &'a BTreeMap<String, u16>) -> Recipe<'a> {
    Recipe { generations, seed: pool.seed, size: pool.size, slots }
}

/// Begins the tables of these pools. What is wrong with one is told when its rows are made.
pub(super) fn begin(made: &mut BTreeMap<String, table::Made>, model: &Model) {
    for (pool, made) in made.iter_mut().filter_map(|(name, made)| Some((model.pools.get(name)?, made))) {
        let _ = made.begin(&pool.generations(), pool.seed, pool.size);
    }
}

/// Pools that turn out to be wrong.
fn prepare(made: &mut BTreeMap<String, table::Made>, start: Instant) -> Vec<String> {
    let in_time = made.iter_mut().take_while(|_| start.elapsed() < PREPARING);
    in_time.filter_map(|(name, made)| (!made.prepare()).then(|| name.clone())).collect()
}
