//! Sources and limits of services.

use super::{errors, one, parse};
use crate::config::Effective;
use crate::extras::{Counted, Limit};
use std::time::Duration;

/// A service of each family that says this beside what it must.
fn service(vip: &str, protocol: &str, more: &str) -> String {
    format!(
        "director: {{interfaces: [eth0]}}\npools:\n  web: {{hosts: {{a: {{address4: 192.0.2.1}}}}}}\n\
         services:\n  - vip: \"{vip}\"\n    port: 80\n    protocol: {protocol}\n    pool: web\n{more}"
    )
}

fn tcp4(more: &str) -> String {
    service("198.51.100.1", "tcp", more)
}

#[test]
fn lists_of_sources_fit_the_service_and_themselves() {
    one(
        &tcp4("    sources: {}\n"),
        "9:5: services[0].sources: names no source; write allow, deny or both, or remove it",
    );
    one(
        &tcp4("    sources: {deny: []}\n"),
        "9:15: services[0].sources.deny: names no source; list prefixes or remove it",
    );
    one(
        &tcp4(
            "    sources:\n      allow: [203.0.113.0/24]\n      deny:\n        - 203.0.113.0/25\n        - 203.0.113.0/24\n",
        ),
        "13:11: services[0].sources.deny[1]: 203.0.113.0/24 is there already, in line 10; remove one of the two",
    );
    one(
        &tcp4("    sources: {allow: [\"2001:db8::/32\"]}\n"),
        "9:23: services[0].sources.allow[0]: 2001:db8::/32 holds no client of 198.51.100.1, which is of the other \
         family; remove it",
    );
    one(
        &tcp4("    sources: {deny: [203.0.113.1/24]}\n"),
        "9:22: services[0].sources.deny[0]: address bits beyond the length: \"203.0.113.1/24\"; write 203.0.113.0/24",
    );
}

#[test]
fn a_limit_counts_one_thing_within_bounds() {
    let both = "9:5: services[0].limit: write one of connections and packets";
    one(&tcp4("    limit: {connections: 5, packets: 5}\n"), both);
    one(&tcp4("    limit: {burst: 5}\n"), both);
    one(
        &service("198.51.100.1", "udp", "    limit: {connections: 5}\n"),
        "9:26: services[0].limit.connections: UDP has no connections to count; write packets",
    );
    assert_eq!(
        errors(&tcp4("    limit: {packets: 0, burst: 1000001, prefix4: 33, prefix6: 129}\n")),
        [
            "lb.yaml:9:22: services[0].limit.packets: 0 is out of range; write a number from 1 to 1000000",
            "lb.yaml:9:32: services[0].limit.burst: 1000001 is out of range; write a number from 1 to 1000000",
            "lb.yaml:9:50: services[0].limit.prefix4: 33 is out of range; write a number from 0 to 32",
            "lb.yaml:9:63: services[0].limit.prefix6: 129 is out of range; write a number from 0 to 128",
        ]
    );
}

#[test]
fn what_is_not_written_of_a_limit_has_defaults() {
    let config = parse(&tcp4("    limit: {connections: 50}\n")).unwrap();
    let second = Duration::from_secs(1);
    let limit =
        Limit { of: Counted::Connections, count: 50, per: second, burst: 50, prefix4: 32, prefix6: 64 };
    assert_eq!(config.model.services.values().next().unwrap().extras.limit, Some(limit));
}

#[test]
fn sources_and_limits_survive_as_they_are_written() {
    let text =
        tcp4("    sources: {allow: [0.0.0.0/0], deny: [203.0.113.0/24]}\n    limit: {packets: 7, per: 1m}\n");
    let config = parse(&text).unwrap();
    let written = serde_saphyr::to_string(&Effective::from(&config)).unwrap();
    assert_eq!(parse(&written).unwrap().model, config.model);
}

#[test]
fn ten_thousand_prefixes_are_read() {
    let prefixes: Vec<String> = (0..10_000).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
    let text = tcp4(&format!("    sources: {{deny: [{}]}}\n", prefixes.join(", ")));
    let start = std::time::Instant::now();
    let config = parse(&text).unwrap();
    let took = start.elapsed();
    println!("figure: 10000 prefixes are read in {took:.1?}");
    let service = config.model.services.values().next().unwrap();
    assert_eq!(service.extras.sources.as_ref().unwrap().deny.len(), 10_000);
}

#[test]
fn server_ids_are_for_quic_and_fit_it() {
    let quic =
        |more: &str| service("198.51.100.1", "udp", &format!("    affinity: quic\n    quic: {more}\n"));
    one(
        &tcp4("    quic: {}\n"),
        "9:5: services[0].quic: means nothing without affinity: quic; add that or remove this",
    );
    one(
        &tcp4("    affinity: quic\n"),
        "5:5: services[0]: affinity: quic is for UDP; write protocol: udp, or another affinity",
    );
    one(
        &quic("{rotation: 7}"),
        "10:22: services[0].quic.rotation: 7 is out of range; write a number from 0 to 6",
    );
    assert_eq!(
        errors(&quic("{length: 2, server_ids: {a: abc, b: 0a0b, c: \"0A0b\"}}")),
        [
            "lb.yaml:10:39: services[0].quic.server_ids.a: not a server id: \"abc\"; write 2 bytes as 4 hexadecimal \
             digits, in quotes",
            "lb.yaml:10:56: services[0].quic.server_ids.c: 0A0b is the server id of \"b\" already; write another",
        ]
    );
    let text = quic("{rotation: 3, length: 2, server_ids: {a: \"0a0b\"}}");
    let config = parse(&text).unwrap();
    let of = config.model.services.values().next().unwrap().extras.quic.clone().unwrap();
    let ids = of.server_ids("web", &config.model.pools["web"].hosts);
    assert_eq!(
        ids.iter().map(|(id, host)| (of.shown(*id), &**host)).collect::<Vec<_>>(),
        [("0a0b".into(), "a")]
    );
    let written = serde_saphyr::to_string(&Effective::from(&config)).unwrap();
    assert_eq!(parse(&written).unwrap().model, config.model);
}
