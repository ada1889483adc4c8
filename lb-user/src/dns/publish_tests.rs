use super::*;
use crate::config::Config;
use crate::dns::snapshot::{Observed, Orders};

const ZONE: &str = "
dns:
  listen: \"127.0.0.1:53\"
  checks: {web: {type: tcp, port: 80}}
  zones:
    example.org:
      ns: [ns]
      soa: {serial: 7}
      transfer: {to: 192.0.2.0/24}
      records: [ns A 192.0.2.53, text TXT old]
      names:
        www: {checks: web, members: [192.0.2.1, 192.0.2.2]}
        one: {checks: web, policy: weighted, all_down: servfail, members: [192.0.2.1, 192.0.2.2]}
    other.example: {ns: [ns.example.org.]}
";

fn data(text: &str) -> Arc<Data> {
    Arc::new(Data::new(&Config::parse("lb.yaml", text, "n").unwrap().dns.unwrap()).unwrap())
}

/// What is published when the two members work or not.
struct World {
    data: Arc<Data>,
    publisher: Publisher,
}

impl World {
    fn new(text: &str, bounds: BTreeMap<LowerName, u32>) -> Self {
        let mut world = World { data: data(text), publisher: Publisher::new(bounds) };
        world.publisher.prepare(&world.data);
        world
    }

    fn sees(&mut self, up: [Option<bool>; 2], starting: bool) -> Option<Arc<Edition>> {
        let seen = up.map(|up| Observed::of(up, ""));
        let snapshot = Snapshot::new(Arc::clone(&self.data), seen.into(), &Orders::new(), starting);
        let editions = self.publisher.publish(&snapshot);
        assert!(editions.keys().all(|apex| apex.to_string() == "example.org."), "of others nothing");
        editions.into_values().next()
    }

    fn is(&mut self, up: [bool; 2]) -> Arc<Edition> {
        self.sees(up.map(Some), false).unwrap()
    }

    fn reload(&mut self, text: &str) {
        self.data = data(text);
        self.publisher.prepare(&self.data);
    }
}

fn shown(records: &[Record]) -> Vec<String> {
    let name = |record: &Record| record.name.to_string().replace(".example.org.", "");
    records
        .iter()
        .map(|record| match &record.data {
            RData::SOA(soa) => format!("SOA {}", soa.serial),
            data => format!("{} {data}", name(record)),
        })
        .collect()
}

fn all(edition: &Edition) -> Vec<String> {
    let records: Vec<Record> = (0..edition.len()).map(|n| edition.record(n).unwrap().clone()).collect();
    shown(&records)
}

#[test]
fn secondaries_get_static_records_and_all_members_that_work() {
    let mut world = World::new(ZONE, BTreeMap::new());
    let edition = world.is([true, true]);
    let expected = [
        "example.org. ns.example.org.",
        "ns 192.0.2.53",
        "text old",
        "one 192.0.2.1",
        "one 192.0.2.2",
        "www 192.0.2.1",
        "www 192.0.2.2",
    ];
    assert_eq!((edition.serial(), all(&edition)), (7, expected.map(str::to_owned).to_vec()));
    assert!(edition.record(edition.len()).is_none());
}

#[test]
fn each_change_has_another_serial_and_is_told_as_the_difference() {
    let mut world = World::new(ZONE, BTreeMap::new());
    world.is([true, true]);
    assert_eq!(world.is([true, true]).serial(), 7, "nothing has changed");
    assert_eq!(world.is([false, true]).serial(), 8);
    let edition = world.is([true, true]);
    assert_eq!(edition.serial(), 9);
    let expected = [
        "SOA 7",
        "one 192.0.2.1",
        "www 192.0.2.1",
        "SOA 8",
        "SOA 8",
        "SOA 9",
        "one 192.0.2.1",
        "www 192.0.2.1",
    ];
    assert_eq!(shown(&edition.since(7).unwrap()), expected);
    assert_eq!(shown(&edition.since(8).unwrap()), expected[4..]);
    assert_eq!(edition.since(6), None, "never published");
    // A reload is a change like any other.
    world.reload(&ZONE.replace("TXT old", "TXT new"));
    let edition = world.is([true, true]);
    assert_eq!(shown(&edition.since(9).unwrap()), ["SOA 9", "text old", "SOA 10", "text new"]);
    world.reload(ZONE);
    assert_eq!(world.is([true, true]).serial(), 11);
    // A TTL is, too; and the operator's serial is taken if it is ahead.
    world.reload(&ZONE.replace("text TXT", "text 5 TXT").replace("serial: 7", "serial: 2026010100"));
    let edition = world.is([true, true]);
    assert_eq!(shown(&edition.since(11).unwrap()), ["SOA 11", "text old", "SOA 2026010100", "text old"]);
    world.reload(ZONE);
    assert_eq!(world.is([true, true]).serial(), 2026010101, "never back");
}

#[test]
fn the_history_is_bounded() {
    let mut world = World::new(ZONE, BTreeMap::new());
    for round in 0..1000 {
        world.is([true, round % 2 == 0]);
    }
    let edition = world.is([true, false]);
    let kept: usize = edition.changes.iter().map(|change| change.len()).sum();
    assert!(kept <= HISTORY && kept > HISTORY - 10, "{kept}");
    assert!(edition.since(edition.serial() - 1).is_some());
    assert_eq!(edition.since(8), None);
    assert_eq!(edition.since(edition.serial() - 100), None, "the zone as a whole is shorter");
}

#[test]
fn what_is_not_known_stays_and_the_first_edition_waits_for_the_checks() {
    let mut world = World::new(ZONE, BTreeMap::new());
    assert!(world.sees([Some(true), None], true).is_none(), "nothing is published before the first checks");
    let mut late = World::new(ZONE, BTreeMap::new());
    let edition = late.sees([None, None], false).unwrap();
    assert!(all(&edition).contains(&"one 192.0.2.2".to_owned()), "in the end an address is better than none");
    let first = world.is([true, false]);
    assert!(!all(&first).contains(&"one 192.0.2.2".to_owned()));
    let edition = world.is([false, false]);
    let one: Vec<String> = all(&edition).into_iter().filter(|line| line.starts_with("one")).collect();
    assert_eq!(one, ["one 192.0.2.1"], "where SERVFAIL would be answered, the last addresses stay");
}

#[test]
fn serials_go_on_behind_what_a_crash_may_have_hidden() {
    let apex: LowerName = "example.org.".parse().unwrap();
    let mut world = World::new(ZONE, BTreeMap::new());
    let mut in_file = world.publisher.bounds().clone();
    assert_eq!(in_file[&apex], 107, "reserved before anything is published");
    for round in 0..500 {
        let serial = world.is([true, round % 2 == 0]).serial();
        assert!(is_ahead(in_file[&apex], serial), "{serial} is ahead of the file");
        // The file is written a while later.
        if round % 20 == 0 {
            in_file = world.publisher.bounds().clone();
        }
    }
    let last = world.is([true, false]).serial();
    let mut again = World::new(ZONE, in_file);
    assert!(is_ahead(again.is([true, true]).serial(), last));
    // A configured serial that is ahead of all counts.
    let mut ahead =
        World::new(&ZONE.replace("serial: 7", "serial: 2026010100"), [(apex.clone(), 900)].into());
    assert_eq!(ahead.is([true, true]).serial(), 2026010100);
    // Serials come round (RFC 1982), and leave out zero.
    let mut round =
        World::new(&ZONE.replace("serial: 7", "serial: 4294967000"), [(apex, u32::MAX - 1)].into());
    assert_eq!(round.is([true, true]).serial(), u32::MAX);
    assert_eq!(round.is([true, false]).serial(), 1);
    assert!(is_ahead(1, u32::MAX) && !is_ahead(u32::MAX, 1));
}
