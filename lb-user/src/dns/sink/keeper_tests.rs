use std::net::IpAddr;

use hickory_proto::rr::LowerName;

use super::super::{Addresses, Wish};
use super::*;
use crate::model::Family;

const TIMING: Timing = Timing::new(Duration::from_secs(300));

fn place(name: &str) -> Place {
    let lower = |text: &str| text.parse::<LowerName>().unwrap();
    Place { zone: lower("example.org."), name: lower(name), family: Family::V4 }
}

fn records(all: &[(&str, &[&str])]) -> Records {
    let addresses = |all: &[&str]| Addresses {
        ttl: 30,
        all: all.iter().map(|address| address.parse::<IpAddr>().unwrap()).collect(),
    };
    all.iter().map(|(name, all)| (place(name), addresses(all))).collect()
}

/// Addresses at these names; none where none are said.
fn wanted(all: &[(&str, &[&str])]) -> Wanted {
    let mut addresses = records(all);
    let wish = |place| match addresses.remove(&place) {
        Some(addresses) if addresses.all.is_empty() => (place, Wish::Nothing),
        Some(addresses) => (place, Wish::Value(addresses)),
        None => (place, Wish::Nothing),
    };
    all.iter().map(|(name, _)| place(name)).map(wish).collect()
}

fn broken() -> SinkError {
    SinkError { place: "192.0.2.53:53".into(), what: "refused".into() }
}

/// A server, and a clock.
struct Case {
    keeper: Keeper,
    server: Records,
    now: Instant,
}

impl Case {
    fn new(server: Records) -> Self {
        let now = Instant::now();
        Case { keeper: Keeper::new(TIMING, BTreeSet::new(), now), server, now }
    }

    /// Steps until it waits; the names that were written, each as often as it was.
    fn settle(&mut self) -> Vec<String> {
        let mut written = Vec::new();
        loop {
            match self.keeper.next(self.now) {
                Step::Wait(_) => return written,
                Step::Settle => self.keeper.settle(Ok(()), self.now),
                Step::Read(places) => {
                    let held = self.server.iter().filter(|(place, _)| places.contains(place));
                    self.keeper.read(Ok(held.map(|(p, a)| (p.clone(), a.clone())).collect()), self.now);
                }
                Step::Write(changes) => {
                    for (place, addresses) in &changes {
                        written.push(place.name.to_string());
                        match addresses {
                            Some(addresses) => self.server.insert(place.clone(), addresses.clone()),
                            None => self.server.remove(place),
                        };
                    }
                    self.keeper.wrote(&changes, Ok(()), self.now);
                }
            }
        }
    }

    fn status(&self) -> SinkStatus {
        self.keeper.status("dns", "rfc2136", self.now)
    }
}

#[test]
fn only_what_differs_is_written_and_only_what_is_named() {
    let mut case = Case::new(records(&[
        ("www.example.org.", &["192.0.2.1"]),
        ("right.example.org.", &["192.0.2.1"]),
        ("others.example.org.", &["192.0.2.9"]),
    ]));
    let want = [
        ("www.example.org.", &["192.0.2.2"][..]),
        ("right.example.org.", &["192.0.2.1"]),
        ("new.example.org.", &["192.0.2.3"]),
    ];
    case.keeper.want(wanted(&want), case.now);
    assert!(!case.status().in_step);
    assert_eq!(case.settle(), ["new.example.org.", "www.example.org."]);
    assert!(case.status().in_step && case.server.contains_key(&place("others.example.org.")));
    // A change of health is written at once, without reading.
    let want = [
        ("www.example.org.", &["192.0.2.2"][..]),
        ("right.example.org.", &["192.0.2.1"]),
        ("new.example.org.", &[]),
    ];
    case.keeper.want(wanted(&want), case.now);
    assert_eq!(case.settle(), ["new.example.org."]);
    assert_eq!((case.status().full_syncs, case.status().written), (1, 3));
    // A name that is configured no more loses what was written for it.
    case.keeper.want(wanted(&want[1..2]), case.now);
    assert_eq!(case.settle(), ["www.example.org."]);
}

#[test]
fn what_is_not_known_yet_stays_as_it_is() {
    let mut case = Case::new(records(&[("www.example.org.", &["192.0.2.1"])]));
    case.keeper.want([(place("www.example.org."), Wish::AsItIs)].into(), case.now);
    assert_eq!(case.settle(), [""; 0]);
    assert!(case.status().in_step);
    case.keeper.want(wanted(&[("www.example.org.", &[])]), case.now);
    assert_eq!(case.settle(), ["www.example.org."]);
}

#[test]
fn after_silence_everything_is_compared_again() {
    let mut case = Case::new(Records::new());
    let want = [("www.example.org.", &["192.0.2.1"][..])];
    case.keeper.want(wanted(&want), case.now);
    case.settle();
    case.server.clear();
    case.now += TIMING.full_sync - Duration::from_secs(1);
    assert_eq!(case.settle(), [""; 0]);
    case.now += Duration::from_secs(1);
    assert_eq!(case.settle(), ["www.example.org."], "somebody had removed it");
    assert_eq!(case.server, records(&want));
}

#[test]
fn a_failure_is_tried_again_ever_more_slowly_and_then_nothing_is_taken_for_known() {
    let mut case = Case::new(Records::new());
    case.keeper.want(wanted(&[("www.example.org.", &["192.0.2.1"])]), case.now);
    case.settle();
    case.keeper.want(wanted(&[("www.example.org.", &["192.0.2.2"])]), case.now);
    let Step::Write(changes) = case.keeper.next(case.now) else { panic!("nothing to write") };
    case.keeper.wrote(&changes, Err(broken()), case.now);
    assert_eq!(case.status().error.as_deref(), Some("192.0.2.53:53: refused"));
    let waits: Vec<u64> = (0..8)
        .map(|_| {
            let Step::Wait(until) = case.keeper.next(case.now) else { panic!("no pause after a failure") };
            let wait = until - case.now;
            case.now = until;
            assert!(matches!(case.keeper.next(case.now), Step::Read(_)));
            case.keeper.read(Err(broken()), case.now);
            wait.as_secs()
        })
        .collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
    assert_eq!(case.status().lag_ms, waits.iter().sum::<u64>() * 1000);
    case.now += TIMING.slowest;
    assert_eq!(case.settle(), ["www.example.org."]);
    assert_eq!((case.status().in_step, case.status().lag_ms, case.status().error), (true, 0, None));
}

#[test]
fn a_server_is_behind_until_what_it_holds_is_in_force() {
    let mut case = Case::new(Records::new());
    case.keeper.want(wanted(&[("www.example.org.", &["192.0.2.1"])]), case.now);
    case.settle();
    case.keeper.want(wanted(&[("www.example.org.", &["192.0.2.2"])]), case.now);
    for _ in 0..2 {
        loop {
            match case.keeper.next(case.now) {
                Step::Read(_) => case.keeper.read(Ok(case.server.clone()), case.now),
                Step::Write(changes) => {
                    case.server.extend(changes.iter().map(|(p, a)| (p.clone(), a.clone().unwrap())));
                    case.keeper.wrote(&changes, Ok(()), case.now);
                }
                Step::Settle => case.keeper.settle(Err(broken()), case.now),
                Step::Wait(until) => break case.now = until,
            }
        }
        assert_eq!(case.server, records(&[("www.example.org.", &["192.0.2.2"])]), "written all the same");
    }
    let status = case.status();
    assert_eq!((status.in_step, status.lag_ms, status.error.is_some()), (false, 3000, true));
    case.settle();
    assert_eq!((case.status().in_step, case.status().error), (true, None));
}

#[test]
fn what_an_agent_before_this_one_wrote_is_taken_away() {
    let now = Instant::now();
    let server = records(&[("old.example.org.", &["192.0.2.1"]), ("others.example.org.", &["192.0.2.9"])]);
    let keeper = Keeper::new(TIMING, [place("old.example.org.")].into(), now);
    let mut case = Case { keeper, server, now };
    case.keeper.want(wanted(&[("www.example.org.", &[])]), now);
    assert_eq!(case.settle(), ["old.example.org."]);
    assert_eq!(case.server.len(), 1);
}
