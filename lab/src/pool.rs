//! The pool of L7 hosts: as text for configurations, and as the manifest that nodes share.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::bird::Family;
use crate::paths::Paths;
use crate::topology::Topology;

/// The manifest's file in the folder that nodes share.
pub const MANIFEST: &str = "manifest.yaml";

/// The pool's hosts, a line each, behind `indent`.
pub fn hosts(topology: &Topology, indent: &str) -> String {
    let mut text = String::new();
    for host in topology.pool() {
        let [address4, address6] = Family::ALL.map(|family| family.address(host, 0));
        writeln!(text, "{indent}{}: {{address4: {address4}, address6: \"{address6}\"}}", host.name)
            .expect("writing to a string");
    }
    text
}

/// The manifest of a lab that was just brought up.
pub fn write(paths: &Paths, topology: &Topology) -> Result<()> {
    if topology.spec.has_manifest() { replace(paths, &manifest(topology, 1, 1)) } else { Ok(()) }
}

/// The manifest as it is; `None` without one.
pub fn text(paths: &Paths, topology: &Topology) -> Result<Option<String>> {
    if !topology.spec.has_manifest() {
        return Ok(None);
    }
    let file = paths.shared().join(MANIFEST);
    fs::read_to_string(&file).map(Some).with_context(|| format!("reading {}", file.display()))
}

/// The pools of `text`, without what agents change by themselves: versions, and generations that end.
pub fn intent(text: &str) -> Result<Intent> {
    let document: Document = serde_saphyr::from_str(text).context("the manifest cannot be read")?;
    Ok(document.pools.into_iter().map(|(name, pool)| (name, (pool.seed, pool.size, pool.hosts))).collect())
}

/// Of each pool: seed, size, hosts.
pub type Intent = BTreeMap<String, (u64, u32, BTreeMap<String, Host>)>;

/// The manifest that brings the pools of `before` back where `now` is in force. It has a version of its own, as nodes do not
/// go back, and pools that differ have a generation of their own that does without the ones since: connections that these
/// moved are not kept. `None` if there is nothing to bring back.
pub fn back(before: &str, now: &str) -> Result<Option<String>> {
    let read = |text: &str| serde_saphyr::from_str::<Document>(text).context("the manifest cannot be read");
    let (mut back, now) = (read(before)?, read(now)?);
    let mut is_same = back.pools.len() == now.pools.len();
    for (name, pool) in &mut back.pools {
        let numbers: BTreeSet<u16> = now.pools.get(name).into_iter().flat_map(Pool::numbers).collect();
        match now.pools.get(name) {
            Some(now) if now.is_like(pool) && numbers.is_subset(&pool.numbers().collect()) => {
                *pool = now.clone();
            }
            _ => {
                is_same = false;
                let numbers = numbers.into_iter().chain(pool.numbers()).collect();
                pool.generation = unused(&numbers);
                pool.prepared = None;
            }
        }
    }
    back.version = now.version + 1;
    if is_same {
        return Ok(None);
    }
    serde_saphyr::to_string(&back).map(Some).context("writing the manifest")
}

/// A generation after all `numbers`, different from them in its low 12 bits too, of which 0 is none.
fn unused(numbers: &BTreeSet<u16>) -> u16 {
    let last = numbers.last().copied().unwrap_or(0);
    let is_free = |number: &u16| {
        !number.is_multiple_of(4096) && numbers.iter().all(|other| other % 4096 != number % 4096)
    };
    (1..=4095).map(|step| last.wrapping_add(step)).find(is_free).unwrap_or(1)
}

/// Puts a manifest in the place of the one there is.
pub fn replace(paths: &Paths, text: &str) -> Result<()> {
    let file = paths.shared().join(MANIFEST);
    let new = file.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, &file))
        .with_context(|| format!("writing {}", file.display()))
}

/// The manifest as `lb` writes it; what it means is in `configs/manifest.yaml`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Document {
    version: u64,
    pools: BTreeMap<String, Pool>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Pool {
    #[serde(default)]
    seed: u64,
    #[serde(default = "usual_size")]
    size: u32,
    generation: u16,
    hosts: BTreeMap<String, Host>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prepared: Option<Generation>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    old: Vec<Generation>,
}

/// A host of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Host {
    #[serde(skip_serializing_if = "Option::is_none")]
    address4: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address6: Option<Ipv6Addr>,
    #[serde(default = "usual_weight")]
    weight: u32,
    #[serde(default = "usual_state")]
    state: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Generation {
    number: u16,
    hosts: BTreeMap<String, u32>,
}

fn usual_size() -> u32 {
    65537
}

fn usual_weight() -> u32 {
    1
}

fn usual_state() -> String {
    "active".to_owned()
}

impl Pool {
    fn is_like(&self, other: &Self) -> bool {
        (self.seed, self.size, &self.hosts) == (other.seed, other.size, &other.hosts)
    }

    /// All generations that it has.
    fn numbers(&self) -> impl Iterator<Item = u16> {
        let others = self.prepared.iter().chain(&self.old).map(|other| other.number);
        others.chain([self.generation])
    }
}

/// The version that nodes should go by; `None` without a manifest.
pub fn version(paths: &Paths, topology: &Topology) -> Option<u64> {
    let text = text(paths, topology).ok()??;
    serde_saphyr::from_str::<Document>(&text).ok().map(|document| document.version)
}

fn manifest(topology: &Topology, version: u64, generation: u64) -> String {
    format!(
        "version: {version}\npools:\n  web:\n    generation: {generation}\n    hosts:\n{}",
        hosts(topology, "      ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    #[test]
    fn manifest_has_the_pool_and_not_the_spares() {
        let topology = Topology::new(&spec::load("x", "lb7: 2\nspare_lb7: 1\n", &[]).unwrap());
        let text = manifest(&topology, 7, 9);
        assert_eq!(text.matches("lb7-").count(), 2, "{text}");
        let document: Document = serde_saphyr::from_str(&text).unwrap();
        assert_eq!((document.version, document.pools["web"].generation), (7, 9));
    }

    const BEFORE: &str = "version: 3
pools:
  web:
    generation: 2
    hosts:
      lb7-1: {address4: 192.0.2.139, address6: \"2001:db8::c000:28b\", weight: 4}
      lb7-2: {address4: 192.0.2.140}
    old:
    - {number: 1, hosts: {lb7-1: 1, lb7-2: 1}}
  other: {generation: 9, hosts: {lb7-1: {address4: 192.0.2.139}}}
";

    #[test]
    fn pools_come_back_with_weights_and_states_by_a_generation_of_their_own() {
        let now = BEFORE
            .replace("version: 3", "version: 7")
            .replace("generation: 2", "generation: 4095")
            .replace("lb7-2: {address4: 192.0.2.140}", "lb7-2: {address4: 192.0.2.140, state: drain}")
            .replace("- {number: 1,", "- {number: 2, hosts: {lb7-1: 4}}\n    - {number: 3,");
        let back = back(BEFORE, &now).unwrap().unwrap();
        assert_eq!(intent(&back).unwrap(), intent(BEFORE).unwrap());
        assert_ne!(intent(&back).unwrap(), intent(&now).unwrap());
        let back: Document = serde_saphyr::from_str(&back).unwrap();
        assert_eq!((back.version, back.pools["other"].generation), (8, 9), "{back:?}");
        // Not 4096, which is none, nor 4097, which is 1 in its low bits.
        assert_eq!((back.pools["web"].generation, back.pools["web"].old.len()), (4100, 1), "{back:?}");
    }

    #[test]
    fn what_agents_change_by_themselves_is_left_alone() {
        let now = BEFORE.replace("version: 3", "version: 4");
        let now = now.replace("    old:\n    - {number: 1, hosts: {lb7-1: 1, lb7-2: 1}}\n", "");
        assert_eq!(back(BEFORE, &now).unwrap(), None);
        assert_eq!(intent(&now).unwrap(), intent(BEFORE).unwrap());
        let drained_and_back = now.replace("generation: 2", "generation: 5");
        assert!(back(BEFORE, &drained_and_back).unwrap().is_some(), "generations of the run go");
        assert!(back(BEFORE, "pools: 3").is_err());
    }
}
