//! The maps that say which host a packet belongs to, of directors and hosts alike, in step with the model.
//!
//! Written in this order, at every moment what is named exists: hosts, tables, the services that name them; then go what
//! nothing names any more.

mod new_tables;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::thread;

use aya::maps::{Array, MapData};
use lb_common::maps::{self, CHAINS, Entry, HEALTHY, Nexthop, nexthop_index};

use super::load::{Capacities, Loaded, MapShape, kind};
use super::nexthops::{self, Sources, Standing};
use super::prefixes::{Prefixes, fragments_key, kernel_key, user_key};
use super::services::{self, Services};
use super::slots::{Slots, stable_id};
use super::tables::{MMAPABLE, Tables};
use super::usage::{self, MapUse};
use super::{Error, Result};
use crate::config::Capacity;
use crate::model::{Family, Fragments, Host, HostId, Model, Pool, Service, ServiceKey};
use crate::netlink::NextHops;
use crate::table;
use crate::vip::Vip;

/// The maps' shapes in both objects.
pub(super) const SERVICES: MapShape = memory("SERVICES", size_of::<Entry>(), services::entries(1024));
/// See [`SERVICES`].
pub(super) const SERVICE_CHAINS: MapShape = memory("SERVICE_CHAINS", 8, CHAINS as u32);
/// See [`SERVICES`].
pub(super) const TABLES: MapShape = shape("TABLES", kind::ARRAY_OF_MAPS, 4, 4, 64);
/// See [`SERVICES`].
pub(super) const NEXTHOPS: MapShape = memory("NEXTHOPS", size_of::<Nexthop>(), 8192);
/// See [`SERVICES`].
pub(super) const HOST_IDS: MapShape = shape("HOST_IDS", kind::ARRAY, 4, 8, 4096);

/// A map without flags.
pub(super) const fn shape(name: &'static str, kind: u32, key: u32, value: usize, entries: u32) -> MapShape {
    MapShape { name, kind, key, value: value as u32, flags: 0, entries }
}

/// An array that can be mapped.
pub(super) const fn memory(name: &'static str, value: usize, entries: u32) -> MapShape {
    MapShape { flags: MMAPABLE, ..shape(name, kind::ARRAY, 4, value, entries) }
}

/// How many entries each of the maps has.
pub(super) fn entries(capacity: Capacity) -> Capacities {
    BTreeMap::from([
        ("SERVICES", services::entries(capacity.services)),
        ("PREFIXES", services::entries(capacity.services)),
        ("TABLES", capacity.tables),
        ("NEXTHOPS", capacity.hosts * 2),
        ("HOST_IDS", capacity.hosts),
    ])
}

/// A service or table as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Generation written to outer headers.
    pub generation: u16,
    /// Digest of the table *as it is in the kernel*.
    pub digest: u64,
}

/// Whether a host can be reached, by inner family: `None` is yes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// For IPv4 VIPs.
    pub v4: Option<String>,
    /// For IPv6 VIPs.
    pub v6: Option<String>,
}

/// The table of a pool that is in force, and what it was made of.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PoolTable {
    pub slot: u32,
    pub made_of: Pool,
    /// Taken from the kernel's memory when the services name it already: it takes longer than to make the table.
    digest: Option<u64>,
}

impl PoolTable {
    fn in_force(&self) -> InForce {
        InForce { generation: self.made_of.generation, digest: self.digest.unwrap_or(0) }
    }
}

/// What the next hops of hosts are made of.
#[derive(Clone, Copy)]
pub(super) struct Hops<'a> {
    /// Outer sources.
    pub sources: Sources,
    /// By the hosts' addresses.
    pub nexthops: &'a NextHops,
}

/// What a service's entry says beside its table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// See [`maps::Service::flags`].
    pub flags: u16,
    /// See [`maps::Service::extras`].
    pub extras: u32,
}

/// Services, tables, next hops and host ids of one role.
pub(super) struct Pools {
    role: &'static str,
    capacity: Capacity,
    services: Services,
    prefixes: Prefixes,
    tables: Tables,
    nexthops: Array<MapData, Nexthop>,
    host_ids: Array<MapData, u64>,
    slots: Slots,
    /// Ids that `HOST_IDS` does not hold yet, by slot: a write that failed is made by the next turn, before any table names it.
    unwritten: BTreeMap<u16, u64>,
    /// Slots by name, of the model that is being written: to compute ids takes longer than anything else about a host.
    named: BTreeMap<HostId, u16>,
    /// What the next hop map holds, to write only what changes.
    entries: BTreeMap<u32, Nexthop>,
    in_force: BTreeMap<String, PoolTable>,
    /// By pool, to make the next table of.
    made: BTreeMap<String, table::Made>,
    /// By pool.
    spares: BTreeMap<String, new_tables::Spare>,
}

impl Pools {
    /// Takes the maps of a loaded object, with what they hold.
    pub fn take(loaded: &mut Loaded, role: &'static str, capacity: Capacity) -> Result<Self> {
        let mut pools = Pools {
            role,
            capacity,
            services: Services::take(
                &loaded.array("SERVICE_CHAINS")?,
                &loaded.array("SERVICES")?,
                services::entries(capacity.services),
            )
            .map_err(map_io("SERVICES"))?,
            prefixes: Prefixes::take(loaded)?,
            tables: Tables::new(loaded.any_map("TABLES")?)?,
            nexthops: loaded.map("NEXTHOPS")?,
            host_ids: loaded.map("HOST_IDS")?,
            slots: Slots::default(),
            unwritten: BTreeMap::new(),
            named: BTreeMap::new(),
            entries: BTreeMap::new(),
            in_force: BTreeMap::new(),
            made: BTreeMap::new(),
            spares: BTreeMap::new(),
        };
        if loaded.adopted {
            pools.adopt()?;
        }
        Ok(pools)
    }

    fn adopt(&mut self) -> Result<()> {
        let ids = (0..self.host_ids.len()).map(|slot| self.host_ids.get(&slot, 0));
        let ids = ids.collect::<std::result::Result<Vec<_>, _>>().map_err(map_error("HOST_IDS"))?;
        self.slots = Slots::adopt(ids);
        for (_, slot) in self.slots.iter() {
            for v6 in [false, true] {
                let index = nexthop_index(slot, v6);
                let entry = self.nexthops.get(&index, 0).map_err(map_error("NEXTHOPS"))?;
                self.entries.insert(index, entry);
            }
        }
        Ok(())
    }

    /// Which hosts of `model` the maps call healthy.
    pub fn health(&self, model: &Model) -> BTreeMap<HostId, bool> {
        let healthy =
            |slot| self.entries.get(&nexthop_index(slot, false)).is_some_and(|e| e.state & HEALTHY != 0);
        let hosts = model.hosts().filter_map(|(id, host)| {
            let slot = self.slots.get(stable_id(&id, host))?;
            Some((id, healthy(slot)))
        });
        hosts.collect()
    }

    /// The slots of the model that was written last.
    pub fn slots(&self) -> &BTreeMap<HostId, u16> {
        &self.named
    }

    /// The slot of a host.
    pub fn slot(&self, id: &HostId, host: &Host) -> Option<u16> {
        self.slots.get(stable_id(id, host))
    }

    /// The tables in force, by pool.
    pub fn in_force(&self) -> BTreeMap<String, InForce> {
        self.in_force.iter().map(|(name, table)| (name.clone(), table.in_force())).collect()
    }

    /// Memory of the tables, and of the maps of the object that these are of.
    pub fn memory(&self, loaded: &Loaded) -> Result<Vec<MapUse>> {
        let mut uses = usage::of_object(loaded)?;
        uses.extend(usage::of_tables(self.bytes_of_tables()?));
        usage::sort(&mut uses);
        Ok(uses)
    }

    /// The services in the kernel.
    pub fn services(&self) -> BTreeMap<ServiceKey, maps::Service> {
        self.services.iter().filter_map(|(key, service)| Some((user_key(&key)?, service))).collect()
    }

    /// What the entries in the kernel name, those for fragments too.
    pub fn named(&self) -> impl Iterator<Item = Named> {
        self.services.iter().map(|(_, service)| Named { flags: service.flags, extras: service.extras })
    }

    pub fn check_capacity(&self, model: &Model) -> Result<()> {
        let Capacity { services, hosts, tables } = self.capacity;
        let rooms = [
            ("services", model.services.len(), services, "services"),
            ("VIPs", model.vips().len(), services, "services"),
            ("hosts", model.hosts().count(), hosts, "hosts"),
            // One slot more than pools, or no table could ever be replaced.
            ("tables", model.pools.len() + 1, tables, "tables"),
        ];
        for (what, want, room, key) in rooms {
            if want > room as usize {
                return Err(self.full(what, want, room, key));
            }
        }
        Ok(())
    }

    fn full(&self, what: &'static str, want: usize, room: u32, key: &'static str) -> Error {
        Error::Capacity { what, want, room: room as usize, role: self.role, key }
    }

    /// Gives every host a slot and next hops, and calls `fresh` with each new slot before its host is there: its counters
    /// are another's. Meanwhile the tables of pools that have changed are begun.
    pub fn write_hosts(
        &mut self,
        model: &Model,
        hops: Hops<'_>,
        standing: impl Fn(&HostId, &Host) -> Standing + Send,
        fresh: impl FnMut(u16) -> Result<()> + Send,
    ) -> Result<BTreeMap<HostId, Reach>> {
        let mut made = self.take_changing(model);
        let write =
            || self.assign_slots(model, fresh).and_then(|()| self.write_nexthops(model, hops, standing));
        if made.is_empty() {
            return write();
        }
        // The tables on this thread: in one that ends, their memory would be new to the process each time.
        let reached = thread::scope(|scope| {
            let writing = scope.spawn(write);
            new_tables::begin(&mut made, model);
            writing.join().unwrap_or_else(|panic| resume_unwind(panic))
        });
        self.made.extend(made);
        reached
    }

    fn assign_slots(&mut self, model: &Model, mut fresh: impl FnMut(u16) -> Result<()>) -> Result<()> {
        let capacity = u16::try_from(self.capacity.hosts).unwrap_or(maps::NO_OWNER);
        let wanted: Vec<_> = model.hosts().map(|(id, host)| (stable_id(&id, host), id)).collect();
        let ids = || wanted.iter().map(|(id, _)| *id);
        // Hosts that go keep their slots until the tables are changed.
        let all: BTreeSet<u64> = self.slots.iter().map(|(id, _)| id).chain(ids()).collect();
        let full = self.full("hosts", all.len(), capacity.into(), "hosts");
        let new = self.slots.assign(ids(), capacity).ok_or(full)?;
        self.unwritten.extend(new.into_iter().map(|(id, slot)| (slot, id)));
        while let Some((&slot, &id)) = self.unwritten.first_key_value() {
            fresh(slot)?;
            self.host_ids.set(u32::from(slot), id, 0).map_err(map_error("HOST_IDS"))?;
            self.unwritten.remove(&slot);
        }
        let named = wanted.into_iter().filter_map(|(id, host)| Some((host, self.slots.get(id)?)));
        self.named = named.collect();
        Ok(())
    }

    fn write_nexthops(
        &mut self,
        model: &Model,
        Hops { sources, nexthops }: Hops<'_>,
        standing: impl Fn(&HostId, &Host) -> Standing,
    ) -> Result<BTreeMap<HostId, Reach>> {
        let mut reached = BTreeMap::new();
        for (id, host) in model.hosts() {
            let Some(slot) = self.named.get(&id).copied() else { continue };
            let standing = standing(&id, host);
            let mut reach = Reach::default();
            for family in Family::ALL {
                let (entry, reason) = nexthops::entry(host, family, standing, sources, nexthops);
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

    /// The ids as they are in the kernel, each read once: a digest asks for one per place of every row.
    fn ids(&self) -> Result<Vec<u64>> {
        let slots: BTreeMap<u16, u64> = self.slots.iter().map(|(id, slot)| (slot, id)).collect();
        let end = slots.keys().next_back().map_or(0, |slot| usize::from(*slot) + 1);
        let mut ids = vec![0; end];
        for slot in slots.keys() {
            ids[usize::from(*slot)] =
                self.host_ids.get(&u32::from(*slot), 0).map_err(map_error("HOST_IDS"))?;
        }
        Ok(ids)
    }

    /// Slots that entries in the kernel name, those for fragments too. VIPs name none.
    fn slots_in_services(&self) -> BTreeSet<u32> {
        self.services.iter().filter(|(key, _)| !key.is_vip()).map(|(_, service)| service.table).collect()
    }

    /// Writes the services, each with what `named` gives beside what both roles know, and calls `fresh` with the id of
    /// each new one before it is there: its counters are another's.
    pub fn write_services(
        &mut self,
        model: &Model,
        tables: &BTreeMap<String, PoolTable>,
        named: impl Fn(&ServiceKey, &Service) -> Named,
        mut fresh: impl FnMut(u32) -> Result<()>,
    ) -> Result<()> {
        // First, so that what they held is there for new ones.
        let (have, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            self.services().into_iter().partition(|(key, _)| model.services.contains_key(key));
        gone.keys().try_for_each(|key| self.remove(&kernel_key(key)))?;
        let mut ids: BTreeSet<u32> = have.values().map(|service| service.id).collect();
        for (key, service) in &model.services {
            let Some(table) = tables.get(&service.pool) else { continue };
            let id = match have.get(key) {
                Some(have) => have.id,
                None => {
                    let id = lowest_free(&mut ids);
                    fresh(id)?;
                    id
                }
            };
            let Pool { seed, size, generation, .. } = table.made_of;
            let Named { flags, extras } = named(key, service);
            let want = maps::Service {
                seed,
                id,
                table: table.slot,
                rows: size,
                generation,
                flags: flags | service.hash.flags(),
                extras,
                spare: 0,
            };
            if have.get(key) != Some(&want) {
                self.insert(kernel_key(key), want)?;
            }
        }
        Ok(())
    }

    /// Writes what directors find apart from services: fragments, and VIPs.
    pub fn write_apart(&mut self, model: &Model) -> Result<()> {
        self.write_fragments(model)?;
        self.write_vips(&model.vips())
    }

    /// Fragments go where a service of theirs sends everything.
    fn write_fragments(&mut self, model: &Model) -> Result<()> {
        let forwards = |service: &Service| service.fragments == Fragments::Forward;
        let mut want = BTreeMap::new();
        for (key, _) in model.services.iter().filter(|(_, service)| forwards(service)) {
            if let Some(entry) = self.services.get(&kernel_key(key)) {
                want.entry(fragments_key(key.vip, key.protocol)).or_insert(entry);
            }
        }
        let have = self.services.iter().filter(|(key, _)| !key.is_vip() && !key.is_service());
        let have: BTreeMap<_, _> = have.collect();
        let mut gone = have.keys().filter(|key| !want.contains_key(key));
        gone.try_for_each(|key| self.remove(key))?;
        let mut new = want.iter().filter(|(key, entry)| have.get(key) != Some(entry));
        new.try_for_each(|(key, entry)| self.insert(*key, *entry))?;
        self.prefixes.set_fragments(model, want.into_keys())
    }

    /// Makes exactly these VIPs, so that what is for one of them but of no service is told from other traffic.
    fn write_vips(&mut self, vips: &BTreeSet<Vip>) -> Result<()> {
        self.write_prefixes(vips)?;
        let key = |vip: &Vip| Some(maps::ServiceKey::of_vip(vip.address()?.into()));
        let want: BTreeSet<_> = vips.iter().filter_map(key).collect();
        let have: BTreeSet<_> = self.services.iter().map(|(key, _)| key).filter(|key| key.is_vip()).collect();
        for key in have.difference(&want) {
            self.services.remove(key);
        }
        want.difference(&have).try_for_each(|key| self.insert(*key, maps::Service::default()))
    }

    /// Makes exactly those of these VIPs known that are prefixes.
    pub fn write_prefixes(&mut self, vips: &BTreeSet<Vip>) -> Result<()> {
        self.prefixes.set_vips(vips)
    }

    /// What of a prefix is to be found, is found after its entry has come, and not any more before that goes.
    fn insert(&mut self, key: maps::ServiceKey, service: maps::Service) -> Result<()> {
        let room = self.capacity.services;
        let inserted = self.services.insert(key, service);
        inserted.map_err(|_| self.full("services", room as usize + 1, room, "services"))?;
        self.prefixes.insert(key)
    }

    fn remove(&mut self, key: &maps::ServiceKey) -> Result<()> {
        self.prefixes.remove(key)?;
        self.services.remove(key);
        Ok(())
    }

    /// The last step: `tables` are in force, others are given up, and hosts that none of them names lose their slots,
    /// which are returned.
    pub fn settle(&mut self, model: &Model, tables: BTreeMap<String, PoolTable>) -> Result<Vec<u16>> {
        self.in_force = tables;
        self.take_digests()?;
        self.finish_tables()?;
        let mut named = self.slots_in_services();
        named.extend(self.in_force.values().map(|table| table.slot));
        let idle: Vec<u32> = self.tables.filled().filter(|slot| !named.contains(slot)).collect();
        if !idle.is_empty() {
            // A program may have read a service's entry just before it named another table.
            self.services.reclaim();
        }
        idle.into_iter().try_for_each(|slot| self.tables.remove(slot))?;
        let wanted = model.hosts().map(|(id, host)| stable_id(&id, host)).collect();
        let released = self.slots.release(&wanted);
        for slot in &released {
            let slot = *slot;
            self.unwritten.remove(&slot);
            for v6 in [false, true] {
                let index = nexthop_index(slot, v6);
                self.nexthops.set(index, Nexthop::UNKNOWN, 0).map_err(map_error("NEXTHOPS"))?;
                self.entries.remove(&index);
            }
            self.host_ids.set(u32::from(slot), 0, 0).map_err(map_error("HOST_IDS"))?;
        }
        Ok(released)
    }

    /// Of tables that are new.
    fn take_digests(&mut self) -> Result<()> {
        if self.in_force.values().all(|table| table.digest.is_some()) {
            return Ok(());
        }
        let ids = self.ids()?;
        let id_of = |slot: u16| ids.get(usize::from(slot)).copied().unwrap_or(0);
        for table in self.in_force.values_mut().filter(|table| table.digest.is_none()) {
            table.digest = self.tables.digest(table.slot, table.made_of.size, id_of)?;
        }
        Ok(())
    }

    /// The services that have a table in force.
    pub fn confirmed(&self, model: &Model) -> BTreeMap<ServiceKey, InForce> {
        let table = |pool: &String| self.in_force.get(pool).map(PoolTable::in_force);
        model.services.iter().filter_map(|(key, service)| Some((*key, table(&service.pool)?))).collect()
    }
}

pub(super) fn map_error(map: &'static str) -> impl Fn(aya::maps::MapError) -> Error {
    move |source| Error::Map { map, source }
}

pub(super) fn map_io(map: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| map_error(map)(aya::maps::MapError::IoError(error))
}

fn lowest_free(ids: &mut BTreeSet<u32>) -> u32 {
    let id = (0..).find(|id| !ids.contains(id)).unwrap_or(0);
    ids.insert(id);
    id
}
