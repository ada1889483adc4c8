use std::collections::BTreeMap;
use std::time::Duration;

use hickory_proto::op::{Message, OpCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm, TsigError};
use hickory_proto::rr::{Name, TSigner};

use super::*;
use crate::config::Config;
use crate::dns::dnssec::sign::Signatures;
use crate::dns::publish::Publisher;
use crate::dns::snapshot::{Data, Observed, Orders};
use crate::dns::tsig::Keyring;
use crate::dns::wire::{Around, Outcome, Reply, respond};

const NOW: u64 = 1_795_000_000;
const SECONDARY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 54));
const LB_KEY: &str = "bGIgdGVzdHMga2VlcCB0aGlzIHNlY3JldCBzYWZlISE=";

/// A zone with more than a message of records, at two serials.
fn snapshot() -> Snapshot {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, LB_KEY).unwrap();
    let text = format!(
        "dns: {{listen: \"127.0.0.1:53\", checks: {{web: {{type: tcp, port: 80}}}}, zones: {{
           open.example: {{ns: [ns.example.net.], transfer: {{to: [192.0.2.54/32]}}}},
           closed.example: {{ns: [ns.example.net.]}},
           example.org: {{ns: [ns.example.net.], transfer: {{key: lb, secret_file: {}}}, records: [{}],
                         names: {{www: {{checks: web, members: [192.0.2.1, 192.0.2.2]}}}}}}}}}}",
        secret.display(),
        (0..3000)
            .map(|n| format!("\"host-{n} A 10.0.{}.{}\"", n / 250, n % 250))
            .collect::<Vec<_>>()
            .join(", ")
    );
    let config = Config::parse("lb.yaml", &text, "n").unwrap().dns.unwrap();
    let data = Arc::new(Data::new(&config).unwrap());
    let mut publisher = Publisher::new(BTreeMap::new());
    publisher.prepare(&data);
    let mut last = None;
    for second in [true, false] {
        let seen = [true, second].map(|up| Observed::of(Some(up), ""));
        let mut snapshot = Snapshot::new(Arc::clone(&data), seen.into(), &Orders::new(), false);
        snapshot.editions = publisher.publish(&snapshot);
        last = Some(snapshot);
    }
    let mut snapshot = last.unwrap();
    let (keys, errors) = Keyring::read(data.transfers.values().filter_map(|transfer| transfer.key.as_ref()));
    assert_eq!(errors, []);
    snapshot.keys = Arc::new(keys);
    snapshot
}

fn question(zone: &str, kind: RecordType, known: Option<u32>) -> Message {
    let mut message = Message::query();
    let zone = Name::from_ascii(zone).unwrap();
    message.add_query(Query::query(zone.clone(), kind));
    if let Some(serial) = known {
        let data = SOA::new(Name::root(), Name::root(), serial, 0, 0, 0, 0);
        message.add_authority(Record::from_rdata(zone, 0, RData::SOA(data)));
    }
    message
}

/// All messages of an answer.
fn ask(snapshot: &Snapshot, packet: &[u8], transport: Transport) -> (Outcome, Vec<Vec<u8>>) {
    let around = Around {
        snapshot,
        source: SECONDARY,
        transport,
        signatures: &Signatures::default(),
        roll: 0,
        now: Duration::from_secs(NOW),
    };
    let (mut out, mut messages) = (Vec::new(), Vec::new());
    let Reply { outcome, mut rest, .. } = respond(&around, packet, &mut out);
    messages.push(out.clone());
    while let Some(transfer) = &mut rest {
        transfer.next(NOW, &mut out).unwrap();
        messages.push(out.clone());
        if transfer.is_over() {
            rest = None;
        }
    }
    (outcome, messages)
}

fn code(zone: &str, kind: RecordType, transport: Transport) -> ResponseCode {
    let known = (kind == RecordType::IXFR).then_some(1);
    let (_, messages) = ask(&snapshot(), &question(zone, kind, known).to_vec().unwrap(), transport);
    assert_eq!(messages.len(), 1);
    Message::from_vec(&messages[0]).unwrap().metadata.response_code
}

fn records(messages: &[Vec<u8>]) -> Vec<Record> {
    messages.iter().flat_map(|message| Message::from_vec(message).unwrap().answers).collect()
}

fn signer(name: &str, secret: &[u8]) -> TSigner {
    TSigner::new(secret.to_vec(), TsigAlgorithm::HmacSha256, Name::from_ascii(name).unwrap(), 300).unwrap()
}

fn lb() -> TSigner {
    signer("lb.", b"lb tests keep this secret safe!!")
}

#[test]
fn a_zone_goes_out_in_signed_messages_of_bounded_size() {
    let mut message = question("Example.org.", RecordType::AXFR, None);
    message.set_edns(Edns::new());
    let mut verifier = message.finalize(&lb(), NOW).unwrap().unwrap();
    let (outcome, messages) = ask(&snapshot(), &message.to_vec().unwrap(), Transport::Tcp);
    assert_eq!(outcome, Outcome::Transfer(RecordType::AXFR));
    assert!(messages.len() > 2, "{}", messages.len());
    for (number, bytes) in messages.iter().enumerate() {
        assert!(bytes.len() < FULL + 700, "{} bytes", bytes.len());
        verifier.verify(bytes).unwrap();
        let told = Message::from_vec(bytes).unwrap();
        assert_eq!((told.metadata.id, told.metadata.op_code), (message.metadata.id, OpCode::Query));
        assert!(told.metadata.authoritative && !told.metadata.truncation);
        assert_eq!(told.edns.is_some(), number == 0, "once is enough (RFC 5936, section 2.2.5)");
    }
    let all = records(&messages);
    assert_eq!(all.len(), 1 + 1 + 3000 + 1 + 1, "SOA, NS, hosts, www, SOA");
    assert_eq!((all[0].record_type(), all.last().unwrap().record_type()), (RecordType::SOA, RecordType::SOA));
    let bytes: usize = messages.iter().map(Vec::len).sum();
    assert!(bytes < 30 * all.len(), "names are compressed: {bytes} bytes for {} records", all.len());
}

#[test]
fn what_has_changed_is_told_alone_and_all_to_those_who_are_too_far_behind() {
    let by_key = |known, transport| {
        let mut message = question("example.org.", RecordType::IXFR, Some(known));
        message.finalize(&lb(), NOW).unwrap();
        let (outcome, messages) = ask(&snapshot(), &message.to_vec().unwrap(), transport);
        let Outcome::Transfer(kind) = outcome else { panic!("{outcome:?}") };
        (kind, records(&messages).iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let (kind, told) = by_key(1, Transport::Tcp);
    assert_eq!(kind, RecordType::IXFR);
    let serials = told.iter().map(|line| line.split(' ').nth(6).unwrap_or("-"));
    assert_eq!(serials.collect::<Vec<_>>(), ["2", "1", "-", "2", "2"], "{told:?}");
    assert!(told[2].starts_with("www.example.org.") && told[2].ends_with("192.0.2.2"), "{}", told[2]);
    for (known, transport) in
        [(2, Transport::Tcp), (3, Transport::Tcp), (2, Transport::Udp), (1, Transport::Udp)]
    {
        let (kind, told) = by_key(known, transport);
        assert_eq!((kind, told.len()), (RecordType::IXFR, 1), "{known} by {transport:?}");
    }
    let (kind, told) = by_key(u32::MAX, Transport::Tcp);
    assert_eq!((kind, told.len()), (RecordType::AXFR, 3004), "not known any more");
}

#[test]
fn nobody_gets_a_zone_who_may_not_have_it() {
    use ResponseCode::{FormErr, NoError, Refused};
    let (tcp, udp) = (Transport::Tcp, Transport::Udp);
    let cases = [
        ("open.example.", RecordType::AXFR, tcp, NoError),
        ("open.example.", RecordType::IXFR, udp, NoError),
        ("open.example.", RecordType::AXFR, udp, FormErr),
        ("example.org.", RecordType::AXFR, tcp, Refused),
        ("example.org.", RecordType::IXFR, udp, Refused),
        ("example.org.", RecordType::AXFR, udp, Refused),
        ("closed.example.", RecordType::AXFR, tcp, Refused),
        ("www.open.example.", RecordType::AXFR, tcp, Refused),
        ("nobody.example.", RecordType::AXFR, tcp, Refused),
    ];
    for (zone, kind, transport, expected) in cases {
        assert_eq!(code(zone, kind, transport), expected, "{zone} {kind} by {transport:?}");
    }
    let malformed = question("open.example.", RecordType::IXFR, None).to_vec().unwrap();
    let (outcome, _) = ask(&snapshot(), &malformed, tcp);
    assert_eq!(outcome, Outcome::Answered { code: FormErr, truncated: false, choice: None });
    // Others' addresses do not get it either.
    let asked = question("open.example.", RecordType::AXFR, None).to_vec().unwrap();
    let around = Around {
        snapshot: &snapshot(),
        source: [192, 0, 2, 55].into(),
        transport: tcp,
        signatures: &Signatures::default(),
        roll: 0,
        now: Duration::from_secs(NOW),
    };
    let reply = respond(&around, &asked, &mut Vec::new());
    assert_eq!(reply.outcome, Outcome::Answered { code: Refused, truncated: false, choice: None });
}

#[test]
fn wrong_signatures_are_named() {
    let cases = [
        (signer("nobody.", b"x"), NOW, TsigError::BadKey),
        (signer("lb.", b"wrong"), NOW, TsigError::BadSig),
        (lb(), NOW - 3600, TsigError::BadTime),
    ];
    for (key, at, expected) in cases {
        for kind in [RecordType::AXFR, RecordType::SOA] {
            let mut message = question("example.org.", kind, None);
            message.finalize(&key, at).unwrap();
            let (outcome, messages) = ask(&snapshot(), &message.to_vec().unwrap(), Transport::Tcp);
            assert_eq!(outcome, Outcome::BadSignature(expected));
            let told = Message::from_vec(&messages[0]).unwrap();
            assert_eq!((told.metadata.response_code, told.answers.len()), (ResponseCode::NotAuth, 0));
            assert_eq!(told.signature.unwrap().data.error, Some(expected));
        }
    }
    // Whoever signs rightly gets signed answers, also to what is no transfer.
    let mut message = question("example.org.", RecordType::SOA, None);
    let mut verifier = message.finalize(&lb(), NOW).unwrap().unwrap();
    let (_, messages) = ask(&snapshot(), &message.to_vec().unwrap(), Transport::Udp);
    let told = verifier.verify(&messages[0]).unwrap();
    assert!(
        told.answers[0].to_string().contains(" 2 3600 "),
        "the serial that is published: {}",
        told.answers[0]
    );
}

#[test]
fn a_zone_is_not_told_before_the_first_checks() {
    let mut snapshot = snapshot();
    snapshot.editions.clear();
    let asked = question("open.example.", RecordType::AXFR, None).to_vec().unwrap();
    let (outcome, _) = ask(&snapshot, &asked, Transport::Tcp);
    assert_eq!(outcome, Outcome::Answered { code: ResponseCode::ServFail, truncated: false, choice: None });
}
