//! Which hosts work: probes, and the rise and fall of what they find.
//!
//! [`plan`] derives from the configuration who is probed how; [`Checker`] runs the probes, feeds each one's result to
//! its [`Machine`] and publishes a [`HealthView`].

mod checker;
mod machine;
mod plan;
mod probe;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

pub use checker::Checker;
pub use machine::{Change, Failure, Machine};
pub use plan::plan;
pub use probe::{ProbeError, Stage, probe};

use crate::model::HostId;

/// How the hosts of a pool are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// Destination port.
    pub port: u16,
    /// Which way the probe takes.
    pub through: Through,
    /// From the start of one probe to the start of the next.
    pub interval: Duration,
    /// Most time that a probe takes, from connecting to the end of the answer.
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy host healthy; 0 counts as 1.
    pub rise: u32,
    /// Failures in a row that make a healthy host unhealthy; 0 counts as 1.
    pub fall: u32,
}

/// What a probe asks of a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckKind {
    /// `GET path` is answered with one of these status codes.
    Http {
        /// Path and query, beginning with `/`.
        path: String,
        /// Status codes of a healthy host.
        status: Vec<u16>,
    },
    /// The same within TLS.
    Https {
        /// Path and query, beginning with `/`.
        path: String,
        /// Status codes of a healthy host.
        status: Vec<u16>,
        /// The certificate must be good, and for the name in the `Host` header.
        verify: bool,
    },
    /// A connection is accepted.
    Tcp,
}

/// Which way a probe takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Through {
    /// To the host's own address.
    #[default]
    Address,
    /// To a VIP, encapsulated to the host as users' packets are.
    Tunnel,
}

/// Where a probe goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    /// The host's address or the VIP, and the port.
    pub address: SocketAddr,
    /// Socket mark by which the data plane encapsulates the packets to this host.
    pub mark: Option<u32>,
    /// Value of the `Host` header.
    pub host_header: String,
}

/// One thing that is probed again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// How.
    pub check: Check,
    /// Where.
    pub target: ProbeTarget,
}

/// The probes of every host; a host without any is healthy.
pub type Plan = BTreeMap<HostId, Vec<Probe>>;

/// What is known of every host of the plan.
pub type HealthView = BTreeMap<HostId, HostHealth>;

/// What is known of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostHealth {
    /// All its probes pass; before the first results, what was given as its initial state, else `false`.
    pub healthy: bool,
    /// `false` until the probes have said enough to judge: each has a result, or one has found it unhealthy.
    pub known: bool,
    /// It is unhealthy, and none of its probes gets an answer of any kind: no connection, no refusal, nothing.
    pub silent: bool,
    /// The latest failure that still counts against it.
    pub reason: Option<String>,
}
