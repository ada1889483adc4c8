//! The sections `transfer` of zones, their keys, and `dns.rate_limit`.

use super::{errors, one, parse};
use crate::dns::dnssec::ZoneKey;
use crate::dns::tsig::Algorithm;

/// A zone with this section.
fn zone(transfer: &str) -> String {
    format!(
        "dns:\n  listen: \"127.0.0.1:53\"\n  zones:\n    example.org:\n      ns: [ns.example.net.]\n      transfer: {transfer}\n"
    )
}

#[test]
fn a_zone_goes_to_prefixes_to_those_who_have_a_key_or_to_those_who_are_both() {
    let of = |transfer: &str| parse(&zone(transfer)).unwrap().dns.unwrap().zones[0].transfer.clone().unwrap();
    let prefixes = of("{to: [192.0.2.54, \"2001:db8::/32\"]}");
    assert_eq!((prefixes.to.unwrap().len(), prefixes.key, prefixes.notify.len()), (2, None, 0));
    let key = of("{key: LB, algorithm: hmac-sha512, secret_file: /k, notify: \"192.0.2.54:53\"}");
    assert_eq!((key.to, key.notify.len()), (None, 1));
    let key = key.key.unwrap();
    assert_eq!((key.name.to_ascii().as_str(), key.algorithm), ("lb.", Algorithm::Sha512));
    let both = of("{to: 192.0.2.54, key: lb, secret_file: /k}");
    assert!(both.to.is_some() && both.key.is_some());
}

#[test]
fn a_transfer_says_to_whom_and_with_which_secret() {
    let nobody = "6:7: dns.zones.example.org.transfer: says nobody; write to (prefixes of secondaries), key (of a TSIG key), or both";
    one(&zone("{}"), nobody);
    one(&zone("{notify: \"192.0.2.54:53\"}"), nobody);
    one(
        &zone("{key: lb}"),
        "6:7: dns.zones.example.org.transfer.secret_file: missing; write the file with the key's secret in Base64",
    );
    one(
        &zone("{to: 192.0.2.54, secret_file: /k}"),
        "6:7: dns.zones.example.org.transfer.key: missing; write the key's name, as the server has it",
    );
    one(
        &zone("{to: []}"),
        "6:18: dns.zones.example.org.transfer.to: empty; list at least one prefix, as in [192.0.2.54/32]",
    );
}

#[test]
fn a_key_has_one_secret() {
    let two = |second: &str| {
        format!(
            "{}    example.net:\n      ns: [ns.example.org.]\n      transfer: {{key: LB., secret_file: {second}}}\n",
            zone("{key: lb, secret_file: /k}").replace("ns.example.net", "ns.example.com")
        )
    };
    assert!(parse(&two("/k")).is_ok());
    one(
        &two("/other"),
        "9:23: dns.zones.example.net.transfer.key: has another secret or algorithm in line 6; write the same, or use another name",
    );
}

#[test]
fn limits_have_defaults_and_bounds() {
    let with = |limit: &str| zone("{to: 192.0.2.54}") + "  rate_limit: " + limit + "\n";
    let limit = parse(&with("{}")).unwrap().dns.unwrap().rate_limit.unwrap();
    assert_eq!((limit.rate, limit.window.as_secs(), limit.slip), (200, 15, 2));
    assert_eq!((limit.prefix4, limit.prefix6, limit.exempt.len()), (24, 56, 0));
    assert_eq!(parse(&zone("{to: 192.0.2.54}")).unwrap().dns.unwrap().rate_limit, None);
    assert_eq!(
        errors(&with("{rate: 0, prefix4: 33, slipp: 1}")),
        [
            "lb.yaml:7:22: dns.rate_limit.rate: 0 is out of range; write a number from 1 to 10000",
            "lb.yaml:7:34: dns.rate_limit.prefix4: 33 is out of range; write a number from 1 to 32",
            "lb.yaml:7:38: dns.rate_limit.slipp: unknown key; did you mean \"slip\"?",
        ]
    );
}

#[test]
fn a_zone_is_signed_with_keys_that_can_be_read_and_not_transferred() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first.pem", "second.pem"].map(|name| folder.path().join(name));
    let key = |path: &std::path::Path| path.display().to_string();
    let signed = |keys: &str| {
        zone("{to: 192.0.2.54}").replace("transfer: {to: 192.0.2.54}", &format!("dnssec: {keys}"))
    };
    one(
        &signed(&key(&first)),
        &format!(
            "6:15: dns.zones.example.org.dnssec: {0}: cannot be read: No such file or directory (os error 2); make it with \
             `lb dns key --file {0}`",
            key(&first)
        ),
    );
    ZoneKey::make(&first).unwrap();
    ZoneKey::make(&second).unwrap();
    let both = format!("[{}, {}]", key(&first), key(&second));
    assert_eq!(parse(&signed(&both)).unwrap().dns.unwrap().zones[0].keys.len(), 2);
    let twice = errors(&signed(&format!("[{0}, {0}]", key(&first))));
    assert!(
        twice[0].ends_with("dnssec[1]: is the same key as one before it; remove one of the two"),
        "{twice:?}"
    );
    one(
        &signed("[]"),
        "6:7: dns.zones.example.org.dnssec: empty; list the file of a key; `lb dns key` makes one",
    );
    let also = format!("{}      transfer: {{to: 192.0.2.54}}\n", signed(&key(&first)));
    assert!(
        errors(&also)[0].contains("a zone that is signed here cannot be transferred"),
        "{:?}",
        errors(&also)
    );
}
