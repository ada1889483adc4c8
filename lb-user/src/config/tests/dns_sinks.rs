//! The sections `dns.sinks` and `dns.claims`.

use super::{errors, one, parse};
use crate::dns::sink::server::Server;
use crate::dns::tsig::Algorithm;

/// A section `dns` that listens nowhere, with these sinks and claims.
fn dns(sinks: &str, claims: &str) -> String {
    format!(
        "dns:\n  checks: {{web: {{type: tcp, port: 80}}, file: {{type: extfile}}}}\n  zones: {{example.org: {{ns: [ns.example.net.]}}}}\n  \
         sinks:\n{sinks}  claims:\n{claims}"
    )
}

const BIND: &str = "    bind: {type: rfc2136, server: \"192.0.2.53:53\", key: lb, secret_file: /k}\n";
const LB: &str = "    lb.example.org: {sink: bind, zone: example.org, addresses: [192.0.2.1], check: web}\n";

#[test]
fn sinks_and_claims_have_defaults() {
    let config = parse(&dns(BIND, LB)).unwrap().dns.unwrap();
    assert_eq!((config.listen.len(), config.sinks["bind"].full_sync.as_secs()), (0, 300));
    let Server::Rfc2136 { key: Some(key), .. } = &config.sinks["bind"].server else { panic!("no key") };
    assert_eq!((key.name.to_ascii().as_str(), key.algorithm), ("lb.", Algorithm::Sha256));
    let (name, claim) = config.claims.iter().next().unwrap();
    assert_eq!((name.to_ascii().as_str(), claim.ttl, claim.check.fall), ("lb.example.org.", 60, 3));
    // Claims alone are a node's business too.
    let alone = dns(BIND, LB).replace("  zones: {example.org: {ns: [ns.example.net.]}}\n", "");
    assert_eq!(parse(&alone).unwrap().roles(), ["dns"]);
}

#[test]
fn each_kind_of_sink_has_its_keys() {
    one(
        &dns("    a: {type: bind}\n", ""),
        "5:15: dns.sinks.a.type: unknown: \"bind\"; write rfc2136 or powerdns or etcd or gdnsd or file",
    );
    one(
        &dns("    a: {type: etcd, urls: \"http://192.0.2.1:2379\", server: \"192.0.2.1:53\"}\n", ""),
        "5:5: dns.sinks.a.server: not for sinks of type etcd; those have type, urls, prefix, zones, full_sync",
    );
    assert_eq!(
        errors(&dns("    a: {type: powerdns}\n", "")),
        [
            "lb.yaml:5:5: dns.sinks.a.urls: missing; write where its API is, as in http://192.0.2.53:8081",
            "lb.yaml:5:5: dns.sinks.a.secret_file: missing; write the file with its api-key",
        ]
    );
    one(
        &dns("    a: {type: rfc2136, server: \"192.0.2.53:53\", key: lb}\n", ""),
        "5:5: dns.sinks.a.secret_file: missing; write the file with the key's secret in Base64",
    );
    one(
        &dns("    a: {type: etcd, urls: \"https://192.0.2.1:2379\"}\n", ""),
        "5:27: dns.sinks.a.urls: not a URL of a server: \"https://192.0.2.1:2379\"; write http://ADDRESS:PORT",
    );
    one(
        &dns("    a: {type: gdnsd}\n", ""),
        "5:5: dns.sinks.a.file: missing; write the file of its service type, as in /var/lib/gdnsd/extfile/lb",
    );
    one(
        &dns("    a: {type: file, folder: /z, reload: rndc}\n", ""),
        "5:41: dns.sinks.a.reload: not a list: \"rndc\"; write it in brackets, as in [rndc, reload]",
    );
    one(
        &dns("    a: {type: file, reload: [rndc]}\n", ""),
        "5:5: dns.sinks.a.folder: missing; write where the server has its zone files, as in /var/lib/lb/zones",
    );
    one(
        &dns("    ../a: {type: etcd, urls: \"http://192.0.2.1:2379\"}\n", ""),
        "5:5: dns.sinks.../a: names a file as well; write letters, digits, - and _ only",
    );
    one(
        &dns("    a: {type: etcd, urls: \"http://192.0.2.1:2379\", zones: example.net}\n", ""),
        "5:59: dns.sinks.a.zones: example.net. is not among dns.zones; add it there or remove it",
    );
}

#[test]
fn a_claim_fits_its_sink_zone_and_check() {
    let wrong = |from: &str, to: &str| dns(BIND, &LB.replace(from, to));
    one(
        &wrong("sink: bind", "sink: bnd"),
        "7:28: dns.claims.lb.example.org.sink: no such sink: \"bnd\"; did you mean \"bind\"?",
    );
    one(
        &dns(&format!("{BIND}    g: {{type: gdnsd, file: /s}}\n"), &LB.replace("sink: bind", "sink: g")),
        "8:28: dns.claims.lb.example.org.sink: type gdnsd is this node's own; name a sink that others write to as well: \
         rfc2136 or powerdns or etcd",
    );
    one(
        &wrong("zone: example.org", "zone: example.net"),
        "7:5: dns.claims.lb.example.org: lb.example.org. is outside of the zone example.net.; write the zone that it is in",
    );
    one(
        &wrong("check: web", "check: file"),
        "7:84: dns.claims.lb.example.org.check: does not ask an address; write the name of a check of type http or tcp",
    );
    one(
        &wrong("check: web", "check: wbe"),
        "7:84: dns.claims.lb.example.org.check: no such check: \"wbe\"; did you mean \"web\"?",
    );
    one(
        &wrong("check: web", "check: web, own: lb.example.org"),
        "7:94: dns.claims.lb.example.org.own: is the name that is held in turn; write one of this node alone",
    );
}
