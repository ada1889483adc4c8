//! The DNS tier: an authoritative name server in the agent, whose names follow what really works.
//!
//! ```text
//! lb.yaml, zone files ─→ config ─→ Data ──────────────────────┐
//! probes ── health ──┐                                        ├─→ Snapshot ─→ UDP threads, TCP task
//! VIPs, pools ───────┼─→ observe ─→ Observed ─→ standings ────┘      answer(snapshot, question, client, chance)
//! /etc/lb/ext ───────┘      lb dns up|down|drain ──┘            └ geo: where the client is
//! ```
//!
//! The middle is pure: [`zone`] (what there is), [`policy`] (which addresses a name has now, and why), [`answer`]
//! (question to sections), [`wire`] (packet to packet), `ready` (the same packet again), [`observe`] (what the checks of a
//! member say). The shell is [`server`] (sockets) and [`service`] (the task that watches and publishes).

mod additional;
pub mod answer;
pub mod anycast;
pub mod claim;
pub mod corefile;
pub mod counters;
mod datagrams;
pub mod delegation;
pub mod dnssec;
pub mod everybody;
pub mod extfile;
pub mod geo;
pub mod history;
pub mod leader;
pub mod leaving;
pub mod master;
pub mod memory;
pub mod notify;
pub mod observe;
pub mod observers;
pub mod others;
pub mod policy;
pub mod publish;
pub mod rate;
mod ready;
pub mod server;
pub mod service;
pub mod sink;
pub mod snapshot;
pub mod status;
mod tcp;
pub mod transfer;
pub mod tsig;
mod turns;
pub mod wire;
pub mod zone;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};

use crate::health;
use policy::Choice;
use zone::Rr;

/// The section `dns` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses that are listened on, each by itself, by UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// What this server calls itself when asked (RFC 5001).
    pub nsid: String,
    /// Threads per address that answer by UDP.
    pub threads: usize,
    /// Limits of TCP.
    pub tcp: Tcp,
    /// What is answered before the first results of the checks.
    pub before_checks: BeforeChecks,
    /// File that keeps what the operator ordered, and the last health, over restarts.
    pub state: PathBuf,
    /// What members may follow, by name.
    pub checks: BTreeMap<String, Check>,
    /// Limit of answers; `None`: there is none.
    pub rate_limit: Option<rate::RateConfig>,
    /// Where clients are; `None`: nobody asks.
    pub geo: Option<geo::GeoConfig>,
    /// The zones by name.
    pub zones: Vec<ZoneConfig>,
    /// Name servers of others that are kept, by name.
    pub sinks: BTreeMap<String, sink::SinkConfig>,
    /// Names that this node holds in turn with others.
    pub claims: BTreeMap<Name, claim::ClaimConfig>,
    /// How it is elected which node writes to the sinks; `None`: all do.
    pub leader: Option<leader::LeaderConfig>,
    /// Whose votes decide what probes say; `None`: this node's own word.
    pub observers: Option<observers::ObserversConfig>,
    /// Addresses that are announced by BGP while this server answers there.
    pub anycast: BTreeSet<IpAddr>,
}

/// Limits of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Most connections at once; one more ends the one that has been idle for longest.
    pub connections: usize,
    /// How long a connection may be idle.
    pub idle: Duration,
}

/// What is answered before the first results of the checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BeforeChecks {
    /// SERVFAIL, so that resolvers ask another server.
    #[default]
    Wait,
    /// As if all checks passed.
    Answer,
}

/// What a member may follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A probe of its address.
    Probe {
        /// How.
        check: health::Check,
        /// What it is asked for (`Host`, and the name in TLS); `None`: its address.
        host: Option<String>,
    },
    /// A line `ADDRESS => UP` in a file, as gdnsd's `extfile` reads it.
    Extfile {
        /// The file.
        file: PathBuf,
        /// What holds for addresses that are not in it.
        default_up: bool,
    },
    /// A VIP that is announced.
    Vip {
        /// The VIP; `None`: the member's own address.
        vip: Option<IpAddr>,
        /// So many nodes must announce it, of those that this one follows and itself; `None`: this node must.
        directors: Option<usize>,
    },
    /// Healthy hosts of a pool.
    Pool {
        /// Its name.
        pool: String,
        /// So many of a hundred must be healthy.
        percent: u32,
        /// Whether the member's weight follows the part that is healthy.
        scale: bool,
    },
}

/// A zone as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneConfig {
    /// Its name.
    pub apex: Name,
    /// The master file that its records come from.
    pub file: Option<PathBuf>,
    /// TTL of records that are written without one; `None`: each has its own.
    pub ttl: Option<u32>,
    /// Records of lb.yaml, as they are written there.
    pub lines: Vec<String>,
    /// All records, SOA and NS included.
    pub records: Vec<Rr>,
    /// Names whose addresses are chosen.
    pub choices: Vec<Choice>,
    /// Who may have it as a whole; `None`: nobody.
    pub transfer: Option<transfer::TransferConfig>,
    /// What it is signed with; none: it is not.
    pub keys: Vec<Arc<dnssec::ZoneKey>>,
}

impl ZoneConfig {
    /// All records, with those that speak of its keys.
    pub fn all_records(&self) -> Cow<'_, [Rr]> {
        if self.keys.is_empty() {
            return Cow::Borrowed(&self.records);
        }
        let ttl = self.records.iter().find(|record| record.data.record_type() == RecordType::SOA);
        let ttl = ttl.map_or(0, |soa| soa.ttl);
        let of_keys = self.keys.iter().flat_map(|key| key.records(&self.apex, ttl));
        Cow::Owned(self.records.iter().cloned().chain(of_keys).collect())
    }
}
