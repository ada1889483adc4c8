use super::*;
use crate::dns::master::parse;

const APEX: &str = "@ SOA ns1 hostmaster 1 3600 900 1209600 60\n@ NS ns1\nns1 A 192.0.2.1\n";

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn build(records: &str, chosen: &[&str]) -> Result<Zone, Vec<String>> {
    let apex = name("example.org.");
    let read = parse(&format!("{APEX}{records}"), &apex, Some(300)).unwrap();
    let records: Vec<Rr> = read.into_iter().map(|read| read.record).collect();
    let chosen: Vec<(Name, usize)> = chosen.iter().enumerate().map(|(i, text)| (name(text), i)).collect();
    Zone::build(&apex, &records, &chosen)
        .map_err(|faults| faults.into_iter().map(|f| format!("{:?}: {}", f.of, f.message)).collect())
}

/// What the zone says: the types at the name, the cut, or nothing.
fn found(zone: &Zone, text: &str) -> String {
    match zone.find(&LowerName::new(&name(text)), false) {
        Found::Node(node) => {
            let kinds: Vec<String> = node.sets.iter().map(|set| set.kind.to_string()).collect();
            kinds.join(" ") + &node.choice.map(|choice| format!("choice {choice}")).unwrap_or_default()
        }
        Found::Delegated { cut, .. } => format!("cut {cut}"),
        Found::Nothing => "nothing".into(),
    }
}

#[test]
fn wildcards_are_as_in_the_example_of_rfc_4592() {
    // Section 2.2.1, with the names below example.org.
    let zone = build(
        "* TXT this\n*.sub.w TXT that\nhost1 A 192.0.2.2\n_ssh._tcp.host1 SRV 0 0 22 host1\n\
         subdel NS ns.example.net.\n",
        &[],
    )
    .unwrap();
    let says = |text: &str| found(&zone, &format!("{text}.example.org."));
    assert_eq!(says("host3"), "TXT");
    assert_eq!(says("foo.bar"), "TXT");
    assert_eq!(says("host1"), "A", "a name that exists is not taken from the wildcard");
    assert_eq!(says("sub.*"), "nothing", "the asterisk is the closest encloser, and there is none below it");
    assert_eq!(says("_telnet._tcp.host1"), "nothing", "_tcp.host1 exists, and has no wildcard");
    assert_eq!(says("_tcp.host1"), "", "it exists though it has nothing");
    assert_eq!(says("host.subdel"), "cut subdel.example.org.");
    assert_eq!(says("ghost.*"), "nothing");
    assert_eq!(says("a.b.sub.w"), "TXT");
    assert_eq!(says("w"), "");
    assert_eq!(found(&zone, "HOST1.Example.ORG."), "A");
}

#[test]
fn the_delegation_nearest_to_the_apex_counts_and_the_ds_belongs_to_the_parent() {
    let zone = build("sub NS ns.sub\nns.sub A 192.0.2.9\n", &[]).unwrap();
    for below in ["sub.example.org.", "ns.sub.example.org.", "a.b.sub.example.org."] {
        assert_eq!(found(&zone, below), "cut sub.example.org.");
    }
    let cut = LowerName::new(&name("sub.example.org."));
    assert!(matches!(zone.find(&cut, true), Found::Node(_)));
    assert_eq!(found(&zone, "example.org."), "SOA NS", "the apex is no delegation");
}

#[test]
fn names_with_members_are_found_and_stand_in_wildcards() {
    let zone = build("www TXT text\n", &["www.example.org.", "*.example.org."]).unwrap();
    assert_eq!(found(&zone, "www.example.org."), "TXTchoice 0");
    assert_eq!(found(&zone, "else.example.org."), "choice 1");
}

#[test]
fn the_ttl_of_a_set_is_the_shortest_and_negative_answers_go_by_the_lesser_of_two() {
    let zone = build("a 60 A 192.0.2.1\na 30 A 192.0.2.2\na 30 A 192.0.2.2\n", &[]).unwrap();
    let set = zone.node(&LowerName::new(&name("a.example.org."))).unwrap().set(RecordType::A).unwrap();
    assert_eq!((set.ttl, set.data.len()), (30, 2));
    assert_eq!(zone.negative_ttl(), 60);
    let apex = name("example.org.");
    let read = parse("@ 20 SOA ns.x. h.x. 1 1 1 1 60\n@ NS ns.x.\n", &apex, Some(300)).unwrap();
    let records: Vec<Rr> = read.into_iter().map(|read| read.record).collect();
    assert_eq!(Zone::build(&apex, &records, &[]).unwrap().negative_ttl(), 20);
}

#[test]
fn what_does_not_fit_together_is_told_at_once_with_its_record() {
    let faults = build(
        "x CNAME y\nx A 192.0.2.1\n@ CNAME y\nz CNAME a\nz CNAME b\nout.example.net. A 192.0.2.1\nsub NS ns.sub\n\
         txt.sub TXT no\nwww A 192.0.2.1\nsoa SOA a b 1 1 1 1 1\n",
        &["www.example.org."],
    )
    .unwrap_err();
    let expected = [
        "Some(7): z.example.org. has a CNAME record already; remove one",
        "Some(8): out.example.net. is outside of the zone example.org.; move it to its own",
        "Some(12): an SOA record stands at example.org. only; remove this one",
        "Some(3): x.example.org. has a CNAME record and others; a CNAME stands alone (RFC 1034, section 3.6.2): remove one",
        "Some(5): example.org. has a CNAME record and others; a CNAME stands alone (RFC 1034, section 3.6.2): remove one",
        "Some(9): the name server ns.sub.example.org. has no address here; add an A or AAAA record",
        "Some(10): txt.sub.example.org. is delegated: only addresses of name servers belong here; remove it",
        "Some(11): the addresses of www.example.org. are chosen among members; make this address one of them",
    ];
    assert_eq!(faults, expected);
}

#[test]
fn a_zone_needs_a_soa_and_name_servers() {
    let faults = Zone::build(&name("example.org."), &[], &[]).unwrap_err();
    let messages: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
    let expected = [
        "the zone example.org. has no SOA record; add one",
        "the zone example.org. has no name server; add one",
    ];
    assert_eq!(messages, expected);
}
