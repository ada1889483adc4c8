//! This node's part among the observers: what it publishes, and whom it follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use super::{Jury, ObserverStatus, ObserversConfig, Sightings, statuses};
use crate::dns::Check;
use crate::dns::snapshot::{Observed, Watch};
use crate::health::HealthView;
use crate::model::HostId;
use crate::peers::{Followers, PeersView, Published};

/// The document that others ask for.
pub type Document = watch::Receiver<Arc<Published<Sightings>>>;

/// What is exchanged with other observers.
pub struct Observing {
    config: Option<ObserversConfig>,
    instance: u64,
    followers: Followers<Sightings>,
    view: watch::Receiver<PeersView<Sightings>>,
    published: watch::Sender<Arc<Published<Sightings>>>,
    own: Arc<Sightings>,
    /// What was decided last.
    agreed: BTreeMap<HostId, bool>,
}

impl Observing {
    /// Follows nobody yet. `instance` differs from process to process.
    pub fn new(instance: u64) -> Self {
        let followers = Followers::new(instance);
        let first = Published::new(Sightings { instance, ..Sightings::default() });
        Observing {
            config: None,
            instance,
            view: followers.view(),
            followers,
            published: watch::Sender::new(Arc::new(first)),
            own: Arc::default(),
            agreed: BTreeMap::new(),
        }
    }

    /// Follows these. Must be called within a Tokio runtime.
    pub fn go_by(&mut self, config: Option<&ObserversConfig>) {
        if config.is_none() {
            self.agreed.clear();
        }
        self.config = config.cloned();
        self.followers.update(config.map_or(&BTreeSet::new(), |config| &config.nodes));
    }

    /// The document that others ask for.
    pub fn document(&self) -> Document {
        self.published.subscribe()
    }

    /// Returns when another observer says something else.
    pub async fn changed(&mut self) {
        // The sender is ours.
        let _ = self.view.changed().await;
    }

    /// Tells others what the own probes say now.
    pub fn publish(&mut self, node: &str, watches: &[Watch], health: &HealthView) {
        if self.config.is_none() && self.own.up.is_empty() && self.own.down.is_empty() {
            return;
        }
        let watches = if self.config.is_some() { watches } else { &[] };
        let own = Sightings::of(node, self.instance, watches, health);
        if *self.own != own {
            self.own = Arc::new(own.clone());
            self.published.send_replace(Arc::new(Published::new(own)));
        }
    }

    /// Those who are to judge, if that is not for the own probes alone.
    pub fn jury(&self) -> Option<Jury<'_>> {
        let config = self.config.as_ref()?;
        Some(Jury::new(config, &self.view.borrow(), &self.own, &self.agreed))
    }

    /// Remembers what was decided.
    pub fn agree(&mut self, checks: &BTreeMap<String, Check>, watches: &[Watch], seen: &[Observed]) {
        if self.config.is_some() {
            self.take_over(checks, watches, seen);
        }
    }

    /// Goes on from what this node alone decided.
    pub fn take_over(&mut self, checks: &BTreeMap<String, Check>, watches: &[Watch], seen: &[Observed]) {
        let is_probe = |watch: &Watch| matches!(checks.get(watch.check()), Some(Check::Probe { .. }));
        let decided = watches.iter().zip(seen).filter(|(watch, _)| is_probe(watch));
        self.agreed = decided.filter_map(|(watch, seen)| Some((watch.id.clone(), seen.up?))).collect();
    }

    /// What is to be said of all observers.
    pub fn statuses(&self) -> Vec<ObserverStatus> {
        statuses(&self.view.borrow(), &self.own)
    }
}
