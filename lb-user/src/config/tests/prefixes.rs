//! VIPs that are prefixes.

use super::{errors, one, parse};
use crate::config::Effective;

/// A director with these services, each of which says the rest by itself.
fn services(services: &[&str]) -> String {
    let head = "director: {interfaces: [eth0]}\npools:\n  web: {hosts: {a: {address6: \"2001:db8::1\"}}}\n  dns: {hosts: {b: \
                {address6: \"2001:db8::2\"}}}\nservices:\n";
    let lines = services.iter().map(|service| format!("  - {{{service}}}\n"));
    head.to_owned() + &lines.collect::<String>()
}

fn with_vip(vip: &str) -> String {
    services(&[&format!("vip: {vip}, port: 80, pool: web")])
}

#[test]
fn a_prefix_is_a_vip_of_any_length_and_a_full_one_an_address() {
    for (written, read) in [
        ("\"2001:db8:5::/64\"", "[2001:db8:5::/64]:80/tcp"),
        ("2001:db8:5::/64", "[2001:db8:5::/64]:80/tcp"),
        ("\"2001:db8:5::2/127\"", "[2001:db8:5::2/127]:80/tcp"),
        ("\"4000::/2\"", "[4000::/2]:80/tcp"),
        ("\"2001:db8:5::7/128\"", "[2001:db8:5::7]:80/tcp"),
        ("198.51.100.1/32", "198.51.100.1:80/tcp"),
    ] {
        let config = parse(&with_vip(written)).unwrap();
        assert_eq!(config.model.services.keys().next().unwrap().to_string(), read);
        let text = serde_saphyr::to_string(&Effective::from(&config)).unwrap();
        assert_eq!(parse(&text).unwrap().model, config.model, "{text}");
    }
}

#[test]
fn prefixes_may_overlap_and_hold_addresses() {
    let all = [
        "vip: 2001:db8:5::/64, port: 80, pool: web",
        "vip: 2001:db8:5::/48, port: 80, pool: dns",
        "vip: \"2001:db8:5::\", port: 80, pool: dns",
        "vip: 2001:db8:5::/64, port: any, pool: dns",
    ];
    let config = parse(&services(&all)).unwrap();
    assert_eq!(config.model.services.len(), 4);
    assert!(config.model.has_prefixes());
}

#[test]
fn what_is_no_prefix_for_a_vip_is_refused_with_a_right_one() {
    for (vip, message) in [
        (
            "\"2001:db8:5::1/64\"",
            "address bits beyond the length: \"2001:db8:5::1/64\"; write 2001:db8:5::/64",
        ),
        ("\"::/0\"", "all addresses there are: \"::/0\"; write a length from 1 to 128"),
        (
            "\"2001:db8::/129\"",
            "prefix longer than its address: \"2001:db8::/129\"; the length is at most 128",
        ),
        (
            "\"2001:db8::/\"",
            "not a prefix: \"2001:db8::/\"; write an address and a length, as in 192.0.2.128/25",
        ),
        ("\"2001:db8::g/64\"", "not an IP address: \"2001:db8::g/64\"; write an IPv4 or IPv6 address"),
        (
            "198.51.100.0/24",
            "an IPv4 prefix: \"198.51.100.0/24\"; only IPv6 prefixes can be VIPs, write each address",
        ),
        (
            "\"fe00::/8\"",
            "holds link-local addresses, which cannot be VIPs: fe00::/8; write a prefix of this site",
        ),
        (
            "\"ff02::/16\"",
            "holds multicast addresses, which cannot be VIPs: ff02::/16; write a prefix of this site",
        ),
        (
            "\"::/8\"",
            "holds the unspecified address, which cannot be VIPs: ::/8; write a prefix of this site",
        ),
        (
            "\"2001:db8::/32\"",
            "2001:db8::/32 holds 2001:db8::1, the address of host \"a\"; a VIP needs addresses of its own",
        ),
    ] {
        one(&with_vip(vip), &format!("6:11: services[0].vip: {message}"));
    }
    let twice = "vip: 2001:db8:5::/64, port: 80, pool: web";
    one(
        &services(&[twice, twice]),
        "7:5: services[1]: [2001:db8:5::/64]:80/tcp is a service already, in line 6; remove one or change its port",
    );
    let v4 = "vip: 2001:db8:5::/64, port: 80, pool: web, sources: {allow: [192.0.2.0/24]}";
    assert!(errors(&services(&[v4]))[0].contains("192.0.2.0/24 holds no client of 2001:db8:5::/64"));
}

#[test]
fn a_host_takes_packets_for_all_of_a_prefix() {
    let text =
        "host: {interfaces: [eth0], accept_from: [10.0.0.0/8], vips: [198.51.100.1, \"2001:db8:5::/64\"]}\n";
    let config = parse(text).unwrap();
    let vips: Vec<String> = config.host.unwrap().vips.iter().map(ToString::to_string).collect();
    assert_eq!(vips, ["198.51.100.1", "2001:db8:5::/64"]);
    let bad = text.replace("2001:db8:5::/64", "2001:db8:5::/32");
    one(&bad, "1:76: host.vips[1]: address bits beyond the length: \"2001:db8:5::/32\"; write 2001:db8::/32");
}

#[test]
fn services_that_an_address_shares_with_a_prefix_treat_fragments_alike() {
    let around = "vip: 2001:db8:5::/64, port: 443, pool: web, fragments: forward";
    let message = "7:5: services[1]: fragments to 2001:db8:5::1 have no ports, and [2001:db8:5::/64]:443/tcp in line 6 serves \
                   2001:db8:5::1 too: both forward fragments or none, with the same pool, hash, sources and limit; or give 2001:db8:5::1 a \
                   service of that port";
    one(&services(&[around, "vip: 2001:db8:5::1, port: 80, pool: web"]), message);
    one(&services(&[around, "vip: 2001:db8:5::1, port: 80, pool: dns, fragments: forward"]), message);
    for alone in [
        // The same hosts, by the same hash.
        "vip: 2001:db8:5::1, port: 80, pool: web, fragments: forward",
        // What hides the other one.
        "vip: 2001:db8:5::1, port: 443, pool: dns",
        "vip: 2001:db8:5::1, port: any, pool: dns, fragments: forward",
        // Another protocol.
        "vip: 2001:db8:5::1, port: 443, protocol: udp, pool: dns",
    ] {
        assert!(parse(&services(&[around, alone])).is_ok(), "{alone}");
    }
}
