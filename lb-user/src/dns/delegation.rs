//! What the parent zone must have for resolvers to find a zone: its name servers, the addresses of those that are
//! named within it (RFC 1034, section 4.2.1), and for a signed one the digests of its keys (RFC 4034, section 5). Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::rr::{Name, RData};

use super::ZoneConfig;
use super::zone::Rr;

/// Records for the parent zone, as a master file has them.
pub fn delegation(zone: &ZoneConfig) -> Vec<String> {
    let servers = zone.records.iter().filter_map(|record| match &record.data {
        RData::NS(server) if record.name == zone.apex => Some((record, &server.0)),
        _ => None,
    });
    let servers: Vec<(&Rr, &Name)> = servers.collect();
    let line = |name: &Name, ttl: u32, data: String| format!("{} {ttl} IN {data}", name.to_ascii());
    let mut lines: Vec<String> =
        servers.iter().map(|(record, server)| line(&zone.apex, record.ttl, format!("NS {server}"))).collect();
    let within: BTreeSet<&Name> =
        servers.iter().map(|(_, server)| *server).filter(|server| zone.apex.zone_of(server)).collect();
    for server in within {
        for (ttl, address) in addresses(zone, server) {
            let kind = if address.is_ipv4() { "A" } else { "AAAA" };
            lines.push(line(server, ttl, format!("{kind} {address}")));
        }
    }
    let ttl = servers.first().map_or(0, |(record, _)| record.ttl);
    let signed = zone.keys.iter().filter_map(|key| key.ds(&zone.apex));
    lines.extend(signed.map(|ds| line(&zone.apex, ttl, format!("DS {ds}"))));
    lines
}

/// The addresses of a name, static or of members, each with its TTL.
fn addresses(zone: &ZoneConfig, name: &Name) -> Vec<(u32, IpAddr)> {
    let records = zone.records.iter().filter(|record| record.name == *name);
    let of_records = records.filter_map(|record| match &record.data {
        RData::A(address) => Some((record.ttl, IpAddr::V4(address.0))),
        RData::AAAA(address) => Some((record.ttl, IpAddr::V6(address.0))),
        _ => None,
    });
    let choices = zone.choices.iter().filter(|choice| choice.name == *name);
    let of_members = choices.flat_map(|c| c.members.iter().map(move |member| (c.ttl, member.address)));
    of_records.chain(of_members).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn of(zone: &str) -> Vec<String> {
        let text = format!("dns: {{listen: \"127.0.0.1:53\", zones: {{api.example.com: {zone}}}}}");
        delegation(&Config::parse("lb.yaml", &text, "n").unwrap().dns.unwrap().zones[0])
    }

    #[test]
    fn the_parent_needs_the_name_servers_and_the_addresses_of_those_within() {
        let zone = "{ns: [ns1, Lb2.example.com.], \
                     records: [ns1 300 A 192.0.2.1, \"ns1 300 AAAA 2001:db8::1\", other A 192.0.2.9]}";
        assert_eq!(
            of(zone),
            [
                "api.example.com. 3600 IN NS ns1.api.example.com.",
                "api.example.com. 3600 IN NS Lb2.example.com.",
                "ns1.api.example.com. 300 IN A 192.0.2.1",
                "ns1.api.example.com. 300 IN AAAA 2001:db8::1",
            ]
        );
    }

    #[test]
    fn a_name_server_may_be_a_name_with_members() {
        let lines = of("{ns: [ns1], names: {ns1: {members: [192.0.2.1, 192.0.2.2]}}}");
        assert_eq!(
            lines[1..],
            ["ns1.api.example.com. 60 IN A 192.0.2.1", "ns1.api.example.com. 60 IN A 192.0.2.2"]
        );
    }
}
