//! The section `dns`.

use std::path::PathBuf;

use super::{errors, one, parse};
use crate::config::{Config, Effective};
use crate::dns::Check;
use crate::dns::policy::{AllDown, Least, Policy};

/// A name server without anything wrong; what is added goes to the zone.
fn zone(added: &str) -> String {
    format!(
        "dns:\n  listen: 127.0.0.1:53\n  checks: {{web: {{type: tcp, port: 80}}}}\n  zones:\n    example.org:\n      \
         ns: [ns.example.net.]\n{added}"
    )
}

#[test]
fn a_name_server_is_a_role_and_has_defaults() {
    let config = parse(&zone("      names: {www: {members: [192.0.2.1]}}\n")).unwrap();
    assert_eq!(config.roles(), ["dns"]);
    let dns = config.dns.unwrap();
    assert_eq!((dns.nsid.as_str(), dns.tcp.connections), ("this-host", 256));
    let choice = &dns.zones[0].choices[0];
    assert_eq!(choice.name.to_ascii(), "www.example.org.");
    assert_eq!((choice.policy, choice.ttl, choice.min_up), (Policy::All, 60, Least::Count(1)));
    assert_eq!((choice.all_down, choice.members[0].checks.len()), (AllDown::All, 0));
    let shown: Vec<String> = dns.zones[0]
        .records
        .iter()
        .map(|record| format!("{} {} {}", record.name, record.ttl, record.data))
        .collect();
    let soa = "example.org. 3600 ns.example.net. hostmaster.example.org. 1 3600 900 1209600 60";
    assert_eq!(shown, ["example.org. 3600 ns.example.net.", soa]);
}

#[test]
fn every_file_is_good_and_read_back_as_the_same() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../configs/dns");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let config = Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        let effective = serde_saphyr::to_string(&Effective::from(&config)).unwrap();
        assert_eq!(Config::parse("effective", &effective, "other").as_ref(), Ok(&config), "{effective}");
        files += 1;
    }
    assert_eq!(files, 10);
}

#[test]
fn records_are_wrong_at_their_own_line_and_column() {
    let text = zone(
        "      records:\n        - www A 1.2.3\n        - \"x MX mail\"\n        - y A 192.0.2.1 192.0.2.2\n      \
         \x20 - z QUUX\n",
    );
    assert_eq!(
        errors(&text),
        [
            "lb.yaml:8:17: dns.zones.example.org.records[0]: not an IPv4 address: \"1.2.3\"; write four numbers, as in \
             192.0.2.1",
            "lb.yaml:9:16: dns.zones.example.org.records[1]: not a preference: \"mail\"; write a number from 0 to 65535",
            "lb.yaml:10:25: dns.zones.example.org.records[2]: one word too many; remove it",
            "lb.yaml:11:13: dns.zones.example.org.records[3]: unknown type: \"QUUX\"; write one of A, AAAA, CNAME, MX, \
             TXT, SRV, CAA, NS, SOA, PTR",
        ]
    );
}

#[test]
fn what_does_not_fit_the_zone_is_told_at_the_record() {
    let text = zone(
        "      records: [a CNAME b, a A 192.0.2.1, www A 192.0.2.1]\n      names: {www: {members: [192.0.2.1]}}\n",
    );
    let alone = "a.example.org. has a CNAME record and others; a CNAME stands alone (RFC 1034, section 3.6.2): remove one";
    let chosen = "the addresses of www.example.org. are chosen among members; make this address one of them";
    assert_eq!(
        errors(&text),
        [
            format!("lb.yaml:7:17: dns.zones.example.org.records[0]: {alone}"),
            format!("lb.yaml:7:43: dns.zones.example.org.records[2]: {chosen}"),
        ]
    );
    let text = zone("").replace("ns.example.net.", "ns1");
    one(
        &text,
        "6:12: dns.zones.example.org.ns[0]: the name server ns1.example.org. has no address here; add an A or AAAA record",
    );
}

#[test]
fn a_zone_file_is_read_with_its_own_places() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("zone");
    let text =
        format!("dns:\n  listen: 127.0.0.1:53\n  zones:\n    example.org: {{file: {}}}\n", file.display());
    let key = "lb.yaml:4:25: dns.zones.example.org.file";
    assert_eq!(
        errors(&text),
        [format!(
            "{key}: cannot be read: No such file or directory (os error 2); name another file or make this one readable"
        )]
    );
    std::fs::write(&file, "$TTL 60\n@ SOA ns.x. h.x. 7 1 1 1 1\n@ NS ns.x.\nwww A 192.0.2.300\n").unwrap();
    let what = "not an IPv4 address: \"192.0.2.300\"; write four numbers, as in 192.0.2.1";
    assert_eq!(errors(&text), [format!("{key}: {}:4:7: {what}", file.display())]);
    std::fs::write(&file, "$TTL 60\n@ SOA ns.x. h.x. 7 1 1 1 1\n@ NS ns.x.\nwww A 192.0.2.1\n").unwrap();
    let config = parse(&text).unwrap();
    assert_eq!(config.dns.as_ref().unwrap().zones[0].records.len(), 3);
    let effective = serde_saphyr::to_string(&Effective::from(&config)).unwrap();
    assert_eq!(parse(&effective).unwrap().dns, config.dns, "{effective}");
    std::fs::write(&file, "$TTL 60\n@ NS ns.x.\nx.y. A 192.0.2.1\n").unwrap();
    let outside = "x.y. is outside of the zone example.org.; move it to its own";
    assert_eq!(
        errors(&text),
        [
            "lb.yaml:4:5: dns.zones.example.org: the zone example.org. has no SOA record; add one".to_owned(),
            format!("{key}: {}:3:1: {outside}", file.display()),
        ]
    );
}

#[test]
fn members_follow_checks_that_exist_and_fit_this_node() {
    one(
        &zone("      names: {www: {checks: wbe, members: [192.0.2.1]}}\n"),
        "7:29: dns.zones.example.org.names.www.checks: no such check: \"wbe\"; did you mean \"web\"?",
    );
    let with = |check: &str| zone("").replace("{type: tcp, port: 80}", check);
    one(
        &with("{type: vip}"),
        "3:12: dns.checks.web: type vip follows what this node does as a director, which it is not; add director or \
         check otherwise",
    );
    one(&with("{type: http}"), "3:12: dns.checks.web.port: missing; write the port that is probed");
    one(
        &with("{type: tcp, port: 80, path: /}"),
        "3:45: dns.checks.web.path: only for checks of type http; remove it or write type: http",
    );
    one(
        &with("{type: extfile, port: 80}"),
        "3:12: dns.checks.web.port: not for checks of type extfile; those have type, file, default",
    );
    let director =
        format!("{}{}", super::GOOD, zone("      names: {w: {checks: web, members: [192.0.2.9]}}\n"));
    one(
        &director.replace("{type: tcp, port: 80}", "{type: vip}"),
        "15:42: dns.zones.example.org.names.w.members[0]: no service has the VIP 192.0.2.9; add one, or check otherwise",
    );
    one(
        &director.replace("{type: tcp, port: 80}", "{type: pool, pool: wbe}"),
        "11:36: dns.checks.web.pool: no such pool: \"wbe\"; did you mean \"web\"?",
    );
    let pool = parse(&director.replace("{type: tcp, port: 80}", "{type: pool, pool: web, percent: 50}"));
    let check = Check::Pool { pool: "web".into(), percent: 50, scale: false };
    assert_eq!(pool.unwrap().dns.unwrap().checks["web"], check);
}

#[test]
fn keys_that_mean_nothing_together_are_refused() {
    let name = |keys: &str| zone(&format!("      names: {{www: {{members: [192.0.2.1], {keys}}}}}\n"));
    one(
        &name("all_down: fallback"),
        "7:15: dns.zones.example.org.names.www.fallback: missing; list the addresses that are answered when too few \
         members work",
    );
    one(
        &name("fallback: 192.0.2.2"),
        "7:43: dns.zones.example.org.names.www.fallback: only with all_down: fallback; write that, or remove this",
    );
    one(
        &name("min_up: 2"),
        "7:51: dns.zones.example.org.names.www.min_up: 2 can never be met: no address family has more than 1 members; \
         write at most 1",
    );
    one(
        &zone("      names: {www: {members: [{address: 192.0.2.1, weight: 2}]}}\n"),
        "7:60: dns.zones.example.org.names.www.members[0].weight: only with policy weighted or hash; remove it or change \
         the policy",
    );
    one(
        &zone("").replace("127.0.0.1:53", "0.0.0.0:53"),
        "2:11: dns.listen: answers must leave from the address that was asked; list each address of this node",
    );
}
