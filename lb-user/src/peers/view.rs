//! What is known of other nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::PeerUrl;
use super::judge::outliers;
use super::report::Report;

/// All nodes that are followed, by address.
pub type PeersView<T = Report> = BTreeMap<PeerUrl, Peer<T>>;

/// A node that is followed.
#[derive(Debug, PartialEq, Eq)]
pub struct Peer<T = Report> {
    /// Its latest report.
    pub report: Option<Arc<T>>,
    /// Whether that counts.
    pub contact: Contact,
}

impl<T> Clone for Peer<T> {
    fn clone(&self) -> Self {
        Peer { report: self.report.clone(), contact: self.contact.clone() }
    }
}

/// Whether a node has been heard from lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contact {
    /// Not yet asked to the end.
    New,
    /// It answers.
    Fresh,
    /// It has not answered for a while.
    Lost {
        /// When it last did; before that, when it was first asked.
        since: Instant,
        /// Why not.
        reason: String,
    },
    /// It is this very agent, under one of its own addresses.
    Myself,
}

/// The reports that count: the node's own, and those of nodes that answer, each node once.
pub fn fresh<'a>(own: &'a Report, peers: &'a PeersView) -> Vec<&'a Report> {
    let heard = peers.values().filter(|peer| peer.contact == Contact::Fresh);
    let mut reports: BTreeMap<&str, &Report> = heard
        .filter_map(|peer| peer.report.as_deref())
        .map(|report| (report.node.as_str(), report))
        .collect();
    reports.insert(&own.node, own);
    reports.into_values().collect()
}

/// A node as `lb status --peers` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name, once it has answered.
    pub node: Option<String>,
    /// Where it is asked; `None`: the node that was asked for this.
    pub url: Option<String>,
    /// It answers.
    pub reachable: bool,
    /// Seconds since it last did.
    pub unreachable_for_s: Option<u64>,
    /// Pools of which its tables are not those of most nodes with the same manifest.
    #[serde(default)]
    pub differs: Vec<String>,
    /// Why it does not.
    pub reason: Option<String>,
    /// Its latest report.
    pub report: Option<Report>,
}

/// All nodes: the own first, then the others by name.
pub fn statuses(own: &Report, peers: &PeersView, now: Instant) -> Vec<PeerStatus> {
    let outliers = outliers(fresh(own, peers));
    let differs = |report: Option<&Report>| {
        report.and_then(|report| outliers.get(&report.node)).cloned().unwrap_or_default()
    };
    let mut others: Vec<PeerStatus> = peers
        .iter()
        .filter(|(_, peer)| peer.contact != Contact::Myself)
        .map(|(url, peer)| {
            let (since, reason) = match &peer.contact {
                Contact::Lost { since, reason } => (Some(*since), Some(reason.clone())),
                Contact::New => (None, Some("not heard from yet".into())),
                Contact::Fresh | Contact::Myself => (None, None),
            };
            PeerStatus {
                node: peer.report.as_ref().map(|report| report.node.clone()),
                url: Some(url.to_string()),
                reachable: peer.contact == Contact::Fresh,
                unreachable_for_s: since.map(|since| now.saturating_duration_since(since).as_secs()),
                reason,
                differs: differs(peer.report.as_deref()),
                report: peer.report.as_deref().cloned(),
            }
        })
        .collect();
    others.sort_by(|a, b| (&a.node, &a.url).cmp(&(&b.node, &b.url)));
    let own = PeerStatus {
        node: Some(own.node.clone()),
        url: None,
        reachable: true,
        unreachable_for_s: None,
        reason: None,
        differs: differs(Some(own)),
        report: Some(own.clone()),
    };
    std::iter::once(own).chain(others).collect()
}
