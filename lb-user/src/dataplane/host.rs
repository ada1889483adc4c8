//! The L7 host's end of the tunnel in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use aya::include_bytes_aligned;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData};
use aya::programs::TcAttachType;
use lb_common::flow::Addr;
use lb_common::maps::{self, ADDRESS_LOCAL, ADDRESS_VIP, Budget, KEEP, View, account_index};
use lb_common::reasons;

use super::accounts::{Accounts, ByGeneration};
use super::attach::{self, Attached};
use super::counters::{self, Counter};
use super::director::NO_PREALLOC;
use super::load::{Capacities, Loaded, MapShape, Object, kind};
use super::nexthops::{Sources, Standing};
use super::per_cpu::PerCpu;
use super::pools::{
    self, HOST_IDS, Hops, InForce, NEXTHOPS, Named, Pools, SERVICE_CHAINS, SERVICES, TABLES, map_error, shape,
};
use super::prefixes::{self, ANY_PREFIX, PREFIXES};
use super::slots::stable_id;
use super::usage::MapUse;
use super::{Error, Mode, Result, modes};
use crate::config::{Capacity, Decapsulation, XdpMode};
use crate::model::{Affinity, Doubt, Family, Host, HostId, HostState, Model, Service, ServiceKey};
use crate::netlink::NextHops;
use crate::vip::Vip;

/// The host's object.
pub static OBJECT: Object = Object {
    name: "host",
    bytes: include_bytes_aligned!("../../prebuilt/host.o"),
    maps: &[
        SERVICES,
        SERVICE_CHAINS,
        TABLES,
        NEXTHOPS,
        HOST_IDS,
        PREFIXES,
        shape("ADDRESSES", kind::HASH, 16, 4, 1024),
        MapShape { flags: NO_PREALLOC, ..shape("SENDERS", kind::LPM_TRIE, 20, 4, 1024) },
        shape("VIEWS", kind::ARRAY, 4, size_of::<View>(), 64),
        shape("ACCOUNTS", kind::PERCPU_ARRAY, 4, size_of::<maps::Account>(), account_index(1024, 0)),
        shape("BUDGET", kind::ARRAY, 4, size_of::<Budget>(), 1),
        shape("HOST_COUNTERS", kind::PERCPU_ARRAY, 4, 8, reasons::Host::COUNT as u32),
    ],
    constants: &[(ANY_PREFIX, ANY_PREFIX)],
};

/// How many entries each map has.
fn entries(options: &HostOptions) -> Capacities {
    let capacity = options.capacity;
    let mut entries = pools::entries(capacity);
    entries.extend([("VIEWS", capacity.tables), ("ACCOUNTS", account_index(capacity.services, 0))]);
    prefixes::tell(options.prefixes, &mut entries);
    entries
}

/// What the host's programs need to know about this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// Interfaces that packets of directors arrive on.
    pub interfaces: Vec<String>,
    /// What unwraps: a program of ours, or the kernel's own tunnel devices behind one that refuses what it would not unwrap.
    pub decapsulation: Decapsulation,
    /// Which XDP modes may be used.
    pub xdp: XdpMode,
    /// Some VIP is a prefix. A host that does not know unwraps nothing for such.
    pub prefixes: bool,
    /// Sizes of the maps.
    pub capacity: Capacity,
}

/// What is unwrapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// Senders, as prefixes.
    pub senders: Vec<(IpAddr, u8)>,
    /// Addresses of this machine that tunnels end at.
    pub locals: Vec<IpAddr>,
    /// VIPs.
    pub vips: BTreeSet<Vip>,
}

/// What the second chance needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Fellows<'a> {
    /// Services and pools, as the directors have them.
    pub model: &'a Model,
    /// Addresses of this machine: the members that have them are this host.
    pub locals: &'a [IpAddr],
    /// How the other hosts are reached.
    pub nexthops: &'a NextHops,
    /// What is said against them.
    pub doubts: &'a BTreeMap<HostId, Doubt>,
    /// Packets that may be passed on per second; 0: none is, and everything is kept.
    pub per_second: u32,
}

/// The host's programs and maps.
pub struct HostPlane {
    loaded: Loaded,
    options: HostOptions,
    attached: Vec<Attached>,
    pools: Pools,
    accounts: Accounts,
    budget: Array<MapData, Budget>,
    addresses: HashMap<MapData, Addr, u32>,
    senders: LpmTrie<MapData, Addr, u32>,
    counters: PerCpu<u64>,
}

impl HostPlane {
    /// Loads the programs over the maps pinned below `pins`, without attaching them; without pins, for test runs.
    pub fn load(options: HostOptions, pins: Option<&Path>) -> Result<Self> {
        Self::load_object(&OBJECT, options, pins)
    }

    /// Loads another build of the object, for `lb bench`.
    pub fn load_object(object: &Object, options: HostOptions, pins: Option<&Path>) -> Result<Self> {
        let mut loaded = object.load(pins, &entries(&options))?;
        Ok(HostPlane {
            pools: Pools::take(&mut loaded, "host", options.capacity)?,
            accounts: Accounts::take(&mut loaded)?,
            budget: loaded.map("BUDGET")?,
            addresses: loaded.map("ADDRESSES")?,
            senders: loaded.map("SENDERS")?,
            counters: PerCpu::take(&mut loaded, "HOST_COUNTERS")?,
            attached: Vec::new(),
            options,
            loaded,
        })
    }

    /// Puts the program on its interfaces, after the first [`HostPlane::sync`].
    pub fn attach(&mut self) -> Result<()> {
        let links = self.loaded.links()?;
        let mut attached = Vec::new();
        for interface in self.options.interfaces.clone() {
            attached.push(match self.options.decapsulation {
                Decapsulation::Xdp => self.attach_xdp(&interface, &links)?,
                Decapsulation::Tc => self.attach_tc(&interface, &links)?,
                Decapsulation::Kernel => self.attach_guard(&interface, &links)?,
                Decapsulation::Auto => match self.attach_xdp(&interface, &links) {
                    Ok(attached) => attached,
                    Err(xdp) => {
                        tracing::warn!(interface, "XDP is not to be had, TC is used instead: {xdp}");
                        self.attach_tc(&interface, &links).map_err(|tc| both(xdp, tc))?
                    }
                },
            });
        }
        attach::prune(&links, attached.iter().map(|attached| &attached.pin))?;
        self.attached = attached;
        self.loaded.settle()
    }

    /// An interface is not the one that a program was put on, or is gone.
    pub fn is_detached(&self) -> bool {
        attach::is_stale(&self.attached)
    }

    /// One program per interface: the other one's link goes once this one is there. Both unwrap the same packets, and
    /// the second finds nothing left to unwrap.
    fn attach_xdp(&mut self, interface: &str, links: &Path) -> Result<Attached> {
        let attached =
            attach::xdp(self.loaded.xdp("host")?, "host", interface, modes(self.options.xdp), links)?;
        attach::remove(&attach::pin_path(links, interface, "host_tc", Mode::Tc))?;
        Ok(attached)
    }

    fn attach_tc(&mut self, interface: &str, links: &Path) -> Result<Attached> {
        let program = self.loaded.tc("host_tc")?;
        let attached = attach::tc(program, "host_tc", interface, TcAttachType::Ingress, links)?;
        for mode in [Mode::XdpNative, Mode::XdpGeneric] {
            attach::remove(&attach::pin_path(links, interface, "host", mode))?;
        }
        Ok(attached)
    }

    fn attach_guard(&mut self, interface: &str, links: &Path) -> Result<Attached> {
        attach::remove(&attach::pin_path(links, interface, "host_tc", Mode::Tc))?;
        let program = self.loaded.xdp("host_guard")?;
        let guard = attach::xdp(program, "host", interface, modes(self.options.xdp), links)?;
        Ok(Attached { mode: Mode::Kernel, ..guard })
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
    pub fn options(&self) -> &HostOptions {
        &self.options
    }

    /// The maps were pinned by an agent before this one.
    pub fn adopted(&self) -> bool {
        self.loaded.adopted
    }

    /// A program of ours runs on an interface, of this agent or of one before it.
    pub fn runs(&self) -> bool {
        self.loaded.has_links()
    }

    /// The XDP program, for test runs.
    pub fn program(&mut self) -> Result<&mut aya::programs::Xdp> {
        self.loaded.xdp("host")
    }

    /// The TC program, for test runs.
    pub fn tc_program(&mut self) -> Result<&mut aya::programs::SchedClassifier> {
        self.loaded.tc("host_tc")
    }

    /// The XDP program that stands before the kernel's tunnel devices, for test runs.
    pub fn guard_program(&mut self) -> Result<&mut aya::programs::Xdp> {
        self.loaded.xdp("host_guard")
    }

    /// Brings the maps to what is wanted: additions first, so that nothing that stays accepted is ever refused.
    pub fn sync(&mut self, want: &Accept) -> Result<()> {
        let mut addresses = BTreeMap::new();
        let locals = want.locals.iter().map(|address| (*address, ADDRESS_LOCAL));
        let vips = want.vips.iter().filter_map(|vip| Some((vip.address()?, ADDRESS_VIP)));
        for (address, role) in locals.chain(vips) {
            *addresses.entry(address).or_insert(0) |= role;
        }
        self.pools.write_prefixes(&want.vips)?;
        write_addresses(&mut self.addresses, &addresses)?;
        let senders: Vec<_> = want.senders.iter().map(|(address, len)| sender_key(*address, *len)).collect();
        for key in &senders {
            self.senders.insert(key, 1, 0).map_err(map_error("SENDERS"))?;
        }
        let plain = |key: &Key<Addr>| (key.prefix_len(), key.data().octets());
        let have: Vec<_> = self.senders.keys().filter_map(|key| key.ok()).collect();
        for key in have.iter().filter(|have| !senders.iter().any(|want| plain(want) == plain(have))) {
            self.senders.remove(key).map_err(map_error("SENDERS"))?;
        }
        Ok(())
    }

    /// Brings the maps of the second chance to what is wanted, in the order of [`super::pools`]. What is unwrapped does
    /// not depend on it: a packet of a service that is not there is kept.
    pub fn sync_fellows(&mut self, want: &Fellows<'_>) -> Result<BTreeMap<String, InForce>> {
        let model = want.model;
        self.pools.check_capacity(model)?;
        self.set_budget(want.per_second)?;
        let standing = |id: &HostId, host: &Host| match (host.state, want.doubts.get(id)) {
            (HostState::Down, _) | (_, Some(Doubt::Dead)) => Standing::Dead,
            (_, Some(Doubt::Suspected)) => Standing::Doubtful,
            // Also one that is drained or fails its checks: it keeps its connections.
            _ => Standing::Good,
        };
        let hops = Hops { sources: Sources::default(), nexthops: want.nexthops };
        self.pools.write_hosts(model, hops, standing, |_| Ok(()))?;
        let tables = self.pools.write_tables(model)?;
        let own = |pool: &str| own_id(model, pool, want.locals);
        self.accounts.write_views(&self.pools.services(), model, &tables, own)?;
        let flags = |service: &Service| {
            let passes = service.affinity == Affinity::SecondChance && want.per_second > 0;
            if passes { 0 } else { KEEP }
        };
        let accounts = &mut self.accounts;
        let named = |_: &ServiceKey, service: &Service| Named { flags: flags(service), extras: 0 };
        self.pools.write_services(model, &tables, named, |id| accounts.clear(id))?;
        self.pools.settle(model, tables)?;
        Ok(self.pools.in_force())
    }

    /// Memory of all maps.
    pub fn memory(&self) -> Result<Vec<MapUse>> {
        self.pools.memory(&self.loaded)
    }

    /// What became of packets, by service and generation.
    pub fn accounts(&self) -> Result<Vec<ByGeneration>> {
        self.accounts.read(&self.pools.services())
    }

    fn set_budget(&mut self, per_second: u32) -> Result<()> {
        let want = Budget::per_second(per_second.into());
        let have = self.budget.get(&0, 0).map_err(map_error("BUDGET"))?;
        if have.limit != want.limit {
            self.budget.set(0, want, 0).map_err(map_error("BUDGET"))?;
        }
        Ok(())
    }

    /// All counters.
    pub fn counters(&self) -> Result<Vec<Counter>> {
        counters::read(&self.counters, "host", reasons::Host::ALL.iter().map(|r| (r.name(), r.help())))
    }
}

/// The stable id that this host has in a pool; 0 if it is no member.
fn own_id(model: &Model, pool: &str, locals: &[IpAddr]) -> u64 {
    let is_own =
        |host: &Host| Family::ALL.iter().any(|f| host.outer(*f).is_some_and(|a| locals.contains(&a)));
    let own = model.hosts().find(|(id, host)| id.pool == pool && is_own(host));
    own.map_or(0, |(id, host)| stable_id(&id, host))
}

/// Neither worked: the first failure is the one to mend.
fn both(xdp: Error, tc: Error) -> Error {
    match xdp {
        Error::Attach { program, interface, tried } => {
            Error::Attach { program, interface, tried: format!("{tried}; then {tc}") }
        }
        other => other,
    }
}

/// IPv4 prefixes are stored as IPv4-mapped ones, 96 bits longer; bits behind the prefix are cleared.
fn sender_key(address: IpAddr, len: u8) -> Key<Addr> {
    let len = u32::from(len) + if address.is_ipv4() { 96 } else { 0 };
    let bits = u128::from_be_bytes(Addr::from(address).octets());
    let mask = if len == 0 { 0 } else { u128::MAX << (128 - len.min(128)) };
    Key::new(len, Addr::from_octets((bits & mask).to_be_bytes()))
}

/// Brings an address map to `want`: what goes makes room for what comes, and what stays is not touched.
fn write_addresses(map: &mut HashMap<MapData, Addr, u32>, want: &BTreeMap<IpAddr, u32>) -> Result<()> {
    let have: BTreeMap<IpAddr, u32> =
        map.iter().filter_map(|entry| entry.ok()).map(|(address, roles)| (address.into(), roles)).collect();
    for address in have.keys().filter(|address| !want.contains_key(address)) {
        map.remove(&Addr::from(*address)).map_err(map_error("ADDRESSES"))?;
    }
    for (address, roles) in want.iter().filter(|(address, roles)| have.get(address) != Some(roles)) {
        map.insert(Addr::from(*address), roles, 0).map_err(map_error("ADDRESSES"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sender_prefixes_are_mapped_and_cut() {
        let key = sender_key([192, 0, 2, 200].into(), 25);
        assert_eq!(key.prefix_len(), 121);
        assert_eq!(IpAddr::from(key.data()), IpAddr::from([192, 0, 2, 128]));
    }
}
