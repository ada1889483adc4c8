//! What a change will do, said beforehand.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::edit::{self, Edit};
use super::{GENERATIONS, Manifest, PoolManifest};
use crate::model::Generation;
use crate::table::maglev::{self, Member};
use crate::table::{self, OWNERS};

/// What a change will do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The version that it was made for.
    pub base: u64,
    /// The version that it ends with.
    pub version: u64,
    /// The pool.
    pub pool: String,
    /// Rows of the pool's table.
    pub rows: u32,
    /// Hosts whose share of new connections changes.
    pub shares: Vec<Share>,
    /// Rows that move, by the host that has them and the one that gets them.
    pub moves: Vec<Move>,
    /// Generations in force afterwards, in order of precedence.
    pub generations: Vec<u16>,
    /// Share of the current generation's connections that will reach their host by a second chance, 0 to 1.
    pub second_chances: f64,
    /// Rows with more hosts of whole generations than they can hold.
    pub crowded: usize,
    /// Rows that cannot hold all backups.
    pub tight: usize,
    /// What could break, and why.
    pub risks: Vec<String>,
    /// Why it cannot be done; what to do.
    pub refusal: Option<String>,
}

/// A host's share of new connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The host.
    pub host: String,
    /// Rows that it has.
    pub from: usize,
    /// Rows that it gets.
    pub to: usize,
}

/// Rows that go from one host to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Has them.
    pub from: String,
    /// Gets them.
    pub to: String,
    /// How many.
    pub rows: usize,
}

/// Says what `edit` will do to `manifest`.
pub fn plan(manifest: &Manifest, edit: &Edit) -> Plan {
    let name = edit.pool();
    let mut plan =
        Plan { base: manifest.version, version: manifest.version, pool: name.to_owned(), ..Plan::default() };
    let steps = match edit::steps(manifest, edit) {
        Ok(steps) => steps,
        Err(refused) => {
            plan.refusal = Some(refused.0);
            return plan;
        }
    };
    let Some(last) = steps.last() else { return plan };
    plan.version = last.version;
    let Some(after) = last.pools.get(name) else { return plan };
    plan.rows = after.size;
    plan.generations = after.numbers();
    let before = manifest.pools.get(name);
    plan.compare(&before.map(PoolManifest::current).unwrap_or_default(), &after.current(), after.seed);
    // The fullest moment: prepared and current, before an old generation or a host is forgotten.
    let fullest =
        steps.iter().filter_map(|step| step.pools.get(name)).max_by_key(|pool| pool.numbers().len());
    plan.cover(fullest.unwrap_or(after));
    plan.name_risks(edit, before, after);
    plan
}

impl Plan {
    fn compare(&mut self, before: &Generation, after: &Generation, seed: u64) {
        let (have, want) = (owners(before, seed, self.rows), owners(after, seed, self.rows));
        let mut shares: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let mut moves: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for row in 0..self.rows as usize {
            let (from, to) = (have.get(row).copied(), want.get(row).copied());
            if let Some(from) = from {
                shares.entry(from).or_default().0 += 1;
            }
            if let Some(to) = to {
                shares.entry(to).or_default().1 += 1;
            }
            if let (Some(from), Some(to)) = (from, to)
                && from != to
            {
                *moves.entry((from, to)).or_default() += 1;
            }
        }
        let changed = shares.iter().filter(|(_, (from, to))| from != to);
        self.shares = changed.map(|(host, &(from, to))| Share { host: (*host).into(), from, to }).collect();
        let moved: usize = moves.values().sum();
        self.second_chances = moved as f64 / f64::from(self.rows.max(1));
        let listed = moves.iter();
        self.moves =
            listed.map(|((from, to), &rows)| Move { from: (*from).into(), to: (*to).into(), rows }).collect();
    }

    /// Whether the rows can hold the owners of all generations.
    fn cover(&mut self, pool: &PoolManifest) {
        let generations = pool.pool().generations();
        let slots = pool.hosts.keys().cloned().zip(0..).collect();
        match table::rows(&generations, pool.seed, pool.size, &slots) {
            Ok(table) => (self.crowded, self.tight) = (table.crowded, table.tight),
            Err(error) => self.refusal = Some(error.to_string()),
        }
        let oldest = pool.old.last().map_or(0, |oldest| oldest.number);
        let wait = format!("wait until generation {oldest} is retired; `lb status` shows what holds it");
        if self.crowded > 0 {
            self.refusal = Some(format!(
                "{} of {} rows would have more than {OWNERS} hosts over {} generations, so that connections of the oldest \
                 break there; {wait}",
                self.crowded,
                self.rows,
                generations.len()
            ));
        } else if generations.len() > GENERATIONS {
            self.refusal = Some(format!(
                "{} generations would be in force, {GENERATIONS} are the most; {wait}",
                generations.len()
            ));
        }
    }

    fn name_risks(&mut self, edit: &Edit, before: Option<&PoolManifest>, after: &PoolManifest) {
        let gone: BTreeSet<&String> = before
            .iter()
            .flat_map(|before| before.hosts.keys())
            .filter(|name| !after.hosts.contains_key(*name))
            .collect();
        for host in gone {
            self.risks.push(format!("every connection that {host} still holds breaks: it leaves the pool"));
        }
        if let Edit::Retire { generation, .. } = edit {
            self.risks.push(format!("connections that only generation {generation} explains break"));
        }
        if self.tight > 0 {
            self.risks.push(format!(
                "in {} of {} rows there is no room for a backup: connections that it took while another host failed break \
                 there",
                self.tight, self.rows
            ));
        }
    }
}

/// The host of every row; nothing for a generation without hosts.
fn owners(generation: &Generation, seed: u64, size: u32) -> Vec<&str> {
    let members: Vec<_> = generation.hosts.iter().map(|(name, &weight)| Member { name, weight }).collect();
    let rows = maglev::populate(&members, seed, size).unwrap_or_default();
    rows.into_iter().map(|host| members[usize::from(host)].name).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
