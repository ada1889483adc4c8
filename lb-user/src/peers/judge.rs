//! What follows from the reports of several nodes. Pure: who is fresh has been decided before.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::report::{Answers, Report};
use super::view::{Contact, PeersView};
use crate::agent::dataplane::Role;
use crate::model::{Doubt, HostId};

/// What directors say against hosts.
///
/// A host is *suspected* when a director gets no answer of any kind from it; a director that gets none from most of the
/// pool's other hosts either is cut off itself and is not believed. It is *dead* when more than half of the directors
/// that know the pool say so. Reports of nodes that have not been heard from lately must not be among `reports`.
pub fn doubts<'a>(reports: impl IntoIterator<Item = &'a Report>) -> BTreeMap<HostId, Doubt> {
    let mut directors: BTreeMap<&str, usize> = BTreeMap::new();
    let mut accusers: BTreeMap<HostId, usize> = BTreeMap::new();
    for report in reports.into_iter().filter(|report| report.plays(Role::Director)) {
        for (pool, answers) in &report.answers {
            *directors.entry(pool).or_default() += 1;
            for host in answers.silent.iter().filter(|_| believed(answers)) {
                *accusers.entry(HostId { pool: pool.clone(), host: host.clone() }).or_default() += 1;
            }
        }
    }
    let judge = |host: &HostId, accusers: usize| {
        if accusers * 2 > directors[host.pool.as_str()] { Doubt::Dead } else { Doubt::Suspected }
    };
    accusers.into_iter().map(|(host, accusers)| (host.clone(), judge(&host, accusers))).collect()
}

/// Whether at least half of the hosts beside a silent one answer.
fn believed(answers: &Answers) -> bool {
    let others = answers.silent.len() + answers.answering - 1;
    answers.answering * 2 >= others
}

/// A node that has not confirmed a version of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Missing {
    /// Its name, or its address if it has never answered.
    pub node: String,
    /// Why it has not.
    pub reason: String,
}

/// Nodes whose kernels do not treat packets by this version of the manifest, or a later one, as far as is known.
pub fn missing(own: &Report, peers: &PeersView, version: u64) -> Vec<Missing> {
    let behind = |report: &Report| match report.manifest_version {
        Some(has) if has >= version => None,
        Some(has) => Some(format!("has version {has}")),
        None => Some("has no manifest in force".to_owned()),
    };
    let mut missing = BTreeSet::new();
    if let Some(reason) = behind(own) {
        missing.insert(Missing { node: own.node.clone(), reason });
    }
    for (url, peer) in peers {
        let node = peer.report.as_ref().map_or_else(|| url.to_string(), |report| report.node.clone());
        let reason = match (&peer.contact, &peer.report) {
            (Contact::Lost { reason, .. }, _) => Some(format!("unreachable: {reason}")),
            (Contact::Fresh, Some(report)) => behind(report),
            (Contact::Myself, _) => None,
            _ => Some("not heard from yet".to_owned()),
        };
        missing.extend(reason.map(|reason| Missing { node, reason }));
    }
    missing.into_iter().collect()
}

/// Nodes that hold different tables of a pool although they go by the same manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disagreement {
    /// Name of the pool.
    pub pool: String,
    /// Digests in order, each with the nodes and roles that hold it, as in `lb4-1 (director)`.
    pub digests: BTreeMap<String, Vec<String>>,
}

impl Disagreement {
    /// In words.
    pub fn text(&self) -> String {
        let sides: Vec<String> =
            self.digests.iter().map(|(digest, nodes)| format!("{digest} on {}", nodes.join(", "))).collect();
        format!(
            "pool {}: nodes hold different tables: {}; compare its seed, size and hosts on these nodes",
            self.pool,
            sides.join("; ")
        )
    }
}

/// Pools of which nodes with the same version of the manifest, or without one, hold different tables.
pub fn disagreements<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Vec<Disagreement> {
    let mut tables: BTreeMap<(&str, Option<u64>), BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for report in reports {
        for table in &report.tables {
            let held = tables.entry((&table.pool, report.manifest_version)).or_default();
            let holder = format!("{} ({})", report.node, table.role.name());
            held.entry(table.digest.clone()).or_default().push(holder);
        }
    }
    let differ = tables.into_iter().filter(|(_, digests)| digests.len() > 1);
    differ.map(|((pool, _), digests)| Disagreement { pool: pool.to_owned(), digests }).collect()
}

/// Pools of which a node's tables are not those of most nodes with the same manifest, by node. Where no table has most
/// nodes, all differ.
pub fn outliers<'a>(reports: impl IntoIterator<Item = &'a Report>) -> BTreeMap<String, Vec<String>> {
    let reports: Vec<&Report> = reports.into_iter().collect();
    let mut held: BTreeMap<(&str, Option<u64>), BTreeMap<&str, usize>> = BTreeMap::new();
    for (report, table) in
        reports.iter().flat_map(|report| report.tables.iter().map(move |table| (report, table)))
    {
        let digests = held.entry((&table.pool, report.manifest_version)).or_default();
        *digests.entry(&table.digest).or_default() += 1;
    }
    let mut outliers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (report, table) in
        reports.iter().flat_map(|report| report.tables.iter().map(move |table| (report, table)))
    {
        let digests = &held[&(table.pool.as_str(), report.manifest_version)];
        let most = digests[table.digest.as_str()] * 2 > digests.values().sum();
        let pools = outliers.entry(report.node.clone()).or_default();
        if !most && !pools.contains(&table.pool) {
            pools.push(table.pool.clone());
        }
    }
    outliers
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
