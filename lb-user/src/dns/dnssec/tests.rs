use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use hickory_proto::dnssec::Verifier;
use hickory_proto::dnssec::rdata::{DNSSECRData, RRSIG};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use std::time::Duration;

use super::sign::Signatures;
use super::*;
use crate::config::Config;
use crate::dns::snapshot::{Data, Orders, Snapshot};
use crate::dns::wire::{Around, Transport, respond};

const NOW: u64 = 1_795_000_000;

const ZONE: &str = "
dns:
  listen: \"127.0.0.1:53\"
  zones:
    example.org:
      ns: [ns.example.net.]
      dnssec: KEYS
      records:
        - \"@ MX 10 Mail\"
        - mail A 192.0.2.25
        - alias CNAME www
        - far CNAME www.example.net.
        - ghost CNAME nobody
        - '*.w TXT \"wild\"'
        - deep.er A 192.0.2.1
        - sub NS ns.example.net.
        - safe NS ns.example.net.
        - safe DS 12345 13 2 AE2D0C3BBD0E4C9C8CF8EEFFA4D1C92C30B2DBB1B9C6F0CF0C71E2C1B9B2A4F1
      names:
        www: {ttl: 20, members: [198.51.100.1, 198.51.100.2]}
";

struct World {
    _folder: tempfile::TempDir,
    snapshot: Snapshot,
    signatures: Signatures,
    keys: Vec<DNSKEY>,
}

fn world(keys: usize) -> World {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<_> = (0..keys).map(|n| folder.path().join(format!("{n}.pem"))).collect();
    files.iter().for_each(|file| ZoneKey::make(file).unwrap());
    let list = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    let text = ZONE.replace("KEYS", &format!("[{list}]"));
    let config = Config::parse("lb.yaml", &text, "n").unwrap().dns.unwrap();
    let keys = config.zones[0].keys.iter().map(|key| key.public.clone()).collect();
    let snapshot =
        Snapshot::new(Arc::new(Data::new(&config).unwrap()), Default::default(), &Orders::new(), false);
    World { _folder: folder, snapshot, signatures: Signatures::default(), keys }
}

impl World {
    fn ask_with(&self, name: &str, kind: RecordType, flags: Option<u16>, now: u64, roll: u64) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        if let Some(flags) = flags {
            let mut edns = Edns::new();
            edns.set_max_payload(1232);
            edns.flags_mut().dnssec_ok = true;
            edns.flags_mut().z = flags;
            message.set_edns(edns);
        }
        let around = Around {
            snapshot: &self.snapshot,
            source: [127, 0, 0, 1].into(),
            transport: Transport::Udp,
            signatures: &self.signatures,
            roll,
            now: Duration::from_secs(now),
        };
        let mut out = Vec::new();
        respond(&around, &message.to_vec().unwrap(), &mut out);
        assert!(out.len() <= 1232, "{} bytes", out.len());
        Message::from_vec(&out).unwrap()
    }

    fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.ask_with(name, kind, Some(0), NOW, 0)
    }

    /// What is signed in a section, every set of which must have a good signature by the first key, but for `NS`.
    fn signed(&self, records: &[Record]) -> Vec<String> {
        let mut told = Vec::new();
        for record in records.iter().filter(|record| record.record_type() != RecordType::RRSIG) {
            let kind = record.record_type();
            told.push(format!("{} {kind}", record.name));
            let set: Vec<&Record> =
                records.iter().filter(|r| r.name == record.name && r.record_type() == kind).collect();
            let signature = signatures(records)
                .into_iter()
                .find(|(name, rrsig)| *name == record.name && rrsig.input().type_covered == kind);
            if kind == RecordType::NS {
                assert!(signature.is_none(), "that of a delegation is not signed");
                continue;
            }
            let (name, rrsig) = signature.unwrap_or_else(|| panic!("{record} is not signed"));
            assert_eq!(rrsig.input().num_labels, name.num_labels());
            self.keys[0].verify_rrsig(&name, DNSClass::IN, &rrsig, set.into_iter()).unwrap();
        }
        told.dedup();
        told
    }
}

fn signatures(records: &[Record]) -> Vec<(Name, RRSIG)> {
    let signature = |record: &Record| match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(rrsig)) => Some((record.name.clone(), rrsig.clone())),
        _ => None,
    };
    records.iter().filter_map(signature).collect()
}

fn nsec(message: &Message) -> String {
    let found = message.authorities.iter().find(|record| record.record_type() == RecordType::NSEC);
    found.map(ToString::to_string).unwrap_or_default()
}

#[test]
fn every_set_of_an_answer_has_a_signature_that_verifies() {
    let world = world(1);
    let answers = [
        ("example.org.", RecordType::SOA, "example.org. SOA"),
        ("Example.ORG.", RecordType::MX, "Example.ORG. MX"),
        ("mail.example.org.", RecordType::A, "mail.example.org. A"),
        ("WwW.example.org.", RecordType::A, "WwW.example.org. A"),
        ("x.y.w.example.org.", RecordType::TXT, "x.y.w.example.org. TXT"),
        ("*.w.example.org.", RecordType::TXT, "*.w.example.org. TXT"),
        ("alias.example.org.", RecordType::A, "alias.example.org. CNAME, www.example.org. A"),
        ("far.example.org.", RecordType::A, "far.example.org. CNAME"),
        ("www.example.org.", RecordType::ANY, "www.example.org. HINFO"),
        ("example.org.", RecordType::DNSKEY, "example.org. DNSKEY"),
        ("example.org.", RecordType::CDS, "example.org. CDS"),
        ("example.org.", RecordType::CDNSKEY, "example.org. CDNSKEY"),
        ("safe.example.org.", RecordType::DS, "safe.example.org. DS"),
    ];
    for (name, kind, expected) in answers {
        let told = world.ask(name, kind);
        assert_eq!(told.metadata.response_code, ResponseCode::NoError, "{name} {kind}");
        assert_eq!(world.signed(&told.answers).join(", "), expected, "{name} {kind}");
        assert!(told.edns.unwrap().flags().dnssec_ok);
        let plain = world.ask_with(name, kind, None, NOW, 0);
        assert_eq!(signatures(&plain.answers), [], "nobody asked for them");
    }
}

#[test]
fn what_is_not_there_is_denied_by_one_record() {
    let world = world(1);
    let denied = [
        (
            "nobody.example.org.",
            RecordType::A,
            "nobody.example.org. 60 IN NSEC \\000.nobody.example.org. RRSIG NSEC Unknown",
        ),
        (
            "www.example.org.",
            RecordType::TXT,
            "www.example.org. 60 IN NSEC \\000.www.example.org. A AAAA RRSIG NSEC",
        ),
        (
            "www.example.org.",
            RecordType::AAAA,
            "www.example.org. 60 IN NSEC \\000.www.example.org. A RRSIG NSEC",
        ),
        ("er.example.org.", RecordType::A, "er.example.org. 60 IN NSEC \\000.er.example.org. RRSIG NSEC"),
        (
            "X.w.example.org.",
            RecordType::A,
            "x.w.example.org. 60 IN NSEC \\000.x.w.example.org. TXT RRSIG NSEC",
        ),
        (
            "ghost.example.org.",
            RecordType::A,
            "nobody.example.org. 60 IN NSEC \\000.nobody.example.org. RRSIG NSEC Unknown",
        ),
        (
            "sub.example.org.",
            RecordType::DS,
            "sub.example.org. 60 IN NSEC \\000.sub.example.org. NS RRSIG NSEC",
        ),
    ];
    for (name, kind, expected) in denied {
        let told = world.ask(name, kind);
        assert_eq!((told.metadata.response_code, nsec(&told).as_str()), (ResponseCode::NoError, expected));
        assert_eq!(world.signed(&told.authorities).len(), 2, "SOA and NSEC");
        world.signed(&told.answers);
    }
    // Those who know what it means get the code as well; so do those who do not verify.
    let knows = world.ask_with("nobody.example.org.", RecordType::A, Some(0x4000), NOW, 0);
    assert_eq!(knows.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(knows.edns.as_ref().unwrap().flags().z, 0x4000);
    let plain = world.ask_with("nobody.example.org.", RecordType::A, None, NOW, 0);
    assert_eq!((plain.metadata.response_code, plain.authorities.len()), (ResponseCode::NXDomain, 1));
    assert_eq!(
        world.ask("x.example.org.", RecordType::Unknown(128)).metadata.response_code,
        ResponseCode::FormErr
    );
}

#[test]
fn delegations_say_whether_the_zone_below_is_signed() {
    let world = world(1);
    let unsigned = world.ask("x.sub.example.org.", RecordType::A);
    assert_eq!(world.signed(&unsigned.authorities), ["sub.example.org. NS", "sub.example.org. NSEC"]);
    assert!(nsec(&unsigned).ends_with(" NS RRSIG NSEC"));
    let signed = world.ask("x.safe.example.org.", RecordType::A);
    assert_eq!(world.signed(&signed.authorities), ["safe.example.org. NS", "safe.example.org. DS"]);
    assert!(!signed.metadata.authoritative);
}

#[test]
fn signatures_are_kept_renewed_in_time_and_those_of_another_order_are_the_same() {
    let world = world(1);
    let at = |seconds: u64, roll| {
        let told = world.ask_with("www.example.org.", RecordType::A, Some(0), NOW + seconds, roll);
        signatures(&told.answers).remove(0).1
    };
    let day = 24 * 3600;
    let first = at(0, 0);
    assert_eq!(first, at(10, 1), "the addresses begin with another one");
    assert_eq!(first, at(2 * day, 0));
    let renewed = at(3 * day + 1, 0);
    assert_ne!(first, renewed);
    let ends = first.input().sig_expiration.get() as u64;
    assert!(ends > NOW + 7 * day && ends <= NOW + 8 * day, "good for days after it was renewed");
    assert!(u64::from(first.input().sig_inception.get()) <= NOW - 3600, "clocks may be behind");
}

#[test]
fn made_up_names_do_not_make_it_forget_what_is_used_nor_grow() {
    let world = world(1);
    let ask = |name: &str| signatures(&world.ask(name, RecordType::TXT).answers).remove(0).1;
    let used = ask("used.w.example.org.");
    for number in 0..40_000 {
        // A denial and a SOA record each; the latter is always the same.
        world.ask(&format!("x{number}.example.org."), RecordType::A);
        if number % 1000 == 0 {
            assert_eq!(ask("used.w.example.org."), used);
        }
    }
    assert!(world.signatures.count() <= 2 * 8192, "{}", world.signatures.count());
}

#[test]
fn all_keys_vouch_for_one_another_and_the_first_signs_the_rest() {
    let world = world(2);
    let of = |kind| {
        signatures(&world.ask("example.org.", kind).answers).into_iter().map(|(_, s)| s.input().key_tag)
    };
    let tags: Vec<u16> = world.keys.iter().map(|key| key.calculate_key_tag().unwrap()).collect();
    assert!(of(RecordType::DNSKEY).eq(tags.iter().copied()));
    assert!(of(RecordType::MX).eq([tags[0]]));
}

#[test]
fn a_key_has_a_file_of_its_own_that_others_cannot_read_and_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deep/example.org.pem");
    ZoneKey::make(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let key = ZoneKey::read(&file).unwrap();
    assert_eq!(ZoneKey::make(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(ZoneKey::read(&file).unwrap(), key);
    assert!(!format!("{key:?}").contains("EcdsaKeyPair"), "the secret is nobody's business");
    fs::write(&file, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
    assert!(
        ZoneKey::read(&file)
            .unwrap_err()
            .contains("not an ECDSA P-256 key in PEM; make one with `lb dns key`")
    );
    assert!(ZoneKey::read(folder.path().join("none").as_path()).unwrap_err().contains("cannot be read"));
}
