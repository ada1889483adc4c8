//! What the runner tells other nodes, and what it takes from them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Mutex, watch};
use tracing::{info, warn};

use crate::agent::ask_hosts::LastAsked;
use crate::bgp::Prefix;
use crate::config::Config;
use crate::connections::Sampler;
use crate::connections::sampler::SamplerHandle;
use crate::manifest::routes::Confirmations;
use crate::model::{Doubt, HostId};
use crate::peers::view::fresh;
use crate::peers::{Disagreement, Followers, PeersView, Published, Report, disagreements, doubts, missing};

/// The exchange with other nodes.
pub(super) struct Exchange {
    /// What this agent's reports say, so that it recognises itself.
    pub instance: u64,
    followers: Followers,
    /// What is known of other nodes.
    pub view: watch::Receiver<PeersView>,
    published: watch::Sender<Arc<Published>>,
    allow: watch::Sender<Vec<Prefix>>,
    /// What directors say against hosts; as far as fellow hosts must know it.
    pub doubts: BTreeMap<HostId, Doubt>,
    /// Counts connections.
    pub sampler: Sampler,
    /// Pools of which nodes hold different tables.
    pub disagreements: Vec<Disagreement>,
    asked: Arc<Mutex<LastAsked>>,
}

/// The ends by which the API holds the exchange.
#[derive(Clone)]
pub(in crate::agent) struct ExchangeEnds {
    pub reports: watch::Receiver<Arc<Published>>,
    pub peers: watch::Receiver<PeersView>,
    pub allow: watch::Receiver<Vec<Prefix>>,
    pub sampler: SamplerHandle,
    /// What hosts said of their connections when they were asked last.
    pub asked: Arc<Mutex<LastAsked>>,
}

impl Exchange {
    pub fn start(config: &Config) -> Self {
        let instance = instance();
        let followers = Followers::new(instance);
        let first = Report { node: config.node.clone(), instance, ..Report::default() };
        let mut exchange = Exchange {
            instance,
            view: followers.view(),
            followers,
            published: watch::Sender::new(Arc::new(Published::new(first))),
            allow: watch::Sender::default(),
            doubts: BTreeMap::new(),
            sampler: Sampler::start(),
            disagreements: Vec::new(),
            asked: Arc::default(),
        };
        exchange.update(config);
        exchange
    }

    /// Follows and lets ask as this configuration says.
    pub fn update(&mut self, config: &Config) {
        let peers = config.peers.clone().unwrap_or_default();
        self.followers.update(&peers.nodes);
        self.allow.send_if_modified(|allow| {
            let differs = *allow != peers.allow;
            *allow = peers.allow;
            differs
        });
    }

    pub fn ends(&self) -> ExchangeEnds {
        ExchangeEnds {
            reports: self.published.subscribe(),
            peers: self.view.clone(),
            allow: self.allow.subscribe(),
            sampler: self.sampler.handle(),
            asked: Arc::clone(&self.asked),
        }
    }

    /// Publishes this node's report, and judges it together with those of the others.
    pub fn judge(&mut self, own: Report) {
        let view = self.view.borrow_and_update();
        let reports = fresh(&own, &view);
        let (doubts, disagreements) = (doubts(reports.iter().copied()), disagreements(reports));
        drop(view);
        for disagreement in disagreements.iter().filter(|found| !self.disagreements.contains(found)) {
            warn!("{}", disagreement.text());
        }
        let news = |host: &&HostId| self.doubts.get(*host) != doubts.get(*host);
        for host in
            self.doubts.keys().chain(doubts.keys()).filter(news).collect::<std::collections::BTreeSet<_>>()
        {
            match doubts.get(host) {
                Some(Doubt::Suspected) => warn!(%host, "suspected: a director gets no answer from it"),
                Some(Doubt::Dead) => warn!(%host, "dead: most directors get no answer from it"),
                None => info!(%host, "answers all directors again"),
            }
        }
        self.doubts = doubts;
        self.disagreements = disagreements;
        self.published.send_if_modified(|published| {
            let differs = published.report != own;
            if differs {
                *published = Arc::new(Published::new(own));
            }
            differs
        });
    }
}

impl Confirmations for ExchangeEnds {
    fn missing(&self, version: u64) -> Vec<String> {
        let own = Arc::clone(&self.reports.borrow());
        missing(&own.report, &self.peers.borrow(), version).into_iter().map(|missing| missing.node).collect()
    }
}

/// Differs from process to process.
fn instance() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // JSON numbers are safe up to 53 bits.
    ((now.as_nanos() as u64) ^ (u64::from(std::process::id()) << 32)) & ((1 << 53) - 1)
}
