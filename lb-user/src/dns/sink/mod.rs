//! Name servers of others, kept at the addresses that names have now.
//!
//! A sink owns the addresses of the names that are configured to be chosen, and what it wrote for names that were; it
//! touches nothing else. [`keeper`] decides what to do next: read everything, write what differs, wait; [`task`] does it.
//! What each kind of server is spoken to with: [`rfc2136`], [`powerdns`], [`skydns`], [`zone_files`]. gdnsd chooses by
//! itself, and is told the states of addresses: [`gdnsd`].

pub mod gdnsd;
pub mod keeper;
pub mod powerdns;
pub mod rfc2136;
pub mod server;
pub mod skydns;
pub mod task;
pub mod zone_files;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hickory_proto::rr::{LowerName, RecordType};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::Family;

/// A sink as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkConfig {
    /// The server.
    pub server: server::Server,
    /// The zones whose chosen names it gets; `None`: all.
    pub zones: Option<BTreeSet<LowerName>>,
    /// How often it is compared as a whole.
    pub full_sync: Duration,
}

/// Where the addresses of a name stand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "Remembered", try_from = "Remembered")]
pub struct Place {
    /// The zone.
    pub zone: LowerName,
    /// The name, in the zone.
    pub name: LowerName,
    /// Which addresses.
    pub family: Family,
}

impl Place {
    /// The type of the records there.
    pub fn kind(&self) -> RecordType {
        match self.family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.kind())
    }
}

/// All addresses of a name, of one family; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Seconds that resolvers may keep them.
    pub ttl: u32,
    /// The addresses.
    pub all: BTreeSet<IpAddr>,
}

/// A place in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remembered {
    zone: String,
    name: String,
    family: u8,
}

impl From<Place> for Remembered {
    fn from(place: Place) -> Self {
        let family = if place.family == Family::V4 { 4 } else { 6 };
        Remembered { zone: place.zone.to_string(), name: place.name.to_string(), family }
    }
}

impl TryFrom<Remembered> for Place {
    type Error = String;

    fn try_from(place: Remembered) -> Result<Self, String> {
        let lower = |text: &str| text.parse::<LowerName>().map_err(|error| format!("{text:?}: {error}"));
        let family = if place.family == 4 { Family::V4 } else { Family::V6 };
        Ok(Place { zone: lower(&place.zone)?, name: lower(&place.name)?, family })
    }
}

/// What stands where: addresses of names, unless something else is said. A place that is not there holds nothing.
pub type Records<P = Place, V = Addresses> = BTreeMap<P, V>;

/// What a place is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish<V = Addresses> {
    /// This.
    Value(V),
    /// Nothing.
    Nothing,
    /// What it holds, whatever that is.
    AsItIs,
}

/// What the places that are named are to hold.
pub type Wanted<P = Place, V = Addresses> = BTreeMap<P, Wish<V>>;

/// What is to stand at some places: this, or nothing.
pub type Changes<P = Place, V = Addresses> = BTreeMap<P, Option<V>>;

/// What has to be written to `places`, which hold `have`; nothing is to stand where nothing is said.
pub fn changes<P: Spot, V: Value>(
    places: &BTreeSet<P>,
    want: &Wanted<P, V>,
    have: &Records<P, V>,
) -> Changes<P, V> {
    let change = |place: &P| {
        let next = match want.get(place) {
            Some(Wish::Value(value)) => Some(value),
            Some(Wish::Nothing) | None => None,
            Some(Wish::AsItIs) => return None,
        };
        (next != have.get(place)).then(|| (place.clone(), next.cloned()))
    };
    places.iter().filter_map(change).collect()
}

/// Why a server cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct SinkError {
    /// The server.
    pub place: String,
    /// What it said, or that it said nothing; what to do.
    pub what: String,
}

/// A place that is written to, and can be remembered.
pub trait Spot: Ord + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {}
impl<P: Ord + Clone + Serialize + DeserializeOwned + Send + Sync + 'static> Spot for P {}

/// What stands at a place.
pub trait Value: PartialEq + Clone + Send + Sync + 'static {}
impl<V: PartialEq + Clone + Send + Sync + 'static> Value for V {}

/// A name server that is spoken to.
pub trait Store<P: Spot = Place, V: Value = Addresses>: Send + Sync {
    /// What it holds at these places.
    fn read<'a>(&'a mut self, places: &'a BTreeSet<P>) -> BoxFuture<'a, Result<Records<P, V>, SinkError>>;

    /// Has it hold this. Places of one zone change at once where the server can do that.
    fn write<'a>(&'a mut self, changes: &'a Changes<P, V>) -> BoxFuture<'a, Result<(), SinkError>>;

    /// Sees that what it holds is in force; most servers need nothing.
    fn settle(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        std::future::ready(Ok(())).boxed()
    }

    /// Has it hold this if it holds `have` at these places, which are of one zone; else nothing changes, and it is false.
    fn swap<'a>(
        &'a mut self,
        have: &'a Records<P, V>,
        changes: &'a Changes<P, V>,
    ) -> BoxFuture<'a, Result<bool, SinkError>> {
        async move {
            let places: BTreeSet<P> = changes.keys().cloned().collect();
            if self.read(&places).await? != *have {
                return Ok(false);
            }
            self.write(changes).await?;
            Ok(true)
        }
        .boxed()
    }
}

/// What a sink is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// Its name in the configuration.
    pub name: String,
    /// See [`server::Kind`].
    pub kind: String,
    /// Another node writes, or it is not known yet what to write.
    #[serde(default)]
    pub standby: bool,
    /// The server holds what it should.
    pub in_step: bool,
    /// Milliseconds since the first change that the server has not got.
    pub lag_ms: u64,
    /// Why it has not.
    pub error: Option<String>,
    /// Names and families whose addresses are kept there; for gdnsd, addresses.
    pub places: usize,
    /// Places written since the start.
    pub written: u64,
    /// Times that everything was read and compared since the start.
    pub full_syncs: u64,
}
