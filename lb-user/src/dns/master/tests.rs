use super::*;

fn origin() -> Name {
    Name::from_ascii("example.org.").unwrap()
}

fn read(text: &str) -> Vec<String> {
    let records = parse(text, &origin(), Some(300)).unwrap_or_else(|problems| panic!("{problems:?}"));
    records
        .iter()
        .map(|read| {
            let Rr { name, ttl, data } = &read.record;
            format!("{name} {ttl} {} {data}", data.record_type())
        })
        .collect()
}

fn wrong(text: &str) -> Vec<String> {
    let problems = parse(text, &origin(), Some(300)).unwrap_err();
    problems.iter().map(|p| format!("{}:{}: {}", p.line, p.column, p.message)).collect()
}

#[test]
fn a_zone_file_is_read_as_rfc_1035_says() {
    let text = "\
$TTL 1h
@ IN SOA ns1 hostmaster (
        2026010100 ; serial
        2h 15m 2w 5m )
        NS   ns1
        NS   ns.elsewhere.net.
ns1     A    192.0.2.1
        AAAA 2001:db8::1
www 60 IN CNAME ns1
mail IN 1m30s MX 10 ns1
$ORIGIN sub.example.org.
*       TXT  \"one \\\"two\\\"\" three
_sip._tcp SRV 1 2 5060 @
@       CAA  128 issue \"ca.example.net\"
";
    assert_eq!(
        read(text),
        [
            "example.org. 3600 SOA ns1.example.org. hostmaster.example.org. 2026010100 7200 900 1209600 300",
            "example.org. 3600 NS ns1.example.org.",
            "example.org. 3600 NS ns.elsewhere.net.",
            "ns1.example.org. 3600 A 192.0.2.1",
            "ns1.example.org. 3600 AAAA 2001:db8::1",
            "www.example.org. 60 CNAME ns1.example.org.",
            "mail.example.org. 90 MX 10 ns1.example.org.",
            "*.sub.example.org. 3600 TXT one \"two\"three",
            "_sip._tcp.sub.example.org. 3600 SRV 1 2 5060 sub.example.org.",
            "sub.example.org. 3600 CAA 128 issue \"ca.example.net\"",
        ]
    );
}

#[test]
fn a_record_without_a_ttl_has_that_of_the_directive_else_the_last_one() {
    let read = parse("a 60 A 192.0.2.1\nb A 192.0.2.2\n", &origin(), None).unwrap();
    assert_eq!(read.iter().map(|read| read.record.ttl).collect::<Vec<_>>(), [60, 60]);
    assert_eq!(
        parse("a A 192.0.2.1", &origin(), None).unwrap_err()[0].message.split(';').next(),
        Some("a record without a TTL")
    );
}

#[test]
fn every_error_has_its_place_and_all_are_told_at_once() {
    let text = "\
@ A 1.2.3
 MX ten mail
www A 192.0.2.1 192.0.2.2
x CH TXT hi
y QUUX 1
z TXT \"open
$INCLUDE other.zone
w SRV 1 2 80
v 5x A 192.0.2.1
u
";
    assert_eq!(
        wrong(text),
        [
            "1:5: not an IPv4 address: \"1.2.3\"; write four numbers, as in 192.0.2.1",
            "2:5: not a preference: \"ten\"; write a number from 0 to 65535",
            "3:17: one word too many; remove it",
            "4:3: class CH is not served; write IN or nothing",
            "5:3: unknown type: \"QUUX\"; write one of A, AAAA, CNAME, MX, TXT, SRV, CAA, NS, SOA, PTR",
            "6:7: a quote that is never closed; close it on the same line",
            "7:1: $INCLUDE is not supported; write its records here; $ORIGIN and $TTL are known",
            "8:13: the name of a server, or a dot is missing here; write it",
            "9:3: not a TTL: \"5x\"; write seconds up to 2147483647, or as in 1h30m",
            "10:2: a record without a type; write one of A, AAAA, CNAME, MX, TXT, SRV, CAA, NS, SOA, PTR",
        ]
    );
}

#[test]
fn parentheses_that_do_not_match_are_named() {
    assert_eq!(wrong("a TXT ( x\n y\n"), ["1:7: a parenthesis that is never closed; close it"]);
    assert_eq!(wrong("a TXT x )\n"), ["1:9: a parenthesis that was never opened; remove it"]);
}

#[test]
fn bytes_are_written_by_three_digits() {
    assert_eq!(read("a TXT \\065\\b\n"), ["a.example.org. 300 TXT Ab"]);
    assert_eq!(wrong("a TXT \\999\n"), ["1:7: not a byte: \\999; write three digits from 000 to 255"]);
}

#[test]
fn ttls_have_units() {
    assert_eq!(ttl("90"), Some(90));
    assert_eq!(ttl("1h30m"), Some(5400));
    assert_eq!(ttl("2W"), Some(1_209_600));
    assert_eq!([ttl(""), ttl("1x"), ttl("h"), ttl("1h3"), ttl("2147483648")], [None; 5]);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[a-z0-9 @.$\"();\\\\\\n\\t]{0,80}") {
        let _ = parse(&text, &origin(), None);
    }
}
