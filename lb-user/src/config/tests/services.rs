//! What of a flow chooses its host, fragments, and services of any port.

use super::{errors, one, parse};
use crate::config::Effective;
use crate::model::{ANY_PORT, Fragments, HashBy};

/// Two services of a VIP, which say this beside what they must.
fn services(port: &str, first: &str, second: &str) -> String {
    format!(
        "director: {{interfaces: [eth0]}}\npools:\n  web: {{hosts: {{a: {{address4: 192.0.2.1}}}}}}\nservices:\n  \
         - {{vip: 198.51.100.1, port: {port}, pool: web{first}}}\n  - {{vip: 198.51.100.1, port: 443, pool: web{second}}}\n"
    )
}

#[test]
fn fragments_choose_the_hash_and_any_port_is_one() {
    let forward = ", fragments: forward";
    let text = services("any", forward, forward);
    let config = parse(&text).unwrap();
    for (key, service) in &config.model.services {
        assert_eq!((service.hash, service.fragments), (HashBy::Addresses, Fragments::Forward), "{key}");
    }
    assert_eq!(config.model.services.keys().next().unwrap().port, ANY_PORT);
    let written = serde_saphyr::to_string(&Effective::from(&config)).unwrap();
    assert_eq!(parse(&written).unwrap().model, config.model);
    let by_source = parse(&services("80", ", hash: source", "")).unwrap();
    let hashes: Vec<_> = by_source.model.services.values().map(|service| service.hash).collect();
    assert_eq!(hashes, [HashBy::Source, HashBy::FiveTuple]);
}

#[test]
fn what_does_not_go_together_is_refused() {
    assert_eq!(
        errors(&services("80", ", hash: 5-tuple, fragments: forward", ", fragments: forward"))[0],
        "lb.yaml:5:52: services[0].hash: 5-tuple does not go with fragments: forward, as fragments have no ports; write \
         addresses or source"
    );
    one(
        &services("80", ", hash: source, affinity: flow-table", ""),
        "5:52: services[0].hash: does not go with affinity: flow-table, which knows flows by their ports; change one of them",
    );
    one(
        &services("80", ", fragments: forward", ""),
        "6:5: services[1]: fragments of 198.51.100.1/tcp have no ports: services of one VIP and protocol forward all of them or \
         none, with the same pool, hash, sources and limit; line 5 says otherwise",
    );
    // Else who is denied here would come in there.
    one(
        &services("80", ", fragments: forward, sources: {deny: [203.0.113.7/32]}", ", fragments: forward"),
        "6:58: services[1].fragments: fragments of 198.51.100.1/tcp have no ports: services of one VIP and protocol forward \
         all of them or none, with the same pool, hash, sources and limit; line 5 says otherwise",
    );
    one(
        &services(
            "80",
            ", fragments: forward, limit: {packets: 10}",
            ", fragments: forward, limit: {packets: 11}",
        ),
        "6:58: services[1].fragments: fragments of 198.51.100.1/tcp have no ports: services of one VIP and protocol forward \
         all of them or none, with the same pool, hash, sources and limit; line 5 says otherwise",
    );
    let bounded = ", fragments: forward, limit: {connections: 10}";
    assert_eq!(
        errors(&services("80", bounded, bounded))[0],
        "lb.yaml:5:57: services[0].fragments: forward does not go with limit.connections, as a fragment hides what opens a \
         connection; limit packets, or drop fragments"
    );
    one(
        &services("80", ", hash: ports", ""),
        "5:52: services[0].hash: unknown: \"ports\"; write 5-tuple or source or addresses",
    );
}
