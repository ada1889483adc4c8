//! Files in MaxMind's format, made for tests.

use std::net::IpAddr;

use maxminddb_writer::Database;
use maxminddb_writer::metadata::IpVersion;
use serde_json::{Value, json};

/// The content of a file of this type with these entries, as in `203.0.113.0/24 NA US CA`: a network, its continent, its
/// country, and parts of that, beginning with the largest.
pub fn mmdb(kind: &str, entries: &[impl AsRef<str>]) -> Vec<u8> {
    let mut database = Database::default();
    database.metadata.ip_version = IpVersion::V6;
    database.metadata.database_type = kind.into();
    database.metadata.binary_format_major_version = 2;
    // 2026-10-02.
    database.metadata.build_epoch = 1_790_899_200;
    database.metadata.languages = vec!["en".into()];
    database.metadata.description.insert("en".into(), "made for a test".into());
    // Larger ones first: they would overwrite those within them.
    let mut entries: Vec<_> = entries.iter().map(|entry| read(entry.as_ref())).collect();
    entries.sort_by_key(|(path, _)| path.len());
    for (path, place) in entries {
        let data = database.insert_value(record(&place)).expect("a record");
        database.insert_node(path.into_iter(), data);
    }
    database.write_to(Vec::new()).expect("a file")
}

/// The way to an entry's network, and its place.
fn read(entry: &str) -> (Vec<bool>, Vec<&str>) {
    let mut words = entry.split(' ');
    let (address, length) = words.next().and_then(|network| network.split_once('/')).expect("a network");
    let path = path(address.parse().expect("an address"), length.parse().expect("a length"));
    (path, words.collect())
}

/// The way through the tree: IPv4 is in `::/96`.
fn path(address: IpAddr, length: u8) -> Vec<bool> {
    let (bits, length) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 96 + length),
        IpAddr::V6(address) => (address.to_bits(), length),
    };
    (0..length).map(|bit| bits >> (127 - bit) & 1 == 1).collect()
}

/// A record as MaxMind's are: with names, coordinates and more beside the codes.
fn record(place: &[&str]) -> Value {
    let coded = |code: &str| json!({"geoname_id": 7, "iso_code": code, "names": {"en": "Somewhere", "de": "Irgendwo"}});
    let mut record =
        json!({"location": {"latitude": 1.5, "time_zone": "Etc/UTC"}, "city": {"names": {"en": "Town"}}});
    if let Some(continent) = place.first() {
        record["continent"] = json!({"code": continent, "geoname_id": 6, "names": {"en": "Somewhere"}});
    }
    if let Some(country) = place.get(1) {
        record["country"] = coded(country);
        record["registered_country"] = coded("AQ");
    }
    if place.len() > 2 {
        record["subdivisions"] = place[2..].iter().map(|part| coded(part)).collect();
    }
    record
}
