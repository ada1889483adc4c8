//! `lb agent` on lab nodes: its configuration per role, and its own word on whether it is ready.

use std::fmt::Write;
use std::io::{Read, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::bird::Family;
use crate::load::udp;
use crate::namespace::{self, SHARED};
use crate::paths::Paths;
use crate::plan::ProcessPlan;
use crate::pool;
use crate::process;
use crate::spec::Affinity;
use crate::topology::{INFRA_NET, Kind, Node, Topology, vips};

/// Where the agent reads its configuration.
pub const CONFIG: &str = "/etc/lb/lb.yaml";
/// Where agents listen for each other.
const PEERS: u16 = 7400;
/// The folder of its API's socket.
pub const FOLDER: &str = "/run/lb";

/// The agent.
pub fn process() -> ProcessPlan {
    ProcessPlan::new("lb-agent", &format!("lb agent --config {CONFIG}"))
}

/// Configuration of a director.
pub fn director(topology: &Topology, node: &Node) -> String {
    let [source4, source6] = Family::ALL.map(|family| family.address(node, 0));
    let mut text = format!(
        "node: {}
director:
  interfaces: [eth0]
  xdp: {}
  source4: {source4}
  source6: \"{source6}\"
{}pools:
  web:
",
        node.name,
        topology.spec.xdp.word(),
        shared(topology, node)
    );
    if !topology.spec.has_manifest() {
        text.push_str("    hosts:\n");
        text.push_str(&pool::hosts(topology, "      "));
    }
    text.push_str(
        "    checks:
      - {type: http, port: 80, path: /healthcheck, status: 200, interval: 1s, timeout: 1s, rise: 1, fall: 3}
",
    );
    text.push_str(&services(topology));
    let driver = if topology.spec.bgp.is_bird(node.index) { "bird" } else { "gobgp" };
    write!(text, "bgp:\n  driver: {driver}\n  communities: [\"65000:100\"]\n").expect("writing to a string");
    text
}

/// Where pools are, and whom the agent asks what they know: the same on directors and hosts.
fn shared(topology: &Topology, node: &Node) -> String {
    if !topology.spec.has_manifest() {
        return String::new();
    }
    let nodes: Vec<String> = topology
        .nodes
        .iter()
        .filter(|node| matches!(node.kind, Kind::Director | Kind::L7Host))
        .map(|node| format!("\"http://{}:{PEERS}\"", Family::V4.address(node, 0)))
        .collect();
    format!(
        "manifest: {{file: {SHARED}/{}}}\npeers:\n  listen: [\"{}:{PEERS}\"]\n  nodes: [{}]\n",
        pool::MANIFEST,
        Family::V4.address(node, 0),
        nodes.join(", ")
    )
}

fn services(topology: &Topology) -> String {
    let word = topology.spec.affinity.word();
    let affinity = match topology.spec.affinity {
        // What the agent does with TCP unless it is told otherwise.
        Affinity::SecondChance => String::new(),
        _ => format!(", affinity: {word}"),
    };
    let mut text = "services:\n".to_owned();
    for vip in vips() {
        writeln!(
            text,
            "  - {{vip: {}, port: 80, protocol: tcp, pool: web, quorum: 1{affinity}}}",
            quoted(vip)
        )
        .expect("writing to a string");
    }
    for vip in vips() {
        let (vip, port) = (quoted(vip), udp::PORT);
        writeln!(
            text,
            "  - {{vip: {vip}, port: {port}, protocol: udp, pool: web, quorum: 1, affinity: {word}}}"
        )
        .expect("writing to a string");
    }
    text
}

/// Configuration of an L7 host. With pools from a manifest it knows what directors know, and gives second chances.
pub fn l7_host(topology: &Topology, node: &Node) -> String {
    let services = match topology.spec.has_manifest() {
        true => shared(topology, node) + &services(topology),
        false => String::new(),
    };
    let senders = Family::ALL.map(|family| format!("\"{}\"", family.prefix(INFRA_NET))).join(", ");
    let vips = vips().into_iter().map(quoted).collect::<Vec<_>>().join(", ");
    format!(
        "node: {}
host:
  interfaces: [eth0]
  decapsulation: {}
  xdp: {}
  accept_from: [{senders}]
  vips: [{vips}]
agent_check: {{}}
{services}",
        node.name,
        topology.spec.decapsulation.word(),
        topology.spec.xdp.word()
    )
}

/// Configuration of a server: the agent check only.
pub fn server(node: &Node) -> String {
    format!("node: {}\nagent_check: {{}}\n", node.name)
}

fn quoted(address: IpAddr) -> String {
    format!("\"{address}\"")
}

/// Why the agent is not ready, as the program `lb` reports. Call inside the node.
pub fn health(lb: &Path) -> Vec<String> {
    match status(lb) {
        Ok(status) if status.ready => vec![],
        Ok(status) if status.reasons.is_empty() => {
            vec!["lb agent is not ready and does not say why".to_owned()]
        }
        Ok(status) => status.reasons,
        Err(error) => vec![format!("{error:#}")],
    }
}

#[derive(Deserialize)]
struct Status {
    ready: bool,
    #[serde(default)]
    reasons: Vec<String>,
}

fn status(lb: &Path) -> Result<Status> {
    let output = process::short_lived(lb)
        .args(["status", "--format", "json"])
        .output()
        .context("lb status does not run")?;
    // The exit status only repeats `ready`; what is printed decides.
    serde_json::from_slice(&output.stdout).or_else(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!said.trim().is_empty(), "lb status printed no status: {error}");
        anyhow::bail!("lb agent does not answer: {}", said.trim().lines().next_back().unwrap_or_default())
    })
}

/// What the agent in `node` says of itself, asked directly: cheaper than a program, for polling. `None` if it does not
/// answer within `patience`.
pub fn document(paths: &Paths, node: &str, patience: Duration) -> Option<serde_json::Value> {
    let ask = || -> std::io::Result<String> {
        let mut socket = UnixStream::connect(format!("{FOLDER}/agent.sock"))?;
        socket.set_read_timeout(Some(patience))?;
        socket.write_all(b"GET /v1/status HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
        let mut said = String::new();
        socket.read_to_string(&mut said)?;
        Ok(said)
    };
    let said = namespace::enter(paths, node, ask).ok()?.ok()?;
    // The document is one line or many, of known length or in chunks: it is what braces hold.
    serde_json::from_str(said.get(said.find('{')?..=said.rfind('}')?)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    #[test]
    fn director_knows_every_host_and_every_vip() {
        let topology = Topology::new(&spec::load("x", spec::REFERENCE, &["manifest=false".into()]).unwrap());
        let text = director(&topology, topology.node("lb4-1").unwrap());
        assert!(text.contains("  source4: 192.0.2.132\n  source6: \"2001:db8::c000:284\"\n"), "{text}");
        assert!(text.contains("lb7-13: {address4: 192.0.2.151, address6: \"2001:db8::c000:297\"}"), "{text}");
        assert_eq!(text.matches("port: 80, protocol: tcp").count(), 8);
        let udp = "port: 9000, protocol: udp, pool: web, quorum: 1, affinity: second-chance}";
        assert_eq!(text.matches(udp).count(), 8, "{text}");
        assert!(text.contains("driver: bird"));
    }

    #[test]
    fn with_a_manifest_no_node_has_hosts_of_its_own_and_all_have_the_same_services() {
        let topology =
            Topology::new(&spec::load("x", "manifest: true\naffinity: flow-table\n", &[]).unwrap());
        let director = director(&topology, topology.node("lb4-1").unwrap());
        let host = l7_host(&topology, topology.node("lb7-1").unwrap());
        for text in [&director, &host] {
            assert!(text.contains("manifest: {file: /etc/lb/shared/manifest.yaml}"), "{text}");
            assert!(!text.contains("address4:"), "{text}");
            assert_eq!(text.matches("affinity: flow-table}").count(), 16, "{text}");
            assert!(text.contains("\"http://192.0.2.132:7400\", "), "{text}");
        }
    }

    #[test]
    fn l7_host_accepts_tunnels_from_the_infrastructure_only() {
        let topology = Topology::new(&spec::load("x", spec::REFERENCE, &[]).unwrap());
        let text = l7_host(&topology, topology.node("lb7-1").unwrap());
        assert!(text.contains("accept_from: [\"192.0.2.128/25\", \"2001:db8::c000:280/121\"]"), "{text}");
    }
}
