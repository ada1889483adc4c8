//! After a scenario: the lab as it was before, so that the next one finds what it expects.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::stage::{Stage, wait_until};
use crate::agent;
use crate::plan;
use crate::pool;
use crate::status;
use crate::topology::{Kind, Node};

/// How long all nodes may take until they are ready again: a director's routes come back, checks pass.
const PATIENCE: Duration = Duration::from_secs(40);

/// Undoes all that actions can have done, then waits until every node is ready.
pub fn restore(stage: &Stage) -> Result<()> {
    for processes in stage.state().processes.values() {
        for process in processes.iter().filter(|process| process.is_running()) {
            // A process that has ended meanwhile needs no signal.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGCONT);
        }
    }
    for node in &stage.topology.nodes {
        restore_node(stage, node)?;
    }
    pool::restore(&stage.paths, &stage.topology)?;
    stage.restore_servers()?;
    wait_until_ready(stage)
}

fn restore_node(stage: &Stage, node: &Node) -> Result<()> {
    let links: String = node
        .interfaces
        .iter()
        .map(|link| format!("ip link set {} up mtu {}; ", link.name, link.segment.mtu()))
        .collect();
    stage.sh(node, &format!("{links} rm -f /etc/lb/disable /etc/lb/agent-check"))?;
    stage.start_missing(node)?;
    if matches!(node.kind, Kind::Router | Kind::Internet) {
        stage.hash_seed(node, 0)?;
    }
    if node.kind == Kind::L7Host {
        // One that was just started does not listen at once.
        wait_until("HAProxy answers", || Ok(stage.haproxy_enabler(node, "ready").is_ok()))?;
    }
    if plan::plan(&stage.topology, node).files.iter().any(|(path, _)| path == agent::CONFIG) {
        stage.undo_upgrade(node)?;
        restore_config(stage, node)?;
    }
    Ok(())
}

/// The agent's configuration as `lab up` wrote it.
fn restore_config(stage: &Stage, node: &Node) -> Result<()> {
    let files = plan::plan(&stage.topology, node).files;
    let Some((path, text)) = files.into_iter().find(|(path, _)| path == agent::CONFIG) else {
        return Ok(());
    };
    if stage.sh(node, &format!("cat {path}"))? == text.trim() {
        return Ok(());
    }
    stage.sh(node, &format!("cat > {path} <<'END_OF_FILE'\n{text}END_OF_FILE\nlb reload"))?;
    Ok(())
}

/// Waits until every node is ready.
pub fn wait_until_ready(stage: &Stage) -> Result<()> {
    let start = Instant::now();
    let mut waiting: Vec<&Node> = stage.topology.nodes.iter().collect();
    loop {
        let found = status::of_nodes(&stage.paths, &stage.topology, &stage.state(), &waiting);
        let mut unready: Vec<(String, String)> = found
            .into_iter()
            .filter(|status| !status.ready)
            .map(|status| (status.name, status.reasons.join("; ")))
            .collect();
        if unready.is_empty() {
            unready
                .extend(behind(stage).map(|node| (node, "its manifest is not the current one".to_owned())));
        }
        let Some((name, reason)) = unready.first() else { return Ok(()) };
        let waited = PATIENCE.as_secs();
        ensure!(start.elapsed() < PATIENCE, "{name} is not ready after {waited} s: {reason}");
        waiting.retain(|node| unready.iter().any(|(name, _)| *name == node.name));
        thread::sleep(Duration::from_millis(200));
    }
}

/// A node that does not go by the current manifest yet.
fn behind(stage: &Stage) -> Option<String> {
    let version = pool::version(&stage.paths, &stage.topology)?;
    let mut nodes =
        stage.topology.nodes.iter().filter(|node| matches!(node.kind, Kind::Director | Kind::L7Host));
    let behind = nodes.find(|node| {
        agent::document(&stage.paths, &node.name, Duration::from_secs(1))
            .is_none_or(|status| status["manifest"]["confirmed"] != version)
    });
    behind.map(|node| node.name.clone())
}
