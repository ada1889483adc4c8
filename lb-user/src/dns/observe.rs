//! What the checks of members say, from what the agent knows. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::extfile::{Extfiles, File};
use super::observers::Jury;
use super::snapshot::{Data, Observations, Observed, Watch};
use super::{BeforeChecks, Check, Config};
use crate::agent::status::Status;
use crate::health::{CheckKind, HealthView, HostHealth, Plan, Probe, ProbeTarget};
use crate::model::{HostId, HostState};
use crate::peers::report::offer;
use crate::peers::{Contact, Offer, PeersView, Report};
use crate::vip::Vip;

/// What is known.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The section `dns`.
    pub config: &'a Config,
    /// What the probes of members say.
    pub health: &'a HealthView,
    /// What they said before the agent started.
    pub remembered: &'a BTreeMap<HostId, bool>,
    /// What the agent says of VIPs and pools.
    pub status: &'a Status,
    /// Files with states.
    pub extfiles: &'a Extfiles,
    /// Who judges what is probed; `None`: the own probes.
    pub jury: Option<&'a Jury<'a>>,
    /// What other nodes report.
    pub peers: &'a PeersView,
    /// The agent has run for so long that what VIPs and pools are not yet, they are not.
    pub settled: bool,
}

/// Who is probed how, for these watches.
pub fn plan(config: &Config, watches: &[Watch]) -> Plan {
    let mut plan = Plan::new();
    for Watch { id, address } in watches {
        let Some(Check::Probe { check, host }) = config.checks.get(&id.pool) else { continue };
        let target = SocketAddr::new(*address, check.port);
        // RFC 9110, section 7.2: the default port is left out.
        let default = if matches!(check.kind, CheckKind::Https { .. }) { 443 } else { 80 };
        let host = host.clone().unwrap_or_else(|| match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        });
        let host_header = if check.port == default { host } else { format!("{host}:{}", check.port) };
        let target = ProbeTarget { address: target, mark: None, host_header };
        plan.insert(id.clone(), vec![Probe { check: check.clone(), target }]);
    }
    plan
}

/// What all checks say, in the order of the watches.
pub fn observe(facts: &Facts<'_>, data: &Data) -> Observations {
    // Both are in order: one walk over them finds every probe.
    let mut health = facts.health.iter().peekable();
    let mut all = Vec::with_capacity(data.watches().len());
    for watches in data.by_check() {
        // Members follow checks that exist.
        let check = watches.first().and_then(|watch| facts.config.checks.get(watch.check()));
        let file = match check {
            Some(Check::Extfile { file, .. }) => facts.extfiles.get(file),
            _ => None,
        };
        for watch in watches {
            while health.next_if(|(id, _)| **id < watch.id).is_some() {}
            let probed = health.next_if(|(id, _)| **id == watch.id).map(|(_, health)| health);
            let mut seen =
                check.map_or_else(Observed::default, |check| one(facts, check, file, watch, probed));
            if seen.up.is_none() && facts.config.before_checks == BeforeChecks::Answer {
                seen = Observed::of(Some(true), "not checked yet");
            }
            all.push(seen);
        }
    }
    all.into()
}

/// What a check says of an address; `file` is that of the check, `probed` what the probe of the address has found.
fn one(
    facts: &Facts<'_>,
    check: &Check,
    file: Option<&File>,
    watch: &Watch,
    probed: Option<&HostHealth>,
) -> Observed {
    match check {
        Check::Probe { .. } => probe(facts, watch, probed),
        Check::Extfile { default_up, .. } => match file.map(|file| file.says(watch.address)) {
            Some((state, words)) => Observed::of(Some(state.unwrap_or(*default_up)), Arc::clone(words)),
            None => Observed::of(Some(*default_up), "not looked at yet"),
        },
        Check::Vip { vip, directors: None } => of_vip(facts, vip.unwrap_or(watch.address)),
        Check::Vip { vip, directors: Some(least) } => {
            of_directors(facts, vip.unwrap_or(watch.address), *least)
        }
        Check::Pool { pool, percent, scale } => of_pool(facts, pool, *percent, *scale),
    }
}

fn probe(facts: &Facts<'_>, watch: &Watch, probed: Option<&HostHealth>) -> Observed {
    if let Some(jury) = facts.jury {
        return jury.verdict(watch, facts.remembered.get(&watch.id).copied());
    }
    // Most say nothing, which takes no memory.
    let seen = |up, reason: Option<&str>| Observed::of(up, reason.map_or_else(Arc::default, Arc::from));
    match probed {
        Some(HostHealth { known: true, healthy, reason, .. }) => seen(Some(*healthy), reason.as_deref()),
        unknown => match facts.remembered.get(&watch.id) {
            Some(up) => seen(Some(*up), Some("as before the agent started")),
            None => seen(None, unknown.and_then(|health| health.reason.as_deref())),
        },
    }
}

fn of_vip(facts: &Facts<'_>, vip: IpAddr) -> Observed {
    let all = || facts.status.services.iter();
    // An address in a prefix follows that, unless it is a VIP itself.
    let is_one = all().any(|service| service.vip == vip.into());
    let services: Vec<_> =
        all().filter(|s| if is_one { s.vip == vip.into() } else { s.vip.contains(vip) }).collect();
    // Without BGP a VIP is somewhere by other means, and what counts is whether it can be served.
    let works = |announced: bool, healthy: usize, quorum: usize| match facts.status.bgp {
        Some(_) => announced,
        None => healthy >= quorum && !facts.status.disabled,
    };
    let bad = services.iter().find(|s| !works(s.announced, s.healthy, s.quorum));
    let (up, reason) = match (services.first(), bad) {
        (None, _) => (false, "no service has this VIP".to_owned()),
        (Some(service), None) if leaving_here(facts.status).contains(&service.vip) => {
            let reason = format!("{} leaves this node", service.vip);
            return Observed { leaving: true, ..Observed::of(Some(true), reason) };
        }
        (Some(_), None) => (true, String::new()),
        (Some(_), Some(service)) => {
            let reason = service.reason.as_deref().unwrap_or("too few healthy hosts");
            (false, format!("{vip} port {}: {reason}", service.port))
        }
    };
    Observed::of((up || facts.settled).then_some(up), reason)
}

/// VIPs that leave this node.
pub fn leaving_here(status: &Status) -> BTreeSet<Vip> {
    status.leaving.iter().map(|leaving| leaving.vip).collect()
}

/// How nodes stand to an address.
#[derive(Debug, Default)]
pub struct Offers {
    /// How many announce it.
    pub announced: usize,
    /// Names of those that announce it and that it leaves.
    pub leaving: Vec<String>,
    /// How many are not heard.
    pub silent: usize,
}

/// How this node and those that it hears stand to an address.
pub fn offers(status: &Status, peers: &PeersView, address: IpAddr) -> Offers {
    let others = || peers.values().filter(|peer| peer.contact != Contact::Myself);
    let heard = others().filter(|peer| peer.contact == Contact::Fresh);
    let reports: BTreeMap<u64, &Report> =
        heard.filter_map(|peer| peer.report.as_deref()).map(|report| (report.instance, report)).collect();
    let announced = status.services.iter().filter(|service| service.announced).map(|service| service.vip);
    let here = offer(&announced.collect(), &leaving_here(status), address);
    let silent = others().filter(|peer| peer.contact != Contact::Fresh).count();
    let mut found = Offers { silent, ..Offers::default() };
    let there = reports.values().map(|report| (report.node.as_str(), report.offer(address)));
    for (node, offer) in there.chain([(status.node.as_str(), here)]) {
        match offer {
            Offer::None => {}
            Offer::Leaving => found.leaving.push(node.to_owned()),
            Offer::Announced => found.announced += 1,
        }
    }
    found
}

/// Whether enough nodes announce a VIP, of those that are heard.
fn of_directors(facts: &Facts<'_>, vip: IpAddr, least: usize) -> Observed {
    let Offers { announced, leaving, silent } = offers(facts.status, facts.peers, vip);
    let up = announced >= least;
    let leaves = !up && announced + leaving.len() >= least;
    let mut reason = format!("{vip}: announced by {announced}, {least} needed");
    if !leaving.is_empty() {
        reason += &format!("; leaves {}", leaving.join(", "));
    }
    if silent > 0 {
        reason += &format!(" ({silent} not heard)");
    }
    // Who is not heard is not known to have withdrawn it before there was time to ask.
    Observed {
        leaving: leaves,
        ..Observed::of((up || leaves || facts.settled).then_some(up || leaves), reason)
    }
}

fn of_pool(facts: &Facts<'_>, pool: &str, percent: u32, scale: bool) -> Observed {
    let active = facts.status.hosts.iter().filter(|h| h.pool == pool && h.state == HostState::Active);
    let (mut healthy, mut all) = (0usize, 0usize);
    for host in active {
        all += 1;
        healthy += usize::from(host.healthy && (host.usable4 || host.usable6));
    }
    let up = healthy > 0 && healthy * 100 >= all * percent as usize;
    let share = if scale && all > 0 { (healthy * 1000 / all) as u16 } else { 1000 };
    let reason = format!("{healthy} of {all} hosts of pool {pool} work");
    Observed { share, ..Observed::of((up || facts.settled).then_some(up), reason) }
}

#[cfg(test)]
#[path = "observe_tests.rs"]
mod tests;
