//! VIPs that leave in sequence: out of the names' answers first, then unused, then out of BGP.
//!
//! The operator's [`order`] is a file. [`sequence`] decides how far each VIP is, from that file, what name servers say
//! ([`word`]) and how many packets still come. No node writes to another one: a node tells in its report what leaves it,
//! name servers stop to answer with that and tell when resolvers have forgotten it, and the node asks them.
//!
//! ```text
//! /etc/lb/leave ──────────────────────────────┐
//! report of this node ─→ name servers ─→ words ├─→ sequences ─→ desired ─→ announcements
//! packets per second ─────────────────────────┘
//! ```

pub mod order;
pub mod sequence;
pub mod status;
pub mod word;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::peers::PeerUrl;

/// How VIPs leave, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file of the operator's order.
    pub file: PathBuf,
    /// Those who must say that a VIP is out of their answers.
    pub name_servers: BTreeSet<PeerUrl>,
    /// How long resolvers may keep an answer; counts where no name servers are asked.
    pub ttl: Duration,
    /// A VIP is unused with fewer packets per second than this.
    pub below: u32,
    /// How long it must be unused.
    pub hold: Duration,
    /// After so long in one stage a VIP is said to be stuck.
    pub wait: Duration,
}

/// Where the order is unless the configuration says otherwise.
pub const DEFAULT_FILE: &str = "/etc/lb/leave";

impl Default for Config {
    fn default() -> Self {
        Config {
            file: DEFAULT_FILE.into(),
            name_servers: BTreeSet::new(),
            ttl: Duration::from_secs(60),
            below: 1,
            hold: Duration::from_secs(10),
            wait: Duration::from_secs(3600),
        }
    }
}
