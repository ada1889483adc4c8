//! GoBGP: pieces of configuration, and its neighbours' state.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::bird::{Family, SITE_AS};
use crate::plan::ProcessPlan;
use crate::process;
use crate::topology::Node;

const CONFIG: &str = "/etc/gobgpd.toml";

/// The head of every configuration.
pub fn head(node: &Node) -> String {
    format!("[global.config]\n  as = {SITE_AS}\n  router-id = \"{}\"\n", node.router_id())
}

/// An iBGP neighbour by address; `passive` waits for it to connect.
pub fn neighbour(family: Family, address: IpAddr, passive: bool, add_paths: Option<u32>) -> String {
    format!(
        "
[[neighbors]]
  [neighbors.config]
    neighbor-address = \"{address}\"
    peer-as = {SITE_AS}
  [neighbors.transport.config]
    passive-mode = {passive}
{}{}",
        timers("neighbors", family),
        family_section("neighbors", family, add_paths)
    )
}

/// Route-reflector clients: whoever connects from `prefix`.
pub fn clients(node: &Node, family: Family, prefix: &str, send_max: u32) -> String {
    let digit = family.digit();
    format!(
        "
[[peer-groups]]
  [peer-groups.config]
    peer-group-name = \"clients{digit}\"
    peer-as = {SITE_AS}
  [peer-groups.route-reflector.config]
    route-reflector-client = true
    route-reflector-cluster-id = \"{}\"
{}{}
[[dynamic-neighbors]]
  [dynamic-neighbors.config]
    prefix = \"{prefix}\"
    peer-group = \"clients{digit}\"
",
        node.router_id(),
        timers("peer-groups", family),
        family_section("peer-groups", family, Some(send_max)),
    )
}

fn timers(of: &str, family: Family) -> String {
    let (hold, keepalive) = family.timers();
    format!(
        "  [{of}.timers.config]
    hold-time = {hold}
    keepalive-interval = {keepalive}
    connect-retry = 1
    idle-hold-time-after-reset = 1
"
    )
}

/// The one family of a session. Add-path stands beside the family, not in it: that is where gobgpd 3.10 looks
/// when it makes a neighbour from a group.
fn family_section(of: &str, family: Family, add_paths: Option<u32>) -> String {
    let digit = family.digit();
    let add_paths = add_paths.map_or_else(String::new, |send_max| {
        format!("  [{of}.add-paths.config]\n    receive = true\n    send-max = {send_max}\n")
    });
    format!(
        "{add_paths}  [[{of}.afi-safis]]\n    [{of}.afi-safis.config]\n      afi-safi-name = \"ipv{digit}-unicast\"\n"
    )
}

/// The files of a gobgpd that reads `config`.
pub fn files(config: String) -> Vec<(String, String)> {
    vec![(CONFIG.to_owned(), config)]
}

/// gobgpd in the foreground, its API on the address that agents expect.
pub fn process() -> ProcessPlan {
    ProcessPlan::new(
        "gobgpd",
        &format!("gobgpd -f {CONFIG} -t toml --api-hosts 127.0.0.1:50051 --pprof-disable --log-plain"),
    )
}

/// Why gobgpd is not ready: it does not answer, or of `wanted` neighbours some are not established.
/// Call inside the node.
pub fn health(wanted: &[(String, IpAddr)]) -> Vec<String> {
    let neighbours = match neighbours() {
        Ok(neighbours) => neighbours,
        Err(error) => return vec![format!("{error:#}")],
    };
    wanted
        .iter()
        .filter_map(|(name, address)| {
            let found = neighbours.iter().find(|neighbour| neighbour.address() == Some(*address));
            match found.map(|neighbour| neighbour.state.session_state) {
                Some(ESTABLISHED) => None,
                Some(state) => Some(format!("BGP session with {name} ({address}) is {}", state_word(state))),
                None => Some(format!("{name} ({address}) has not connected")),
            }
        })
        .collect()
}

const ESTABLISHED: u8 = 6;

fn state_word(state: u8) -> &'static str {
    ["unknown", "idle", "connect", "active", "opensent", "openconfirm", "established"]
        .get(usize::from(state))
        .unwrap_or(&"unknown")
}

#[derive(Deserialize)]
struct Neighbour {
    #[serde(default)]
    state: NeighbourState,
}

#[derive(Default, Deserialize)]
struct NeighbourState {
    #[serde(default)]
    neighbor_address: String,
    #[serde(default)]
    session_state: u8,
}

impl Neighbour {
    fn address(&self) -> Option<IpAddr> {
        self.state.neighbor_address.parse().ok()
    }
}

fn neighbours() -> Result<Vec<Neighbour>> {
    let output = process::short_lived("gobgp")
        .args(["neighbor", "-j"])
        .output()
        .context("gobgp (package gobgpd) does not run")?;
    if !output.status.success() {
        bail!("gobgpd does not answer: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    parse_neighbours(&output.stdout)
}

fn parse_neighbours(json: &[u8]) -> Result<Vec<Neighbour>> {
    // No neighbour at all is printed as `null`.
    let neighbours: Option<Vec<Neighbour>> =
        serde_json::from_slice(json).context("`gobgp neighbor -j` printed something else than neighbours")?;
    Ok(neighbours.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_with_their_state() {
        let json = br#"[{"state":{"neighbor_address":"192.0.2.132","session_state":6}},{"state":{"neighbor_address":"192.0.2.133"}}]"#;
        let neighbours = parse_neighbours(json).unwrap();
        assert_eq!(neighbours[0].address(), Some("192.0.2.132".parse().unwrap()));
        assert_eq!(neighbours[0].state.session_state, ESTABLISHED);
        assert_eq!(neighbours[1].state.session_state, 0);
        assert!(parse_neighbours(b"null").unwrap().is_empty());
    }
}
