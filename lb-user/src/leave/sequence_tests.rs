use std::sync::Arc;

use proptest::prelude::*;

use super::super::order::parse;
use super::super::word::Word;
use super::*;
use crate::peers::view::Peer;
use crate::peers::{Contact, PeerUrl};

fn vip() -> Vip {
    [198, 51, 100, 1].into()
}

fn url() -> PeerUrl {
    "http://192.0.2.53:7400".parse().unwrap()
}

/// A node with one VIP and one name server, to which things happen.
struct World {
    config: Config,
    order: Order,
    announced: Option<bool>,
    word: Option<Word>,
    heard: bool,
    counted: Option<Counted>,
    now: Instant,
    sequences: Sequences,
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl World {
    fn new(order: &str) -> Self {
        World {
            config: Config { name_servers: [url()].into(), hold: seconds(3), ..Config::default() },
            order: parse(order).0,
            announced: Some(true),
            word: None,
            heard: true,
            counted: None,
            now: Instant::now(),
            sequences: Sequences::new(),
        }
    }

    fn says(&mut self, names: &[&str], out_for_ms: u64) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        self.word = Some(Word {
            leaves: ["lb4-1".to_owned()].into(),
            names,
            out_for_ms,
            ttl_ms: 5000,
            ..Word::default()
        });
    }

    fn look(&self) -> Sequences {
        let vips = self.word.iter().map(|word| (vip(), word.clone())).collect();
        let said = Leaving { node: "ns".into(), instance: 1, vips };
        let lost = Contact::Lost { since: self.now, reason: "refused".into() };
        let contact = if self.heard { Contact::Fresh } else { lost };
        next(
            &self.sequences,
            &Facts {
                node: "lb4-1",
                config: &self.config,
                order: &self.order,
                vips: &[vip(), [198, 51, 100, 2].into()].into(),
                announced: &|_| self.announced,
                words: &[(url(), Peer { report: Some(Arc::new(said)), contact })].into(),
                counted: self.counted.as_ref(),
                now: self.now,
            },
        )
    }

    /// So many seconds go by, in each of which so many packets come.
    fn go(&mut self, for_seconds: u64, packets: u64) -> Option<Stage> {
        for _ in 0..for_seconds.max(1) {
            if for_seconds > 0 {
                self.now += seconds(1);
                let packets = [(vip(), packets)].into();
                self.counted = Some(Counted { at: self.now, over: seconds(1), packets });
            }
            self.sequences = self.look();
        }
        self.sequences.get(&vip()).map(|sequence| sequence.stage)
    }

    fn waits_for(&self) -> String {
        self.sequences[&vip()].waits_for.join("; ")
    }
}

#[test]
fn answers_first_then_packets_then_the_route() {
    let mut world = World::new("198.51.100.1\n");
    assert_eq!(world.go(1, 90), Some(Stage::Answers));
    assert!(world.waits_for().contains("has not heard that it leaves"), "{}", world.waits_for());
    world.says(&["www.example.org."], 0);
    assert_eq!(world.go(100, 90), Some(Stage::Answers));
    world.says(&[], 4000);
    assert_eq!(world.go(1, 90), Some(Stage::Answers));
    assert_eq!(world.waits_for(), "ns (http://192.0.2.53:7400): out for 4 s of 5 s");
    world.says(&[], 5000);
    assert_eq!(world.go(1, 0), Some(Stage::Falling), "what was before does not count");
    assert_eq!(world.go(2, 0), Some(Stage::Falling));
    assert_eq!(world.waits_for(), "fewer than 1 packets/s for 2 s of 3s");
    assert_eq!(world.go(1, 1), Some(Stage::Falling));
    assert_eq!(world.sequences[&vip()].packets_per_second, Some(1));
    assert_eq!(world.go(2, 0), Some(Stage::Falling));
    assert_eq!(world.go(1, 0), Some(Stage::Withdrawn));
    assert_eq!(world.sequences.len(), 1, "the other one stays");
    // What has left stays away, whatever is said, until the order ends.
    world.says(&["www.example.org."], 0);
    assert_eq!(world.go(10, 90), Some(Stage::Withdrawn));
    world.order = Order::default();
    assert_eq!(world.go(0, 0), None);
}

#[test]
fn a_name_server_that_is_lost_holds_it_at_any_time_unless_forced() {
    let mut world = World::new("198.51.100.1\n");
    world.says(&[], 5000);
    assert_eq!(world.go(3, 0), Some(Stage::Falling));
    world.heard = false;
    assert_eq!(world.go(10, 0), Some(Stage::Answers));
    assert_eq!(world.waits_for(), "http://192.0.2.53:7400 is not heard: refused");
    world.order = parse("198.51.100.1 force\n").0;
    assert_eq!(world.go(3, 0), Some(Stage::Falling), "packets are still waited for");
    assert_eq!(world.go(1, 0), Some(Stage::Withdrawn));
}

#[test]
fn one_that_does_not_fall_stays_announced_and_is_said_to_be_stuck() {
    let mut world = World::new("*\n");
    world.config.wait = seconds(20);
    world.says(&[], 5000);
    world.go(20, 7);
    assert!(!world.sequences[&vip()].stuck);
    assert_eq!(world.go(1, 7), Some(Stage::Falling));
    assert!(world.sequences[&vip()].stuck);
    world.order = parse("* now\n").0;
    assert_eq!(world.go(0, 0), Some(Stage::Withdrawn));
    assert!(!world.sequences[&vip()].stuck);
    assert_eq!(world.waits_for(), "", "what has left waits for nothing");
}

#[test]
fn packets_that_are_not_counted_are_not_taken_for_none() {
    let mut world = World::new("*\n");
    world.says(&[], 5000);
    world.go(0, 0);
    for _ in 0..20 {
        world.now += seconds(1);
        world.counted = Some(Counted { at: world.now, over: seconds(1), packets: BTreeMap::new() });
        assert_eq!(world.go(0, 0), Some(Stage::Falling));
    }
    // The same for a count that has come to a stop.
    world.counted = Some(Counted { at: world.now, over: seconds(1), packets: [(vip(), 0)].into() });
    for _ in 0..20 {
        world.now += seconds(1);
        assert_eq!(world.go(0, 0), Some(Stage::Falling));
    }
}

#[test]
fn an_agent_that_starts_announces_nothing_that_has_left_and_goes_on_with_the_rest() {
    let mut world = World::new("*\n");
    world.says(&[], 5000);
    world.announced = None;
    assert_eq!(world.go(5, 0), None, "not known yet");
    world.announced = Some(false);
    assert_eq!(world.go(1, 0), Some(Stage::Withdrawn));
    let mut world = World::new("*\n");
    world.says(&[], 5000);
    assert_eq!(world.go(1, 0), Some(Stage::Falling), "name servers know since when it is out");
    // One that cannot be served meanwhile does not come back.
    world.announced = Some(false);
    world.go(1, 0);
    world.announced = Some(true);
    assert_eq!(world.go(1, 90), Some(Stage::Withdrawn));
}

#[test]
fn without_name_servers_the_ttl_has_to_pass() {
    let mut world = World::new("*\n");
    world.config.name_servers.clear();
    world.config.ttl = seconds(5);
    assert_eq!(world.go(5, 0), Some(Stage::Answers));
    assert_eq!(world.waits_for(), "resolvers: 4 s of 5 s");
    assert_eq!(world.go(1, 0), Some(Stage::Falling));
}

#[test]
fn a_vip_that_others_announce_is_withdrawn_at_once() {
    let mut world = World::new("*\n");
    world.says(&["www.example.org."], 0);
    world.word.as_mut().unwrap().others = 1;
    assert_eq!(world.go(1, 90), Some(Stage::Withdrawn));
}

/// Whoever is answered again begins anew: with what is counted, and with the time after which it is stuck.
#[test]
fn one_that_is_answered_again_begins_anew() {
    let mut world = World::new("*\n");
    world.config.wait = seconds(8);
    world.says(&[], 5000);
    assert_eq!(world.go(3, 0), Some(Stage::Falling), "two of three seconds");
    world.says(&["www"], 0);
    assert_eq!(world.go(7, 0), Some(Stage::Answers));
    assert!(!world.sequences[&vip()].stuck);
    assert_eq!(world.go(2, 0), Some(Stage::Answers));
    assert!(world.sequences[&vip()].stuck, "eight seconds of answers");
    world.says(&[], 5000);
    assert_eq!(world.go(1, 7), Some(Stage::Falling));
    assert_eq!(world.go(7, 7), Some(Stage::Falling));
    assert!(!world.sequences[&vip()].stuck);
    assert_eq!(world.go(1, 7), Some(Stage::Falling));
    assert!(world.sequences[&vip()].stuck);
    assert_eq!(world.go(2, 0), Some(Stage::Falling));
    assert_eq!(world.go(1, 0), Some(Stage::Withdrawn));
    assert!(!world.sequences[&vip()].stuck && world.sequences[&vip()].waits_for.is_empty());
}

/// Only the part of a count that is after the last answer tells that nobody comes any more.
#[test]
fn a_count_counts_from_the_moment_that_it_falls() {
    let mut world = World::new("*\n");
    world.says(&[], 5000);
    let start = world.now;
    let mut look = |after: u64, count: Option<(u64, u64, u64)>| {
        world.now = start + seconds(after);
        world.counted = count.map(|(at, over, packets)| Counted {
            at: start + seconds(at),
            over: seconds(over),
            packets: [(vip(), packets)].into(),
        });
        world.sequences = world.look();
        let sequence = &world.sequences[&vip()];
        (sequence.stage, sequence.waits_for.join("; "), sequence.packets_per_second)
    };
    let falling = |text: &str, packets| (Stage::Falling, text.to_owned(), packets);
    assert_eq!(look(10, None), falling("packets are not counted yet", None));
    // From before it fell, up to the very moment: says nothing.
    assert_eq!(look(10, Some((10, 5, 0))), falling("fewer than 1 packets/s, for 3s", Some(0)));
    // From before it fell until after: only what is after.
    assert_eq!(look(12, Some((12, 9, 0))), falling("fewer than 1 packets/s for 2 s of 3s", Some(0)));
    assert_eq!(look(12, Some((12, 9, 9))), falling("fewer than 1 packets/s, for 3s", Some(1)));
    assert_eq!(look(14, Some((14, 1, 0))), falling("fewer than 1 packets/s for 1 s of 3s", Some(0)));
    assert_eq!(look(15, Some((15, 1, 0))), falling("fewer than 1 packets/s for 2 s of 3s", Some(0)));
    assert_eq!(look(15, Some((15, 1, 0))), falling("fewer than 1 packets/s for 2 s of 3s", Some(0)));
    assert_eq!(look(16, Some((16, 1, 0))), (Stage::Withdrawn, String::new(), Some(0)));
}

#[test]
fn a_vip_that_is_not_of_this_node_or_not_ordered_has_no_place() {
    let mut world = World::new("198.51.100.2\n198.51.100.9\n");
    world.go(1, 0);
    let known: Vec<_> = world.sequences.keys().copied().collect();
    assert_eq!(known, [[198, 51, 100, 2].into()]);
}

#[test]
fn rates_are_rounded_up_and_an_empty_interval_has_one() {
    let counted = |over_ms: u64, packets: u64| Counted {
        at: Instant::now(),
        over: Duration::from_millis(over_ms),
        packets: [(vip(), packets)].into(),
    };
    let rates = [(1000, 0), (1000, 1), (2000, 3), (500, 3), (0, 2)];
    assert_eq!(
        rates.map(|(over, packets)| counted(over, packets).per_second(vip())),
        [0, 1, 2, 6, 2000].map(Some)
    );
    // Below, not at.
    assert!(counted(2000, 3).is_below(vip(), 2) && !counted(2000, 4).is_below(vip(), 2));
    assert!(counted(500, 0).is_below(vip(), 1) && !counted(500, 1).is_below(vip(), 2));
    let empty = Counted::between(None, &Totals { at: Instant::now(), packets: [(vip(), 3)].into() });
    assert_eq!((empty.over, empty.packets.len()), (Duration::ZERO, 0));
}

#[test]
fn a_count_that_is_new_or_fell_is_none() {
    let at = Instant::now();
    let totals = |at, packets: u64| Totals { at, packets: [(vip(), packets)].into() };
    let later = at + seconds(2);
    let counted = |before: Option<&Totals>, packets| Counted::between(before, &totals(later, packets));
    assert_eq!(counted(Some(&totals(at, 5)), 12).per_second(vip()), Some(4));
    assert!(counted(Some(&totals(at, 5)), 12).is_below(vip(), 4));
    assert!(!counted(Some(&totals(at, 5)), 13).is_below(vip(), 4));
    assert_eq!(counted(Some(&totals(at, 5)), 3).per_second(vip()), None);
    assert!(!counted(None, 3).is_below(vip(), 4));
    // One packet fewer in two seconds is enough, however many there are.
    assert!(counted(Some(&totals(at, 0)), 1_999_999).is_below(vip(), 1_000_000));
    assert!(!counted(Some(&totals(at, 0)), 2_000_000).is_below(vip(), 1_000_000));
}

#[derive(Clone, Debug)]
enum Event {
    Says { answered: bool, out_for: u64, others: usize },
    Heard(bool),
    Announced(Option<bool>),
    Order(usize),
    Packets(u64, u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (any::<bool>(), 4500u64..5500, 0usize..8)
            .prop_map(|(answered, out_for, others)| Event::Says { answered, out_for, others: others / 7 }),
        1 => any::<bool>().prop_map(Event::Heard),
        1 => prop::sample::select(vec![Some(true), Some(true), Some(true), Some(false), None]).prop_map(Event::Announced),
        1 => (0usize..8).prop_map(Event::Order),
        6 => (0u64..6, 0u64..2).prop_map(|(seconds, packets)| Event::Packets(seconds, packets)),
    ]
}

proptest! {
    #[test]
    fn nothing_is_withdrawn_but_for_a_reason_and_nothing_returns_but_by_order(
        events in prop::collection::vec(event(), 0..60)
    ) {
        let mut world = World::new("*\n");
        // Seconds in a row in which it was out everywhere and unused.
        let mut quiet = 0;
        for event in events {
            let mut steps = 1;
            let mut packets = None;
            match event {
                Event::Says { answered, out_for, others } => {
                    world.says(if answered { &["www"] } else { &[] }, out_for);
                    world.word.as_mut().unwrap().others = others;
                }
                Event::Heard(heard) => world.heard = heard,
                Event::Announced(announced) => world.announced = announced,
                Event::Order(which) => {
                    world.order = parse(["*", "*", "*", "*", "*", "* force", "* now", ""][which]).0;
                }
                Event::Packets(seconds, each) => (steps, packets) = (seconds, Some(each)),
            }
            for _ in 0..steps {
                let before = world.sequences.get(&vip()).map(|sequence| sequence.stage);
                world.go(packets.map_or(0, |_| 1), packets.unwrap_or(0));
                let after = world.sequences.get(&vip()).map(|sequence| sequence.stage);
                prop_assert_eq!(&world.look(), &world.sequences, "the same facts change nothing");

                let word = world.word.clone().unwrap_or_default();
                let haste = world.order.of(vip());
                let out = match world.heard {
                    true => world.word.is_some() && word.names.is_empty() && word.out_for_ms >= 5000,
                    false => haste == Some(Haste::Force),
                };
                let silent = out && haste.is_some() && world.announced != Some(false);
                let here = silent && packets == Some(0);
                quiet = match (here, silent && packets.is_none()) { (true, _) => quiet + 1, (_, true) => quiet, _ => 0 };
                if before != Some(Stage::Withdrawn) && after == Some(Stage::Withdrawn) {
                    let elsewhere = world.heard && word.others > 0;
                    let unused = quiet >= 3;
                    let was_not = world.announced == Some(false);
                    prop_assert!(haste == Some(Haste::Now) || was_not || elsewhere || unused);
                }
                if before == Some(Stage::Withdrawn) {
                    prop_assert_eq!(after, haste.map(|_| Stage::Withdrawn));
                }
                prop_assert!(after.is_none() || haste.is_some());
            }
        }
    }
}
