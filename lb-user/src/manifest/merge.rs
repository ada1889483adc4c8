//! The configuration and the manifest together are what the agent goes by.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Manifest;
use crate::config::{Config, ConfigErrors, Problem};
use crate::model::Pool;

/// Rows of a pool that has no hosts.
const NO_ROWS: u32 = 251;

/// `config` with the pools of `manifest`; those of an earlier manifest are forgotten. `file` is what messages call the
/// configuration, and `source` the manifest.
pub fn merge(
    config: &Config,
    manifest: Option<&Manifest>,
    file: &str,
    source: &str,
) -> Result<Config, ConfigErrors> {
    let mut merged = config.clone();
    merged.manifest_version = manifest.map(|manifest| manifest.version);
    merged.model.pools.retain(|name, _| config.own_pools.0.contains_key(name));
    let Some(manifest) = manifest else { return Ok(merged) };
    let both = config.own_pools.0.iter().filter(|(name, _)| manifest.pools.contains_key(*name));
    let both: Vec<Problem> = both
        .map(|(name, at)| Problem {
            at: Some(*at),
            key: format!("pools.{name}.hosts"),
            message: format!("{source} has this pool as well; remove its hosts from one of the two"),
        })
        .collect();
    if !both.is_empty() {
        return Err(ConfigErrors { file: file.into(), problems: both });
    }
    let gone = pools_that_are_gone(config, manifest);
    if !gone.is_empty() {
        return Err(ConfigErrors { file: source.into(), problems: gone });
    }
    let loops = vips_that_are_hosts(config, manifest);
    if !loops.is_empty() {
        return Err(ConfigErrors { file: source.into(), problems: loops });
    }
    merged.model.pools.extend(manifest.pools.iter().map(|(name, pool)| (name.clone(), pool.pool())));
    let missing: Vec<String> = merged.model.services.values().map(|service| service.pool.clone()).collect();
    for pool in missing {
        // Its packets are dropped, as when no host works; the kernel need not know why.
        merged.model.pools.entry(pool).or_insert_with(no_hosts);
    }
    Ok(merged)
}

fn no_hosts() -> Pool {
    Pool { size: NO_ROWS, generation: 1, ..Pool::default() }
}

/// Pools that services use and that the manifest before had: their connections would all break.
fn pools_that_are_gone(config: &Config, manifest: &Manifest) -> Vec<Problem> {
    let had = |pool: &&String| {
        let here = config.own_pools.0.contains_key(*pool);
        !here && config.model.pools.get(*pool).is_some_and(|pool| !pool.hosts.is_empty())
    };
    let used: BTreeSet<&String> = config.model.services.values().map(|service| &service.pool).collect();
    let gone = used.into_iter().filter(had).filter(|pool| !manifest.pools.contains_key(*pool));
    let message = "gone, but services here use it; remove them first";
    gone.map(|pool| Problem { at: None, key: format!("pools.{pool}"), message: message.into() }).collect()
}

/// A VIP at which a tunnel ends would make packets go round.
fn vips_that_are_hosts(config: &Config, manifest: &Manifest) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (pool, members) in &manifest.pools {
        for (name, host) in &members.hosts {
            let addresses = [host.address4.map(IpAddr::V4), host.address6.map(IpAddr::V6)];
            for address in addresses.into_iter().flatten() {
                let Some(vip) = config.model.vips_over(address.into()).last() else { continue };
                let Some((service, _)) = config.model.services_of(vip).next() else { continue };
                let key = format!("pools.{pool}.hosts.{name}");
                let in_ = if vip.is_prefix() { "in " } else { "" };
                let message = format!(
                    "{address} is {in_}the VIP of service {service} here; give the host its own address"
                );
                problems.push(Problem { at: None, key, message });
            }
        }
    }
    problems
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
