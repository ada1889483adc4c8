//! What parts of an answer cost: `cargo bench -p lb-user --bench answers`. Figures, no judgement.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{LowerName, Name, RecordType};
use lb_user::config::Config;
use lb_user::dns::dnssec::ZoneKey;
use lb_user::dns::dnssec::sign::Signatures;
use lb_user::dns::rate::{Limiter, RateConfig};
use lb_user::dns::snapshot::{Data, Orders, Snapshot};
use lb_user::dns::wire::{Around, Transport, respond};

/// The time since 1970.
const NOW: Duration = Duration::from_secs(1_795_000_000);

const ZONE: &str = "
dns:
  listen: \"127.0.0.1:53\"
  zones:
    example.org:
      ns: [ns.example.net.]
      dnssec: KEY
      names:
        www: {ttl: 20, members: [198.51.100.1, 198.51.100.2]}
";

fn main() {
    counting();
    signing();
}

fn time(what: &str, count: u32, mut work: impl FnMut(u32)) {
    let begun = Instant::now();
    (0..count).for_each(&mut work);
    println!("figure: {what} in {:?}", begun.elapsed() / count);
}

/// The limit takes part in every answer by UDP.
fn counting() {
    let window = Duration::from_secs(5);
    let config = RateConfig { rate: 10, window, slip: 2, prefix4: 24, prefix6: 56, exempt: Vec::new() };
    let limiter = Limiter::new(config, NOW);
    let about: LowerName = "www.example.org.".parse().expect("a name");
    time("an answer is counted", 1_000_000, |number| {
        let client = Ipv4Addr::from_bits(0x0a00_0000 + ((number % 50_000) << 8));
        limiter.judge(client.into(), ResponseCode::NoError, Some(&about), NOW, u64::from(number));
    });
}

/// What signing costs, and what keeping signatures saves.
fn signing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key.pem");
    ZoneKey::make(&file).expect("a key");
    let text = ZONE.replace("KEY", &file.display().to_string());
    let config = Config::parse("lb.yaml", &text, "node").expect("a configuration").dns.expect("its section");
    let data = Arc::new(Data::new(&config).expect("zones"));
    let snapshot = Snapshot::new(data, Default::default(), &Orders::new(), false);
    let signatures = Signatures::default();
    let ask = |name: &str, is_signed: bool| {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
        if is_signed {
            let mut edns = Edns::new();
            edns.set_max_payload(1232);
            edns.flags_mut().dnssec_ok = true;
            message.set_edns(edns);
        }
        let around = Around {
            snapshot: &snapshot,
            source: Ipv4Addr::LOCALHOST.into(),
            transport: Transport::Udp,
            signatures: &signatures,
            roll: 0,
            now: NOW,
        };
        let mut out = Vec::new();
        respond(&around, &message.to_vec().expect("a packet"), &mut out);
        assert!(!out.is_empty());
    };
    time("an answer with a signature that is kept", 5000, |_| ask("www.example.org.", true));
    let made_up = |number| ask(&format!("x{number}.example.org."), true);
    time("an answer whose denial is made up and signed", 2000, made_up);
    time("the same without signatures", 5000, |_| ask("www.example.org.", false));
}
