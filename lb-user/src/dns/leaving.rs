//! VIPs that leave nodes: where they are still answered, and since when they are not. What nodes are told of it is a
//! [`Leaving`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::RData;
use tokio::sync::watch;
use tokio::time::Instant;

use super::ZoneConfig;
use super::observe::{leaving_here, offers};
use super::sink::SinkStatus;
use super::snapshot::{Orders, Snapshot};
use crate::agent::status::Status;
use crate::leave::word::{Leaving, Word};
use crate::model::Family;
use crate::peers::{PeersView, Published};
use crate::vip::Vip;

/// How long is remembered since when a VIP is out that nobody says to leave any more: its node's agent may be starting.
const KEEP: Duration = Duration::from_secs(600);

/// A sink says a moment after a change that it is behind.
const SLACK: Duration = Duration::from_secs(1);

/// The document that nodes ask for.
pub type Document = watch::Receiver<Arc<Published<Leaving>>>;

/// What is known.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The zones as configured.
    pub zones: &'a [ZoneConfig],
    /// What is answered.
    pub snapshot: &'a Snapshot,
    /// What the operator ordered.
    pub orders: &'a Orders,
    /// What the agent says of this node.
    pub status: &'a Status,
    /// What other nodes report.
    pub peers: &'a PeersView,
}

/// All VIPs that leave.
#[derive(Debug, Default)]
pub struct Departures(BTreeMap<Vip, Departure>);

#[derive(Debug)]
struct Departure {
    /// When somebody last wanted it out.
    wanted: Instant,
    /// Since when it is out.
    since: Option<Instant>,
    /// Nodes that it leaves.
    leaves: BTreeSet<String>,
    /// The operator took it out here.
    ordered: bool,
    names: BTreeSet<String>,
    others: usize,
    ttl: Duration,
}

impl Departures {
    /// Looks where all are answered now.
    pub fn look(&mut self, facts: &Facts<'_>, now: Instant) {
        let wanted = wanted(facts);
        for vip in wanted.keys() {
            let new = || Departure {
                wanted: now,
                since: None,
                leaves: BTreeSet::new(),
                ordered: false,
                names: BTreeSet::new(),
                others: 0,
                ttl: Duration::ZERO,
            };
            self.0.entry(*vip).or_insert_with(new).wanted = now;
        }
        for (vip, departure) in &mut self.0 {
            departure.leaves = wanted.get(vip).cloned().unwrap_or_default();
            departure.ordered = facts.orders.keys().any(|(address, _)| Vip::from(*address) == *vip);
            (departure.names, departure.ttl) = places(facts, *vip);
            departure.others = offers(facts.status, facts.peers, vip.sample()).announced;
        }
        self.0.retain(|_, departure| {
            let past = now.saturating_duration_since(departure.wanted);
            past.is_zero() || (departure.names.is_empty() && past < KEEP)
        });
    }

    /// What is to be said of all.
    pub fn words(&mut self, sinks: &[SinkStatus], now: Instant) -> BTreeMap<Vip, Word> {
        let behind: Vec<&SinkStatus> = sinks.iter().filter(|sink| !sink.in_step && !sink.standby).collect();
        self.0.iter_mut().map(|(vip, departure)| (*vip, departure.word(&behind, now))).collect()
    }
}

impl Departure {
    fn word(&mut self, behind: &[&SinkStatus], now: Instant) -> Word {
        // A sink that has been behind for less than the VIP is out is so with something else.
        let lacks = |sink: &&&SinkStatus| {
            let since = Duration::from_millis(sink.lag_ms) + SLACK;
            self.since.is_none_or(|out| now.saturating_duration_since(out) <= since)
        };
        let behind: BTreeSet<String> = behind.iter().filter(lacks).map(|sink| sink.name.clone()).collect();
        match self.names.is_empty() && behind.is_empty() {
            true => drop(self.since.get_or_insert(now)),
            false => self.since = None,
        }
        let out_for = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        // Whole seconds, so that those who follow hear of it once a second; and no news once resolvers have forgotten it.
        let out_for = if out_for < self.ttl { Duration::from_secs(out_for.as_secs()) } else { self.ttl };
        Word {
            leaves: self.leaves.clone(),
            ordered: self.ordered,
            names: self.names.clone(),
            behind,
            others: self.others,
            out_for_ms: out_for.as_millis() as u64,
            ttl_ms: self.ttl.as_millis() as u64,
        }
    }
}

/// VIPs that are to leave some node, each with the names of those nodes, and addresses that the operator took out here.
fn wanted(facts: &Facts<'_>) -> BTreeMap<Vip, BTreeSet<String>> {
    let reports = facts.peers.values().filter_map(|peer| peer.report.as_deref());
    let told = reports.flat_map(|report| report.leaving.iter().map(|vip| (*vip, report.node.as_str())));
    let here = leaving_here(facts.status).into_iter().map(|vip| (vip, facts.status.node.as_str()));
    let mut wanted: BTreeMap<Vip, BTreeSet<String>> = BTreeMap::new();
    for (vip, node) in told.chain(here) {
        wanted.entry(vip).or_default().insert(node.to_owned());
    }
    for (address, _) in facts.orders.keys() {
        wanted.entry(Vip::from(*address)).or_default();
    }
    wanted
}

/// The names that may be answered with a VIP now, and the longest TTL of those that ever are.
fn places(facts: &Facts<'_>, vip: Vip) -> (BTreeSet<String>, Duration) {
    let (mut names, mut ttl) = (BTreeSet::new(), 0);
    let is_it = |address: &IpAddr| vip.contains(*address);
    for (number, choice) in facts.snapshot.data.choices.iter().enumerate() {
        let mut members = choice.members.iter().map(|member| &member.address).chain(&choice.fallback);
        if !members.any(is_it) {
            continue;
        }
        ttl = ttl.max(choice.ttl);
        let standings = facts.snapshot.standings(number);
        let given = |family| choice.for_everybody(family, standings, facts.snapshot.starting);
        let given: Vec<IpAddr> = Family::ALL.into_iter().filter_map(given).flatten().collect();
        if given.iter().any(is_it) {
            names.insert(choice.name.to_lowercase().to_ascii());
        }
    }
    for record in facts.zones.iter().flat_map(|zone| &zone.records) {
        let address: IpAddr = match &record.data {
            RData::A(address) => address.0.into(),
            RData::AAAA(address) => address.0.into(),
            _ => continue,
        };
        if is_it(&address) {
            ttl = ttl.max(record.ttl);
            names.insert(record.name.to_lowercase().to_ascii());
        }
    }
    (names, Duration::from_secs(ttl.into()))
}

/// Tells nodes, and the status, how far VIPs are out of the answers.
pub struct Telling {
    instance: u64,
    departures: Departures,
    published: watch::Sender<Arc<Published<Leaving>>>,
}

impl Telling {
    /// Has nothing to tell yet. `instance` differs from process to process.
    pub fn new(instance: u64) -> Self {
        let first = Published::new(Leaving { instance, ..Leaving::default() });
        Telling {
            instance,
            departures: Departures::default(),
            published: watch::Sender::new(Arc::new(first)),
        }
    }

    /// The document that nodes ask for.
    pub fn document(&self) -> Document {
        self.published.subscribe()
    }

    /// Looks where all are answered now.
    pub fn look(&mut self, facts: &Facts<'_>) {
        self.departures.look(facts, Instant::now());
    }

    /// Publishes what is to be said now, and returns it.
    pub fn tell(&mut self, node: &str, sinks: &[SinkStatus]) -> BTreeMap<Vip, Word> {
        let vips = self.departures.words(sinks, Instant::now());
        let now = Leaving { node: node.to_owned(), instance: self.instance, vips };
        self.published.send_if_modified(|published| {
            let differs = published.report != now;
            if differs {
                *published = Arc::new(Published::new(now.clone()));
            }
            differs
        });
        now.vips
    }
}

#[cfg(test)]
#[path = "leaving_tests.rs"]
mod tests;
