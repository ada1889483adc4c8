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
use crate::model::{HostId, Model, Pool};
use crate::table;

/// How long a sync may take longer so that the next one is faster. What is left over is done after the next ones.
const PREPARING: Duration = Duration::from_millis(100);

impl Pools {
    /// Makes or finds the table of each pool. A table in force is never touched: a new one goes to a free slot.
    pub fn write_tables(&mut self, model: &Model) -> Result<BTreeMap<String, PoolTable>> {
        let mut next: BTreeMap<String, PoolTable> = BTreeMap::new();
        self.made.retain(|name, _| model.pools.contains_key(name));
        let mut taken = self.slots_in_services();
        // Also those of pools that no service uses: one may use them later.
        next.extend(
            model.pools.iter().filter_map(|(name, pool)| Some((name.clone(), self.stays(name, pool)?))),
        );
        taken.extend(next.values().map(|have| have.slot));
        for (name, pool) in &model.pools {
            if next.contains_key(name) {
                continue;
            }
            // The kernel clears memory while the rows are computed.
            let (new, rows) = thread::scope(|scope| {
                let new = scope.spawn(|| NewTable::new(pool.size));
                let rows = self.rows(name, pool);
                (new.join().unwrap_or_else(|panic| resume_unwind(panic)), rows)
            });
            let rows = rows?;
            let slot = match self.adopted_slot(model, name, &rows)? {
                Some(slot) => slot,
                None => {
                    let room = self.tables.capacity();
                    let free = (0..room).find(|slot| !taken.contains(slot));
                    let slot = free.ok_or_else(|| self.full("tables", room as usize + 1, room, "tables"))?;
                    self.tables.put_new(slot, new?, &rows)?;
                    if !self.tables.holds(slot, &rows)? {
                        return Err(Error::Written { pool: name.clone() });
                    }
                    slot
                }
            };
            taken.insert(slot);
            next.insert(name.clone(), PoolTable { slot, made_of: pool.clone(), digest: None });
        }
        Ok(next)
    }

    /// The table of the pool in force, if it is the wanted one.
    fn stays(&self, name: &String, pool: &Pool) -> Option<PoolTable> {
        self.in_force.get(name).filter(|have| have.made_of == *pool).cloned()
    }

    fn rows(&mut self, name: &str, pool: &Pool) -> Result<Vec<maps::Row>> {
        let generations = pool.generations();
        if generations.iter().all(|generation| generation.hosts.is_empty()) {
            return Ok(vec![maps::EMPTY_ROW; pool.size as usize]);
        }
        let slots = pool.hosts.keys().filter_map(|host| {
            let id = HostId { pool: name.into(), host: host.clone() };
            Some((id.host.clone(), *self.named.get(&id)?))
        });
        let slots = slots.collect();
        let made = self.made.entry(name.into()).or_default();
        let table = made.rows(&generations, pool.seed, pool.size, &slots);
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
        let (tables, made) = (&mut self.tables, &mut self.made);
        let (finished, unsound) = thread::scope(|scope| {
            let preparing = scope.spawn(|| prepare(made));
            let finished = tables.finish();
            (finished, preparing.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        for name in unsound {
            error!(
                pool = name,
                "a table that grew differs from one made anew: it is made anew at the next change"
            );
            self.in_force.remove(&name);
        }
        finished
    }
}

/// Pools that turn out to be wrong.
fn prepare(made: &mut BTreeMap<String, table::Made>) -> Vec<String> {
    let start = Instant::now();
    let in_time = made.iter_mut().take_while(|_| start.elapsed() < PREPARING);
    in_time.filter_map(|(name, made)| (!made.prepare()).then(|| name.clone())).collect()
}
