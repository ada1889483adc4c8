//! Hostile packets for the name server: those that broke others before, what chance makes of them, and what holds for any.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use lb_user::config::Config;
use lb_user::dns::dnssec::ZoneKey;
use lb_user::dns::dnssec::sign::Signatures;
use lb_user::dns::policy::mix;
use lb_user::dns::publish::Publisher;
use lb_user::dns::snapshot::{Data, Orders, Snapshot};
use lb_user::dns::tsig::Keyring;
use lb_user::dns::wire::{Around, LARGEST_UDP, Outcome, Reply, Transport, respond};

/// Seconds since 1970 at which all this happens.
const NOW: u64 = 1_795_000_000;

/// A server that has everything: a signed zone, one that is transferred, a key.
pub struct Server {
    snapshot: Snapshot,
    signatures: Signatures,
}

impl Default for Server {
    fn default() -> Self {
        Server { snapshot: snapshot(), signatures: Signatures::default() }
    }
}

fn snapshot() -> Snapshot {
    let folder = tempfile::tempdir().unwrap();
    let [key, secret] = ["key.pem", "secret"].map(|name| folder.path().join(name));
    ZoneKey::make(&key).unwrap();
    std::fs::write(&secret, "bGIgdGVzdHMga2VlcCB0aGlzIHNlY3JldCBzYWZlISE=").unwrap();
    let text = format!(
        "dns: {{listen: \"127.0.0.1:53\", nsid: fuzzed, zones: {{
           example.org: {{ns: [ns.example.net.], dnssec: {}, records: [a A 192.0.2.1, '*.w TXT \"wild\"', b CNAME a, loop CNAME pool,
                          pool CNAME loop, sub NS ns.sub, ns.sub A 192.0.2.9], names: {{www: {{policy: subnet, members: [192.0.2.1]}}}}}},
           example.net: {{ns: [ns.example.org.], transfer: {{to: 127.0.0.0/8}}}},
           example.com: {{ns: [ns.example.org.], transfer: {{key: lb, secret_file: {}}}}}}}}}",
        key.display(),
        secret.display()
    );
    let data = Arc::new(Data::new(&Config::parse("lb.yaml", &text, "n").unwrap().dns.unwrap()).unwrap());
    let mut publisher = Publisher::new(BTreeMap::new());
    publisher.prepare(&data);
    let mut snapshot = Snapshot::new(Arc::clone(&data), Arc::default(), &Orders::new(), false);
    snapshot.editions = publisher.publish(&snapshot);
    snapshot.keys =
        Arc::new(Keyring::read(data.transfers.values().filter_map(|transfer| transfer.key.as_ref())).0);
    snapshot
}

/// A header with these flags and counts, and what follows.
fn raw(flags: u16, counts: [u16; 4], rest: &[&[u8]]) -> Vec<u8> {
    let mut packet = vec![0xab, 0xcd];
    for field in [flags, counts[0], counts[1], counts[2], counts[3]] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend(rest.concat());
    packet
}

/// A name of the server, with type and class.
fn asked(name: &str, kind: u16, class: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(class.to_be_bytes());
    bytes
}

/// An OPT record: payload, version and flags, options.
fn opt(payload: u16, ttl: u32, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 41];
    bytes.extend(payload.to_be_bytes());
    bytes.extend(ttl.to_be_bytes());
    bytes.extend((options.len() as u16).to_be_bytes());
    bytes.extend(options);
    bytes
}

/// A TSIG record of a key, with a signature that is none.
fn tsig(key: &str, size: u16, mac: &[u8]) -> Vec<u8> {
    tsig_by("hmac-sha256", key, size, mac)
}

fn tsig_by(algorithm: &str, key: &str, size: u16, mac: &[u8]) -> Vec<u8> {
    // A name without the type and class of a question.
    let mut data = asked(algorithm, 0, 0);
    data.truncate(data.len() - 4);
    data.extend(b"\0\0\x6a\xfd\xbe\x40\x01\x2c");
    data.extend(size.to_be_bytes());
    data.extend(mac);
    data.extend(b"\xab\xcd\0\0\0\0");
    let mut bytes = asked(key, 250, 255);
    bytes.extend([0; 4]);
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// Packets that are near to what is parsed: all that is served, and ways in which it can be wrong.
pub fn corpus() -> Vec<Vec<u8>> {
    let good = asked("a.example.org", 1, 1);
    let dnssec = opt(1232, 0x8000, &[]);
    let mut all = Vec::new();
    for name in [
        "a.example.org",
        "WwW.eXaMpLe.OrG",
        "nobody.example.org",
        "x.sub.example.org",
        "loop.example.org",
        "",
        "org",
    ] {
        for kind in [
            0, 1, 2, 5, 6, 15, 16, 28, 41, 43, 46, 47, 48, 128, 249, 250, 251, 252, 253, 254, 255, 256, 65535,
        ] {
            let question = asked(name, kind, 1);
            all.push(raw(0x0100, [1, 0, 0, 0], &[&question]));
            all.push(raw(0, [1, 0, 0, 1], &[&question, &dnssec]));
        }
    }
    for class in [0, 2, 3, 4, 254, 255, 65535] {
        all.push(raw(0, [1, 0, 0, 0], &[&asked("a.example.org", 1, class)]));
    }
    // The longest names of a key and of an algorithm: more than fits into an answer.
    let longest = ["a".repeat(62), "b".repeat(62), "c".repeat(62), "d".repeat(61)].join(".");
    all.push(raw(0, [1, 0, 0, 1], &[&good, &tsig_by(&longest, &longest, 0, &[])]));
    // All operations and all flags.
    all.extend((0..16).map(|operation| raw(operation << 11, [1, 0, 0, 0], &[&good])));
    all.extend((0..16).map(|bit| raw(1 << bit, [1, 0, 0, 0], &[&good])));
    // Names that never end, point to themselves, to one another, ahead, or into the header.
    let pointers: [&[u8]; 8] = [
        b"\xc0\x0c",
        b"\xc0\x0e\xc0\x0c",
        b"\xff\xff",
        b"\xc0\x00",
        b"\x01a\xc0\x0c",
        b"\xc0",
        b"\x3f",
        b"\x80\x01",
    ];
    all.extend(pointers.map(|name| raw(0, [1, 0, 0, 0], &[name, b"\0\x01\0\x01"])));
    let chain: Vec<u8> = (0..200u16).flat_map(|n| (0xc000 | (12 + 2 * (n + 1))).to_be_bytes()).collect();
    all.push(raw(0, [1, 0, 0, 0], &[&chain, b"\0\0\x01\0\x01"]));
    // Long names: the longest, one that is longer, the most labels.
    for (label, count) in [(63, 3), (63, 4), (1, 127), (1, 128), (62, 4)] {
        let labels: Vec<u8> = [&[label as u8][..], &vec![b'x'; label]].concat().repeat(count);
        all.push(raw(0, [1, 0, 0, 1], &[&labels, b"\0\0\x01\0\x01", &dnssec]));
        all.push(raw(
            0,
            [1, 0, 0, 1],
            &[&labels[..labels.len().min(240)], &asked("example.org", 1, 1), &dnssec],
        ));
    }
    // Counts that lie, and many questions.
    for counts in
        [[0; 4], [2, 0, 0, 0], [65535, 0, 0, 0], [1, 65535, 65535, 65535], [1, 0, 65535, 0], [0, 1, 0, 0]]
    {
        all.push(raw(0, counts, &[&good]));
        all.push(raw(0, counts, &[&good.repeat(300)]));
    }
    // EDNS: other versions, flags, sizes; options that are unknown, cut off, too long, twice; records of it twice, or elsewhere.
    let subnet: &[u8] = b"\0\x08\0\x07\0\x01\x18\0\xcb\0\x71";
    let options: [&[u8]; 9] = [
        b"\0\x03\0\0",
        b"\0\x0a\0\x08abcdefgh",
        b"\0\x08\0\0",
        b"\0\x08\xff\xff\0\x01",
        subnet,
        b"\0\x08\0\x08\0\x01\x21\0\xcb\0\x71\x01",
        b"\0\x08\0\x04\0\x09\0\0",
        b"\0\x0b\0\x02\0\x01",
        b"\0",
    ];
    for option in options {
        all.push(raw(0, [1, 0, 0, 1], &[&asked("www.example.org", 1, 1), &opt(4096, 0x8000, option)]));
    }
    for (payload, ttl) in
        [(0, 0), (511, 0), (65535, 0), (1232, 0xffff_ffff), (1232, 0x00ff_0000), (1232, 0xc000)]
    {
        all.push(raw(0, [1, 0, 0, 1], &[&good, &opt(payload, ttl, &[])]));
    }
    all.push(raw(0, [1, 0, 0, 2], &[&good, &dnssec, &dnssec]));
    all.push(raw(0, [1, 1, 0, 0], &[&good, &dnssec]));
    all.push(raw(0, [1, 0, 1, 0], &[&good, &dnssec]));
    // Transfers, with and without what they need; signatures that are none, cut short, too long, or not at the end.
    let soa = SOA::new(Name::root(), Name::root(), 1, 0, 0, 0, 0);
    let mut known = Vec::new();
    let record = Record::from_rdata(Name::from_ascii("example.net.").unwrap(), 0, RData::SOA(soa));
    record.emit(&mut BinEncoder::new(&mut known)).unwrap();
    for zone in ["example.org", "example.net", "example.com"] {
        for kind in [251, 252] {
            all.push(raw(0, [1, 0, 0, 0], &[&asked(zone, kind, 1)]));
            all.push(raw(0, [1, 0, 1, 1], &[&asked(zone, kind, 1), &known, &dnssec]));
            for (size, mac) in [(0, &[][..]), (32, &[7; 32]), (16, &[7; 16]), (65535, &[7; 32])] {
                for key in ["lb", "nobody"] {
                    all.push(raw(0, [1, 0, 0, 1], &[&asked(zone, kind, 1), &tsig(key, size, mac)]));
                    all.push(raw(0, [1, 0, 0, 2], &[&asked(zone, kind, 1), &tsig(key, size, mac), &dnssec]));
                }
            }
        }
    }
    all
}

/// Chance, the same for the same seed.
pub struct Dice(pub u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = mix(self.0);
        (self.0 % end.max(1) as u64) as usize
    }

    /// A packet of the corpus, changed a few times.
    pub fn packet(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut packet = corpus[self.below(corpus.len())].clone();
        for _ in 0..self.below(4) {
            let (at, other) = (self.below(packet.len()), self.below(corpus.len()));
            let Some(byte) = packet.get_mut(at) else { continue };
            match self.below(8) {
                0 => *byte ^= 1 << self.below(8),
                1 => *byte = [0, 1, 12, 63, 64, 0x7f, 0x80, 0xc0, 0xff][self.below(9)],
                2 => packet.truncate(at),
                3 => packet.extend_from_slice(&corpus[other][..self.below(corpus[other].len())]),
                4 => drop(packet.splice(at..at, corpus[other].iter().copied().skip(12).take(20))),
                5 => drop(packet.remove(at)),
                6 => packet.rotate_left(at.min(2)),
                _ => *byte = self.below(256) as u8,
            }
        }
        packet
    }
}

impl Server {
    /// What becomes of a packet; panics if it is not what holds for any.
    pub fn check(&self, packet: &[u8], transport: Transport, roll: u64) -> Outcome {
        let source: IpAddr = [127, 0, 0, (roll % 3) as u8 + 1].into();
        let Server { snapshot, signatures } = self;
        let now = Duration::from_secs(NOW);
        let around = Around { snapshot, source, transport, signatures, roll, now };
        let mut out = vec![1, 2, 3];
        let Reply { outcome, mut rest, .. } = respond(&around, packet, &mut out);
        let code = match outcome {
            Outcome::TooShort | Outcome::NotAQuestion => {
                assert!(out.is_empty() && rest.is_none());
                return outcome;
            }
            Outcome::Unwritable | Outcome::Limited { .. } => panic!("{outcome:?}"),
            Outcome::Answered { code, .. } => code,
            Outcome::BadSignature(_) => ResponseCode::NotAuth,
            Outcome::Transfer(_) => ResponseCode::NoError,
        };
        let most = if transport == Transport::Udp { usize::from(LARGEST_UDP) } else { usize::from(u16::MAX) };
        assert!((12..=most).contains(&out.len()), "{} bytes", out.len());
        let told = Message::from_vec(&out).expect("a message");
        assert_eq!(out[..2], packet[..2], "the id");
        assert_eq!(told.metadata.message_type, MessageType::Response);
        assert_eq!((out[2] ^ packet[2]) & 0x79, 0, "operation and RD are those of the question");
        assert_eq!(
            u16::from(code) & 15,
            u16::from(out[3]) & 15,
            "the code that is counted is the one that is sent"
        );
        let has_records = !told.answers.is_empty() || !told.authorities.is_empty();
        assert!(!(told.metadata.truncation && has_records), "what is cut off has no records");
        assert!(transport == Transport::Udp || !told.metadata.truncation);
        match told.queries.len() {
            // What could not be read.
            0 => {
                assert!(
                    matches!(code, ResponseCode::FormErr | ResponseCode::NotImp) && out.len() == 12,
                    "{code}"
                )
            }
            // A name may be anywhere, and be written in full in the answer.
            1 => assert!(
                packet[12] & 0xc0 != 0 || packet[12..].starts_with(&out[12..13]),
                "the question comes back"
            ),
            _ => panic!("more questions than were asked"),
        }
        if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
            assert!(!has_records, "{code} has no records");
        }
        let mut messages = 0;
        while let Some(transfer) = rest.as_mut().filter(|transfer| !transfer.is_over()) {
            assert_eq!(transport, Transport::Tcp);
            transfer.next(NOW, &mut out).expect("the next message");
            messages += 1;
            assert!(messages < 10, "the zones are small");
        }
        outcome
    }
}
