//! What a new configuration changes: at once, or when the agent starts again. Pure.

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::peers;

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Parts of the configuration that are in force as now written.
    pub applied: Vec<String>,
    /// Keys that stay as they were until the agent starts again; packets go on meanwhile.
    pub at_restart: Vec<String>,
}

/// What is to be in force now that `new` is written, and what that changes.
pub fn merge(old: &Config, mut new: Config) -> (Config, Changes) {
    let mut at_restart = Vec::new();
    let mut keep = |key: &str, differs: bool| {
        if differs {
            at_restart.push(key.to_owned());
        }
        differs
    };
    if keep("api", old.api != new.api) {
        new.api = old.api.clone();
    }
    if keep("pins", old.pins != new.pins) {
        new.pins = old.pins.clone();
    }
    match (&old.director, &mut new.director) {
        (Some(old), Some(new)) => {
            if keep("director.interfaces", old.interfaces != new.interfaces) {
                new.interfaces = old.interfaces.clone();
            }
            if keep("director.xdp", old.xdp != new.xdp) {
                new.xdp = old.xdp;
            }
            if keep("director.capacity", old.capacity != new.capacity) {
                new.capacity = old.capacity;
            }
        }
        (before, after) => {
            if keep("director", before.is_some() != after.is_some()) {
                after.clone_from(before);
            }
        }
    }
    match (&old.host, &mut new.host) {
        (Some(old), Some(new)) => {
            if keep("host.interfaces", old.interfaces != new.interfaces) {
                new.interfaces = old.interfaces.clone();
            }
            if keep("host.decapsulation", old.decapsulation != new.decapsulation) {
                new.decapsulation = old.decapsulation;
            }
            if keep("host.xdp", old.xdp != new.xdp) {
                new.xdp = old.xdp;
            }
        }
        (before, after) => {
            if keep("host", before.is_some() != after.is_some()) {
                after.clone_from(before);
            }
        }
    }
    match (&old.bgp, &mut new.bgp) {
        (Some(old), Some(new)) => {
            if keep("bgp.driver", old.driver != new.driver) {
                new.driver = old.driver.clone();
            }
        }
        (before, after) => {
            if keep("bgp", before.is_some() != after.is_some()) {
                after.clone_from(before);
            }
        }
    }
    let of = |config: &Config| config.peers.clone().unwrap_or_default();
    let (had, has) = (of(old), of(&new));
    if keep("peers.listen", had.listen != has.listen) | keep("peers.edits", had.edits != has.edits) {
        new.peers = Some(peers::Config { listen: had.listen, edits: had.edits, ..has });
    }
    if keep("agent_check", old.agent_check != new.agent_check) {
        new.agent_check = old.agent_check.clone();
    }
    match (&old.dns, &mut new.dns) {
        (Some(old), Some(new)) => {
            if keep("dns.listen", old.listen != new.listen) {
                new.listen.clone_from(&old.listen);
            }
            if keep("dns.threads", old.threads != new.threads) {
                new.threads = old.threads;
            }
            if keep("dns.tcp", old.tcp != new.tcp) {
                new.tcp = old.tcp;
            }
            if keep("dns.state", old.state != new.state) {
                new.state.clone_from(&old.state);
            }
        }
        (before, after) => {
            if keep("dns", before.is_some() != after.is_some()) {
                after.clone_from(before);
            }
        }
    }
    let applied = differences(old, &new);
    (new, Changes { applied, at_restart })
}

fn differences(old: &Config, new: &Config) -> Vec<String> {
    let parts = [
        ("node", old.node != new.node),
        ("disable_file", old.disable_file != new.disable_file),
        ("leave", old.leave != new.leave),
        ("manifest", old.manifest != new.manifest),
        ("director", old.director != new.director),
        ("host", old.host != new.host),
        ("pools", old.model.pools != new.model.pools || old.checks != new.checks),
        ("services", old.model.services != new.model.services),
        ("bgp", old.bgp != new.bgp),
        ("peers", old.peers != new.peers),
        ("dns", old.dns != new.dns),
    ];
    parts.into_iter().filter(|(_, differs)| *differs).map(|(part, _)| part.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "
director: {interfaces: [eth0]}
host: {interfaces: [eth0], accept_from: [10.0.0.0/8]}
pools: {web: {hosts: {a: {address4: 192.0.2.1}}}}
services: [{vip: 198.51.100.1, port: 80, pool: web}]
bgp: {driver: bird}
agent_check: {}
";

    #[test]
    fn the_same_configuration_changes_nothing() {
        assert_eq!(merge(&config(OLD), config(OLD)), (config(OLD), Changes::default()));
    }

    #[test]
    fn what_packets_are_treated_by_changes_at_once() {
        let new = config(
            &OLD.replace("10.0.0.0/8", "172.16.0.0/12")
                .replace("a: {", "b: {address4: 192.0.2.2}, a: {weight: 2, ")
                .replace("port: 80", "port: 443")
                .replace("driver: bird", "driver: bird, med: 5"),
        );
        let (merged, changes) = merge(&config(OLD), new.clone());
        assert_eq!(merged, new);
        assert_eq!(changes.applied, ["host", "pools", "services", "bgp"]);
        assert!(changes.at_restart.is_empty());
    }

    #[test]
    fn what_the_process_stands_on_stays_until_it_starts_again() {
        let new = OLD
            .replace("director: {interfaces: [eth0]}", "director: {interfaces: [eth1], capacity: {hosts: 9}}")
            .replace("host: {interfaces: [eth0]", "host: {interfaces: [eth1], decapsulation: tc")
            .replace("driver: bird", "driver: gobgp")
            .replace(
                "agent_check: {}",
                "agent_check: {listen: \"[::]:1\"}\napi: /run/x\npins: /sys/fs/bpf/x",
            );
        let (merged, changes) = merge(&config(OLD), config(&new));
        assert_eq!(merged, config(OLD));
        assert!(changes.applied.is_empty());
        let at_restart = [
            "api",
            "pins",
            "director.interfaces",
            "director.capacity",
            "host.interfaces",
            "host.decapsulation",
            "bgp.driver",
            "agent_check",
        ];
        assert_eq!(changes.at_restart, at_restart);
    }

    #[test]
    fn whom_to_follow_changes_at_once_and_the_listener_at_restart() {
        let with = |peers: &str| config(&format!("{OLD}peers: {peers}\n"));
        let old = with("{listen: \"[::]:7400\", nodes: [\"http://192.0.2.1:7400\"]}");
        let new = with(
            "{listen: \"[::]:7401\", nodes: [\"http://192.0.2.2:7400\"], allow: [192.0.2.0/24], edits: true}",
        );
        let (merged, changes) = merge(&old, new.clone());
        let (merged, new) = (merged.peers.unwrap(), new.peers.unwrap());
        assert_eq!(merged, peers::Config { listen: old.peers.unwrap().listen, edits: false, ..new });
        assert_eq!(changes.applied, ["peers"]);
        assert_eq!(changes.at_restart, ["peers.listen", "peers.edits"]);
    }

    #[test]
    fn roles_come_and_go_at_restart() {
        let (merged, changes) = merge(&config(OLD), config("agent_check: {}"));
        assert_eq!(merged.roles(), ["director", "host", "agent_check"]);
        assert_eq!(changes.at_restart, ["director", "host", "bgp"]);
    }

    fn config(text: &str) -> Config {
        Config::parse("lb.yaml", text, "n").unwrap()
    }
}
