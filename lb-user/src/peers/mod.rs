//! What nodes tell each other: how hosts answer, which tables the kernels hold, how many connections there are.
//!
//! Every node publishes a [`Report`]; every node that has `peers.nodes` follows those of the others by long polls and keeps
//! the latest in a [`PeersView`]. [`judge`] draws conclusions, as pure functions:
//!
//! ```text
//! health, tables ─→ Report ─→ GET /v1/report ──→ followers of other nodes
//! other nodes ─→ followers ─→ PeersView ─→ doubts ─→ host program
//!                                       ├─→ missing ─→ two-phase edits
//!                                       └─→ disagreements ─→ status, metrics
//! ```
//!
//! Tasks: one per followed node ([`follow`]), owned by [`Followers`]; one per listener ([`server`]). Dropping the owner ends
//! them. Nothing is pushed and nothing is believed that was not asked for at an address of the configuration.

pub mod client;
pub mod follow;
pub mod judge;
pub mod report;
pub mod server;
pub mod view;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

pub use follow::Followers;
pub use judge::{Disagreement, Missing, disagreements, doubts, missing};
pub use report::{Answers, Offer, Published, Report, TableReport, Told};
pub use view::{Contact, Peer, PeerStatus, PeersView};

use crate::bgp::Prefix;

/// The exchange with other nodes as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Addresses at which others may ask.
    pub listen: Vec<SocketAddr>,
    /// Whom this node asks.
    pub nodes: BTreeSet<PeerUrl>,
    /// Who may ask; empty: everybody.
    pub allow: Vec<Prefix>,
    /// Edits are taken over TCP.
    pub edits: bool,
}

/// Where the agent of another node listens, as in `http://192.0.2.139:7400`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerUrl {
    /// Host and port.
    authority: String,
}

impl PeerUrl {
    /// Host and port, as in `192.0.2.139:7400` or `[2001:db8::1]:7400`.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// The text is not `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the address of an agent; write http://HOST:PORT")]
pub struct PeerUrlError(String);

impl FromStr for PeerUrl {
    type Err = PeerUrlError;

    fn from_str(text: &str) -> Result<Self, PeerUrlError> {
        let error = || PeerUrlError(text.to_owned());
        let rest = text.strip_prefix("http://").ok_or_else(error)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0) {
            return Ok(PeerUrl { authority: authority.to_owned() });
        }
        let (host, port) = authority.split_once(':').ok_or_else(error)?;
        let is_name = !host.is_empty()
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
            && host.chars().any(|c| c.is_ascii_alphabetic());
        let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
        (is_name && is_port).then(|| PeerUrl { authority: authority.to_owned() }).ok_or_else(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_agents_have_a_host_and_a_port() {
        for good in ["http://192.0.2.1:7400", "http://[2001:db8::1]:7400", "http://lb7-1.example:7400"] {
            assert_eq!(good.parse::<PeerUrl>().unwrap().to_string(), good);
        }
        assert_eq!("http://lb7-1:7400/".parse::<PeerUrl>().unwrap().authority(), "lb7-1:7400");
        for bad in [
            "192.0.2.1:7400",
            "https://192.0.2.1:7400",
            "http://192.0.2.1",
            "http://192.0.2:7400",
            "http://2001:db8::1:7400",
            "http://:7400",
            "http://a:0",
            "http://a:1/path",
        ] {
            assert!(bad.parse::<PeerUrl>().is_err(), "{bad}");
        }
    }
}
