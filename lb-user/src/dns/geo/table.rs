//! Reads a file in MaxMind's format (GeoLite2, GeoIP2, DB-IP; Country or City). Pure.
//!
//! All of the file is read at once, so that what is wrong with it shows then and not with a question. What is kept is far
//! smaller than the file: networks side by side in the same region are one.

use std::collections::HashMap;
use std::net::IpAddr;

use maxminddb::{LookupResult, MaxMindDbError, Reader, WithinOptions};
use serde::Deserialize;

use super::ranges::Ranges;
use super::region::{Region, code, continent_of};
use crate::bgp::Prefix;

/// Most parts of a country that a place is in, one within the other.
const MOST_PARTS: usize = 8;
/// Most leaves of the tree for each of its nodes. There is one, unless nodes are shared; a tree that comes back to itself
/// has no end.
const MOST_LEAVES: u64 = 4;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// What the file calls itself.
    pub kind: String,
    /// When it was made, in seconds since 1970.
    pub built: u64,
    /// Networks that are in it.
    pub networks: u64,
    ranges: Ranges,
    /// Places by number, each as its regions, beginning with the smallest; the first has none.
    places: Vec<Box<[Region]>>,
}

/// What is read of a record.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    continent: Option<Continent<'a>>,
    #[serde(borrow)]
    country: Option<Coded<'a>>,
    #[serde(borrow)]
    subdivisions: Option<Vec<Coded<'a>>>,
}

#[derive(Deserialize)]
struct Continent<'a> {
    code: Option<&'a str>,
}

#[derive(Deserialize)]
struct Coded<'a> {
    iso_code: Option<&'a str>,
}

impl Table {
    /// Reads the content of a file; or says what is wrong with it.
    pub fn read(content: &[u8]) -> Result<Self, String> {
        let told = |error: MaxMindDbError| format!("not a file in MaxMind's format: {error}");
        let reader = Reader::from_source(content).map_err(told)?;
        let mut places = Places::default();
        let mut of_record: HashMap<usize, u32> = HashMap::new();
        let mut networks: Vec<(Prefix, u32)> = Vec::new();
        // Also what has no record counts as a leaf.
        let options = WithinOptions::default().include_networks_without_data();
        let most = u64::from(reader.metadata().node_count) * MOST_LEAVES + MOST_LEAVES;
        for (leaf, found) in (0..).zip(reader.networks(options).map_err(told)?) {
            if leaf > most {
                return Err("not a file in MaxMind's format: its tree comes back to itself".into());
            }
            let found = found.map_err(told)?;
            let network = found.network().map_err(told)?;
            let Some(record) = found.offset() else { continue };
            let number = match of_record.get(&record) {
                Some(number) => *number,
                None => {
                    let number = places.number(regions(&found).map_err(told)?);
                    of_record.insert(record, number);
                    number
                }
            };
            networks.push((Prefix { address: network.ip(), length: network.prefix() }, number));
        }
        if places.all.len() == 1 {
            return Err(format!(
                "no network in it has a country or continent (it is of type {:?}); use a file of type Country or City",
                reader.metadata().database_type
            ));
        }
        Ok(Table {
            kind: reader.metadata().database_type.clone(),
            built: reader.metadata().build_epoch,
            networks: networks.len() as u64,
            ranges: Ranges::new(networks),
            places: places.all,
        })
    }

    /// The regions that an address is in, beginning with the smallest, and how many of its leading bits that depends on.
    pub fn get(&self, address: IpAddr) -> (&[Region], u8) {
        let (number, scope) = self.ranges.get(address);
        (self.places.get(number as usize).map_or(&[], |place| place), scope)
    }
}

/// Numbers of places.
struct Places {
    all: Vec<Box<[Region]>>,
    numbers: HashMap<Box<[Region]>, u32>,
}

impl Default for Places {
    fn default() -> Self {
        let nowhere: Box<[Region]> = Box::default();
        Places { all: vec![nowhere.clone()], numbers: HashMap::from([(nowhere, 0)]) }
    }
}

impl Places {
    fn number(&mut self, place: Box<[Region]>) -> u32 {
        if let Some(number) = self.numbers.get(&place) {
            return *number;
        }
        let number = self.all.len() as u32;
        self.all.push(place.clone());
        self.numbers.insert(place, number);
        number
    }
}

/// The regions of a record, beginning with the smallest.
fn regions(found: &LookupResult<'_, &[u8]>) -> Result<Box<[Region]>, MaxMindDbError> {
    let Some(Record { continent, country, subdivisions }) = found.decode()? else {
        return Ok(Box::default());
    };
    let country = country.and_then(|country| country.iso_code).and_then(code);
    let continent = continent.and_then(|continent| continent.code).and_then(code);
    let part = |part: &Coded<'_>| Region::subdivision(country?, part.iso_code?);
    // The file begins with the largest.
    let parts = subdivisions.unwrap_or_default();
    let parts = parts.iter().take(MOST_PARTS).rev().filter_map(part);
    let continent = continent.or_else(|| continent_of(country?));
    Ok(parts.chain(country.map(Region::Country)).chain(continent.map(Region::Continent)).collect())
}
