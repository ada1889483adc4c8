//! Asks all hosts for their connections.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::time::Instant;

use super::dataplane::Role;
use super::runner::ExchangeEnds;
use crate::connections::{HostConnections, safe_now};
use crate::model::{HostState, Model};
use crate::peers::client::Client;
use crate::peers::view::fresh;
use crate::peers::{Contact, PeerUrl};

/// How long a host gets to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The path at which a node tells of its own connections alone.
const OWN: &str = "/v1/connections?own=1";

/// Hosts that are asked at the same time.
const PARALLEL: usize = 64;
/// How long an answer counts: whoever asks, and however often, hosts are not asked more often.
const FRESH: Duration = Duration::from_secs(1);

/// When hosts were asked last, and what they said.
pub(super) type LastAsked = Option<(Instant, Vec<HostConnections>)>;

/// The connections of this node and of all hosts that answer, by pool and host; a second old at most.
pub(super) async fn connections(ends: &ExchangeEnds) -> Vec<HostConnections> {
    // Whoever comes meanwhile waits, and gets the same.
    let mut last = ends.asked.lock().await;
    if let Some((at, said)) = &*last
        && at.elapsed() < FRESH
    {
        return said.clone();
    }
    let said = ask(ends).await;
    *last = Some((Instant::now(), said.clone()));
    said
}

/// The same as of now.
pub(super) async fn ask(ends: &ExchangeEnds) -> Vec<HostConnections> {
    let own = Arc::clone(&ends.reports.borrow());
    let peers = ends.peers.borrow().clone();
    let hosts = peers.iter().filter(|(_, peer)| {
        peer.contact == Contact::Fresh && peer.report.as_ref().is_some_and(|report| report.plays(Role::Host))
    });
    let hosts: Vec<PeerUrl> = hosts.map(|(url, _)| url.clone()).collect();
    let others = stream::iter(hosts).map(of).buffer_unordered(PARALLEL).collect::<Vec<_>>();
    let (mine, others) = tokio::join!(ends.sampler.counts(), others);
    let mut all: Vec<HostConnections> = mine.into_iter().chain(others.into_iter().flatten()).collect();
    if let Some(config) = ends.sampler.config() {
        all.extend(unheard(&config.model, &all));
    }
    all.sort_by(|a, b| (&a.pool, &a.host, &a.node).cmp(&(&b.pool, &b.host, &b.node)));
    // A node that is asked at two addresses.
    all.dedup_by(|a, b| (&a.pool, &a.host, &a.node) == (&b.pool, &b.host, &b.node));
    let newest = fresh(&own.report, &peers).into_iter().filter_map(|report| report.manifest_version).max();
    safe_now(all, newest)
}

async fn of(url: PeerUrl) -> Vec<HostConnections> {
    match Client::new(url).get(OWN, PATIENCE).await {
        Ok(answer) => answer.json().unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

/// What is said of hosts that have not told their connections: nobody takes them for safe.
fn unheard(model: &Model, heard: &[HostConnections]) -> Vec<HostConnections> {
    let silent = model.hosts().filter(|(id, host)| {
        host.state != HostState::Down
            && !heard.iter().any(|count| count.pool == id.pool && count.host == id.host)
    });
    silent
        .map(|(id, host)| HostConnections {
            pool: id.pool,
            host: id.host,
            draining: host.state == HostState::Drain,
            problem: Some("its agent does not answer, or is not among peers.nodes".into()),
            ..HostConnections::default()
        })
        .collect()
}

/// Whether operators want to see connections: a host drains, or old generations are in force.
pub(super) fn matter(model: &Model) -> bool {
    let changing = |pool: &crate::model::Pool| {
        !pool.others.is_empty() || pool.hosts.values().any(|host| host.state == HostState::Drain)
    };
    model.pools.values().any(changing)
}
