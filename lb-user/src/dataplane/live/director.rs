//! The role of a director: what is wanted of it, brought to its programs; and the paths to its hosts, followed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::{PATIENCE, chain, outer_addresses, replace, resolve, serving, tables};
use crate::agent::dataplane::{Applied, Interface, Role, Want};
use crate::config::Config;
use crate::dataplane::director::{Director, DirectorOptions};
use crate::dataplane::machine::{self, Addresses, Machine};
use crate::dataplane::nexthops::{self, Sources, Standing};
use crate::dataplane::{Error, Result, probe_route};
use crate::desired::{self, Confirmed, Paths};
use crate::director_model::View;
use crate::health::Through;
use crate::model::{Family, Host, HostId, Model};
use crate::netlink::NextHops;
use crate::trace::Seen;

/// A director whose programs are loaded.
pub(super) struct OpenDirector {
    pub plane: Director,
    /// Of this machine, for outer sources.
    addresses: Addresses,
    pub nexthops: watch::Receiver<NextHops>,
    wanted: watch::Sender<BTreeSet<IpAddr>>,
    /// The model and sources that paths are computed for.
    model: watch::Sender<(Arc<Model>, Sources)>,
    pub paths: watch::Receiver<Paths>,
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

impl OpenDirector {
    pub fn open(config: &Config) -> Result<Self> {
        let Some(role) = &config.director else { unreachable!("opened for directors only") };
        let options = DirectorOptions {
            interfaces: role.interfaces.clone(),
            xdp: role.xdp,
            flows: role.flows,
            icmp_errors: role.icmp_errors,
            prefixes: config.model.has_prefixes(),
            capacity: role.capacity,
        };
        let mut plane = Director::load(options, Some(&config.pins))?;
        plane.follow_log();
        let mut addresses = Addresses::default();
        addresses.read()?;
        let sources = sources(config, &addresses);
        let (wanted, nexthops) = resolve(outer_addresses(&config.model))?;
        let (model, of_model) = watch::channel((Arc::new(config.model.clone()), sources));
        let (paths_to, paths) = watch::channel(Paths::new());
        tokio::spawn(follow_paths(nexthops.clone(), of_model, machine::follow(), paths_to));
        Ok(OpenDirector {
            plane,
            addresses,
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

    pub fn apply(&mut self, want: &Want, applied: &mut Applied) {
        let config = &want.config;
        if let Err(error) = self.addresses.read() {
            applied.problems.push(chain(&error));
        }
        let sources = sources(config, &self.addresses);
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
        let learnt = self.learn_prefixes(config);
        match learnt.and_then(|()| self.plane.sync(&config.model, sources, &nexthops, &self.health)) {
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

    /// The programs over the same maps once more, before the first VIP that is a prefix: what runs does not look for
    /// such.
    fn learn_prefixes(&mut self, config: &Config) -> Result<()> {
        let have = self.plane.options();
        if have.prefixes || !config.model.has_prefixes() {
            return Ok(());
        }
        let options = DirectorOptions { prefixes: true, ..have.clone() };
        self.plane = Director::load(options, Some(&config.pins))?;
        self.plane.follow_log();
        (self.attached, self.probe) = (false, None);
        Ok(())
    }

    pub fn seen(&self) -> Seen {
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
        let sources = sources(&want.config, &self.addresses);
        let served = want.config.model.services.iter().all(|(key, service)| {
            want.config.model.hosts().any(|(id, host)| {
                id.pool == service.pool
                    && want.healthy.contains(&id)
                    && nexthops::entry(host, key.vip.family(), Standing::Good, sources, &nexthops).1.is_none()
            })
        });
        served || !self.plane.replaces_older_maps() || self.opened.elapsed() > PATIENCE
    }

    /// The program that encapsulates probes is there while a check needs it: it asks more of the kernel than the
    /// director's own, and users' packets are forwarded without it.
    fn place_probe(&mut self, config: &Config, sources: Sources, applied: &mut Applied) {
        let needed = config.checks.values().flatten().any(|check| check.through == Through::Tunnel);
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
fn ensure_probe_route(source: IpAddr) -> Result<()> {
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

/// Outer sources: as configured, else the first global address of the first interface.
fn sources(config: &Config, addresses: &Addresses) -> Sources {
    let Some(role) = &config.director else { return Sources::default() };
    let of_interface = || role.interfaces.first().into_iter().flat_map(|name| addresses.of(name));
    let v4 = || of_interface().find_map(|a| if let IpAddr::V4(v4) = a { Some(v4) } else { None });
    let v6 = || of_interface().find_map(|a| if let IpAddr::V6(v6) = a { Some(v6) } else { None });
    Sources {
        v4: role.source4.or_else(v4),
        v6: role.source6.or_else(v6),
        spread4: role.spread4,
        spread6: role.spread6,
    }
}
