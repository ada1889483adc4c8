//! The director in the kernel: its programs on their interfaces, its maps in step with the model.

mod object;
mod sync;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::TcAttachType;
use lb_common::flow::Addr;
use lb_common::maps::{self, HEALTHY, Nexthop, PROBE_MARK, Traffic, nexthop_index};
use lb_common::reasons;

use super::attach::{self, Attached};
use super::counters::{self, Counter};
use super::load::Loaded;
use super::nexthops::Sources;
use super::slots::{Slots, stable_id};
use super::tables::Tables;
use super::{Error, Mode, Result, modes, probe_route};
use crate::config::{Capacity, XdpMode};
use crate::model::{Family, HostId, Model, Pool, ServiceKey};
use crate::netlink::NextHops;

pub(super) use object::NO_PREALLOC;
pub use object::OBJECT;

/// What the director's programs need to know about this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectorOptions {
    /// Interfaces that packets of users arrive on.
    pub interfaces: Vec<String>,
    /// Which XDP modes may be used.
    pub xdp: XdpMode,
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
        let mut loaded = OBJECT.load(pins, &object::entries(options.capacity))?;
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
        let modes = modes(self.options.xdp);
        let mut attached = Vec::new();
        for interface in &self.options.interfaces {
            attached.push(attach::xdp(self.loaded.xdp("director")?, "director", interface, modes, &links)?);
        }
        let probe = attach::pin_path(&links, probe_route::INTERFACE, "probe", Mode::Tc);
        attach::prune(&links, attached.iter().map(|attached| &attached.pin).chain([&probe]))?;
        self.attached = attached;
        self.loaded.settle()
    }

    /// An interface is not the one that a program was put on, or is gone.
    pub fn is_detached(&self) -> bool {
        attach::is_stale(&self.attached)
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
    /// Hosts first, then tables, then the services that name them: at every moment what is named exists. Services that are
    /// no longer wanted make room for new ones; tables and hosts that nothing names any more go last.
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
}

/// Brings an address map to `want`: what goes makes room for what comes, and what stays is not touched.
pub(in crate::dataplane) fn write_addresses(
    map: &mut HashMap<MapData, Addr, u32>,
    want: &BTreeMap<std::net::IpAddr, u32>,
) -> Result<()> {
    let have: BTreeMap<std::net::IpAddr, u32> =
        map.iter().filter_map(|entry| entry.ok()).map(|(address, roles)| (address.into(), roles)).collect();
    for address in have.keys().filter(|address| !want.contains_key(address)) {
        map.remove(&Addr::from(*address)).map_err(map_error("ADDRESSES"))?;
    }
    for (address, roles) in want.iter().filter(|(address, roles)| have.get(address) != Some(roles)) {
        map.insert(Addr::from(*address), roles, 0).map_err(map_error("ADDRESSES"))?;
    }
    Ok(())
}

fn vips(model: &Model) -> BTreeSet<std::net::IpAddr> {
    model.services.keys().map(|key| key.vip).collect()
}

pub(in crate::dataplane) fn map_error(map: &'static str) -> impl Fn(aya::maps::MapError) -> Error {
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
