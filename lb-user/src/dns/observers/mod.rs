//! Health by the votes of several agents at several places, so that one that is cut off does not decide.
//!
//! Every observer publishes what its own probes say, and follows what the others say by long polls, as nodes follow each
//! other's reports ([`crate::peers`]). An address that passes or fails by at least a quorum of *all* observers, more than
//! half, is up or down; while there is no quorum either way, it is what was agreed on last. So observers that are cut off from the
//! rest change nothing, neither at home nor elsewhere; and two groups never decide for themselves, since only one can be more than half.

pub mod observing;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::snapshot::{Observed, Watch};
use crate::health::HealthView;
use crate::model::HostId;
use crate::peers::{Contact, Peer, PeerUrl, PeersView, Told};

/// The observers as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObserversConfig {
    /// All of them, this node too if it is one.
    pub nodes: BTreeSet<PeerUrl>,
    /// How many must say the same: more than half of them.
    pub quorum: usize,
}

/// What the probes of one observer say. A newer agent's additional keys are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sightings {
    /// What the observer calls itself.
    pub node: String,
    /// Differs from process to process, so that an observer recognises itself.
    pub instance: u64,
    /// Addresses that pass, by check.
    pub up: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Addresses that fail, by check.
    pub down: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl Told for Sightings {
    const PATH: &'static str = "/v1/dns/sightings";

    fn node(&self) -> &str {
        &self.node
    }

    fn instance(&self) -> u64 {
        self.instance
    }
}

impl Sightings {
    /// What this node's probes have found for these watches.
    pub fn of(node: &str, instance: u64, watches: &[Watch], health: &HealthView) -> Self {
        let mut all = Sightings { node: node.to_owned(), instance, ..Sightings::default() };
        for watch in watches {
            let Some(health) = health.get(&watch.id).filter(|health| health.known) else { continue };
            let side = if health.healthy { &mut all.up } else { &mut all.down };
            side.entry(watch.check().to_owned()).or_default().insert(watch.address);
        }
        all
    }

    fn says(&self, watch: &Watch) -> Option<bool> {
        let has = |side: &BTreeMap<String, BTreeSet<IpAddr>>| {
            side.get(watch.check()).is_some_and(|addresses| addresses.contains(&watch.address))
        };
        if has(&self.up) { Some(true) } else { has(&self.down).then_some(false) }
    }
}

/// An observer as `lb dns status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObserverStatus {
    /// Its name, once it has answered.
    pub node: Option<String>,
    /// Where it is asked.
    pub url: String,
    /// Its votes count.
    pub heard: bool,
    /// Why they do not.
    pub reason: Option<String>,
    /// Addresses that fail for it.
    pub down: usize,
}

/// What is to be said of all observers; this node's own word is `own`.
pub fn statuses(view: &PeersView<Sightings>, own: &Sightings) -> Vec<ObserverStatus> {
    let one = |(url, peer): (&PeerUrl, &Peer<Sightings>)| {
        let (heard, reason) = match &peer.contact {
            Contact::Fresh | Contact::Myself => (true, None),
            Contact::New => (false, Some("not heard from yet".to_owned())),
            Contact::Lost { reason, .. } => (false, Some(reason.clone())),
        };
        let said = if peer.contact == Contact::Myself { Some(own) } else { peer.report.as_deref() };
        let down = said.map_or(0, |said| said.down.values().map(BTreeSet::len).sum());
        let node = said.map(|said| said.node.clone());
        ObserverStatus { node, url: url.to_string(), heard, reason, down }
    };
    view.iter().map(one).collect()
}

/// The observers that are heard now, and what they agreed on before.
pub struct Jury<'a> {
    heard: Vec<Arc<Sightings>>,
    all: usize,
    quorum: usize,
    agreed: &'a BTreeMap<HostId, bool>,
}

impl<'a> Jury<'a> {
    /// Of all that answer; this node's own word is `own`, if it is an observer.
    pub fn new(
        config: &ObserversConfig,
        view: &PeersView<Sightings>,
        own: &Arc<Sightings>,
        agreed: &'a BTreeMap<HostId, bool>,
    ) -> Self {
        let heard = view.values().filter_map(|peer| match peer.contact {
            Contact::Fresh => peer.report.clone(),
            Contact::Myself => Some(Arc::clone(own)),
            Contact::New | Contact::Lost { .. } => None,
        });
        // One that is found under two addresses has one vote.
        let heard: BTreeMap<u64, _> = heard.map(|sightings| (sightings.instance, sightings)).collect();
        Jury { heard: heard.into_values().collect(), all: config.nodes.len(), quorum: config.quorum, agreed }
    }

    /// What they say; `before` is what was known when the agent started.
    pub fn verdict(&self, watch: &Watch, before: Option<bool>) -> Observed {
        let votes: Vec<(&str, bool)> =
            self.heard.iter().filter_map(|s| Some((s.node.as_str(), s.says(watch)?))).collect();
        let nodes = |up: bool| -> Vec<&str> {
            votes.iter().filter(|(_, vote)| *vote == up).map(|(node, _)| *node).collect()
        };
        let (up, down) = (nodes(true), nodes(false));
        let (state, reason) = if down.len() >= self.quorum {
            (Some(false), format!("fails for {} of {} observers: {}", down.len(), self.all, down.join(", ")))
        } else if up.len() >= self.quorum {
            let reason = match down.is_empty() {
                true => String::new(),
                false => {
                    format!("fails for {} of {} observers alone: {}", down.len(), self.all, down.join(", "))
                }
            };
            (Some(true), reason)
        } else {
            let counted = format!(
                "{} up, {} down of {} observers, {} needed",
                up.len(),
                down.len(),
                self.all,
                self.quorum
            );
            match self.agreed.get(&watch.id).copied().or(before) {
                Some(state) => (Some(state), format!("no quorum ({counted}): as before")),
                None => (None, format!("no quorum ({counted})")),
            }
        };
        Observed::of(state, reason)
    }
}

#[cfg(test)]
mod tests;
