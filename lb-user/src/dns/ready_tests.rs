use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;

use super::*;
use crate::config;
use crate::dns::dnssec::sign::Signatures;
use crate::dns::rate::Limiter;
use crate::dns::snapshot::{Data, Observed, Orders};
use crate::dns::wire::Transport;

const CONFIG: &str = "
dns:
  listen: \"127.0.0.1:53\"
  rate_limit: {rate: 1}
  checks: {up: {type: tcp, port: 80}}
  zones:
    example.org:
      ns: [ns.example.net.]
      records: [static A 192.0.2.1, alias CNAME all, '*.wild TXT \"wild\"', sub NS ns.example.net.]
      names:
        all: {checks: up, members: [198.51.100.1, 198.51.100.2, 198.51.100.3]}
        more: {members: [192.0.2.11, 192.0.2.12, 192.0.2.13, 192.0.2.14, 192.0.2.15, 192.0.2.16]}
        few: {checks: up, members: [198.51.100.1, 198.51.100.2], policy: failover, answers: 1}
        drawn: {checks: up, members: [198.51.100.1, 198.51.100.2], policy: weighted, answers: 1}
        near: {policy: subnet, members: [198.51.100.1, {address: 198.51.100.2, subnets: [203.0.113.0/24]}]}
        same: {policy: hash, answers: 1, members: [198.51.100.1, 198.51.100.2, 198.51.100.3]}
";

/// All members work; one fails; two do; and as at first, with a limit of answers.
fn snapshots() -> Vec<Arc<Snapshot>> {
    let config = config::Config::parse("lb.yaml", CONFIG, "n").unwrap().dns.unwrap();
    let data = Arc::new(Data::new(&config).unwrap());
    let limiter = Arc::new(Limiter::new(config.rate_limit.unwrap(), Duration::ZERO));
    let watches = data.watches().len();
    let with = |failed: usize| {
        let seen = (0..watches).map(|number| Observed::of(Some(number >= failed), "")).collect();
        Snapshot::new(Arc::clone(&data), seen, &Orders::new(), false)
    };
    let mut limited = with(0);
    limited.limiter = Some(limiter);
    [with(0), with(1), with(2), limited].map(Arc::new).into()
}

fn packets() -> Vec<Vec<u8>> {
    let names = [
        "static", "STATIC", "alias", "all", "more", "few", "drawn", "near", "same", "x.wild", "nobody", "sub",
    ];
    let mut all = vec![Vec::new(), vec![7], vec![0; 12], [7; 300].into()];
    for name in
        names.map(|name| format!("{name}.example.org.")).iter().map(String::as_str).chain(["example.net."])
    {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::ANY, RecordType::TXT] {
            for edns in 0..3 {
                let mut message = Message::query();
                message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
                if edns > 0 {
                    let mut options = Edns::new();
                    if edns > 1 {
                        let subnet = ClientSubnet::new([203, 0, 113, 0].into(), 24, 0);
                        options.options_mut().insert(EdnsOption::Subnet(subnet));
                    }
                    message.set_edns(options);
                }
                all.push(message.to_vec().unwrap());
            }
        }
    }
    all
}

/// A thread that has been asked before, and one that answers each question anew.
struct Threads {
    snapshots: Vec<Arc<Snapshot>>,
    ready: Ready,
    signatures: Signatures,
}

impl Threads {
    fn new() -> Self {
        Threads { snapshots: snapshots(), ready: Ready::new(), signatures: Signatures::default() }
    }

    /// What both answer.
    fn ask(&mut self, of: usize, source: IpAddr, roll: u64, packet: &[u8]) -> [(Outcome, Vec<u8>); 2] {
        let snapshot = Arc::clone(&self.snapshots[of]);
        let (transport, now) = (Transport::Udp, Duration::ZERO);
        let around =
            Around { snapshot: &snapshot, source, transport, signatures: &self.signatures, roll, now };
        let (mut out, mut anew) = (vec![1], vec![2]);
        let outcome = self.ready.respond(&snapshot, &around, packet, &mut out);
        [(outcome, out), (respond(&around, packet, &mut anew).outcome, anew)]
    }

    /// How many answers are kept.
    fn kept(&self) -> usize {
        let places = self.ready.places.iter().filter(|place| place.edition == self.ready.edition);
        places.flat_map(|place| &place.answers).filter(|answer| answer.outcome.is_some()).count()
    }
}

proptest! {
    #[test]
    fn an_answer_that_is_ready_is_the_one_that_would_be_made(
        asked in prop::collection::vec((0usize..3, any::<bool>(), 0u64..6, any::<prop::sample::Index>(), any::<[u8; 2]>()), 1..400),
    ) {
        let (mut threads, packets) = (Threads::new(), packets());
        for (of, near, roll, packet, id) in asked {
            let source: IpAddr = if near { [203, 0, 113, 7] } else { [192, 0, 2, 200] }.into();
            let mut packet = packet.get(&packets).clone();
            packet.iter_mut().zip(id).for_each(|(byte, of_id)| *byte = of_id);
            // Runs of questions from one snapshot, or little would ever be ready.
            for roll in [roll, roll + 1, roll] {
                let [ready, anew] = threads.ask(of, source, roll, &packet);
                prop_assert_eq!(&ready, &anew, "{:?}", packet);
            }
        }
    }
}

#[test]
fn what_depends_on_the_client_on_draws_or_on_limits_is_not_kept() {
    let packet = |name: &str| {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message.to_vec().unwrap()
    };
    let kept = |of: usize, name: &str| {
        let mut threads = Threads::new();
        for roll in 0..12 {
            threads.ask(of, [192, 0, 2, 200].into(), roll, &packet(name));
        }
        threads.kept()
    };
    // The second failed member leaves one.
    assert_eq!([0, 1, 2, 3].map(|of| kept(of, "all.example.org.")), [3, 2, 1, 0]);
    let once = ["static.example.org.", "few.example.org.", "nobody.example.org.", "sub.example.org."];
    assert_eq!(once.map(|name| kept(0, name)), [1; 4]);
    let never = ["drawn", "near", "same", "more"].map(|name| format!("{name}.example.org."));
    assert_eq!(never.map(|name| kept(0, &name)), [0; 4]);
    assert_eq!(kept(0, "example.net."), 0, "nobody's floods displace what is ready");
}
