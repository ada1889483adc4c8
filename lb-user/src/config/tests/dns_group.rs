//! `dns.leader`, `dns.observers`, `dns.anycast`, and checks that ask directors.

use std::time::Duration;

use super::{errors, one, parse};
use crate::dns::Check;

const NODES: &str =
    "nodes: [\"http://192.0.2.1:7400\", \"http://192.0.2.2:7400\", \"http://192.0.2.3:7400\"]";

/// A name server that asks nobody, with these sections beside `dns` and within.
fn dns(beside: &str, within: &str) -> String {
    format!(
        "{beside}dns:\n  listen: \"192.0.2.1:53\"\n  zones: {{example.org: {{ns: [ns.example.net.]}}}}\n{within}"
    )
}

#[test]
fn what_name_servers_do_together_has_defaults() {
    let text = dns(
        "peers: {listen: \"192.0.2.1:7400\"}\nbgp: {driver: bird}\n",
        &format!(
            "  sinks: {{e: {{type: etcd, urls: \"http://192.0.2.9:2379\"}}}}\n  leader: {{etcd: \"http://192.0.2.9:2379/\"}}\n  \
             observers: {{{NODES}}}\n  anycast: 192.0.2.53\n"
        ),
    );
    let dns = parse(&text).unwrap().dns.unwrap();
    let leader = dns.leader.unwrap();
    assert_eq!((leader.key.as_str(), leader.lease), ("/lb/dns/leader", Duration::from_secs(2)));
    assert_eq!(
        (leader.urls, leader.lease / 4),
        (vec!["http://192.0.2.9:2379".to_owned()], Duration::from_millis(500))
    );
    let observers = dns.observers.unwrap();
    assert_eq!((observers.nodes.len(), observers.quorum), (3, 2));
    assert_eq!(dns.anycast, ["192.0.2.53".parse().unwrap()].into());
}

#[test]
fn a_leader_needs_sinks_and_a_lease_that_etcd_grants() {
    one(
        &dns("", "  leader: {etcd: \"http://192.0.2.9:2379\"}\n"),
        "4:12: dns.leader.etcd: nothing to write: the leader is who writes to dns.sinks; add one, or remove dns.leader",
    );
    let sinks = "  sinks: {e: {type: etcd, urls: \"http://192.0.2.9:2379\"}}\n";
    for lease in ["1s", "2500ms"] {
        one(
            &dns("", &format!("{sinks}  leader: {{etcd: \"http://192.0.2.9:2379\", lease: {lease}}}\n")),
            "5:50: dns.leader.lease: etcd takes whole seconds, 2s at least; write one, as in 5s",
        );
    }
}

#[test]
fn a_quorum_is_more_than_half() {
    let peers = "peers: {listen: \"192.0.2.1:7400\"}\n";
    for quorum in [1, 4] {
        let found = errors(&dns(peers, &format!("  observers: {{quorum: {quorum}, {NODES}}}\n")));
        let message = format!(
            "lb.yaml:5:23: dns.observers.quorum: {quorum} is out of range; write a number from 2 to 3"
        );
        assert_eq!(found, [message]);
    }
    one(
        &dns("", &format!("  observers: {{{NODES}}}\n")),
        "4:3: dns.observers: others cannot ask this node what it sees; write where, as in peers: {listen: \
         \"192.0.2.53:7400\"}",
    );
}

#[test]
fn a_shared_address_is_announced_by_somebody() {
    one(&dns("", "  anycast: 192.0.2.53\n"), "4:3: dns.anycast: announced by BGP; add the section bgp");
    one(
        &dns("bgp: {driver: gobgp}\n", "  anycast: 192.0.2.53\n"),
        "5:3: dns.anycast: GoBGP takes no route without a next hop, which a director alone has (source4); use bird",
    );
    one(
        &dns("bgp: {driver: bird}\n", ""),
        "1:1: bgp: nothing to announce without the role of a director or dns.anycast; add one, or remove bgp",
    );
}

#[test]
fn who_asks_directors_needs_no_services_but_their_addresses() {
    let check = "  checks: {there: {type: vip, vip: 198.51.100.1, directors: 2}}\n";
    let config = parse(&dns("peers: {nodes: [\"http://192.0.2.9:7400\"]}\n", check)).unwrap();
    let there = &config.dns.unwrap().checks["there"];
    assert!(matches!(there, Check::Vip { vip: Some(_), directors: Some(2) }), "{there:?}");
    one(
        &dns("", check),
        "4:61: dns.checks.there.directors: directors are asked what they announce; list them in peers.nodes",
    );
}
