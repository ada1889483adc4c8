//! Where clients are, by a file in MaxMind's format and by networks of the configuration, which go before it. Pure but for
//! [`follower`], which looks at the file.
//!
//! A client is looked up by the first address of its network (RFC 7871), however short that is: to look at all that is in
//! it would let a question cost as much as the file has entries. What is found may hold for a part of it only; the scope
//! says so, being longer than what was asked with.

pub mod follower;
pub mod ranges;
pub mod region;
pub mod table;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bgp::Prefix;
use ranges::Ranges;
use region::Region;
use table::Table;

/// The section `dns.geo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GeoConfig {
    /// The file; `None`: there are networks only.
    pub file: Option<PathBuf>,
    /// Where the clients of these networks are.
    pub networks: BTreeMap<Prefix, Region>,
}

/// All that is known of where clients are.
#[derive(Clone, Debug, Default)]
pub struct Geo {
    /// What the file says; `None`: none has been read.
    pub file: Option<Arc<Table>>,
    /// What the configuration says.
    pub networks: Arc<Networks>,
}

/// Networks of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    /// Their numbers: one more than that of the place.
    ranges: Ranges,
    /// Regions of each, beginning with the smallest.
    places: Vec<Vec<Region>>,
}

/// Who said where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The file.
    File,
    /// The networks of the configuration.
    Networks,
}

/// Where a client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Located<'a> {
    /// Its regions, beginning with the smallest; none: nobody knows.
    pub regions: &'a [Region],
    /// Leading bits of its address that this depends on.
    pub scope: u8,
    /// Who said so.
    pub source: Option<Source>,
}

impl Networks {
    /// Lays out the networks of the configuration.
    pub fn new(networks: &BTreeMap<Prefix, Region>) -> Self {
        let mut regions: Vec<Region> = networks.values().copied().collect();
        regions.sort_unstable();
        regions.dedup();
        let number = |region: &Region| regions.partition_point(|other| other <= region) as u32;
        Networks {
            ranges: Ranges::new(networks.iter().map(|(network, region)| (*network, number(region)))),
            places: regions.iter().map(|region| region.outwards()).collect(),
        }
    }
}

impl Geo {
    /// Where the client with this address is.
    pub fn locate(&self, address: IpAddr) -> Located<'_> {
        let (number, scope) = self.networks.ranges.get(address);
        if let Some(place) = number.checked_sub(1).and_then(|place| self.networks.places.get(place as usize))
        {
            return Located { regions: place, scope, source: Some(Source::Networks) };
        }
        let (regions, of_file) = self.file.as_ref().map_or((&[][..], 0), |file| file.get(address));
        let source = (!regions.is_empty()).then_some(Source::File);
        Located { regions, scope: scope.max(of_file), source }
    }
}

impl Located<'_> {
    /// How well a member for these regions fits: the greater, the smaller the region that both have; 0: it is for all;
    /// `None`: for others.
    pub fn fit(&self, regions: &[Region]) -> Option<u8> {
        if regions.is_empty() {
            return Some(0);
        }
        let found = self.regions.iter().position(|region| regions.contains(region));
        found.map(|smaller| (self.regions.len() - smaller) as u8)
    }
}

#[cfg(test)]
mod tests;
