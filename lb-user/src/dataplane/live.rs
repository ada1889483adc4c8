//! The data plane as the agent sees it: both roles behind the agent's traits, with routes and neighbours followed.

mod director;
mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use lb_common::maps::Traffic;
use tokio::sync::watch;

use self::director::OpenDirector;
use self::host::OpenHost;
use super::accounts::ByGeneration;
use super::director::{Director, InForce, OBJECT as DIRECTOR};
use super::host::OBJECT as HOST;
use super::lock::PinsLock;
use super::machine::{self, Machine};
use super::usage::MapUse;
use super::{Error, kernel_tunnel, load, probe_route};
use crate::agent::dataplane::{
    Account, Adopted, Applied, Counter, Dataplane, DataplaneError, Kernel, Opened, Role, Want,
};
use crate::agent::readings::{HostTraffic, MapMemory, Readings, ServiceTraffic};
use crate::config::Config;
use crate::desired::{Paths, Serving};
use crate::model::{Family, Model};
use crate::netlink::{NextHops, Resolver};
use crate::trace::Seen;

/// How long what runs is left in place for want of what a new agent has yet to learn.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kernel of this machine, as seen from the network namespace that the agent was started in.
pub struct Live;

impl Kernel for Live {
    fn open(&self, config: &Config) -> Result<Opened, DataplaneError> {
        let lock = PinsLock::take(&config.pins).map_err(report)?;
        let director =
            config.director.as_ref().map(|_| OpenDirector::open(config)).transpose().map_err(report)?;
        let shared = director.as_ref().map(|director| director.nexthops.clone());
        let host =
            config.host.as_ref().map(|_| OpenHost::open(config, shared)).transpose().map_err(report)?;
        // With maps made anew a program of before still serves, and what is announced is to stay as well.
        let running = |plane: &Director| plane.adopted() || plane.replaces_older_maps();
        let adopted = director.as_ref().filter(|director| running(&director.plane));
        let adopted =
            adopted.map(|director| Adopted { healthy: director.plane.adopted_health(&config.model) });
        let paths = match &director {
            Some(director) => director.paths.clone(),
            None => poke(machine::follow(), host.as_ref().map(|host| host.nexthops.clone())),
        };
        let adopted = adopted.or_else(|| {
            host.as_ref().filter(|host| host.plane.adopted()).map(|_| Adopted { healthy: BTreeMap::new() })
        });
        Ok(Opened { dataplane: Box::new(Planes { director, host, _lock: lock }), adopted, paths })
    }

    fn detach(&self, config: &Config) -> Result<(), DataplaneError> {
        kernel_tunnel::remove();
        if let Ok((connection, handle, _)) = rtnetlink::new_connection() {
            let runtime = tokio::runtime::Handle::current();
            runtime.spawn(connection);
            runtime.block_on(probe_route::remove(&handle));
        }
        for object in [DIRECTOR.name, HOST.name] {
            load::remove_dir(&config.pins.join(object)).map_err(report)?;
        }
        Ok(())
    }
}

/// What runs.
struct Planes {
    director: Option<OpenDirector>,
    host: Option<OpenHost>,
    /// Given up after the roles are closed.
    _lock: PinsLock,
}

impl Dataplane for Planes {
    fn apply(&mut self, want: &Want) -> Applied {
        let mut applied = Applied { problems: leftovers(&want.config), ..Applied::default() };
        if let Some(director) = &mut self.director {
            director.apply(want, &mut applied);
        }
        if let Some(host) = &mut self.host
            && let Err(error) = host.apply(want, &mut applied)
        {
            applied.problems.push(chain(&error));
        }
        applied
    }

    fn accounts(&mut self) -> Result<Vec<Account>, DataplaneError> {
        let Some(host) = &self.host else { return Ok(Vec::new()) };
        let account = |by: ByGeneration| Account {
            service: by.service,
            generation: by.generation,
            local: by.account.local,
            rescued: by.account.rescued,
            passed_on: by.account.passed_on,
            last_resort: by.account.last_resort,
            over_budget: by.account.over_budget,
        };
        Ok(host.plane.accounts().map_err(report)?.into_iter().map(account).collect())
    }

    fn readings(&mut self) -> Result<Readings, DataplaneError> {
        let mut readings = Readings::default();
        if let Some(OpenDirector { plane, .. }) = &self.director {
            readings.memory.extend(memory(Role::Director, plane.memory().map_err(report)?));
            let services = plane.traffic().map_err(report)?.into_iter();
            let of =
                |(service, t): (_, Traffic)| ServiceTraffic { service, packets: t.packets, bytes: t.bytes };
            readings.services = services.map(of).collect();
            let hosts = plane.host_traffic().map_err(report)?.into_iter();
            readings.hosts = hosts.map(|(id, t)| HostTraffic::of(id, t.packets, t.bytes)).collect();
        }
        if let Some(OpenHost { plane, .. }) = &self.host {
            readings.memory.extend(memory(Role::Host, plane.memory().map_err(report)?));
        }
        Ok(readings)
    }

    fn seen(&mut self) -> Option<Seen> {
        self.director.as_ref().map(OpenDirector::seen)
    }

    fn counters(&mut self) -> Result<Vec<Counter>, DataplaneError> {
        let mut all = Vec::new();
        if let Some(director) = &self.director {
            all.extend(director.plane.counters().map_err(report)?.into_iter().map(|c| (Role::Director, c)));
        }
        if let Some(host) = &self.host {
            all.extend(host.plane.counters().map_err(report)?.into_iter().map(|c| (Role::Host, c)));
        }
        let counter = |(role, c): (Role, super::counters::Counter)| Counter {
            role,
            name: c.name,
            help: c.help,
            value: c.value,
        };
        Ok(all.into_iter().map(counter).collect())
    }
}

fn memory(role: Role, uses: Vec<MapUse>) -> impl Iterator<Item = MapMemory> {
    let memory = move |MapUse { map, purpose, bytes }| MapMemory {
        role,
        map: map.into(),
        purpose: purpose.into(),
        bytes,
    };
    uses.into_iter().map(memory)
}

/// Has everything applied again whenever this machine or the way to a fellow host has changed: without the role of a
/// director, nothing is to be known of paths.
fn poke(
    mut machine: watch::Receiver<Machine>,
    nexthops: Option<watch::Receiver<NextHops>>,
) -> watch::Receiver<Paths> {
    let (to, paths) = watch::channel(Paths::new());
    let mut nexthops = nexthops;
    tokio::spawn(async move {
        loop {
            let changed = match &mut nexthops {
                Some(nexthops) => tokio::select! {
                    changed = machine.changed() => changed,
                    changed = nexthops.changed() => changed,
                },
                None => machine.changed().await,
            };
            if changed.is_err() || to.send(Paths::new()).is_err() {
                return;
            }
        }
    });
    paths
}

/// Programs of a role that the configuration no longer has: they go on until they are detached on purpose, since VIPs
/// may still be announced.
fn leftovers(config: &Config) -> Vec<String> {
    let roles = [(config.director.is_none(), &DIRECTOR), (config.host.is_none(), &HOST)];
    let links = |name| std::fs::read_dir(config.pins.join(name).join("links"));
    roles
        .into_iter()
        .filter(|(unwanted, object)| *unwanted && links(object.name).is_ok_and(|mut l| l.next().is_some()))
        .map(|(_, object)| {
            let name = object.name;
            format!("programs of the role {name} still run, which is configured no more; run `lb detach`, then `lb agent`")
        })
        .collect()
}

fn serving(in_force: InForce) -> Serving {
    Serving { generation: in_force.generation, digest: in_force.digest }
}

fn tables(
    role: Role,
    in_force: BTreeMap<String, InForce>,
) -> impl Iterator<Item = ((Role, String), Serving)> {
    in_force.into_iter().map(move |(pool, table)| ((role, pool), serving(table)))
}

/// Follows routes and neighbours towards the addresses that are sent to.
fn resolve(
    addresses: BTreeSet<IpAddr>,
) -> super::Result<(watch::Sender<BTreeSet<IpAddr>>, watch::Receiver<NextHops>)> {
    let (wanted, wanted_by) = watch::channel(addresses);
    let nexthops = Resolver::start(wanted_by).map_err(|error| Error::Netlink {
        what: "follow routes and neighbours".into(),
        reason: error.to_string(),
    })?;
    Ok((wanted, nexthops))
}

/// Every address that packets of this model may be sent to.
fn outer_addresses(model: &Model) -> BTreeSet<IpAddr> {
    model.hosts().flat_map(|(_, host)| Family::ALL.map(|family| host.outer(family))).flatten().collect()
}

fn replace<T: PartialEq>(place: &mut T, value: T) -> bool {
    let differs = *place != value;
    *place = value;
    differs
}

fn report(error: Error) -> DataplaneError {
    DataplaneError(chain(&error))
}

/// An error with its causes, in one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}
