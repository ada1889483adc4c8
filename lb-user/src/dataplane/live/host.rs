//! The role of a host: what is wanted of it, brought to its programs; and the ways to its fellow hosts, followed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use tokio::sync::watch;

use super::{PATIENCE, chain, outer_addresses, replace, resolve, tables};
use crate::agent::dataplane::{Applied, Interface, Role, Want};
use crate::config::{Config, Decapsulation, HostConfig};
use crate::dataplane::host::{Accept, Fellows, HostOptions, HostPlane};
use crate::dataplane::machine::Addresses;
use crate::dataplane::{Result, kernel_tunnel};
use crate::netlink::NextHops;

/// A host whose programs are loaded.
pub(super) struct OpenHost {
    pub plane: HostPlane,
    /// Of this machine, where tunnels may end.
    addresses: Addresses,
    pub nexthops: watch::Receiver<NextHops>,
    /// Addresses that the next hops are followed for, unless the director does it.
    wanted: Option<watch::Sender<BTreeSet<IpAddr>>>,
    attached: bool,
    opened: Instant,
    /// Addresses that the kernel's tunnel devices were made for.
    tunnels: Option<Vec<IpAddr>>,
}

impl OpenHost {
    /// With the next hops of the director, if this node is one as well: both then see the same at the same time.
    pub fn open(config: &Config, shared: Option<watch::Receiver<NextHops>>) -> Result<Self> {
        let Some(role) = &config.host else { unreachable!("opened for hosts only") };
        let options = HostOptions {
            interfaces: role.interfaces.clone(),
            decapsulation: role.decapsulation,
            xdp: role.xdp,
            prefixes: has_prefixes(config),
            capacity: role.capacity,
        };
        let mut plane = HostPlane::load(options, Some(&config.pins))?;
        plane.follow_log();
        let mut addresses = Addresses::default();
        addresses.read()?;
        let (wanted, nexthops) = match shared {
            Some(nexthops) => (None, nexthops),
            None => resolve(fellow_addresses(config)).map(|(wanted, nexthops)| (Some(wanted), nexthops))?,
        };
        Ok(OpenHost {
            plane,
            addresses,
            nexthops,
            wanted,
            attached: false,
            opened: Instant::now(),
            tunnels: None,
        })
    }

    pub fn apply(&mut self, want: &Want, applied: &mut Applied) -> Result<()> {
        let config = &*want.config;
        let Some(role) = &config.host else { return Ok(()) };
        self.learn_prefixes(config)?;
        if let Err(error) = self.addresses.read() {
            applied.problems.push(chain(&error));
        }
        let locals: Vec<_> = self.addresses.all().filter(|address| !is_vip(role, *address)).collect();
        if locals.is_empty() {
            applied.problems.push("this machine has no address that a tunnel could end at; add one".into());
        }
        let senders = role.accept_from.iter().map(|prefix| (prefix.address, prefix.length)).collect();
        let accept = Accept { senders, locals, vips: role.vips.clone() };
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

    /// The programs over the same maps once more, before the first VIP that is a prefix: what runs does not look for
    /// such.
    fn learn_prefixes(&mut self, config: &Config) -> Result<()> {
        let have = self.plane.options();
        if have.prefixes || !has_prefixes(config) {
            return Ok(());
        }
        let options = HostOptions { prefixes: true, ..have.clone() };
        self.plane = HostPlane::load(options, Some(&config.pins))?;
        self.plane.follow_log();
        self.attached = false;
        Ok(())
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

    fn ensure_tunnels(&mut self, role: &HostConfig, applied: &mut Applied) -> Result<()> {
        applied.problems.extend(kernel_tunnel::obstacle());
        let of_interface = role.interfaces.first().into_iter().flat_map(|name| self.addresses.of(name));
        let locals: Vec<_> = of_interface.filter(|address| !is_vip(role, *address)).collect();
        if self.tunnels.as_ref() != Some(&locals) || !kernel_tunnel::exist(&locals) {
            kernel_tunnel::ensure(&locals)?;
            self.tunnels = Some(locals);
        }
        Ok(())
    }
}

fn has_prefixes(config: &Config) -> bool {
    let own = config.host.iter().any(|host| host.vips.iter().any(|vip| vip.is_prefix()));
    own || config.model.has_prefixes()
}

/// It is a VIP, or in one.
fn is_vip(role: &HostConfig, address: IpAddr) -> bool {
    role.vips.iter().any(|vip| vip.contains(address))
}

/// Every address that this host may pass packets on to.
fn fellow_addresses(config: &Config) -> BTreeSet<IpAddr> {
    let passes = |host: &HostConfig| host.decapsulation != Decapsulation::Kernel && host.second_chances > 0;
    match &config.host {
        Some(host) if passes(host) && !config.model.services.is_empty() => outer_addresses(&config.model),
        _ => BTreeSet::new(),
    }
}
