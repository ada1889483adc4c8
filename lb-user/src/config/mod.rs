//! The agent's configuration: read once, checked as a whole, then trusted.
//!
//! Three steps, each with all that it finds wrong: the text becomes a [`tree`] that knows where every value stands;
//! the walk by the [`schema`] turns it into the configuration as [`written`], with values of the right types; and
//! [`check`] fits them together into a [`Config`].

mod check;
mod check_dns;
pub(crate) mod check_pools;
mod check_services;
mod check_zones;
mod dns;
mod dns_effective;
mod dns_geo;
mod dns_group;
mod dns_key;
mod dns_rate;
mod dns_sinks;
mod dns_transfer;
mod effective;
mod extras;
pub(crate) mod leaf;
mod leave;
mod limit;
mod overlaps;
mod problem;
mod quic;
pub(crate) mod reader;
pub mod schema;
pub(crate) mod tree;
mod types;
pub(crate) mod written;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use effective::Effective;
pub use problem::{ConfigErrors, Position, Problem};
pub use types::{Capacity, Decapsulation, DirectorConfig, FLOWS, HostConfig, SECOND_CHANCES, XdpMode};

use crate::agent_check;
use crate::bgp::BgpConfig;
use crate::dns as dns_tier;
use crate::health::Check;
use crate::leave::Config as LeaveConfig;
use crate::manifest;
use crate::model::Model;
use crate::peers;

/// Where the configuration is unless another file is named.
pub const DEFAULT_FILE: &str = "/etc/lb/lb.yaml";
/// Where the agent's API is unless the configuration says otherwise.
pub const DEFAULT_API: &str = "/run/lb/agent.sock";

/// A configuration whose parts fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What this node calls itself.
    pub node: String,
    /// Unix socket of the agent's API.
    pub api: PathBuf,
    /// Folder for pinned maps, programs and links.
    pub pins: PathBuf,
    /// While this file exists, nothing is announced.
    pub disable_file: PathBuf,
    /// How VIPs leave one after the other.
    pub leave: LeaveConfig,
    /// The role of a director.
    pub director: Option<DirectorConfig>,
    /// The role of an L7 host.
    pub host: Option<HostConfig>,
    /// Services and pools.
    pub model: Model,
    /// Where the manifest is, which has the pools that have no hosts here.
    pub manifest: Option<manifest::Config>,
    /// Version of the manifest whose pools the model has; `None`: none, or none has been read yet.
    pub manifest_version: Option<u64>,
    /// Pools whose hosts are in this file.
    pub own_pools: Places,
    /// Health checks by pool.
    pub checks: BTreeMap<String, Vec<Check>>,
    /// Who announces the VIPs.
    pub bgp: Option<BgpConfig>,
    /// The exchange with the agents of other nodes.
    pub peers: Option<peers::Config>,
    /// The server that HAProxy asks.
    pub agent_check: Option<agent_check::Config>,
    /// The authoritative name server.
    pub dns: Option<dns_tier::Config>,
}

/// Where things stand in the file, by name. All are equal: configurations differ by what they say.
#[derive(Clone, Debug, Default)]
pub struct Places(pub BTreeMap<String, Position>);

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Places {}

impl Config {
    /// Whether packets can be treated as wanted only when the manifest has been read.
    pub fn waits_for_manifest(&self) -> bool {
        self.manifest.is_some() && self.manifest_version.is_none()
    }

    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message = format!("cannot be read: {error}; name another file or make this one readable");
            let problem = Problem { at: None, key: String::new(), message };
            ConfigErrors { file: file.clone(), problems: vec![problem] }
        })?;
        let host_name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        Self::parse(&file, &text, host_name.as_deref().unwrap_or("localhost"))
    }

    /// Checks a configuration; `file` is what messages call it, `host_name` what the node is called by default.
    pub fn parse(file: &str, text: &str, host_name: &str) -> Result<Self, ConfigErrors> {
        let mut reader = reader::Reader::default();
        let config = match tree::parse(text) {
            Ok(tree) => written::read(&tree, &mut reader).map(|w| check::check(w, host_name, &mut reader)),
            Err(problem) => {
                reader.problems.push(problem);
                None
            }
        };
        let mut problems = reader.problems;
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => {
                problems.sort_by_key(|problem| problem.at);
                Err(ConfigErrors { file: file.to_owned(), problems })
            }
        }
    }

    /// The parts that this node plays.
    pub fn roles(&self) -> Vec<&'static str> {
        let roles = [
            ("director", self.director.is_some()),
            ("host", self.host.is_some()),
            ("agent_check", self.agent_check.is_some()),
            ("dns", self.dns.is_some()),
        ];
        roles.into_iter().filter(|(_, played)| *played).map(|(role, _)| role).collect()
    }
}
