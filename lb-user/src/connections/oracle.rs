//! What follows from the connections of all hosts. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::HostConnections;
use crate::model::{Doubt, HostId, HostState, Pool};

/// What the manifest says of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolFacts {
    /// Its name.
    pub pool: String,
    /// Version of the manifest.
    pub version: u64,
    /// A generation has been announced and is not current yet.
    pub prepared: bool,
    /// Older generations that are still in force, newest first.
    pub old: Vec<u16>,
    /// Hosts that may hold connections: all but those that the operator has taken down.
    pub hosts: BTreeSet<String>,
}

impl PoolFacts {
    /// What the model says, with what only the manifest knows.
    pub fn of(name: &str, pool: &Pool, version: u64, prepared: Option<u16>) -> Self {
        let old = pool.others.iter().map(|generation| generation.number);
        let hosts = pool.hosts.iter().filter(|(_, host)| host.state != HostState::Down);
        PoolFacts {
            pool: name.to_owned(),
            version,
            prepared: prepared.is_some(),
            old: old.filter(|number| Some(*number) != prepared).collect(),
            hosts: hosts.map(|(name, _)| name.clone()).collect(),
        }
    }
}

/// The old generation that may go, if any: the oldest that no host needs, once every host that is not dead has counted
/// its connections by this very version of the manifest, and nothing is prepared.
///
/// Directors must have confirmed the version as well, or one of them may still send by the generation that goes.
pub fn retirable(
    facts: &PoolFacts,
    counts: &[HostConnections],
    doubts: &BTreeMap<HostId, Doubt>,
) -> Option<u16> {
    if facts.prepared {
        return None;
    }
    let counts: BTreeMap<&str, &HostConnections> = counts
        .iter()
        .filter(|c| c.pool == facts.pool && c.manifest_version == Some(facts.version) && c.problem.is_none())
        .map(|count| (count.host.as_str(), count))
        .collect();
    let dead = |host: &String| {
        doubts.get(&HostId { pool: facts.pool.clone(), host: host.clone() }) == Some(&Doubt::Dead)
    };
    let alive: Vec<&String> = facts.hosts.iter().filter(|host| !dead(host)).collect();
    if !alive.iter().all(|host| counts.contains_key(host.as_str())) {
        return None;
    }
    let needed = |number: u16| counts.values().any(|count| count.needs.contains_key(&number));
    facts.old.iter().rev().copied().find(|number| !needed(*number))
}

/// The counts with `safe` only where it holds by the newest manifest that any node knows: one that a host has not heard of
/// may have made it active again.
pub fn safe_now(mut counts: Vec<HostConnections>, newest: Option<u64>) -> Vec<HostConnections> {
    for count in &mut counts {
        count.safe &= count.problem.is_none() && count.manifest_version >= newest;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> PoolFacts {
        PoolFacts {
            pool: "web".into(),
            version: 5,
            prepared: false,
            old: vec![3, 2],
            hosts: ["a", "b"].map(str::to_owned).into(),
        }
    }

    fn count(host: &str, needs: &[u16]) -> HostConnections {
        HostConnections {
            pool: "web".into(),
            host: host.into(),
            manifest_version: Some(5),
            needs: needs.iter().map(|number| (*number, 1)).collect(),
            ..HostConnections::default()
        }
    }

    fn go(facts: &PoolFacts, counts: &[HostConnections]) -> Option<u16> {
        retirable(facts, counts, &BTreeMap::new())
    }

    #[test]
    fn the_oldest_that_nobody_needs_goes_first() {
        assert_eq!(go(&facts(), &[count("a", &[]), count("b", &[])]), Some(2));
        assert_eq!(go(&facts(), &[count("a", &[2]), count("b", &[])]), Some(3));
        assert_eq!(go(&facts(), &[count("a", &[2]), count("b", &[3])]), None);
        let none = PoolFacts { old: vec![], ..facts() };
        assert_eq!(go(&none, &[count("a", &[]), count("b", &[])]), None);
    }

    #[test]
    fn while_a_generation_is_prepared_nothing_goes() {
        let prepared = PoolFacts { prepared: true, ..facts() };
        assert_eq!(go(&prepared, &[count("a", &[]), count("b", &[])]), None);
    }

    #[test]
    fn every_host_that_is_not_dead_must_have_counted_by_this_version() {
        assert_eq!(go(&facts(), &[count("a", &[])]), None, "b is not heard");
        let behind = HostConnections { manifest_version: Some(4), ..count("b", &[]) };
        assert_eq!(go(&facts(), &[count("a", &[]), behind]), None);
        let failed = HostConnections { problem: Some("no".into()), ..count("b", &[]) };
        assert_eq!(go(&facts(), &[count("a", &[]), failed]), None);
        let other = HostConnections { pool: "dns".into(), ..count("b", &[]) };
        assert_eq!(go(&facts(), &[count("a", &[]), other]), None);
        let b = HostId { pool: "web".into(), host: "b".into() };
        let doubted = |doubt| retirable(&facts(), &[count("a", &[])], &[(b.clone(), doubt)].into());
        assert_eq!(doubted(Doubt::Suspected), None, "it may live");
        assert_eq!(doubted(Doubt::Dead), Some(2));
    }

    #[test]
    fn a_host_is_not_safe_by_an_old_manifest_or_without_a_count() {
        let safe = |version, problem: Option<&str>| {
            let count = HostConnections {
                safe: true,
                manifest_version: version,
                problem: problem.map(Into::into),
                ..count("a", &[])
            };
            safe_now(vec![count], Some(5))[0].safe
        };
        assert!(safe(Some(5), None));
        assert!(!safe(Some(4), None) && !safe(None, None) && !safe(Some(5), Some("no")));
    }
}
