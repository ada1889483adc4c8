//! The drain oracle: how many connections each host holds, and which generation explains them.
//!
//! ```text
//! sockets ─→ explain ─→ HostConnections ─→ GET /v1/connections ─→ lb status, lb pool remove --when-safe
//!                                                             └─→ retirable ─→ retire an old generation
//! ```
//!
//! [`sockets`] lists this machine's TCP connections, [`explain`] says by which generation a director sent each here,
//! [`sampler`] does both while it matters, [`oracle`] draws the conclusions from what all hosts report. All but the first and
//! the third are pure.

pub mod explain;
pub mod oracle;
pub mod sampler;
pub mod sockets;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::vip::Vip;

pub use explain::Explainer;
pub use oracle::{PoolFacts, retirable, safe_now};
pub use sampler::Sampler;

/// A TCP connection of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// This end.
    pub local: SocketAddr,
    /// The client's end.
    pub remote: SocketAddr,
    /// Both ends hold it open; otherwise it is being opened, or closed and may still carry data.
    pub established: bool,
}

/// What a host holds of a pool's connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostConnections {
    /// The node that says so.
    pub node: String,
    /// Name of the pool.
    pub pool: String,
    /// Its name in this pool.
    pub host: String,
    /// Version of the manifest that its kernel goes by.
    pub manifest_version: Option<u64>,
    /// It takes no new connections.
    pub draining: bool,
    /// Established connections.
    pub established: u64,
    /// Connections that are being opened, or closed and may still carry data.
    pub half_open: u64,
    /// It is draining and holds no connection at all.
    pub safe: bool,
    /// Established connections by VIP and what explains them.
    pub by_generation: Vec<ByGeneration>,
    /// Connections, half open ones included, that would lose their host without this generation.
    pub needs: BTreeMap<u16, u64>,
    /// Why nothing is known; the counts then mean nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Established connections to a VIP that have one explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByGeneration {
    /// The VIP, however many addresses it has.
    pub vip: Vip,
    /// What explains them.
    pub generation: Explanation,
    /// How many.
    pub established: u64,
}

/// Why a connection is on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Explanation {
    /// The host owns its row by this generation; the first in force that says so.
    Generation(u16),
    /// It does not.
    Other(Other),
}

/// Why a connection is on a host that owns its row by no generation in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Other {
    /// The host is the row's backup: its owner failed when the connection was opened.
    Backup,
    /// No table that is in force sends it here, nor would second chances find it.
    Unexplained,
}
