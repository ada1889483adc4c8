use std::net::Ipv4Addr;

use super::*;
use crate::config;
use crate::dns::snapshot::{Data, Observed, Order};
use crate::leave::sequence::Stage;
use crate::leave::status::LeavingStatus;
use crate::peers::view::Peer;
use crate::peers::{Contact, Report};

const CONFIG: &str = "
dns:
  listen: \"127.0.0.1:53\"
  checks: {web: {type: tcp, port: 80}}
  zones:
    example.org:
      ns: [ns.example.net.]
      records: [\"old 300 A 198.51.100.9\"]
      names:
        www: {ttl: 30, checks: [web], members: [198.51.100.1, 198.51.100.2]}
        first: {ttl: 60, policy: failover, checks: [web], members: [198.51.100.2, 198.51.100.1]}
        spare: {ttl: 90, checks: [web], members: [198.51.100.2], all_down: fallback, fallback: [198.51.100.1]}
";

fn vip(last: u8) -> Vip {
    [198, 51, 100, last].into()
}

struct World {
    config: crate::dns::Config,
    data: Arc<Data>,
    /// VIPs that do not leave, or leave, or fail.
    seen: [Observed; 2],
    orders: Orders,
    status: Status,
    peers: PeersView,
    departures: Departures,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let config = config::Config::parse("lb.yaml", CONFIG, "n").unwrap().dns.unwrap();
        let data = Arc::new(Data::new(&config).unwrap());
        World {
            config,
            data,
            seen: [1, 2].map(|_| Observed::of(Some(true), "")),
            orders: Orders::new(),
            status: Status::default(),
            peers: PeersView::new(),
            departures: Departures::default(),
            now: Instant::now(),
        }
    }

    /// A node's report.
    fn hears(&mut self, number: u8, announced: &[Vip], leaving: &[Vip]) {
        let report = Report {
            node: format!("lb4-{number}"),
            instance: number.into(),
            announced: announced.iter().copied().collect(),
            leaving: leaving.iter().copied().collect(),
            ..Report::default()
        };
        let url = format!("http://192.0.2.{number}:7400").parse().unwrap();
        self.peers.insert(url, Peer { report: Some(Arc::new(report)), contact: Contact::Fresh });
    }

    fn leaves(&mut self, last: usize, leaving: bool) {
        self.seen[last - 1].leaving = leaving;
    }

    /// What is said after so many milliseconds.
    fn after(&mut self, millis: u64, sinks: &[SinkStatus]) -> BTreeMap<Vip, Word> {
        self.now += Duration::from_millis(millis);
        let snapshot = Snapshot::new(Arc::clone(&self.data), self.seen.clone().into(), &self.orders, false);
        let facts = Facts {
            zones: &self.config.zones,
            snapshot: &snapshot,
            orders: &self.orders,
            status: &self.status,
            peers: &self.peers,
        };
        self.departures.look(&facts, self.now);
        self.departures.words(sinks, self.now)
    }
}

fn names(word: &Word) -> Vec<&str> {
    word.names.iter().map(|name| name.trim_end_matches(".example.org.")).collect()
}

#[test]
fn a_vip_is_told_where_it_is_answered_and_since_when_it_is_not() {
    let mut world = World::new();
    assert!(world.after(0, &[]).is_empty());
    world.hears(1, &[vip(1)], &[vip(1)]);
    let told = world.after(0, &[]);
    assert_eq!(names(&told[&vip(1)]), ["www"], "it stands behind another one elsewhere");
    assert_eq!(
        (told[&vip(1)].ttl_ms, told[&vip(1)].out_for_ms),
        (90_000, 0),
        "as a fallback it may come, too"
    );
    world.leaves(1, true);
    assert_eq!(world.after(500, &[])[&vip(1)].out_for_ms, 0);
    assert_eq!(world.after(2900, &[])[&vip(1)].out_for_ms, 2000, "news once a second");
    // The other one fails: what leaves is answered again, and the count begins anew.
    world.seen[1] = Observed::of(Some(false), "");
    let told = world.after(1000, &[]);
    assert_eq!((names(&told[&vip(1)]), told[&vip(1)].out_for_ms), (vec!["first", "spare", "www"], 0));
    world.seen[1] = Observed::of(Some(true), "");
    assert_eq!(world.after(1000, &[])[&vip(1)].out_for_ms, 0);
    assert_eq!(
        world.after(95_000, &[])[&vip(1)].out_for_ms,
        90_000,
        "no news when resolvers have forgotten it"
    );
}

#[test]
fn it_is_remembered_since_when_it_is_out_while_the_agent_of_its_node_starts() {
    let mut world = World::new();
    world.hears(1, &[vip(1)], &[vip(1)]);
    world.leaves(1, true);
    world.after(0, &[]);
    world.hears(1, &[], &[]);
    world.leaves(1, false);
    world.seen[0] = Observed::of(Some(false), "announced by 0");
    assert_eq!(world.after(40_000, &[])[&vip(1)].out_for_ms, 40_000);
    world.hears(1, &[vip(1)], &[vip(1)]);
    assert_eq!(world.after(40_000, &[])[&vip(1)].out_for_ms, 80_000);
    // One that has returned is spoken of no more.
    world.hears(1, &[vip(1)], &[]);
    world.seen[0] = Observed::of(Some(true), "");
    assert!(world.after(1000, &[]).is_empty());
}

#[test]
fn records_that_follow_nothing_are_answered_for_ever() {
    let mut world = World::new();
    world.hears(1, &[vip(9)], &[vip(9)]);
    let told = world.after(1000, &[]);
    assert_eq!((names(&told[&vip(9)]), told[&vip(9)].ttl_ms), (vec!["old"], 300_000));
    // And what no name has is out at once.
    world.hears(1, &[vip(8)], &[vip(8)]);
    let leaves = BTreeSet::from(["lb4-1".to_owned()]);
    assert_eq!(world.after(1000, &[])[&vip(8)], Word { leaves, ..Word::default() });
}

#[test]
fn sinks_that_have_not_got_the_change_are_waited_for() {
    let sink = |in_step, lag_ms| SinkStatus { name: "bind".into(), in_step, lag_ms, ..SinkStatus::default() };
    let mut world = World::new();
    world.hears(1, &[vip(1)], &[vip(1)]);
    world.leaves(1, true);
    world.after(0, &[sink(true, 0)]);
    assert_eq!(world.after(100, &[sink(false, 100)])[&vip(1)].behind, ["bind".to_owned()].into());
    assert_eq!(world.after(5000, &[sink(false, 5100)])[&vip(1)].behind.len(), 1);
    let told = &world.after(100, &[sink(true, 0)])[&vip(1)];
    assert_eq!((told.behind.len(), told.out_for_ms), (0, 0));
    // Later it is behind with something else.
    let later = world.after(20_000, &[sink(false, 100)]);
    assert_eq!((later[&vip(1)].behind.len(), later[&vip(1)].out_for_ms), (0, 20_000));
    let standby = SinkStatus { standby: true, ..sink(false, 90_000) };
    assert_eq!(world.after(0, &[standby])[&vip(1)].behind.len(), 0);
}

#[test]
fn others_that_announce_it_are_counted_and_those_that_it_leaves_are_not() {
    let mut world = World::new();
    let others = |world: &mut World| world.after(0, &[])[&vip(1)].others;
    world.hears(1, &[vip(1)], &[vip(1)]);
    assert_eq!(others(&mut world), 0);
    world.hears(2, &[vip(1)], &[]);
    assert_eq!(others(&mut world), 1);
    world.hears(2, &[vip(1)], &[vip(1)]);
    assert_eq!(others(&mut world), 0);
    let both = BTreeSet::from(["lb4-1".to_owned(), "lb4-2".to_owned()]);
    assert_eq!(world.after(0, &[])[&vip(1)].leaves, both);
}

#[test]
fn what_leaves_this_very_node_and_what_the_operator_takes_out_here_is_told_as_well() {
    let mut world = World::new();
    world.status.leaving.push(LeavingStatus {
        vip: vip(2),
        stage: Stage::Answers,
        announced: true,
        waits_for: Vec::new(),
        stuck: false,
        packets_per_second: None,
    });
    let address = Ipv4Addr::new(198, 51, 100, 1).into();
    world.orders.insert((address, Some("www.example.org.".into())), Order::Drain);
    let told = world.after(0, &[]);
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), [vip(1), vip(2)]);
    assert_eq!(names(&told[&vip(1)]), Vec::<&str>::new());
    assert_eq!((told[&vip(1)].ordered, told[&vip(2)].ordered), (true, false));
    world.orders.clear();
    assert_eq!(world.after(1, &[]).keys().copied().collect::<Vec<_>>(), [vip(2)]);
}
