use std::sync::Arc;

use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;

use super::*;
use crate::config;
use crate::dns::snapshot::{Data, Orders};

fn snapshot() -> Snapshot {
    let many: Vec<String> = (0..100).map(|i| format!("\"many A 192.0.2.{i}\"")).collect();
    let mail: Vec<String> = (0..40).map(|i| format!("\"mail A 192.0.3.{i}\"")).collect();
    let glue: Vec<String> = (0..40).map(|i| format!("\"ns.sub A 192.0.4.{i}\"")).collect();
    let text = format!(
        "dns: {{listen: \"127.0.0.1:53\", nsid: dns-1, zones: {{example.org: {{ns: [ns.example.net.], records: \
         [a A 192.0.2.1, \"@ MX 10 mail\", sub NS ns.sub, {}, {}, {}]}}}}}}",
        many.join(", "),
        mail.join(", "),
        glue.join(", ")
    );
    let config = config::Config::parse("lb.yaml", &text, "n").unwrap().dns.unwrap();
    Snapshot::new(Arc::new(Data::new(&config).unwrap()), Default::default(), &Orders::new(), false)
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

fn send(packet: &[u8], transport: Transport) -> (Outcome, Vec<u8>) {
    let mut out = vec![1, 2, 3];
    let snapshot = snapshot();
    let around = Around {
        snapshot: &snapshot,
        source: [203, 0, 113, 7].into(),
        transport,
        signatures: &Signatures::default(),
        roll: 0,
        now: Duration::ZERO,
    };
    (respond(&around, packet, &mut out).outcome, out)
}

fn answer_to(message: &Message, transport: Transport) -> Message {
    let (_, out) = send(&message.to_vec().unwrap(), transport);
    Message::from_vec(&out).unwrap()
}

/// Header fields and whatever follows: a packet as nobody should make it.
fn raw(flags: u16, counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xab, 0xcd];
    for field in [flags, counts[0], counts[1], counts[2], counts[3]] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend(rest);
    packet
}

/// `a.example.org`, A, IN.
const GOOD: &[u8] = b"\x01a\x07example\x03org\x00\x00\x01\x00\x01";

fn code_of(packet: &[u8]) -> ResponseCode {
    let (outcome, out) = send(packet, Transport::Udp);
    let Outcome::Answered { code, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(&out[..2], &packet[..2], "the question's id");
    assert!(out[2] & 0x80 != 0, "an answer");
    code
}

#[test]
fn a_question_is_answered_with_its_id_its_question_and_its_flags() {
    let asked = question("A.Example.org.", RecordType::A);
    let told = answer_to(&asked, Transport::Udp);
    assert_eq!((told.id, told.response_code), (asked.id, ResponseCode::NoError));
    assert!(told.authoritative && !told.recursion_available && !told.truncation);
    assert!(told.queries[0].name().eq_case(asked.queries[0].name()));
    assert!(told.answers[0].name.eq_case(asked.queries[0].name()));
    assert!(told.edns.is_none(), "nobody asked for it");
}

#[test]
fn hostile_packets_are_refused_by_their_code_or_dropped() {
    assert_eq!(code_of(&raw(0, [1, 0, 0, 0], GOOD)), ResponseCode::NoError);
    let no_answer = [
        (vec![], Outcome::TooShort),
        (vec![0; 11], Outcome::TooShort),
        (raw(0x8000, [1, 0, 0, 0], GOOD), Outcome::NotAQuestion),
    ];
    for (packet, expected) in no_answer {
        let (outcome, out) = send(&packet, Transport::Udp);
        assert_eq!((outcome, out.len()), (expected, 0));
    }
    let long_label = [&[64u8][..], &[b'x'; 64], b"\x00\x00\x01\x00\x01"].concat();
    let long_name = [
        &b"\x3f".iter().chain(&[b'x'; 63]).copied().collect::<Vec<_>>().repeat(5)[..],
        b"\x00\x00\x01\x00\x01",
    ]
    .concat();
    let twice = [GOOD, GOOD].concat();
    let opt: &[u8] = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";
    let two_opts = [GOOD, opt, opt].concat();
    let malformed = [
        ("no question", raw(0, [0, 0, 0, 0], b"")),
        ("a question that is not there", raw(0, [1, 0, 0, 0], b"")),
        ("many questions", raw(0, [2, 0, 0, 0], &twice)),
        ("as many as can be", raw(0, [0xffff, 0, 0, 0], GOOD)),
        ("an answer in a question", raw(0, [1, 1, 0, 0], GOOD)),
        ("counts that lie", raw(0, [1, 0, 0, 1], GOOD)),
        ("the largest counts", raw(0, [1, 0xffff, 0xffff, 0xffff], GOOD)),
        ("a name that points to itself", raw(0, [1, 0, 0, 0], b"\xc0\x0c\x00\x01\x00\x01")),
        ("two names that point to each other", raw(0, [1, 0, 0, 0], b"\xc0\x0e\xc0\x0c\x00\x01\x00\x01")),
        ("a name that points behind the end", raw(0, [1, 0, 0, 0], b"\xff\xff\x00\x01\x00\x01")),
        ("a label of more than 63 bytes", raw(0, [1, 0, 0, 0], &long_label)),
        ("a name of more than 255 bytes", raw(0, [1, 0, 0, 0], &long_name)),
        ("a name without an end", raw(0, [1, 0, 0, 0], b"\x07exam")),
        ("a question that is cut off", raw(0, [1, 0, 0, 0], &GOOD[..GOOD.len() - 1])),
        ("bytes behind the end", raw(0, [1, 0, 0, 0], &[GOOD, b"x"].concat())),
        ("two OPT records", raw(0, [1, 0, 0, 2], &two_opts)),
    ];
    for (what, packet) in malformed {
        assert_eq!(code_of(&packet), ResponseCode::FormErr, "{what}");
    }
    for (what, flags) in [("IQUERY", 0x0800), ("STATUS", 0x1000), ("NOTIFY", 0x2000), ("UPDATE", 0x2800)] {
        assert_eq!(code_of(&raw(flags, [1, 0, 0, 0], GOOD)), ResponseCode::NotImp, "{what}");
    }
    for (kind, expected) in
        [(252u16, ResponseCode::Refused), (253, ResponseCode::NotImp), (41, ResponseCode::FormErr)]
    {
        let mut packet = raw(0, [1, 0, 0, 0], GOOD);
        let at = packet.len() - 4;
        packet[at..at + 2].copy_from_slice(&kind.to_be_bytes());
        assert_eq!(code_of(&packet), expected, "type {kind}");
    }
}

#[test]
fn what_does_not_fit_says_so_and_fits_by_tcp() {
    let plain = answer_to(&question("many.example.org.", RecordType::A), Transport::Udp);
    assert!(plain.truncation && plain.answers.is_empty() && plain.edns.is_none());
    let asked = with_edns(question("many.example.org.", RecordType::A), 4096);
    let told = answer_to(&asked, Transport::Udp);
    assert!(told.truncation && told.answers.is_empty(), "more than any path carries for sure");
    assert_eq!(told.edns.unwrap().max_payload(), LARGEST_UDP);
    assert_eq!(answer_to(&asked, Transport::Tcp).answers.len(), 100);
    let (outcome, out) =
        send(&with_edns(question("many.example.org.", RecordType::A), 100).to_vec().unwrap(), Transport::Udp);
    assert!(matches!(outcome, Outcome::Answered { truncated: true, .. }), "less than 512 is 512 (RFC 6891)");
    assert!(out.len() <= 512);
}

#[test]
fn addresses_beside_an_answer_make_room_and_those_of_a_delegation_do_not() {
    let mx = answer_to(&question("example.org.", RecordType::MX), Transport::Udp);
    assert!(!mx.truncation && mx.additionals.is_empty() && mx.answers.len() == 1);
    let referral = answer_to(&question("x.sub.example.org.", RecordType::A), Transport::Udp);
    assert!(referral.truncation, "RFC 9471");
    assert_eq!(
        answer_to(&question("x.sub.example.org.", RecordType::A), Transport::Tcp).additionals.len(),
        40
    );
}

#[test]
fn edns_is_answered_with_edns() {
    let mut asked = with_edns(question("a.example.org.", RecordType::A), 1232);
    let edns = asked.edns.as_mut().unwrap();
    edns.set_dnssec_ok(true);
    edns.options_mut().insert(EdnsOption::Unknown(5, Vec::new()));
    edns.options_mut().insert(EdnsOption::NSID(NSIDPayload::new(Vec::new()).unwrap()));
    edns.options_mut().insert(EdnsOption::Unknown(65001, vec![1, 2]));
    let told = answer_to(&asked, Transport::Udp).edns.unwrap();
    assert!(told.flags().dnssec_ok);
    let Some(EdnsOption::NSID(nsid)) = told.option(EdnsCode::NSID) else { panic!("{told:?}") };
    assert_eq!(nsid.as_ref(), b"dns-1");
    assert_eq!(told.options().options.len(), 1, "unknown options are left alone");
    asked.edns.as_mut().unwrap().set_version(1);
    let (outcome, out) = send(&asked.to_vec().unwrap(), Transport::Udp);
    let told = Message::from_vec(&out).unwrap();
    let bad = Outcome::Answered { code: ResponseCode::BADVERS, truncated: false, choice: None };
    // 16 is BADVERS here and BADSIG in TSIG; hickory reads the latter.
    assert_eq!((outcome, u16::from(told.response_code)), (bad, 16));
    assert_eq!((told.edns.unwrap().version(), told.answers.len()), (0, 0));
}

#[test]
fn client_subnets_come_back_and_wrong_ones_are_malformed() {
    let with = |subnet: ClientSubnet| {
        let mut asked = with_edns(question("a.example.org.", RecordType::A), 1232);
        asked.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Subnet(subnet));
        answer_to(&asked, Transport::Udp)
    };
    let address = IpAddr::from([203, 0, 113, 0]);
    let told = with(ClientSubnet::new(address, 24, 0));
    let expected = EdnsOption::Subnet(ClientSubnet::new(address, 24, 0));
    assert_eq!(told.edns.unwrap().option(EdnsCode::Subnet), Some(&expected));
    for wrong in [ClientSubnet::new(address, 24, 8), ClientSubnet::new([203, 0, 113, 7].into(), 29, 0)] {
        assert_eq!(with(wrong).response_code, ResponseCode::FormErr, "{wrong:?}");
    }
}

/// A question with one OPT record of these options, as they stand on the wire.
fn with_options(options: &[u8]) -> Vec<u8> {
    let mut packet = question("a.example.org.", RecordType::A).to_vec().unwrap();
    packet[11] = 1;
    packet.extend([0, 0, 41, 16, 0, 0, 0, 0, 0]);
    packet.extend((options.len() as u16).to_be_bytes());
    packet.extend(options);
    packet
}

#[test]
fn options_of_no_use_are_passed_over_whatever_is_in_them() {
    let option =
        |code: u16, data: &[u8]| [&code.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat();
    // Among them DAU, DHU and N3U, COOKIE of a wrong length, and options without a length of their own.
    let long = vec![0xff; 3900];
    let packets = (0..=20)
        .chain([26946, 65001, 65535])
        .filter(|code| *code != 8)
        .map(|code| with_options(&option(code, &long)));
    let many: Vec<u8> = (0..950u16).flat_map(|code| option(if code == 8 { 9 } else { code }, &[])).collect();
    for packet in packets.chain([with_options(&many)]) {
        let (outcome, out) = send(&packet, Transport::Udp);
        let answered = Outcome::Answered { code: ResponseCode::NoError, truncated: false, choice: None };
        assert_eq!(outcome, answered, "{:?}", &packet[31..60]);
        assert!(out.len() < 100);
    }
    for cut in [&[0][..], &[0, 5, 0], &[0, 5, 0, 9, 1], &[0, 8, 0, 1, 1]] {
        let (outcome, _) = send(&with_options(cut), Transport::Udp);
        assert!(matches!(outcome, Outcome::Answered { code: ResponseCode::FormErr, .. }), "{cut:?}");
    }
    // The first client subnet counts; more of them are not looked at.
    let subnet = |last: u8| option(8, &[0, 1, 24, 0, 203, 0, last]);
    let packet = with_options(&[subnet(113), subnet(114), option(8, &[9])].concat());
    let told = Message::from_vec(&send(&packet, Transport::Udp).1).unwrap();
    let expected = EdnsOption::Subnet(ClientSubnet::new([203, 0, 113, 0].into(), 24, 0));
    assert_eq!(told.edns.unwrap().option(EdnsCode::Subnet), Some(&expected));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever comes, nothing panics, and what is answered is a message within its limit.
    #[test]
    fn any_bytes_are_answered_properly_or_not_at_all(
        bytes in prop::collection::vec(any::<u8>(), 0..80),
        header: bool,
        udp: bool,
    ) {
        let packet = if header { raw(0, [1, 0, 0, 1], &bytes) } else { bytes };
        let (outcome, out) = send(&packet, if udp { Transport::Udp } else { Transport::Tcp });
        match outcome {
            Outcome::Answered { .. } => {
                prop_assert!(!udp || out.len() <= usize::from(LARGEST_UDP));
                prop_assert_eq!(Message::from_vec(&out).unwrap().id.to_be_bytes(), [packet[0], packet[1]]);
            }
            _ => prop_assert!(out.is_empty()),
        }
    }

    /// A good question with one byte changed.
    #[test]
    fn a_changed_byte_does_no_harm(at in 0usize..60, value: u8) {
        let mut asked = with_edns(question("a.example.org.", RecordType::A), 1232);
        let subnet = ClientSubnet::new([203, 0, 113, 0].into(), 24, 0);
        asked.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Subnet(subnet));
        let mut packet = asked.to_vec().unwrap();
        let at = at % packet.len();
        packet[at] = value;
        let (_, out) = send(&packet, Transport::Udp);
        prop_assert!(out.is_empty() || Message::from_vec(&out).is_ok());
    }
}
