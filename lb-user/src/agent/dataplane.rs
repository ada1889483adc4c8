//! What the agent asks of the kernel, as traits: the agent knows programs and maps by these alone.
//!
//! All calls may block for milliseconds; [`super::kernel_thread`] makes them on one thread of their own, inside the
//! agent's Tokio runtime (so that an implementation may spawn tasks, such as one that follows netlink).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::readings::Readings;
use crate::config::Config;
use crate::desired::{Confirmed, Paths, Serving};
use crate::model::{Doubt, Family, HostId, ServiceKey};
use crate::trace::Seen;

/// The way to the kernel.
pub trait Kernel: Send + Sync + 'static {
    /// Loads programs over the maps that are pinned, or over new ones. Changes nothing that packets are treated by: that,
    /// and attaching, is for [`Dataplane::apply`].
    fn open(&self, config: &Config) -> Result<Opened, DataplaneError>;

    /// Detaches the programs and removes all pins below `config.pins`, whoever made them. Called when nothing is
    /// announced any more and no [`Dataplane`] is open. Nothing to remove is no error.
    fn detach(&self, config: &Config) -> Result<(), DataplaneError>;
}

/// Programs that run. Dropping it leaves them running, with all that was applied.
pub trait Dataplane: Send {
    /// Makes the kernel treat packets as wanted, as far as it can; the answer says how far. Idempotent: only what
    /// differs is written, in an order in which every state between forwards correctly. Called when configuration,
    /// health or paths have changed, and every second while the last answer named a problem.
    fn apply(&mut self, want: &Want) -> Applied;

    /// All counters, in a stable order.
    fn counters(&mut self) -> Result<Vec<Counter>, DataplaneError>;

    /// What the host's program did with packets of each service and generation, in a stable order.
    fn accounts(&mut self) -> Result<Vec<Account>, DataplaneError> {
        Ok(Vec::new())
    }

    /// Memory of maps, packets and bytes, in a stable order.
    fn readings(&mut self) -> Result<Readings, DataplaneError> {
        Ok(Readings::default())
    }

    /// What a director goes by, to tell what becomes of a packet; `None` without that role.
    fn seen(&mut self) -> Option<Seen> {
        None
    }
}

/// Packets of a service that had one fate on this host, and came with one generation in their outer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The service.
    pub service: ServiceKey,
    /// The generation; `None`: one that is not in force here.
    pub generation: Option<u16>,
    /// Accepted here as the first host that got them.
    pub local: u64,
    /// Accepted here after one other host, two, three, and more.
    pub rescued: [u64; 4],
    /// Passed on to the next owner of their row.
    pub passed_on: u64,
    /// Given to the kernel for want of another owner, though nothing here knows them.
    pub last_resort: u64,
    /// Dropped, as more wanted to be passed on than the budget allows.
    pub over_budget: u64,
}

#[cfg(test)]
impl Account {
    /// One of which no two counts are the same.
    pub(crate) fn example() -> Self {
        let protocol = crate::model::Protocol::Tcp;
        Account {
            service: ServiceKey { vip: [198, 51, 100, 1].into(), port: 80, protocol },
            generation: Some(2),
            local: 9,
            rescued: [4, 3, 2, 1],
            passed_on: 6,
            last_resort: 7,
            over_budget: 8,
        }
    }
}

/// A fate's name, what it counts in one line, and the count.
pub type Fate = (&'static str, &'static str, fn(&Account) -> u64);

/// All fates, in the order in which they are shown.
pub const FATES: [Fate; 8] = [
    ("local", "accepted by the first host that got them", |a| a.local),
    ("rescued1", "accepted after one other host", |a| a.rescued[0]),
    ("rescued2", "accepted after two other hosts", |a| a.rescued[1]),
    ("rescued3", "accepted after three other hosts", |a| a.rescued[2]),
    ("rescued4", "accepted after four or more other hosts", |a| a.rescued[3]),
    ("passed_on", "passed on to the next owner", |a| a.passed_on),
    ("last_resort", "given to the kernel though nothing knows them", |a| a.last_resort),
    ("over_budget", "dropped, as too many wanted to be passed on", |a| a.over_budget),
];

/// What [`Kernel::open`] gives.
pub struct Opened {
    /// The programs.
    pub dataplane: Box<dyn Dataplane>,
    /// What was found in the kernel; `None` unless packets were already treated by it, attached programs included.
    pub adopted: Option<Adopted>,
    /// Whether packets can be sent to each host of the configuration last opened or applied; changes by itself with
    /// routes, neighbours and links. A host is absent until it has been looked up: after an adoption nothing is
    /// applied and nothing withdrawn before (for a while), since it would take away what works.
    pub paths: watch::Receiver<Paths>,
}

/// What was found in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// The hosts' health as it was last applied.
    pub healthy: BTreeMap<HostId, bool>,
}

/// How packets should be treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Roles, services, pools.
    pub config: Arc<Config>,
    /// Hosts that pass their checks; a host's path is the data plane's own knowledge.
    pub healthy: BTreeSet<HostId>,
    /// What the role of a host must know of other hosts, to pass packets on to those that live.
    pub doubts: BTreeMap<HostId, Doubt>,
}

/// How far the kernel treats packets as wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Every wanted service: what is in the kernel as read back from it, or why it is not as wanted.
    pub services: Confirmed,
    /// The tables of pools that are in the kernel for each role: generation, and digest as read back.
    pub tables: BTreeMap<(Role, String), Serving>,
    /// Socket marks of probes through the tunnel, by host and family of the VIP.
    pub marks: BTreeMap<(HostId, Family), u32>,
    /// Interfaces with a program of ours, or with the kernel's own tunnel devices.
    pub interfaces: Vec<Interface>,
    /// Source of outer IPv4 headers, next hop of announced IPv4 routes.
    pub source4: Option<Ipv4Addr>,
    /// Source of outer IPv6 headers, next hop of announced IPv6 routes.
    pub source6: Option<Ipv6Addr>,
    /// What is not as wanted beside services; what to do.
    pub problems: Vec<String>,
}

/// An interface with a program of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// For which role.
    pub role: Role,
    /// `xdp-native`, `xdp-generic`, `tc` or `kernel`.
    pub mode: String,
}

/// A part that a node plays in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Encapsulates.
    Director,
    /// Decapsulates.
    Host,
}

impl Role {
    /// As in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Director => "director",
            Role::Host => "host",
        }
    }
}

/// A counter of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Whose.
    pub role: Role,
    /// Its name, in snake case.
    pub name: &'static str,
    /// What it counts, in one line.
    pub help: &'static str,
    /// Sum over all processors since the maps were made.
    pub value: u64,
}

/// The kernel refused; what, where and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DataplaneError(pub String);
