//! Every message, word for word.

mod dns;
mod dns_geo;
mod dns_group;
mod dns_sinks;
mod dns_transfer;
mod extras;
mod files;
mod leave;
mod prefixes;
mod services;

use super::Config;

/// A director without anything wrong, for cases that add one thing.
const GOOD: &str = "\
director: {interfaces: [eth0]}
pools:
  web:
    hosts:
      a: {address4: 192.0.2.1}
      b: {address4: 192.0.2.2, address6: \"2001:db8::2\"}
services:
  - {vip: 198.51.100.1, port: 80, pool: web}
";

#[test]
fn all_errors_are_reported_at_once_in_the_order_of_the_file() {
    let text = "\
directr:
  interfaces: [eth0]
pools:
  web:
    size: 65536
    hosts:
      a: {address4: 192.0.2.1, weight: 0}
      b: {adress4: 192.0.2.2}
    checks: {type: http}
services:
  - port: 80
    pool: wbe
    vip: \"1.2.3\"
  - {vip: 198.51.100.1, port: 0, pool: web}
agent_check:
";
    assert_eq!(
        errors(text),
        [
            "lb.yaml:1:1: directr: unknown key; did you mean \"director\"?",
            "lb.yaml:5:11: pools.web.size: 65536 is not a prime; write 65537",
            "lb.yaml:7:40: pools.web.hosts.a.weight: weight 0; write 1 to 1000, or state: drain to take no new \
             connections",
            "lb.yaml:8:7: pools.web.hosts.b: a host without an address; write address4, address6 or both",
            "lb.yaml:8:11: pools.web.hosts.b.adress4: unknown key; did you mean \"address4\"?",
            "lb.yaml:9:13: pools.web.checks: not a list: a map; begin each entry with a dash",
            "lb.yaml:12:11: services[0].pool: no such pool: \"wbe\"; did you mean \"web\"?",
            "lb.yaml:13:10: services[0].vip: not an IP address: \"1.2.3\"; write an IPv4 or IPv6 address",
            "lb.yaml:14:31: services[1].port: not a port: 0; write a number from 1 to 65535, or any",
        ]
    );
}

#[test]
fn an_unknown_key_far_from_all_others_gets_the_list_of_keys() {
    one(
        &format!("{GOOD}bgp: {{driver: bird, bird: {{xyzzy: 1}}}}\n"),
        "9:28: bgp.bird.xyzzy: unknown key; known here: include, control",
    );
}

#[test]
fn two_services_on_one_vip_port_and_protocol_name_the_line_of_the_first() {
    one(
        &format!("{GOOD}  - {{vip: 198.51.100.1, port: 80, protocol: tcp, pool: web}}\n"),
        "9:5: services[1]: 198.51.100.1:80/tcp is a service already, in line 8; remove one or change its port",
    );
    assert!(parse(&format!("{GOOD}  - {{vip: 198.51.100.1, port: 80, protocol: udp, pool: web}}\n")).is_ok());
}

#[test]
fn a_pool_needs_hosts() {
    let advice = "pools.web.hosts: a pool without hosts; list at least one with its address";
    one("agent_check: {}\npools:\n  web: {hosts: {}}\n", &format!("3:9: {advice}"));
    one(
        "agent_check: {}\npools:\n  web: {seed: 1}\n",
        "3:3: pools.web.hosts: missing; list at least one host with its address",
    );
}

#[test]
fn with_a_manifest_a_pool_may_have_nothing_but_checks() {
    let with = |manifest: &str, pool: &str| {
        format!(
            "manifest: {{{manifest}}}\ndirector: {{interfaces: [eth0]}}\npools: {{web: {{{pool}}}}}\nservices:\n  - {{vip: \
             198.51.100.1, port: 80, pool: web, quorum: 9}}\n  - {{vip: 198.51.100.1, port: 53, pool: dns}}\n"
        )
    };
    let file = "file: /etc/lb/manifest.yaml";
    let config = parse(&with(file, "checks: [{type: tcp, port: 80}]")).unwrap();
    assert!(config.waits_for_manifest() && config.model.pools.is_empty());
    assert_eq!((config.checks["web"].len(), config.model.services.len()), (1, 2));
    one(
        &with(file, "seed: 5"),
        "3:21: pools.web.seed: comes from the manifest for a pool without hosts here; remove it or list hosts",
    );
    let places = "write one of file: /etc/lb/manifest.yaml, etcd: [URL] and peer: [URL]";
    one(&with("", ""), &format!("1:1: manifest: says not where it is; {places}"));
    one(
        &with("file: /a, peer: [\"http://10.0.0.1:1\"]", ""),
        &format!("1:1: manifest: is in one place only; {places}"),
    );
    one(
        &with("peer: \"10.0.0.1:1\"", ""),
        "1:18: manifest.peer: not an address: \"10.0.0.1:1\"; write one as in \"http://192.0.2.1:7400\"",
    );
    one(
        &with("etcd: []", ""),
        "1:12: manifest.etcd: empty; list at least one, as in [\"http://192.0.2.1:2379\"]",
    );
    one(&with("file: /a, key: /b", ""), "1:27: manifest.key: only for etcd; remove it");
    one(
        &with("file: /a, cache: /b", ""),
        "1:29: manifest.cache: only for etcd and peer: a file is there already; remove it",
    );
    for place in [file, "etcd: \"http://10.0.0.1:2379\", key: /x", "peer: [\"http://10.0.0.1:1\"], cache: /c"]
    {
        let config = parse(&with(place, "checks: [{type: tcp, port: 80}]")).unwrap();
        let effective = serde_saphyr::to_string(&super::Effective::from(&config)).unwrap();
        assert_eq!(parse(&effective).as_ref(), Ok(&config), "{effective}");
    }
}

#[test]
fn a_generation_fits_the_outer_header() {
    let with =
        |generation: &str| GOOD.replace("  web:\n", &format!("  web:\n    generation: {generation}\n"));
    assert_eq!(parse(&with("4097")).map(|config| config.model.pools["web"].generation), Ok(4097));
    for wrong in ["0", "65536"] {
        let message = format!("4:17: pools.web.generation: {wrong} is out of range; write 1 to 65535");
        one(&with(wrong), &message);
    }
}

#[test]
fn wrong_types_say_what_was_found_and_what_to_write() {
    let cases = [
        ("node: 7", "not a text: 7; put it in quotes"),
        ("node: [a]", "not a text: a list; write a text"),
        ("node: \"\"", "empty; write a text"),
        ("node:", "has no value; write one or remove the key"),
        ("api: agent.sock", "not an absolute path: \"agent.sock\"; begin it with a slash"),
        (
            "director: 7",
            "not a map: 7; write interfaces, xdp, source4, source6, spread4, spread6, flows, icmp_errors, capacity",
        ),
        ("pools: [web]", "not a map: a list; write a name, a colon and a map for each"),
    ];
    for (line, message) in cases {
        let key = line.split(':').next().unwrap();
        let found = errors(&format!(
            "{line}\nhost: {{interfaces: [e], accept_from: [10.0.0.1], vips: [10.0.0.2]}}\n"
        ));
        let column = if line == "node:" { 1 } else { key.len() + 3 };
        let at = if line == "node:" { "1:5".to_owned() } else { format!("1:{column}") };
        assert_eq!(found, [format!("lb.yaml:{at}: {key}: {message}")], "{line}");
    }
}

#[test]
fn interfaces_must_be_there_and_be_names() {
    let with = |interfaces: &str| format!("director: {{{interfaces}}}\n");
    let advice = "list the interfaces that packets arrive on, as in [eth0]";
    one(&with(""), &format!("1:1: director.interfaces: missing; {advice}"));
    one(&with("interfaces: []"), &format!("1:12: director.interfaces: empty; {advice}"));
    one(
        &with("interfaces: eth0"),
        "1:24: director.interfaces: not a list: \"eth0\"; write it in brackets, as in [eth0]",
    );
    one(&with("interfaces: [a, a]"), "1:28: director.interfaces[1]: \"a\" is listed twice; remove one");
    one(
        &with("interfaces: [a/b]"),
        "1:25: director.interfaces[0]: not an interface name: \"a/b\"; write at most 15 letters, as in eth0",
    );
}

#[test]
fn a_host_needs_senders_and_vips() {
    let found = errors("host: {interfaces: [eth0]}\n");
    assert_eq!(
        found,
        [
            "lb.yaml:1:1: host.accept_from: missing; list the addresses of the directors and pool members, as in \
             [192.0.2.128/25]",
            "lb.yaml:1:1: host.vips: missing, and there are no services; list the VIPs, as in [198.51.100.1]",
        ]
    );
    let with = |accept: &str| format!("host: {{interfaces: [e], vips: [10.9.9.9], accept_from: {accept}}}\n");
    one(&with("[]"), "1:43: host.accept_from: empty; list the senders, as in [192.0.2.128/25]");
    one(
        &with("[192.0.2.129/25]"),
        "1:57: host.accept_from[0]: address bits beyond the length: \"192.0.2.129/25\"; write 192.0.2.128/25",
    );
    one(
        &with("[192.0.2.0/33]"),
        "1:57: host.accept_from[0]: prefix longer than its address: \"192.0.2.0/33\"; the length is at most 32",
    );
    one(
        &with("[net]"),
        "1:57: host.accept_from[0]: not a prefix: \"net\"; write an address and a length, as in 192.0.2.128/25",
    );
    assert!(parse(&with("[0.0.0.0/0, \"::/0\", 192.0.2.1, \"2001:db8::/32\"]")).is_ok());
}

#[test]
fn a_vip_must_be_an_address_that_users_can_reach() {
    let cases = [
        ("0.0.0.0", "an unspecified"),
        ("\"::\"", "an unspecified"),
        ("224.0.0.1", "a multicast"),
        ("\"ff02::1\"", "a multicast"),
        ("127.0.0.1", "a loopback"),
        ("\"::1\"", "a loopback"),
        ("\"::ffff:10.0.0.1\"", "an IPv4-mapped"),
        ("\"fe80::1\"", "a link-local"),
        ("169.254.0.1", "a link-local"),
        ("255.255.255.255", "a broadcast"),
    ];
    for (vip, kind) in cases {
        let shown = vip.trim_matches('"');
        one(
            &format!("{GOOD}  - {{vip: {vip}, port: 80, pool: web}}\n"),
            &format!(
                "9:11: services[1].vip: {kind} address cannot be a VIP: {shown}; write a routable unicast address"
            ),
        );
    }
}

#[test]
fn a_vip_must_not_be_the_address_of_a_host_or_of_the_director() {
    one(
        &format!("{GOOD}  - {{vip: 192.0.2.2, port: 80, pool: web}}\n"),
        "9:11: services[1].vip: 192.0.2.2 is the address of host \"b\" as well; a VIP needs an address of its own",
    );
    one(
        &GOOD.replace("[eth0]", "[eth0], source4: 198.51.100.1"),
        "8:11: services[0].vip: 198.51.100.1 is the director's own source as well; a VIP needs an address of its own",
    );
}

#[test]
fn hosts_of_a_pool_have_addresses_of_their_own() {
    one(
        &GOOD.replace("192.0.2.2", "192.0.2.1"),
        "6:21: pools.web.hosts.b.address4: 192.0.2.1 is the address of host \"a\" already; write its own",
    );
    one(
        &GOOD.replace("192.0.2.2", "127.0.0.1"),
        "6:21: pools.web.hosts.b.address4: a loopback address cannot be a host's: 127.0.0.1; write its own",
    );
    one(
        &GOOD.replace("192.0.2.2", "\"2001:db8::2\""),
        "6:21: pools.web.hosts.b.address4: not an IPv4 address: \"2001:db8::2\"; write four numbers, as in 192.0.2.1",
    );
    one(
        &GOOD.replace("\"2001:db8::2\"", "192.0.2.9"),
        "6:42: pools.web.hosts.b.address6: not an IPv6 address: \"192.0.2.9\"; write one in quotes, as in \
         \"2001:db8::1\"",
    );
    one(
        &GOOD.replace("address4: 192.0.2.1}", "address4: 192.0.2.1, state: drained}"),
        "5:39: pools.web.hosts.a.state: unknown: \"drained\"; write active or drain or down",
    );
}

#[test]
fn a_host_is_named_once() {
    one(
        &GOOD.replace("      b:", "      a:"),
        "6:7: a: written twice in the same map; remove one of the two",
    );
}

#[test]
fn table_sizes_are_primes_that_fit() {
    let with = |size: &str| GOOD.replace("  web:\n", &format!("  web:\n    size: {size}\n"));
    one(&with("1000"), "4:11: pools.web.size: 1000 is not a prime; write 1009");
    one(&with("1"), "4:11: pools.web.size: 1 is out of range; write a prime from 3 to 1048573");
    one(&with("-7"), "4:11: pools.web.size: not a number from 0 to 4294967295: -7; write such a number");
    one(
        &with("7").replace("192.0.2.1}", "192.0.2.1, weight: 9}"),
        "4:11: pools.web.size: 7 rows are too few for hosts of 10 weights in all; write a larger prime",
    );
}

#[test]
fn quorums_can_be_met() {
    let with = |quorum: u32| GOOD.replace("pool: web", &format!("pool: web, quorum: {quorum}"));
    let key = "services[0].quorum";
    one(&with(3), &format!("8:54: {key}: 3 can never be met: the pool has 2; write at most 2"));
    one(&with(0), &format!("8:54: {key}: 0: a VIP without hosts would be announced; write 1 or more"));
    assert!(parse(&with(2)).is_ok());
}

#[test]
fn checks_fit_together() {
    let with =
        |check: &str| GOOD.replace("services:", &format!("    checks:\n      - {{{check}}}\nservices:"));
    let key = "pools.web.checks[0]";
    let cases = [
        ("port: 80", format!("8:9: {key}.type: missing; write http or tcp")),
        ("type: tcp", format!("8:9: {key}.port: missing; write the port that is probed")),
        ("type: udp, port: 1", format!("8:16: {key}.type: unknown: \"udp\"; write http or tcp")),
        (
            "type: tcp, port: 1, timeout: 2s",
            format!("8:39: {key}.timeout: 2s is longer than the interval of 1s; write at most 1s"),
        ),
        (
            "type: tcp, port: 1, interval: 5",
            format!("8:40: {key}.interval: not a duration: 5; write one as in 500ms, 2s or 1m"),
        ),
        (
            "type: tcp, port: 1, interval: 0s",
            format!("8:40: {key}.interval: no time at all: \"0s\"; write at least 1ms"),
        ),
        (
            "type: tcp, port: 1, interval: 61m",
            format!("8:40: {key}.interval: too long: \"61m\"; write at most 60m"),
        ),
        ("type: tcp, port: 1, rise: 0", format!("8:36: {key}.rise: 0 is out of range; write 1 to 1000")),
        (
            "type: tcp, port: 1, path: /",
            format!("8:36: {key}.path: only for checks of type http; remove it or write type: http"),
        ),
        (
            "type: http, port: 1, path: x y",
            format!("8:37: {key}.path: not a path: \"x y\"; begin with a slash and leave out spaces"),
        ),
        (
            "type: http, port: 1, status: [200, 99]",
            format!("8:45: {key}.status[1]: not a status: 99; write 100 to 599"),
        ),
        (
            "type: http, port: 1, status: []",
            format!("8:31: {key}.status: empty; list at least one status, as in [200]"),
        ),
    ];
    for (check, message) in cases {
        one(&with(check), &message);
    }
    one(
        "agent_check: {}\npools:\n  x:\n    hosts: {a: {address4: 10.0.0.1}}\n    checks: [{type: tcp, port: 1, \
         through: tunnel}]\n",
        "5:14: pools.x.checks[0]: no service uses this pool, so that there is no VIP to probe; add one or write \
         through: address",
    );
}

#[test]
fn bgp_needs_a_driver_and_a_director() {
    one(&format!("{GOOD}bgp: {{}}\n"), "9:1: bgp.driver: missing; write bird or gobgp");
    one(
        "agent_check: {}\nbgp: {driver: bird}\n",
        "2:1: bgp: nothing to announce without the role of a director or dns.anycast; add one, or remove bgp",
    );
    one(
        &format!("{GOOD}bgp: {{driver: bird, communities: [65000]}}\n"),
        "9:35: bgp.communities[0]: not a community: 65000; write it in quotes, as in \"65000:100\"",
    );
    one(
        &format!("{GOOD}bgp: {{driver: gobgp, gobgp: {{api: localhost}}}}\n"),
        "9:35: bgp.gobgp.api: not an address with a port: \"localhost\"; write it in quotes, as in \
         \"127.0.0.1:5555\" or \"[::]:5555\"",
    );
}

#[test]
fn a_director_has_a_source_and_room_for_what_is_configured() {
    let with = |more: &str| GOOD.replace("[eth0]", &format!("[eth0], {more}"));
    one(
        &with("source4: 127.0.0.1"),
        "1:41: director.source4: a loopback address cannot be a source: 127.0.0.1; write an address of this node",
    );
    one(
        &with("spread4: 10.0.0.0/8"),
        "1:41: director.spread4: 10.0.0.0/8 is too large: at most the last 16 bits of a source are chosen; write a \
         length from 16 to 31",
    );
    one(
        &with("spread4: 2001:db8::/112"),
        "1:41: director.spread4: 2001:db8::/112 is no IPv4 prefix; write one, as in 172.16.0.0/16",
    );
    one(
        &with("spread6: 2001:db8::/64"),
        "1:41: director.spread6: 2001:db8::/64 is too large: at most the last 16 bits of a source are chosen; write \
         a length from 112 to 127",
    );
    one(
        &with("spread4: 224.0.0.0/16"),
        "1:41: director.spread4: a multicast address cannot be a source: 224.0.0.0; write a prefix of this site",
    );
    one(
        &with("capacity: {hosts: 1}"),
        "1:50: director.capacity.hosts: 1 is too small: 2 hosts are needed; write 2 or more",
    );
    one(
        &with("capacity: {tables: 1}"),
        "1:51: director.capacity.tables: 1 is too small: 2 tables are needed; write 2 or more",
    );
    one(
        &with("capacity: {tables: 2000000}"),
        "1:51: director.capacity.tables: 2000000 is out of range; write a number from 1 to 1048576",
    );
}

#[test]
fn peers_have_addresses_and_edits_name_who_may() {
    let with = |peers: &str| format!("{GOOD}peers: {peers}\n");
    let good =
        parse(&with("{listen: \"[::]:7400\", nodes: [\"http://192.0.2.9:7400\"]}")).unwrap().peers.unwrap();
    assert_eq!((good.listen.len(), good.nodes.len(), good.edits), (1, 1, false));
    one(&with("{}"), "9:1: peers: neither listen nor nodes; write one of them, or both");
    one(
        &with("{nodes: [\"192.0.2.9:7400\"]}"),
        "9:17: peers.nodes[0]: not the address of an agent: \"192.0.2.9:7400\"; write it in quotes, as in \
         \"http://192.0.2.139:7400\" or \"http://[2001:db8::1]:7400\"",
    );
    one(
        &with("{listen: \"[::]:7400\", edits: true}"),
        "9:37: peers.edits: without peers.allow everybody could edit; list who may, as in allow: [192.0.2.128/25]",
    );
    one(
        &with("{listen: \"[::]:7400\", edits: maybe}"),
        "9:37: peers.edits: not a yes or no: \"maybe\"; write true or false",
    );
}

#[test]
fn a_node_needs_a_role() {
    one("node: x\n", "1:1: this node has no role; write at least one of director, host, agent_check and dns");
    one("", "1:1: this node has no role; write at least one of director, host, agent_check and dns");
}

fn parse(text: &str) -> Result<Config, super::ConfigErrors> {
    Config::parse("lb.yaml", text, "this-host")
}

fn errors(text: &str) -> Vec<String> {
    parse(text).expect_err("this should be refused").lines()
}

/// Exactly one message.
#[track_caller]
fn one(text: &str, message: &str) {
    assert_eq!(errors(text), [format!("lb.yaml:{message}")]);
}
