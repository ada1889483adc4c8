//! The manifest: pools with their generations, which directors and hosts share.
//!
//! ```text
//! file | etcd | peer ─→ store ─→ follow ─→ merge with lb.yaml ─→ the agent
//!                         ↑
//! lb pool … ─→ edit (two phases) ─→ plan
//! ```
//!
//! - [`document`] reads and writes it as YAML; [`edit`] changes it, in steps that every node may see alone; [`plan`] says
//!   beforehand what a change does; [`merge`] makes the agent's model of it. All of these are pure.
//! - [`store`] is where it is kept; [`follow`] is the task that reads it again and again; [`routes`] is its part of the API.
//!
//! **Why two phases.** A change of the hosts that get new connections is first published as *prepared*: every node then
//! knows the hosts that will own each row beside those that own it. Only when all have confirmed it becomes *current*. So
//! two nodes that are one version apart still find each other's connections.

pub mod document;
pub mod edit;
pub mod etcd;
pub mod file;
pub mod follow;
pub mod merge;
pub mod peer;
pub mod plan;
pub mod routes;
pub mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

pub use follow::{Manifests, Reading};
pub use merge::merge;

use crate::model::{Generation, Host, HostState, Pool};

/// Most generations of a pool that may be in force together.
pub const GENERATIONS: usize = 8;

/// Where the last good manifest of etcd or a peer is kept unless the configuration says otherwise.
pub const DEFAULT_CACHE: &str = "/var/lib/lb/manifest.yaml";

/// Where the manifest is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// The one that all share.
    #[serde(flatten)]
    pub place: Place,
    /// File with the last good one, for when the place cannot be reached; not for one that is a file itself.
    #[serde(skip_serializing_if = "is_default")]
    pub cache: PathBuf,
}

/// Where the manifest is that all nodes share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// In a file.
    File(PathBuf),
    /// With the agent of another node.
    Peer(Vec<String>),
    /// In etcd, as the value of a key.
    #[serde(untagged)]
    Etcd {
        /// Members of the cluster.
        #[serde(rename = "etcd")]
        urls: Vec<String>,
        /// The key.
        key: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Etcd { urls, key } => write!(f, "{key} in etcd at {}", urls.join(", ")),
            Place::Peer(urls) => write!(f, "the manifest of {}", urls.join(", ")),
        }
    }
}

fn is_default(cache: &std::path::Path) -> bool {
    cache == std::path::Path::new(DEFAULT_CACHE)
}

/// All pools, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// Goes up with every change, by one.
    pub version: u64,
    /// Pools by name.
    pub pools: BTreeMap<String, PoolManifest>,
}

/// A pool with its generations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PoolManifest {
    /// Keys the permutations and the flow hash.
    pub seed: u64,
    /// Rows of the table, a prime.
    pub size: u32,
    /// Number of the current generation: the active hosts.
    pub generation: u16,
    /// Members by stable name.
    pub hosts: BTreeMap<String, Host>,
    /// The generation that comes next, known to all before it is in force. All its hosts are members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepared: Option<Generation>,
    /// Older generations whose connections live on, newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub old: Vec<Generation>,
}

impl PoolManifest {
    /// The pool as the rest of the agent knows it.
    pub fn pool(&self) -> Pool {
        Pool {
            seed: self.seed,
            size: self.size,
            generation: self.generation,
            hosts: self.hosts.clone(),
            others: self.prepared.iter().chain(&self.old).cloned().collect(),
        }
    }

    /// The set of hosts that new connections go to.
    pub fn current(&self) -> Generation {
        self.pool().current()
    }

    /// Numbers of all generations, in order of precedence.
    pub fn numbers(&self) -> Vec<u16> {
        self.pool().generations().iter().map(|generation| generation.number).collect()
    }

    /// Names of the hosts that take new connections.
    pub fn active(&self) -> BTreeSet<&String> {
        let active = self.hosts.iter().filter(|(_, host)| host.state == HostState::Active);
        active.map(|(name, _)| name).collect()
    }

    /// A number for a new generation: the next one that no header can confuse with one in force.
    pub fn next_number(&self) -> u16 {
        let taken: BTreeSet<u16> = self.numbers().into_iter().map(short).collect();
        let newest = self.prepared.as_ref().map_or(self.generation, |prepared| prepared.number);
        let following = (newest..=u16::MAX).skip(1).chain(1..=newest);
        let free =
            following.into_iter().find(|number| short(*number) != 0 && !taken.contains(&short(*number)));
        free.expect("far fewer generations than numbers")
    }
}

/// What an outer IPv4 header carries of a generation's number. Zero is what probes carry.
pub const fn short(number: u16) -> u16 {
    number & 0xfff
}
