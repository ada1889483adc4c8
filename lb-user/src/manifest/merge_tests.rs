//! What the agent goes by, of the configuration and of the manifest; and what the two must not say together.

use super::*;
use crate::model::HostState;

const CONFIG: &str = "
director: {interfaces: [eth0]}
manifest: {file: /etc/lb/shared/manifest.yaml}
pools: {here: {hosts: {a: {address4: 192.0.2.1}}}}
services:
  - {vip: 198.51.100.1, port: 80, pool: here}
  - {vip: 198.51.100.1, port: 443, pool: web}
  - {vip: \"2001:db8:5::/64\", port: 80, pool: web}
";

const WEB: &str = "
version: 7
pools:
  web: {size: 1009, seed: 3, generation: 5, hosts: {b: {address4: 192.0.2.2}, c: {address4: 192.0.2.3, state: drain}}}
  spare: {size: 251, generation: 1, hosts: {d: {address6: \"2001:db8::4\"}}}
";

fn config() -> Config {
    Config::parse("lb.yaml", CONFIG, "n").unwrap()
}

fn manifest(text: &str) -> Manifest {
    Manifest::parse("m", text).unwrap()
}

fn merged(config: &Config, text: &str) -> Result<Config, String> {
    merge(config, Some(&manifest(text)), "lb.yaml", "the manifest").map_err(|errors| errors.to_string())
}

fn pools(config: &Config) -> Vec<&str> {
    config.model.pools.keys().map(String::as_str).collect()
}

#[test]
fn pools_are_those_of_both() {
    let merged = merged(&config(), WEB).unwrap();
    assert_eq!((pools(&merged), merged.manifest_version), (vec!["here", "spare", "web"], Some(7)));
    assert_eq!(merged.model.pools["web"], manifest(WEB).pools["web"].pool());
    assert_eq!(merged.model.pools["here"], config().model.pools["here"]);
    assert_eq!(merged.model.services, config().model.services);
}

#[test]
fn a_pool_that_nobody_has_is_one_without_hosts() {
    let merged = merged(&config(), "version: 1\npools: {}\n").unwrap();
    let web = &merged.model.pools["web"];
    assert_eq!((web.size, web.generation, web.hosts.len(), web.others.len()), (251, 1, 0, 0));
}

#[test]
fn without_a_manifest_there_are_only_the_own_pools() {
    let before = merged(&config(), WEB).unwrap();
    let without = merge(&before, None, "lb.yaml", "the manifest").unwrap();
    assert_eq!((pools(&without), without.manifest_version), (vec!["here"], None));
}

#[test]
fn what_an_earlier_manifest_had_is_forgotten_unless_services_use_it() {
    let before = merged(&config(), WEB).unwrap();
    let web =
        WEB.replace("  spare: {size: 251, generation: 1, hosts: {d: {address6: \"2001:db8::4\"}}}\n", "");
    let after = merged(&before, &web).unwrap();
    assert_eq!(pools(&after), ["here", "web"]);
    let gone = merged(&before, "version: 8\npools: {}\n").unwrap_err();
    assert!(gone.contains("pools.web: gone, but services here use it; remove them first"), "{gone}");
    assert!(gone.starts_with("the manifest"), "{gone}");
    assert!(!gone.contains("spare") && !gone.contains("here:"), "{gone}");
    // One that had no hosts may go; so may one that is in the configuration.
    let empty = merged(&config(), "version: 1\npools: {}\n").unwrap();
    assert!(merged_again(&empty).is_ok());
}

fn merged_again(config: &Config) -> Result<Config, String> {
    merged(config, "version: 2\npools: {}\n")
}

#[test]
fn a_pool_is_in_one_of_the_two() {
    let both = "version: 7\npools:\n  here: {size: 251, generation: 1, hosts: {d: {address4: 192.0.2.9}}}\n";
    let refused = merged(&config(), both).unwrap_err();
    assert!(refused.starts_with("lb.yaml:4:"), "{refused}");
    assert!(
        refused.contains("pools.here.hosts: the manifest has this pool as well; remove its hosts from one"),
        "{refused}"
    );
}

/// A tunnel that ends at a VIP would go round; in either family, at an address of a prefix, in whatever state the host is.
#[test]
fn a_host_at_a_vip_is_refused() {
    for (address, place) in [
        ("address4: 198.51.100.1", "198.51.100.1 is the VIP of service 198.51.100.1:80/tcp here"),
        (
            "address6: \"2001:db8:5::7\"",
            "2001:db8:5::7 is in the VIP of service [2001:db8:5::/64]:80/tcp here",
        ),
    ] {
        let web = WEB.replace("address4: 192.0.2.3", address);
        assert_eq!(manifest(&web).pools["web"].hosts["c"].state, HostState::Drain);
        let refused = merged(&config(), &web).unwrap_err();
        assert!(
            refused.contains(&format!("pools.web.hosts.c: {place}; give the host its own address")),
            "{refused}"
        );
        assert!(refused.starts_with("the manifest"), "{refused}");
    }
}
