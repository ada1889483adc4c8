//! What should be announced, and why not: a pure function of what is configured and what is known.
//!
//! A service is *servable* while the data plane has confirmed it and enough of its hosts take packets. A VIP is
//! announced while all its services are servable and the operator has neither disabled this node nor had it leave: users
//! of one port must not lose theirs because a router sees only the address.

use std::collections::{BTreeMap, BTreeSet};

use crate::health::HealthView;
use crate::model::{Family, HostId, HostState, Model, ServiceKey};
use crate::vip::Vip;

/// What decides.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Services and pools as configured.
    pub model: &'a Model,
    /// What the health checks say.
    pub health: &'a HealthView,
    /// Hosts that packets can be sent to, with the reason where not.
    pub paths: &'a Paths,
    /// Services that the kernel serves as configured, or why not.
    pub confirmed: &'a Confirmed,
    /// The operator wants nothing announced.
    pub disabled: bool,
    /// VIPs that have left by the operator's order.
    pub withdrawn: &'a BTreeSet<Vip>,
    /// The announcements of an agent before this one may stand until all that decides is known.
    pub inherited: bool,
    /// The manifest, which has the pools, has not been read yet.
    pub waiting: bool,
}

/// Services that the kernel serves as configured, or why not.
pub type Confirmed = BTreeMap<ServiceKey, Result<Serving, String>>;

/// How the kernel serves a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Generation of the pool in the kernel.
    pub generation: u16,
    /// Digest of the table in the kernel.
    pub digest: u64,
}

/// Whether packets can be sent to a host, by the family of the VIP.
pub type Paths = BTreeMap<HostId, Path>;

/// Whether packets can be sent to a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Packets to IPv4 VIPs can.
    pub usable4: bool,
    /// Packets to IPv6 VIPs can.
    pub usable6: bool,
    /// Why not.
    pub reason: Option<String>,
}

impl Path {
    /// Whether packets to VIPs of this family can be sent.
    pub fn usable(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.usable4,
            Family::V6 => self.usable6,
        }
    }
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Every configured service.
    pub services: BTreeMap<ServiceKey, ServiceDecision>,
    /// VIPs to announce; `None`: leave what is announced as it is.
    pub vips: Option<BTreeSet<Vip>>,
}

/// What follows for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceDecision {
    /// Hosts of the pool that take new connections when they work.
    pub hosts: usize,
    /// Those of them that work.
    pub healthy: usize,
    /// Its VIP is to be announced.
    pub announce: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// Decides.
pub fn decide(facts: &Facts<'_>) -> Decision {
    let mut services: BTreeMap<ServiceKey, ServiceDecision> =
        facts.model.services.keys().map(|key| (*key, judge(facts, key))).collect();
    withhold_with_their_neighbours(facts.model, &mut services);
    if facts.disabled {
        for service in services.values_mut() {
            service.announce = false;
            service.reason = Some("disabled by the operator".into());
        }
        return Decision { services, vips: Some(BTreeSet::new()) };
    }
    for (_, service) in services.iter_mut().filter(|(key, _)| facts.withdrawn.contains(&key.vip)) {
        service.announce = false;
        service.reason = Some("has left by the operator's order".into());
    }
    if facts.inherited && !settled(facts) {
        return Decision { services, vips: None };
    }
    let vips = services.iter().filter(|(_, service)| service.announce).map(|(key, _)| key.vip).collect();
    Decision { services, vips: Some(vips) }
}

/// Every active host has been looked up, for good or ill.
pub fn paths_are_known(model: &Model, paths: &Paths) -> bool {
    active(model).all(|id| paths.contains_key(&id))
}

/// All that the decision depends on has been found out, for good or ill.
fn settled(facts: &Facts<'_>) -> bool {
    let judged = |id: HostId| facts.health.get(&id).is_some_and(|health| health.known);
    facts.model.services.keys().all(|key| facts.confirmed.contains_key(key))
        && paths_are_known(facts.model, facts.paths)
        && active(facts.model).all(judged)
}

/// The hosts that take new connections, of pools that are in use.
fn active(model: &Model) -> impl Iterator<Item = HostId> {
    let used: BTreeSet<&String> = model.services.values().map(|service| &service.pool).collect();
    used.into_iter().flat_map(|pool| active_of(model, pool))
}

/// The hosts of a pool that take new connections.
fn active_of(model: &Model, pool: &str) -> Vec<HostId> {
    let hosts = model.pools.get(pool).into_iter().flat_map(|pool| &pool.hosts);
    let active = hosts.filter(|(_, host)| host.state == HostState::Active);
    active.map(|(name, _)| HostId { pool: pool.to_owned(), host: name.clone() }).collect()
}

/// A service by itself.
fn judge(facts: &Facts<'_>, key: &ServiceKey) -> ServiceDecision {
    let service = &facts.model.services[key];
    let family = key.vip.family();
    let active = active_of(facts.model, &service.pool);
    let works = |id: &&HostId| {
        facts.health.get(*id).is_some_and(|health| health.healthy)
            && facts.paths.get(*id).is_some_and(|path| path.usable(family))
    };
    let healthy = active.iter().filter(works).count();
    let has_hosts = facts.model.pools.get(&service.pool).is_some_and(|pool| !pool.hosts.is_empty());
    let reason = match facts.confirmed.get(key) {
        _ if facts.waiting => Some("waits for the manifest".into()),
        _ if !has_hosts => {
            Some(format!("the manifest has no pool {:?}; make it by `lb pool add --create`", service.pool))
        }
        Some(Err(reason)) => Some(format!("not in the kernel: {reason}")),
        None => Some("not yet in the kernel".into()),
        Some(Ok(_)) if healthy < service.quorum => {
            Some(format!("{healthy} of {} hosts work, {} needed", active.len(), service.quorum))
        }
        Some(Ok(_)) => None,
    };
    ServiceDecision { hosts: active.len(), healthy, announce: reason.is_none(), reason }
}

/// A VIP goes with all services that its addresses have or not at all: those of a prefix around it count, but for what
/// it has of its own.
fn withhold_with_their_neighbours(model: &Model, services: &mut BTreeMap<ServiceKey, ServiceDecision>) {
    let mut culprits: BTreeMap<Vip, ServiceKey> = BTreeMap::new();
    if services.values().any(|service| !service.announce) {
        for vip in model.vips() {
            let withheld = model.services_at(vip).into_iter().map(|(key, _)| *key);
            let withheld = withheld.filter(|key| !services[key].announce);
            culprits.extend(withheld.max_by_key(|key| key.vip == vip).map(|key| (vip, key)));
        }
    }
    for (key, service) in services {
        let Some(culprit) = culprits.get(&key.vip).filter(|_| service.announce) else { continue };
        let place = if culprit.vip == key.vip { "on the same VIP" } else { "around it" };
        service.announce = false;
        service.reason = Some(format!("{culprit} {place} is not servable"));
    }
}

#[cfg(test)]
mod tests;
