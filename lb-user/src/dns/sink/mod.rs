//! Name servers of others, kept at the addresses that names have now.
//!
//! A sink owns the addresses of the names that are configured to be chosen, and what it wrote for names that were; it
//! touches nothing else. [`keeper`] decides what to do next: read everything, write what differs, wait; [`task`] does it.
//! What each kind of server is spoken to with: [`rfc2136`], [`powerdns`], [`skydns`].

pub mod keeper;
pub mod powerdns;
pub mod rfc2136;
pub mod server;
pub mod skydns;
pub mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hickory_proto::rr::{LowerName, RecordType};
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// Addresses of names. A place that is not there has none.
pub type Records = BTreeMap<Place, Addresses>;

/// What a place is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// These addresses.
    Addresses(Addresses),
    /// None.
    Nothing,
    /// What it holds, whatever that is.
    AsItIs,
}

/// What the places that are named are to hold.
pub type Wanted = BTreeMap<Place, Wish>;

/// What is to stand at some places: these addresses, or none.
pub type Changes = BTreeMap<Place, Option<Addresses>>;

/// What has to be written to `places`, which hold `have`; nothing is to stand where nothing is said.
pub fn changes(places: &BTreeSet<Place>, want: &Wanted, have: &Records) -> Changes {
    let change = |place: &Place| {
        let next = match want.get(place) {
            Some(Wish::Addresses(addresses)) => Some(addresses),
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

/// A name server that is spoken to.
pub trait Store: Send + Sync {
    /// What it holds at these places.
    fn read<'a>(&'a mut self, places: &'a BTreeSet<Place>) -> BoxFuture<'a, Result<Records, SinkError>>;

    /// Has it hold this. Places of one zone change at once where the server can do that.
    fn write<'a>(&'a mut self, changes: &'a Changes) -> BoxFuture<'a, Result<(), SinkError>>;

    /// Has it hold this if it holds `have` at these places, which are of one zone; else nothing changes, and it is false.
    fn swap<'a>(
        &'a mut self,
        have: &'a Records,
        changes: &'a Changes,
    ) -> BoxFuture<'a, Result<bool, SinkError>> {
        async move {
            let places: BTreeSet<Place> = changes.keys().cloned().collect();
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
    /// Names and families whose addresses are kept there.
    pub places: usize,
    /// Places written since the start.
    pub written: u64,
    /// Times that everything was read and compared since the start.
    pub full_syncs: u64,
}
