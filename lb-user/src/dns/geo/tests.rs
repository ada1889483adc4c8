use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use maxminddb::{PathElement, Reader};
use proptest::prelude::*;

use super::follower::Follower;
use super::*;

#[path = "../../../tests/dns/mmdb.rs"]
mod mmdb;

use mmdb::mmdb;

const WORLD: [&str; 7] = [
    "203.0.113.0/25 NA US CA",
    "203.0.113.128/25 NA US NY",
    "198.51.100.0/24 EU GB ENG WBK",
    "192.0.2.0/24 EU",
    "192.0.0.0/25 - DE",
    "2001:db8::/32 EU DE",
    "2001:db8:8000::/33 EU DE BY",
];

fn table(entries: &[&str]) -> Table {
    Table::read(&mmdb("Test-City", entries)).unwrap()
}

fn networks(written: &[(&str, &str)]) -> BTreeMap<Prefix, Region> {
    written.iter().map(|(network, region)| (network.parse().unwrap(), region.parse().unwrap())).collect()
}

fn geo(entries: &[&str], written: &[(&str, &str)]) -> Geo {
    Geo { file: Some(Arc::new(table(entries))), networks: Arc::new(Networks::new(&networks(written))) }
}

fn shown(located: &Located<'_>) -> String {
    let regions: Vec<String> = located.regions.iter().map(ToString::to_string).collect();
    format!("{} /{} {:?}", regions.join(" "), located.scope, located.source)
}

#[test]
fn a_client_is_where_the_file_says_beginning_with_the_smallest_region() {
    let geo = geo(&WORLD, &[]);
    let at = |address: &str| shown(&geo.locate(address.parse().unwrap()));
    assert_eq!(at("203.0.113.7"), "US-CA US continent:NA /25 Some(File)");
    assert_eq!(at("198.51.100.7"), "GB-WBK GB-ENG GB EU /24 Some(File)");
    assert_eq!(at("192.0.2.7"), "EU /24 Some(File)", "a continent without a country");
    assert_eq!(at("192.0.0.7"), "DE EU /25 Some(File)", "no continent in the file: that of the country");
    assert_eq!(at("192.0.0.200"), " /25 None");
    assert_eq!(at("2001:db8::1"), "DE EU /33 Some(File)");
    assert_eq!(at("2001:db8:8000::1"), "DE-BY DE EU /33 Some(File)");
    assert_eq!(at("fd00::1"), " /1 None");
}

#[test]
fn networks_of_the_configuration_go_before_the_file() {
    let geo = geo(&WORLD, &[("203.0.113.0/26", "DE"), ("203.0.113.64/32", "EU"), ("2001:db8::/40", "US-CA")]);
    let at = |address: &str| shown(&geo.locate(address.parse().unwrap()));
    assert_eq!(at("203.0.113.7"), "DE EU /26 Some(Networks)");
    assert_eq!(at("203.0.113.64"), "EU /32 Some(Networks)");
    assert_eq!(at("203.0.113.65"), "US-CA US continent:NA /32 Some(File)", "next to it");
    assert_eq!(at("203.0.113.100"), "US-CA US continent:NA /27 Some(File)");
    assert_eq!(at("2001:db8::1"), "US-CA US continent:NA /40 Some(Networks)");
    let without_file = Geo { file: None, ..geo.clone() };
    assert_eq!(shown(&without_file.locate([203, 0, 113, 7].into())), "DE EU /26 Some(Networks)");
    assert_eq!(shown(&without_file.locate([8, 8, 8, 8].into())), " /1 None");
}

#[test]
fn what_is_no_such_file_is_refused_with_the_reason() {
    let refused = |content: &[u8]| Table::read(content).unwrap_err();
    assert!(refused(b"").starts_with("not a file in MaxMind's format: "));
    let good = mmdb("Test-City", &["203.0.113.0/24 NA US CA"]);
    assert!(refused(&good[..good.len() / 2]).starts_with("not a file in MaxMind's format: "));
    assert_eq!(
        refused(&mmdb("Test-ASN", &["203.0.113.0/24"])),
        "no network in it has a country or continent (it is of type \"Test-ASN\"); use a file of type Country or City"
    );
    let read = Table::read(&good).unwrap();
    assert_eq!((read.kind.as_str(), read.built, read.networks), ("Test-City", 1_790_899_200, 1));
}

/// A file that a disk or a copy has damaged must not end the thread that reads it.
#[test]
fn a_damaged_file_is_refused_or_read_and_never_ends_the_agent() {
    let good = mmdb("Test-City", &WORLD);
    for at in 0..good.len() {
        for bits in [0x01, 0x80, 0xff] {
            let mut damaged = good.clone();
            damaged[at] ^= bits;
            if let Ok(table) = Table::read(&damaged) {
                table.get([203, 0, 113, 7].into());
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_is_replaced_is_read_anew_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("geo.mmdb");
    let config = |path: &Path| GeoConfig { file: Some(path.to_owned()), networks: BTreeMap::new() };
    let at = |follower: &Follower| shown(&follower.geo().locate([203, 0, 113, 7].into()));
    let mut follower = Follower::start(Some(&config(&path)));
    let status = follower.status().unwrap();
    assert!(
        status
            .problem
            .unwrap()
            .ends_with("No such file or directory (os error 2); clients have no region by it")
    );
    assert_eq!((status.content, at(&follower)), (None, " /0 None".into()));

    let put = |content: &[u8]| {
        let other = folder.path().join("other");
        fs::write(&other, content).unwrap();
        fs::rename(other, &path).unwrap();
    };
    put(&mmdb("First", &["203.0.113.0/24 EU DE"]));
    follower.look();
    follower.read().await;
    assert_eq!((follower.problem(), at(&follower)), (None, "DE EU /24 Some(File)".into()));
    put(b"not that");
    follower.look();
    follower.read().await;
    assert!(follower.problem().unwrap().ends_with("; what was read last stays in force"));
    assert_eq!(at(&follower), "DE EU /24 Some(File)");
    fs::remove_file(&path).unwrap();
    follower.look();
    follower.read().await;
    assert!(follower.problem().unwrap().contains("cannot be read"));
    assert_eq!(follower.status().unwrap().content.unwrap().kind, "First");
    follower.look();
    let nothing_new = tokio::time::timeout(Duration::from_millis(20), follower.read()).await;
    assert!(nothing_new.is_err(), "read although nothing has changed");

    // Another file is there when the configuration that names it is.
    let second = folder.path().join("second.mmdb");
    fs::write(&second, mmdb("Second", &["203.0.113.0/24 EU FR"])).unwrap();
    follower.go_by(Some(&config(&second))).await;
    assert_eq!((follower.problem(), at(&follower)), (None, "FR EU /24 Some(File)".into()));
    follower
        .go_by(Some(&GeoConfig { networks: networks(&[("203.0.113.0/24", "US")]), ..config(&second) }))
        .await;
    assert_eq!(at(&follower), "US continent:NA /24 Some(Networks)");
    follower.go_by(None).await;
    assert_eq!((follower.status(), at(&follower)), (None, " /0 None".into()));
}

/// Where a record of the file says that an address is, as the library of the format finds it.
fn by_the_library(reader: &Reader<Vec<u8>>, address: IpAddr) -> String {
    let found = reader.lookup(address).unwrap();
    let code = |path: &[PathElement<'_>]| found.decode_path::<String>(path).unwrap();
    let key = PathElement::Key;
    let part = code(&[key("subdivisions"), PathElement::Index(0), key("iso_code")]);
    let country = code(&[key("country"), key("iso_code")]);
    let continent = code(&[key("continent"), key("code")]);
    [part, country, continent].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

proptest! {
    /// Against the library's own search, and a scan of the networks: each address in the scope is in the same place.
    #[test]
    fn each_address_in_the_scope_is_in_the_same_place(
        entries in prop::collection::vec((any::<bool>(), 0u32..1024, 0u8..10, 0usize..5), 1..30),
        written in prop::collection::vec((any::<bool>(), 0u32..1024, 0u8..10, 0usize..3), 0..6),
        v4: bool,
        asked in 0u32..1024,
    ) {
        // Ten bits behind these, and all that is not there.
        let address = |v4: bool, low: u32| match v4 {
            true => IpAddr::V4(Ipv4Addr::from_bits(0xc000_2000 | low)),
            false => IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | u128::from(low))),
        };
        let network = |v4, low, shorter| {
            let host = Prefix::host(address(v4, low));
            Prefix { length: host.length - shorter, ..host }.network()
        };
        let places = ["EU DE", "EU FR", "NA US CA", "NA US NY", "EU"];
        let in_file: BTreeMap<Prefix, usize> =
            entries.into_iter().map(|(v4, low, shorter, place)| (network(v4, low, shorter), place)).collect();
        let of_file: Vec<_> = in_file.iter().map(|(at, place)| format!("{at} {}", places[*place])).collect();
        let content = mmdb("Test-City", &of_file);
        let written: BTreeMap<Prefix, Region> = written
            .into_iter()
            .map(|(v4, low, shorter, region)| (network(v4, low, shorter), ["JP", "US-TX", "EU"][region].parse().unwrap()))
            .collect();
        let geo = Geo {
            file: Some(Arc::new(Table::read(&content).unwrap())),
            networks: Arc::new(Networks::new(&written)),
        };
        let reader = Reader::from_source(content).unwrap();
        let naive = |of: IpAddr| {
            let longest = written.iter().filter(|(network, _)| network.contains(of)).max_by_key(|(network, _)| network.length);
            match longest {
                Some((_, region)) => region.outwards().iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                None => by_the_library(&reader, of).replace("CA US NA", "US-CA US continent:NA")
                    .replace("NY US NA", "US-NY US continent:NA"),
            }
        };
        let asked = address(v4, asked);
        let located = geo.locate(asked);
        let expected = naive(asked);
        prop_assert_eq!(located.regions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), &*expected);
        let block = Prefix { address: asked, length: located.scope }.network();
        for other in (0..1024).map(|low| address(v4, low)).filter(|other| block.contains(*other)) {
            prop_assert_eq!(naive(other), &*expected, "{} in {}", other, block);
        }
    }
}
