use std::sync::Arc;

use super::*;
use crate::config;
use crate::dns::snapshot::{Data, Orders};

/// A server of two zones, one below the other.
const ZONES: &str = "
dns:
  listen: \"127.0.0.1:53\"
  zones:
    example.org:
      ns: [ns1, ns.example.net.]
      soa: {negative: 30}
      records:
        - ns1 A 192.0.2.3
        - \"@ MX 10 mail\"
        - mail A 192.0.2.25
        - mail AAAA 2001:db8::25
        - _sip._tcp SRV 0 0 5060 mail
        - one CNAME two
        - two CNAME www
        - far CNAME www.example.net.
        - ghost CNAME nobody
        - loop CNAME pool
        - pool CNAME loop
        - below CNAME host.sub
        - '*.w TXT \"wild\"'
        - sub NS ns.sub
        - sub NS ns.example.net.
        - ns.sub A 192.0.2.9
        - deep NS ns1.deep
        - ns1.deep A 192.0.2.8
      names:
        www: {members: [198.51.100.1], ttl: 20}
        \"*.any\": {members: [198.51.100.2, \"2001:db8::2\"]}
    deep.example.org:
      ns: [ns1]
      records: [ns1 A 192.0.2.8]
";

fn snapshot() -> Snapshot {
    let config = config::Config::parse("lb.yaml", ZONES, "n").unwrap().dns.unwrap();
    let data = Arc::new(Data::new(&config).unwrap());
    Snapshot::new(data, Default::default(), &Orders::new(), false)
}

#[test]
fn the_zone_of_a_name_is_the_longest_among_few_and_among_many() {
    let more = |count: usize| {
        let zones = (0..count).map(|n| format!("    z{n}.example: {{ns: [ns.example.net.]}}\n"));
        let text = format!("{ZONES}{}", zones.collect::<String>());
        Data::new(&config::Config::parse("lb.yaml", &text, "n").unwrap().dns.unwrap()).unwrap()
    };
    for data in [more(0), more(1), more(20)] {
        let zone = |name: &str| {
            let name = LowerName::new(&Name::from_ascii(name).unwrap());
            data.zone_of(&name).map(|zone| zone.apex().to_string())
        };
        for name in ["example.org.", "www.EXAMPLE.org.", "ns.sub.example.org.", "xdeep.example.org."] {
            assert_eq!(zone(name).as_deref(), Some("example.org."), "{name}");
        }
        for name in ["deep.example.org.", "a.b.deep.example.org."] {
            assert_eq!(zone(name).as_deref(), Some("deep.example.org."), "{name}");
        }
        for name in [".", "org.", "notexample.org.", "example.org.example."] {
            assert_eq!(zone(name), None, "{name}");
        }
    }
}

fn ask(name: &str, kind: &str) -> Answer {
    let question =
        Question { name: Name::from_ascii(name).unwrap(), kind: kind.parse().unwrap(), class: DNSClass::IN };
    answer(&snapshot(), &question, &Client { source: [127, 0, 0, 1].into(), subnet: None }, 0)
}

/// Code, AA and all records, those of each section behind its letter.
fn told(name: &str, kind: &str) -> String {
    let answer = ask(name, kind);
    let mut told = format!("{:?}", answer.code);
    told += if answer.authoritative { " aa" } else { "" };
    for (section, records) in
        [("an", &answer.answers), ("ns", &answer.authorities), ("ad", &answer.additionals)]
    {
        for record in records {
            let Record { name, ttl, data, .. } = record;
            told += &format!(" | {section} {name} {ttl} {} {data}", record.record_type());
        }
    }
    told
}

const SOA: &str = "ns example.org. 30 SOA ns1.example.org. hostmaster.example.org. 1 3600 900 1209600 30";

#[test]
fn static_records_come_with_the_addresses_that_go_with_them() {
    assert_eq!(
        told("example.org.", "MX"),
        "NoError aa | an example.org. 3600 MX 10 mail.example.org. | ad mail.example.org. 3600 A 192.0.2.25 \
         | ad mail.example.org. 3600 AAAA 2001:db8::25"
    );
    assert!(told("_sip._tcp.example.org.", "SRV").contains("| ad mail.example.org. 3600 A 192.0.2.25"));
    assert!(told("example.org.", "SOA").starts_with("NoError aa | an example.org. 3600 SOA"));
}

#[test]
fn what_is_not_there_is_denied_with_the_soa_and_its_negative_ttl() {
    assert_eq!(told("nobody.example.org.", "A"), format!("NXDomain aa | {SOA}"));
    assert_eq!(told("mail.example.org.", "TXT"), format!("NoError aa | {SOA}"));
    assert_eq!(told("www.example.org.", "AAAA"), format!("NoError aa | {SOA}"));
    assert_eq!(told("_tcp.example.org.", "A"), format!("NoError aa | {SOA}"), "it exists, empty");
}

#[test]
fn names_keep_the_case_of_the_question() {
    assert_eq!(told("WwW.eXample.ORG.", "A"), "NoError aa | an WwW.eXample.ORG. 20 A 198.51.100.1");
    assert!(told("A.w.example.ORG.", "TXT").contains("an A.w.example.ORG. 3600 TXT wild"));
}

#[test]
fn aliases_are_followed_within_the_zone() {
    assert_eq!(
        told("one.example.org.", "A"),
        "NoError aa | an one.example.org. 3600 CNAME two.example.org. \
         | an two.example.org. 3600 CNAME www.example.org. | an www.example.org. 20 A 198.51.100.1"
    );
    assert_eq!(
        told("one.example.org.", "CNAME"),
        "NoError aa | an one.example.org. 3600 CNAME two.example.org."
    );
    assert_eq!(told("far.example.org.", "A"), "NoError aa | an far.example.org. 3600 CNAME www.example.net.");
    // RFC 6604: the code is that of the last name.
    assert_eq!(
        told("ghost.example.org.", "A"),
        format!("NXDomain aa | an ghost.example.org. 3600 CNAME nobody.example.org. | {SOA}")
    );
    assert_eq!(
        told("below.example.org.", "A"),
        "NoError aa | an below.example.org. 3600 CNAME host.sub.example.org."
    );
    assert_eq!(ask("loop.example.org.", "A").answers.len(), LONGEST_CHAIN + 1, "an endless chain ends");
}

#[test]
fn delegations_are_referred_to_with_the_addresses_of_their_servers() {
    assert_eq!(
        told("host.sub.example.org.", "A"),
        "NoError | ns sub.example.org. 3600 NS ns.sub.example.org. | ns sub.example.org. 3600 NS ns.example.net. \
         | ad ns.sub.example.org. 3600 A 192.0.2.9"
    );
    assert!(ask("sub.example.org.", "NS").needs_additionals);
    assert_eq!(told("sub.example.org.", "DS"), format!("NoError aa | {SOA}"));
}

#[test]
fn a_zone_below_another_answers_for_itself_but_for_its_ds() {
    assert_eq!(
        told("deep.example.org.", "NS"),
        "NoError aa | an deep.example.org. 3600 NS ns1.deep.example.org. | ad ns1.deep.example.org. 3600 A 192.0.2.8"
    );
    assert_eq!(told("deep.example.org.", "DS"), format!("NoError aa | {SOA}"));
    assert!(told("x.deep.example.org.", "A").contains("ns deep.example.org. 60 SOA"));
}

#[test]
fn wildcards_stand_for_names_with_members_too() {
    assert_eq!(
        told("x.y.any.example.org.", "AAAA"),
        "NoError aa | an x.y.any.example.org. 60 AAAA 2001:db8::2"
    );
}

#[test]
fn any_is_answered_with_as_little_as_rfc_8482_allows() {
    assert_eq!(told("www.example.org.", "ANY"), "NoError aa | an www.example.org. 30 HINFO RFC8482 ");
    assert!(told("one.example.org.", "ANY").contains("CNAME two.example.org."));
    assert!(told("nobody.example.org.", "ANY").starts_with("NXDomain"));
}

#[test]
fn what_is_not_ours_is_refused() {
    assert_eq!(told("example.com.", "A"), "Refused");
    assert_eq!(told("org.", "A"), "Refused");
    assert_eq!(told(".", "NS"), "Refused");
    assert_eq!(told("example.org.", "AXFR"), "Refused");
    let question = Question {
        name: Name::from_ascii("version.bind.").unwrap(),
        kind: RecordType::TXT,
        class: DNSClass::CH,
    };
    let client = Client { source: [127, 0, 0, 1].into(), subnet: None };
    assert_eq!(answer(&snapshot(), &question, &client, 0).code, ResponseCode::Refused);
}
