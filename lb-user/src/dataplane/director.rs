//! The director in the kernel: its programs on their interfaces, its maps in step with the model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aya::include_bytes_aligned;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues};
use aya::programs::TcAttachType;
use lb_common::flow::Addr;
use lb_common::maps::{self, ADDRESS_VIP, HEALTHY, Nexthop, PROBE_MARK, Traffic, nexthop_index};
use lb_common::reasons;

use super::attach::{self, Attached};
use super::counters::{self, Counter};
use super::load::{Capacities, Loaded, MapShape, Object, kind};
use super::nexthops::{self, Sources};
use super::slots::{Slots, stable_id};
use super::tables::Tables;
use super::{Error, Mode, Result, XdpChoice, probe_route};
use crate::model::{Family, HostId, HostState, Model, Pool, ServiceKey};
use crate::netlink::NextHops;
use crate::table::{self, Generation};

/// `BPF_F_NO_PREALLOC`, which the kernel wants of LPM tries.
pub(super) const NO_PREALLOC: u32 = 1;

const fn shape(name: &'static str, kind: u32, key: u32, value: usize, entries: u32) -> MapShape {
    MapShape { name, kind, key, value: value as u32, flags: 0, entries }
}

/// The director's object.
pub static OBJECT: Object = Object {
    name: "director",
    bytes: include_bytes_aligned!("../../prebuilt/director.o"),
    maps: &[
        shape("SERVICES", kind::HASH, 20, size_of::<maps::Service>(), 1024),
        shape("ADDRESSES", kind::HASH, 16, 4, 1024),
        shape("TABLES", kind::ARRAY_OF_MAPS, 4, 4, 64),
        shape("NEXTHOPS", kind::ARRAY, 4, size_of::<Nexthop>(), 8192),
        shape("HOST_IDS", kind::ARRAY, 4, 8, 4096),
        shape("DIRECTOR_COUNTERS", kind::PERCPU_ARRAY, 4, 8, reasons::Director::COUNT as u32),
        shape("PROBE_COUNTERS", kind::PERCPU_ARRAY, 4, 8, reasons::Probe::COUNT as u32),
        shape("TRAFFIC", kind::PERCPU_ARRAY, 4, size_of::<Traffic>(), 1024),
    ],
};

/// Sizes of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Services, and VIPs.
    pub services: u32,
    /// Hosts over all pools, at most 65535.
    pub hosts: u32,
    /// Tables: one per pool, and one spare to change them.
    pub tables: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Capacity { services: 1024, hosts: 4096, tables: 64 }
    }
}

impl Capacity {
    fn maps(self) -> Capacities {
        BTreeMap::from([
            ("SERVICES", self.services),
            ("ADDRESSES", self.services),
            ("TRAFFIC", self.services),
            ("TABLES", self.tables),
            ("NEXTHOPS", self.hosts * 2),
            ("HOST_IDS", self.hosts),
        ])
    }
}

/// What the director's programs need to know about this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectorOptions {
    /// Interfaces that packets of users arrive on.
    pub interfaces: Vec<String>,
    /// Which XDP modes may be used.
    pub xdp: XdpChoice,
    /// Sizes of the maps.
    pub capacity: Capacity,
}

/// What the kernel now does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// Services in force: generation, and digest of the table *as it is in the kernel*.
    pub services: BTreeMap<ServiceKey, InForce>,
    /// Per host: whether packets of VIPs of each family can reach it, or why not.
    pub hosts: BTreeMap<HostId, Reach>,
}

/// A service as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Generation written to outer headers.
    pub generation: u16,
    /// Digest of the table.
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

/// The director's programs and maps.
pub struct Director {
    loaded: Loaded,
    options: DirectorOptions,
    attached: Vec<Attached>,
    services: HashMap<MapData, maps::ServiceKey, maps::Service>,
    addresses: HashMap<MapData, Addr, u32>,
    tables: Tables,
    nexthops: Array<MapData, Nexthop>,
    host_ids: Array<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
    probe_counters: PerCpuArray<MapData, u64>,
    traffic: PerCpuArray<MapData, Traffic>,
    slots: Slots,
    /// What the next hop map holds, to write only what changes.
    entries: BTreeMap<u32, Nexthop>,
    /// The table of each pool that is in force, and what it was made of.
    pools: BTreeMap<String, PoolTable>,
}

#[derive(Clone, PartialEq, Eq)]
struct PoolTable {
    slot: u32,
    made_of: Pool,
    digest: u64,
}

impl Director {
    /// Loads the programs over the maps pinned below `pins`, without attaching them; without pins, for test runs.
    pub fn load(options: DirectorOptions, pins: Option<&Path>) -> Result<Self> {
        let mut loaded = OBJECT.load(pins, &options.capacity.maps())?;
        let host_ids: Array<_, u64> = loaded.map("HOST_IDS")?;
        let nexthops: Array<_, Nexthop> = loaded.map("NEXTHOPS")?;
        let mut director = Director {
            services: loaded.map("SERVICES")?,
            addresses: loaded.map("ADDRESSES")?,
            tables: Tables::new(loaded.map("TABLES")?),
            counters: loaded.map("DIRECTOR_COUNTERS")?,
            probe_counters: loaded.map("PROBE_COUNTERS")?,
            traffic: loaded.map("TRAFFIC")?,
            nexthops,
            host_ids,
            slots: Slots::default(),
            entries: BTreeMap::new(),
            pools: BTreeMap::new(),
            attached: Vec::new(),
            options,
            loaded,
        };
        if director.loaded.adopted {
            director.adopt()?;
        }
        Ok(director)
    }

    /// Puts the program on its interfaces. Done after the first [`Director::sync`], so that a program never meets
    /// empty maps.
    pub fn attach(&mut self) -> Result<()> {
        let links = self.loaded.links()?;
        let modes = self.options.xdp.modes();
        let mut attached = Vec::new();
        for interface in &self.options.interfaces {
            attached.push(attach::xdp(self.loaded.xdp("director")?, "director", interface, modes, &links)?);
        }
        self.attached = attached;
        self.loaded.settle()
    }

    /// Puts the program that encapsulates the agent's own probes on its interface, after [`Director::attach`].
    pub fn attach_probe(&mut self) -> Result<()> {
        let links = self.loaded.links()?;
        let program = self.loaded.tc("probe")?;
        attach::tc(program, "probe", probe_route::INTERFACE, TcAttachType::Egress, &links).map(drop)
    }

    /// Removes it, whichever agent put it there.
    pub fn detach_probe(&mut self) -> Result<()> {
        let links = self.loaded.links()?;
        attach::remove(&attach::pin_path(&links, probe_route::INTERFACE, "probe", Mode::Tc))
    }

    /// Interfaces and modes.
    pub fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// See [`Loaded::follow_log`].
    pub fn follow_log(&mut self) {
        self.loaded.follow_log();
    }

    /// The maps were pinned by an agent before this one.
    pub fn adopted(&self) -> bool {
        self.loaded.adopted
    }

    /// A program of an agent before this one runs over maps that could not be adopted.
    pub fn replaces_older_maps(&self) -> bool {
        !self.loaded.adopted && self.loaded.has_links()
    }

    /// Which hosts of `model` the adopted maps call healthy: where health checks go on from.
    pub fn adopted_health(&self, model: &Model) -> BTreeMap<HostId, bool> {
        let healthy =
            |slot| self.entries.get(&nexthop_index(slot, false)).is_some_and(|e| e.state & HEALTHY != 0);
        let hosts = model.hosts().filter_map(|(id, host)| {
            let slot = self.slots.get(stable_id(&id, host))?;
            Some((id, healthy(slot)))
        });
        hosts.collect()
    }

    /// The XDP program, for test runs.
    pub fn program(&mut self) -> Result<&mut aya::programs::Xdp> {
        self.loaded.xdp("director")
    }

    /// The TC program that encapsulates probes, for test runs.
    pub fn probe_program(&mut self) -> Result<&mut aya::programs::SchedClassifier> {
        self.loaded.tc("probe")
    }

    /// Brings the maps to what is wanted.
    ///
    /// Hosts first, then tables, then the services that name them: at every moment what is named exists. What is no
    /// longer named goes last.
    pub fn sync(
        &mut self,
        model: &Model,
        sources: Sources,
        nexthops: &NextHops,
        health: &BTreeMap<HostId, bool>,
    ) -> Result<Confirmed> {
        self.check_capacity(model)?;
        self.assign_slots(model)?;
        let hosts = self.write_nexthops(model, sources, nexthops, health)?;
        let tables = self.write_tables(model)?;
        let services = self.write_services(model, &tables)?;
        self.write_addresses(model)?;
        self.pools = tables;
        self.release_slots(model)?;
        Ok(Confirmed { services, hosts })
    }

    /// The mark that makes the probe program send a packet to this host.
    pub fn marks(&self, model: &Model) -> BTreeMap<(HostId, Family), u32> {
        let mut marks = BTreeMap::new();
        for (id, host) in model.hosts() {
            let Some(slot) = self.slots.get(stable_id(&id, host)) else { continue };
            for family in Family::ALL {
                marks.insert((id.clone(), family), PROBE_MARK | nexthop_index(slot, family == Family::V6));
            }
        }
        marks
    }

    /// All counters.
    pub fn counters(&self) -> Result<Vec<Counter>> {
        let director = reasons::Director::ALL.iter().map(|r| (r.name(), r.help()));
        let probe = reasons::Probe::ALL.iter().map(|r| (r.name(), r.help()));
        let mut all = counters::read(&self.counters, "director", director)?;
        all.extend(counters::read(&self.probe_counters, "probe", probe)?);
        Ok(all)
    }

    /// Packets and bytes per service.
    pub fn traffic(&self) -> Result<BTreeMap<ServiceKey, Traffic>> {
        let mut all = BTreeMap::new();
        for entry in self.services.iter() {
            let (key, service) = entry.map_err(map_error("SERVICES"))?;
            let per_cpu = self.traffic.get(&service.id, 0).map_err(map_error("TRAFFIC"))?;
            let sum = per_cpu.iter().fold(Traffic::default(), |sum, t| Traffic {
                packets: sum.packets + t.packets,
                bytes: sum.bytes + t.bytes,
            });
            if let Some(key) = user_key(&key) {
                all.insert(key, sum);
            }
        }
        Ok(all)
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

    fn check_capacity(&self, model: &Model) -> Result<()> {
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

    fn assign_slots(&mut self, model: &Model) -> Result<()> {
        let capacity = u16::try_from(self.options.capacity.hosts).unwrap_or(maps::NO_OWNER);
        let wanted: Vec<_> = model.hosts().map(|(id, host)| stable_id(&id, host)).collect();
        let full =
            || Error::Capacity { what: "hosts", want: wanted.len(), room: capacity.into(), key: "hosts" };
        let new = self.slots.assign(wanted.iter().copied(), capacity).ok_or_else(full)?;
        for (id, slot) in new {
            self.host_ids.set(u32::from(slot), id, 0).map_err(map_error("HOST_IDS"))?;
        }
        Ok(())
    }

    fn write_nexthops(
        &mut self,
        model: &Model,
        sources: Sources,
        nexthops: &NextHops,
        health: &BTreeMap<HostId, bool>,
    ) -> Result<BTreeMap<HostId, Reach>> {
        let mut reached = BTreeMap::new();
        for (id, host) in model.hosts() {
            let Some(slot) = self.slots.get(stable_id(&id, host)) else { continue };
            let healthy = health.get(&id).copied().unwrap_or(false) && host.state != HostState::Down;
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
    fn write_tables(&mut self, model: &Model) -> Result<BTreeMap<String, PoolTable>> {
        let mut next = BTreeMap::new();
        let mut taken = self.slots_in_services()?;
        for (name, pool) in &model.pools {
            if let Some(have) = self.pools.get(name).filter(|have| have.made_of == *pool) {
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
        let eligible = pool.hosts.iter().filter(|(_, host)| host.state == HostState::Active);
        let hosts: BTreeMap<_, _> =
            eligible.clone().map(|(name, host)| (name.clone(), host.weight)).collect();
        if hosts.is_empty() {
            return Ok(vec![maps::EMPTY_ROW; pool.size as usize]);
        }
        let slots = eligible.filter_map(|(host_name, host)| {
            let id = HostId { pool: name.into(), host: host_name.clone() };
            Some((host_name.clone(), self.slots.get(stable_id(&id, host))?))
        });
        let table = table::rows(&[Generation { hosts }], pool.seed, pool.size, &slots.collect());
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

    fn write_services(
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
        for gone in have.keys().filter(|key| !model.services.contains_key(key)) {
            self.services.remove(&kernel_key(gone)).map_err(map_error("SERVICES"))?;
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

    fn write_addresses(&mut self, model: &Model) -> Result<()> {
        write_addresses(&mut self.addresses, &vips(model).into_iter().map(|vip| (vip, ADDRESS_VIP)).collect())
    }

    fn release_slots(&mut self, model: &Model) -> Result<()> {
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

/// Where the director's pins are, for `lb detach`.
pub fn folder(pins: &Path) -> PathBuf {
    pins.join(OBJECT.name)
}

/// Brings an address map to `want`: new addresses first.
pub(super) fn write_addresses(
    map: &mut HashMap<MapData, Addr, u32>,
    want: &BTreeMap<std::net::IpAddr, u32>,
) -> Result<()> {
    let have: BTreeMap<std::net::IpAddr, u32> =
        map.iter().filter_map(|entry| entry.ok()).map(|(address, roles)| (address.into(), roles)).collect();
    for (address, roles) in want.iter().filter(|(address, roles)| have.get(address) != Some(roles)) {
        map.insert(Addr::from(*address), roles, 0).map_err(map_error("ADDRESSES"))?;
    }
    for address in have.keys().filter(|address| !want.contains_key(address)) {
        map.remove(&Addr::from(*address)).map_err(map_error("ADDRESSES"))?;
    }
    Ok(())
}

fn vips(model: &Model) -> BTreeSet<std::net::IpAddr> {
    model.services.keys().map(|key| key.vip).collect()
}

pub(super) fn map_error(map: &'static str) -> impl Fn(aya::maps::MapError) -> Error {
    move |source| Error::Map { map, source }
}

fn kernel_key(key: &ServiceKey) -> maps::ServiceKey {
    maps::ServiceKey::new(key.vip.into(), key.port.to_be(), key.protocol.number())
}

fn user_key(key: &maps::ServiceKey) -> Option<ServiceKey> {
    let protocol = crate::model::Protocol::from_number(key.protocol())?;
    Some(ServiceKey { vip: key.vip().into(), port: key.port(), protocol })
}

fn lowest_free(ids: &mut BTreeSet<u32>) -> u32 {
    let id = (0..).find(|id| !ids.contains(id)).unwrap_or(0);
    ids.insert(id);
    id
}
