//! The director in the kernel: its programs on their interfaces, its maps in step with the model.

mod extras;
mod object;
mod server_ids;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use aya::maps::{Array, MapData};
use aya::programs::TcAttachType;
use lb_common::maps::{Budget, FLOW_TABLE, PROBE_MARK, Traffic, nexthop_index, slot_of};
use lb_common::reasons;

use super::attach::{self, Attached};
use super::counters::{self, Counter};
use super::load::{Loaded, Object};
use super::memory::Memory;
use super::nexthops::{Sources, Standing};
use super::per_cpu::PerCpu;
use super::pools::{Hops, Named, Pools, map_error, map_io};
use super::usage::MapUse;
use super::{Mode, Result, modes, probe_route};
use crate::config::{Capacity, XdpMode};
use crate::model::{Affinity, Family, Host, HostId, HostState, Model, Service, ServiceKey};
use crate::netlink::NextHops;

use extras::Extras;
pub(super) use object::NO_PREALLOC;
pub use object::OBJECT;

pub use super::pools::{InForce, Reach};

/// What the director's programs need to know about this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectorOptions {
    /// Interfaces that packets of users arrive on.
    pub interfaces: Vec<String>,
    /// Which XDP modes may be used.
    pub xdp: XdpMode,
    /// Flows that are remembered for services with a flow table.
    pub flows: u32,
    /// ICMP errors per second that tell senders of packets too big for the tunnel.
    pub icmp_errors: u32,
    /// Some VIP is a prefix. A director that does not know serves none.
    pub prefixes: bool,
    /// Sizes of the maps.
    pub capacity: Capacity,
}

/// What the kernel now does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// Services in force: generation, and digest of the table *as it is in the kernel*.
    pub services: BTreeMap<ServiceKey, InForce>,
    /// Tables in force, by pool, whether a service uses them or not.
    pub tables: BTreeMap<String, InForce>,
    /// Per host: whether packets of VIPs of each family can reach it, or why not.
    pub hosts: BTreeMap<HostId, Reach>,
}

/// The director's programs and maps.
pub struct Director {
    loaded: Loaded,
    options: DirectorOptions,
    attached: Vec<Attached>,
    pools: Pools,
    extras: Extras,
    flows: Memory,
    counters: PerCpu<u64>,
    probe_counters: PerCpu<u64>,
    traffic: PerCpu<Traffic>,
    host_traffic: PerCpu<Traffic>,
}

impl Director {
    /// Loads the programs over the maps pinned below `pins`, without attaching them; without pins, for test runs.
    pub fn load(options: DirectorOptions, pins: Option<&Path>) -> Result<Self> {
        Self::load_object(&OBJECT, options, pins)
    }

    /// Loads another build of the object, for `lb bench`.
    pub fn load_object(object: &Object, options: DirectorOptions, pins: Option<&Path>) -> Result<Self> {
        let mut loaded = object.load(pins, &object::entries(&options))?;
        let mut errors: Array<MapData, Budget> = loaded.map("ERROR_BUDGET")?;
        let budget = Budget::per_second(options.icmp_errors.into());
        errors.set(0, budget, 0).map_err(map_error("ERROR_BUDGET"))?;
        let pools = Pools::take(&mut loaded, "director", options.capacity)?;
        Ok(Director {
            extras: Extras::take(&mut loaded, pools.named())?,
            pools,
            flows: Memory::of(&loaded.array("FLOWS")?, object::flow_words(&options))
                .map_err(map_io("FLOWS"))?,
            counters: PerCpu::take(&mut loaded, "DIRECTOR_COUNTERS")?,
            probe_counters: PerCpu::take(&mut loaded, "PROBE_COUNTERS")?,
            traffic: PerCpu::take(&mut loaded, "TRAFFIC")?,
            host_traffic: PerCpu::take(&mut loaded, "HOST_TRAFFIC")?,
            attached: Vec::new(),
            options,
            loaded,
        })
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

    /// What it was loaded with.
    pub fn options(&self) -> &DirectorOptions {
        &self.options
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
        self.pools.health(model)
    }

    /// The XDP program, for test runs.
    pub fn program(&mut self) -> Result<&mut aya::programs::Xdp> {
        self.loaded.xdp("director")
    }

    /// The TC program that encapsulates probes, for test runs.
    pub fn probe_program(&mut self) -> Result<&mut aya::programs::SchedClassifier> {
        self.loaded.tc("probe")
    }

    /// Brings the maps to what is wanted, in the order of [`super::pools`]. Services that are no longer wanted make room
    /// for new ones.
    pub fn sync(
        &mut self,
        model: &Model,
        sources: Sources,
        nexthops: &NextHops,
        health: &BTreeMap<HostId, bool>,
    ) -> Result<Confirmed> {
        self.pools.check_capacity(model)?;
        let standing = |id: &HostId, host: &Host| {
            match (health.get(id), host.state) {
                (Some(true), HostState::Active) => Standing::Good,
                // It keeps the packets of its connections by second chances, and gets no new connections.
                (Some(true), _) => Standing::Drained,
                _ => Standing::Doubtful,
            }
        };
        let host_traffic = &mut self.host_traffic;
        let zero = |slot: u16| host_traffic.zero(slot.into());
        let hosts = self.pools.write_hosts(model, Hops { sources, nexthops }, standing, zero)?;
        let tables = self.pools.write_tables(model)?;
        // What a sync that failed has left.
        self.extras.settle(self.pools.named())?;
        let extras = self.extras.write(model, |id, host| self.pools.slot(id, host))?;
        let named = |key: &ServiceKey, service: &Service| {
            let affinity = if service.affinity == Affinity::FlowTable { FLOW_TABLE } else { 0 };
            let Named { flags, extras } = extras.get(key).copied().unwrap_or_default();
            Named { flags: flags | affinity, extras }
        };
        let traffic = &mut self.traffic;
        self.pools.write_services(model, &tables, named, |id| traffic.zero(id))?;
        self.pools.write_apart(model)?;
        let released = self.pools.settle(model, tables)?;
        self.forget(&released);
        self.extras.settle(self.pools.named())?;
        Ok(Confirmed { services: self.pools.confirmed(model), hosts, tables: self.pools.in_force() })
    }

    /// Flows that were sent to slots which are another host's next time are decided anew.
    fn forget(&self, slots: &[u16]) {
        if slots.is_empty() {
            return;
        }
        for flow in self.flows.words() {
            let word = flow.load(Relaxed);
            if word != 0 && slots.contains(&slot_of(word)) {
                // Another flow's by now: leave it.
                let _ = flow.compare_exchange(word, 0, Relaxed, Relaxed);
            }
        }
    }

    /// The mark that makes the probe program send a packet to this host.
    pub fn marks(&self, model: &Model) -> BTreeMap<(HostId, Family), u32> {
        let mut marks = BTreeMap::new();
        for (id, host) in model.hosts() {
            let Some(slot) = self.pools.slot(&id, host) else { continue };
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

    /// Prefixes of all lists of sources in the kernel, with one more for each list.
    pub fn source_prefixes(&self) -> usize {
        self.extras.prefixes()
    }

    /// Packets and bytes per service.
    pub fn traffic(&self) -> Result<BTreeMap<ServiceKey, Traffic>> {
        let services = self.pools.services();
        let end = services.values().map(|service| service.id + 1).max().unwrap_or(0);
        let all = self.traffic.read(end, sum)?;
        let of = |id: u32| all.get(id as usize).copied().unwrap_or_default();
        Ok(services.into_iter().map(|(key, service)| (key, of(service.id))).collect())
    }

    /// Packets and bytes per host.
    pub fn host_traffic(&self) -> Result<BTreeMap<HostId, Traffic>> {
        let slots = self.pools.slots();
        let end = slots.values().map(|slot| u32::from(*slot) + 1).max().unwrap_or(0);
        let all = self.host_traffic.read(end, sum)?;
        let of = |slot: u16| all.get(usize::from(slot)).copied().unwrap_or_default();
        Ok(slots.iter().map(|(host, slot)| (host.clone(), of(*slot))).collect())
    }

    /// Memory of all maps.
    pub fn memory(&self) -> Result<Vec<MapUse>> {
        self.pools.memory(&self.loaded)
    }
}

fn sum(sum: Traffic, cpu: &Traffic) -> Traffic {
    Traffic { packets: sum.packets + cpu.packets, bytes: sum.bytes + cpu.bytes }
}
