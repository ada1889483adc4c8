//! The data plane as the agent sees it: both roles behind the agent's traits, with routes and neighbours followed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::accounts::ByGeneration;
use super::director::{Director, DirectorOptions, InForce};
use super::host::{Accept, Fellows, HostOptions, HostPlane};
use super::machine::{self, Machine, addresses};
use super::nexthops::{self, Sources, Standing};
use super::{Error, director, host, kernel_tunnel, load, probe_route};
use crate::agent::dataplane::{
    Account, Adopted, Applied, Counter, Dataplane, DataplaneError, Interface, Kernel, Opened, Role, Want,
};
use crate::config::{Config, Decapsulation, HostConfig};
use crate::desired::{self, Confirmed, Paths, Serving};
use crate::director_model::View;
use crate::model::{Family, Host, HostId, Model};
use crate::netlink::{NextHops, Resolver};
use crate::trace::Seen;

/// The kernel of this machine, as seen from the network namespace that the agent was started in.
pub struct Live;

impl Kernel for Live {
    fn open(&self, config: &Config) -> Result<Opened, DataplaneError> {
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
        Ok(Opened { dataplane: Box::new(Planes { director, host }), adopted, paths })
    }

    fn detach(&self, config: &Config) -> Result<(), DataplaneError> {
        kernel_tunnel::remove();
        if let Ok((connection, handle, _)) = rtnetlink::new_connection() {
            let runtime = tokio::runtime::Handle::current();
            runtime.spawn(connection);
            runtime.block_on(probe_route::remove(&handle));
        }
        for object in [director::OBJECT.name, host::OBJECT.name] {
            load::remove_dir(&config.pins.join(object)).map_err(report)?;
        }
        Ok(())
    }
}

/// What runs.
struct Planes {
    director: Option<OpenDirector>,
    host: Option<OpenHost>,
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

struct OpenDirector {
    plane: Director,
    nexthops: watch::Receiver<NextHops>,
    wanted: watch::Sender<BTreeSet<IpAddr>>,
    /// The model and sources that paths are computed for.
    model: watch::Sender<(Arc<Model>, Sources)>,
    paths: watch::Receiver<Paths>,
    /// Sources that probe routes exist for.
    routed: BTreeSet<IpAddr>,
    /// Services as the kernel has them.
    confirmed: Confirmed,
    /// What the checks said when the next hops were written last.
    health: BTreeMap<HostId, bool>,
    attached: bool,
    /// Whether the program for probes is there, once that is known.
    probe: Option<bool>,
    opened: Instant,
}

/// How long a program over older maps is left in place for want of healthy hosts.
const PATIENCE: Duration = Duration::from_secs(10);

impl OpenDirector {
    fn open(config: &Config) -> super::Result<Self> {
        let Some(role) = &config.director else { unreachable!("opened for directors only") };
        let options = DirectorOptions {
            interfaces: role.interfaces.clone(),
            xdp: role.xdp,
            flows: role.flows,
            capacity: role.capacity,
        };
        let mut plane = Director::load(options, Some(&config.pins))?;
        plane.follow_log();
        let sources = sources(config);
        let (wanted, nexthops) = resolve(outer_addresses(&config.model))?;
        let (model, of_model) = watch::channel((Arc::new(config.model.clone()), sources));
        let (paths_to, paths) = watch::channel(Paths::new());
        tokio::spawn(follow_paths(nexthops.clone(), of_model, machine::follow(), paths_to));
        Ok(OpenDirector {
            plane,
            nexthops,
            wanted,
            model,
            paths,
            routed: BTreeSet::new(),
            confirmed: Confirmed::new(),
            health: BTreeMap::new(),
            attached: false,
            probe: None,
            opened: Instant::now(),
        })
    }

    fn apply(&mut self, want: &Want, applied: &mut Applied) {
        let config = &want.config;
        let sources = sources(config);
        self.wanted.send_if_modified(|wanted| replace(wanted, outer_addresses(&config.model)));
        self.model.send_if_modified(|now| {
            *now.0 != config.model && {
                *now = (Arc::new(config.model.clone()), sources);
                true
            } || replace(&mut now.1, sources)
        });
        (applied.source4, applied.source6) = (sources.v4, sources.v6);
        self.health = config.model.hosts().map(|(id, _)| (id.clone(), want.healthy.contains(&id))).collect();
        let nexthops = self.nexthops.borrow().clone();
        match self.plane.sync(&config.model, sources, &nexthops, &self.health) {
            Ok(confirmed) => {
                applied.services =
                    confirmed.services.into_iter().map(|(key, f)| (key, Ok(serving(f)))).collect();
                applied.tables.extend(tables(Role::Director, confirmed.tables));
                self.confirmed = applied.services.clone();
            }
            Err(error) => {
                // What the kernel served before, it still serves; only what is new is refused.
                let reason = chain(&error);
                let service = |key| self.confirmed.get(key).cloned().unwrap_or_else(|| Err(reason.clone()));
                applied.services = config.model.services.keys().map(|key| (*key, service(key))).collect();
                applied.problems.push(reason);
            }
        }
        if !self.attached || self.plane.is_detached() {
            self.attached = false;
            self.attach(want, applied);
        }
        if self.attached {
            self.place_probe(config, sources, applied);
        }
        applied.marks = self.plane.marks(&config.model);
        applied.interfaces.extend(self.plane.attached().iter().map(|attached| Interface {
            name: attached.interface.clone(),
            role: Role::Director,
            mode: attached.mode.name().into(),
        }));
    }

    fn seen(&self) -> Seen {
        let (model, sources) = self.model.borrow().clone();
        let nexthops = self.nexthops.borrow().clone();
        let view = View::new(model, sources, nexthops, self.health.clone());
        Seen { view, confirmed: self.confirmed.clone() }
    }

    fn attach(&mut self, want: &Want, applied: &mut Applied) {
        if !self.may_attach(want) {
            applied.problems.push("waits for healthy hosts before it replaces the program that runs".into());
            return;
        }
        match self.plane.attach() {
            Ok(()) => self.attached = true,
            Err(error) => {
                let reason = chain(&error);
                let services = want.config.model.services.keys();
                applied.services = services.map(|key| (*key, Err(reason.clone()))).collect();
                applied.problems.push(reason);
            }
        }
    }

    /// A program that runs over older maps is replaced only by one that can serve: new maps know no healthy host until
    /// the checks have answered.
    fn may_attach(&self, want: &Want) -> bool {
        let nexthops = self.nexthops.borrow();
        let sources = sources(&want.config);
        let served = want.config.model.services.iter().all(|(key, service)| {
            want.config.model.hosts().any(|(id, host)| {
                id.pool == service.pool
                    && want.healthy.contains(&id)
                    && nexthops::entry(host, Family::of(key.vip), Standing::Good, sources, &nexthops)
                        .1
                        .is_none()
            })
        });
        served || !self.plane.replaces_older_maps() || self.opened.elapsed() > PATIENCE
    }

    /// The program that encapsulates probes is there while a check needs it: it asks more of the kernel than the
    /// director's own, and users' packets are forwarded without it.
    fn place_probe(&mut self, config: &Config, sources: Sources, applied: &mut Applied) {
        let needed =
            config.checks.values().flatten().any(|check| check.through == crate::health::Through::Tunnel);
        if needed {
            self.ensure_probe_routes(sources, applied);
        }
        if self.probe == Some(needed) {
            return;
        }
        match if needed { self.plane.attach_probe() } else { self.plane.detach_probe() } {
            Ok(()) => self.probe = Some(needed),
            Err(error) => {
                let reason = chain(&error);
                applied.problems.push(match needed {
                    true => format!("checks `through: tunnel` cannot work: {reason}; use `through: address`"),
                    false => reason,
                });
            }
        }
    }

    fn ensure_probe_routes(&mut self, sources: Sources, applied: &mut Applied) {
        let want: BTreeSet<IpAddr> =
            sources.v4.map(IpAddr::V4).into_iter().chain(sources.v6.map(IpAddr::V6)).collect();
        for source in want.difference(&self.routed.clone()) {
            match ensure_probe_route(*source) {
                Ok(()) => drop(self.routed.insert(*source)),
                Err(error) => applied.problems.push(chain(&error)),
            }
        }
    }
}

/// A connection of its own: this happens once per source address.
fn ensure_probe_route(source: IpAddr) -> super::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| Error::Netlink {
        what: "open a netlink socket".into(),
        reason: error.to_string(),
    })?;
    let runtime = tokio::runtime::Handle::current();
    let connection = runtime.spawn(connection);
    let done = runtime.block_on(probe_route::ensure(&handle, source));
    connection.abort();
    done
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
    let roles = [(config.director.is_none(), &director::OBJECT), (config.host.is_none(), &host::OBJECT)];
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

/// Tells which hosts packets can be sent to, whenever routes, neighbours or the model change.
async fn follow_paths(
    mut nexthops: watch::Receiver<NextHops>,
    mut model: watch::Receiver<(Arc<Model>, Sources)>,
    mut machine: watch::Receiver<Machine>,
    paths: watch::Sender<Paths>,
) {
    loop {
        let next = {
            let (model, sources) = &*model.borrow_and_update();
            paths_of(model, *sources, &nexthops.borrow_and_update())
        };
        // Also told when no path differs: a next hop's address may have changed, and is to be written.
        if paths.send(next).is_err() {
            return;
        }
        tokio::select! {
            changed = nexthops.changed() => if changed.is_err() { return },
            changed = model.changed() => if changed.is_err() { return },
            changed = machine.changed() => if changed.is_err() { return },
        }
    }
}

fn paths_of(model: &Model, sources: Sources, nexthops: &NextHops) -> Paths {
    let known = |(id, host): (HostId, &Host)| {
        // What netlink has not answered yet is unknown, not unusable: the agent waits for it before it judges.
        if Family::ALL
            .iter()
            .filter_map(|family| host.outer(*family))
            .any(|outer| !nexthops.contains_key(&outer))
        {
            return None;
        }
        let mut path = desired::Path { usable4: true, usable6: true, reason: None };
        for family in Family::ALL {
            let (_, reason) = nexthops::entry(host, family, Standing::Good, sources, nexthops);
            match family {
                Family::V4 => path.usable4 = reason.is_none(),
                Family::V6 => path.usable6 = reason.is_none(),
            }
            path.reason = path.reason.or(reason);
        }
        Some((id, path))
    };
    model.hosts().filter_map(known).collect()
}

struct OpenHost {
    plane: HostPlane,
    nexthops: watch::Receiver<NextHops>,
    /// Addresses that the next hops are followed for, unless the director does it.
    wanted: Option<watch::Sender<BTreeSet<IpAddr>>>,
    attached: bool,
    opened: Instant,
    /// Addresses that the kernel's tunnel devices were made for.
    tunnels: Option<Vec<IpAddr>>,
}

impl OpenHost {
    /// With the next hops of the director, if this node is one as well: both then see the same at the same time.
    fn open(config: &Config, shared: Option<watch::Receiver<NextHops>>) -> super::Result<Self> {
        let Some(role) = &config.host else { unreachable!("opened for hosts only") };
        let options = HostOptions {
            interfaces: role.interfaces.clone(),
            decapsulation: role.decapsulation,
            xdp: role.xdp,
            capacity: role.capacity,
        };
        let mut plane = HostPlane::load(options, Some(&config.pins))?;
        plane.follow_log();
        let (wanted, nexthops) = match shared {
            Some(nexthops) => (None, nexthops),
            None => resolve(fellow_addresses(config)).map(|(wanted, nexthops)| (Some(wanted), nexthops))?,
        };
        Ok(OpenHost { plane, nexthops, wanted, attached: false, opened: Instant::now(), tunnels: None })
    }

    fn apply(&mut self, want: &Want, applied: &mut Applied) -> super::Result<()> {
        let config = &*want.config;
        let Some(role) = &config.host else { return Ok(()) };
        let vips: Vec<IpAddr> = role.vips.iter().copied().collect();
        let locals: Vec<_> =
            addresses(None).into_iter().filter(|address| !role.vips.contains(address)).collect();
        if locals.is_empty() {
            applied.problems.push("this machine has no address that a tunnel could end at; add one".into());
        }
        let senders = role.accept_from.iter().map(|prefix| (prefix.address, prefix.length)).collect();
        let accept = Accept { senders, locals, vips };
        self.plane.sync(&accept)?;
        if let Some(wanted) = &self.wanted {
            wanted.send_if_modified(|wanted| replace(wanted, fellow_addresses(config)));
        }
        if self.waits_for_ways(want) {
            applied
                .problems
                .push("waits for the ways to the other hosts before it replaces what runs".into());
            return Ok(());
        }
        // Before the program is attached: what it knows no service of, it keeps.
        self.follow_fellows(role, want, &accept.locals, applied);
        if !self.attached || self.plane.is_detached() {
            self.attached = false;
            self.plane.attach()?;
            self.attached = true;
        }
        applied.interfaces.extend(self.plane.attached().iter().map(|attached| Interface {
            name: attached.interface.clone(),
            role: Role::Host,
            mode: attached.mode.name().into(),
        }));
        // After the program: the devices accept whatever it lets through.
        match role.decapsulation {
            Decapsulation::Kernel => self.ensure_tunnels(role, applied),
            _ => {
                kernel_tunnel::remove();
                Ok(())
            }
        }
    }

    /// Without them everything that comes here is kept, as the directors sent it.
    fn follow_fellows(&mut self, role: &HostConfig, want: &Want, locals: &[IpAddr], applied: &mut Applied) {
        let nexthops = self.nexthops.borrow_and_update().clone();
        let fellows = Fellows {
            model: &want.config.model,
            locals,
            nexthops: &nexthops,
            doubts: &want.doubts,
            per_second: role.second_chances,
        };
        match self.plane.sync_fellows(&fellows) {
            Ok(in_force) => applied.tables.extend(tables(Role::Host, in_force)),
            // What was in force stays, but it is not what is wanted.
            Err(error) => applied.problems.push(chain(&error)),
        }
    }

    /// What runs knows ways that a new agent has yet to look up: to write none instead would take away what works, and a
    /// program over new maps would keep what it cannot pass on. Once all have been looked up, for good or ill, or after a
    /// while, it goes on.
    fn waits_for_ways(&self, want: &Want) -> bool {
        let nexthops = self.nexthops.borrow();
        let known = |address: &IpAddr| nexthops.contains_key(address);
        !self.attached
            && self.plane.runs()
            && self.opened.elapsed() < PATIENCE
            && !fellow_addresses(&want.config).iter().all(known)
    }

    fn ensure_tunnels(&mut self, role: &HostConfig, applied: &mut Applied) -> super::Result<()> {
        applied.problems.extend(kernel_tunnel::obstacle());
        let of_interface = role.interfaces.first().map(|name| addresses(Some(name))).unwrap_or_default();
        let locals: Vec<_> =
            of_interface.into_iter().filter(|address| !role.vips.contains(address)).collect();
        if self.tunnels.as_ref() != Some(&locals) || !kernel_tunnel::exist(&locals) {
            kernel_tunnel::ensure(&locals)?;
            self.tunnels = Some(locals);
        }
        Ok(())
    }
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

/// Outer sources: as configured, else the first global address of the first interface.
fn sources(config: &Config) -> Sources {
    let Some(role) = &config.director else { return Sources::default() };
    let of_interface = role.interfaces.first().map(|name| addresses(Some(name))).unwrap_or_default();
    let v4 = || of_interface.iter().find_map(|a| if let IpAddr::V4(v4) = a { Some(*v4) } else { None });
    let v6 = || of_interface.iter().find_map(|a| if let IpAddr::V6(v6) = a { Some(*v6) } else { None });
    Sources { v4: role.source4.or_else(v4), v6: role.source6.or_else(v6) }
}

/// Every address that this host may pass packets on to.
fn fellow_addresses(config: &Config) -> BTreeSet<IpAddr> {
    let passes = |host: &HostConfig| host.decapsulation != Decapsulation::Kernel && host.second_chances > 0;
    match &config.host {
        Some(host) if passes(host) && !config.model.services.is_empty() => outer_addresses(&config.model),
        _ => BTreeSet::new(),
    }
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
