//! The pool of L7 hosts: as text for configurations, and as the manifest that nodes share.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};

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

/// The pool as it was at the start. A version and a generation of their own, as nodes do not go back; no older
/// generation is kept, so there must be no connections.
pub fn restore(paths: &Paths, topology: &Topology) -> Result<()> {
    if !topology.spec.has_manifest() {
        return Ok(());
    }
    let file = paths.shared().join(MANIFEST);
    let now = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let version = highest(&now, "version:");
    // `generation` is the current one, `number` any other.
    let generation = highest(&now, "generation:").max(highest(&now, "number:"));
    if now == manifest(topology, version, generation) {
        return Ok(());
    }
    replace(paths, &manifest(topology, version + 1, generation % 4000 + 1))
}

/// The version that nodes should go by; `None` without a manifest.
pub fn version(paths: &Paths, topology: &Topology) -> Option<u64> {
    let text =
        fs::read_to_string(paths.shared().join(MANIFEST)).ok().filter(|_| topology.spec.has_manifest())?;
    Some(highest(&text, "version:"))
}

fn replace(paths: &Paths, text: &str) -> Result<()> {
    let file = paths.shared().join(MANIFEST);
    let new = file.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, &file))
        .with_context(|| format!("writing {}", file.display()))
}

fn manifest(topology: &Topology, version: u64, generation: u64) -> String {
    format!(
        "version: {version}\npools:\n  web:\n    generation: {generation}\n    hosts:\n{}",
        hosts(topology, "      ")
    )
}

/// The highest number behind `key` in `text`; 0 if there is none.
fn highest(text: &str, key: &str) -> u64 {
    let behind = text.split(key).skip(1);
    let digits = behind.map(|rest| rest.trim_start().split(|c: char| !c.is_ascii_digit()).next());
    digits.filter_map(|digits| digits?.parse().ok()).max().unwrap_or(0)
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
        assert_eq!((highest(&text, "version:"), highest(&text, "generation:")), (7, 9));
    }

    #[test]
    fn highest_number_counts_whatever_the_order() {
        let text = "old:\n- number: 3\n- {number: 12, hosts: {}}\n- number: 7\n";
        assert_eq!(highest(text, "number:"), 12);
        assert_eq!(highest(text, "version:"), 0);
    }
}
