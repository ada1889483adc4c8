//! Writing the director's maps, one kind after the other.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::PerCpuValues;
use lb_common::maps::{self, ADDRESS_VIP, Nexthop, Traffic, nexthop_index};

use super::{
    Director, InForce, PoolTable, Reach, kernel_key, lowest_free, map_error, user_key, vips, write_addresses,
};
use crate::config::Capacity;
use crate::dataplane::nexthops::{self, Sources};
use crate::dataplane::slots::stable_id;
use crate::dataplane::{Error, Result};
use crate::model::{Family, HostId, HostState, Model, Pool, ServiceKey};
use crate::netlink::NextHops;
use crate::table;

impl Director {
    pub(super) fn check_capacity(&self, model: &Model) -> Result<()> {
        let Capacity { services, hosts, tables } = self.options.capacity;
        let vips = vips(model).len();
        let rooms = [
            ("services", model.services.len(), services, "services"),
            ("VIPs", vips, services, "services"),
            ("hosts", model.hosts().count(), hosts, "hosts"),
            // One slot more than pools, or no table could ever be replaced.
            ("tables", model.pools.len() + 1, tables, "tables"),
        ];
        for (what, want, room, key) in rooms {
            if want > room as usize {
                return Err(Error::Capacity { what, want, room: room as usize, key });
            }
        }
        Ok(())
    }

    pub(super) fn assign_slots(&mut self, model: &Model) -> Result<()> {
        let capacity = u16::try_from(self.options.capacity.hosts).unwrap_or(maps::NO_OWNER);
        let wanted: Vec<_> = model.hosts().map(|(id, host)| stable_id(&id, host)).collect();
        // Hosts that go keep their slots until the tables are changed.
        let all: BTreeSet<u64> = self.slots.iter().map(|(id, _)| id).chain(wanted.iter().copied()).collect();
        let full = Error::Capacity { what: "hosts", want: all.len(), room: capacity.into(), key: "hosts" };
        let new = self.slots.assign(wanted, capacity).ok_or(full)?;
        for (id, slot) in new {
            self.host_ids.set(u32::from(slot), id, 0).map_err(map_error("HOST_IDS"))?;
        }
        Ok(())
    }

    pub(super) fn write_nexthops(
        &mut self,
        model: &Model,
        sources: Sources,
        nexthops: &NextHops,
        health: &BTreeMap<HostId, bool>,
    ) -> Result<BTreeMap<HostId, Reach>> {
        let mut reached = BTreeMap::new();
        for (id, host) in model.hosts() {
            let Some(slot) = self.slots.get(stable_id(&id, host)) else { continue };
            // Others keep the packets of their connections by second chances, and get no new connections.
            let healthy = health.get(&id).copied().unwrap_or(false) && host.state == HostState::Active;
            let mut reach = Reach::default();
            for family in Family::ALL {
                let (entry, reason) = nexthops::entry(host, family, healthy, sources, nexthops);
                let index = nexthop_index(slot, family == Family::V6);
                if self.entries.get(&index) != Some(&entry) {
                    self.nexthops.set(index, entry, 0).map_err(map_error("NEXTHOPS"))?;
                    self.entries.insert(index, entry);
                }
                match family {
                    Family::V4 => reach.v4 = reason,
                    Family::V6 => reach.v6 = reason,
                }
            }
            reached.insert(id, reach);
        }
        Ok(reached)
    }

    /// Makes or finds the table of each pool. A table in force is never touched: a new one goes to a free slot.
    pub(super) fn write_tables(&mut self, model: &Model) -> Result<BTreeMap<String, PoolTable>> {
        let mut next = BTreeMap::new();
        let mut taken = self.slots_in_services()?;
        // Also those of pools that no service uses: one may use them later.
        let stay = |name: &String, pool: &Pool| self.pools.get(name).filter(|have| have.made_of == *pool);
        taken.extend(model.pools.iter().filter_map(|(name, pool)| stay(name, pool)).map(|have| have.slot));
        for (name, pool) in &model.pools {
            if let Some(have) = stay(name, pool) {
                next.insert(name.clone(), have.clone());
                continue;
            }
            let rows = self.rows(name, pool)?;
            let want = table::digest(&rows, |slot| self.id_of(slot));
            let slot = match self.adopted_slot(model, name, pool, want)? {
                Some(slot) => slot,
                None => {
                    let free = (0..self.tables.capacity()).find(|slot| !taken.contains(slot));
                    let room = self.tables.capacity() as usize;
                    let slot =
                        free.ok_or(Error::Capacity { what: "tables", want: room + 1, room, key: "tables" })?;
                    self.tables.put(slot, &rows)?;
                    slot
                }
            };
            taken.insert(slot);
            let have = self.tables.digest(slot, pool.size, |slot| self.id_of(slot))?.unwrap_or(0);
            if have != want {
                return Err(Error::Digest { pool: name.clone(), have, want });
            }
            next.insert(name.clone(), PoolTable { slot, made_of: pool.clone(), digest: want });
        }
        Ok(next)
    }

    fn rows(&self, name: &str, pool: &Pool) -> Result<Vec<maps::Row>> {
        let generations = pool.generations();
        if generations.iter().all(|generation| generation.hosts.is_empty()) {
            return Ok(vec![maps::EMPTY_ROW; pool.size as usize]);
        }
        let slots = pool.hosts.iter().filter_map(|(host_name, host)| {
            let id = HostId { pool: name.into(), host: host_name.clone() };
            Some((host_name.clone(), self.slots.get(stable_id(&id, host))?))
        });
        let table = table::rows(&generations, pool.seed, pool.size, &slots.collect());
        table.map(|table| table.rows).map_err(|source| Error::Pool { pool: name.into(), source })
    }

    fn id_of(&self, slot: u16) -> u64 {
        self.host_ids.get(&u32::from(slot), 0).unwrap_or(0)
    }

    /// Slots that services in the kernel name.
    fn slots_in_services(&self) -> Result<BTreeSet<u32>> {
        let services = self.services.iter().map(|entry| entry.map(|(_, service)| service.table));
        services.collect::<std::result::Result<_, _>>().map_err(map_error("SERVICES"))
    }

    /// The table that the pool's services in the kernel name already, if it is the wanted one.
    fn adopted_slot(&self, model: &Model, name: &str, pool: &Pool, want: u64) -> Result<Option<u32>> {
        for (key, _) in model.services.iter().filter(|(_, service)| service.pool == name) {
            let Ok(have) = self.services.get(&kernel_key(key), 0) else { continue };
            let digest = self.tables.digest(have.table, pool.size, |slot| self.id_of(slot))?;
            if digest == Some(want) {
                return Ok(Some(have.table));
            }
        }
        Ok(None)
    }

    pub(super) fn write_services(
        &mut self,
        model: &Model,
        tables: &BTreeMap<String, PoolTable>,
    ) -> Result<BTreeMap<ServiceKey, InForce>> {
        let have: BTreeMap<_, _> = self
            .services
            .iter()
            .filter_map(|entry| entry.ok())
            .filter_map(|(key, service)| Some((user_key(&key)?, service)))
            .collect();
        // First, so that what they held is there for new ones.
        let (have, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            have.into_iter().partition(|(key, _)| model.services.contains_key(key));
        for key in gone.keys() {
            self.services.remove(&kernel_key(key)).map_err(map_error("SERVICES"))?;
        }
        let mut ids: BTreeSet<u32> = have.values().map(|service| service.id).collect();
        let mut confirmed = BTreeMap::new();
        for (key, service) in &model.services {
            let Some(table) = tables.get(&service.pool) else { continue };
            let id = match have.get(key) {
                Some(have) => have.id,
                None => self.fresh_id(&mut ids)?,
            };
            let Pool { seed, size, generation, .. } = table.made_of;
            let want = maps::Service { seed, id, table: table.slot, rows: size, generation, flags: 0 };
            if have.get(key) != Some(&want) {
                self.services.insert(kernel_key(key), want, 0).map_err(map_error("SERVICES"))?;
            }
            confirmed.insert(*key, InForce { generation, digest: table.digest });
        }
        Ok(confirmed)
    }

    /// A free id, whose counters say nothing of the service that had it before.
    fn fresh_id(&mut self, ids: &mut BTreeSet<u32>) -> Result<u32> {
        let id = lowest_free(ids);
        let cpus = self.traffic.get(&id, 0).map_err(map_error("TRAFFIC"))?.len();
        let zero = PerCpuValues::try_from(vec![Traffic::default(); cpus]);
        let zero = zero.map_err(|error| map_error("TRAFFIC")(aya::maps::MapError::IoError(error)))?;
        self.traffic.set(id, zero, 0).map_err(map_error("TRAFFIC"))?;
        Ok(id)
    }

    pub(super) fn write_addresses(&mut self, model: &Model) -> Result<()> {
        write_addresses(&mut self.addresses, &vips(model).into_iter().map(|vip| (vip, ADDRESS_VIP)).collect())
    }

    pub(super) fn release_slots(&mut self, model: &Model) -> Result<()> {
        let wanted = model.hosts().map(|(id, host)| stable_id(&id, host)).collect();
        for slot in self.slots.release(&wanted) {
            for v6 in [false, true] {
                let index = nexthop_index(slot, v6);
                self.nexthops.set(index, Nexthop::UNKNOWN, 0).map_err(map_error("NEXTHOPS"))?;
                self.entries.remove(&index);
            }
            self.host_ids.set(u32::from(slot), 0, 0).map_err(map_error("HOST_IDS"))?;
        }
        Ok(())
    }
}
