//! The section `dns.geo`, and the names that ask for it.

use super::{errors, parse};

/// A name server with this section `geo` and these lines of a name.
fn server(geo: &str, name: &str) -> String {
    format!(
        "dns:\n  listen: 127.0.0.1:53\n  {geo}\n  zones:\n    example.org:\n      ns: [ns.example.net.]\n      names:\n        \
         www: {{{name}}}\n"
    )
}

#[test]
fn regions_are_continents_countries_and_parts_of_them() {
    let text = server(
        "geo: {file: /nowhere/geo.mmdb, networks: {10.0.0.0/8: NO, 10.1.0.0/16: US-CA, '::/0': continent:NA}}",
        "policy: geo, members: [{address: 192.0.2.1, regions: [EU, NO, US-CA]}, {address: 192.0.2.2, regions: country:NA}, 192.0.2.3]",
    );
    let dns = parse(&text).unwrap().dns.unwrap();
    let shown = |regions: &[crate::dns::geo::region::Region]| {
        regions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let choice = &dns.zones[0].choices[0];
    let members: Vec<String> = choice.members.iter().map(|member| shown(&member.regions)).collect();
    assert_eq!(members, ["EU NO US-CA", "country:NA", ""]);
    assert_eq!(choice.answers, 1000);
    let geo = dns.geo.unwrap();
    let networks: Vec<_> =
        geo.networks.iter().map(|(network, region)| format!("{network} {region}")).collect();
    assert_eq!(networks, ["10.0.0.0/8 NO", "10.1.0.0/16 US-CA", "::/0 continent:NA"]);
}

#[test]
fn what_is_no_region_or_network_is_wrong_at_its_own_place() {
    let text = server(
        "geo: {networks: {10.0.0.1/8: DE, 10.0.0.0/33: DE, here: DE, 10.0.0.0/8: UK, '2001:db8::/32': DE, '2001:DB8::/32': US}}",
        "policy: geo, members: [{address: 192.0.2.1, regions: [AF, DE, DE, 7]}, {address: 192.0.2.2, regions: []}]",
    );
    let form = "write a continent as in EU (AF, AN, AS, EU, NA, OC, SA), a country as in GB (ISO 3166-1), or a part of one as in \
                US-CA (ISO 3166-2)";
    assert_eq!(
        errors(&text),
        [
            "lb.yaml:3:20: dns.geo.networks.10.0.0.1/8: address bits beyond the length: \"10.0.0.1/8\"; write 10.0.0.0/8".to_owned(),
            "lb.yaml:3:36: dns.geo.networks.10.0.0.0/33: prefix longer than its address: \"10.0.0.0/33\"; the length is at most 32".into(),
            "lb.yaml:3:53: dns.geo.networks.here: not a prefix: \"here\"; write an address and a length, as in 192.0.2.128/25".into(),
            format!("lb.yaml:3:75: dns.geo.networks.10.0.0.0/8: not a region: \"UK\"; {form}"),
            "lb.yaml:3:100: dns.geo.networks.2001:DB8::/32: 2001:db8::/32 is there already, in line 3; remove one of the two".into(),
            "lb.yaml:8:69: dns.zones.example.org.names.www.members[0].regions[0]: a continent and a country have the code AF; write \
             continent:AF or country:AF"
                .into(),
            "lb.yaml:8:77: dns.zones.example.org.names.www.members[0].regions[2]: DE is there already; remove one of the two".into(),
            "lb.yaml:8:81: dns.zones.example.org.names.www.members[0].regions[3]: not a region: 7; write a text as in EU, DE or US-CA".into(),
            "lb.yaml:8:107: dns.zones.example.org.names.www.members[1].regions: empty; list at least one region, as in [EU, US-CA]".into(),
        ]
    );
}

#[test]
fn names_ask_for_regions_where_something_says_them() {
    let one = |geo: &str, name: &str| {
        let mut errors = errors(&server(geo, name));
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.remove(0)
    };
    assert_eq!(
        one("nsid: x", "policy: geo, members: [192.0.2.1]"),
        "lb.yaml:8:23: dns.zones.example.org.names.www.policy: nothing says where clients are; add dns.geo with a file, or networks"
    );
    assert_eq!(
        one("geo: {networks: {10.0.0.0/8: DE}}", "members: [{address: 192.0.2.1, regions: DE}]"),
        "lb.yaml:8:46: dns.zones.example.org.names.www.members[0].regions: only with policy geo; remove it or change the policy"
    );
    assert_eq!(
        one("geo: {}", "policy: geo, members: [192.0.2.1]"),
        "lb.yaml:3:3: dns.geo.file: missing; name a file of countries or cities, as of GeoLite2, or write networks"
    );
    assert_eq!(
        one("geo: {file: geo.mmdb}", "policy: geo, members: [192.0.2.1]"),
        "lb.yaml:3:15: dns.geo.file: not an absolute path: \"geo.mmdb\"; begin it with a slash"
    );
    assert_eq!(
        one("geo: {networks: {}}", "policy: geo, members: [192.0.2.1]"),
        "lb.yaml:3:3: dns.geo: empty; name a file, or write at least one network"
    );
}
