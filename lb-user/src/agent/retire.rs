//! Ends old generations of the manifest once no host holds a connection that only they explain.
//!
//! One task per agent. Of all agents that may edit and reach each other, the one with the lowest name acts; should two think
//! so of themselves, the manifest's compare-and-swap lets one win, and what the other wanted is done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::ask_hosts;
use super::runner::ExchangeEnds;
use crate::connections::{HostConnections, PoolFacts, retirable};
use crate::manifest::edit::Edit;
use crate::manifest::{Manifest, Manifests};
use crate::model::{Doubt, HostId};
use crate::peers::view::fresh;
use crate::peers::{Report, doubts};

/// From one look to the next.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long a version must have been in force: what directors sent by the one before has arrived by then.
const GRACE: Duration = Duration::from_secs(5);

/// Looks now and then until the result is dropped.
pub(super) fn start(manifests: watch::Receiver<Option<Manifests>>, ends: ExchangeEnds) -> JoinSet<()> {
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut seen = (0, Instant::now());
        loop {
            sleep(INTERVAL).await;
            let known = manifests.borrow().clone();
            let Some(manifests) = known else { continue };
            let Some(manifest) = manifests.reading().borrow().manifest.clone() else { continue };
            if manifest.version != seen.0 {
                seen = (manifest.version, Instant::now());
            }
            if seen.1.elapsed() >= GRACE {
                look(&manifests, &manifest, &ends).await;
            }
        }
    });
    task
}

async fn look(manifests: &Manifests, manifest: &Manifest, ends: &ExchangeEnds) {
    let old = manifest.pools.values().any(|pool| !pool.old.is_empty() && pool.prepared.is_none());
    if !old || !acts(ends, manifest.version) {
        return;
    }
    let counts = ask_hosts::ask(ends).await;
    let own = Arc::clone(&ends.reports.borrow());
    let doubts = doubts(fresh(&own.report, &ends.peers.borrow()));
    let Some((pool, generation)) = next(manifest, &counts, &doubts) else { return };
    let edit = Edit::Retire { pool: pool.clone(), generation };
    match manifests.edit(&edit, Some(manifest.version)).await {
        Ok(edited) => info!(pool, generation, version = edited.version, "retired: no connection needs it"),
        // Somebody else was faster; the next look sees what they did.
        Err(error) => debug!(pool, generation, "not retired: {error}"),
    }
}

/// Whether it is for this node to act: it is the first of those that may, and no node that answers goes by an older version,
/// since a director that does may still send new connections by what would be retired.
fn acts(ends: &ExchangeEnds, version: u64) -> bool {
    let own = Arc::clone(&ends.reports.borrow());
    let peers = ends.peers.borrow();
    let reports = fresh(&own.report, &peers);
    is_first(&own.report, &reports) && all_have(&reports, version)
}

fn is_first(own: &Report, reports: &[&Report]) -> bool {
    let first = reports.iter().filter(|report| report.may_edit).map(|report| &report.node).min();
    own.may_edit && first == Some(&own.node)
}

fn all_have(reports: &[&Report], version: u64) -> bool {
    // A node that goes by no manifest has no version. One that does and has none yet may have been started over a kernel
    // that treats packets by an older one.
    reports.iter().all(|report| match report.manifest_version {
        Some(has) => has == version,
        None => !report.may_edit,
    })
}

/// The first pool with a generation that may go.
fn next(
    manifest: &Manifest,
    counts: &[HostConnections],
    doubts: &BTreeMap<HostId, Doubt>,
) -> Option<(String, u16)> {
    manifest.pools.iter().find_map(|(name, pool)| {
        let prepared = pool.prepared.as_ref().map(|generation| generation.number);
        let facts = PoolFacts::of(name, &pool.pool(), manifest.version, prepared);
        retirable(&facts, counts, doubts).map(|generation| (name.clone(), generation))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, may_edit: bool, manifest_version: Option<u64>) -> Report {
        Report { node: name.into(), may_edit, manifest_version, ..Report::default() }
    }

    #[test]
    fn the_first_of_those_that_may_acts() {
        let (a, b, c) = (node("a", false, None), node("b", true, Some(5)), node("c", true, Some(5)));
        let all = [&a, &b, &c];
        assert!(!is_first(&a, &all) && is_first(&b, &all) && !is_first(&c, &all));
        assert!(is_first(&c, &[&a, &c]), "b does not answer");
    }

    #[test]
    fn nobody_acts_while_a_node_goes_by_another_version() {
        let (a, b) = (node("a", true, Some(5)), node("b", true, Some(4)));
        assert!(!all_have(&[&a, &b], 5));
        assert!(all_have(&[&a, &node("c", false, None)], 5));
        assert!(!all_have(&[&a, &node("d", true, None)], 5), "its kernel may be behind");
    }
}
